//! prepare.6 and exec.1: a second wall for a rocker that is to have one (`man 7 landlock`). What a
//! program may do with files depends on where they are, and not on how it got there: a directory
//! of the host's that it was handed by mistake is as closed to it as the rest of the host. And what
//! has no place, an abstract socket, is closed where it is not the program's own.
//!
//! The guard writes the rules down and is not bound by them, for it has to mount. Each App and
//! each program is bound before its first instruction, by itself, and so are all that it starts;
//! and what a caller orders done with files is done by a process that is.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use linux_raw_sys::landlock::{
    LANDLOCK_ACCESS_FS_EXECUTE, LANDLOCK_ACCESS_FS_IOCTL_DEV, LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_FS_TRUNCATE, LANDLOCK_ACCESS_FS_WRITE_FILE,
    LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET,
};
use protocol::limits::UNREAD_MS;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, OFlags, ResolveFlags, fstat};
use rustix::io::Errno;

use crate::mounts::{self, Refusal};
use crate::sys::{self, Stack, Table};

/// Since this one sockets can be closed; what there is to be done with files it knows as well.
const ABI_MIN: u32 = 6;

/// `LANDLOCK_ACCESS_FS_*`: all of that version.
const ALL: u32 = (LANDLOCK_ACCESS_FS_IOCTL_DEV << 1) - 1;

/// As without a wall.
const READ: u32 =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;

/// What there is, and nothing new.
const CHANGE: u32 = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;

/// All that means something for what is no directory.
const OF_A_FILE: u32 = LANDLOCK_ACCESS_FS_EXECUTE
    | LANDLOCK_ACCESS_FS_READ_FILE
    | LANDLOCK_ACCESS_FS_IOCTL_DEV
    | CHANGE;

/// The rules of a rocker.
pub(crate) struct Wall {
    ruleset: OwnedFd,
    /// Where the rocker as it was built lets its programs write: for one that may be configured,
    /// and then has other places as well.
    built: Vec<OwnedFd>,
    proc: OwnedFd,
}

impl Wall {
    /// For the rocker as it is built: `overlays` are its places.
    pub(crate) fn new(overlays: Vec<OwnedFd>) -> Result<Self, Refusal> {
        suffices(sys::landlock_abi())?;
        let open = |path| mounts::open_without_links(path, OFlags::DIRECTORY);
        let mut built = overlays;
        built.push(open(b"/dev")?);
        let proc = open(b"/proc")?;
        let ruleset = rules(proc.as_fd(), &built)?;
        Ok(Self { ruleset, built, proc })
    }

    /// For the rocker as it has been configured, with these places more.
    pub(crate) fn renew(&mut self, configured: &[OwnedFd]) -> Result<(), Errno> {
        let ruleset = rules(self.proc.as_fd(), &self.built)?;
        for place in configured {
            let kind = FileType::from_raw_mode(fstat(place)?.st_mode);
            let what = if kind == FileType::Directory { ALL } else { OF_A_FILE };
            sys::landlock_allow(ruleset.as_fd(), place.as_fd(), what)?;
        }
        self.ruleset = ruleset;
        Ok(())
    }

    /// Whether this is a part of what can be written to in the rocker as it was built.
    pub(crate) fn has(&self, place: BorrowedFd<'_>) -> Result<bool, Errno> {
        let device = fstat(place)?.st_dev;
        Ok(self.built.iter().any(|it| fstat(it).is_ok_and(|it| it.st_dev == device)))
    }

    /// For whoever is to be bound.
    pub(crate) fn ruleset(&self) -> BorrowedFd<'_> {
        self.ruleset.as_fd()
    }

    /// Does something that programs of the rocker may have laid traps for, links among them, in a
    /// process that can do as little there as they. It shares memory and descriptors with us, so
    /// what it opens and finds out is here.
    ///
    /// `EINTR`: it was ended meanwhile, as any process of the rocker may be.
    #[inline(never)] // What it has on its stack is for those who have a wall.
    pub(crate) fn behind(&self, act: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        let (mut act, mut done) = (Some(act), Err(Errno::INTR));
        let child = || {
            if let Some(act) = act.take() {
                done = sys::landlock_restrict(self.ruleset()).and_then(|()| act());
            }
            0
        };
        let patience_ns = u64::from(UNREAD_MS) * 1_000_000;
        sys::spawn(&mut Stack::new(), child, Table::Shared, patience_ns, || u64::MAX)?;
        done
    }
}

/// Of `/proc` a process may write to what is its own there, as the kernel says.
fn rules(proc: BorrowedFd<'_>, writable: &[OwnedFd]) -> Result<OwnedFd, Errno> {
    let ruleset = sys::landlock_ruleset(ALL, LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)?;
    let root = mounts::open_place(CWD, b"/", OFlags::DIRECTORY, ResolveFlags::empty())?;
    let allow = |place, what| sys::landlock_allow(ruleset.as_fd(), place, what);
    allow(root.as_fd(), READ)?;
    allow(proc, CHANGE)?;
    writable.iter().try_for_each(|place| allow(place.as_fd(), ALL))?;
    Ok(ruleset)
}

/// Whether the kernel can do all that is needed, by its answer to which version it has. Less would
/// be no wall.
fn suffices(abi: Result<u32, Errno>) -> Result<(), Refusal> {
    let words = match abi {
        Ok(ABI_MIN..) => return Ok(()),
        Ok(abi) => {
            format!("the kernel has Landlock ABI {abi}, and {ABI_MIN} is needed: Linux 6.12")
        }
        Err(Errno::NOSYS) => String::from("the kernel has no Landlock"),
        Err(Errno::OPNOTSUPP) => String::from("Landlock is not enabled: it is missing in lsm="),
        Err(errno) => return Err(errno.into()),
    };
    Err(Refusal { errno: Errno::OPNOTSUPP, words })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_all_is_refused() {
        let words = |abi| suffices(abi).err().map(|refusal| (refusal.errno, refusal.words));
        assert_eq!(words(Ok(6)), None);
        assert_eq!(words(Ok(7)), None);
        for (abi, wanted) in [
            (Ok(5), "the kernel has Landlock ABI 5, and 6 is needed: Linux 6.12"),
            (Err(Errno::NOSYS), "the kernel has no Landlock"),
            (Err(Errno::OPNOTSUPP), "Landlock is not enabled: it is missing in lsm="),
        ] {
            assert_eq!(words(abi), Some((Errno::OPNOTSUPP, wanted.into())));
        }
        assert_eq!(words(Err(Errno::PERM)), Some((Errno::PERM, String::new())));
    }
}
