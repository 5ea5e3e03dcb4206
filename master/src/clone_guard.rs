//! prepare.0: the guard is cloned into new mount and PID namespaces and becomes another program
//! before the master goes on (`man 2 clone`, `man 2 execveat`).
//!
//! Never a plain fork: that copies the master's page tables, 8 to 10 us for each MB, and its
//! memory into every rocker. `CLONE_VM | CLONE_VFORK` shares them until the exec, as vfork(2)
//! does, and so the error of a failed exec comes back in plain memory.
#![allow(unsafe_code, reason = "neither nix nor rustix can clone into an exec")]

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::io::Errno;

/// What the child needs, and where it leaves the reason if it cannot become the guard.
struct Start {
    guard: RawFd,
    link: RawFd,
    null: RawFd,
    errno: c_int,
}

/// A stack for a child that calls four functions. A page would do; this has room for whatever
/// the C library's wrappers take on any architecture.
#[derive(Debug)]
#[repr(align(16))]
pub(crate) struct Stack([u8; 16 * 1024]);

impl Stack {
    /// One is enough for a master: it waits while a child uses it.
    pub(crate) fn new() -> Box<Self> {
        Box::new(Self([0; 16 * 1024]))
    }
}

/// SIGCHLD is for children that end, not for those that are stopped or go on (`man 2 sigaction`).
/// A guard does not inherit that: execve(2) resets it.
pub(crate) fn hear_of_ends_alone() -> nix::Result<()> {
    let told = SigAction::new(SigHandler::SigDfl, SaFlags::SA_NOCLDSTOP, SigSet::empty());
    // SAFETY: no function is set up to be called; nobody else here has one for this signal.
    unsafe { sigaction(Signal::SIGCHLD, &told) }.map(drop)
}

/// Clones a guard from the program that `guard` is. It gets `link` as standard input, `null`
/// as output and error, and nothing else: every other descriptor is close-on-exec.
///
/// The answer is the pid. An error is the kernel's for clone or for execveat.
pub(crate) fn clone_guard(
    guard: BorrowedFd<'_>,
    link: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    stack: &mut Stack,
) -> Result<u32, Errno> {
    let [guard, link, null] = [guard, link, null].map(|fd| fd.as_raw_fd());
    let mut start = Start { guard, link, null, errno: 0 };
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | namespaces;
    let top = stack.0.as_mut_ptr_range().end;
    // SAFETY: the child runs `become_guard` on a stack that is exclusively ours to lend, is
    // aligned to 16 bytes at its top and big enough; CLONE_VFORK suspends this thread, the only
    // one, until the child has left the shared memory by exec or exit, so neither `stack` nor
    // `start` is used by two at once or freed while in use.
    let pid = unsafe {
        libc::clone(
            become_guard,
            top.cast::<c_void>(),
            flags | libc::SIGCHLD,
            (&raw mut start).cast::<c_void>(),
        )
    };
    let Ok(pid) = u32::try_from(pid) else {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN));
    };
    match start.errno {
        0 => Ok(pid),
        errno => {
            // SAFETY: waits for the child just cloned, which has no other parent; no status is
            // asked for, so nothing is written.
            unsafe { libc::waitpid(pid.cast_signed(), ptr::null_mut(), 0) };
            Err(Errno::from_raw_os_error(errno))
        }
    }
}

/// The child. It shares the master's memory, so it calls system calls only: no allocation, no
/// lock, no panic. It has descriptors of its own, a copy of the table.
extern "C" fn become_guard(start: *mut c_void) -> c_int {
    let arguments: [*const c_char; 2] = [c"rocker-guard".as_ptr(), ptr::null()];
    let environment: [*const c_char; 1] = [ptr::null()];
    let start = start.cast::<Start>();
    let empty: &CStr = c"";
    // SAFETY: `start` points to the live Start of `clone_guard`, which does not touch it while
    // this runs. Strings and arrays are NUL-ended and outlive the call; the kernel copies them.
    // dup2 changes this process' table only. errno is the master's own, which waits.
    #[allow(clippy::multiple_unsafe_ops_per_block, reason = "one sequence, one argument")]
    unsafe {
        let failed = libc::dup2((*start).link, 0) < 0
            || libc::dup2((*start).null, 1) < 0
            || libc::dup2((*start).null, 2) < 0
            || libc::syscall(
                libc::SYS_execveat,
                (*start).guard,
                empty.as_ptr(),
                arguments.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            ) < 0;
        if failed {
            (*start).errno = *libc::__errno_location();
        }
        libc::_exit(127)
    }
}
