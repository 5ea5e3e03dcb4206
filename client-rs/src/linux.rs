//! Does what the client's machine asks for: the socket, the descriptors, the clock.

use core::task::Poll;
use core::time::Duration;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use protocol::limits::CGROUPS_MAX;
use protocol::message::{ClientMessage, GuardMessage, MasterMessage, Message};
use protocol::socket::{Buffer, Received, errno, now_ns, receive, send, wait_readable};
use protocol::{Actor, Driver, Errno, Error, Item, Loss, Rule, Seccomp, Step};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
    socket_with,
};

use crate::action::{Action, HelperAction, Outcome, Scene, Shell};
use crate::enter::{Answer, At, Entry, Running, end, reap, start};
use crate::machine::Client;
use crate::trace::TraceEntry;

/// Steps of one launch. A host with thousands of mounts below overlaid directories has as many.
const STEPS_MAX: usize = 65_536;

/// How the master is reached.
#[derive(Debug)]
pub(crate) enum Way<'a> {
    /// By the path of its socket.
    Socket(&'a Path),
    /// By a connection that is there already.
    Connection(OwnedFd),
}

/// One launch's descriptors and clock. Dropped, it closes them all, and the guard takes that
/// for the end of a launch that did not get to enter.4.
pub(crate) struct ClientDriver<'s, 'a> {
    scene: Scene<'s>,
    deadline_ns: u64,
    buffer: Buffer,
    way: Option<Way<'s>>,
    entry: Option<Entry<'a>>,
    connection: Option<OwnedFd>,
    helper: Option<Running<'a>>,
    guard: Option<OwnedFd>,
    /// `cgroup.procs` of the rocker's cgroups.
    cgroups: Vec<OwnedFd>,
    app: Option<OwnedFd>,
    story: Story,
}

/// What is to be told of a launch beside its result.
#[derive(Debug, Default)]
pub(crate) struct Story {
    /// The command that failed, in the words of who failed.
    pub(crate) command: String,
    /// Whether that was the execution of the program.
    pub(crate) at_exec: bool,
    /// Every actor's steps, if they were asked for.
    pub(crate) trace: Vec<TraceEntry>,
}

/// The pidfds of a launch that has succeeded.
#[derive(Debug)]
pub(crate) struct Pidfds {
    pub(crate) app: OwnedFd,
    pub(crate) guard: OwnedFd,
}

impl Driver<Client> for ClientDriver<'_, '_> {
    fn perform(&mut self, step: Step, action: Action) -> Poll<Outcome> {
        let began_ns = now_ns();
        let outcome = match action {
            Action::Connect => self.connect(),
            Action::SendRequest => self.send_request(),
            Action::AwaitEntrance => self.await_entrance(),
            Action::ForkHelper => self.fork_helper(),
            Action::AwaitApp => self.await_app(),
            Action::ReportApp => self.report_app(),
            Action::Greet => self.greet(),
        };
        if self.scene.request.trace {
            let errno = match outcome {
                Outcome::Failed(errno) => Some(errno),
                _ => None,
            };
            self.story.trace.push(TraceEntry {
                actor: Actor::Client,
                step,
                began_ns,
                took_ns: now_ns().saturating_sub(began_ns),
                errno,
                command: Shell(action, self.scene).to_string(),
            });
        }
        Poll::Ready(outcome)
    }
}

impl<'s, 'a> ClientDriver<'s, 'a> {
    pub(crate) fn new(way: Way<'s>, scene: Scene<'s>, entry: Option<Entry<'a>>) -> Self {
        let timeout = Duration::from_millis(u64::from(scene.request.timeout_ms));
        Self {
            scene,
            deadline_ns: deadline_ns(timeout),
            buffer: Buffer::default(),
            way: Some(way),
            entry,
            connection: None,
            helper: None,
            guard: None,
            cgroups: Vec::new(),
            app: None,
            story: Story::default(),
        }
    }

    /// Both pidfds, if the launch got as far; an App that did not get past enter.4 ends here.
    pub(crate) fn finish(mut self, succeeded: bool) -> (Option<Pidfds>, Story) {
        match (self.app.take(), self.guard.take()) {
            (Some(app), Some(guard)) if succeeded => (Some(Pidfds { app, guard }), self.story),
            (app, _) => {
                if let Some(app) = app {
                    end(&app);
                    reap(&app);
                }
                (None, self.story)
            }
        }
    }

    /// The connection and the guard's pidfd of a rocker that takes orders.
    pub(crate) fn finish_open(mut self) -> (Option<(OwnedFd, OwnedFd)>, Story) {
        (self.connection.take().zip(self.guard.take()), self.story)
    }

    /// The guard answers in its own time.
    fn greet(&mut self) -> Outcome {
        let message = Message::Client(ClientMessage::Ping);
        match send(connected(&self.connection), &message, &[], &mut self.buffer) {
            Ok(()) => Outcome::Done,
            Err(Errno::PIPE | Errno::CONNRESET) => Outcome::Lost(Loss::Died),
            Err(errno) => Outcome::Failed(errno),
        }
    }

    fn connect(&mut self) -> Outcome {
        let connection = match self.way.take() {
            Some(Way::Connection(connection)) => Ok(connection),
            Some(Way::Socket(path)) => connect_to(path, self.deadline_ns),
            None => unreachable!("there is one way, and it is tried once"),
        };
        match connection {
            Ok(connection) => {
                self.connection = Some(connection);
                Outcome::Done
            }
            Err(outcome) => {
                self.story.command = Shell(Action::Connect, self.scene).to_string();
                outcome
            }
        }
    }

    fn send_request(&mut self) -> Outcome {
        let request = ClientMessage::Launch(self.scene.request.clone());
        let sent =
            send(connected(&self.connection), &Message::Client(request), &[], &mut self.buffer);
        match sent {
            Ok(()) => Outcome::Done,
            Err(Errno::MSGSIZE) => {
                Outcome::Refused(Error::Invalid { rule: Rule::TooLong, item: Item::Request })
            }
            // It has closed already, but may have said why: that is still there to be read.
            Err(Errno::PIPE | Errno::CONNRESET) => Outcome::Done,
            Err(errno) => Outcome::Failed(errno),
        }
    }

    fn await_entrance(&mut self) -> Outcome {
        loop {
            match wait_readable(connected(&self.connection), self.deadline_ns) {
                Ok(true) => {}
                Ok(false) => return Outcome::Lost(Loss::Silent),
                Err(errno) => return Outcome::Failed(errno),
            }
            if let Some(outcome) = self.hear() {
                return outcome;
            }
        }
    }

    /// Reads what is there: steps into the trace, until one message decides.
    fn hear(&mut self) -> Option<Outcome> {
        let has_ruleset = self.scene.request.options.landlock && self.entry.is_some();
        let may_come = usize::from(has_ruleset)..=usize::from(has_ruleset) + CGROUPS_MAX;
        loop {
            let received = match receive(connected(&self.connection), &mut self.buffer) {
                Ok(received) => received,
                Err(errno) => return Some(Outcome::Failed(errno)),
            };
            let (message, descriptors) = match received {
                Received::Message(message, descriptors) => (message, descriptors),
                Received::Lost(how) => return Some(Outcome::Lost(how)),
                Received::Empty => return None,
            };
            return Some(match message {
                Message::Master(MasterMessage::Step(step))
                | Message::Guard(GuardMessage::Step(step))
                    if self.story.trace.len() < STEPS_MAX =>
                {
                    self.story.trace.push(step.into());
                    continue;
                }
                Message::Master(MasterMessage::Failed(failure))
                | Message::Guard(GuardMessage::Failed(failure)) => {
                    failure.command.clone_into(&mut self.story.command);
                    Outcome::Refused(failure.error)
                }
                Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more })
                    if self.guard.is_none() && may_come.contains(&usize::from(more)) =>
                {
                    let mut descriptors = descriptors;
                    if let Some(entry) = &mut self.entry {
                        entry.ruleset = has_ruleset.then(|| descriptors.pop()).flatten();
                        entry.filter = match self.scene.request.options.seccomp {
                            Seccomp::Filter(own) => own,
                            _ => filter,
                        }
                        .to_vec();
                    }
                    self.scene.guard_pid = guard_pid;
                    let mut descriptors = descriptors.into_iter();
                    self.guard = descriptors.next();
                    self.cgroups = descriptors.collect();
                    self.scene.limited = !self.cgroups.is_empty();
                    Outcome::Entrance { name, guard_pid }
                }
                _ => Outcome::Lost(Loss::Garbage),
            });
        }
    }

    fn fork_helper(&mut self) -> Outcome {
        let (Some(entry), Some(guard)) = (self.entry.take(), self.guard.take()) else {
            unreachable!("the entrance came with the guard's pidfd, and one helper is made");
        };
        match start(entry, guard, core::mem::take(&mut self.cgroups)) {
            Ok(running) => {
                self.helper = Some(running);
                Outcome::Done
            }
            Err(errno) => Outcome::Failed(errno),
        }
    }

    fn await_app(&mut self) -> Outcome {
        let Some(running) = self.helper.take() else {
            unreachable!("the helper was made at enter.1");
        };
        let Answer { outcome, app, guard, last, at, spans } = running.finish(self.deadline_ns);
        (self.app, self.guard, self.story.at_exec) = (app, guard, at == At::Execute);
        let failed = match outcome {
            Outcome::Refused(Error::Failed { errno, .. }) => Some(errno),
            _ => None,
        };
        if failed.is_some() {
            self.story.command = match at {
                At::Filter => "seccomp # the rocker's filter".to_owned(),
                At::Descriptors | At::Execute => Shell(last, self.scene).to_string(),
            };
        }
        for (action, span) in HelperAction::ALL.into_iter().zip(spans) {
            if span.began_ns != 0 {
                self.story.trace.push(TraceEntry {
                    actor: Actor::Helper,
                    step: action.step(),
                    began_ns: span.began_ns,
                    took_ns: span.took_ns,
                    errno: failed.filter(|_| action == last),
                    command: Shell(action, self.scene).to_string(),
                });
            }
        }
        outcome
    }

    fn report_app(&mut self) -> Outcome {
        // The guard may still be telling its steps. What is unread when we close would reset
        // the connection, and the guard would hear of that before it hears of the App. So first
        // nothing more can come, and then everything that came is read.
        let connection = connected(&self.connection);
        if let Err(error) = shutdown(connection, Shutdown::Read) {
            return Outcome::Failed(errno(error));
        }
        match self.hear() {
            // The end, or what a socket says that has nothing more.
            Some(Outcome::Lost(Loss::Died)) | None => {}
            Some(outcome) => return outcome,
        }
        let Some(app) = &self.app else {
            unreachable!("the App's pidfd came with its pid");
        };
        let message = Message::Client(ClientMessage::AppStarted);
        let connection = connected(&self.connection);
        match send(connection, &message, &[app.as_fd()], &mut self.buffer) {
            Ok(()) => Outcome::Done,
            Err(Errno::PIPE | Errno::CONNRESET) => Outcome::Lost(Loss::Died),
            Err(errno) => Outcome::Failed(errno),
        }
    }
}

fn connected(connection: &Option<OwnedFd>) -> &OwnedFd {
    match connection {
        Some(connection) => connection,
        None => unreachable!("connected at root.1"),
    }
}

/// `CLOCK_MONOTONIC`, after `timeout` from now.
pub(crate) fn deadline_ns(timeout: Duration) -> u64 {
    now_ns().saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
}

/// Connects to the master. Where its queue is full this waits, until the deadline.
pub(crate) fn connect_to(path: &Path, deadline_ns: u64) -> Result<OwnedFd, Outcome> {
    let failed = |error| Outcome::Failed(errno(error));
    if path.as_os_str().is_empty() {
        // To the kernel that is a socket without a name.
        return Err(Outcome::Failed(Errno::INVAL));
    }
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::SEQPACKET, flags, None).map_err(failed)?;
    loop {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
        if left.is_zero() {
            return Err(Outcome::Lost(Loss::Silent));
        }
        // `connect` to a full queue cannot be polled for; it heeds the timeout for sending.
        set_socket_timeout(&socket, Timeout::Send, Some(left)).map_err(failed)?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(Outcome::Lost(Loss::Silent)),
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Instant;

    use protocol::message::Failure;
    use protocol::{Name, TraceStep};
    use rustix::net::{bind, listen, socketpair};

    use super::*;
    use crate::{Launch, Program};

    /// Launches, with a peer that has read the request and then does as told.
    fn launch(trace: bool, answer: impl FnOnce(OwnedFd) + Send + 'static) -> crate::Error {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(family, SocketType::SEQPACKET, flags, None).unwrap();
        let peer = std::thread::spawn(move || {
            let mut buffer = Buffer::default();
            assert_eq!(wait_readable(&theirs, deadline_ns(Duration::from_secs(5))), Ok(true));
            let request = receive(&theirs, &mut buffer).unwrap();
            assert!(
                matches!(&request, Received::Message(Message::Client(ClientMessage::Launch(r)), _)
                    if r.package.as_bytes() == b"/x.sqfs"),
                "{request:?}"
            );
            answer(theirs);
        });
        let timeout = Duration::from_millis(200);
        let launch = Launch::new("/x.sqfs").uid(1).gid(1).timeout(timeout).trace(trace);
        let error = launch.spawn_over(ours, &Program::new("true")).unwrap_err();
        peer.join().unwrap();
        error
    }

    fn say(peer: &OwnedFd, message: &Message<'_>, fds: &[std::os::fd::BorrowedFd<'_>]) {
        send(peer, message, fds, &mut Buffer::default()).unwrap();
    }

    fn lost(how: Loss) -> Error {
        Error::Lost { step: Step::AwaitEntrance, how }
    }

    #[test]
    fn await_entrance_refused_tells_what_was_said() {
        let wanted = Error::Failed { step: Step::MountPackage, errno: Errno::IO };
        let error = launch(false, move |peer| {
            let failure = Failure { error: wanted, command: "mount /x.sqfs" };
            say(&peer, &Message::Master(MasterMessage::Failed(failure)), &[]);
        });
        assert_eq!(error.kind(), wanted);
        assert!(error.to_string().contains(": mount /x.sqfs: "), "{error}");
    }

    #[test]
    fn await_entrance_refused_names_the_path() {
        let error = launch(false, |peer| {
            let error = Error::Invalid { rule: Rule::NotSquashfs, item: Item::Package };
            let failure = Failure { error, command: "" };
            say(&peer, &Message::Master(MasterMessage::Failed(failure)), &[]);
        });
        assert!(error.to_string().starts_with("package /x.sqfs: it is not a"), "{error}");
    }

    #[test]
    fn await_entrance_closed_is_lost() {
        assert_eq!(launch(false, drop).kind(), lost(Loss::Died));
    }

    #[test]
    fn await_entrance_silent_is_lost_in_time() {
        let began = Instant::now();
        let error = launch(false, |peer| {
            let _ = wait_readable(&peer, deadline_ns(Duration::from_secs(5)));
        });
        assert_eq!(error.kind(), lost(Loss::Silent));
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn await_entrance_garbage_is_lost() {
        for garbage in [b"\xff\xff".as_slice(), b"\x01", b"\x01\x01\x05"] {
            let error = launch(false, move |peer| {
                rustix::io::write(&peer, garbage).unwrap();
            });
            let how = if garbage[0] == 1 { Loss::Garbage } else { Loss::Version };
            assert_eq!(error.kind(), lost(how), "{garbage:?}");
        }
    }

    /// Without root the helper fails at its first call, with root at its second; in both cases
    /// it has been made, has answered, and is gone.
    #[test]
    fn await_app_refused_tells_the_helpers_step() {
        let error = launch(true, |peer| {
            let step = TraceStep {
                actor: Actor::Guard,
                step: Step::SendEntrance,
                began_ns: 1,
                took_ns: 2,
                errno: None,
                command: "said",
            };
            let no_pidfd = File::open("/dev/null").unwrap();
            let (name, guard_pid) = (Name::from_random(1), 70);
            say(&peer, &Message::Guard(GuardMessage::Step(step)), &[]);
            let (filter, more) = ([].as_slice(), 0);
            let entrance = Message::Guard(GuardMessage::Entrance { name, guard_pid, filter, more });
            say(&peer, &entrance, &[no_pidfd.as_fd()]);
            let _ = wait_readable(&peer, deadline_ns(Duration::from_secs(5)));
        });
        assert_eq!(error.step(), Step::JoinNamespaces);
        let actors = error.trace().iter().map(|entry| entry.actor).collect::<Vec<_>>();
        assert_eq!(actors[..2], [Actor::Client; 2]);
        assert!(actors.contains(&Actor::Guard) && actors.contains(&Actor::Helper), "{actors:?}");
        let last = error.trace().iter().rfind(|entry| entry.actor == Actor::Helper).unwrap();
        assert_eq!((last.errno, last.command.as_str()), (error.errno(), error.command()));
        let helpers = rustix::process::waitpid(None, rustix::process::WaitOptions::NOHANG);
        assert_eq!(helpers.unwrap_err(), rustix::io::Errno::CHILD);
    }

    #[test]
    fn connect_to_a_full_queue_ends_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let listener = socket_with(family, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 0).unwrap();
        let connect = || connect_to(&path, deadline_ns(Duration::from_millis(100)));
        let queued = connect().unwrap();
        assert_eq!(connect().unwrap_err(), Outcome::Lost(Loss::Silent));
        drop((queued, listener));
        assert_eq!(connect().unwrap_err(), Outcome::Failed(Errno::CONNREFUSED));
    }
}
