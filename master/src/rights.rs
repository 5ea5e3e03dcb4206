//! Whether a socket takes descriptors (`SO_PASSRIGHTS`, Linux 6.16).
//!
//! Nobody has any to send to the master, and taking one in is a risk even where it is closed at
//! once, and even where the message is never read: closing a file can wait for whoever made it
//! (a FUSE file, a socket that lingers), and the one thread of the master with it. A guard takes
//! them, from connections that the master has passed on and closed (`guard/src/peers.rs`).

#![allow(unsafe_code, reason = "no crate knows the option yet")]

use core::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};

/// Refuses descriptors on a listening socket, and so on all connections made to it. False where
/// the kernel cannot.
pub(crate) fn refuse(listener: &OwnedFd) -> bool {
    /// asm-generic/socket.h
    const SO_PASSRIGHTS: c_int = 83;
    static NO: c_int = 0;
    let Ok(size) = libc::socklen_t::try_from(size_of::<c_int>()) else { return false };
    let (fd, at) = (listener.as_raw_fd(), (&raw const NO).cast());
    // SAFETY: the kernel reads one int through the pointer, which is to a static, and keeps
    // nothing; the socket is open for the whole call.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, at, size) == 0 }
}
