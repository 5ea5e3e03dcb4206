//! prepare.2: opens the package for reading, and refuses what the kernel's squashfs would choke on.
//!
//! The guard does it and not the master, which has it as a mere place: whoever can write to the
//! package, or serves its file system, can have others wait for it, even for its end (`close(2)` of
//! a FUSE file).

use protocol::{Error, Item, Rule, socket};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread};

use crate::machine::Outcome;
use crate::mounts::by_descriptor;

/// Why there is nothing to bind.
pub(crate) enum Unfit {
    System(Errno),
    Rule(Error),
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<Unfit> for Outcome {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::System(errno) => Self::Failed(socket::errno(errno)),
            Unfit::Rule(error) => Self::Refused(error),
        }
    }
}

/// The same file as at `place`, once it has been looked into.
pub(crate) fn open(place: BorrowedFd<'_>) -> Result<OwnedFd, Unfit> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let package = openat(CWD, by_descriptor(place).as_str(), how, Mode::empty())?;
    let size = u64::try_from(fstat(&package)?.st_size).unwrap_or(0);
    let mut head = [0; SUPERBLOCK];
    let length = pread(&package, &mut head, 0)?;
    let item = Item::Package;
    check(head.get(..length).unwrap_or_default(), size)
        .map_err(|rule| Unfit::Rule(Error::Invalid { rule, item }))?;
    Ok(package)
}

/// The part of a squashfs superblock that is looked at, in bytes
/// (`Documentation/filesystems/squashfs.rst`; `struct squashfs_super_block`).
const SUPERBLOCK: usize = 96;

/// `size` is that of the file. A loop device shows whole sectors of 512 bytes only.
fn check(head: &[u8], size: u64) -> Result<(), Rule> {
    if !head.starts_with(b"hsqs") {
        return Err(Rule::NotSquashfs);
    }
    let head: &[u8; SUPERBLOCK] = head.try_into().map_err(|_| Rule::Truncated)?;
    let u16_at = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let (compression, major, minor) = (u16_at(20), u16_at(28), u16_at(30));
    if (major, minor) != (4, 0) || !(1..=6).contains(&compression) {
        return Err(Rule::UnknownFormat);
    }
    let mut bytes_used = [0; 8];
    bytes_used.copy_from_slice(&head[40..48]);
    if u64::from_le_bytes(bytes_used) > size / 512 * 512 {
        return Err(Rule::Truncated);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(change: impl FnOnce(&mut [u8; SUPERBLOCK])) -> [u8; SUPERBLOCK] {
        let mut head = [0; SUPERBLOCK];
        head[..4].copy_from_slice(b"hsqs");
        head[20] = 6;
        head[28] = 4;
        head[40..48].copy_from_slice(&4000_u64.to_le_bytes());
        change(&mut head);
        head
    }

    #[test]
    fn a_superblock_is_looked_at_before_the_kernel_sees_it() {
        assert_eq!(check(&superblock(|_| ()), 4096), Ok(()));
        // 4000 bytes are used, but of 4095 a loop device shows 3584.
        assert_eq!(check(&superblock(|_| ()), 4095), Err(Rule::Truncated));
        assert_eq!(check(&superblock(|_| ())[..95], 4096), Err(Rule::Truncated));
        assert_eq!(check(&superblock(|b| b[0] = 0), 4096), Err(Rule::NotSquashfs));
        assert_eq!(check(b"", 0), Err(Rule::NotSquashfs));
        assert_eq!(check(&superblock(|b| b[28] = 3), 4096), Err(Rule::UnknownFormat));
        assert_eq!(check(&superblock(|b| b[20] = 7), 4096), Err(Rule::UnknownFormat));
        let huge = superblock(|b| b[47] = 0xff);
        assert_eq!(check(&huge, 4096), Err(Rule::Truncated));
    }
}
