//! `rocker pack`: makes a package (a squashfs image) of a directory, and reads one file back.
//!
//! The same directory gives the same bytes, whoever packs it, wherever and whenever:
//!
//! - Entries are sorted by the bytes of their names.
//! - All times are SOURCE_DATE_EPOCH, or 0 without it. The root's own is always 0.
//! - Everything belongs to root. Modes are kept but for setuid and setgid: packages are mounted
//!   nosuid and Apps have `no_new_privs`, so these bits could only mislead who reads them.
//! - Hard links become files of their own. Those of 128 KiB and more share their blocks, as all
//!   files of the same length and the same xxh64 do: no cryptographic hash, so do not pack what
//!   parties that must not harm each other have put into one tree.
//!
//! What an image made here could not hold is refused, never dropped: sockets, fifos, device
//! nodes, extended attributes (see [`refuse_xattrs`]) and symlinks beyond [`SYMLINK_MAX`].

use core::error::Error;
use core::fmt;
use core::hash::{BuildHasher, Hasher};
use std::ffi::OsStr;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::hash::RandomState;
use std::io::{self, BufWriter, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use backhand::compression::{
    CompressionAction, CompressionOptions, Compressor, DefaultCompressor, Lz4, Zstd,
};
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader};
use rustix::io::Errno;
use walkdir::{DirEntry, WalkDir};

use super::manifest::{self, Manifest};
use super::words;

/// Block size of the images made here: what mksquashfs takes too, and what the kernel's page
/// cache is happy with. Bigger blocks pack a little tighter and make every small read dearer.
const BLOCK_SIZE: u32 = 128 * 1024;

/// Images end on a multiple of this: the loop device serves whole sectors only, and ignores a
/// last one that is cut short.
const PADDING_KIB: u32 = 4;

/// Level of zstd. Measured on 140 MB of programs and documents (s, MB): level 3 0.8, 60.2; 6 1.6,
/// 58.6; 9 1.9, 58.3; 12 5.0, 57.6; 15 12.0, 56.6. Beyond 9 each percent costs seconds, and who
/// wants the smallest takes xz (27.5, 55.8).
const ZSTD_LEVEL: u32 = 9;

/// Longest target of a symlink, in bytes: all that backhand writes (it panics beyond).
const SYMLINK_MAX: usize = 255;

/// First size of a file that is too big: 2 TiB, where backhand panics.
const FILE_SIZE_END: u64 = 1 << 41;

/// The attribute that may be dropped: it is the packing host's label of the file, from that
/// host's policy. A mount gets its label from the policy of the host that mounts it.
const XATTR_OF_THE_HOST: &[u8] = b"security.selinux";

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
struct Fault {
    path: PathBuf,
    reason: String,
}

impl Fault {
    fn new(path: &Path, reason: impl fmt::Display) -> Self {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", OneLine(&self.path), self.reason)
    }
}

impl Error for Fault {}

/// A path as text that stays in its line, whatever bytes its names have.
struct OneLine<'a>(&'a Path);

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
pub(crate) fn pack(
    dir: &Path,
    package: &Path,
    compression: Compression,
) -> Result<Packed, PackError> {
    let epoch = std::env::var_os("SOURCE_DATE_EPOCH");
    parse_epoch(epoch.as_deref())
        .and_then(|time| pack_at(dir, package, compression, time))
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

fn pack_at(
    dir: &Path,
    package: &Path,
    compression: Compression,
    time: u32,
) -> Result<Packed, Fault> {
    let here = Path::new(".");
    let root = dir.canonicalize().map_err(|error| Fault::new(here, error))?;
    if !root.is_dir() {
        return Err(Fault::new(here, "not a directory"));
    }
    check_package_path(&root, package)?;
    check_manifest(&root)?;

    let mut packed = Packed::default();
    let mut image = empty_image(compression, time).map_err(|error| Fault::new(package, error))?;
    // walkdir gives a directory before its entries, in the order in which backhand wants them.
    for entry in WalkDir::new(&root).sort_by_file_name() {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(&root);
            let cause = error.io_error().map_or_else(|| error.to_string(), words);
            Fault::new(path.strip_prefix(&root).unwrap_or(path), cause)
        })?;
        let name = entry.path().strip_prefix(&root).unwrap_or(entry.path());
        add_entry(&mut image, &entry, name, time, &mut packed)?;
    }

    let temporary = Temporary::beside(package)?;
    let (_, size) = image
        .write(BufWriter::new(&temporary.file))
        .map_err(|error| write_fault(error, package))?;
    temporary.publish(package, size)?;
    packed.bytes_out = size;
    Ok(packed)
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

fn parent_of(package: &Path) -> &Path {
    package.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A bad manifest is found when the package is made, not when somebody wants to run it.
fn check_manifest(root: &Path) -> Result<(), Fault> {
    let name = Path::new(manifest::NAME);
    let fault = |reason: &dyn fmt::Display| Fault::new(name, reason);
    let path = root.join(name);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(&error)),
        Ok(found) if !found.is_file() => return Err(fault(&"not a regular file")),
        Ok(found) if found.len() > manifest::SIZE_MAX => {
            return Err(fault(&format_args!("longer than {} bytes", manifest::SIZE_MAX)));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(|error| fault(&error))?;
    Manifest::parse(&text).map_err(|error| fault(&error))?;
    Ok(())
}

type Image<'a> = FilesystemWriter<'a, 'a, 'a>;

fn empty_image<'a>(compression: Compression, time: u32) -> Result<Image<'a>, BackhandError> {
    let (id, options) = match compression {
        Compression::Zstd => {
            let options = Zstd { compression_level: ZSTD_LEVEL };
            (Compressor::Zstd, Some(CompressionOptions::Zstd(options)))
        }
        Compression::Xz => (Compressor::Xz, None),
        Compression::Gzip => (Compressor::Gzip, None),
        // The kernel refuses an lz4 image that does not name the one format there is.
        Compression::Lz4 => {
            (Compressor::Lz4, Some(CompressionOptions::Lz4(Lz4 { version: 1, flags: 0 })))
        }
    };
    let mut image = Image::default();
    image.set_compressor(FilesystemCompressor::new(id, options)?);
    image.set_block_size(BLOCK_SIZE);
    image.set_kib_padding(PADDING_KIB);
    image.set_only_root_id();
    image.set_time(time);
    Ok(image)
}

fn add_entry(
    image: &mut Image<'_>,
    entry: &DirEntry,
    name: &Path,
    time: u32,
    packed: &mut Packed,
) -> Result<(), Fault> {
    let fault = |reason: &dyn fmt::Display| Fault::new(name, reason);
    let found = entry.metadata().map_err(|error| fault(&error))?;
    let kind = found.file_type();
    refuse_kind(kind).map_err(|reason| fault(&reason))?;
    refuse_xattrs(entry.path()).map_err(|reason| fault(&reason))?;

    let mode = u16::try_from(found.mode() & 0o1777).unwrap_or_default();
    let header = NodeHeader::new(mode, 0, 0, time);
    let added = if kind.is_file() {
        if found.len() >= FILE_SIZE_END || usize::try_from(found.len()).is_err() {
            return Err(fault(&"the file is too big"));
        }
        packed.files += 1;
        packed.bytes_in += found.len();
        image.push_file(Source::new(entry.path(), name, &found), name, header)
    } else if kind.is_symlink() {
        let target = entry.path().read_link().map_err(|error| fault(&error))?;
        if target.as_os_str().len() > SYMLINK_MAX {
            return Err(fault(&format_args!("the symlink is longer than {SYMLINK_MAX} bytes")));
        }
        image.push_symlink(target, name, header)
    } else if name.as_os_str().is_empty() {
        image.set_root_mode(mode);
        Ok(())
    } else {
        image.push_dir(name, header)
    };
    added.map_err(|error| fault(&error))
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
    // The kernel's own limit for a list of names.
    let mut names = [0_u8; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(format!("cannot list extended attributes: {errno}")),
    };
    let listed = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
    for name in listed.filter(|name| !name.is_empty()) {
        if name != XATTR_OF_THE_HOST {
            let name = name.escape_ascii();
            return Err(format!("a package cannot hold the extended attribute {name}"));
        }
    }
    Ok(())
}

/// A file that is opened when its turn comes and closed at its end: a tree has more files than
/// a process may have descriptors.
struct Source {
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
    fn new(path: &Path, name: &Path, found: &Metadata) -> Self {
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
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.path)
            .map_err(|error| fault(&error))?;
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

/// A failed read names the file that was read, any other failure the package.
fn write_fault(error: BackhandError, package: &Path) -> Fault {
    match error {
        BackhandError::StdIo(error) => {
            error.downcast::<Fault>().unwrap_or_else(|error| Fault::new(package, error))
        }
        error => Fault::new(package, error),
    }
}

/// The package while it is made: a file beside it that goes away unless it is published.
struct Temporary {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temporary {
    /// In the same directory, because a rename cannot cross filesystems. Nobody can have put a
    /// file or a symlink there before us: the name is random and the file must be new.
    fn beside(package: &Path) -> Result<Self, Fault> {
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

    fn publish(mut self, package: &Path, size: u64) -> Result<(), Fault> {
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

/// Why a file could not be read from a package: `cannot read PACKAGE: reason`, in one line.
#[derive(Debug)]
pub(crate) struct ReadError {
    package: PathBuf,
    reason: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot read {}: {}", OneLine(&self.package), self.reason)
    }
}

impl Error for ReadError {}

/// Reads the regular file `name` from the root directory of `package`; none if it has none.
///
/// The package may be anybody's, and spoilt on purpose: at most `limit` bytes of contents and a
/// few MiB of blocks are held, and nonsense is an error.
pub(crate) fn read_file(
    package: &Path,
    name: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, ReadError> {
    let read = |package: &Path| -> Result<Option<Vec<u8>>, String> {
        let reader = Reader::open(package)?;
        let Some(inode) = reader.find(name)? else {
            return Ok(None);
        };
        reader.contents(inode, name, limit).map(Some)
    };
    read(package).map_err(|reason| ReadError { package: package.to_owned(), reason })
}

/// A package that is read: the superblock's fields that one file of the root needs.
///
/// By hand because backhand reads the tables of the whole image first: a directory size near
/// 4 GiB makes it panic, and 0.8 MB of well compressed metadata take 0.8 GB. Its decompressors
/// are sound, and what they may give is bounded here.
struct Reader {
    file: File,
    codec: Compressor,
    block_size: u32,
    fragment_count: u32,
    /// Where the root's inode is: block in the table << 16 | offset in the block.
    root: u64,
    /// Where the image ends; what follows is padding.
    end: u64,
    inode_table: u64,
    dir_table: u64,
    fragment_table: u64,
}

/// Where an inode is: its block's place in the inode table, and the offset in the block.
#[derive(Clone, Copy)]
struct InodePlace {
    block: u64,
    offset: u16,
}

const SUPERBLOCK_SIZE: usize = 96;
/// Most bytes of a metadata block, unpacked.
const METADATA_MAX: u32 = 8192;
/// Longest root directory, in bytes: some 100,000 names. It bounds the time, not the memory.
const ROOT_DIR_MAX: u32 = 4 * 1024 * 1024;
/// This bit of a block's length says that it is stored as it is.
const METADATA_RAW: u16 = 1 << 15;
const DATA_RAW: u32 = 1 << 24;
const NO_FRAGMENT: u32 = u32::MAX;

const DIRECTORY: u16 = 1;
const REGULAR: u16 = 2;
const DIRECTORY_EXTENDED: u16 = 8;
const REGULAR_EXTENDED: u16 = 9;

const CORRUPT: &str = "the squashfs image is corrupt";
const TRUNCATED: &str = "the squashfs image is truncated";

impl Reader {
    fn open(package: &Path) -> Result<Self, String> {
        // O_NONBLOCK: opening a fifo would wait for a writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(package)
            .map_err(|error| words(&error))?;
        let found = file.metadata().map_err(|error| words(&error))?;
        if !found.is_file() {
            return Err("not a regular file".to_owned());
        }
        let mut superblock = [0; SUPERBLOCK_SIZE];
        match file.read_exact_at(&mut superblock, 0) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                return Err(words(&error));
            }
            Err(_) => return Err("not a squashfs image".to_owned()),
            Ok(()) => {}
        }
        Self::from_superblock(file, found.len(), &superblock)
    }

    fn from_superblock(file: File, size: u64, bytes: &[u8; 96]) -> Result<Self, String> {
        if !bytes.starts_with(b"hsqs") {
            return Err("not a squashfs image".to_owned());
        }
        let mut fields = Fields(bytes.get(4..).unwrap_or_default());
        let [_inodes, _time, block_size, fragment_count] = fields.u32s()?;
        let [codec, block_log, _flags, _ids, major, minor] = fields.u16s()?;
        let [root, end, _id_table, _xattr_table, inode_table, dir_table, fragment_table] =
            fields.u64s()?;
        if (major, minor) != (4, 0) {
            return Err(format!("squashfs version {major}.{minor} is not supported"));
        }
        let codec = match codec {
            1 => Compressor::Gzip,
            4 => Compressor::Xz,
            5 => Compressor::Lz4,
            6 => Compressor::Zstd,
            other => return Err(format!("squashfs compressor {other} is not supported")),
        };
        if !(12..=20).contains(&block_log) || block_size != 1 << block_log {
            return Err(CORRUPT.to_owned());
        }
        if end > size {
            return Err(format!("{TRUNCATED}: it has {size} of {end} bytes"));
        }
        Ok(Self {
            file,
            codec,
            block_size,
            fragment_count,
            root,
            end,
            inode_table,
            dir_table,
            fragment_table,
        })
    }

    /// Looks `name` up in the root directory.
    fn find(&self, name: &str) -> Result<Option<InodePlace>, String> {
        let root = InodePlace { block: self.root >> 16, offset: low_half(self.root) };
        let (mut inode, kind) = self.inode(root)?;
        let (block, offset, size) = match kind {
            DIRECTORY => {
                let [block, _links] = inode.u32s()?;
                let [size, offset] = inode.u16s()?;
                (block, offset, u32::from(size))
            }
            DIRECTORY_EXTENDED => {
                let [_links, size, block, _parent] = inode.u32s()?;
                let [_indices, offset] = inode.u16s()?;
                (block, offset, size)
            }
            _ => return Err(CORRUPT.to_owned()),
        };
        if size > ROOT_DIR_MAX {
            return Err("the root directory is too big".to_owned());
        }
        // The size counts three bytes that are not there.
        let mut left = size.saturating_sub(3);
        if left == 0 {
            return Ok(None);
        }
        let mut dir = self.metadata(self.dir_table, u64::from(block), offset)?;
        while left > 0 {
            let [count, block, _inode] = dir.u32s()?;
            left = less(left, 12)?;
            // One less than the number of names under this header.
            if count > 255 {
                return Err(CORRUPT.to_owned());
            }
            for _ in 0..=count {
                let [offset, _inode, kind, length] = dir.u16s()?;
                let mut found = [0; 256];
                let found =
                    found.get_mut(..usize::from(length) + 1).ok_or_else(|| CORRUPT.to_owned())?;
                dir.fill(found)?;
                left = less(left, 8 + u32::from(length) + 1)?;
                if *found != *name.as_bytes() {
                    continue;
                }
                if kind != REGULAR {
                    return Err(format!("{name} is not a regular file"));
                }
                return Ok(Some(InodePlace { block: u64::from(block), offset }));
            }
        }
        Ok(None)
    }

    /// The bytes of a regular file.
    fn contents(&self, place: InodePlace, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let (mut inode, kind) = self.inode(place)?;
        let (mut start, size, fragment, offset) = match kind {
            REGULAR => {
                let [start, fragment, offset, size] = inode.u32s()?;
                (u64::from(start), u64::from(size), fragment, offset)
            }
            REGULAR_EXTENDED => {
                let [start, size, _sparse] = inode.u64s()?;
                let [_links, fragment, offset, _xattr] = inode.u32s()?;
                (start, size, fragment, offset)
            }
            _ => return Err(CORRUPT.to_owned()),
        };
        let too_big = || format!("{name} is longer than {limit} bytes");
        if size > limit {
            return Err(too_big());
        }
        let size = usize::try_from(size).map_err(|_| too_big())?;
        let block_size = to_usize(self.block_size)?;
        let mut contents = Vec::new();
        while contents.len() < size {
            let want = block_size.min(size - contents.len());
            if want < block_size && fragment != NO_FRAGMENT {
                contents.extend(self.fragment(fragment, offset, want)?);
                break;
            }
            let [length] = inode.u32s()?;
            let block = self.block(start, length, want)?;
            if block.len() != want {
                return Err(CORRUPT.to_owned());
            }
            contents.extend(block);
            start += u64::from(length & !DATA_RAW);
        }
        Ok(contents)
    }

    /// The end of a file that shares a block with the ends of others.
    fn fragment(&self, index: u32, offset: u32, want: usize) -> Result<Vec<u8>, String> {
        if index >= self.fragment_count {
            return Err(CORRUPT.to_owned());
        }
        // 512 entries of 16 bytes fill a metadata block; a list tells where these are.
        let pointer = add(self.fragment_table, u64::from(index / 512) * 8)?;
        let [block] = Fields(&self.bytes(pointer, 8)?).u64s()?;
        let entry_offset = u16::try_from(index % 512 * 16).map_err(|_| CORRUPT.to_owned())?;
        let mut entry = self.metadata(0, block, entry_offset)?;
        let [start] = entry.u64s()?;
        let [length] = entry.u32s()?;
        let block = self.block(start, length, 0)?;
        let offset = to_usize(offset)?;
        let end = offset.checked_add(want);
        let part = end.and_then(|end| block.get(offset..end));
        part.map(<[u8]>::to_vec).ok_or_else(|| CORRUPT.to_owned())
    }

    /// One block of data. A hole has no bytes in the image, and `hole` zeros in the file.
    fn block(&self, start: u64, length: u32, hole: usize) -> Result<Vec<u8>, String> {
        let stored = length & !DATA_RAW;
        if stored == 0 {
            return Ok(vec![0; hole]);
        }
        if stored > self.block_size {
            return Err(CORRUPT.to_owned());
        }
        let bytes = self.bytes(start, to_usize(stored)?)?;
        if length & DATA_RAW != 0 { Ok(bytes) } else { self.unpack(&bytes, self.block_size) }
    }

    fn inode(&self, place: InodePlace) -> Result<(MetadataReader<'_>, u16), String> {
        let mut inode = self.metadata(self.inode_table, place.block, place.offset)?;
        let [kind, _mode, _uid, _gid] = inode.u16s()?;
        let [_time, _number] = inode.u32s()?;
        Ok((inode, kind))
    }

    fn metadata(&self, table: u64, block: u64, offset: u16) -> Result<MetadataReader<'_>, String> {
        let mut metadata =
            MetadataReader { reader: self, next: add(table, block)?, block: Vec::new(), at: 0 };
        metadata.load()?;
        metadata.at = usize::from(offset);
        if metadata.at >= metadata.block.len() {
            return Err(CORRUPT.to_owned());
        }
        Ok(metadata)
    }

    /// Bytes of the file as they are. Callers bound `length`.
    fn bytes(&self, start: u64, length: usize) -> Result<Vec<u8>, String> {
        let end = u64::try_from(length).ok().and_then(|length| start.checked_add(length));
        if end.is_none_or(|end| end > self.end) {
            return Err(CORRUPT.to_owned());
        }
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(bytes),
            // It was longer when it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(TRUNCATED.to_owned()),
            Err(error) => Err(words(&error)),
        }
    }

    fn unpack(&self, bytes: &[u8], limit: u32) -> Result<Vec<u8>, String> {
        let limit = to_usize(limit)?;
        let mut unpacked = Vec::with_capacity(limit);
        match DefaultCompressor.decompress(bytes, &mut unpacked, self.codec) {
            Ok(()) if unpacked.len() <= limit => Ok(unpacked),
            Ok(()) | Err(_) => Err(CORRUPT.to_owned()),
        }
    }
}

/// Fields of squashfs, all little endian, one after the other.
trait ReadFields {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), String>;

    fn u16s<const N: usize>(&mut self) -> Result<[u16; N], String> {
        let mut values = [0; N];
        for value in &mut values {
            let mut bytes = [0; 2];
            self.fill(&mut bytes)?;
            *value = u16::from_le_bytes(bytes);
        }
        Ok(values)
    }

    fn u32s<const N: usize>(&mut self) -> Result<[u32; N], String> {
        let mut values = [0; N];
        for value in &mut values {
            let mut bytes = [0; 4];
            self.fill(&mut bytes)?;
            *value = u32::from_le_bytes(bytes);
        }
        Ok(values)
    }

    fn u64s<const N: usize>(&mut self) -> Result<[u64; N], String> {
        let mut values = [0; N];
        for value in &mut values {
            let mut bytes = [0; 8];
            self.fill(&mut bytes)?;
            *value = u64::from_le_bytes(bytes);
        }
        Ok(values)
    }
}

/// Fields in memory.
struct Fields<'a>(&'a [u8]);

impl ReadFields for Fields<'_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), String> {
        let (taken, rest) = self.0.split_at_checked(out.len()).ok_or_else(|| CORRUPT.to_owned())?;
        out.copy_from_slice(taken);
        self.0 = rest;
        Ok(())
    }
}

/// Fields in metadata blocks, of which it holds one at a time.
struct MetadataReader<'a> {
    reader: &'a Reader,
    next: u64,
    block: Vec<u8>,
    at: usize,
}

impl MetadataReader<'_> {
    fn load(&mut self) -> Result<(), String> {
        let [header] = Fields(&self.reader.bytes(self.next, 2)?).u16s()?;
        let length = header & !METADATA_RAW;
        if length == 0 || u32::from(length) > METADATA_MAX {
            return Err(CORRUPT.to_owned());
        }
        let bytes = self.reader.bytes(add(self.next, 2)?, usize::from(length))?;
        self.block = if header & METADATA_RAW != 0 {
            bytes
        } else {
            self.reader.unpack(&bytes, METADATA_MAX)?
        };
        if self.block.is_empty() {
            return Err(CORRUPT.to_owned());
        }
        self.next += 2 + u64::from(length);
        self.at = 0;
        Ok(())
    }
}

impl ReadFields for MetadataReader<'_> {
    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), String> {
        while !out.is_empty() {
            if self.at == self.block.len() {
                self.load()?;
            }
            let ready = self.block.get(self.at..).unwrap_or_default();
            let (now, later) = out.split_at_mut(out.len().min(ready.len()));
            now.copy_from_slice(&ready[..now.len()]);
            self.at += now.len();
            out = later;
        }
        Ok(())
    }
}

fn add(place: u64, distance: u64) -> Result<u64, String> {
    place.checked_add(distance).ok_or_else(|| CORRUPT.to_owned())
}

fn less(left: u32, taken: u32) -> Result<u32, String> {
    left.checked_sub(taken).ok_or_else(|| CORRUPT.to_owned())
}

fn to_usize(value: u32) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| CORRUPT.to_owned())
}

fn low_half(value: u64) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    use tempfile::TempDir;

    use super::*;

    const ALL: [Compression; 4] =
        [Compression::Zstd, Compression::Xz, Compression::Gzip, Compression::Lz4];

    /// A place with an empty directory `tree` to pack.
    fn place() -> (TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        fs::create_dir(&tree).unwrap();
        (place, tree)
    }

    /// Bytes that do not compress.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    /// Several blocks with a hole between them, and an end that is no whole block.
    fn blocks() -> Vec<u8> {
        let mut bytes = b"rocker ".repeat(40_000);
        bytes.resize(6 * 128 * 1024, 0);
        bytes.extend(noise(200_000));
        bytes
    }

    fn fill(tree: &Path) {
        fs::write(tree.join("rocker.toml"), "entry = \"bin/a\"\n").unwrap();
        fs::create_dir(tree.join("bin")).unwrap();
        fs::write(tree.join("bin/a"), noise(5000)).unwrap();
        fs::write(tree.join("blocks"), blocks()).unwrap();
        fs::write(tree.join("empty"), b"").unwrap();
        symlink("a", tree.join("bin/b")).unwrap();
        fs::write(tree.join(OsStr::from_bytes(b"no utf-8 \xff\n")), b"x").unwrap();
    }

    fn packed(tree: &Path, package: &Path, compression: Compression) -> Vec<u8> {
        pack_at(tree, package, compression, 0).unwrap();
        fs::read(package).unwrap()
    }

    /// Packs `tree` into `p.sqfs` beside it, in vain, and sees that nothing is left of it.
    fn refusal(place: &TempDir, tree: &Path) -> String {
        let package = place.path().join("p.sqfs");
        let text = pack(tree, &package, Compression::Lz4).unwrap_err().to_string();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        text.strip_prefix(&format!("cannot pack {}: ", tree.display())).unwrap().to_owned()
    }

    #[test]
    fn pack_same_tree_gives_same_bytes() {
        let (place, tree) = place();
        fill(&tree);
        let again = place.path().join("again");
        fs::create_dir(&again).unwrap();
        fill(&again);
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        File::open(again.join("empty")).unwrap().set_modified(long_ago).unwrap();
        for compression in ALL {
            let first = packed(&tree, &place.path().join("1"), compression);
            let second = packed(&again, &place.path().join("2"), compression);
            assert!(first == second, "{compression:?}");
            assert_eq!(first.len() % 4096, 0);
        }
    }

    #[test]
    fn pack_counts() {
        let (place, tree) = place();
        fill(&tree);
        let package = place.path().join("p");
        let packed = pack_at(&tree, &package, Compression::Zstd, 0).unwrap();
        assert_eq!(packed.files, 5);
        assert_eq!(packed.bytes_in, 16 + 5000 + blocks().len() as u64 + 1);
        assert_eq!(packed.bytes_out, package.metadata().unwrap().len());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn pack_duplicate_at_the_end_leaves_nothing_behind_the_image() {
        let (place, tree) = place();
        fs::write(tree.join("1"), noise(1 << 20)).unwrap();
        let once = packed(&tree, &place.path().join("p"), Compression::Zstd);
        fs::hard_link(tree.join("1"), tree.join("2")).unwrap();
        let twice = packed(&tree, &place.path().join("p"), Compression::Zstd);
        assert_eq!(once.len(), twice.len());
    }

    #[test]
    fn pack_modes_without_setuid_and_times_as_told() {
        let (place, tree) = place();
        fs::write(tree.join("a"), b"a").unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o6751)).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o3775)).unwrap();
        let package = place.path().join("p");
        pack_at(&tree, &package, Compression::Zstd, 12_345).unwrap();
        let file = io::BufReader::new(File::open(&package).unwrap());
        let image = backhand::FilesystemReader::from_reader(file).unwrap();
        let headers: Vec<NodeHeader> = image.files().map(|node| node.header).collect();
        assert_eq!(
            headers,
            [NodeHeader::new(0o1775, 0, 0, 0), NodeHeader::new(0o751, 0, 0, 12_345)]
        );
        assert_eq!(image.mod_time, 12_345);
    }

    #[test]
    fn pack_refuses_what_an_image_cannot_hold() {
        let (place, tree) = place();
        let _socket = UnixListener::bind(tree.join("socket")).unwrap();
        assert_eq!(refusal(&place, &tree), "socket: a socket cannot be packed");
        fs::remove_file(tree.join("socket")).unwrap();

        nix::unistd::mkfifo(&tree.join("fi\nfo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(&place, &tree), "fi\\nfo: a fifo cannot be packed");
        fs::remove_file(tree.join("fi\nfo")).unwrap();

        symlink("x".repeat(255), tree.join("link")).unwrap();
        pack_at(&tree, &place.path().join("p"), Compression::Lz4, 0).unwrap();
        fs::remove_file(place.path().join("p")).unwrap();
        fs::remove_file(tree.join("link")).unwrap();
        symlink("x".repeat(256), tree.join("link")).unwrap();
        assert_eq!(refusal(&place, &tree), "link: the symlink is longer than 255 bytes");
    }

    #[test]
    fn pack_refuses_extended_attributes() {
        let (place, tree) = place();
        fs::write(tree.join("a"), b"a").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(tree.join("a"), "user.note", b"x", flags) == Err(Errno::NOTSUP) {
            return;
        }
        let expected = "a: a package cannot hold the extended attribute user.note";
        assert_eq!(refusal(&place, &tree), expected);
    }

    #[test]
    fn pack_refuses_a_bad_manifest() {
        let (place, tree) = place();
        let manifest = tree.join("rocker.toml");
        fs::write(&manifest, "entry = \"\"").unwrap();
        assert_eq!(refusal(&place, &tree), "rocker.toml: line 1: entry: is empty");
        fs::write(&manifest, b"\xff").unwrap();
        assert_eq!(refusal(&place, &tree), "rocker.toml: stream did not contain valid UTF-8");
        fs::write(&manifest, "#".repeat(32 * 1024 + 1)).unwrap();
        assert_eq!(refusal(&place, &tree), "rocker.toml: longer than 32768 bytes");
        fs::remove_file(&manifest).unwrap();
        symlink("other.toml", &manifest).unwrap();
        assert_eq!(refusal(&place, &tree), "rocker.toml: not a regular file");
    }

    #[test]
    fn pack_refuses_bad_places() {
        let (place, tree) = place();
        let told = |dir: &Path, package: &Path| {
            pack(dir, package, Compression::Lz4).unwrap_err().to_string()
        };
        fs::create_dir(tree.join("sub")).unwrap();
        for inside in [tree.join("p"), tree.join("sub/p"), tree.join("sub/../p")] {
            let text = told(&tree, &inside);
            assert!(text.ends_with("/p: lies inside the directory that is to be packed"), "{text}");
        }
        let text = told(&tree, place.path());
        assert!(text.ends_with("exists and is not a regular file"), "{text}");
        let text = told(&place.path().join("none"), &place.path().join("p"));
        assert!(text.ends_with("/none: .: No such file or directory (os error 2)"), "{text}");
        let text = told(&tree, &place.path().join("none/p"));
        assert!(text.ends_with("/none/p: No such file or directory (os error 2)"), "{text}");
        fs::write(place.path().join("file"), b"").unwrap();
        let text = told(&place.path().join("file"), &place.path().join("p"));
        assert!(text.ends_with("/file: .: not a directory"), "{text}");
    }

    #[test]
    fn pack_beside_the_tree_with_its_name_as_a_prefix() {
        let (place, tree) = place();
        pack_at(&tree, &place.path().join("tree.sqfs"), Compression::Zstd, 0).unwrap();
    }

    #[test]
    fn source_that_changed_is_an_error() {
        let (_place, tree) = place();
        let path = tree.join("a");
        let told = |now: &[u8]| {
            fs::write(&path, b"before").unwrap();
            let found = path.metadata().unwrap();
            let mut source = Source::new(&path, Path::new("a"), &found);
            fs::write(&path, now).unwrap();
            source.read_to_end(&mut Vec::new()).map_err(|error| error.to_string())
        };
        assert_eq!(told(b"after!"), Ok(6));
        assert_eq!(told(b"less"), Err("a: the file changed while it was packed".to_owned()));
        assert_eq!(told(b"far more"), Err("a: the file changed while it was packed".to_owned()));
    }

    #[test]
    fn parse_epoch_takes_32_bits() {
        let epoch = |text: &str| parse_epoch(Some(OsStr::new(text))).ok();
        assert_eq!(parse_epoch(None).ok(), Some(0));
        assert_eq!(epoch("4294967295"), Some(u32::MAX));
        for bad in ["", "4294967296", "-1", "today", "1.5"] {
            assert_eq!(epoch(bad), None, "{bad}");
        }
    }

    #[test]
    fn read_file_gives_back_what_was_packed() {
        let (place, tree) = place();
        fill(&tree);
        let package = place.path().join("p");
        for compression in ALL {
            pack_at(&tree, &package, compression, 0).unwrap();
            let read = |name: &str| read_file(&package, name, 1 << 20).unwrap();
            assert_eq!(read("rocker.toml").unwrap(), b"entry = \"bin/a\"\n");
            assert_eq!(read("empty").unwrap(), b"");
            assert!(read("blocks").unwrap() == blocks(), "{compression:?}");
            assert_eq!(read("none"), None);
            assert_eq!(read("bin/a"), None);
            assert_eq!(read(""), None);
        }
    }

    #[test]
    fn read_file_keeps_to_the_limit() {
        let (place, tree) = place();
        fill(&tree);
        let package = place.path().join("p");
        pack_at(&tree, &package, Compression::Zstd, 0).unwrap();
        let told = |name, limit| {
            let error = read_file(&package, name, limit).unwrap_err().to_string();
            error.strip_prefix(&format!("cannot read {}: ", package.display())).unwrap().to_owned()
        };
        assert_eq!(told("rocker.toml", 15), "rocker.toml is longer than 15 bytes");
        assert!(read_file(&package, "rocker.toml", 16).unwrap().is_some());
        assert_eq!(told("bin", 16), "bin is not a regular file");
    }

    #[test]
    fn read_file_of_a_big_root() {
        let (place, tree) = place();
        for number in 0..2000 {
            fs::write(tree.join(format!("{number:0100}")), number.to_string()).unwrap();
        }
        let package = place.path().join("p");
        pack_at(&tree, &package, Compression::Lz4, 0).unwrap();
        for number in [0, 255, 256, 511, 512, 1999] {
            let found = read_file(&package, &format!("{number:0100}"), 10).unwrap();
            assert_eq!(found, Some(number.to_string().into_bytes()));
        }
    }

    #[test]
    fn read_file_of_what_is_no_package() {
        let (place, tree) = place();
        fill(&tree);
        let package = place.path().join("p");
        let told = || read_file(&package, "a", 10).unwrap_err().to_string();
        assert!(told().ends_with("No such file or directory"));
        fs::write(&package, b"hsqs").unwrap();
        assert!(told().ends_with("/p: not a squashfs image"));
        fs::write(&package, [0; 4096]).unwrap();
        assert!(told().ends_with("/p: not a squashfs image"));
        let mut bytes = packed(&tree, &package, Compression::Gzip);
        File::options().write(true).open(&package).unwrap().set_len(10_000).unwrap();
        assert!(told().contains("/p: the squashfs image is truncated: it has 10000 of "));
        bytes[20] = 3;
        fs::write(&package, &bytes).unwrap();
        assert!(told().ends_with("/p: squashfs compressor 3 is not supported"));
        fs::remove_file(&package).unwrap();
        nix::unistd::mkfifo(&package, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(told().ends_with("/p: not a regular file"));
    }

    /// Every byte of a small image with every bit flipped alone, and every length: whatever
    /// comes of it, it is no panic and keeps to the limit.
    #[test]
    fn read_file_of_spoilt_packages() {
        let (place, tree) = place();
        fs::write(tree.join("rocker.toml"), "entry = \"a\"").unwrap();
        fs::write(tree.join("b"), noise(100)).unwrap();
        let package = place.path().join("p");
        for compression in ALL {
            let bytes = packed(&tree, &package, compression);
            let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let file = File::options().write(true).open(&package).unwrap();
            let look = || {
                if let Ok(Some(found)) = read_file(&package, "rocker.toml", 64) {
                    assert!(found.len() <= 64);
                }
            };
            for (at, byte) in bytes[..used].iter().enumerate() {
                for spoilt in (0..8).map(|bit| byte ^ (1 << bit)).chain([0, 0xff, *byte]) {
                    file.write_all_at(&[spoilt], at as u64).unwrap();
                    look();
                }
            }
            for length in (0..used).rev() {
                file.set_len(length as u64).unwrap();
                look();
            }
        }
    }
}
