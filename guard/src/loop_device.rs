//! prepare.1 and prepare.2: a loop device for the package (`man 4 loop`).
//!
//! Our own and not the `loopdev` crate's: that one needs libclang to build, and has no
//! `LOOP_CONFIGURE`, so it leaks a device when it is killed between its two calls and fails
//! when another process takes the free one first (259 of 400 tries with 8 threads).
#![allow(unsafe_code, reason = "loop(4) is ioctl(2) only")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config,
};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// prepare.1: the number of a device that was free when the kernel was asked.
pub(crate) fn find_free() -> Result<u32, Errno> {
    let control = openat(CWD, c"/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: LOOP_CTL_GET_FREE takes no argument and touches no memory of ours; the
    // descriptor is open for the whole call.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), u64::from(LOOP_CTL_GET_FREE) as _) };
    u32::try_from(number).map_err(|_| last_error())
}

/// prepare.2: binds the package, read-only, and detached by the kernel as soon as neither a
/// mount nor the returned descriptor uses it. One call, so there is no half-bound state.
///
/// `EBUSY`: somebody else has taken the device since.
pub(crate) fn bind(number: u32, package: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/dev/loop{number}");
    let device = openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: loop_config is a plain C struct of integers and arrays of them, for which all
    // zeroes is a value: "no offset, whole file, default block size, no name".
    let mut config: loop_config = unsafe { core::mem::zeroed() };
    config.fd = package.as_raw_fd().cast_unsigned();
    config.info.lo_flags = LO_FLAGS_READ_ONLY as u32 | LO_FLAGS_AUTOCLEAR as u32;
    // SAFETY: LOOP_CONFIGURE reads one loop_config through the pointer, which is to a live,
    // initialised one, and keeps nothing of it; both descriptors are open for the whole call.
    let answer = unsafe {
        libc::ioctl(device.as_fd().as_raw_fd(), u64::from(LOOP_CONFIGURE) as _, &raw const config)
    };
    if answer == 0 { Ok(device) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
