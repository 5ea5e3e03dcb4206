//! Reads one file of a package, whoever made it.

use core::error::Error;
use core::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use backhand::compression::{CompressionAction, Compressor, DefaultCompressor};

use super::{OneLine, words};

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
    /// Where the image ends; what follows is no part of it.
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

    use super::super::tests::{ALL, blocks, fill, noise, packed, place, with};
    use super::super::{Compression, pack_at};
    use super::*;

    #[test]
    fn read_file_gives_back_what_was_packed() {
        let (place, tree) = place();
        fill(&tree);
        let package = place.path().join("p");
        for compression in ALL {
            pack_at(&tree, &package, with(compression), 0).unwrap();
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
        pack_at(&tree, &package, with(Compression::Zstd), 0).unwrap();
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
        pack_at(&tree, &package, with(Compression::Lz4), 0).unwrap();
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
