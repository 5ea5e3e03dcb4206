//! Every message, by sender. All enums grow at the end only: the number of a variant is its
//! place, and `vectors.txt` holds the bytes.
//!
//! ```text
//! client -> master   Launch              root.1      then from the same connection's other end:
//! guard  -> client   Entrance + 1.. fds  root.5      or Failed, from master or guard
//! client -> guard    AppStarted + pidfd  enter.4     too late: Failed, from the guard
//! client -> guard    Exec + 0..16 fds    exec.0      instead, and as often as it likes: then
//!                                                    Started or ExecFailed, and Exited
//! client -> guard    Adopt               exec.0      the same answers, of a program that runs
//! client -> guard    Signal, Ping, Go
//! client -> guard    Conf, Reset                         then Obeyed or ExecFailed
//! client -> guard    Open, Delete, Symlink               then Opened + 0..16 fds, Obeyed, or
//!                                                    ExecFailed
//!
//! master -> guard    Keep + 0..5 fds     root.3      on a socket pair of their own; if the
//! overlays                                                    are for the next launch, too
//! master -> guard    HandOver + 2.. fds  root.3
//! guard  -> master   Mounted + mount     prepare.3   if the package is for others too
//! guard  -> master   Done                prepare.7   or Kept + 2..5 fds
//! master -> guard    GoOn                prepare.9   or Failed
//! guard  -> master   its end closes      enter.4     or at its own end
//!
//! client -> master   List, Kill          no launch: asked and answered
//! master -> client   Rocker.., End; Gone
//!
//! client -> master   Attach              no launch: the guard has the connection then, and takes
//! master -> guard    Attach + 1 fd                   orders from it, too
//! guard  -> client   Entrance + pidfd                or Failed
//! ```

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::conf::Conf;
use crate::error::{Errno, Error, Rule};
use crate::files::{FilePath, OpenFiles};
use crate::limits::{CGROUPS_MAX, DESCRIPTORS_MAX, NAME_LEN};
use crate::program::{Exec, ExitReport, Strings};
use crate::request::{Path, Request};
use crate::step::{Actor, Step};

/// A rocker's name, and its guard's `comm`: 15 lower-case hexadecimal digits, drawn at random
/// and unique among living rockers. (001: "randomly generated, guaranteed unique by the server")
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Name([u8; NAME_LEN]);

impl Name {
    /// Checks the form.
    pub fn new(text: &[u8]) -> Result<Self, Rule> {
        let is_digit = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        match <[u8; NAME_LEN]>::try_from(text) {
            Ok(digits) if digits.iter().all(is_digit) => Ok(Self(digits)),
            _ => Err(Rule::NoSuchRocker),
        }
    }

    /// The name that these 60 random bits spell.
    pub fn from_random(mut bits: u64) -> Self {
        Self(core::array::from_fn(|_| {
            let digit = b"0123456789abcdef"[usize::from((bits & 0xf).to_le_bytes()[0])];
            bits >>= 4;
            digit
        }))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits only, by construction.
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = <[u8; NAME_LEN]>::deserialize(deserializer)?;
        Self::new(&digits).map_err(|_| serde::de::Error::custom("not a rocker's name"))
    }
}

/// An error on its way to the caller, with the command that would have failed the same way.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Failure<'a> {
    /// Whose fault, where, why.
    pub error: Error,
    /// The equivalent shell command with its paths, or more words of the kernel; may be empty.
    /// For people: at most [`crate::limits::COMMAND_MAX`] bytes.
    pub command: &'a str,
}

/// One step that an actor took, for `--trace` and `--report`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct TraceStep<'a> {
    /// Who.
    pub actor: Actor,
    /// Which arrow.
    pub step: Step,
    /// When it began: `CLOCK_MONOTONIC`, nanoseconds.
    pub began_ns: u64,
    /// How long it took, nanoseconds.
    pub took_ns: u64,
    /// What went wrong; none if nothing did.
    pub errno: Option<Errno>,
    /// The equivalent shell command.
    pub command: &'a str,
}

/// A living rocker, as `rocker ps` shows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RockerInfo<'a> {
    /// Its name.
    pub name: Name,
    /// The caller's number for the App.
    pub app_id: u32,
    /// The App's user.
    pub uid: u32,
    /// The guard, as the master sees it.
    pub guard_pid: u32,
    /// Milliseconds since its guard was cloned.
    pub age_ms: u64,
    /// The package it was made from.
    #[serde(borrow)]
    pub package: Path<'a>,
}

/// A cgroup of a rocker's, and what can be read in it (`man 7 cgroups`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Of version 2, and not of a hierarchy of version 1.
    pub unified: bool,
    /// The controller `memory` is at work in it.
    pub memory: bool,
    /// `pids`
    pub pids: bool,
    /// `cpu`
    pub cpu: bool,
    /// `io`, or `blkio` in version 1.
    pub io: bool,
}

/// What a client says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ClientMessage<'a> {
    /// root.1. No descriptor.
    #[serde(borrow)]
    Launch(Request<'a>),
    /// enter.4: the App is there. One descriptor: its pidfd.
    AppStarted,
    /// Asks the master for all living rockers that the caller may see.
    List,
    /// root.10: asks the master to kill a guard, and to say when all is gone.
    Kill(Name),
    /// exec.0, to the guard. As many descriptors as it says.
    #[serde(borrow)]
    Exec(Exec<'a>),
    /// To the guard: a signal for one program, or for every process in the rocker.
    Signal {
        /// Which; none: all.
        id: Option<u32>,
        /// `man 7 signal`
        signal: u8,
    },
    /// To the guard: is it there?
    Ping,
    /// To the guard: open files.
    Open {
        /// The caller's number for this order.
        id: u32,
        /// Which, and how.
        #[serde(borrow)]
        files: OpenFiles<'a>,
    },
    /// To the guard: delete what is there.
    Delete {
        /// As above.
        id: u32,
        /// What.
        #[serde(borrow)]
        path: FilePath<'a>,
        /// A directory with all that is in it; else it must be empty.
        tree: bool,
    },
    /// To the guard: make a symbolic link.
    Symlink {
        /// As above.
        id: u32,
        /// Where it leads; nobody looks whether anything is there.
        #[serde(borrow)]
        target: FilePath<'a>,
        /// Where it is.
        path: FilePath<'a>,
    },
    /// Asks the master to pass this connection on to a living guard, which answers with an
    /// Entrance, or Failed; then it takes orders.
    Attach(Name),
    /// To the guard: what the rocker is to look like, once and before the first program.
    Conf {
        /// As above.
        id: u32,
        /// That.
        #[serde(borrow)]
        conf: Conf<'a>,
    },
    /// To the guard: end every program, and make the rocker what it was after Conf.
    Reset {
        /// As above.
        id: u32,
    },
    /// To the guard: a program that waits is to execute. Without an answer, if it can.
    Go {
        /// The caller's number for it.
        id: u32,
    },
    /// exec.0, to the guard: a program that is in control groups before it executes.
    ExecIn {
        /// So many of its descriptors, the last ones, are no program's: each is a group's
        /// `cgroup.procs`, open for writing.
        cgroups: u8,
        /// The program.
        #[serde(borrow)]
        exec: Exec<'a>,
    },
    /// To the guard: a program that its launcher has left is the sender's from now on, the oldest
    /// first. It goes on, as nobody's, when the sender's connection ends.
    Adopt {
        /// The caller's number for it.
        id: u32,
    },
}

/// What a guard gets for its package (root.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Package {
    /// The file, which it mounts for its own rocker.
    Own,
    /// The file; its mount is for later rockers too.
    First,
    /// A mount of it, that other rockers are made from.
    Shared {
        /// `/dev/loopN`
        loop_dev: u32,
    },
}

/// What the master says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum MasterMessage<'a> {
    /// root.3, to the guard. Descriptors: the caller's connection, the package, the data dir's
    /// `.rocker` where there is a data dir, two for each cgroup: `cgroup.procs` to write to,
    /// and the directory to read; and a mount for `/dev` where that is not the host's.
    HandOver {
        /// The name to take.
        name: Name,
        /// The guard's pid as the caller will see it; inside the rocker it is 1.
        guard_pid: u32,
        /// What the caller asked for, checked.
        #[serde(borrow)]
        request: Request<'a>,
        /// What the package's descriptor is.
        package: Package,
        /// The rocker's cgroups; none without limits.
        cgroups: Vec<Cgroup, CGROUPS_MAX>,
    },
    /// prepare.9, to the guard.
    GoOn,
    /// To client or guard: the launch has failed.
    #[serde(borrow)]
    Failed(Failure<'a>),
    /// To the client, or to the guard to pass on: a step of the master's.
    #[serde(borrow)]
    Step(TraceStep<'a>),
    /// Answer to List, one for each.
    #[serde(borrow)]
    Rocker(RockerInfo<'a>),
    /// Answer to List, at the end.
    End,
    /// Answer to Kill: guard, processes and mounts of the rocker are gone (root.15 is done), and
    /// its loop device with them, unless the package is shared: it stays mounted for others, and
    /// for as long after the last of them as the master is configured to.
    Gone,
    /// To a living guard: somebody whose orders it may take. One descriptor: a socket, from which
    /// the same comes with the connection.
    Attach,
    /// root.3, to the guard, before HandOver: its overlays are to be kept for the next launch of
    /// the data dir ([`GuardMessage::Kept`]). If an earlier launch has left some, they come
    /// along, and are the guard's from now on. Descriptors: these, and the locked `.rocker`.
    Keep {
        /// What the earlier guard has written down of them, for guards alone to read; empty: they
        /// are to be closed, for the host has changed its mounts since.
        seal: &'a [u8],
        /// How many there are.
        layers: u8,
        /// What lay below that over the root mount as the directories that are attached from it
        /// were looked up ([`mark`](crate::mark)); empty: they remember no names.
        marks: &'a [u8],
    },
}

/// What a guard says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum GuardMessage<'a> {
    /// prepare.7, to the master. No descriptor.
    Done,
    /// root.5 = enter.0, to the client, and the answer to Attach. Descriptors: the guard's pidfd,
    /// which is the entrance; `cgroup.procs` of each of the rocker's cgroups, which whoever enters
    /// writes itself to; and, where Landlock is asked for, the ruleset that it puts in force for
    /// itself. Whoever gives orders, and enters nothing, gets no ruleset, and who was attached the
    /// pidfd alone.
    Entrance {
        /// The guard's name.
        name: Name,
        /// The guard's pid as the client sees it.
        guard_pid: u32,
        /// What the App gets as its filter, an array of `struct sock_filter`; empty: none, or the
        /// one that its caller has made.
        filter: &'a [u8],
        /// How many descriptors come with the pidfd.
        more: u8,
    },
    /// To the client: the launch has failed.
    #[serde(borrow)]
    Failed(Failure<'a>),
    /// To the client: a step of the guard's.
    #[serde(borrow)]
    Step(TraceStep<'a>),
    /// exec.2: the program runs. One descriptor: its pidfd.
    Started {
        /// The caller's number for it.
        id: u32,
        /// Its pid inside.
        pid: u32,
    },
    /// exec.2: it does not, or there is none to signal, or to let go; or another order could not
    /// be carried out. With the step exec.3 it is a program's end: it was let go and could not
    /// execute.
    ExecFailed {
        /// The caller's number for it.
        id: u32,
        /// Why.
        #[serde(borrow)]
        failure: Failure<'a>,
    },
    /// exec.3: a program has ended.
    Exited {
        /// The caller's number for it.
        id: u32,
        /// How.
        report: ExitReport,
    },
    /// The guard is there.
    Pong,
    /// An order has been carried out.
    Obeyed {
        /// The caller's number for it.
        id: u32,
    },
    /// The answer to Open. One descriptor for each file that was opened, in their order.
    Opened {
        /// The caller's number for the order.
        id: u32,
        /// For each file the kernel's answer; 0: it was opened.
        errnos: Vec<Errno, DESCRIPTORS_MAX>,
    },
    /// prepare.3, to the master: the package is mounted, for others too. One descriptor: a mount
    /// of it, attached nowhere.
    Mounted {
        /// `/dev/loopN`
        loop_dev: u32,
    },
    /// prepare.7 as with Done, to the master that has asked for the overlays. Descriptors: these,
    /// attached nowhere, and the locked `.rocker`: whoever has one has the other.
    Kept {
        /// What they are, for guards alone to read.
        seal: &'a [u8],
        /// How many there are.
        layers: u8,
        /// Which of them is that over the root mount; 0 also if none is.
        root: u8,
        /// The top directories that are attached from it; empty: none.
        top_dirs: Strings<'a>,
    },
}

/// Any message: the sender is the first number of the encoding.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// From a client.
    #[serde(borrow)]
    Client(ClientMessage<'a>),
    /// From the master.
    #[serde(borrow)]
    Master(MasterMessage<'a>),
    /// From a guard.
    #[serde(borrow)]
    Guard(GuardMessage<'a>),
}

impl Message<'_> {
    /// How many descriptors come with it; a message with any other number is garbage.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Client(ClientMessage::AppStarted)
            | Self::Master(MasterMessage::Attach)
            | Self::Guard(GuardMessage::Started { .. } | GuardMessage::Mounted { .. }) => 1,
            Self::Master(MasterMessage::Keep { layers: 0, .. }) => 0,
            Self::Master(MasterMessage::Keep { layers, .. })
            | Self::Guard(GuardMessage::Kept { layers, .. }) => 1 + usize::from(*layers),
            Self::Guard(GuardMessage::Entrance { more, .. }) => 1 + usize::from(*more),
            Self::Client(ClientMessage::Exec(exec) | ClientMessage::ExecIn { exec, .. }) => {
                usize::from(exec.descriptors)
            }
            Self::Guard(GuardMessage::Opened { errnos, .. }) => {
                errnos.iter().filter(|errno| errno.0 == 0).count()
            }
            Self::Master(MasterMessage::HandOver { request, cgroups, .. }) => {
                let own_dev = request.options.dev.is_own();
                let some = usize::from(request.data_dir.is_some()) + usize::from(own_dev);
                2 + some + 2 * cgroups.len()
            }
            Self::Client(_) | Self::Master(_) | Self::Guard(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fifteen_hexadecimal_digits() {
        assert!(Name::new(b"0123456789abcde").is_ok());
        for text in [b"0123456789abcdeF".as_slice(), b"0123456789abcd", b"0123456789ABCDE", b""] {
            assert_eq!(Name::new(text), Err(Rule::NoSuchRocker));
        }
        assert_eq!(Name::from_random(0).as_str(), "000000000000000");
        assert_eq!(Name::from_random(u64::MAX).as_str(), "fffffffffffffff");
        assert_eq!(Name::from_random(0x21).as_str(), "120000000000000");
    }
}
