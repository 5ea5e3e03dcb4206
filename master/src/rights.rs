//! Whether a socket takes descriptors (`SO_PASSRIGHTS`, Linux 6.16).
//!
//! Nobody has any to send to the master, and taking one in is a risk even where it is closed at
//! once, and even where the message is never read: closing a file can wait for whoever made it
//! (a FUSE file, a socket that lingers), and the one thread of the master with it.

#![allow(unsafe_code, reason = "no crate knows the option yet")]

use core::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};

/// Refuses descriptors on a listening socket, and so on all connections made to it. False where
/// the kernel cannot.
pub(crate) fn refuse(listener: &OwnedFd) -> bool {
    set(listener, 0)
}

/// Accepts them again, on a connection that is about to be another's.
pub(crate) fn accept(connection: &OwnedFd) {
    // A kernel that does not know the option takes them anyway.
    set(connection, 1);
}

fn set(socket: &OwnedFd, value: c_int) -> bool {
    /// asm-generic/socket.h
    const SO_PASSRIGHTS: c_int = 83;
    let Ok(size) = libc::socklen_t::try_from(size_of::<c_int>()) else { return false };
    let at = (&raw const value).cast();
    // SAFETY: the kernel reads one int through the pointer, which is to a live one, and keeps
    // nothing; the socket is open for the whole call.
    unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, at, size) == 0 }
}
