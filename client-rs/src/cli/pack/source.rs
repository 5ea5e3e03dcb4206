//! One file of the tree, from the disk to the writer.

use core::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::Fault;

/// A file that is opened when its turn comes and closed at its end: a tree has more files than
/// a process may have descriptors.
pub(super) struct Source {
    path: PathBuf,
    name: PathBuf,
    identity: (u64, u64),
    /// What is still to come, by the size that was found.
    left: u64,
    stage: Stage,
}

enum Stage {
    Unopened,
    Open(File),
    Done,
}

const CHANGED: &str = "the file changed while it was packed";

impl Source {
    pub(super) fn new(path: &Path, name: &Path, found: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            name: name.to_owned(),
            identity: (found.dev(), found.ino()),
            left: found.len(),
            stage: Stage::Unopened,
        }
    }

    /// The walk looked at the path before: what is there now must be the same file.
    fn open(&self) -> Result<File, Fault> {
        let fault = |reason: &dyn fmt::Display| Fault::new(&self.name, reason);
        let file = open(&self.path).map_err(|error| fault(&error))?;
        let found = file.metadata().map_err(|error| fault(&error))?;
        if (found.dev(), found.ino()) != self.identity {
            return Err(fault(&CHANGED));
        }
        Ok(file)
    }

    fn read_next(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if let Stage::Unopened = self.stage {
            self.stage = Stage::Open(self.open()?);
        }
        let Stage::Open(file) = &mut self.stage else {
            return Ok(0);
        };
        let count = loop {
            match file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| Fault::new(&self.name, error))?,
            }
        };
        let left = u64::try_from(count).ok().and_then(|count| self.left.checked_sub(count));
        self.left = left.ok_or_else(|| Fault::new(&self.name, CHANGED))?;
        if count == 0 && !buffer.is_empty() {
            if self.left > 0 {
                return Err(Fault::new(&self.name, CHANGED));
            }
            self.stage = Stage::Done;
        }
        Ok(count)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_next(buffer).map_err(io::Error::other)
    }
}

/// Waits for nobody, and follows no link, whatever stands at the path now: whoever may change the
/// tree could turn a directory of it into one that leads to what only its packer may read.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS)?.into())
}
