//! `rocker cp`: a file out of a living rocker, or into it, by its guard's hand and with the App's
//! rights.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protocol::Errno;
use rocker_client::{OpenFile, OpenRocker};

use super::Fault;
use super::judge::first;
use super::living::{ANSWER_MAX, by_beginning};
use super::temporary::Temporary;

/// The permissions of what comes from standard input.
const MODE_DEFAULT: u16 = 0o644;

const EXIST: Errno = Errno(17);

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

pub(crate) fn copy(socket: &Path, from: &OsStr, to: &OsStr) -> Result<ExitCode, Fault> {
    let what = format!("copy {} to {}", from.display(), to.display());
    let attached = |name| {
        let entry = by_beginning(socket, name)?;
        OpenRocker::attach(socket, entry.name.as_str(), ANSWER_MAX).map_err(Fault::from)
    };
    match (Side::new(from), Side::new(to)) {
        (Side::Rocker(name, path), Side::Stream) => {
            let (from, _) = out_of(&mut attached(name)?, path, &what)?;
            let to = io::stdout().as_fd().try_clone_to_owned();
            let copied = to.and_then(|to| io::copy(&mut &from, &mut File::from(to)));
            match copied {
                // Who reads it has read enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::FAILURE);
                }
                copied => copied.map_err(|error| Fault::refused(&what, &error))?,
            };
        }
        (Side::Rocker(name, path), Side::Host(to)) => {
            let (from, mode) = out_of(&mut attached(name)?, path, &what)?;
            let to = place(to, path.file_name(), &what)?;
            write(&from, mode, &to).map_err(|error| Fault::refused(&what, &error))?;
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
fn refused(what: &str, fault: Fault) -> Fault {
    let errno = |fault: &Fault| match fault {
        Fault::Client(error) => error.errno(),
        Fault::Said(_) => None,
    };
    match errno(&fault).map(|errno| nix::errno::Errno::from_raw(errno.0.into())) {
        Some(nix::errno::Errno::EACCES) => {
            Fault::cannot(what, "the App may not, or it is no regular file")
        }
        Some(nix::errno::Errno::EXDEV) => {
            Fault::cannot(what, "a relative path leads out of where it begins")
        }
        Some(errno) => Fault::cannot(what, errno.desc()),
        None => fault,
    }
}

/// A file of a rocker's to read from, and its permissions.
fn out_of(rocker: &mut OpenRocker, path: &Path, what: &str) -> Result<(File, u16), Fault> {
    let opened = rocker.open_files(&[OpenFile::new(path)])?;
    let file = first(opened).map_err(|fault| refused(what, fault))?;
    let mode = regular(&file, what)?;
    Ok((file, mode))
}

/// Where on this host a file goes that is to be at `to`, or of this name in it.
fn place(to: &Path, name: Option<&OsStr>, what: &str) -> Result<PathBuf, Fault> {
    let cannot = |why| Err(Fault::cannot(what, why));
    match (fs::metadata(to), name) {
        (Ok(found), Some(name)) if found.is_dir() => place(&to.join(name), None, what),
        (Ok(found), _) if found.is_dir() => cannot("it is a directory"),
        // What a link leads to is replaced, and not the link.
        (Ok(found), _) if found.is_file() => {
            to.canonicalize().map_err(|error| Fault::refused(what, &error))
        }
        (Ok(_), _) => cannot("it is no regular file; \"-\" is standard output"),
        (Err(_), _) if to.is_symlink() => cannot("there is a link that leads nowhere"),
        (Err(_), _) => Ok(to.to_owned()),
    }
}

fn write(mut from: &File, mode: u16, to: &Path) -> io::Result<()> {
    let mut temporary = Temporary::beside(to, 0o600)?;
    io::copy(&mut from, &mut temporary.file)?;
    temporary.file.set_permissions(Permissions::from_mode(mode.into()))?;
    temporary.publish(to)
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
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dead")).unwrap();
        let name = OsStr::new("file");
        let place = |to: &Path, name| place(to, name, "copy").map_err(|fault| fault.to_string());
        let real = dir.path().canonicalize().unwrap().join("file");
        assert_eq!(place(dir.path(), Some(name)), Ok(real.clone()));
        assert_eq!(place(&at("link"), None), Ok(real));
        assert_eq!(place(&at("new"), Some(name)), Ok(at("new")));
        let refusal = |to: &Path, name| place(to, name).unwrap_err();
        assert!(refusal(dir.path(), None).ends_with("it is a directory"));
        assert!(refusal(&at("dead"), None).ends_with("leads nowhere"));
        assert!(refusal(Path::new("/dev/null"), None).contains("standard output"));
    }
}
