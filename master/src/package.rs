//! root.2: opens what the caller named. Each path is resolved once, here; what is checked is
//! the open file, and what is mounted is that same file (SECURITY C3, C4, P1, P4).

use std::os::fd::{AsFd, OwnedFd};

use protocol::{Error, Item, Path, Rule, Step};
use rustix::fs::{
    CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat, flock, fstat, mkdirat, open,
    openat, openat2, readlinkat,
};
use rustix::io::Errno;

use crate::overlays;
use crate::packages::Key;

/// How far a caller's paths may lead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach<'a> {
    /// Root's: anywhere root can go, but through no link of `/proc`.
    Anywhere,
    /// Anybody else's: below this directory of the policy, through no link at all, and not
    /// onto another file system, which could be one that never answers.
    Below(Path<'a>),
}

impl Reach<'_> {
    /// Opens the path as a mere place (`O_PATH`): no device is touched, no fifo waited for.
    fn open(self, path: Path<'_>, how: OFlags, haste: Haste) -> Result<OwnedFd, Errno> {
        let how = how | OFlags::PATH | OFlags::CLOEXEC;
        match self {
            Self::Anywhere => {
                let resolve = ResolveFlags::NO_MAGICLINKS | haste.resolve();
                openat2(CWD, path.as_bytes(), how, Mode::empty(), resolve)
            }
            Self::Below(dir) => {
                let top = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let top = open(dir.as_bytes(), top, Mode::empty())?;
                let names: Vec<&[u8]> = path.components().skip(dir.components().count()).collect();
                let below = if names.is_empty() { b".".to_vec() } else { names.join(&b'/') };
                let resolve = ResolveFlags::BENEATH
                    | ResolveFlags::NO_SYMLINKS
                    | ResolveFlags::NO_MAGICLINKS
                    | ResolveFlags::NO_XDEV
                    | haste.resolve();
                openat2(top, below, how, Mode::empty(), resolve)
            }
        }
    }
}

/// Whether a directory may be waited for. Whoever may list one can have everybody else wait for
/// it, for as long as they like (`getdents(2)` to memory that a FUSE file is mapped to), and so can
/// whoever freezes its file system.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Haste {
    /// What the kernel has to wait for is `EAGAIN`; all is, before Linux 5.12.
    Now,
    /// In a thread, or for root.
    InTime,
}

impl Haste {
    const fn resolve(self) -> ResolveFlags {
        match self {
            Self::Now => ResolveFlags::CACHED,
            Self::InTime => ResolveFlags::empty(),
        }
    }
}

/// A directory of root's to write in: of the links that lead there each must be root's, for
/// whoever owns another could turn it to where root's files are to appear.
fn open_through_links_of_root(path: Path<'_>) -> Result<OwnedFd, Errno> {
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS;
    match openat2(CWD, path.as_bytes(), place | OFlags::DIRECTORY, Mode::empty(), resolve) {
        Err(Errno::LOOP) => {}
        answer => return answer,
    }
    let top = || open(c"/", place | OFlags::DIRECTORY, Mode::empty());
    let mut here = top()?;
    let mut links = 0;
    // The next name comes last.
    let mut left = vec![];
    let add = |left: &mut Vec<Vec<u8>>, path: &[u8]| {
        let names = path.split(|&byte| byte == b'/').rev().filter(|name| !name.is_empty());
        left.extend(names.map(<[u8]>::to_vec));
    };
    add(&mut left, path.as_bytes());
    while let Some(name) = left.pop() {
        let next = openat(&here, name, place | OFlags::NOFOLLOW, Mode::empty())?;
        let status = fstat(&next)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
            here = next;
            continue;
        }
        links += 1;
        if status.st_uid != 0 || links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&next, c"", vec![])?.into_bytes();
        if target.starts_with(b"/") {
            here = top()?;
        }
        add(&mut left, &target);
    }
    match FileType::from_raw_mode(fstat(&here)?.st_mode) {
        FileType::Directory => Ok(here),
        _ => Err(Errno::NOTDIR),
    }
}

/// As many as the kernel follows (`man 7 path_resolution`).
const LINKS_MAX: u32 = 40;

/// Opens the package, not to be read yet (`O_PATH`).
pub(crate) fn find_package(path: Path<'_>, reach: Reach<'_>) -> Result<(OwnedFd, Key), Error> {
    let place = reach.open(path, OFlags::empty(), Haste::InTime).map_err(failed)?;
    let status = fstat(&place).map_err(failed)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(broken(Rule::WrongType, Item::Package));
    }
    Ok((place, key(&status)))
}

/// Opens the same for reading, and refuses what the kernel's squashfs would choke on.
pub(crate) fn open_package(place: &OwnedFd, key: Key) -> Result<OwnedFd, Error> {
    let readable = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let package = open(crate::linux::by_descriptor(place.as_fd()), readable, Mode::empty())
        .map_err(failed)?;
    let mut head = [0; SUPERBLOCK];
    let length = rustix::io::pread(&package, &mut head, 0).map_err(failed)?;
    check_superblock(head.get(..length).unwrap_or_default(), key.size)
        .map_err(|rule| broken(rule, Item::Package))?;
    Ok(package)
}

fn key(status: &Stat) -> Key {
    Key {
        device: status.st_dev,
        inode: status.st_ino,
        size: u64::try_from(status.st_size).unwrap_or(0),
        modified: (status.st_mtime, status.st_mtime_nsec),
        changed: (status.st_ctime, status.st_ctime_nsec),
    }
}

/// The part of a squashfs superblock that is looked at, in bytes
/// (`Documentation/filesystems/squashfs.rst`; `struct squashfs_super_block`).
const SUPERBLOCK: usize = 96;

/// `size` is that of the file. A loop device shows whole sectors of 512 bytes only.
fn check_superblock(head: &[u8], size: u64) -> Result<(), Rule> {
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

/// Opens the `.rocker` directory in the data dir, which is made at first use.
/// Root's may lie anywhere, but through no link that is another's; others than root may name
/// directories of their own only.
pub(crate) fn open_data_dir(
    path: Path<'_>,
    reach: Reach<'_>,
    caller: u32,
    haste: Haste,
) -> Result<(OwnedFd, overlays::Key), Error> {
    // The layers of one rocker are nobody else's data.
    if path.components().any(|name| name == b".rocker") {
        return Err(broken(Rule::Forbidden, Item::DataDir));
    }
    let opened = match reach {
        Reach::Anywhere => open_through_links_of_root(path),
        Reach::Below(_) => reach.open(path, OFlags::DIRECTORY, haste),
    };
    let data = opened.map_err(|errno| match errno {
        Errno::NOENT => broken(Rule::NoSuchDir, Item::DataDir),
        Errno::NOTDIR => broken(Rule::NotADir, Item::DataDir),
        errno => failed(errno),
    })?;
    if matches!(reach, Reach::Below(_)) && fstat(&data).map_err(failed)?.st_uid != caller {
        return Err(broken(Rule::NotTheCallers, Item::DataDir));
    }
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open_ours = || match haste {
        Haste::Now => openat2(&data, c".rocker", how, Mode::empty(), haste.resolve()),
        Haste::InTime => openat(&data, c".rocker", how, Mode::empty()),
    };
    let opened = match open_ours() {
        Err(Errno::NOENT) if haste == Haste::Now => Err(Errno::AGAIN),
        Err(Errno::NOENT) => match mkdirat(&data, c".rocker", Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open_ours(),
            Err(errno) => return Err(failed(errno)),
        },
        answer => answer,
    };
    let ours = opened.map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => broken(Rule::NotOurs, Item::DataDir),
        errno => failed(errno),
    })?;
    // The data dir may be the App's own, so it could have put a directory of its own there.
    let status = fstat(&ours).map_err(failed)?;
    if status.st_uid != 0 || status.st_mode & 0o077 != 0 {
        return Err(broken(Rule::NotOurs, Item::DataDir));
    }
    Ok((ours, overlays::Key { device: status.st_dev, inode: status.st_ino }))
}

/// The same [now](Haste::Now); None if the kernel would have to wait.
pub(crate) fn open_data_dir_now(
    path: Path<'_>,
    reach: Reach<'_>,
    caller: u32,
) -> Option<Result<(OwnedFd, overlays::Key), Error>> {
    let waits = [Errno::AGAIN, Errno::INVAL].map(failed);
    match open_data_dir(path, reach, caller, Haste::Now) {
        Err(error) if waits.contains(&error) => None,
        opened => Some(opened),
    }
}

/// Locks that directory. The lock lasts as long as any copy of the descriptor: the guard's life,
/// and as long as its overlays are kept.
pub(crate) fn lock(ours: &OwnedFd) -> Result<(), Error> {
    match flock(ours, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(broken(Rule::InUse, Item::DataDir)),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: Errno) -> Error {
    Error::Failed { step: Step::CreateGuard, errno: protocol::socket::errno(errno) }
}

const fn broken(rule: Rule, item: Item) -> Error {
    Error::Invalid { rule, item }
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
        assert_eq!(check_superblock(&superblock(|_| ()), 4096), Ok(()));
        // 4000 bytes are used, but of 4095 a loop device shows 3584.
        assert_eq!(check_superblock(&superblock(|_| ()), 4095), Err(Rule::Truncated));
        assert_eq!(check_superblock(&superblock(|_| ())[..95], 4096), Err(Rule::Truncated));
        assert_eq!(check_superblock(&superblock(|b| b[0] = 0), 4096), Err(Rule::NotSquashfs));
        assert_eq!(check_superblock(b"", 0), Err(Rule::NotSquashfs));
        assert_eq!(check_superblock(&superblock(|b| b[28] = 3), 4096), Err(Rule::UnknownFormat));
        assert_eq!(check_superblock(&superblock(|b| b[20] = 7), 4096), Err(Rule::UnknownFormat));
        let huge = superblock(|b| b[47] = 0xff);
        assert_eq!(check_superblock(&huge, 4096), Err(Rule::Truncated));
    }
}
