//! What is in a `/dev` that is not the host's. The master makes one for all rockers, with root's
//! right to make devices; a configuration (`guard/src/conf.rs`) makes one of mounts, with the
//! right of the App's user, which has none. `/dev/shm` and `/dev/pts` are each rocker's own.

use core::ffi::CStr;

/// What every program may count on, each with its number: `man 4 null`, `man 4 random`,
/// `man 4 tty`, `man 4 full`.
pub const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];

/// Names beside them, and where they lead.
pub const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// Where something is mounted: shared memory (`man 7 shm_overview`), and terminals.
pub const DIRECTORIES: [&CStr; 2] = [c"shm", c"pts"];

/// Bytes of shared memory in a rocker's own `/dev/shm`, with a file for each 1024 of them.
pub const SHM_BYTES: u64 = 64 << 20;
