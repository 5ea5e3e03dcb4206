//! A file until it is whole: it takes its place then, or never was there.

use core::hash::{BuildHasher, Hasher};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open, openat, renameat, unlinkat};
use rustix::io::Errno;

/// A file in the directory of the one that it is to become, because a rename cannot cross file
/// systems. It has no name where the file system can do so: then nothing is left of it, however
/// this process ends. The directory is opened once: whoever else may write to it leads nothing
/// elsewhere, for what a rename meets it replaces, a link too.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) file: File,
    dir: OwnedFd,
    /// What it is to be called.
    name: OsString,
    /// What it is called until then, if it is.
    now: Option<OsString>,
}

impl Temporary {
    /// Beside what is at `path` or will be, with these permissions, less the umask.
    pub(super) fn beside(path: &Path, mode: u32) -> io::Result<Self> {
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::within(open(parent_of(path), flags, Mode::empty())?, name, mode)
    }

    /// The same for this name in a directory.
    pub(super) fn within(dir: OwnedFd, name: &OsStr, mode: u32) -> io::Result<Self> {
        let name = name.to_owned();
        let mode = Mode::from_raw_mode(mode);
        let how = OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&dir, ".", how | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self { file: file.into(), dir, name, now: None }),
            // The second is what a kernel or a file system says that knows nothing of it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let now = random_name();
                let how = how | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let file = openat(&dir, &now, how, mode)?;
                Ok(Self { file: file.into(), dir, name, now: Some(now) })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Replaces what has its name when all of this is on disk.
    pub(super) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.now.is_none() {
            // To give it its name at once would not replace anything: `man 2 link`.
            let now = random_name();
            let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, file, &self.dir, &now, AtFlags::SYMLINK_FOLLOW)?;
            self.now = Some(now);
        }
        let Some(now) = &self.now else { unreachable!("it has one now") };
        renameat(&self.dir, now, &self.dir, &self.name)?;
        self.now = None;
        // Which of the two files a power cut leaves is open until now. Both are whole, so a
        // filesystem that cannot sync a directory is no reason to fail.
        let dir = openat(&self.dir, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let _ = dir.map(|dir| File::from(dir).sync_all());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(now) = &self.now {
            // Why it is given up is worth telling, and is told already.
            let _ = unlinkat(&self.dir, now, AtFlags::empty());
        }
    }
}

/// Nobody can have put a file or a symlink there before us: it is random, and must be new.
fn random_name() -> OsString {
    let random = RandomState::new().build_hasher().finish();
    format!(".rocker-{}-{random:016x}", std::process::id()).into()
}

pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let path = dir.path().join("file");
        let begun = || {
            let mut temporary = Temporary::beside(&path, 0o600).unwrap();
            temporary.file.write_all(b"new").unwrap();
            temporary
        };
        drop(begun());
        assert_eq!(names(), 0);
        std::fs::write(&path, "old").unwrap();
        let temporary = begun();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        temporary.publish().unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names()), (b"new".to_vec(), 1));
        // A place that cannot be taken.
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let at_dir = Temporary::beside(&dir.path().join("dir"), 0o600).unwrap();
        assert!(at_dir.publish().is_err());
        assert_eq!(names(), 2);
    }

    #[test]
    fn a_link_that_is_planted_meanwhile_is_replaced_and_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("file"), dir.path().join("victim"));
        std::fs::write(&victim, "old").unwrap();
        let mut temporary = Temporary::beside(&path, 0o600).unwrap();
        temporary.file.write_all(b"new").unwrap();
        std::os::unix::fs::symlink("victim", &path).unwrap();
        temporary.publish().unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"old");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }
}
