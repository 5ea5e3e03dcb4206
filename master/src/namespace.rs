//! root.1: in which user namespace a process sits.

#![allow(unsafe_code, reason = "neither nix nor rustix knows the call")]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Stat, fstat, statat};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::linux::is_silent;

/// A user namespace, as the kernel numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    /// That of this process.
    pub(crate) fn own(proc: &OwnedFd) -> Result<Self, Errno> {
        Self::listed(proc, "self")
    }

    fn listed(proc: &OwnedFd, process: &str) -> Result<Self, Errno> {
        statat(proc, format!("{process}/ns/user"), AtFlags::empty()).map(|found| Self::from(&found))
    }

    /// That of the process behind a pidfd. Its pid and a `/proc` are for Linux before 6.11. That
    /// takes longer: the kernel makes three files up, and throws them away when that process ends.
    ///
    /// # Errors
    ///
    /// `ESRCH`: it has ended. Others are the kernel's, if it could not say: it is out of
    /// descriptors.
    pub(crate) fn of(process: BorrowedFd<'_>, pid: Pid, proc: &OwnedFd) -> Result<Self, Errno> {
        match open(process) {
            Ok(namespace) => fstat(namespace).map(|found| Self::from(&found)),
            // `ESRCH` also where only its first thread has ended.
            Err(Errno::NOTTY | Errno::SRCH) => {
                let found = Self::listed(proc, &pid.as_raw_nonzero().to_string());
                // Alive still: so nobody else had that pid meanwhile.
                if is_silent(process) { found } else { Err(Errno::SRCH) }
            }
            Err(errno) => Err(errno),
        }
    }
}

impl From<&Stat> for Namespace {
    fn from(found: &Stat) -> Self {
        Self { device: found.st_dev, inode: found.st_ino }
    }
}

/// `PIDFD_GET_USER_NAMESPACE` of pidfd.h
fn open(process: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const GET_USER_NAMESPACE: libc::Ioctl = libc::_IO(0xff, 9);
    // SAFETY: the kernel reads and writes no memory for it, and the pidfd is open for the whole
    // call.
    let opened = unsafe { libc::ioctl(process.as_raw_fd(), GET_USER_NAMESPACE, 0) };
    if opened < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    // SAFETY: the kernel has just made it for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{CWD, Mode, OFlags, openat};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    #[test]
    fn root_1_both_ways_lead_to_the_same_namespace() {
        let proc = openat(CWD, "/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let of = |process: BorrowedFd<'_>| Namespace::of(process, getpid(), &proc);
        let own = Namespace::own(&proc).unwrap();
        let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert_eq!(of(process.as_fd()), Ok(own));
        // It answers as a pidfd does before Linux 6.11.
        let (ended, alive) = std::io::pipe().unwrap();
        assert_eq!(open(ended.as_fd()).unwrap_err(), Errno::NOTTY);
        assert_eq!(of(ended.as_fd()), Ok(own));
        drop(alive);
        assert_eq!(of(ended.as_fd()), Err(Errno::SRCH));
    }
}
