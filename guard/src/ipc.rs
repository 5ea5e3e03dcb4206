//! prepare.0, exec.1: an IPC namespace of the rocker's own (`man 7 ipc_namespaces`).
//!
//! There may be `user.max_ipc_namespaces`, and the kernel frees them in a worker: before Linux 6.3
//! each in milliseconds, and who makes one is not kept waiting but refused.

use linux_raw_sys::general::CLONE_NEWIPC;
use protocol::socket::now_ns;
use rustix::io::Errno;

use crate::{reaper, sys};

/// Another than before. Waits for room until then.
pub(crate) fn isolate(until_ns: u64) -> Result<(), Errno> {
    once_there_is_room(|| sys::unshare(CLONE_NEWIPC), until_ns)
}

fn once_there_is_room(
    mut make: impl FnMut() -> Result<(), Errno>,
    until_ns: u64,
) -> Result<(), Errno> {
    const AGAIN_NS: u64 = 5_000_000;
    loop {
        match make() {
            Err(Errno::NOSPC) if now_ns() < until_ns => reaper::rest(now_ns() + AGAIN_NS),
            made => return made,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of it, and how often it was tried.
    fn tried(answers: &[Result<(), Errno>], until_ns: u64) -> (Result<(), Errno>, usize) {
        let mut tries = 0;
        let make = || {
            tries += 1;
            answers.get(tries - 1).copied().unwrap_or(Err(Errno::NOSPC))
        };
        (once_there_is_room(make, until_ns), tries)
    }

    #[test]
    fn room_is_waited_for_and_nothing_else() {
        let soon = now_ns() + 50_000_000;
        let full = Err(Errno::NOSPC);
        assert_eq!(tried(&[full, full, Ok(())], u64::MAX), (Ok(()), 3));
        assert_eq!(tried(&[full, Err(Errno::NOMEM)], u64::MAX), (Err(Errno::NOMEM), 2));
        assert_eq!(tried(&[], 0), (full, 1));
        assert!(matches!(tried(&[], soon), (Err(Errno::NOSPC), 2..=11)));
        assert!(now_ns() >= soon);
    }
}
