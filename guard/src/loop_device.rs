//! prepare.1 and prepare.2: a loop device for the package (`man 4 loop`).
//!
//! Our own and not the `loopdev` crate's: that one needs libclang to build, and has no
//! `LOOP_CONFIGURE`, so it leaks a device when it is killed between its two calls and fails
//! when another process takes the free one first (259 of 400 tries with 8 threads).

use alloc::format;

use linux_raw_sys::loop_device::{
    LO_FLAGS_AUTOCLEAR, LO_FLAGS_READ_ONLY, LOOP_CONFIGURE, LOOP_CTL_GET_FREE, loop_config,
    loop_info64,
};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::sys;

/// prepare.1: the number of a device that was free when the kernel was asked.
pub(crate) fn find_free() -> Result<u32, Errno> {
    let control = openat(CWD, c"/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::ioctl(&control, LOOP_CTL_GET_FREE, None::<&()>)
}

/// prepare.2: binds the package, read-only, and detached by the kernel as soon as neither a
/// mount nor the returned descriptor uses it. One call, so there is no half-bound state.
///
/// `EBUSY`: somebody else has taken the device since.
pub(crate) fn bind(number: u32, package: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/dev/loop{number}");
    let device = openat(CWD, path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let config = loop_config {
        fd: package.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: 0,
            lo_sizelimit: 0,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: LO_FLAGS_READ_ONLY as u32 | LO_FLAGS_AUTOCLEAR as u32,
            lo_file_name: [0; 64],
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        __reserved: [0; 8],
    };
    sys::ioctl(&device, LOOP_CONFIGURE, Some(&config))?;
    Ok(device)
}
