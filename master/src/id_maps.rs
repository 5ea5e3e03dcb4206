//! prepare.8: who is who in the rocker (`man 7 user_namespaces`). The guard could write these
//! itself; the documents have the master do it, so that policy has the last word.
//!
//! The guard is the master's child and not yet reaped, so its pid cannot mean another process.

use std::fs::OpenOptions;
use std::io::Write;

use rustix::io::Errno;

/// Nobody in the rocker may drop or take groups. Must come before the gid map.
pub(crate) fn deny_setgroups(guard: u32) -> Result<(), Errno> {
    put(guard, "setgroups", "deny")
}

/// What the App's uid is inside; no other uid exists in the rocker.
pub(crate) fn write_uid_map(guard: u32, inside: u32, uid: u32) -> Result<(), Errno> {
    put(guard, "uid_map", &format!("{inside} {uid} 1"))
}

/// The same for its gid.
pub(crate) fn write_gid_map(guard: u32, inside: u32, gid: u32) -> Result<(), Errno> {
    put(guard, "gid_map", &format!("{inside} {gid} 1"))
}

/// The kernel takes a map in one write, or not at all.
fn put(guard: u32, file: &str, text: &str) -> Result<(), Errno> {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/{guard}/{file}"))
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}
