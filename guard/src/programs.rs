//! exec.1 and exec.3: the programs that run in the rocker at its caller's command. They are
//! children of PID 1, so they are in the rocker by birth, with the guard's ids and privileges:
//! the App's ids, and none.

use core::fmt::{self, Write as _};

use alloc::string::String;
use alloc::vec::Vec;

use protocol::limits::{PROGRAMS_MAX, REST_MS, RLIMITS_MAX, UNREAD_MS};
use protocol::socket::now_ns;
use protocol::usage::Ooms;
use protocol::{Command, Exec, Exit, ExitReport, Verdict};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;

use crate::cgroups::Cgroups;
use crate::gate::{Gate, Waiter};
use crate::machine::Peer;
use crate::reaper::{self, Reaper};
use crate::sys::{self, Ended, Pointers, SIGKILL, Spawned, Stack, Table};
use crate::violations::{Filter, Heard, Watch};

const SIGTERM: u8 = 15;

/// How often a program that has a listener is looked after until it has executed.
const LOOK_NS: u64 = 5_000_000;

/// `execvp(3)` looks here when a program has no `PATH`.
const PATH_DEFAULT: &[u8] = b"/bin:/usr/bin";

/// A program that runs, or whose end is yet to be told.
#[derive(Clone, Copy)]
struct Running {
    /// Whose it is; none: nobody's any more.
    peer: Option<Peer>,
    /// Its launcher has left it to the rocker: it ends with nobody's connection.
    is_left: bool,
    id: u32,
    pid: i32,
    began_ns: u64,
    /// When something is to be done about it; `u64::MAX`: never.
    late_ns: u64,
    /// It gets so much longer when that time has come.
    grace_ns: u64,
    /// What the OOM killer had done before.
    ooms: Ooms,
    /// Told to end for being late, or killed at a command.
    killed: Option<Verdict>,
    /// It got SIGKILL: what may still be late is that this hears of its end.
    is_dying: bool,
    /// It was told so by SIGTERM: however it ends then, it was late.
    warned: bool,
    /// It was killed for this system call.
    syscall: Option<u32>,
    /// Its number may be another's already.
    ended: Option<ExitReport>,
}

/// All of them. A place is given up when the program's end has been told.
#[derive(Default)]
pub(crate) struct Programs {
    /// As many as there were at once; memory for all comes with the first.
    places: Vec<Place>,
    /// The guard itself heeds all signals: its children inherit that.
    heeds_signals: bool,
    /// And its limits, as they were before there was any.
    rlimits: [[u64; 2]; RLIMITS_MAX],
    /// What the OOM killer has done before the next one starts.
    pub(crate) ooms: Ooms,
}

/// What is kept of one program.
#[derive(Default)]
struct Place {
    running: Option<Running>,
    /// Of one that lives: who tells what its filter forbids.
    watch: Option<Watch>,
    /// Of one for which the guard does not wait.
    gate: Option<Gate>,
}

/// What bounds each program of the rocker.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    /// Which system calls it may make; empty: any.
    pub(crate) filter: &'a [u8],
    /// The second wall, if there is one.
    pub(crate) ruleset: Option<BorrowedFd<'a>>,
}

/// Why a program does not run.
pub(crate) struct Failed {
    pub(crate) errno: Errno,
    /// What could not be done with it.
    pub(crate) at: At,
}

/// A part of its start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum At {
    Clone,
    Cgroup,
    Wall,
    Descriptors,
    Terminal,
    Rlimit,
    Directory,
    Filter,
    OwnFilter,
    Execute,
}

impl Programs {
    fn running(&self) -> impl Iterator<Item = &Running> {
        self.places.iter().filter_map(|place| place.running.as_ref())
    }

    fn running_mut(&mut self) -> impl Iterator<Item = &mut Running> {
        self.places.iter_mut().filter_map(|place| place.running.as_mut())
    }

    fn find(&mut self, peer: Peer, id: u32) -> Option<&mut Running> {
        self.running_mut().find(|program| program.peer == Some(peer) && program.id == id)
    }

    /// A place in the table for a program of this peer's.
    fn vacancy(&mut self, peer: Peer, id: u32) -> Result<usize, Errno> {
        if self.find(peer, id).is_some() {
            return Err(Errno::EXIST);
        }
        if let Some(free) = self.places.iter().position(|place| place.running.is_none()) {
            return Ok(free);
        }
        let count = self.places.len();
        if count == PROGRAMS_MAX {
            return Err(Errno::AGAIN);
        }
        self.places.try_reserve_exact(PROGRAMS_MAX - count).map_err(|_| Errno::NOMEM)?;
        self.places.push(Place::default());
        Ok(count)
    }

    /// exec.1. The program's pid inside, and its pidfd. `descriptors` are copied, not taken.
    #[inline(never)] // What it has on its stack is for those who ask for it.
    pub(crate) fn start(
        &mut self,
        peer: Peer,
        exec: &Exec<'_>,
        descriptors: (&[OwnedFd], &[OwnedFd]),
        exec_dir: &[u8],
        bounds: Bounds<'_>,
        room: &mut [u8],
    ) -> Result<(u32, OwnedFd), Failed> {
        let failed = |at| move |errno| Failed { errno, at };
        let place = self.vacancy(peer, exec.id).map_err(failed(At::Clone))?;
        let args = Pointers::new(exec.args.iter()).map_err(failed(At::Execute))?;
        let env = Pointers::new(exec.env.iter()).map_err(failed(At::Execute))?;
        let own = Filter::new(exec.filter, room).map_err(failed(At::OwnFilter))?;
        let (own, mut watch) = own.map_or((None, None), |(own, watch)| (Some(own), watch));
        // In a control group of its caller's it may be frozen, and would not even die then.
        let is_apart = exec.sync || !descriptors.1.is_empty();
        let gate = is_apart.then(|| Gate::new(exec.sync)).transpose().map_err(failed(At::Clone))?;
        let (gate, waiter) = gate.unzip();
        if !self.heeds_signals {
            sys::heed_all_signals();
            (self.heeds_signals, self.rlimits) = (true, sys::rlimits());
        }
        let (mut failure, mut named) = (Ok(()), None);
        let began_ns = now_ns();
        let nanoseconds = |ms| u64::from(ms) * 1_000_000;
        let wall_ns = if exec.wall_ms == 0 { u64::MAX } else { nanoseconds(exec.wall_ms) };
        let child = || {
            let bounds = (bounds, own.as_ref());
            let waiter = waiter.as_ref();
            failure = become_program(exec, descriptors, exec_dir, bounds, waiter, &args, &env);
            if let (Some(waiter), Err(Failed { errno, at })) = (waiter, &failure) {
                let mut command = Command::new();
                // A Command takes any text.
                let _ = describe(Some(*at), exec, &mut command);
                waiter.fail(*errno, command.as_str());
            }
            // What a shell says of a program that it cannot execute.
            127
        };
        let others = || {
            let next_ns = kill_late(&mut self.places, None);
            // It may have to ask before it has executed, and would wait for an answer.
            match &mut watch {
                Some(watch) => {
                    if let Heard::Call(number) = watch.hear(None) {
                        named = Some(number);
                    }
                    next_ns.min(LOOK_NS)
                }
                None => next_ns,
            }
        };
        let patience_ns = wall_ns.min(nanoseconds(UNREAD_MS));
        let spawned = match is_apart {
            true => sys::spawn_apart(&mut Stack::new(), child),
            false => sys::spawn(&mut Stack::new(), child, Table::Own, patience_ns, others),
        };
        let Spawned { pid, pidfd, killed } = spawned.map_err(failed(At::Clone))?;
        failure?;
        let mut program = Running {
            peer: Some(peer),
            is_left: false,
            id: exec.id,
            pid,
            began_ns,
            late_ns: if killed { soon_ns() } else { began_ns.saturating_add(wall_ns) },
            grace_ns: nanoseconds(exec.grace_ms),
            ooms: self.ooms,
            killed: killed.then_some(Verdict::TimeLimitExceeded),
            is_dying: killed,
            warned: false,
            syscall: None,
            ended: None,
        };
        if let Some(number) = named {
            program.violates(number);
        }
        self.places[place] = Place { running: Some(program), watch, gate };
        Ok((u32::try_from(pid).unwrap_or(0), pidfd))
    }

    /// Has the next one find what the first did, now that all have ended. False if that cannot be:
    /// one of them has changed the guard's limits (`prlimit(2)`), and it inherits those.
    pub(crate) fn forget_all(&self) -> bool {
        sys::forget_signals();
        !self.heeds_signals || self.rlimits == sys::rlimits()
    }

    /// Whether there ever was one.
    pub(crate) const fn have_begun(&self) -> bool {
        self.heeds_signals
    }

    /// Starts one and waits for its end, when no other one runs.
    #[inline(never)] // As above.
    pub(crate) fn run_to_end(
        &mut self,
        exec: &Exec<'_>,
        work_dir: &[u8],
        bounds: Bounds<'_>,
        room: &mut [u8],
        reaper: &mut Reaper,
        cgroups: &Cgroups,
    ) -> Result<ExitReport, Failed> {
        let failed = |errno| Failed { errno, at: At::Execute };
        let (pid, pidfd) = self.start(Peer::NOBODY, exec, (&[], &[]), work_dir, bounds, room)?;
        let pid = pid.cast_signed();
        loop {
            // Killed, it ends soon.
            let deadline_ns = self.late_ns().min(now_ns() + 1_000_000_000);
            let ended = protocol::socket::wait_readable(&pidfd, deadline_ns);
            if ended.map_err(|errno| failed(Errno::from_raw_os_error(i32::from(errno.0))))? {
                break;
            }
            self.kill_late(reaper);
        }
        loop {
            let left = reaper.reap(|ended| self.note(ended, cgroups)).map_err(failed)?;
            match self.take(|program| program.pid == pid) {
                Some((_, report, _)) => return Ok(report),
                // Its tracer has to hear of its end first.
                None if left => {
                    reaper::rest(self.late_ns());
                    self.kill_late(reaper);
                }
                None => return Err(failed(Errno::CHILD)),
            }
        }
    }

    /// A signal for one program, or, without an id, for every process but PID 1. SIGKILL is for
    /// all of a program's process group.
    pub(crate) fn signal(&mut self, peer: Peer, id: Option<u32>, signal: u8) -> Result<(), Errno> {
        let kills = (signal == SIGKILL).then_some(Verdict::Cancelled);
        let Some(id) = id else {
            match sys::kill(-1, signal) {
                // Nobody else is there.
                Ok(()) | Err(Errno::SRCH) => {}
                refused => return refused,
            }
            self.running_mut().for_each(|program| program.is_killed(kills));
            return Ok(());
        };
        let living = self.find(peer, id).filter(|program| program.ended.is_none());
        let program = living.ok_or(Errno::SRCH)?;
        match kills {
            Some(_) => kill_group(program.pid, signal)?,
            None => sys::kill(program.pid, signal)?,
        }
        program.is_killed(kills);
        Ok(())
    }

    /// exec.1, the end of it: one that waits executes. `ESRCH` if there is none, `EALREADY` if it
    /// does not wait.
    pub(crate) fn let_go(&mut self, peer: Peer, id: u32) -> Result<(), Errno> {
        let is_it = |place: &&mut Place| {
            let program = place.running.as_ref().filter(|program| program.ended.is_none());
            program.is_some_and(|program| program.peer == Some(peer) && program.id == id)
        };
        let place = self.places.iter_mut().find(is_it).ok_or(Errno::SRCH)?;
        place.gate.as_mut().ok_or(Errno::ALREADY)?.open()
    }

    /// What its launcher has left becomes this peer's, the oldest first: its pid inside, and its
    /// pidfd. `ESRCH` if there is nothing, `EBUSY` if all of it is another's already.
    pub(crate) fn adopt(&mut self, peer: Peer, id: u32) -> Result<(u32, OwnedFd), Errno> {
        if self.find(peer, id).is_some() {
            return Err(Errno::EXIST);
        }
        let left = |it: &&mut Running| it.is_left && it.ended.is_none();
        let none =
            if self.running_mut().any(|it| left(&&mut *it)) { Errno::BUSY } else { Errno::SRCH };
        let nobodys = self.running_mut().filter(left).filter(|it| it.peer.is_none());
        let program = nobodys.min_by_key(|it| it.began_ns).ok_or(none)?;
        let pid = u32::try_from(program.pid).unwrap_or(0);
        let raw = rustix::process::Pid::from_raw(program.pid).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty())?;
        (program.peer, program.id) = (Some(peer), id);
        Ok((pid, pidfd))
    }

    /// Nobody asks for these any more: they are killed, as is who waits, or go on as nobody's.
    pub(crate) fn forget(&mut self, peer: Peer, kills: bool) {
        self.forget_those(|program| program.peer == Some(peer), kills);
    }

    /// The same for one whose beginning could not be told; who is taken over stays nobody's.
    pub(crate) fn disown(&mut self, peer: Peer, id: u32) {
        self.forget_those(|program| program.peer == Some(peer) && program.id == id, true);
    }

    fn forget_those(&mut self, is_its: impl Fn(&Running) -> bool, kills: bool) {
        for Place { running, gate, .. } in &mut self.places {
            let is_its = |program: &&mut Running| is_its(program);
            let Some(program) = running.as_mut().filter(is_its) else { continue };
            program.peer = None;
            let waits = gate.take().is_some_and(|gate| gate.is_shut());
            if program.ended.is_some() {
                *running = None;
            } else if waits || (kills && !program.is_left) {
                program.end(SIGKILL);
            } else {
                program.is_left = true;
            }
        }
    }

    /// What can be read when a program does what its own filter forbids.
    pub(crate) fn watches(&self) -> impl Iterator<Item = &OwnedFd> {
        self.places.iter().filter_map(|place| place.watch.as_ref()).map(Watch::source)
    }

    /// Notes who does so: it is late from now on.
    pub(crate) fn hear_violations(&mut self) {
        for place in &mut self.places {
            let (Some(program), Some(watch)) = (&mut place.running, &mut place.watch) else {
                continue;
            };
            // What was reaped may be another's number by now.
            let group = program.ended.is_none().then_some(program.pid);
            match watch.hear(group) {
                Heard::Call(number) => program.violates(number),
                Heard::Nothing => {}
                Heard::End => place.watch = None,
            }
        }
    }

    /// When the next one is late; `u64::MAX`: none ever is.
    pub(crate) fn late_ns(&self) -> u64 {
        self.running().map(|program| program.late_ns).min().unwrap_or(u64::MAX)
    }

    /// Ends whoever is late.
    pub(crate) fn kill_late(&mut self, reaper: &Reaper) {
        kill_late(&mut self.places, Some(reaper));
    }

    /// Notes how a child has ended that was reaped, if it was one of these. Who asks its parent to
    /// trace it (`PTRACE_TRACEME`) has only stopped.
    pub(crate) fn note(&mut self, ended: &Ended, cgroups: &Cgroups) {
        if ended.status & 0xff == 0x7f {
            return;
        }
        for Place { running, watch, .. } in &mut self.places {
            let is_it = |it: &&mut Running| it.pid == ended.pid && it.ended.is_none();
            let Some(program) = running.as_mut().filter(is_it) else { continue };
            program.late_ns = u64::MAX;
            program.ended = Some(program.report(ended, cgroups));
            // Whoever it leaves behind under its filter has nobody to ask: ENOSYS.
            *watch = None;
            if program.peer.is_none() {
                *running = None;
            }
            return;
        }
    }

    /// Whose programs have ended, and it was not told yet; some more than once.
    pub(crate) fn untold(&self) -> impl Iterator<Item = Peer> {
        self.running().filter(|program| program.ended.is_some()).filter_map(|program| program.peer)
    }

    /// Takes the end of one of a peer's programs, and the gate behind which it was.
    pub(crate) fn tell(&mut self, peer: Peer) -> Option<(u32, ExitReport, Option<Gate>)> {
        self.take(|program| program.peer == Some(peer))
    }

    fn take(
        &mut self,
        is_it: impl Fn(&Running) -> bool,
    ) -> Option<(u32, ExitReport, Option<Gate>)> {
        self.places.iter_mut().find_map(|Place { running, gate, .. }| {
            let program = running.as_ref().filter(|program| is_it(program))?;
            let told = (program.id, program.ended?, gate.take());
            *running = None;
            Some(told)
        })
    }
}

impl Running {
    /// A signal for all of its process group. It is a child that was not reaped: the number is
    /// still its own.
    fn end(&mut self, signal: u8) {
        if signal == SIGKILL {
            (self.is_dying, self.late_ns) = (true, soon_ns());
        }
        let _ = kill_group(self.pid, signal);
    }

    /// It is to be killed, now, and for this.
    fn violates(&mut self, number: Option<u32>) {
        if self.killed.is_none() && self.ended.is_none() {
            (self.killed, self.syscall) = (Some(Verdict::DisallowedSyscall), number);
            (self.late_ns, self.grace_ns) = (0, 0);
        }
    }

    /// Nothing more is to be done about one that was killed, if this soon hears of its end.
    fn is_killed(&mut self, by: Option<Verdict>) {
        self.killed = self.killed.or(by);
        if by.is_some() && self.ended.is_none() {
            (self.is_dying, self.late_ns) = (true, soon_ns());
        }
    }

    fn report(&self, ended: &Ended, cgroups: &Cgroups) -> ExitReport {
        let [low, high, ..] = ended.status.to_le_bytes();
        let exit = match low & 0x7f {
            0 => Exit::Status(high),
            signal => Exit::Signal(signal),
        };
        // A program that was done before the signal came has ended by itself.
        let killed = self.killed.filter(|_| self.warned || exit == Exit::Signal(SIGKILL));
        // All in the rocker share its memory: whoever fails while there is none, fails for that.
        let failed = exit != Exit::Status(0);
        let out_of_memory = || cgroups.ooms().verdict_since(self.ooms).filter(|_| failed);
        ExitReport {
            exit,
            verdict: killed.or_else(out_of_memory).unwrap_or(exit.verdict()),
            user_us: ended.user_us,
            system_us: ended.system_us,
            wall_us: now_ns().saturating_sub(self.began_ns) / 1000,
            peak_kib: ended.peak_kib,
            syscall: self.syscall.filter(|_| killed == Some(Verdict::DisallowedSyscall)),
            usage: cgroups.usage(),
        }
    }
}

/// A signal for a child's process group; one that waits may not have made it yet, and then is
/// alone.
fn kill_group(pid: i32, signal: u8) -> Result<(), Errno> {
    match sys::kill(-pid, signal) {
        Err(Errno::SRCH) => sys::kill(pid, signal),
        answer => answer,
    }
}

/// When to see whether the end of one that was killed is kept from us.
fn soon_ns() -> u64 {
    now_ns().saturating_add(u64::from(REST_MS) * 1_000_000)
}

/// Ends whoever is late; in how many nanoseconds the next one will be. Of one that is traced its
/// tracer hears first, whatever it makes of that: so it ends, too.
fn kill_late(places: &mut [Place], reaper: Option<&Reaper>) -> u64 {
    let now = now_ns();
    let mut next_ns = u64::MAX;
    for program in places.iter_mut().filter_map(|place| place.running.as_mut()) {
        if program.late_ns <= now && program.is_dying {
            program.late_ns = soon_ns();
            let _ = reaper.map(|reaper| reaper.kill_tracers(program.pid));
        } else if program.late_ns <= now {
            program.killed = program.killed.or(Some(Verdict::TimeLimitExceeded));
            let grace_ns = core::mem::take(&mut program.grace_ns);
            program.warned |= grace_ns > 0;
            program.late_ns = now.saturating_add(grace_ns);
            program.end(if grace_ns > 0 { SIGTERM } else { SIGKILL });
        }
        next_ns = next_ns.min(program.late_ns.saturating_sub(now));
    }
    next_ns
}

/// The part of a program's start that failed, as a command.
pub(crate) fn describe(at: Option<At>, exec: &Exec<'_>, command: &mut Command) -> fmt::Result {
    let first = |strings: protocol::Strings<'_>| {
        let text = strings.iter().next().unwrap_or_default();
        String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)).into_owned()
    };
    match at {
        Some(At::Clone) => command.write_str("clone # the program"),
        Some(At::Cgroup) => command.write_str("echo 0 > cgroup.procs"),
        Some(At::Wall) => command.write_str("setpriv --landlock-access fs"),
        Some(At::Descriptors) => command.write_str("dup3 # the program's descriptors"),
        Some(At::Terminal) => command.write_str("setsid --ctty"),
        Some(At::Rlimit) => command.write_str("prlimit"),
        Some(At::Directory) => write!(command, "cd {}", first(exec.cwd)),
        Some(At::Filter) => command.write_str("seccomp # the rocker's filter"),
        Some(At::OwnFilter) => command.write_str("seccomp # the program's filter"),
        Some(At::Execute) | None => write!(command, "exec {}", first(exec.args)),
    }
}

/// In the new process, which shares this one's memory and nothing else, or not even that. It only
/// comes back if it cannot.
fn become_program(
    exec: &Exec<'_>,
    (descriptors, cgroups): (&[OwnedFd], &[OwnedFd]),
    exec_dir: &[u8],
    (bounds, own_filter): (Bounds<'_>, Option<&Filter<'_>>),
    waiter: Option<&Waiter>,
    args: &Pointers<'_>,
    env: &Pointers<'_>,
) -> Result<(), Failed> {
    let failed = |at| move |errno| Failed { errno, at };
    let file = if exec.by_descriptor { descriptors.first() } else { None };
    let own = descriptors.get(usize::from(exec.by_descriptor)..).unwrap_or_default();
    protocol::privileges::drop_kept().map_err(failed(At::Clone))?;
    sys::leave_session_keyring().map_err(failed(At::Clone))?;
    rustix::process::setsid().map_err(failed(At::Clone))?;
    if let Some(ruleset) = bounds.ruleset {
        sys::landlock_restrict(ruleset).map_err(failed(At::Wall))?;
    }
    let way = own_filter.and_then(Filter::way);
    let others: Placed<&OwnedFd> = file.into_iter().chain(way).chain(cgroups).collect();
    let placed = place_all(own, &others, waiter).map_err(failed(At::Descriptors))?;
    let mut placed = placed.into_iter();
    let file = file.and_then(|_| placed.next());
    let way = way.and_then(|_| placed.next());
    // It may be frozen there: with nothing of the guard's any more.
    placed.try_for_each(join).map_err(failed(At::Cgroup))?;
    if exec.terminal {
        sys::take_terminal().map_err(failed(At::Terminal))?;
    }
    for limit in &exec.rlimits {
        sys::set_rlimit(limit.resource, limit.soft, limit.hard).map_err(failed(At::Rlimit))?;
    }
    if !exec.cwd.as_bytes().starts_with(b"/") {
        rustix::process::chdir(exec_dir).map_err(failed(At::Directory))?;
    }
    if let Some(cwd) = exec.cwd.iter().next() {
        let cwd = cwd.strip_suffix(b"\0").unwrap_or(cwd);
        rustix::process::chdir(cwd).map_err(failed(At::Directory))?;
    }
    sys::unblock_signals();
    if let Some(waiter) = waiter.filter(|_| exec.sync) {
        waiter.wait().map_err(failed(At::Clone))?;
    }
    // Last, so that it has to allow nothing but the execution.
    sys::install_filter(bounds.filter).map_err(failed(At::Filter))?;
    if let Some(own_filter) = own_filter {
        own_filter.install(way.as_ref()).map_err(failed(At::OwnFilter))?;
    }
    let errno = match file {
        Some(file) => sys::execute(b"\0", Some(file.as_fd()), args, env),
        None => search(exec, args, env),
    };
    Err(Failed { errno, at: At::Execute })
}

/// This process is in a control group from now on. What its caller has opened counts, not what an
/// App may open; and into what is none nothing is written.
fn join(procs: OwnedFd) -> Result<(), Errno> {
    /// `man 2 statfs`
    const MAGICS: [u32; 2] = [0x0027_e0eb, 0x6367_7270];
    let kind = rustix::fs::fstatfs(&procs)?.f_type;
    if !MAGICS.iter().any(|&magic| u32::try_from(kind) == Ok(magic)) {
        return Err(Errno::INVAL);
    }
    rustix::io::write(procs, b"0").map(drop)
}

/// What a new process has until it executes: all that came for the program, and the way of its
/// listener.
type Placed<T> = heapless::Vec<T, { protocol::limits::DESCRIPTORS_MAX + 1 }>;

/// Brings each descriptor to its number, `/dev/null` to those of 0 to 2 that have none, and
/// closes all others but those that come after them, and what it waits at, until the program is
/// executed.
fn place_all(
    own: &[OwnedFd],
    others: &[&OwnedFd],
    waiter: Option<&Waiter>,
) -> Result<Placed<OwnedFd>, Errno> {
    let count = u32::try_from(own.len().max(3)).map_err(|_| Errno::INVAL)?;
    let end = count + u32::try_from(others.len()).map_err(|_| Errno::INVAL)?;
    // Out of the way of all targets, so that no move hits the source of a later one.
    let mut moved = Placed::new();
    for fd in own.iter().chain(others.iter().copied()) {
        let above = rustix::io::fcntl_dupfd_cloexec(fd, end.cast_signed())?;
        moved.push(above).map_err(|_| Errno::INVAL)?;
    }
    let (moved_own, moved_others) = moved.split_at(own.len());
    // The guard's own is one; what programs see at /dev/null may be something else.
    let null = rustix::io::fcntl_dupfd_cloexec(sys::stdio(0), end.cast_signed())?;
    for target in 0..count {
        match moved_own.get(usize::try_from(target).unwrap_or(usize::MAX)) {
            Some(fd) => sys::place(fd.as_fd(), target)?,
            None => sys::place(null.as_fd(), target)?,
        }
    }
    let mut placed = Placed::new();
    for (target, other) in (count..end).zip(moved_others) {
        sys::place(other.as_fd(), target)?;
        placed.push(sys::close_on_exec(target)?).map_err(|_| Errno::INVAL)?;
    }
    // The moved ones go by this, not one by one.
    core::mem::forget((moved, null));
    match waiter.map(Waiter::number) {
        Some(spared) => {
            sys::close_range(end, spared.saturating_sub(1))?;
            sys::close_from(spared + 1)?;
        }
        None => sys::close_from(end)?,
    }
    Ok(placed)
}

/// As `execvp(3)` does, but with a `PATH` of the program's own, and no shell for what is neither
/// a program nor a script.
fn search(exec: &Exec<'_>, args: &Pointers<'_>, env: &Pointers<'_>) -> Errno {
    let Some(name) = exec.args.iter().next() else { return Errno::NOENT };
    if name.contains(&b'/') {
        return sys::execute(name, None, args, env);
    }
    if name == b"\0" {
        return Errno::NOENT;
    }
    let path = exec.env.iter().find_map(|entry| entry.strip_prefix(b"PATH="));
    let path = path.map_or(PATH_DEFAULT, |path| path.strip_suffix(b"\0").unwrap_or(path));
    let (mut last, mut denied) = (Errno::NOENT, false);
    for dir in path.split(|&byte| byte == b':') {
        // An empty entry is the working directory.
        let dir = if dir.is_empty() { b"." } else { dir };
        let mut candidate = heapless::Vec::<u8, { protocol::limits::PATH_MAX + 1 }>::new();
        let fits = [dir, b"/", name].iter().all(|part| candidate.extend_from_slice(part).is_ok());
        last = if fits { sys::execute(&candidate, None, args, env) } else { Errno::NAMETOOLONG };
        match last {
            // Found, but not for us: what to say if no later one is better.
            Errno::ACCESS => denied = true,
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::STALE | Errno::TIMEDOUT => {}
            other => return other,
        }
    }
    if denied { Errno::ACCESS } else { last }
}
