//! The system calls that rustix has no function for, each with a safe face.
#![allow(unsafe_code, reason = "raw system calls")]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

/// Standard input and output of a process that has not closed them.
pub(crate) fn stdio(number: u8) -> BorrowedFd<'static> {
    // SAFETY: rocker-master, or whoever starts this by hand, has 0 to 2 open, and this process
    // replaces but never closes them.
    unsafe { BorrowedFd::borrow_raw(i32::from(number)) }
}

/// A descriptor as a system call takes it. Open descriptors are never negative.
fn number(fd: BorrowedFd<'_>) -> usize {
    usize::try_from(fd.as_raw_fd()).unwrap_or(usize::MAX)
}

fn ours(error: syscalls::Errno) -> Errno {
    Errno::from_raw_os_error(error.into_raw())
}

/// Blocks every signal, and returns a descriptor that can be read when a child has ended
/// (`man 2 signalfd`).
pub(crate) fn signals_of_children() -> Result<OwnedFd, Errno> {
    const SET_BYTES: usize = 8;
    const SIG_SETMASK: usize = 2;
    let (all, children) = (u64::MAX, 1_u64 << (linux_raw_sys::general::SIGCHLD - 1));
    // SAFETY: the kernel reads 8 bytes through the pointer, which are there; no old set is asked
    // for.
    unsafe { syscall!(Sysno::rt_sigprocmask, SIG_SETMASK, &raw const all, 0, SET_BYTES) }
        .map_err(ours)?;
    let flags = linux_raw_sys::general::O_CLOEXEC | linux_raw_sys::general::O_NONBLOCK;
    // SAFETY: the same; -1 asks for a new descriptor.
    let fd = unsafe {
        syscall!(Sysno::signalfd4, usize::MAX, &raw const children, SET_BYTES, flags as usize)
    };
    let fd = i32::try_from(fd.map_err(ours)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether PID 1 is the only process that its PID namespace knows of: `kill(-1, 0)` is `ESRCH`
/// exactly then. It needs no right to signal anybody.
pub(crate) fn is_alone() -> bool {
    // SAFETY: signal 0 asks only.
    let answer = unsafe { syscall!(Sysno::kill, usize::MAX, 0) };
    answer.map_err(ours) == Err(Errno::SRCH)
}

/// `unshare(CLONE_NEWUSER)`
pub(crate) fn unshare_user() -> Result<(), Errno> {
    let flags = linux_raw_sys::general::CLONE_NEWUSER as usize;
    // SAFETY: it changes credentials, no memory and no descriptors.
    unsafe { syscall!(Sysno::unshare, flags) }.map(drop).map_err(ours)
}

/// Makes a mount and everything mounted below it read-only (`man 2 mount_setattr`).
pub(crate) fn make_read_only(tree: BorrowedFd<'_>) -> Result<(), Errno> {
    use linux_raw_sys::general::{AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_RDONLY, mount_attr};
    let attributes = mount_attr {
        attr_set: MOUNT_ATTR_RDONLY.into(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (path, flags) = (c"".as_ptr(), (AT_EMPTY_PATH | AT_RECURSIVE) as usize);
    let (at, size) = (&raw const attributes, size_of::<mount_attr>());
    // SAFETY: the kernel reads the empty, NUL-ended path and `size` bytes at `at`, which are
    // there, and keeps neither; `tree` is open for the whole call.
    unsafe { syscall!(Sysno::mount_setattr, number(tree), path, flags, at, size) }
        .map(drop)
        .map_err(ours)
}

/// `ioctl(2)` that reads at most one `T`.
pub(crate) fn ioctl<T>(fd: impl AsFd, request: u32, argument: Option<&T>) -> Result<u32, Errno> {
    let argument = argument.map_or(core::ptr::null(), core::ptr::from_ref);
    let request = usize::try_from(request).unwrap_or(usize::MAX);
    // SAFETY: callers (loop_device.rs) pass requests that read one T, or nothing; the kernel
    // does not write to it and does not keep it. The descriptor is open for the whole call.
    let answer = unsafe { syscall!(Sysno::ioctl, number(fd.as_fd()), request, argument) };
    u32::try_from(answer.map_err(ours)?).map_err(|_| Errno::OVERFLOW)
}
