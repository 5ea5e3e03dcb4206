//! A rocker that takes orders: exec.0 to exec.3. Its guard starts programs for the caller, and
//! tells of their ends.

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use protocol::limits::UNREAD_MS;
use protocol::message::{ClientMessage, GuardMessage, Message};
use protocol::socket::{Buffer, Descriptors, Received, receive, send_before, wait_readable};
use protocol::{Errno, Exec, ExitReport, Item, Loss, Name, Rlimit, Rule, Step, Strings};
use rustix::process::{Signal, pidfd_send_signal};

use crate::command::Command;
use crate::error::Error;
use crate::linux::deadline_ns;
use crate::machine::Started;
use crate::program::{Order, Program};
use crate::trace::TraceEntry;

/// How long a guard may take for an answer that it need not wait for itself.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// A rocker in which the caller runs programs. When this is dropped the rocker ends, with all
/// that is left in it, unless it was to [stay](crate::Launch::stays). Of one that was
/// [attached](Self::attach) to, only those programs end that were started by this.
#[derive(Debug)]
pub struct OpenRocker {
    started: Started,
    connection: OwnedFd,
    guard: OwnedFd,
    buffer: Buffer,
    next_id: u32,
    /// Whether the rocker outlives this.
    stays: bool,
    /// How long the init command may take.
    pub(crate) init_timeout: Duration,
    /// Pings that the guard has not answered yet.
    pings: u32,
    /// Ends that were told while another answer was waited for.
    ended: Vec<(u32, End)>,
    trace: Vec<TraceEntry>,
}

/// How a program has ended, or why it was let go in vain.
type End = Result<ExitReport, Error>;

/// A program that was started in an [`OpenRocker`].
#[derive(Debug)]
pub struct Run {
    id: u32,
    pid: u32,
    pidfd: OwnedFd,
}

impl Run {
    /// Its pid, as this process's `/proc` has it; none once it has been reaped.
    pub fn pid(&self) -> Option<u32> {
        let number = self.pidfd.as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
    }

    /// Its pid inside the rocker.
    pub fn pid_inside(&self) -> u32 {
        self.pid
    }

    /// It becomes readable when the program has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// What a program may use; what is not named is as the master has it.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    rlimits: Vec<Rlimit>,
    wall: Option<Duration>,
    grace: Option<Duration>,
    filter: Vec<u8>,
}

impl Limits {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Time on the clock, 1 ms to 49 days: then all of its process group is killed, and the
    /// verdict is [`TimeLimitExceeded`](protocol::Verdict::TimeLimitExceeded).
    #[must_use]
    pub fn wall(mut self, time: Duration) -> Self {
        self.wall = Some(time);
        self
    }

    /// When its time on the clock is over its process group gets SIGTERM first, and is killed so
    /// much later: up to 49 days, in milliseconds. However it ends then, the verdict is
    /// [`TimeLimitExceeded`](protocol::Verdict::TimeLimitExceeded). Without [`wall`](Self::wall)
    /// it means nothing.
    #[must_use]
    pub fn grace(mut self, time: Duration) -> Self {
        self.grace = Some(time);
        self
    }

    /// One of the sixteen of `setrlimit(2)`, by its number and in its unit there.
    #[must_use]
    pub fn rlimit(mut self, resource: u8, soft: u64, hard: u64) -> Self {
        self.rlimits.retain(|limit| limit.resource != resource);
        self.rlimits.push(Rlimit { resource, soft, hard });
        self
    }

    /// Which system calls it may make of those that the rocker lets it: a filter, 1 to 4096 of
    /// `struct sock_filter` (`man 2 seccomp`), that allows `execve`. `SECCOMP_RET_USER_NOTIF` in
    /// it means that the program is killed, that the verdict is
    /// [`DisallowedSyscall`](protocol::Verdict::DisallowedSyscall), and that the report has the
    /// number: [`syscall_name`](crate::syscall_name).
    #[must_use]
    pub fn filter(mut self, filter: Vec<u8>) -> Self {
        self.filter = filter;
        self
    }
}

/// How a program is started, beside its limits.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// It waits for [`OpenRocker::go`] before it executes.
    pub(crate) sync: bool,
    /// Each a `cgroup.procs`.
    pub(crate) cgroups: Vec<OwnedFd>,
}

/// One for each file.
type Errnos = heapless::Vec<Errno, { protocol::limits::DESCRIPTORS_MAX }>;

/// One answer of the guard's.
pub(crate) enum Answer {
    Started { id: u32, pid: u32, pidfd: OwnedFd },
    Refused { id: u32, error: Error },
    Ended(u32, Box<End>),
    Obeyed(u32),
    Opened { id: u32, errnos: Errnos, files: Descriptors },
    Pong,
}

impl OpenRocker {
    pub(crate) fn new(
        started: Started,
        connection: OwnedFd,
        guard: OwnedFd,
        trace: Vec<TraceEntry>,
    ) -> Self {
        let (buffer, ended) = (Buffer::default(), Vec::new());
        // The launch has ended with one.
        let init_timeout = Duration::ZERO;
        Self {
            started,
            connection,
            guard,
            buffer,
            next_id: 1,
            stays: false,
            init_timeout,
            pings: 1,
            ended,
            trace,
        }
    }

    pub(crate) fn staying(mut self, stays: bool) -> Self {
        self.stays = stays;
        self
    }

    /// Attaches to the living rocker of this name, however it was started and by whom, as long
    /// as the master at `socket` lets this user: root, and whoever has launched it. At most 8 can
    /// at once.
    ///
    /// # Errors
    ///
    /// That no living rocker has this name, or none of this user's; that the master is not there
    /// or cannot reach the guard; that neither answers within `timeout`.
    pub fn attach(
        socket: impl AsRef<std::path::Path>,
        name: &str,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let (started, connection, guard) = crate::query::attach(socket.as_ref(), name, timeout)?;
        let mut rocker = Self::new(started, connection, guard, Vec::new());
        rocker.pings = 0;
        Ok(rocker)
    }

    /// The guard: PID 1 inside, this outside.
    pub fn guard_pid(&self) -> u32 {
        self.started.guard_pid
    }

    /// The rocker's name.
    pub fn guard_name(&self) -> Name {
        self.started.name
    }

    /// Stands for the guard. It becomes readable when all of the rocker is gone.
    pub fn guard_pidfd(&self) -> BorrowedFd<'_> {
        self.guard.as_fd()
    }

    /// Becomes readable when the guard has something to say: an end, mostly.
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// The steps of the launch, if [`Launch::trace`](crate::Launch::trace) asked for them.
    pub fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }

    /// exec.0: starts a program, as the guard's child, with the ids of the launch.
    ///
    /// # Errors
    ///
    /// One that names the step and the reason; other programs go on.
    pub fn spawn(&mut self, program: &Program, limits: &Limits) -> Result<Run, Error> {
        self.start(program, limits, &Start::default())
    }

    /// The same, said as with [`std::process::Command`].
    pub fn command(&mut self, path: impl AsRef<std::ffi::OsStr>) -> Command<'_> {
        Command::new(self, path.as_ref())
    }

    /// Lets a program execute that was started to [wait](Command::sync). If it cannot,
    /// [`wait`](Self::wait) says why. That it has ended, or goes already, is no error.
    ///
    /// # Errors
    ///
    /// That the guard is lost.
    pub fn go(&mut self, run: &Run) -> Result<(), Error> {
        self.order(ClientMessage::Go { id: run.id }, &[])
    }

    pub(crate) fn start(
        &mut self,
        program: &Program,
        limits: &Limits,
        start: &Start,
    ) -> Result<Run, Error> {
        let order = program.order()?;
        let Order { args, env, cwd, .. } = &order;
        let mut descriptors = order.descriptors();
        descriptors.extend(start.cgroups.iter().map(AsFd::as_fd));
        let id = self.next_id();
        let invalid = |rule| Error::invalid(rule, Item::Program, b"");
        let too_many = |what: &str| Error::invalid(Rule::TooMany, Item::Program, what.as_bytes());
        let milliseconds =
            |time: Option<Duration>| match time.map(|it| u32::try_from(it.as_millis())) {
                None => Ok(0),
                Some(Ok(ms @ 1..)) => Ok(ms),
                Some(_) => Err(invalid(Rule::TimeOutOfRange)),
            };
        let exec = Exec {
            id,
            args: strings(args)?,
            env: strings(env)?,
            cwd: strings(cwd)?,
            descriptors: u8::try_from(descriptors.len()).map_err(|_| too_many("descriptors"))?,
            by_descriptor: false,
            terminal: program.has_terminal(),
            rlimits: heapless::Vec::from_slice(&limits.rlimits).map_err(|_| too_many("limits"))?,
            wall_ms: milliseconds(limits.wall)?,
            grace_ms: milliseconds(limits.grace)?,
            filter: &limits.filter,
            sync: start.sync,
        };
        if descriptors.len() > protocol::limits::DESCRIPTORS_MAX {
            return Err(too_many("descriptors"));
        }
        let message = match u8::try_from(start.cgroups.len()) {
            Ok(0) => ClientMessage::Exec(exec),
            Ok(cgroups) => ClientMessage::ExecIn { cgroups, exec },
            Err(_) => return Err(too_many("descriptors")),
        };
        self.order(message, &descriptors)?;
        self.started(id)
    }

    /// Takes over a program that its launcher has left in a rocker that
    /// [stays](crate::Launch::stays), the oldest first: its end is told here from now on, and it
    /// gets signals from here. It goes on, and can be taken over again, when this is dropped.
    ///
    /// # Errors
    ///
    /// `ESRCH`: there is none, since its launcher is there, or it has ended. `EBUSY`: others have
    /// taken over all there are.
    pub fn adopt(&mut self) -> Result<Run, Error> {
        let id = self.next_id();
        self.order(ClientMessage::Adopt { id }, &[])?;
        self.started(id)
    }

    /// exec.2
    fn started(&mut self, id: u32) -> Result<Run, Error> {
        self.until(Some(ANSWER), |answer| match answer {
            Answer::Started { id: started, pid, pidfd } if started == id => {
                Ok(Ok(Run { id, pid, pidfd }))
            }
            Answer::Refused { id: refused, error } if refused == id => Ok(Err(error)),
            other => Err(other),
        })?
    }

    /// exec.3: waits for a program's end.
    ///
    /// # Errors
    ///
    /// That the guard is lost, or why a program that was let go, or was to be in a
    /// [control group](Command::cgroup), could not execute.
    pub fn wait(&mut self, run: &Run) -> Result<ExitReport, Error> {
        let told = self.ended.iter().position(|(id, _)| *id == run.id);
        if let Some(at) = told {
            return self.ended.swap_remove(at).1;
        }
        self.until(None, |answer| match answer {
            Answer::Ended(id, end) if id == run.id => Ok(*end),
            other => Err(other),
        })?
    }

    /// The same without waiting: none if it runs.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    pub fn try_wait(&mut self, run: &Run) -> Result<Option<ExitReport>, Error> {
        while wait_readable(&self.connection, 0).map_err(failed)? {
            if let Some(Answer::Ended(id, end)) = self.hear()? {
                self.ended.push((id, *end));
            }
        }
        let told = self.ended.iter().position(|(id, _)| *id == run.id);
        told.map(|at| self.ended.swap_remove(at).1).transpose()
    }

    /// Sends a program a signal, by its number; SIGKILL is for all of its process group. That it
    /// has ended is no error.
    ///
    /// # Errors
    ///
    /// That the guard is lost.
    pub fn signal(&mut self, run: &Run, number: u8) -> Result<(), Error> {
        self.order(ClientMessage::Signal { id: Some(run.id), signal: number }, &[])
    }

    /// Sends a signal to every process in the rocker but its guard.
    ///
    /// # Errors
    ///
    /// That the guard is lost.
    pub fn signal_all(&mut self, number: u8) -> Result<(), Error> {
        self.order(ClientMessage::Signal { id: None, signal: number }, &[])
    }

    /// Whether the guard is there and listens.
    ///
    /// # Errors
    ///
    /// That it is lost.
    pub fn ping(&mut self) -> Result<(), Error> {
        self.order(ClientMessage::Ping, &[])?;
        self.pings = self.pings.saturating_add(1);
        // The answer to an earlier one says nothing of now.
        while self.pings > 0 {
            self.until(Some(ANSWER), |answer| match answer {
                Answer::Pong => Ok(()),
                other => Err(other),
            })?;
        }
        Ok(())
    }

    /// root.10: kills the guard, and with it every process in the rocker; returns when all is
    /// gone, or after `timeout`: false.
    ///
    /// # Errors
    ///
    /// Those of `pidfd_send_signal(2)` and `poll(2)`.
    pub fn kill(self, timeout: Duration) -> std::io::Result<bool> {
        match pidfd_send_signal(&self.guard, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        wait_readable(&self.guard, deadline_ns(timeout))
            .map_err(|errno| std::io::Error::from_raw_os_error(errno.0.into()))
    }

    /// Gives up the connection of a rocker that [stays](crate::Launch::stays), once every order is
    /// carried out that was given. It lives on with what runs in it, and ends with the last of its
    /// processes: at once if there is none. A program that waits to be [let go](Self::go) ends.
    ///
    /// # Errors
    ///
    /// `EPERM`: it was not to stay, or was launched by another. That the guard is lost. Either way
    /// this is over, as if it had been dropped.
    pub fn detach(mut self) -> Result<(), Error> {
        if !self.stays {
            return Err(failed(Errno::PERM).during("detach"));
        }
        self.ping()
    }

    pub(crate) fn next_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    /// Gives an order, and waits until it has been carried out.
    pub(crate) fn obeyed(&mut self, id: u32, order: ClientMessage<'_>) -> Result<(), Error> {
        self.obeyed_within(ANSWER, id, order)
    }

    pub(crate) fn obeyed_within(
        &mut self,
        timeout: Duration,
        id: u32,
        order: ClientMessage<'_>,
    ) -> Result<(), Error> {
        self.order(order, &[])?;
        self.until(Some(timeout), |answer| match answer {
            Answer::Obeyed(obeyed) if obeyed == id => Ok(Ok(())),
            Answer::Refused { id: refused, error } if refused == id => Ok(Err(error)),
            other => Err(other),
        })?
    }

    pub(crate) fn order(
        &mut self,
        message: ClientMessage<'_>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let deadline_ns = deadline_ns(Duration::from_millis(u64::from(UNREAD_MS)));
        let message = Message::Client(message);
        let buffer = &mut self.buffer;
        match send_before(&self.connection, &message, descriptors, buffer, deadline_ns) {
            Ok(()) => Ok(()),
            // If the guard has said why it ended, that is still there to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(Errno::MSGSIZE) => Err(Error::invalid(Rule::TooLong, Item::Program, b"")),
            Err(Errno::AGAIN) => Err(lost(Loss::Silent)),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Reads answers until this one is wanted; it is given back if it is not. The ends of other
    /// programs are kept.
    pub(crate) fn until<T>(
        &mut self,
        timeout: Option<Duration>,
        mut wanted: impl FnMut(Answer) -> Result<T, Answer>,
    ) -> Result<T, Error> {
        let deadline = timeout.map_or(u64::MAX, deadline_ns);
        loop {
            match wait_readable(&self.connection, deadline) {
                Ok(true) => {}
                Ok(false) => return Err(lost(Loss::Silent)),
                Err(errno) => return Err(failed(errno)),
            }
            let Some(answer) = self.hear()? else { continue };
            match wanted(answer) {
                Ok(found) => return Ok(found),
                Err(Answer::Ended(id, end)) => self.ended.push((id, *end)),
                // A Pong, or what belongs to an order that was given up.
                Err(_) => {}
            }
        }
    }

    fn hear(&mut self) -> Result<Option<Answer>, Error> {
        let (message, mut descriptors) = match receive(&self.connection, &mut self.buffer) {
            Ok(Received::Message(Message::Guard(message), descriptors)) => (message, descriptors),
            Ok(Received::Message(..)) => return Err(lost(Loss::Garbage)),
            Ok(Received::Lost(how)) => return Err(lost(how)),
            Ok(Received::Empty) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        Ok(Some(match message {
            GuardMessage::Started { id, pid } => {
                let pidfd = descriptors.pop().ok_or_else(|| lost(Loss::Garbage))?;
                Answer::Started { id, pid, pidfd }
            }
            GuardMessage::ExecFailed { id, failure } => {
                let at_exec = failure.command.starts_with("exec ");
                let error = Error::new(failure.error).during(failure.command).at_exec(at_exec);
                match failure.error {
                    protocol::Error::Failed { step: Step::ReportExit, .. } => {
                        Answer::Ended(id, Box::new(Err(error)))
                    }
                    _ => Answer::Refused { id, error },
                }
            }
            GuardMessage::Exited { id, report } => Answer::Ended(id, Box::new(Ok(report))),
            GuardMessage::Obeyed { id } => Answer::Obeyed(id),
            GuardMessage::Opened { id, errnos } => {
                Answer::Opened { id, errnos, files: descriptors }
            }
            GuardMessage::Pong => {
                self.pings = self.pings.saturating_sub(1);
                Answer::Pong
            }
            // The last steps of the launch.
            GuardMessage::Step(step) => {
                self.trace.push(step.into());
                return Ok(None);
            }
            // Its last words.
            GuardMessage::Failed(failure) => {
                return Err(Error::new(failure.error).during(failure.command));
            }
            GuardMessage::Done
            | GuardMessage::Kept { .. }
            | GuardMessage::Mounted { .. }
            | GuardMessage::Entrance { .. } => {
                return Err(lost(Loss::Garbage));
            }
        }))
    }
}

pub(crate) fn strings(bytes: &[u8]) -> Result<Strings<'_>, Error> {
    Strings::new(bytes).ok_or_else(|| Error::invalid(Rule::ControlByte, Item::Program, bytes))
}

pub(crate) fn lost(how: Loss) -> Error {
    Error::new(protocol::Error::Lost { step: Step::RequestExec, how })
}

/// What the guard could not do.
pub(crate) fn refused(errno: Errno, command: &str) -> Error {
    Error::new(protocol::Error::Failed { step: Step::StartProgram, errno }).during(command)
}

fn failed(errno: Errno) -> Error {
    Error::new(protocol::Error::Failed { step: Step::RequestExec, errno })
}

#[cfg(test)]
mod tests {
    use protocol::socket::send;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    /// An open rocker, and its guard's end of the connection.
    fn open() -> (OpenRocker, OwnedFd) {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(family, SocketType::SEQPACKET, flags, None).unwrap();
        let started = Started { name: Name::from_random(1), guard_pid: 70, app_pid: 0 };
        let no_pidfd = std::fs::File::open("/dev/null").unwrap().into();
        (OpenRocker::new(started, ours, no_pidfd, vec![]), theirs)
    }

    #[test]
    fn ping_is_not_answered_by_the_answer_to_an_earlier_one() {
        let (mut rocker, guard) = open();
        let pong = Message::Guard(GuardMessage::Pong);
        // That of the launch; then the guard is gone.
        send(&guard, &pong, &[], &mut Buffer::default()).unwrap();
        rustix::net::shutdown(&guard, rustix::net::Shutdown::Write).unwrap();
        assert_eq!(rocker.ping().unwrap_err().kind(), lost(Loss::Died).kind());
        let (mut rocker, guard) = open();
        for _ in 0..2 {
            send(&guard, &pong, &[], &mut Buffer::default()).unwrap();
        }
        rocker.ping().unwrap();
    }
}
