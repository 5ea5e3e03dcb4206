//! root.2: finds what the caller named. Each path is resolved once; what is checked is the open
//! file, and what is mounted is that same file (SECURITY C3, C4, P1, P4).
//!
//! Any directory may keep its visitors waiting: whoever may list one can hold its lock for as long
//! as they like (`getdents(2)` to memory that a FUSE file is mapped to, and `open(2)` with
//! `O_CREAT`, which needs no permission to wait first). So can whoever freezes its file system, or
//! serves it. So the master's thread looks at what is in the kernel's cache, and another goes where
//! the kernel would have to wait.

use std::os::fd::OwnedFd;

use protocol::{Error, Item, Path, Rule, Step};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Statx, StatxFlags, flock,
    makedev, mkdirat, open, openat, openat2, readlinkat, statx,
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
                let top = openat2(CWD, dir.as_bytes(), top, Mode::empty(), haste.resolve())?;
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

/// Whether a path may be waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Haste {
    /// What the kernel has to wait for is `EAGAIN`; all is, before Linux 5.12.
    Now,
    /// In a thread.
    InTime,
}

impl Haste {
    const fn resolve(self) -> ResolveFlags {
        match self {
            Self::Now => ResolveFlags::CACHED,
            Self::InTime => ResolveFlags::empty(),
        }
    }

    /// What is known of a file, whose server is not asked in haste.
    fn status(self, file: &OwnedFd) -> Result<Statx, Errno> {
        let sync = match self {
            Self::Now => AtFlags::STATX_DONT_SYNC,
            Self::InTime => AtFlags::empty(),
        };
        statx(file, c"", AtFlags::EMPTY_PATH | sync, StatxFlags::BASIC_STATS)
    }
}

/// A path of a caller's, that of a package or a data dir.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'a> {
    pub(crate) item: Item,
    pub(crate) path: Path<'a>,
    pub(crate) reach: Reach<'a>,
    pub(crate) caller: u32,
}

/// What it leads to.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) file: OwnedFd,
    status: Statx,
    /// Whether it is more than a mere place (`O_PATH`).
    pub(crate) is_open: bool,
}

impl Look<'_> {
    /// None if the kernel would have to wait.
    pub(crate) fn now(self) -> Option<Result<Place, Error>> {
        let waits = [Errno::AGAIN, Errno::INVAL].map(failed);
        match self.find(Haste::Now) {
            Err(error) if waits.contains(&error) => None,
            place => Some(place),
        }
    }

    /// What a thread does.
    pub(crate) fn in_time(self) -> impl FnOnce() -> Result<Place, Error> + Send + use<> {
        let Self { item, path, reach, caller } = self;
        let path = path.as_bytes().to_vec();
        let below = match reach {
            Reach::Anywhere => None,
            Reach::Below(dir) => Some(dir.as_bytes().to_vec()),
        };
        move || {
            let path_of = |bytes| Path::new(bytes).map_err(|rule| broken(rule, item));
            let below = below.as_deref().map(path_of).transpose()?;
            let (path, reach) = (path_of(&path)?, below.map_or(Reach::Anywhere, Reach::Below));
            Look { item, path, reach, caller }.find(Haste::InTime)
        }
    }

    fn find(self, haste: Haste) -> Result<Place, Error> {
        if self.item == Item::Package {
            self.find_package(haste)
        } else {
            self.find_data_dir(haste)
        }
    }

    fn find_package(self, haste: Haste) -> Result<Place, Error> {
        let file = self.reach.open(self.path, OFlags::empty(), haste).map_err(failed)?;
        let status = haste.status(&file).map_err(failed)?;
        if FileType::from_raw_mode(status.stx_mode.into()) != FileType::RegularFile {
            return Err(broken(Rule::WrongType, Item::Package));
        }
        Ok(Place { file, status, is_open: false })
    }

    /// The `.rocker` directory in the data dir, which is made at first use.
    /// Root's may lie anywhere, but through no link that is another's; others than root may name
    /// directories of their own only.
    fn find_data_dir(self, haste: Haste) -> Result<Place, Error> {
        // The layers of one rocker are nobody else's data.
        if self.path.components().any(|name| name == b".rocker") {
            return Err(broken(Rule::Forbidden, Item::DataDir));
        }
        let opened = match self.reach {
            Reach::Anywhere => open_through_links_of_root(self.path, haste),
            Reach::Below(_) => self.reach.open(self.path, OFlags::DIRECTORY, haste),
        };
        let data = opened.map_err(|errno| match errno {
            Errno::NOENT => broken(Rule::NoSuchDir, Item::DataDir),
            Errno::NOTDIR => broken(Rule::NotADir, Item::DataDir),
            errno => failed(errno),
        })?;
        if matches!(self.reach, Reach::Below(_))
            && haste.status(&data).map_err(failed)?.stx_uid != self.caller
        {
            return Err(broken(Rule::NotTheCallers, Item::DataDir));
        }
        let is_open = haste == Haste::InTime;
        let how = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let how = if is_open { how | OFlags::RDONLY } else { how | OFlags::PATH };
        let open_ours = || openat2(&data, c".rocker", how, Mode::empty(), haste.resolve());
        let opened = match open_ours() {
            Err(Errno::NOENT) if haste == Haste::Now => Err(Errno::AGAIN),
            Err(Errno::NOENT) => match mkdirat(&data, c".rocker", Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => open_ours(),
                Err(errno) => return Err(failed(errno)),
            },
            answer => answer,
        };
        let file = opened.map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR => broken(Rule::NotOurs, Item::DataDir),
            errno => failed(errno),
        })?;
        // The data dir may be the App's own, so it could have put a directory of its own there.
        let status = haste.status(&file).map_err(failed)?;
        if status.stx_uid != 0 || status.stx_mode & 0o077 != 0 {
            return Err(broken(Rule::NotOurs, Item::DataDir));
        }
        Ok(Place { file, status, is_open })
    }
}

impl Place {
    /// It as a package.
    pub(crate) fn package(&self) -> Key {
        let Statx { stx_mtime: modified, stx_ctime: changed, .. } = self.status;
        Key {
            device: self.device(),
            inode: self.status.stx_ino,
            size: self.status.stx_size,
            modified: (modified.tv_sec, modified.tv_nsec.into()),
            changed: (changed.tv_sec, changed.tv_nsec.into()),
        }
    }

    /// It as a data dir.
    pub(crate) fn data_dir(&self) -> overlays::Key {
        overlays::Key { device: self.device(), inode: self.status.stx_ino }
    }

    fn device(&self) -> u64 {
        makedev(self.status.stx_dev_major, self.status.stx_dev_minor)
    }

    /// Opens a directory that is a mere place. It has no path any more, but may have a server.
    pub(crate) fn open_dir(&mut self) -> Result<(), Error> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.file = openat(&self.file, c".", how, Mode::empty()).map_err(failed)?;
        self.is_open = true;
        Ok(())
    }
}

/// A directory of root's to write in: of the links that lead there each must be root's, for
/// whoever owns another could turn it to where root's files are to appear.
fn open_through_links_of_root(path: Path<'_>, haste: Haste) -> Result<OwnedFd, Errno> {
    let place = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | haste.resolve();
    match openat2(CWD, path.as_bytes(), place | OFlags::DIRECTORY, Mode::empty(), resolve) {
        // To read a link may take long.
        Err(Errno::LOOP) if haste == Haste::Now => return Err(Errno::AGAIN),
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
        let status = haste.status(&next)?;
        if FileType::from_raw_mode(status.stx_mode.into()) != FileType::Symlink {
            here = next;
            continue;
        }
        links += 1;
        if status.stx_uid != 0 || links > LINKS_MAX {
            return Err(Errno::LOOP);
        }
        let target = readlinkat(&next, c"", vec![])?.into_bytes();
        if target.starts_with(b"/") {
            here = top()?;
        }
        add(&mut left, &target);
    }
    match FileType::from_raw_mode(haste.status(&here)?.stx_mode.into()) {
        FileType::Directory => Ok(here),
        _ => Err(Errno::NOTDIR),
    }
}

/// As many as the kernel follows (`man 7 path_resolution`).
const LINKS_MAX: u32 = 40;

/// Locks a data dir. The lock lasts as long as any copy of the descriptor: the guard's life,
/// and as long as its overlays are kept.
pub(crate) fn lock(ours: &OwnedFd) -> Result<(), Error> {
    match flock(ours, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(IN_USE),
        Err(errno) => Err(failed(errno)),
    }
}

pub(crate) const IN_USE: Error = broken(Rule::InUse, Item::DataDir);

pub(crate) const TOO_SLOW: Error =
    Error::Failed { step: Step::CreateGuard, errno: protocol::Errno::TIMEDOUT };

pub(crate) fn failed(errno: Errno) -> Error {
    Error::Failed { step: Step::CreateGuard, errno: protocol::socket::errno(errno) }
}

const fn broken(rule: Rule, item: Item) -> Error {
    Error::Invalid { rule, item }
}
