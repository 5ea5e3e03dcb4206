//! The package until it is whole.

use core::hash::{BuildHasher, Hasher};
use std::fs::{File, OpenOptions};
use std::hash::RandomState;
use std::path::{Path, PathBuf};

use super::{Fault, parent_of};

/// The package while it is made: a file beside it that goes away unless it is published.
pub(super) struct Temporary {
    path: PathBuf,
    pub(super) file: File,
    published: bool,
}

impl Temporary {
    /// In the same directory, because a rename cannot cross filesystems. Nobody can have put a
    /// file or a symlink there before us: the name is random and the file must be new.
    pub(super) fn beside(package: &Path) -> Result<Self, Fault> {
        let random = RandomState::new().build_hasher().finish();
        let name = format!(".rocker-pack-{}-{random:016x}", std::process::id());
        let path = parent_of(package).join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| Fault::new(package, error))?;
        Ok(Self { path, file, published: false })
    }

    pub(super) fn publish(mut self, package: &Path, size: u64) -> Result<(), Fault> {
        // A duplicate file's blocks are written before backhand knows and steps back over them;
        // at the end of the data nothing else may cover them.
        let on_disk = self.file.set_len(size).and_then(|()| self.file.sync_all());
        on_disk
            .and_then(|()| std::fs::rename(&self.path, package))
            .map_err(|error| Fault::new(package, error))?;
        self.published = true;
        // Which of the two packages a power cut leaves is open until now. Both are whole, so a
        // filesystem that cannot sync a directory is no reason to fail.
        let _ = File::open(parent_of(package)).and_then(|dir| dir.sync_all());
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // Why it is given up is worth telling, and is told already.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
