//! What can be asked of the master beside a launch: who lives, and root.10 by name.

use core::time::Duration;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::message::{ClientMessage, GuardMessage, MasterMessage, Message};
use protocol::socket::{Buffer, Received, receive_before, send};
use protocol::{Errno, Failure, Item, Loss, Name, RockerInfo, Step};

use crate::action::Outcome;
use crate::error::{ASK_MASTER, Error, printable};
use crate::linux::{connect_to, deadline_ns};
use crate::machine::Started;

/// A living rocker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RockerEntry {
    /// Its name.
    pub name: Name,
    /// The caller's number for the App.
    pub app_id: u32,
    /// The App's user.
    pub uid: u32,
    /// The guard's pid.
    pub guard_pid: u32,
    /// How long ago its guard was made.
    pub age: Duration,
    /// The package it was made from.
    pub package: PathBuf,
}

impl From<RockerInfo<'_>> for RockerEntry {
    fn from(info: RockerInfo<'_>) -> Self {
        Self {
            name: info.name,
            app_id: info.app_id,
            uid: info.uid,
            guard_pid: info.guard_pid,
            age: Duration::from_millis(info.age_ms),
            package: std::ffi::OsStr::from_bytes(info.package.as_bytes()).into(),
        }
    }
}

/// All living rockers that the master at `socket` shows to this user, the oldest first.
///
/// # Errors
///
/// That the master is not there, or does not answer within `timeout`.
pub fn list(socket: impl AsRef<Path>, timeout: Duration) -> Result<Vec<RockerEntry>, Error> {
    let mut question =
        Question::ask(socket.as_ref(), Step::RequestRocker, ClientMessage::List, timeout)?;
    let mut entries = Vec::new();
    loop {
        match question.answer()? {
            Answer::Rocker(entry) => entries.push(entry),
            Answer::End => {
                entries.sort_by_key(|entry: &RockerEntry| core::cmp::Reverse(entry.age));
                return Ok(entries);
            }
            Answer::Gone | Answer::Entrance(..) => return Err(question.lost(Loss::Garbage)),
        }
    }
}

/// root.10: has the master kill the guard of this name, and returns when all of its rocker is
/// gone.
///
/// # Errors
///
/// That no living rocker has this name; that the master is not there; that the rocker is not
/// gone within `timeout`, as when the App's parent does not wait for the App.
pub fn kill_by_name(socket: impl AsRef<Path>, name: &str, timeout: Duration) -> Result<(), Error> {
    let wanted = Name::new(name.as_bytes())
        .map_err(|rule| Error::invalid(rule, Item::Name, name.as_bytes()))?;
    let message = ClientMessage::Kill(wanted);
    let mut question = Question::ask(socket.as_ref(), Step::KillGuard, message, timeout)?;
    match question.answer()? {
        Answer::Gone => Ok(()),
        Answer::Rocker(_) | Answer::End | Answer::Entrance(..) => Err(question.lost(Loss::Garbage)),
    }
}

/// Has the master pass a connection on to the guard of this name, which takes orders from it
/// then: that connection, and the guard's pidfd.
pub(crate) fn attach(
    socket: &Path,
    name: &str,
    timeout: Duration,
) -> Result<(Started, OwnedFd, OwnedFd), Error> {
    let wanted = Name::new(name.as_bytes())
        .map_err(|rule| Error::invalid(rule, Item::Name, name.as_bytes()))?;
    let message = ClientMessage::Attach(wanted);
    let mut question = Question::ask(socket, Step::HandOver, message, timeout)?;
    match question.answer()? {
        Answer::Entrance(started, guard) => Ok((started, question.connection, guard)),
        Answer::Rocker(_) | Answer::End | Answer::Gone => Err(question.lost(Loss::Garbage)),
    }
}

enum Answer {
    Entrance(Started, OwnedFd),
    Rocker(RockerEntry),
    End,
    Gone,
}

/// One connection on which one thing is asked.
struct Question {
    connection: OwnedFd,
    buffer: Buffer,
    deadline_ns: u64,
    /// What an error is said to have happened at.
    step: Step,
    subject: String,
}

impl Question {
    fn ask(
        socket: &Path,
        step: Step,
        message: ClientMessage<'_>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let deadline_ns = deadline_ns(timeout);
        let subject = match &message {
            ClientMessage::Kill(name) | ClientMessage::Attach(name) => name.to_string(),
            _ => String::new(),
        };
        let connection = connect_to(socket, deadline_ns).map_err(|outcome| {
            // However it is not reached, that is at root.1.
            let step = Step::RequestRocker;
            let kind = match outcome {
                Outcome::Failed(errno) => protocol::Error::Failed { step, errno },
                _ => protocol::Error::Lost { step, how: Loss::Silent },
            };
            let socket = printable(socket.as_os_str().as_bytes());
            Error::new(kind).during(&format!("connect {socket}")).ordered(ASK_MASTER)
        })?;
        let mut question =
            Self { connection, buffer: Buffer::default(), deadline_ns, step, subject };
        let message = Message::Client(message);
        match send(&question.connection, &message, &[], &mut question.buffer) {
            // If it has closed, the answer says why.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(question),
            Err(errno) => Err(question.failed(errno)),
        }
    }

    fn answer(&mut self) -> Result<Answer, Error> {
        let lost = match receive_before(&self.connection, &mut self.buffer, self.deadline_ns) {
            Ok(Received::Message(Message::Master(message), _)) => match message {
                MasterMessage::Rocker(info) => return Ok(Answer::Rocker(info.into())),
                MasterMessage::End => return Ok(Answer::End),
                MasterMessage::Gone => return Ok(Answer::Gone),
                MasterMessage::Failed(failure) => {
                    return Err(refused(&failure, &self.subject));
                }
                _ => Ok(Loss::Garbage),
            },
            Ok(Received::Message(Message::Guard(message), mut fds)) => match message {
                GuardMessage::Entrance { name, guard_pid, .. } => match fds.pop() {
                    Some(guard) => {
                        return Ok(Answer::Entrance(
                            Started { name, guard_pid, app_pid: 0 },
                            guard,
                        ));
                    }
                    None => Ok(Loss::Garbage),
                },
                GuardMessage::Failed(failure) => {
                    return Err(refused(&failure, &self.subject));
                }
                _ => Ok(Loss::Garbage),
            },
            Ok(Received::Message(..)) => Ok(Loss::Garbage),
            Ok(Received::Lost(how)) => Ok(how),
            Ok(Received::Empty) => Ok(Loss::Silent),
            Err(errno) => Err(errno),
        };
        Err(lost.map_or_else(|errno| self.failed(errno), |how| self.lost(how)))
    }

    fn lost(&self, how: Loss) -> Error {
        Error::new(protocol::Error::Lost { step: self.step, how }).ordered(ASK_MASTER)
    }

    fn failed(&self, errno: Errno) -> Error {
        Error::new(protocol::Error::Failed { step: self.step, errno }).ordered(ASK_MASTER)
    }
}

fn refused(failure: &Failure<'_>, subject: &str) -> Error {
    let error = Error::new(failure.error).during(failure.command).ordered(ASK_MASTER);
    error.about(subject.to_owned())
}

#[cfg(test)]
mod tests {
    use protocol::Rule;
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// Asks a master that says these things and closes.
    fn asked<T>(answers: &'static [MasterMessage<'_>], ask: impl FnOnce(&Path) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let listener = socket_with(family, SocketType::SEQPACKET, flags, None).unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        let master = std::thread::spawn(move || {
            let caller = accept(&listener).unwrap();
            let mut buffer = Buffer::default();
            let question = receive_before(&caller, &mut buffer, deadline_ns(TIMEOUT));
            assert!(matches!(question, Ok(Received::Message(..))));
            drop(question);
            for answer in answers {
                send(&caller, &Message::Master(answer.clone()), &[], &mut buffer).unwrap();
            }
        });
        let result = ask(&path);
        master.join().unwrap();
        result
    }

    #[test]
    fn a_list_ends_with_its_end() {
        assert_eq!(asked(&[MasterMessage::End], |path| list(path, TIMEOUT)), Ok(vec![]));
        let cut = asked(&[], |path| list(path, TIMEOUT)).unwrap_err();
        let died = protocol::Error::Lost { step: Step::RequestRocker, how: Loss::Died };
        assert_eq!(cut.kind(), died);
    }

    #[test]
    fn a_kill_is_done_when_all_is_gone() {
        let kill = |path: &Path| kill_by_name(path, "0123456789abcde", TIMEOUT);
        assert_eq!(asked(&[MasterMessage::Gone], kill), Ok(()));
        let error = asked(&[MasterMessage::End], kill).unwrap_err();
        assert_eq!(
            error.kind(),
            protocol::Error::Lost { step: Step::KillGuard, how: Loss::Garbage }
        );
    }

    #[test]
    fn what_the_master_could_not_do_is_no_rocker() {
        const TIRED: Failure<'_> = Failure {
            error: protocol::Error::Failed { step: Step::RequestRocker, errno: Errno::NFILE },
            command: "",
        };
        let error = asked(&[MasterMessage::Failed(TIRED)], |path| list(path, TIMEOUT)).unwrap_err();
        assert_eq!(error.to_string(), "cannot ask the master: Too many open files in system");
    }

    #[test]
    fn an_unknown_rocker_is_named() {
        const NOBODY: Failure<'_> = Failure {
            error: protocol::Error::Invalid { rule: Rule::NoSuchRocker, item: Item::Name },
            command: "",
        };
        let kill = |path: &Path| kill_by_name(path, "0123456789abcde", TIMEOUT);
        let error = asked(&[MasterMessage::Failed(NOBODY)], kill).unwrap_err();
        assert_eq!(error.to_string(), "rocker 0123456789abcde: no living rocker has this name");
        let error = kill_by_name("/nowhere", "no name\n", TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "rocker no name\\n: no living rocker has this name");
    }
}
