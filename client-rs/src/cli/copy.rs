//! `rocker cp`: a file out of a living rocker, or into it, by its guard's hand and with the App's
//! rights.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use rocker_client::{OpenFile, OpenRocker};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, open, statat};
use rustix::io::Errno;
use rustix::process::umask;

use super::Fault;
use super::judge::first;
use super::living::{ANSWER_MAX, by_beginning};
use super::temporary::{Temporary, parent_of};
use super::units::sized;

/// The permissions of what comes from standard input.
const MODE_DEFAULT: u16 = 0o644;

/// The longest file that is written on this host if nothing else is said: an App may make one
/// that is longer than any disk.
const SIZE_MAX: u64 = 1 << 30;

/// The longest file that is copied, and the option that says so.
#[derive(Clone, Copy)]
pub(super) struct Max {
    pub(super) option: &'static str,
    pub(super) bytes: u64,
}

/// Why a file of this host is not opened.
pub(super) const IS_LINK: &str = "it is a link: name what it leads to";

const EXIST: protocol::Errno = protocol::Errno(17);

pub(super) const TOOMANYREFS: protocol::Errno = protocol::Errno(109);

/// Where a file comes from, or goes to.
#[derive(Debug, Eq, PartialEq)]
enum Side<'a> {
    /// `-`
    Stream,
    /// Of this host.
    Host(&'a Path),
    /// `NAME:PATH`
    Rocker(&'a str, &'a Path),
}

impl<'a> Side<'a> {
    /// What has a `/` before its first `:` is of this host: `./a:b`.
    fn new(words: &'a OsStr) -> Self {
        let bytes = words.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let name = colon.and_then(|at| core::str::from_utf8(&bytes[..at]).ok());
        match (bytes, name.filter(|name| !name.contains('/'))) {
            (b"-", _) => Self::Stream,
            (_, Some(name)) => {
                Self::Rocker(name, Path::new(OsStr::from_bytes(&bytes[name.len() + 1..])))
            }
            (_, None) => Self::Host(Path::new(words)),
        }
    }
}

pub(crate) fn copy(
    socket: &Path,
    from: &OsStr,
    to: &OsStr,
    max: Option<u64>,
) -> Result<ExitCode, Fault> {
    let max_or = |bytes| Max { option: "--max-size", bytes: max.unwrap_or(bytes) };
    let what = format!("copy {} to {}", from.display(), to.display());
    let attached = |name| {
        let entry = by_beginning(socket, name)?;
        OpenRocker::attach(socket, entry.name.as_str(), ANSWER_MAX).map_err(Fault::from)
    };
    let sides = (Side::new(from), Side::new(to));
    for side in [&sides.0, &sides.1] {
        if let Side::Rocker(name, path) = side
            && path.as_os_str().is_empty()
        {
            return Err(Fault::cannot(what, format_args!("{name}: needs a path")));
        }
    }
    match sides {
        (Side::Rocker(name, path), Side::Stream) => {
            let from = out_of(&mut attached(name)?, path, &what)?;
            regular(&from, &what)?;
            let to = io::stdout().as_fd().try_clone_to_owned();
            let copied = to.and_then(|to| copied(&from, &mut to.into(), max_or(u64::MAX)));
            copied.map_err(|error| match error.kind() {
                io::ErrorKind::BrokenPipe => Fault::Unread,
                _ => Fault::refused(&what, &error),
            })?;
        }
        (Side::Rocker(name, path), Side::Host(to)) => {
            let from = out_of(&mut attached(name)?, path, &what)?;
            out(&from, to, path.file_name(), max_or(SIZE_MAX), &what)?;
        }
        (Side::Stream, Side::Rocker(name, path)) => {
            let from = io::stdin().as_fd().try_clone_to_owned();
            let from = from.map_err(|error| Fault::refused(&what, &error))?;
            into(&mut attached(name)?, &File::from(from), MODE_DEFAULT, path, None, &what)?;
        }
        (Side::Host(from), Side::Rocker(name, path)) => {
            // A fifo would have us wait for somebody who writes to it.
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(from);
            let file = opened.map_err(|error| Fault::refused(&what, &error))?;
            let mode = regular(&file, &what)?;
            into(&mut attached(name)?, &file, mode, path, from.file_name(), &what)?;
        }
        _ => {
            let why = "one of the two has to read NAME:PATH, and the other not";
            return Err(Fault::cannot(what, why));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The permissions of a regular file, but for set ids, which are nobody's gift.
fn regular(file: &File, what: &str) -> Result<u16, Fault> {
    let found = file.metadata().map_err(|error| Fault::refused(what, &error))?;
    match found.file_type() {
        kind if kind.is_file() => {
            Ok(u16::try_from(found.permissions().mode() & 0o777).unwrap_or_default())
        }
        kind if kind.is_dir() => Err(Fault::cannot(what, "it is a directory")),
        _ => Err(Fault::cannot(what, "it is no regular file")),
    }
}

/// What the guard says of a path, in words that say more than the kernel's.
pub(super) fn refused(what: &str, fault: Fault) -> Fault {
    let errno = |fault: &Fault| match fault {
        Fault::Client(error) => error.errno(),
        Fault::Said(_) | Fault::Unread => None,
    };
    match errno(&fault).map(|errno| nix::errno::Errno::from_raw(errno.0.into())) {
        Some(nix::errno::Errno::EACCES) => {
            Fault::cannot(what, "the App may not, or it is no regular file")
        }
        Some(nix::errno::Errno::EXDEV) => {
            Fault::cannot(what, "a relative path leads out of where it begins")
        }
        // Not about the path.
        Some(nix::errno::Errno::ETOOMANYREFS) | None => fault,
        Some(errno) => Fault::cannot(what, errno.desc()),
    }
}

/// A file of a rocker's to read from.
fn out_of(rocker: &mut OpenRocker, path: &Path, what: &str) -> Result<File, Fault> {
    let opened = rocker.open_files(&[OpenFile::new(path)])?;
    first(opened).map_err(|fault| refused(what, fault))
}

/// Copies at most so much of a rocker's file to `to` on this host, or to this name in it, with its
/// permissions. What is there is replaced when all of it is written.
pub(super) fn out(
    from: &File,
    to: &Path,
    name: Option<&OsStr>,
    max: Max,
    what: &str,
) -> Result<(), Fault> {
    let mode = regular(from, what)?;
    let to = place(to, name, what)?;
    write(from, mode, to, max).map_err(|error| Fault::refused(what, &error))
}

/// Where on this host a file goes that is to be at `to`, or of this name in it: a directory, and
/// a name in that. Others may be able to write to the directory, so a link of that name leads
/// nowhere, whoever has put it there.
fn place(to: &Path, name: Option<&OsStr>, what: &str) -> Result<(OwnedFd, OsString), Fault> {
    let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match open(to, dir | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(dir) => Ok((dir, name)),
        Err(errno) => match to.file_name() {
            Some(name) => open(parent_of(to), dir, Mode::empty()).map(|dir| (dir, Some(name))),
            None => Err(errno),
        },
    };
    let (dir, name) = opened.map_err(|errno| Fault::refused(what, &errno.into()))?;
    let cannot = |why| Err(Fault::cannot(what, why));
    let Some(name) = name else { return cannot("it is a directory") };
    let kind = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match kind.map(|found| FileType::from_raw_mode(found.st_mode)) {
        Ok(FileType::RegularFile) | Err(Errno::NOENT) => Ok((dir, name.to_owned())),
        Ok(FileType::Directory) => cannot("it is a directory"),
        Ok(FileType::Symlink) => cannot(IS_LINK),
        Ok(_) => cannot("it is no regular file"),
        Err(errno) => Err(Fault::refused(what, &errno.into())),
    }
}

/// Copies at most so much, however long the file becomes meanwhile.
fn copied(from: &File, to: &mut File, max: Max) -> io::Result<()> {
    let Max { option, bytes: max } = max;
    let is_short = |bytes: u64| match bytes > max {
        true => Err(io::Error::other(format!("it is longer than {option} {}", sized(max)))),
        false => Ok(()),
    };
    is_short(from.metadata()?.len())?;
    is_short(io::copy(&mut from.take(max.saturating_add(1)), to)?)
}

fn write(from: &File, mode: u16, (dir, name): (OwnedFd, OsString), max: Max) -> io::Result<()> {
    let mut temporary = Temporary::within(dir, &name, 0o600)?;
    copied(from, &mut temporary.file, max)?;
    // As for any new file of the caller's: the App has chosen the mode.
    let masked = umask(Mode::empty());
    umask(masked);
    let mode = u32::from(mode) & !masked.bits();
    temporary.file.set_permissions(Permissions::from_mode(mode))?;
    temporary.publish()
}

/// Writes to a rocker's file at `path`, or of this name in it, and makes it if it is not there.
fn into(
    rocker: &mut OpenRocker,
    mut from: &File,
    mode: u16,
    path: &Path,
    name: Option<&OsStr>,
    what: &str,
) -> Result<(), Fault> {
    let directory = rocker.open_files(&[OpenFile::new(path).directory()])?;
    let path = match (first(directory), name) {
        (Ok(_), Some(name)) => path.join(name),
        (Ok(_), None) => return Err(Fault::cannot(what, "it is a directory")),
        (Err(_), _) => path.to_owned(),
    };
    let new = rocker.open_files(&[OpenFile::new(&path).write().create_new(mode)])?;
    let (mut to, is_new) = match first(new) {
        Ok(file) => (file, true),
        Err(Fault::Client(error)) if error.errno() == Some(EXIST) => {
            let old = rocker.open_files(&[OpenFile::new(&path).write().truncate()])?;
            (first(old).map_err(|fault| refused(what, fault))?, false)
        }
        Err(fault) => return Err(refused(what, fault)),
    };
    let copied = io::copy(&mut from, &mut to).and_then(|_| match is_new {
        // The guard lets nobody but the owner write to what it makes.
        true => to.set_permissions(Permissions::from_mode(mode.into())),
        false => Ok(()),
    });
    copied.map_err(|error| {
        if is_new {
            // Whether or not it can be: why is told already.
            let _ = rocker.delete(&path);
        }
        Fault::refused(what, &error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_colon_mean_a_rocker() {
        let side = |words| Side::new(OsStr::new(words));
        assert_eq!(side("-"), Side::Stream);
        assert_eq!(side("ab1:/etc/x"), Side::Rocker("ab1", Path::new("/etc/x")));
        assert_eq!(side("ab1:x:y"), Side::Rocker("ab1", Path::new("x:y")));
        assert_eq!(side(":x"), Side::Rocker("", Path::new("x")));
        assert_eq!(side("./a:b"), Side::Host(Path::new("./a:b")));
        assert_eq!(side("file"), Side::Host(Path::new("file")));
    }

    #[test]
    fn a_file_goes_where_no_other_kind_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dead")).unwrap();
        std::os::unix::fs::symlink(".", at("dots")).unwrap();
        let name = OsStr::new("file");
        let place = |to: &Path, name| match place(to, name, "copy") {
            Ok((_, name)) => Ok(name),
            Err(fault) => Err(fault.to_string()),
        };
        assert_eq!(place(dir.path(), Some(name)), Ok(name.to_owned()));
        assert_eq!(place(&at("file"), None), Ok(name.to_owned()));
        assert_eq!(place(&at("new"), Some(name)), Ok("new".into()));
        let refusal = |to: &Path, name| place(to, name).unwrap_err();
        assert!(refusal(dir.path(), None).ends_with("it is a directory"));
        for link in ["link", "dead", "dots"] {
            assert!(refusal(&at(link), Some(name)).ends_with("name what it leads to"), "{link}");
        }
        assert!(refusal(dir.path(), Some(OsStr::new("link"))).ends_with("name what it leads to"));
        assert!(refusal(Path::new("/dev/null"), None).ends_with("it is no regular file"));
    }
}
