//! One file of the tree, from the disk into blocks.

use core::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::Fault;

/// A regular file as the walk found it. It is opened for each block, and closed: a tree has more
/// files than a process may have descriptors.
pub(super) struct Source {
    root: Arc<Path>,
    /// Relative to the root.
    name: PathBuf,
    found: Identity,
    /// All of it, if it was read before.
    held: Option<Box<[u8]>>,
    pub(super) length: u64,
}

/// Changes when the file does: device, inode, and when it was written to.
type Identity = (u64, u64, i64, i64);

fn identity(found: &Metadata) -> Identity {
    (found.dev(), found.ino(), found.mtime(), found.mtime_nsec())
}

const CHANGED: &str = "the file changed while it was packed";

impl Source {
    pub(super) fn new(root: Arc<Path>, name: &Path, found: &Metadata) -> Self {
        let (name, length) = (name.to_owned(), found.len());
        Self { root, name, found: identity(found), held: None, length }
    }

    /// Reads all of it now, and not again: what is found here is what is packed.
    pub(super) fn hold(&mut self) -> Result<&[u8], Fault> {
        let mut bytes = vec![];
        self.read(0, self.length, &mut bytes)?;
        Ok(self.held.insert(bytes.into()))
    }

    /// Appends this part of the file, which must be the one that the walk found, as it was.
    pub(super) fn read(&self, start: u64, length: u64, into: &mut Vec<u8>) -> Result<(), Fault> {
        let fault = |reason: &dyn fmt::Display| Fault::new(&self.name, reason);
        if let Some(held) = &self.held {
            let mut held = Cursor::new(held);
            held.set_position(start);
            held.take(length).read_to_end(into).map_err(|error| fault(&error))?;
            return Ok(());
        }
        let mut file = open(&self.root.join(&self.name)).map_err(|error| fault(&error))?;
        if start > 0 {
            file.seek(SeekFrom::Start(start)).map_err(|error| fault(&error))?;
        }
        let count = (&file).take(length).read_to_end(into).map_err(|error| fault(&error))?;
        // Afterwards: what comes between the two is seen as well.
        let now = file.metadata().map_err(|error| fault(&error))?;
        if count as u64 != length || now.len() != self.length || identity(&now) != self.found {
            return Err(fault(&CHANGED));
        }
        Ok(())
    }
}

/// Waits for nobody, and follows no link, whatever stands at the path now: whoever may change the
/// tree could turn a directory of it into one that leads to what only its packer may read.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let how = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS)?.into())
}
