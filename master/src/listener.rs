//! The socket, and the directory it is in: `/run/rocker`.
//!
//! ```text
//! master.sock  0600, or 0666 where the policy names others than root: what they may ask is
//!              decided by the kernel's word on who they are
//! master.lock  one master per socket
//! rockers/     0700: see residue.rs
//! app/         0755, empty: a place to mount packages for callers that name none
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, chmodat, flock, fstat, lstat, mkdirat,
    open, openat, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};

/// A listening socket that goes from the file system when this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    state_dir: OwnedFd,
    name: PathBuf,
    /// Held for as long as this master serves the socket.
    _lock: OwnedFd,
    /// Closed to take in one connection, and shed it, when there are no descriptors left.
    spare: Option<OwnedFd>,
}

/// What waits at the socket.
pub(crate) enum Knock {
    /// A caller.
    Caller(OwnedFd),
    /// Nobody.
    Nobody,
    /// There was no descriptor to be had for a caller, who has been turned away.
    Shed,
}

impl Listener {
    /// Prepares the directory, takes the lock, and listens. Errors are one line each.
    pub(crate) fn new(path: &Path, for_root_alone: bool) -> Result<Self, String> {
        let cannot = |what: &str, why: &dyn core::fmt::Display| {
            format!("cannot {what} {}: {why}", path.display())
        };
        let (true, Some(dir), Some(name)) = (path.is_absolute(), path.parent(), path.file_name())
        else {
            return Err(cannot("listen on", &"it must be an absolute path of a file"));
        };
        // What is at this name is removed further down: that must not be somebody's file.
        match lstat(path).map(|found| FileType::from_raw_mode(found.st_mode)) {
            Ok(FileType::Socket) | Err(Errno::NOENT) => {}
            Ok(_) => return Err(cannot("listen on", &"it is there and is no socket")),
            Err(error) => return Err(cannot("listen on", &error)),
        }
        let state_dir = open_state_dir(dir)?;
        let mut lock_name = PathBuf::from(name);
        lock_name.set_extension("lock");
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&state_dir, &lock_name, how, Mode::RUSR | Mode::WUSR)
            .map_err(|error| cannot("lock", &error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => cannot("listen on", &"another rocker-master serves it"),
            error => cannot("lock", &error),
        })?;
        let mode = if for_root_alone { 0o600 } else { 0o666 };
        let socket = Self::bind(path, &state_dir, name.as_ref(), Mode::from_raw_mode(mode))
            .map_err(|error| cannot("listen on", &error))?;
        let spare = Some(spare().map_err(|error| cannot("listen on", &error))?);
        Ok(Self { socket, state_dir, name: name.into(), _lock: lock, spare })
    }

    /// What an earlier master left at this name is removed under the lock.
    fn bind(path: &Path, state_dir: &OwnedFd, name: &Path, mode: Mode) -> Result<OwnedFd, Errno> {
        match unlinkat(state_dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        chmodat(state_dir, name, mode, AtFlags::empty())?;
        listen(&socket, 256)?;
        Ok(socket)
    }

    /// To wait for callers.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// To keep records in.
    pub(crate) fn state_dir(&self) -> &OwnedFd {
        &self.state_dir
    }

    /// Takes in the next caller. A caller that cannot be taken in is turned away: left in the
    /// queue it would keep the event loop spinning.
    pub(crate) fn accept(&mut self) -> Knock {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(&self.socket, flags) {
            Ok(connection) => Knock::Caller(connection),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                self.spare = None;
                let shed = accept_with(&self.socket, flags);
                drop(shed);
                self.spare = spare().ok();
                Knock::Shed
            }
            Err(_) => Knock::Nobody,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The next master removes it if this one cannot.
        let _ = unlinkat(&self.state_dir, &self.name, AtFlags::empty());
    }
}

fn spare() -> Result<OwnedFd, Errno> {
    open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens the directory, making its last component, and refuses one that others can write to:
/// they could put a socket of their own there.
fn open_state_dir(dir: &Path) -> Result<OwnedFd, String> {
    let cannot = |why: &dyn core::fmt::Display| format!("cannot use {}: {why}", dir.display());
    let mode = Mode::from_raw_mode(0o755);
    match mkdirat(CWD, dir, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(cannot(&error)),
    }
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let state_dir = open(dir, how, Mode::empty()).map_err(|error| cannot(&error))?;
    let status = fstat(&state_dir).map_err(|error| cannot(&error))?;
    if status.st_uid != 0 || status.st_mode & 0o022 != 0 {
        return Err(cannot(&"it must belong to root, and nobody else may write there"));
    }
    match mkdirat(state_dir.as_fd(), c"app", mode) {
        Ok(()) | Err(Errno::EXIST) => Ok(state_dir),
        Err(error) => Err(cannot(&error)),
    }
}
