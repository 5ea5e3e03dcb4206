//! exec.0 to root.9: what a guard does while its rocker lives: it listens, obeys and reaps.

use alloc::format;
use core::fmt::Write as _;
use core::time::Duration;

use protocol::limits::{DESCRIPTORS_MAX, PROGRAMS_MAX, RESET_MS};
use protocol::socket::{Buffer, Descriptors, Received, now_ns};
use protocol::{
    ClientMessage, Errno, Error, Failure, GuardMessage, Loss, Message, OpenFiles, Step, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Building, Launch, Linux, Opened, bounds, conf_in, done, entrance, exec_in, work_dir};
use crate::action::Order;
use crate::conf::Pristine;
use crate::gate::Room;
use crate::machine::{Outcome, Peer};
use crate::overlays::Upper;
use crate::peers::PEERS_MAX;
use crate::programs::Failed;
use crate::sys::SIGKILL;
use crate::{conf, files};

/// What a peer has said.
pub(super) enum Heard {
    /// enter.4
    AppStarted,
    /// exec.0
    Order(Outcome),
}

/// Why nothing was heard of a peer.
pub(super) enum NotHeard {
    Lost(Loss),
    Failed(Errno),
}

/// What there is to do for a guard that listens.
struct Ready {
    /// Somebody wants to give orders.
    attached: bool,
    /// Somebody has ended, or may have.
    changed: bool,
    /// A program may have done what its own filter forbids.
    violated: bool,
    /// Who has something to say, or has read something.
    peers: heapless::Vec<Peer, PEERS_MAX>,
}

/// `ETOOMANYREFS`: the processes of the App's user, in other rockers too, have sent so many
/// descriptors to each other that nobody has received that no more may be sent. That is no reason
/// to lose a peer.
const TOOMANYREFS: Errno = Errno(109);

/// All that a guard waits for: children, somebody it watches, peers, new ones, and filters that
/// tell.
const SOURCES_MAX: usize = 3 + PEERS_MAX + PROGRAMS_MAX;

impl Linux<'_> {
    /// What a peer says, if it is an order; none if it says nothing.
    pub(super) fn hear(&mut self, peer: Peer) -> Result<Option<Heard>, NotHeard> {
        let socket = self.peers.socket(peer).ok_or(NotHeard::Failed(Errno::BADF))?;
        let (message, descriptors) = match socket::receive(socket, &mut self.order) {
            Ok(Received::Message(Message::Client(message), descriptors)) => (message, descriptors),
            Ok(Received::Message(..)) => return Err(NotHeard::Lost(Loss::Garbage)),
            Ok(Received::Lost(how)) => return Err(NotHeard::Lost(how)),
            Ok(Received::Empty) => return Ok(None),
            Err(errno) => return Err(NotHeard::Failed(errno)),
        };
        self.order_descriptors = descriptors;
        Ok(Some(Heard::Order(match message {
            ClientMessage::AppStarted => return Ok(Some(Heard::AppStarted)),
            ClientMessage::Exec(exec) | ClientMessage::ExecIn { exec, .. } => {
                Outcome::Exec { peer, id: exec.id }
            }
            ClientMessage::Signal { id, signal: signal @ 1..=64 } => {
                Outcome::Signal { peer, id, signal }
            }
            ClientMessage::Go { id } => Outcome::Go { peer, id },
            ClientMessage::Ping => Outcome::Ping { peer },
            ClientMessage::Open { id, .. } => Outcome::Order { peer, id, order: Order::Open },
            ClientMessage::Delete { id, .. } => Outcome::Order { peer, id, order: Order::Delete },
            ClientMessage::Symlink { id, .. } => Outcome::Order { peer, id, order: Order::Symlink },
            ClientMessage::Conf { id, .. } => Outcome::Order { peer, id, order: Order::Configure },
            ClientMessage::Reset { id } => Outcome::Order { peer, id, order: Order::Reset },
            ClientMessage::Adopt { id } => Outcome::Order { peer, id, order: Order::Adopt },
            ClientMessage::Signal { .. }
            | ClientMessage::Launch(_)
            | ClientMessage::List
            | ClientMessage::Attach(_)
            | ClientMessage::Kill(_) => return Err(NotHeard::Lost(Loss::Garbage)),
        })))
    }

    /// exec.0 and root.9. Lateness first, then one order of whoever's turn it is, and ends last:
    /// after each order they are looked for anyway. So nobody keeps anybody waiting.
    pub(super) fn listen(&mut self) -> Outcome {
        // What the building needed goes now that there is nothing to be done: one processor may be
        // all that the App has to come to its start, and to close a mount that was attached nowhere
        // takes 100 us. Of an App that has ended already it goes with all else.
        self.building = Building::default();
        loop {
            let now = now_ns();
            if self.programs.late_ns() <= now {
                return Outcome::Late;
            }
            if let Some(peer) = self.peers.overdue(now) {
                return Outcome::PeerLost { peer };
            }
            let ready = match self.wait(now) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Outcome::Failed(socket::errno(error)),
                Ok(ready) => ready,
            };
            if ready.violated {
                self.programs.hear_violations();
                if self.programs.late_ns() <= now {
                    return Outcome::Late;
                }
            }
            if ready.attached {
                match self.intake.take(&mut self.order) {
                    Ok(Some(newcomer)) => return self.admit(newcomer),
                    Ok(None) => {}
                    Err(errno) => return Outcome::Failed(errno),
                }
            }
            let mut changed = ready.changed;
            for peer in ready.peers {
                let was_reading = self.peers.is_reading(peer);
                if !self.peers.has_room(peer, now) {
                    continue;
                }
                if was_reading {
                    changed = true;
                    continue;
                }
                self.peers.was_heard(peer);
                match self.hear(peer) {
                    Ok(Some(Heard::Order(outcome))) => return outcome,
                    // enter.4 comes once, and first.
                    Ok(Some(Heard::AppStarted)) | Err(NotHeard::Lost(_)) => {
                        return Outcome::PeerLost { peer };
                    }
                    Err(NotHeard::Failed(errno)) => return Outcome::Failed(errno),
                    Ok(None) => {}
                }
            }
            if changed {
                return Outcome::Changed;
            }
        }
    }

    /// Waits until somebody has something to say or has ended, or until something is late.
    fn wait(&self, now: u64) -> Result<Ready, rustix::io::Errno> {
        let mut polled: heapless::Vec<PollFd<'_>, SOURCES_MAX> =
            self.reaper.sources().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let enders = polled.len();
        let _ = polled.push(PollFd::new(self.intake.source(), PollFlags::IN));
        polled.extend(self.programs.watches().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let tellers = polled.len() - enders - 1;
        let mut peers: heapless::Vec<Peer, PEERS_MAX> = heapless::Vec::new();
        for (peer, source) in self.peers.sources() {
            // There is room for everybody.
            let _ = (polled.push(source), peers.push(peer));
        }
        let until = match self.reaper.has_more() {
            true => now,
            false => self.programs.late_ns().min(self.peers.read_by_ns()),
        };
        let left = Duration::from_nanos(until.saturating_sub(now));
        let left = Timespec::try_from(left).ok().filter(|_| until != u64::MAX);
        poll(&mut polled, left.as_ref())?;
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let (ended, rest) = polled.split_at(enders);
        let (attached, rest) = rest.split_at(1);
        let (told, said) = rest.split_at(tellers);
        Ok(Ready {
            attached: attached.iter().any(is_ready),
            changed: self.reaper.has_more() || ended.iter().any(is_ready),
            violated: told.iter().any(is_ready),
            peers: peers
                .iter()
                .zip(said)
                .filter(|(_, fd)| is_ready(fd))
                .map(|(it, _)| *it)
                .collect(),
        })
    }

    /// exec.1
    pub(super) fn start_program(&mut self, peer: Peer) -> Outcome {
        let descriptors = core::mem::take(&mut self.order_descriptors);
        let Some((exec, cgroups)) = exec_in(&self.order) else {
            return Outcome::Failed(Errno::PROTO);
        };
        // As many came as it says.
        let own = descriptors.len().saturating_sub(cgroups);
        let Some(launch) = &self.launch else { return Outcome::Failed(Errno::PROTO) };
        let bounds = bounds(launch, self.wall.as_ref());
        let work_dir = work_dir(Some(launch), self.conf.as_ref());
        self.programs.ooms = self.cgroups.ooms();
        let room = self.outbox.bytes();
        match self.programs.start(peer, &exec, descriptors.split_at(own), work_dir, bounds, room) {
            Ok(started) => {
                self.started = Some(started);
                Outcome::Done
            }
            Err(Failed { errno, at }) => {
                self.failed_at = Some(at);
                Outcome::Failed(socket::errno(errno))
            }
        }
    }

    /// exec.1 for what is done at once.
    pub(super) fn carry_out(
        &mut self,
        peer: Peer,
        id: u32,
        order: Order,
    ) -> Result<(), rustix::io::Errno> {
        match order {
            Order::Configure => return self.take_conf(),
            Order::Adopt => {
                self.started = Some(self.programs.adopt(peer, id)?);
                return Ok(());
            }
            Order::Open | Order::Delete | Order::Symlink | Order::Reset => {}
        }
        if let Order::Reset = order {
            self.bury_until_ns = now_ns() + u64::from(RESET_MS) * 1_000_000;
            return self.programs.signal(Peer::OWNER, None, SIGKILL);
        }
        let work_dir = work_dir(self.launch.as_ref(), self.conf.as_ref());
        let (message, programs, opened) = (self.order.last(), &mut self.programs, &mut self.opened);
        let reaper = &self.reaper;
        let act = || match message {
            Some(Message::Client(ClientMessage::Open { files, .. })) => {
                *opened = Some(open_all(&files, work_dir));
                Ok(())
            }
            Some(Message::Client(ClientMessage::Delete { path, tree, .. })) => {
                files::delete(path, tree, work_dir, || programs.kill_late(reaper))
            }
            Some(Message::Client(ClientMessage::Symlink { target, path, .. })) => {
                files::symlink(target, path, work_dir)
            }
            _ => Err(rustix::io::Errno::PROTO),
        };
        match &self.wall {
            Some(wall) => wall.behind(act),
            None => act(),
        }
    }

    /// exec.1 of a configuration: whether it may be, and a copy, for the resets.
    fn take_conf(&mut self) -> Result<(), rustix::io::Errno> {
        if !self.launch().request.options.commanded {
            return Err(rustix::io::Errno::PERM);
        }
        if self.conf.is_some() {
            return Err(rustix::io::Errno::EXIST);
        }
        if self.programs.have_begun() {
            return Err(rustix::io::Errno::BUSY);
        }
        self.conf = Some(core::mem::replace(&mut self.order, Buffer::for_guard()));
        Ok(())
    }

    /// exec.1 of a reset. It kills again whoever has escaped: a process that was just being made.
    pub(super) fn bury(&mut self) -> Outcome {
        const AGAIN_NS: u64 = 10_000_000;
        loop {
            let Self { reaper, programs, cgroups, .. } = self;
            if let Err(errno) = reaper.reap(|ended| programs.note(ended, cgroups)) {
                return Outcome::Failed(socket::errno(errno));
            }
            // What is left may have ended, and wait for a parent outside.
            if self.reaper.find_stranger() == Ok(false) {
                return Outcome::Alone;
            }
            let now = now_ns();
            if now >= self.bury_until_ns {
                return Outcome::Failed(Errno::TIME);
            }
            if let Err(errno) = self.programs.signal(Peer::OWNER, None, SIGKILL) {
                return Outcome::Failed(socket::errno(errno));
            }
            let deadline_ns = self.bury_until_ns.min(now + AGAIN_NS);
            for source in self.reaper.sources().take(1) {
                if let Err(errno) = socket::wait_readable(source, deadline_ns) {
                    return Outcome::Failed(errno);
                }
            }
        }
    }

    /// exec.1: from how the rocker was built to how it is to look.
    fn mount_view(&mut self) -> Result<(), conf::Failed> {
        let options = self.launch().request.options;
        // A reset of one that takes no orders, which ends by it.
        if !options.commanded {
            return Ok(());
        }
        let conf = self.conf.as_ref().and_then(conf_in).unwrap_or_default();
        let until_ns = now_ns() + u64::from(RESET_MS) * 1_000_000;
        let failed = conf::at(conf::At::Namespaces);
        let pristine = match &self.pristine {
            Some(pristine) => {
                pristine.restore().map_err(failed)?;
                pristine
            }
            None => self.pristine.insert(Pristine::new(options.dev).map_err(failed)?),
        };
        let exec_dir = self.launch.as_ref().map(|launch| launch.request.exec_dir.as_bytes());
        pristine.configure(&conf, exec_dir.unwrap_or(b"/"), self.wall.as_mut(), until_ns)
    }

    pub(super) fn build_view(&mut self) -> Outcome {
        let built = match self.programs.forget_all() {
            true => self.mount_view(),
            false => Err(conf::at(conf::At::Limits)(rustix::io::Errno::PERM)),
        };
        let Err(conf::Failed { at, refusal }) = built else { return Outcome::Done };
        self.conf_failed_at = Some(at);
        self.refused(Err(refusal))
    }

    /// exec.1: the init command.
    pub(super) fn run_init(&mut self) -> Outcome {
        let Some(conf) = self.conf.as_ref().and_then(conf_in) else { return Outcome::Done };
        if conf.init.as_bytes().is_empty() {
            return Outcome::Done;
        }
        let exec = protocol::Exec {
            id: u32::MAX,
            args: conf.init,
            env: conf.init_env,
            cwd: protocol::Strings::default(),
            descriptors: 0,
            by_descriptor: false,
            terminal: false,
            rlimits: heapless::Vec::new(),
            wall_ms: conf.init_ms,
            grace_ms: 0,
            filter: &[],
            sync: false,
        };
        self.conf_failed_at = Some(conf::At::Init);
        let Some(launch) = &self.launch else { return Outcome::Failed(Errno::PROTO) };
        let work_dir = work_dir(Some(launch), self.conf.as_ref());
        let bounds = bounds(launch, self.wall.as_ref());
        let Self { reaper, programs, cgroups, outbox, .. } = self;
        match programs.run_to_end(&exec, work_dir, bounds, outbox.bytes(), reaper, cgroups) {
            Ok(report) if report.verdict == protocol::Verdict::Normal => Outcome::Done,
            Ok(report) => {
                self.words = match report.exit {
                    protocol::Exit::Status(status) => format!("it ended with status {status}"),
                    protocol::Exit::Signal(signal) => format!("it ended by signal {signal}"),
                };
                Outcome::Failed(if report.verdict == protocol::Verdict::TimeLimitExceeded {
                    Errno::TIME
                } else {
                    Errno::CANCELED
                })
            }
            Err(Failed { errno, .. }) => Outcome::Failed(socket::errno(errno)),
        }
    }

    /// exec.2
    pub(super) fn report_obeyed(&mut self, peer: Peer, id: u32) -> Result<(), Errno> {
        let Some(Opened { mut errnos, files }) = self.opened.take() else {
            return self.reply(peer, &Message::Guard(GuardMessage::Obeyed { id }), &[]);
        };
        let sent: heapless::Vec<BorrowedFd<'_>, DESCRIPTORS_MAX> =
            files.iter().map(AsFd::as_fd).collect();
        let message = Message::Guard(GuardMessage::Opened { id, errnos: errnos.clone() });
        match self.reply(peer, &message, &sent) {
            Err(TOOMANYREFS) => {
                errnos.iter_mut().filter(|errno| errno.0 == 0).for_each(|it| *it = TOOMANYREFS);
                self.reply(peer, &Message::Guard(GuardMessage::Opened { id, errnos }), &[])
            }
            told => told,
        }
    }

    pub(super) fn report_started(&mut self, peer: Peer, id: u32) -> Result<(), Errno> {
        let (pid, pidfd) = self.started.take().ok_or(Errno::SRCH)?;
        let message = Message::Guard(GuardMessage::Started { id, pid });
        match self.reply(peer, &message, &[pidfd.as_fd()]) {
            Err(errno @ TOOMANYREFS) => {
                self.programs.disown(peer, id);
                self.command.clear();
                let _ = self.command.write_str("sendmsg # to the caller, with a pidfd");
                let error = Error::Failed { step: Step::ReportStarted, errno };
                self.report_not_started(peer, id, error)
            }
            told => told,
        }
    }

    pub(super) fn report_not_started(
        &mut self,
        peer: Peer,
        id: u32,
        error: Error,
    ) -> Result<(), Errno> {
        let command = core::mem::take(&mut self.command);
        let failure = Failure { error, command: command.as_str() };
        self.reply(peer, &Message::Guard(GuardMessage::ExecFailed { id, failure }), &[])
    }

    /// exec.3 and root.9
    pub(super) fn reap(&mut self) -> Outcome {
        let Self { reaper, programs, peers, cgroups, .. } = self;
        let is_watched = match reaper.reap(|ended| programs.note(ended, cgroups)) {
            Ok(is_watched) => is_watched,
            Err(errno) => return Outcome::Failed(socket::errno(errno)),
        };
        let now = now_ns();
        match programs.untold().find(|&peer| peers.has_room(peer, now)) {
            Some(peer) => Outcome::Exited { peer },
            // Who has not heard of an end yet keeps the rocker alive for as long as that may take.
            None if is_watched || programs.untold().next().is_some() => Outcome::Watched,
            None => Outcome::NobodyKnown,
        }
    }

    /// root.9, where the kernel will not unmount the overlays, and so not sync them. The lock is
    /// on the directory that the layers are in. A disk that is told to write takes a millisecond,
    /// even where it has nothing to write.
    pub(super) fn settle(&mut self, is_alone: bool) -> Outcome {
        if !self.is_kept {
            return Outcome::Done;
        }
        let buried = if is_alone {
            Outcome::Alone
        } else {
            self.bury_until_ns = now_ns() + u64::from(RESET_MS) * 1_000_000;
            self.bury()
        };
        match (buried, &self.data) {
            (Outcome::Alone, _) if self.uppers.iter().all(Upper::is_untouched) => Outcome::Done,
            (Outcome::Alone, Some(data)) => done(rustix::fs::syncfs(data)),
            (outcome, _) => outcome,
        }
    }

    pub(super) fn report_exit(&mut self, peer: Peer) -> Result<(), Errno> {
        let (id, report, gate) = self.programs.tell(peer).ok_or(Errno::SRCH)?;
        let mut room = Room::default();
        let failure = gate.and_then(|gate| gate.failure(&mut room));
        let message = match failure {
            Some((errno, command)) => {
                let error = Error::Failed { step: Step::ReportExit, errno };
                GuardMessage::ExecFailed { id, failure: Failure { error, command } }
            }
            None => GuardMessage::Exited { id, report },
        };
        self.reply(peer, &Message::Guard(message), &[])
    }

    /// Answers an order. There was room when it was heard; a peer that fills it is lost.
    pub(super) fn reply(
        &mut self,
        peer: Peer,
        message: &Message<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Errno> {
        let socket = self.peers.socket(peer).ok_or(Errno::PIPE)?;
        socket::send(socket, message, fds, &mut self.outbox)
    }

    fn admit(&mut self, newcomer: OwnedFd) -> Outcome {
        match self.peers.admit(newcomer) {
            Ok(peer) => Outcome::Attached { peer },
            Err(newcomer) => {
                self.newcomer = Some(newcomer);
                Outcome::Crowded
            }
        }
    }

    /// The answer to an Attach is that to a launch.
    pub(super) fn welcome(&mut self, peer: Peer) -> Result<(), Errno> {
        let entrance = entrance()?;
        self.peers.accept_descriptors(peer);
        let Launch { name, guard_pid, .. } = *self.launch();
        // Who gives orders enters nothing.
        let (filter, more) = ([].as_slice(), 0);
        let message = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more });
        self.reply(peer, &message, &[entrance.as_fd()])
    }

    pub(super) fn turn_away(&mut self) -> Result<(), Errno> {
        /// `EUSERS`
        const USERS: Errno = Errno(87);
        let newcomer = self.newcomer.take().ok_or(Errno::PIPE)?;
        let error = Error::Failed { step: Step::HandOver, errno: USERS };
        let failure = Failure { error, command: "attach # 8 are attached already" };
        let message = Message::Guard(GuardMessage::Failed(failure));
        socket::send(&newcomer, &message, &[], &mut self.outbox)
    }

    pub(super) fn hang_up(&mut self, peer: Peer, kills: bool) {
        self.peers.close(peer);
        self.programs.forget(peer, kills);
    }
}

fn open_all(files: &OpenFiles<'_>, work_dir: &[u8]) -> Opened {
    let mut opened = Opened { errnos: heapless::Vec::new(), files: Descriptors::new() };
    for file in files {
        let errno = match files::open(file, work_dir) {
            Ok(file) => opened.files.push(file).map_or(Errno::MFILE, |()| Errno(0)),
            Err(errno) => socket::errno(errno),
        };
        let _ = opened.errnos.push(errno);
    }
    opened
}
