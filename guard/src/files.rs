//! exec.1 for files: open, delete and link what is in the rocker at its caller's command.
//!
//! The guard has the App's ids and no privilege over files, so an App's rights are all there
//! are. Three things remain to be minded, for an App may have put anything anywhere, and change
//! it meanwhile:
//! - A link may lead to the guard's own `/proc/self`. Magic links are never followed, and no file
//!   of a `proc` is ever handed out: through one the caller would write into the guard.
//! - Opening a fifo, a device or a file with a lease waits. All is opened without waiting.
//! - A tree may grow while it is deleted, and be as deep as it likes. It is deleted with two open
//!   directories, however deep, and until a deadline. Paths are never put together, and no name
//!   that is a link is ever gone through.

use core::cell::Cell;
use core::ffi::CStr;
use core::fmt::Write as _;
use core::mem::MaybeUninit;

use protocol::limits::DELETE_MS;
use protocol::socket::now_ns;
use protocol::{FilePath, How, OpenFile};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, fcntl_getfl,
    fcntl_setfl, fstat, fstatfs, openat2, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::mounts;
use crate::sys;

/// `man 2 statfs`
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// The directory that a relative path begins at, and how far it may lead: an absolute one leads
/// anywhere in the rocker, another one nowhere but below the work dir.
struct Base {
    directory: Option<OwnedFd>,
    resolve: ResolveFlags,
}

impl Base {
    fn of(path: FilePath<'_>, work_dir: &[u8]) -> Result<Self, Errno> {
        if path.is_absolute() {
            return Ok(Self { directory: None, resolve: ResolveFlags::NO_MAGICLINKS });
        }
        let links = ResolveFlags::NO_MAGICLINKS;
        let directory = mounts::open_place(CWD, work_dir, OFlags::DIRECTORY, links)?;
        Ok(Self { directory: Some(directory), resolve: ResolveFlags::BENEATH | links })
    }

    fn open(&self, path: &[u8], how: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let directory = self.directory.as_ref().map_or(CWD, AsFd::as_fd);
        openat2(directory, path, how | OFlags::CLOEXEC, mode, self.resolve)
    }

    /// The directory that holds what `path` names.
    fn open_parent<'p>(&self, path: FilePath<'p>) -> Result<(OwnedFd, &'p [u8]), Errno> {
        let (parent, name) = path.split().ok_or(Errno::INVAL)?;
        Ok((self.open(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?, name))
    }
}

/// Opens one file.
///
/// `EINVAL`: it is asked for in a way that is not known here. `EACCES`: it is of a kind that was
/// not asked for, or of a `proc`. `EAGAIN`: another process has a lease on it. `EXDEV`: a path
/// below the work dir leads out of it.
pub(crate) fn open(file: &OpenFile<'_>, work_dir: &[u8]) -> Result<OwnedFd, Errno> {
    let how = flags(file.how).ok_or(Errno::INVAL)?;
    let mode = Mode::from_raw_mode(u32::from(file.mode));
    if !Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO).contains(mode) {
        return Err(Errno::INVAL);
    }
    let mode = if how.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    let never_waits = OFlags::NONBLOCK | OFlags::NOCTTY;
    let found =
        Base::of(file.path, work_dir)?.open(file.path.as_bytes(), how | never_waits, mode)?;
    let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
    let is_plain = matches!(kind, FileType::RegularFile | FileType::Directory);
    if is_of_proc(found.as_fd())? || !(is_plain || file.how.has(How::ANY_KIND)) {
        return Err(Errno::ACCESS);
    }
    if !file.how.has(How::NON_BLOCKING) {
        fcntl_setfl(&found, fcntl_getfl(&found)?.difference(OFlags::NONBLOCK))?;
    }
    Ok(found)
}

/// None if it is not to be had. `O_PATH` is not: what it opens is no file to work with, but a way
/// around the check of its kind.
fn flags(how: How) -> Option<OFlags> {
    let access = match (how.has(How::READ), how.has(How::WRITE)) {
        (true, true) => OFlags::RDWR,
        (true, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (false, false) => return None,
    };
    let one_by_one = [
        (How::CREATE, OFlags::CREATE),
        (How::EXCLUSIVE, OFlags::EXCL),
        (How::TRUNCATE, OFlags::TRUNC),
        (How::APPEND, OFlags::APPEND),
        (How::DIRECTORY, OFlags::DIRECTORY),
        (How::NO_FOLLOW, OFlags::NOFOLLOW),
    ];
    // Truncating what is read only is undefined: `man 2 open`.
    let is_odd = how.has(How::TRUNCATE) && !how.has(How::WRITE);
    let all = one_by_one.iter().filter(|(ours, _)| how.has(*ours));
    (!how.is_unknown() && !is_odd).then(|| all.fold(access, |flags, (_, theirs)| flags | *theirs))
}

fn is_of_proc(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    // As long as a machine's word; the number itself is short.
    Ok(u64::try_from(fstatfs(file)?.f_type).is_ok_and(|kind| kind == PROC_SUPER_MAGIC))
}

/// Makes a symbolic link. `EINVAL` if the path has no name at its end.
pub(crate) fn symlink(
    target: FilePath<'_>,
    path: FilePath<'_>,
    work_dir: &[u8],
) -> Result<(), Errno> {
    let (parent, name) = Base::of(path, work_dir)?.open_parent(path)?;
    symlinkat(target.as_bytes(), parent, name)
}

/// Deletes a file, a link, an empty directory; with `tree` a directory with all that is in it.
/// `meanwhile` is called now and then.
///
/// `EBUSY`: something is mounted there, or below. `ETIME`: it takes longer, and is to be ordered
/// again. Some of it is left then, as when anything else fails.
#[inline(never)] // What it has on its stack is for those who ask for it.
pub(crate) fn delete(
    path: FilePath<'_>,
    tree: bool,
    work_dir: &[u8],
    mut meanwhile: impl FnMut(),
) -> Result<(), Errno> {
    let (parent, name) = Base::of(path, work_dir)?.open_parent(path)?;
    match unlinkat(&parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        answer => return answer,
    }
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if tree => {}
        answer => return answer,
    }
    let top = open_directory(parent.as_fd(), name)?;
    let deadline_ns = now_ns() + u64::from(DELETE_MS) * 1_000_000;
    let clearing = Clearing { top, next_name: Cell::new(0), deadline_ns };
    loop {
        clearing.pass(&mut meanwhile)?;
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            // There was more, or it grows.
            Err(Errno::NOTEMPTY | Errno::EXIST) => clearing.is_in_time()?,
            answer => return answer,
        }
    }
}

/// The emptying of one directory. What is found deeper than its children is moved up to be one:
/// so no more than two directories are open however deep it is, each is moved once, and nothing
/// depends on where `..` leads, which an App can change at any time. What the kernel does not let
/// be moved, an overlay's lower directories, is gone into instead, each time from the top.
struct Clearing {
    top: OwnedFd,
    /// What the next one that is moved up is called.
    next_name: Cell<u32>,
    deadline_ns: u64,
}

/// Of a file in its directory.
type Name = heapless::CString<256>;

impl Clearing {
    fn is_in_time(&self) -> Result<(), Errno> {
        if now_ns() < self.deadline_ns { Ok(()) } else { Err(Errno::TIME) }
    }

    /// One way down from the top, to a directory that has no other in it any more.
    fn pass(&self, meanwhile: &mut impl FnMut()) -> Result<(), Errno> {
        let Some(name) = self.clear(self.top.as_fd(), true, meanwhile)? else { return Ok(()) };
        let mut here = open_directory(self.top.as_fd(), name.as_bytes())?;
        while let Some(name) = self.clear(here.as_fd(), false, meanwhile)? {
            here = open_directory(here.as_fd(), name.as_bytes())?;
        }
        Ok(())
    }

    /// Deletes all in `here` but directories with something in them, which it moves up. The first
    /// that cannot be moved is given back, to be gone into.
    fn clear(
        &self,
        here: BorrowedFd<'_>,
        is_top: bool,
        meanwhile: &mut impl FnMut(),
    ) -> Result<Option<Name>, Errno> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = openat2(here, c".", how, Mode::empty(), ResolveFlags::BENEATH)?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(list, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            meanwhile();
            self.is_in_time()?;
            match unlinkat(here, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            }
            match unlinkat(here, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                // It is none any more: the next pass sees to it.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => continue,
                Err(error) => return Err(error),
            }
            if is_top || self.move_up(here, name).is_err() {
                let name = Name::from_bytes_with_nul(name.to_bytes_with_nul());
                return name.map(Some).map_err(|_| Errno::NAMETOOLONG);
            }
        }
        Ok(None)
    }

    fn move_up(&self, here: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        loop {
            let number = self.next_name.get();
            self.next_name.set(number.wrapping_add(1));
            let mut new = heapless::String::<16>::new();
            write!(new, "rocker.{number:x}").map_err(|_| Errno::NAMETOOLONG)?;
            match renameat_with(here, name, &self.top, new.as_str(), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => self.is_in_time()?,
                answer => return answer,
            }
        }
    }
}

/// Opens a directory that is in `parent`, and no link or mount; one that its owner has locked
/// itself out of is opened up.
fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let directory = mounts::open_place(parent, name, OFlags::DIRECTORY, resolve)?;
    if !Mode::from_raw_mode(fstat(&directory)?.st_mode).contains(Mode::RWXU) {
        // If it cannot be, what is done in it next says so.
        let _ = sys::chmod(directory.as_fd(), Mode::RWXU);
    }
    Ok(directory)
}
