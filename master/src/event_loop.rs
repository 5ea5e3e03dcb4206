//! One thread, one poll. A session runs until it has to wait; then the next one does. Nobody
//! who is slow, silent or hostile delays another.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use protocol::socket::{Buffer, Descriptors, now_ns};
use protocol::{
    Command, Driver, Error, Failure, Item, Machine, MasterMessage, Message, Rule, Step,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};

use crate::action::Action;
use crate::clone_guard::{self, Stack};
use crate::devices::Devices;
use crate::errands::{Errands, unmount};
use crate::linux::{Host, Work};
use crate::listener::{Knock, Listener};
use crate::log_share::{LogShare, Whose};
use crate::machine::{Session, State};
use crate::namespace::Namespace;
use crate::overlays::Overlays;
use crate::packages::Packages;
use crate::policy::{Caller, Config};
use crate::pool::Pool;
use crate::residue::Records;
use crate::sessions::{Adopted, Entry, Held, Launch, Sessions};
use crate::steward::Steward;
use crate::{proc, rights};

/// Users whose rockers share devices at a time.
const DEVICE_USERS: usize = 4;

/// Callers taken in before everybody else is served again.
const ACCEPTS_PER_TURN: usize = 64;

/// How long an end is left alone while nobody wants anything. Its rocker's caller hears of it in
/// the same moment, perhaps on the same processor, and is waited for by somebody. SIGTERM is, too.
const END_REST_NS: u64 = 300_000;

/// How long an end may stay untold that no signal has named, if somebody may wait for it. Looking
/// for those takes the longer the more guards live, so of many it is not done at each end.
const SWEEP_NS: u64 = 20_000_000;

/// If nobody does, so long for each of the living: a look takes 0.3 us for each whom the processor
/// has not in its caches, and a launch that comes meanwhile waits, and finds nothing there itself.
const SWEEP_EACH_NS: u64 = 100_000;

/// And never longer: so late may `rocker ps` know of an end.
const SWEEP_MAX_NS: u64 = 200_000_000;

/// Rockers of which all that have ended are looked for at each end: the kernel takes 1 us for so
/// many, and 15 for a thousand (a loop of `waitpid(-1, WNOHANG)`, medians of 400).
const SWEPT_AT_ONCE_MAX: usize = 64;

/// The daemon.
#[derive(Debug)]
pub struct Master {
    host: Host,
    sessions: Sessions,
    adopted: Adopted,
    signals: SignalFd,
    /// Since when there may be ends that no signal has named: `CLOCK_MONOTONIC`, nanoseconds.
    unnamed_since_ns: Option<u64>,
    /// Whether SIGTERM or SIGINT has come.
    is_told_to_stop: bool,
    log_share: LogShare,
    /// None for a master of one launch.
    listener: Option<Listener>,
}

/// What a turn of the loop found to do.
enum Ready {
    Signals,
    Callers,
    Launching(usize),
    Adopted,
    Mounts,
    Errands,
}

/// Until then at most (`CLOCK_MONOTONIC`, nanoseconds; all ones: for ever). A signal may end it
/// early.
fn poll_until(polled: &mut [PollFd<'_>], deadline_ns: u64) -> Result<(), rustix::io::Errno> {
    let left = core::time::Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
    let timeout = Timespec::try_from(left).ok().filter(|_| deadline_ns != u64::MAX);
    match poll(polled, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

fn has_happened(polled: &PollFd<'_>) -> bool {
    !polled.revents().is_empty()
}

impl Master {
    /// A daemon on the configured socket. It knows the living rockers of the master before it.
    pub fn listen(config: Config, guard: OwnedFd) -> Result<Self, String> {
        let for_root_alone = config.is_for_root_alone();
        let listener = Listener::new(&config.socket, for_root_alone)?;
        if !rights::refuse(listener.socket()) && !for_root_alone {
            log::warn!(
                "this kernel (before 6.16) cannot refuse descriptors: a local user can delay \
                 this master by sending it files that take long to close"
            );
        }
        let cannot = |why: &dyn core::fmt::Display| format!("cannot keep records: {why}");
        let records = Records::open(listener.state_dir()).map_err(|error| cannot(&error))?;
        let living = records.adopt().map_err(|error| cannot(&error))?;
        let mut master = Self::new(config, guard)?;
        for (rocker, pidfd) in living {
            log::info!("rocker {} lives on, guard {}", rocker.name, rocker.guard_pid);
            let pid = rocker.guard_pid;
            // Whether it has any is not on record.
            let limited = Some(rocker.name);
            master.adopted.watch(pid, pidfd.as_fd()).map_err(|error| cannot(&error))?;
            let (rocker, adopted) = (Some(rocker), Some(pidfd));
            let held = Held { rocker, adopted, limited, ..Held::default() };
            master.sessions.begin(pid, Entry { machine: Session::adopted(), held, has_news: true });
        }
        let names = master.sessions.rockers().filter_map(|entry| entry.held.limited);
        let names = names.collect();
        master.host.steward.sweep(names);
        master.host.records = Some(records);
        master.listener = Some(listener);
        Ok(master)
    }

    /// A master for one connection, which ends with its rocker.
    pub fn serve_one(config: Config, guard: OwnedFd, connection: OwnedFd) -> Result<Self, String> {
        // Nobody comes after it.
        let alone = Config { max_packages: 0, max_overlays: 0, ready_guards: 0, ..config };
        let mut master = Self::new(alone, guard)?;
        master.take_in(connection);
        Ok(master)
    }

    fn new(config: Config, guard: OwnedFd) -> Result<Self, String> {
        let cannot = |why: &dyn core::fmt::Display| format!("cannot start: {why}");
        let mut caught = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            caught.add(signal);
        }
        caught.thread_block().map_err(|error| cannot(&error))?;
        // Whoever may stop a guard would have all ends looked for, and with its signal pending
        // those of others come unnamed.
        clone_guard::hear_of_ends_alone().map_err(|error| cannot(&error))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&caught, flags).map_err(|error| cannot(&error))?;
        let null = open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| cannot(&error))?;
        let proc = proc::own().map_err(|error| {
            cannot(&format!("cannot mount a /proc, which takes root's capabilities: {error}"))
        })?;
        let packages = Packages::new(config.max_packages, config.package_idle_ms);
        let mounts = if config.ready_guards > 0 || config.max_overlays > 0 {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let mounts = open(c"/proc/self/mountinfo", flags, Mode::empty());
            let mounts = mounts.inspect_err(|error| {
                log::warn!(
                    "no ready guards, no overlays kept: cannot open /proc/self/mountinfo: {error}"
                )
            });
            mounts.ok()
        } else {
            None
        };
        // Who cannot hear of changes has nobody wait, and keeps nothing.
        let at_most = |number| if mounts.is_some() { number } else { 0 };
        let pool = Pool::new(at_most(config.ready_guards));
        let overlays = Overlays::new(at_most(config.max_overlays), config.overlay_idle_ms);
        let host = Host {
            steward: Steward::new(&config.cgroup),
            devices: Devices::new(DEVICE_USERS),
            holders: HashMap::new(),
            words: String::new(),
            config,
            guard,
            home: Namespace::own(&proc).map_err(|error| cannot(&error))?,
            proc,
            null,
            stack: Stack::new(),
            records: None,
            inbox: Buffer::default(),
            outbox: Buffer::default(),
            received: Descriptors::new(),
            packages,
            overlays,
            errands: Errands::new().map_err(|error| cannot(&error))?,
            pool,
            mounts,
            command: Command::new(),
        };
        let (sessions, log_share) = Default::default();
        Ok(Self {
            host,
            sessions,
            adopted: Adopted::new().map_err(|error| cannot(&error))?,
            signals,
            unnamed_since_ns: None,
            is_told_to_stop: false,
            log_share,
            listener: None,
        })
    }

    /// Serves until SIGTERM or SIGINT, or, for a master of one launch, until that has ended.
    /// Living rockers live on.
    pub fn run(&mut self) -> Result<(), String> {
        // A master of one launch leaves what does not go to the next one.
        while !self.is_told_to_stop && (self.listener.is_some() || !self.sessions.is_empty()) {
            let ready = self.wait().map_err(|error| format!("cannot wait for events: {error}"))?;
            self.tell_left_out(now_ns());
            let mut has_callers = false;
            let is_idle = ready.is_empty() && self.sessions.quiet_ns() <= now_ns();
            for event in ready {
                match event {
                    Ready::Signals => self.heed_signals(),
                    Ready::Callers => has_callers = true,
                    Ready::Launching(index) => {
                        let entry = self.sessions.launching.get_mut(index);
                        entry.into_iter().for_each(|entry| entry.has_news = true);
                    }
                    Ready::Adopted => self.heed_adopted(),
                    Ready::Mounts => self.host.has_other_mounts(now_ns()),
                    Ready::Errands => {
                        for (key, kept) in self.host.errands.done() {
                            self.host.overlays.is_back(key, kept);
                        }
                    }
                }
            }
            if self.is_told_to_stop {
                break;
            }
            if self.sweeps_ns() <= now_ns() {
                self.sweep();
            }
            self.advance_launching();
            if has_callers {
                // What somebody has left who has ended is free by now.
                self.accept();
            }
            self.advance_waiting();
            unmount(self.host.packages.expired(now_ns()));
            let away = self.host.overlays.leave(now_ns());
            away.into_iter().for_each(|away| self.host.errands.send(away));
            drop(self.host.pool.surplus(now_ns()));
            if is_idle {
                self.host.stock(now_ns());
            }
        }
        self.host.steward.leave();
        self.tell_left_out(u64::MAX);
        Ok(())
    }

    /// Waits until there is something to do that cannot wait any longer.
    fn wait(&self) -> Result<Vec<Ready>, rustix::io::Errno> {
        // Whoever comes in the same turn finds what ends have left.
        let mut sources: Vec<(BorrowedFd<'_>, Ready)> =
            vec![(self.signals.as_fd(), Ready::Signals), (self.adopted.source(), Ready::Adopted)];
        let sources_of_ends = sources.len();
        // Next, since a change is told once: no launch may take a guard before this is heard.
        if let Some(mounts) = &self.host.mounts {
            sources.push((mounts.as_fd(), Ready::Mounts));
        }
        sources.push((self.host.errands.source(), Ready::Errands));
        if let Some(listener) = &self.listener {
            sources.push((listener.socket().as_fd(), Ready::Callers));
        }
        let mut deadline_ns = self.host.packages.expires_ns().min(self.log_share.due_ns());
        deadline_ns = deadline_ns.min(self.sweeps_ns()).min(self.host.overlays.leaves_ns());
        deadline_ns = deadline_ns.min(self.host.pool.due_ns().max(self.sessions.quiet_ns()));
        for (index, entry) in self.sessions.launching.iter().enumerate() {
            let Some(launch) = &entry.held.launch else { continue };
            deadline_ns = deadline_ns.min(entry.due_ns());
            // Who waits for another launch hears of its own caller's end when it goes on.
            if entry.is_left_alone() {
                continue;
            }
            if let Some(waits_on) = launch.link.as_ref().or(launch.client.as_ref()) {
                sources.push((waits_on.as_fd(), Ready::Launching(index)));
            }
        }
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .map(|(fd, ready)| match ready {
                Ready::Mounts => PollFd::from_borrowed_fd(*fd, PollFlags::PRI),
                _ => PollFd::from_borrowed_fd(*fd, PollFlags::IN),
            })
            .collect();
        let now = now_ns();
        let can_rest = !self.sessions.may_end_be_awaited(now);
        let (ends, others) = polled.split_at_mut(sources_of_ends);
        if can_rest && self.sessions.are_all_going() {
            // If theirs come this soon they come with what is to be heard of their starts.
            poll_until(others, deadline_ns)?;
            poll_until(ends, 0)?;
        } else {
            poll_until(&mut polled, deadline_ns)?;
            let (ends, others) = polled.split_at_mut(sources_of_ends);
            if can_rest && ends.iter().any(has_happened) && !others.iter().any(has_happened) {
                poll_until(others, deadline_ns.min(now_ns() + END_REST_NS))?;
            }
        }
        let happened: Vec<bool> = polled.iter().map(has_happened).collect();
        drop(polled);
        let now = now_ns();
        let is_late = |ready: &Ready| match ready {
            Ready::Launching(index) => {
                let entry = self.sessions.launching.get(*index);
                entry.is_some_and(|entry| entry.due_ns() <= now)
            }
            _ => false,
        };
        let ready = sources.into_iter().zip(happened);
        let ready = ready
            .filter(|((_, ready), happened)| *happened || is_late(ready))
            .map(|((_, ready), _)| ready);
        let waiting = self.sessions.launching.iter().enumerate();
        let impatient = waiting.filter(|(_, entry)| entry.is_left_alone() && entry.due_ns() <= now);
        Ok(ready.chain(impatient.map(|(index, _)| Ready::Launching(index))).collect())
    }

    fn tell_left_out(&mut self, now_ns: u64) {
        for (whose, lines) in self.log_share.left_out(now_ns) {
            log::info!("{lines} more lines about launches of {whose} are left out");
        }
    }

    /// root.11, or the master's own end.
    ///
    /// A signal names one child, whom the kernel finds at once. Of several that end before the
    /// signal is read the others are not named (`man 7 signal`), so those are looked for: of many
    /// later.
    fn heed_signals(&mut self) {
        let mut ended = false;
        let are_many = self.sessions.count() > SWEPT_AT_ONCE_MAX;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32) {
                self.is_told_to_stop = true;
                continue;
            }
            ended = true;
            if are_many {
                self.unnamed_since_ns.get_or_insert_with(now_ns);
                self.reap(Some(Pid::from_raw(signal.ssi_pid.cast_signed())));
            }
        }
        if ended && !are_many {
            self.sweep();
        }
    }

    /// When to look for ends that no signal has named; all ones if there are none.
    fn sweeps_ns(&self) -> u64 {
        let Some(since_ns) = self.unnamed_since_ns else { return u64::MAX };
        let of_many_ns = SWEEP_EACH_NS * self.sessions.count() as u64;
        let rest_ns = match self.sessions.may_end_be_awaited(now_ns()) {
            true => SWEEP_NS,
            false => of_many_ns.clamp(SWEEP_NS, SWEEP_MAX_NS),
        };
        since_ns.saturating_add(rest_ns)
    }

    /// root.11, for whomever no signal has named. The kernel looks at every child for that.
    fn sweep(&mut self) {
        self.unnamed_since_ns = None;
        while self.reap(None) {}
    }

    /// root.11, for this child, else for any. Whether there may be another one.
    fn reap(&mut self, child: Option<Pid>) -> bool {
        let (pid, is_well) = match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status == 0),
            Ok(WaitStatus::Signaled(pid, ..)) => (pid, false),
            Ok(WaitStatus::StillAlive) | Err(_) => return false,
            Ok(_) => return true,
        };
        self.has_exited(pid.as_raw().cast_unsigned(), is_well);
        true
    }

    /// root.1: some of those who are too many may have ended. Not for whom it is no use: a look
    /// takes its time.
    fn look_for_room(&mut self, caller: &Caller) {
        let config = &self.host.config;
        if !config.knows(caller) || config.has_room(caller, self.sessions.load(caller, config)) {
            return;
        }
        self.heed_signals();
        if self.unnamed_since_ns.is_some() {
            self.sweep();
        }
        self.heed_adopted();
    }

    /// root.11, for guards of the master that was here before.
    fn heed_adopted(&mut self) {
        loop {
            let ended = self.adopted.ended();
            if ended.is_empty() {
                return;
            }
            ended.into_iter().for_each(|pid| self.has_exited(pid, false));
        }
    }

    /// A guard that waits is no guard any more. One that ends while it is launching closes its
    /// socket as well, and that moves the session on. Where nobody listens to that yet, this does.
    fn has_exited(&mut self, pid: u32, is_well: bool) {
        drop(self.host.pool.lose(pid, now_ns()));
        if let Some(mut entry) = self.sessions.end(pid) {
            entry.held.has_exited(is_well);
            entry.has_news = true;
            self.advance(entry);
            return;
        }
        // Whose guard was reaped already is another of that pid.
        let is_it = |entry: &&mut Entry| {
            let rocker = entry.held.rocker.as_ref().filter(|_| !entry.held.exited);
            rocker.is_some_and(|rocker| rocker.guard_pid == pid)
        };
        if let Some(entry) = self.sessions.launching.iter_mut().find(is_it) {
            entry.held.has_exited(is_well);
            entry.has_news |= entry.is_released();
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.as_mut().map(Listener::accept) {
                Some(Knock::Caller(connection)) => self.take_in(connection),
                Some(Knock::Shed) => {
                    if self.log_share.has_room(Whose::Strangers, now_ns()) {
                        log::warn!("a caller was turned away: no descriptors left");
                    }
                }
                Some(Knock::Nobody) | None => return,
            }
        }
    }

    fn take_in(&mut self, connection: OwnedFd) {
        let Ok(caller) = Caller::of(&connection) else { return };
        let config = &self.host.config;
        if !config.admits(&caller, self.sessions.load(&caller, config)) {
            let error = Error::Invalid { rule: Rule::TooManyRockers, item: Item::Request };
            let failure = Failure { error, command: "" };
            let message = Message::Master(MasterMessage::Failed(failure));
            // Whoever comes in numbers gets one try at an answer.
            let _ = protocol::socket::send(&connection, &message, &[], &mut self.host.outbox);
            return;
        }
        let launch = Launch {
            caller,
            asked_ns: None,
            client: Some(connection),
            link: None,
            datagram: Box::default(),
            package: None,
            looking: None,
            making: None,
            found: None,
            data: None,
            cgroups: vec![],
            deadline_ns: now_ns() + u64::from(protocol::limits::HELLO_MS) * 1_000_000,
            gives_up_ns: 0,
            patience_ns: 0,
            wakes_ns: 0,
            is_going: false,
            trace: false,
        };
        let held = Held { launch: Some(Box::new(launch)), ..Held::default() };
        self.advance(Entry { machine: Session::default(), held, has_news: true });
    }

    /// Moves those on that something has happened to. Who has come to an App, or to the end, goes
    /// first: others may want what that one leaves.
    fn advance_launching(&mut self) {
        for is_released in [true, false] {
            // What comes back lies behind, where nobody looks for it any more.
            for index in (0..self.sessions.launching.len()).rev() {
                let entry = self.sessions.launching.get(index);
                if entry.is_some_and(|it| it.has_news && it.is_released() == is_released) {
                    let entry = self.sessions.launching.swap_remove(index);
                    self.advance(entry);
                }
            }
        }
    }

    /// Those who wait for another launch to mount their package: it has, or never will; for their
    /// data dir, which may be free; or for a thread.
    fn advance_waiting(&mut self) {
        let has_news = |host: &mut Host| {
            let has_looked = host.errands.looks.has_news();
            host.packages.has_news() | host.overlays.has_news() | has_looked
        };
        while has_news(&mut self.host) {
            for entry in &mut self.sessions.launching {
                entry.has_news |= entry.machine.awaits_another();
            }
            self.advance_launching();
        }
    }

    /// Runs a session until it waits or has ended, and puts it where it belongs then.
    fn advance(&mut self, mut entry: Entry) {
        let mut has_news = core::mem::take(&mut entry.has_news);
        while let Some(step) = entry.machine.step() {
            let action = entry.machine.action();
            if let (Action::CheckCaller, Some(launch)) = (&action, &entry.held.launch) {
                self.look_for_room(&launch.caller);
            }
            let Self { host, sessions, .. } = self;
            let mut work = Work { host, sessions, held: &mut entry.held, has_news };
            let core::task::Poll::Ready(outcome) = work.perform(step, action) else { break };
            entry.machine.advance(outcome);
            has_news = false;
        }
        let Self { host, log_share, .. } = self;
        if let (State::Ended(_), Some(name)) = (entry.machine.state(), entry.held.limited) {
            host.steward.remove(name);
        }
        match (entry.machine.state(), entry.held.rocker.as_ref().map(|rocker| rocker.guard_pid)) {
            (State::Ended(Ok(())), _) => {}
            // A master of one launch has told its only caller.
            (State::Ended(Err(error)), _) if self.listener.is_some() => {
                let launch = entry.held.launch.as_deref();
                let caller = launch.map(|launch| launch.caller);
                let whose = caller.map_or(Whose::Strangers, |it| Whose::of(&it, &host.config));
                match error {
                    // What costs its caller nothing is for whoever looks closely.
                    Error::Lost { step: Step::RequestRocker, .. } => {
                        log::debug!("no rocker: {error}");
                    }
                    _ if log_share.has_room(whose, now_ns()) => {
                        let why = why(error, launch, host.failed_command(error).as_str());
                        log::info!("no rocker: {why}");
                    }
                    _ => {}
                }
            }
            (State::Ended(Err(_)), _) => {}
            (State::AwaitExit, Some(pid)) => {
                entry.held.launch = None;
                self.sessions.begin(pid, entry);
            }
            _ => self.sessions.launching.push(entry),
        }
    }
}

/// For an administrator: who asked for what, and why it is not there.
fn why(error: Error, launch: Option<&Launch>, command: &str) -> String {
    let mut line = String::new();
    let request = launch.and_then(Launch::request);
    if let Some(launch) = launch {
        line += &format!("uid {}: ", launch.caller.uid);
    }
    if let Some(request) = &request {
        line += &format!("{}: ", request.package);
    }
    let colon = if command.is_empty() { "" } else { ": " };
    line += &match (error, &request) {
        (Error::Invalid { rule, item: item @ Item::ExecDir }, Some(request)) => {
            format!("{item} {}: {rule}", request.exec_dir)
        }
        (Error::Invalid { rule, item: item @ Item::DataDir }, Some(request)) => {
            let dir = request.data_dir.map(|dir| dir.to_string()).unwrap_or_default();
            format!("{item} {dir}: {rule}")
        }
        (Error::Invalid { rule, item: item @ Item::Uid }, Some(request)) => {
            format!("{item} {}: {rule}", request.uid)
        }
        (Error::Invalid { rule, item: item @ Item::Gid }, Some(request)) => {
            format!("{item} {}: {rule}", request.gid)
        }
        (Error::Failed { step, errno }, _) => {
            let words = std::io::Error::from_raw_os_error(i32::from(errno.0));
            format!("cannot {} ({step}){colon}{command}: {words}", step.purpose())
        }
        (error, _) => format!("{error}{colon}{command}"),
    };
    line
}
