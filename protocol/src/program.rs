//! What runs in a rocker at the caller's command, and what is told of its end (004).

use core::fmt;

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::limits::RLIMITS_MAX;

/// Strings one after the other, each ended by NUL: what `execve(2)` wants, but for the pointers.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    /// None of it is left over after the last NUL.
    pub const fn new(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            [] | [.., 0] => Some(Self(bytes)),
            _ => None,
        }
    }

    /// With the NULs.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Each without its NUL.
    pub fn texts(self) -> impl Iterator<Item = &'a [u8]> {
        self.iter().map(|text| text.strip_suffix(b"\0").unwrap_or(text))
    }

    /// Each with its NUL.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split_inclusive(|&byte| byte == 0)
    }
}

impl fmt::Debug for Strings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|s| s.trim_ascii_end().escape_ascii())).finish()
    }
}

impl Serialize for Strings<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Strings<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&[u8]>::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("the last string has no end"))
    }
}

/// One of the sixteen of `setrlimit(2)`, in the unit that it has there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*`, 0 to 15.
    pub resource: u8,
    /// Soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` for none.
    pub hard: u64,
}

/// exec.0: a program to start. The descriptors that come along are its 0, 1, 2, ...; of 0 to 2
/// those that are missing lead to `/dev/null`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Exec<'a> {
    /// The caller's own number for it; unique among those that run.
    pub id: u32,
    /// Its arguments, its own name first: a name without a slash is looked up in the `PATH` of
    /// `env`, else in `/bin:/usr/bin`.
    #[serde(borrow)]
    pub args: Strings<'a>,
    /// Its environment.
    #[serde(borrow)]
    pub env: Strings<'a>,
    /// Where it starts, ended by NUL: absolute, or below the exec dir; none: there.
    #[serde(borrow)]
    pub cwd: Strings<'a>,
    /// How many descriptors come along.
    pub descriptors: u8,
    /// The first descriptor is the program itself, and not one of its own.
    pub by_descriptor: bool,
    /// Its descriptor 0 is the terminal that controls it.
    pub terminal: bool,
    /// Its limits.
    pub rlimits: Vec<Rlimit, RLIMITS_MAX>,
    /// It is killed after so many milliseconds; 0: never.
    pub wall_ms: u32,
    /// At that time it gets SIGTERM first, and is killed so many milliseconds later.
    pub grace_ms: u32,
    /// A filter of its own beside that of the rocker, an array of `struct sock_filter`; empty:
    /// none. `SECCOMP_RET_USER_NOTIF` in it means: it is killed, and the call is named.
    pub filter: &'a [u8],
    /// It is told of before it executes, and executes when it is told to [go](crate::ClientMessage::Go).
    /// What fails only then is told in place of its end. No such filter as asks somebody.
    pub sync: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Exit {
    /// With this status.
    Status(u8),
    /// By this signal.
    Signal(u8),
}

/// What to make of it (004's `runner.Status`, and two of our own).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Verdict {
    /// Status 0.
    Normal,
    /// The wall clock, or `RLIMIT_CPU`.
    TimeLimitExceeded,
    /// More memory than allowed.
    MemoryLimitExceeded,
    /// `RLIMIT_FSIZE`
    OutputLimitExceeded,
    /// A system call that its filter forbids.
    DisallowedSyscall,
    /// Another signal.
    Signalled,
    /// Another status than 0.
    NonzeroExitStatus,
    /// It could not be watched to its end.
    RunnerError,
    /// The kernel was out of memory and chose it.
    OutOfMemory,
    /// Killed at the caller's command.
    Cancelled,
}

/// exec.4: a program's end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How.
    pub exit: Exit,
    /// What to make of it.
    pub verdict: Verdict,
    /// Processor time outside the kernel, of it and all its descendants that were waited for, in
    /// microseconds.
    pub user_us: u64,
    /// The same in the kernel.
    pub system_us: u64,
    /// From its start to its end, in microseconds.
    pub wall_us: u64,
    /// Most memory that it, or one of those descendants, had at once, in KiB.
    pub peak_kib: u64,
    /// The number of the system call for which it was killed, if that was for one of this
    /// machine's.
    pub syscall: Option<u32>,
    /// What all of the rocker has used so far.
    pub usage: Usage,
}

/// What all processes of a rocker have used together, from its beginning, as its cgroup counts it
/// (`man 7 cgroups`). None: there is no cgroup, for no limit was asked for, or this kernel does
/// not tell.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of memory now, cached files among them.
    pub memory: Option<u64>,
    /// The most at once.
    pub memory_peak: Option<u64>,
    /// Processes and threads now, the guard among them.
    pub pids: Option<u64>,
    /// The most at once; from Linux 6.11 on.
    pub pids_peak: Option<u64>,
    /// Processor time in microseconds, that of children nobody has waited for among it; with
    /// cgroups of version 1 only if it was limited, and `cpu` and `cpuacct` are one hierarchy.
    pub cpu_us: Option<u64>,
    /// Bytes read from block devices.
    pub read: Option<u64>,
    /// Bytes written to them.
    pub written: Option<u64>,
}

impl Exit {
    /// What to make of it when nobody but the kernel had a hand in it (`man 7 signal`).
    pub const fn verdict(self) -> Verdict {
        const SIGXCPU: u8 = 24;
        const SIGXFSZ: u8 = 25;
        const SIGSYS: u8 = 31;
        match self {
            Self::Status(0) => Verdict::Normal,
            Self::Status(_) => Verdict::NonzeroExitStatus,
            Self::Signal(SIGXCPU) => Verdict::TimeLimitExceeded,
            Self::Signal(SIGXFSZ) => Verdict::OutputLimitExceeded,
            Self::Signal(SIGSYS) => Verdict::DisallowedSyscall,
            Self::Signal(_) => Verdict::Signalled,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Normal => "normal",
            Self::TimeLimitExceeded => "time limit exceeded",
            Self::MemoryLimitExceeded => "memory limit exceeded",
            Self::OutputLimitExceeded => "output limit exceeded",
            Self::DisallowedSyscall => "disallowed system call",
            Self::Signalled => "signalled",
            Self::NonzeroExitStatus => "nonzero exit status",
            Self::RunnerError => "runner error",
            Self::OutOfMemory => "out of memory",
            Self::Cancelled => "cancelled",
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn strings_end() {
        assert!(Strings::new(b"a").is_none());
        let strings = Strings::new(b"a\0\0bc\0").unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"a\0".as_slice(), b"\0", b"bc\0"]);
        assert_eq!(Strings::new(b"").unwrap().iter().count(), 0);
    }

    #[test]
    fn an_end_has_one_verdict() {
        for (exit, verdict) in [
            (Exit::Status(0), Verdict::Normal),
            (Exit::Status(1), Verdict::NonzeroExitStatus),
            (Exit::Signal(9), Verdict::Signalled),
            (Exit::Signal(24), Verdict::TimeLimitExceeded),
            (Exit::Signal(25), Verdict::OutputLimitExceeded),
            (Exit::Signal(31), Verdict::DisallowedSyscall),
        ] {
            assert_eq!(exit.verdict(), verdict);
        }
    }
}
