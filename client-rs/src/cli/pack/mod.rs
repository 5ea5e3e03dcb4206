//! `rocker pack`: makes a package (a squashfs image) of a directory, and reads one file back.
//!
//! The same directory gives the same bytes, whoever packs it, wherever and whenever:
//!
//! - Entries are sorted by the bytes of their names.
//! - All times are SOURCE_DATE_EPOCH, or 0 without it.
//! - Everything belongs to root. Modes are kept but for setuid and setgid: packages are mounted
//!   nosuid and Apps have `no_new_privs`, so these bits could only mislead who reads them.
//! - Hard links become files of their own. Those that fill a block share their blocks, as all
//!   such files of the same bytes do.
//!
//! What an image made here could not hold is refused, never dropped: sockets, fifos, device
//! nodes, and extended attributes but SELinux's.
//!
//! ```text
//! tree       what there is, and what is refused
//! source     one file of it, from the disk into blocks
//! ahead      the blocks are compressed on all processors
//! packer     one block after the other
//! image      they become an image
//! tables     what it says of its files
//! trailer    what its manifest says, behind it
//! early      it goes to the disk meanwhile
//! reader     one file of a package, whoever made it
//! ```

mod ahead;
mod early;
mod image;
mod packer;
mod reader;
mod source;
mod tables;
#[cfg(test)]
mod tests;
mod trailer;
mod tree;

use core::error::Error;
use core::fmt;
use core::num::NonZero;
use std::ffi::OsStr;
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::temporary::{Temporary, parent_of};
use super::words;

pub(crate) use reader::read_file;
use tree::Tree;

/// How the blocks of a package are compressed. The kernel needs the same one built in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Compression {
    /// Small and fast to read: the default.
    #[default]
    Zstd,
    /// The smallest, slowest to make and to read.
    Xz,
    /// What every kernel can read.
    Gzip,
    /// The biggest, fastest to make and to read.
    Lz4,
}

/// How to pack. None of it changes what an App sees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How blocks are compressed.
    pub(crate) compression: Compression,
    /// The bytes that are compressed together: a power of two, 4 KiB to 1 MiB.
    pub(crate) block_size: u32,
    /// How many threads compress. The package is the same whatever their number.
    pub(crate) jobs: NonZero<usize>,
}

/// Block size, unless another is told. mksquashfs takes 128 KiB: 3 % less of package, and half as
/// much again of page cache when it is read (docs/bench/packages.md).
const BLOCK_SIZE: u32 = 64 * 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            block_size: BLOCK_SIZE,
            // An unknown number is no reason to fail.
            jobs: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        }
    }
}

/// What was packed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Packed {
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes together.
    pub(crate) bytes_in: u64,
    /// Size of the package.
    pub(crate) bytes_out: u64,
}

/// Why a directory could not be packed, in one line: `cannot pack DIR: PATH: reason`.
#[derive(Debug)]
pub(crate) struct PackError {
    dir: PathBuf,
    fault: Fault,
}

impl fmt::Display for PackError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot pack {}: {}", OneLine(&self.dir), self.fault)
    }
}

impl Error for PackError {}

/// What is wrong with one path. A path inside the directory is relative to it.
#[derive(Debug)]
pub(super) struct Fault {
    path: PathBuf,
    reason: String,
}

impl Fault {
    pub(super) fn new(path: &Path, reason: impl fmt::Display) -> Self {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut reason = reason.to_string();
        // The number says nothing more than the kernel's words before it.
        if let Some(at) = reason.rfind(" (os error ") {
            reason.truncate(at);
        }
        Self { path: path.to_owned(), reason }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The directory itself is named already.
        if self.path != Path::new(".") {
            write!(out, "{}: ", OneLine(&self.path))?;
        }
        out.write_str(&self.reason)
    }
}

impl Error for Fault {}

/// A path as text that stays in its line, whatever bytes its names have.
pub(super) struct OneLine<'a>(&'a Path);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string_lossy().chars() {
            if letter.is_control() {
                write!(out, "{}", letter.escape_default())?;
            } else {
                write!(out, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// Packs the tree at `dir` into the new file `package`, which is there whole or not at all: an
/// older one is replaced when the new one is on disk.
///
/// The tree must not change meanwhile; a file that does is an error. A `rocker.toml` at its root
/// must be a good one.
pub(crate) fn pack(dir: &Path, package: &Path, options: Options) -> Result<Packed, PackError> {
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH");
    parse_epoch(epoch.as_deref())
        .and_then(|time| pack_at(dir, package, options, time))
        .map_err(|fault| PackError { dir: dir.to_owned(), fault })
}

/// The time that all entries get, in seconds since 1970: squashfs has 32 bits for it.
fn parse_epoch(epoch: Option<&OsStr>) -> Result<u32, Fault> {
    let Some(epoch) = epoch else {
        return Ok(0);
    };
    epoch.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        Fault::new(Path::new("SOURCE_DATE_EPOCH"), "not a number of seconds from 0 to 4294967295")
    })
}

fn pack_at(dir: &Path, package: &Path, options: Options, time: u32) -> Result<Packed, Fault> {
    let tree = look_at(dir, package)?;
    let fault = |error| Fault::new(package, error);
    let temporary = Temporary::beside(package, 0o666).map_err(fault)?;
    let length = early::write(&temporary.file, |out| {
        image::write(&tree, options, time, BufWriter::new(out))
    })
    // A failed read names the file that was read, any other failure the package.
    .map_err(|error| error.downcast::<Fault>().unwrap_or_else(fault))?;
    // The blocks of a duplicate are written before it is known to be one; at the end of the data
    // nothing else may cover them.
    temporary.file.set_len(length).map_err(fault)?;
    temporary.publish().map_err(fault)?;
    Ok(Packed {
        files: tree.files.len() as u64,
        bytes_in: tree.files.iter().map(|file| file.length).sum(),
        bytes_out: length,
    })
}

fn look_at(dir: &Path, package: &Path) -> Result<Tree, Fault> {
    let here = Path::new(".");
    let root = dir.canonicalize().map_err(|error| Fault::new(here, error))?;
    if !root.is_dir() {
        return Err(Fault::new(here, "not a directory"));
    }
    check_package_path(&root, package)?;
    Tree::walk(&root)
}

/// A package inside the tree would be packed into itself, and the next one with it.
fn check_package_path(root: &Path, package: &Path) -> Result<(), Fault> {
    let fault = |reason: &dyn fmt::Display| Fault::new(package, reason);
    if package.file_name().is_none() {
        return Err(fault(&"not the name of a file"));
    }
    let parent = parent_of(package).canonicalize().map_err(|error| fault(&error))?;
    let identity = |path: &Path| path.metadata().map(|found| (found.dev(), found.ino()));
    let root = identity(root).map_err(|error| fault(&error))?;
    // By identity, not by name: the tree may be mounted at a second place.
    if parent.ancestors().any(|dir| identity(dir).is_ok_and(|dir| dir == root)) {
        return Err(fault(&"lies inside the directory that is to be packed"));
    }
    match package.symlink_metadata() {
        Ok(found) if !found.is_file() => Err(fault(&"exists and is not a regular file")),
        // Missing is the usual case; anything else is found again, and told, on creation.
        Ok(_) | Err(_) => Ok(()),
    }
}
