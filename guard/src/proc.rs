//! Files of `/proc` with a name and a number on each line, as `man 5 proc_pid_status` has them.

use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, read};

/// How much of a file is looked at. What comes before a `TracerPid` and a `mnt_id` is less.
const LENGTH: usize = 512;

/// The number on the line that begins so, in a file below `dir`. Some other line may have a name
/// that a process gave itself, which is any bytes but a line end.
///
/// `EPROTO` if there is none.
pub(crate) fn number(dir: BorrowedFd<'_>, path: &str, name: &[u8]) -> Result<u64, Errno> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = [0; LENGTH];
    let length = read(&file, &mut text)?;
    let lines = text.get(..length).unwrap_or_default().split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| line.strip_prefix(name))
        .find_map(|number| core::str::from_utf8(number.trim_ascii()).ok()?.parse().ok())
        .ok_or(Errno::PROTO)
}
