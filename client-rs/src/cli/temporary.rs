//! A file until it is whole: it takes its place then, or never was there.

use core::hash::{BuildHasher, Hasher};
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use rustix::io::Errno;

/// A file in the directory of the one that it is to become, because a rename cannot cross file
/// systems. It has no name where the file system can do so: then nothing is left of it, however
/// this process ends.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) file: File,
    /// Its name, where it has one.
    path: Option<PathBuf>,
}

impl Temporary {
    /// With these permissions, less the umask.
    pub(super) fn beside(path: &Path, mode: u32) -> io::Result<Self> {
        let mode = Mode::from_raw_mode(mode);
        let how = OFlags::WRONLY | OFlags::CLOEXEC;
        match open(parent_of(path), how | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self { file: file.into(), path: None }),
            // The second is what a kernel or a file system says that knows nothing of it.
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                let name = name_beside(path);
                let file = open(&name, how | OFlags::CREATE | OFlags::EXCL, mode)?;
                Ok(Self { file: file.into(), path: Some(name) })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Replaces what is at `path` when all of this is on disk.
    pub(super) fn publish(mut self, path: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        if self.path.is_none() {
            // To give it its place at once would not replace anything: `man 2 link`.
            let name = name_beside(path);
            let file = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(CWD, file, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            self.path = Some(name);
        }
        let Some(name) = &self.path else { unreachable!("it has one now") };
        std::fs::rename(name, path)?;
        self.path = None;
        // Which of the two files a power cut leaves is open until now. Both are whole, so a
        // filesystem that cannot sync a directory is no reason to fail.
        let _ = File::open(parent_of(path)).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.path {
            // Why it is given up is worth telling, and is told already.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Nobody can have put a file or a symlink there before us: it is random, and must be new.
fn name_beside(path: &Path) -> PathBuf {
    let random = RandomState::new().build_hasher().finish();
    parent_of(path).join(format!(".rocker-{}-{random:016x}", std::process::id()))
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
        temporary.publish(&path).unwrap();
        assert_eq!((std::fs::read(&path).unwrap(), names()), (b"new".to_vec(), 1));
        // A place that cannot be taken.
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        assert!(begun().publish(&dir.path().join("dir")).is_err());
        assert_eq!(names(), 2);
    }
}
