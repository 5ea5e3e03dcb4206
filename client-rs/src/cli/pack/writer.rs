//! The tree becomes an image: what backhand is told, and what is refused.

use core::fmt;
use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use backhand::{BackhandError, FilesystemWriter, NodeHeader};
use rustix::io::Errno;
use walkdir::DirEntry;

use super::packer::codec;
use super::source::Source;
use super::{Fault, Options};

/// Images end on a multiple of this: the loop device serves whole sectors only, and ignores a
/// last one that is cut short.
const PADDING_KIB: u32 = 4;

/// Longest target of a symlink, in bytes: all that backhand writes (it panics beyond).
const SYMLINK_MAX: usize = 255;

/// First size of a file that is too big: 2 TiB, where backhand panics.
const FILE_SIZE_END: u64 = 1 << 41;

/// The attribute that may be dropped: it is the packing host's label of the file, from that
/// host's policy. A mount gets its label from the policy of the host that mounts it.
const XATTR_OF_THE_HOST: &[u8] = b"security.selinux";

pub(super) type Image<'a> = FilesystemWriter<'a, 'a, 'a>;

/// An image of which nothing is written yet.
pub(super) struct Layout<'a> {
    pub(super) image: Image<'a>,
    /// The regular files with their lengths, in the image's order.
    pub(super) files: Vec<(PathBuf, u64)>,
    time: u32,
}

impl Layout<'_> {
    pub(super) fn new(options: Options, time: u32) -> Result<Self, BackhandError> {
        let mut image = Image::default();
        image.set_compressor(codec(options.compression)?);
        image.set_block_size(options.block_size);
        image.set_kib_padding(PADDING_KIB);
        image.set_only_root_id();
        image.set_time(time);
        Ok(Self { image, files: vec![], time })
    }

    /// Entries come sorted, a directory before what is in it.
    pub(super) fn add(&mut self, entry: &DirEntry, name: &Path) -> Result<(), Fault> {
        let fault = |reason: &dyn fmt::Display| Fault::new(name, reason);
        let found = entry.metadata().map_err(|error| fault(&error))?;
        let kind = found.file_type();
        refuse_kind(kind).map_err(|reason| fault(&reason))?;
        refuse_xattrs(entry.path()).map_err(|reason| fault(&reason))?;

        let mode = u16::try_from(found.mode() & 0o1777).unwrap_or_default();
        let header = NodeHeader::new(mode, 0, 0, self.time);
        let added = if kind.is_file() {
            if found.len() >= FILE_SIZE_END || usize::try_from(found.len()).is_err() {
                return Err(fault(&"the file is too big"));
            }
            self.files.push((entry.path().to_owned(), found.len()));
            self.image.push_file(Source::new(entry.path(), name, &found), name, header)
        } else if kind.is_symlink() {
            let target = entry.path().read_link().map_err(|error| fault(&error))?;
            if target.as_os_str().len() > SYMLINK_MAX {
                return Err(fault(&format_args!("the symlink is longer than {SYMLINK_MAX} bytes")));
            }
            self.image.push_symlink(target, name, header)
        } else if name.as_os_str().is_empty() {
            self.image.set_root_mode(mode);
            Ok(())
        } else {
            self.image.push_dir(name, header)
        };
        added.map_err(|error| fault(&error))
    }
}

/// A socket or a fifo in a read-only image connects nobody, and a device node is a way to the
/// host's devices that no App shall have.
fn refuse_kind(kind: FileType) -> Result<(), &'static str> {
    if kind.is_socket() {
        Err("a socket cannot be packed")
    } else if kind.is_fifo() {
        Err("a fifo cannot be packed")
    } else if kind.is_char_device() || kind.is_block_device() {
        Err("a device node cannot be packed")
    } else {
        Ok(())
    }
}

/// backhand writes no extended attributes, and to lose one silently is to change what the file
/// means: `security.capability` makes a program work, and of an access ACL the mode shows but
/// the mask, so that without it the group may do more than before.
fn refuse_xattrs(path: &Path) -> Result<(), String> {
    let refused = |errno| format!("cannot list extended attributes: {errno}");
    // Most files have none, and say so without 64 KiB to write to.
    match rustix::fs::llistxattr_query(path) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        listed => listed.map_err(refused)?,
    };
    // The kernel's own limit for a list of names.
    let mut names = [0_u8; 64 * 1024];
    let length = rustix::fs::llistxattr(path, &mut names).map_err(refused)?;
    let listed = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    for name in listed.filter(|name| !name.is_empty()) {
        if name != XATTR_OF_THE_HOST {
            let name = name.escape_ascii();
            return Err(format!("a package cannot hold the extended attribute {name}"));
        }
    }
    Ok(())
}

/// A failed read names the file that was read, any other failure the package.
pub(super) fn write_fault(error: BackhandError, package: &Path) -> Fault {
    match error {
        BackhandError::StdIo(error) => {
            error.downcast::<Fault>().unwrap_or_else(|error| Fault::new(package, error))
        }
        error => Fault::new(package, error),
    }
}
