//! The guard's program, taken once at start-up.
//!
//! Guards are executed from a sealed copy in memory: nobody who gains the right to write the
//! file, and no package manager half way through an update, changes what runs as root
//! (CVE-2019-5736 and its class). Where the host forbids that, from the file itself.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

/// Why there is no guard to start.
#[derive(Debug)]
pub struct NoGuard {
    path: PathBuf,
    why: String,
}

impl core::fmt::Display for NoGuard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "cannot use the guard {}: {}", self.path.display(), self.why)
    }
}

/// Where the guard is installed: beside this program, or in the libexec directory next to it.
fn candidates() -> Vec<PathBuf> {
    let here = std::env::current_exe().unwrap_or_default();
    let here = here.parent().unwrap_or(Path::new("/"));
    ["rocker-guard", "../libexec/rocker/rocker-guard"].map(|at| here.join(at)).to_vec()
}

/// Finds the guard, asks it for its version, and takes it.
pub fn take(named: Option<&Path>) -> Result<OwnedFd, NoGuard> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => candidates().into_iter().find(|path| path.exists()).ok_or_else(|| NoGuard {
            path: "rocker-guard".into(),
            why: "it is neither beside rocker-master nor in ../libexec/rocker; say where it is \
                  with \"guard\" in the configuration"
                .to_owned(),
        })?,
    };
    let no_guard = |why: String| NoGuard { path: path.clone(), why };
    let answer = Command::new(&path)
        .arg("--version")
        .env_clear()
        .output()
        .map_err(|error| no_guard(error.to_string()))?;
    let said = String::from_utf8_lossy(&answer.stdout);
    let wanted =
        format!("rocker-guard {} wire {}", env!("CARGO_PKG_VERSION"), protocol::wire::VERSION);
    if said.trim_end() != wanted {
        let said = said.lines().next().unwrap_or("nothing");
        return Err(no_guard(format!(
            "it says \"{said}\", but this master needs \"{wanted}\"; install both from one release"
        )));
    }
    let file = File::open(&path).map_err(|error| no_guard(error.to_string()))?;
    match sealed(&file) {
        Ok(copy) => Ok(copy),
        Err(error) => {
            log::warn!(
                "guards run from {} itself, not from a sealed copy: {error}",
                path.display()
            );
            above_stdio(file.into()).map_err(|error| no_guard(error.to_string()))
        }
    }
}

/// An executable copy that nobody can change, opened for reading only: a file that is open for
/// writing cannot be executed.
fn sealed(mut file: &File) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match memfd_create(c"rocker-guard", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd was executable and the flag unknown.
        Err(Errno::INVAL) => memfd_create(c"rocker-guard", flags)?,
        answer => answer?,
    };
    let mut copy = File::from(copy);
    std::io::copy(&mut file, &mut copy)?;
    copy.flush()?;
    rustix::fs::fchmod(&copy, Mode::RUSR | Mode::XUSR)?;
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&copy, all)?;
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    drop(copy);
    above_stdio(read_only)
}

/// The child puts 0, 1 and 2 in order before it executes this, so it must be none of them.
fn above_stdio(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)?)
}
