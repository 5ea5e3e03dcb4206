//! The arrows of the README's diagrams: one table, and a test that compares it with the drawing.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Who draws an arrow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
pub enum Actor {
    /// The user's process manager.
    AppMaster,
    /// The library inside `AppMaster`.
    Client,
    /// The client's forked child, which enters the rocker.
    Helper,
    /// The root daemon.
    Master,
    /// PID 1 of one rocker.
    Guard,
    /// The program that was asked for.
    App,
    /// Linux.
    Kernel,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AppMaster => "appmaster",
            Self::Client => "client",
            Self::Helper => "helper",
            Self::Master => "master",
            Self::Guard => "guard",
            Self::App => "app",
            Self::Kernel => "kernel",
        })
    }
}

/// The five diagrams, in the order of the high digit of [`Step::code`].
const DIAGRAMS: [&str; 5] = ["root", "prepare", "overlay", "enter", "exec"];

macro_rules! steps {
    ($($name:ident = $code:literal, $actor:ident, $caption:literal, $purpose:literal;)*) => {
        /// One arrow. The high digit of its code is the diagram, the low one its number there.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Step {
            $(#[doc = $caption] $name = $code,)*
        }

        impl Step {
            /// Every arrow, in the order in which the diagrams draw them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Who draws this arrow.
            pub const fn actor(self) -> Actor {
                match self { $(Self::$name => Actor::$actor,)* }
            }

            /// The words on the arrow, as drawn.
            pub const fn caption(self) -> &'static str {
                match self { $(Self::$name => $caption,)* }
            }

            /// What the step is for, to follow the word "cannot".
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$name => $purpose,)* }
            }

            /// The step with this code.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

steps! {
    StartApp = 0x00, AppMaster, "start App", "start the App";
    RequestRocker = 0x01, Client, "request new rocker", "request a rocker";
    CreateGuard = 0x02, Master, "create new rocker-guard", "make the rocker";
    HandOver = 0x03, Master, "hand over request, package and connection", "hand over to the guard";
    Prepare = 0x04, Guard, "preparing, need CAP_SYS_ADMIN", "prepare the rocker";
    SendEntrance = 0x05, Guard, "send rocker-entrance", "send the entrance";
    StartInRocker = 0x06, Client, "start App in rocker", "start the App in its rocker";
    ReturnPids = 0x07, Client, "PID of guard and App", "return the pids";
    StopAll = 0x08, AppMaster, "stop all", "stop the App";
    ExitSelf = 0x09, Guard, "exit self", "wait for the end of the rocker";
    KillGuard = 0x0a, AppMaster, "kill", "kill the guard";
    GuardExited = 0x0b, Kernel, "send SIGCHLD", "notice the guard's end";
    InitExited = 0x0c, Kernel, "rocker's [PID 1] exited", "end the rocker";
    KillAll = 0x0d, Kernel, "broadcast SIGKILL", "kill what is left in the rocker";
    UmountOverlay = 0x0e, Kernel, "umount overlay", "unmount the overlays";
    FreeResidue = 0x0f, Kernel, "destroy useless loop device", "free what the rocker held";

    CloneGuard = 0x10, Master, "clone(MNT|PID)", "clone the guard";
    CreateLoop = 0x11, Guard, "create loop device", "find a free loop device";
    BindPackage = 0x12, Guard, "bind App.sqfs to loop", "bind the package to a loop device";
    MountPackage = 0x13, Guard, "mount loop to exec-path", "mount the package";
    BuildOverlay = 0x14, Guard, "build overlay", "build the overlay";
    RemountProc = 0x15, Guard, "remount /proc", "mount /proc";
    UnshareUser = 0x16, Guard, "unshare(USER)", "enter a user namespace";
    ReportDone = 0x17, Guard, "done", "report the rocker prepared";
    SetIdMaps = 0x18, Master, "set uid_map", "set the id maps";
    ReleaseGuard = 0x19, Master, "go on", "release the guard";

    ListTopDirs = 0x20, Guard, "get all visible top-dir except /proc,/sys,/dev,/run", "find the directories to overlay";
    MountOverlay = 0x21, Guard, "top-dir act as 'lowerdir', and finally merged to themself", "overlay a directory";

    AwaitEntrance = 0x30, Guard, "rocker created", "receive the entrance";
    ForkHelper = 0x31, Client, "fork out a child process", "fork the helper";
    JoinNamespaces = 0x32, Helper, "setns(USER|MNT|PID)", "enter the rocker";
    RunApp = 0x33, Helper, "run App in child's brother process", "start the App";
    ReportApp = 0x34, Client, "PID of guard and App", "report the App to the guard";

    RequestExec = 0x40, Client, "exec, with descriptors", "request a program";
    StartProgram = 0x41, Guard, "clone, execve", "start the program";
    ReportStarted = 0x42, Guard, "started, with its pidfd", "report the program started";
    ReportExit = 0x43, Guard, "exited", "report the program's end";
}

impl Step {
    /// The number on the wire, in errors and in C: high digit the diagram, low digit the arrow.
    #[allow(clippy::as_conversions, reason = "a fieldless repr(u8) enum has no other way out")]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// As we write it in prose: `prepare.3`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = heapless::String::<16>::new();
        let diagram = DIAGRAMS[usize::from(self.code() >> 4)];
        // Sixteen bytes hold the longest name, "prepare.15".
        let _ = fmt::write(&mut text, format_args!("{diagram}.{}", self.code() & 0xf));
        f.pad(&text)
    }
}

impl Serialize for Step {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.code())
    }
}

impl<'de> Deserialize<'de> for Step {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u8::deserialize(deserializer)?;
        Self::from_code(code).ok_or_else(|| serde::de::Error::custom("no such step"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_lead_back_to_their_steps() {
        for &step in Step::ALL {
            assert_eq!(Step::from_code(step.code()), Some(step));
        }
        assert_eq!(Step::from_code(0x1a), None);
        assert_eq!(Step::from_code(0xff), None);
    }

    #[test]
    fn steps_read_as_in_the_documents() {
        extern crate std;
        assert_eq!(std::format!("{}", Step::MountPackage), "prepare.3");
        assert_eq!(std::format!("{:<10}|", Step::FreeResidue), "root.15   |");
    }
}
