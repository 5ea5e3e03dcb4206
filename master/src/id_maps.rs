//! prepare.8: who is who in the rocker (`man 7 user_namespaces`). The guard could write these
//! itself; the documents have the master do it, so that policy has the last word.
//!
//! The guard is the master's child and not yet reaped, so its pid cannot mean another process.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// Nobody in the rocker may drop or take groups. Must come before the gid map.
pub(crate) fn deny_setgroups(proc: &OwnedFd, guard: u32) -> Result<(), Errno> {
    put(proc, guard, "setgroups", "deny")
}

/// What the App's uid is inside; no other uid exists in the rocker.
pub(crate) fn write_uid_map(
    proc: &OwnedFd,
    guard: u32,
    inside: u32,
    uid: u32,
) -> Result<(), Errno> {
    put(proc, guard, "uid_map", &format!("{inside} {uid} 1"))
}

/// The same for its gid.
pub(crate) fn write_gid_map(
    proc: &OwnedFd,
    guard: u32,
    inside: u32,
    gid: u32,
) -> Result<(), Errno> {
    put(proc, guard, "gid_map", &format!("{inside} {gid} 1"))
}

/// The kernel takes a map in one write, or not at all.
fn put(proc: &OwnedFd, guard: u32, file: &str, text: &str) -> Result<(), Errno> {
    let how = OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(proc, format!("{guard}/{file}"), how, Mode::empty())?);
    file.write_all(text.as_bytes())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
