//! The tree as it was found: what goes into the image, and what is refused.

use core::fmt;
use std::ffi::OsString;
use std::fs::FileType;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use walkdir::{DirEntry, WalkDir};

use super::super::manifest::{self, Manifest};
use super::super::words;
use super::Fault;
use super::source::Source;

/// First size of a file that is too big: 2 TiB. None such is meant, and the list of its blocks
/// alone would take all memory.
const FILE_SIZE_END: u64 = 1 << 41;

/// The attribute that may be dropped: it is the packing host's label of the file, from that
/// host's policy. A mount gets its label from the policy of the host that mounts it.
const XATTR_OF_THE_HOST: &[u8] = b"security.selinux";

/// What was found, a directory before what is in it, sorted by the bytes of the names.
#[derive(Default)]
pub(super) struct Tree {
    /// The first is the root.
    pub(super) nodes: Vec<Node>,
    /// The regular files, in the order of their nodes.
    pub(super) files: Vec<Source>,
    /// What `rocker.toml` at the root says.
    pub(super) manifest: Option<Manifest>,
}

pub(super) struct Node {
    /// Empty for the root.
    pub(super) name: OsString,
    /// How many directories it is in.
    pub(super) depth: usize,
    pub(super) mode: u16,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Directory,
    File,
    Symlink(Vec<u8>),
}

impl Tree {
    /// Looks at everything below `root`, which is absolute and has no links in it.
    pub(super) fn walk(root: &Path) -> Result<Self, Fault> {
        let mut tree = Self::default();
        let top: Arc<Path> = root.into();
        for entry in WalkDir::new(root).sort_by_file_name() {
            tree.add(&entry.map_err(|error| walk_fault(&error, root))?, &top)?;
        }
        Ok(tree)
    }

    fn add(&mut self, entry: &DirEntry, root: &Arc<Path>) -> Result<(), Fault> {
        let name = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let fault = |reason: &dyn fmt::Display| Fault::new(name, reason);
        let found = entry.metadata().map_err(|error| walk_fault(&error, root))?;
        let kind = found.file_type();
        let is_manifest = name == Path::new(manifest::NAME);
        if is_manifest && !kind.is_file() {
            return Err(fault(&"not a regular file"));
        }
        refuse_kind(kind).map_err(|reason| fault(&reason))?;
        refuse_xattrs(entry.path()).map_err(|reason| fault(&reason))?;

        let kind = if kind.is_file() {
            if found.len() >= FILE_SIZE_END {
                return Err(fault(&"the file is too big"));
            }
            let mut source = Source::new(root.clone(), name, &found);
            if is_manifest {
                self.manifest = Some(check_manifest(&mut source)?);
            }
            self.files.push(source);
            Kind::File
        } else if kind.is_symlink() {
            let target = entry.path().read_link().map_err(|error| fault(&error))?;
            Kind::Symlink(target.into_os_string().into_vec())
        } else {
            Kind::Directory
        };
        self.nodes.push(Node {
            name: name.file_name().unwrap_or_default().to_owned(),
            depth: entry.depth(),
            mode: u16::try_from(found.mode() & 0o1777).unwrap_or_default(),
            kind,
        });
        Ok(())
    }
}

/// A bad manifest is found when the package is made, not when somebody wants to run it.
fn check_manifest(source: &mut Source) -> Result<Manifest, Fault> {
    let fault = |reason: &dyn fmt::Display| Fault::new(Path::new(manifest::NAME), reason);
    if source.length > manifest::SIZE_MAX {
        return Err(fault(&format_args!("longer than {} bytes", manifest::SIZE_MAX)));
    }
    let mut text = String::new();
    source.hold()?.read_to_string(&mut text).map_err(|error| fault(&error))?;
    Manifest::parse(&text).map_err(|error| fault(&error))
}

/// walkdir's own words name the path, too.
fn walk_fault(error: &walkdir::Error, root: &Path) -> Fault {
    let path = error.path().unwrap_or(root);
    let cause = error.io_error().map_or_else(|| error.to_string(), words);
    Fault::new(path.strip_prefix(root).unwrap_or(path), cause)
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

/// Images made here have no extended attributes, and to lose one silently is to change what the
/// file means: `security.capability` makes a program work, and of an access ACL the mode shows but
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
