//! What directories were when somebody looked, and whether they are that still.
//!
//! An overlay remembers each name that was looked up in it, and would not notice what is done to
//! its layers after that. So the kernel is made to forget them between two rockers, and the top
//! directories that are overlaid are looked up anew before somebody waits for that. Marks say what
//! that has found below: while these are the same there is nothing to forget (ARCHITECTURE.md).

use rustix::fd::BorrowedFd;
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::{Errno, Result};
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fspick};
use rustix::time::{ClockId, clock_gettime};

use crate::limits::MARKS_MAX;
use crate::program::Strings;

/// The upper directory, in `.rocker`, of the overlay over the root mount.
pub const UPPER: &str = "up";

/// A directory, as it was: device, inode, and when it had changed last (`st_ctime`), in seconds and
/// nanoseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Mark([u64; 4]);

impl Mark {
    /// What there is, following no link, and asking no server; an empty name is the directory
    /// itself.
    ///
    /// # Errors
    ///
    /// The kernel's; `ENOTDIR` for anything else than a directory.
    pub fn of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Self> {
        let how = AtFlags::EMPTY_PATH
            .union(AtFlags::SYMLINK_NOFOLLOW)
            .union(AtFlags::NO_AUTOMOUNT)
            .union(AtFlags::STATX_DONT_SYNC);
        let wanted = StatxFlags::TYPE.union(StatxFlags::INO).union(StatxFlags::CTIME);
        let is = statx(directory, name, how, wanted)?;
        if FileType::from_raw_mode(is.stx_mode.into()) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let device = u64::from(is.stx_dev_major) << 32 | u64::from(is.stx_dev_minor);
        let changed = is.stx_ctime;
        Ok(Self([device, is.stx_ino, changed.tv_sec.cast_unsigned(), changed.tv_nsec.into()]))
    }

    /// Whether its next change will have another time, now. Many file systems write down ticks of
    /// some milliseconds, and some (ext4 with small inodes) seconds.
    pub fn is_settled(&self) -> bool {
        self.was_settled_at(clock_gettime(ClockId::RealtimeCoarse).tv_sec)
    }

    const fn was_settled_at(&self, now_s: i64) -> bool {
        let [_, _, seconds, _] = self.0;
        seconds.cast_signed() < now_s - 1
    }
}

/// Marks of an overlay's layers: 32 bytes each, numbers as this machine has them.
#[derive(Clone, Debug, Default)]
pub struct Marks(heapless::Vec<u8, MARKS_MAX>);

impl Marks {
    /// What lies below an overlay at these names: its upper directory, and for each name what the
    /// upper one has (zeros: nothing) and the lower one. None, if the kernel cannot say, or if
    /// there is no room.
    pub fn of(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>, names: Strings<'_>) -> Option<Self> {
        let mut marks = Self::default();
        look(upper, lower, names, |mark| marks.add(mark))?;
        Some(marks)
    }

    fn add(&mut self, mark: Mark) -> Option<()> {
        mark.0.iter().try_for_each(|number| self.0.extend_from_slice(&number.to_ne_bytes())).ok()
    }

    /// Whether the next change of any of them will be seen.
    pub fn are_settled(&self) -> bool {
        let (numbers, _) = self.0.as_chunks();
        let mut marks = numbers.as_chunks().0.iter();
        marks.all(|mark| Mark(mark.map(u64::from_ne_bytes)).is_settled())
    }

    /// To be compared with others.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Whether these marks ([`Marks::as_bytes`]) are what lies below an overlay now.
pub fn are_still(
    marks: &[u8],
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    names: Strings<'_>,
) -> bool {
    let (numbers, rest) = marks.as_chunks();
    let (marks, more) = numbers.as_chunks();
    let mut were = marks.iter().map(|mark| Mark(mark.map(u64::from_ne_bytes)));
    let is_next = |is| were.next().filter(|&was| was == is).map(drop);
    let are_equal = look(upper, lower, names, is_next).is_some();
    are_equal && were.next().is_none() && rest.is_empty() && more.is_empty()
}

/// Shows each mark; none if the kernel cannot say one, or as soon as `show` says so.
fn look(
    upper: BorrowedFd<'_>,
    lower: BorrowedFd<'_>,
    names: Strings<'_>,
    mut show: impl FnMut(Mark) -> Option<()>,
) -> Option<()> {
    show(Mark::of(upper, b"").ok()?)?;
    for name in names.texts() {
        show(match Mark::of(upper, name) {
            Err(Errno::NOENT) => Mark::default(),
            found => found.ok()?,
        })?;
        show(Mark::of(lower, name).ok()?)?;
    }
    Some(())
}

/// Makes an overlay forget the names that were looked up in it, and that nobody has open. A
/// reconfiguration, even to the same, does that (`reconfigure_super` calls `shrink_dcache_sb`).
///
/// # Errors
///
/// The kernel's.
pub fn forget_names(overlay: BorrowedFd<'_>) -> Result<()> {
    let how = FsPickFlags::FSPICK_EMPTY_PATH.union(FsPickFlags::FSPICK_CLOEXEC);
    fsconfig_reconfigure(fspick(overlay, c"", how)?)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::fs;
    use std::os::fd::AsFd as _;
    use std::path::{Path, PathBuf};

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            let name = std::format!("rocker-mark-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn marks_tell_what_changes() {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.0.join(name);
        for dir in ["up", "low", "low/a", "low/b"] {
            fs::create_dir(at(dir)).unwrap();
        }
        let open = |path: &Path| fs::File::open(path).unwrap();
        let (up, low) = (open(&at("up")), open(&at("low")));
        let marks = || {
            let names = Strings::new(b"a\0b\0").unwrap();
            Marks::of(up.as_fd(), low.as_fd(), names).unwrap()
        };
        let are_still = |were: &Marks| {
            let names = Strings::new(b"a\0b\0").unwrap();
            super::are_still(were.as_bytes(), up.as_fd(), low.as_fd(), names)
        };
        let mut was = marks();
        assert!(are_still(&was));
        for length in 0..was.0.len() {
            let part = Marks(was.0[..length].iter().copied().collect());
            assert!(!are_still(&part), "{length}");
        }
        assert_eq!(was.as_bytes().len(), 32 * 5);
        assert_eq!(was.as_bytes(), marks().as_bytes());
        // What has changed just now could do so again, and nobody would see it.
        assert!(!was.are_settled());
        let changes: [&dyn Fn(); 4] = [
            &|| fs::create_dir(at("up/a")).unwrap(),
            &|| fs::create_dir(at("up/a/new")).unwrap(),
            &|| {
                fs::set_permissions(
                    at("low/b"),
                    std::os::unix::fs::PermissionsExt::from_mode(0o700),
                )
                .unwrap()
            },
            &|| {
                fs::rename(at("low/a"), at("low/was")).unwrap();
                fs::create_dir(at("low/a")).unwrap();
            },
        ];
        for change in changes {
            // What file systems write down is the time of the kernel's last tick.
            let now = || clock_gettime(ClockId::RealtimeCoarse);
            let tick = now();
            while now() == tick {
                std::thread::yield_now();
            }
            change();
            let is = marks();
            assert_ne!(was.as_bytes(), is.as_bytes());
            assert!(!are_still(&was) && are_still(&is));
            was = is;
        }
        fs::remove_dir(at("low/a")).unwrap();
        fs::write(at("low/a"), "no directory").unwrap();
        assert_eq!(Mark::of(low.as_fd(), b"a"), Err(Errno::NOTDIR));
        assert!(Marks::of(up.as_fd(), low.as_fd(), Strings::new(b"a\0").unwrap()).is_none());
        let many = b"b\0".repeat(MARKS_MAX / 64);
        let names = |names| Strings::new(names).unwrap();
        assert!(Marks::of(up.as_fd(), low.as_fd(), names(&many)).is_none());
        assert!(Marks::of(up.as_fd(), low.as_fd(), names(&many[2..])).is_some());
    }

    #[test]
    fn a_mark_is_settled_when_its_next_change_has_another_second() {
        let mark = Mark([1, 2, 100, 999_999_999]);
        let was_settled = [99, 100, 101, 102].map(|now_s| mark.was_settled_at(now_s));
        assert_eq!(was_settled, [false, false, false, true]);
        assert!(Mark::default().was_settled_at(2));
        let [device, inode, seconds, ns] = mark.0;
        for other in [
            Mark([device + 1, inode, seconds, ns]),
            Mark([device, inode + 1, seconds, ns]),
            Mark([device, inode, seconds + 1, ns]),
            Mark([device, inode, seconds, ns - 1]),
        ] {
            let bytes = |mark: Mark| {
                let mut marks = Marks::default();
                marks.add(mark).unwrap();
                marks.0
            };
            assert_ne!(bytes(mark), bytes(other));
        }
    }
}
