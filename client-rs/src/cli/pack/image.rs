//! The image: blocks of data as they come, then what is said of them, and the superblock at last
//! (`Documentation/filesystems/squashfs.rst`; `fs/squashfs/squashfs_fs.h`).

use std::collections::HashMap;
use std::io::{self, Seek, SeekFrom, Write};

use super::Options;
use super::ahead::{Block, Content, Made, Part, make_blocks};
use super::packer::{Packer, describe};
use super::source::Source;
use super::tables::{Metadata, Record, Tables};
use super::trailer;
use super::tree::Tree;

/// Packages end on a multiple of this: the loop device serves whole sectors only, and ignores a
/// last one that is cut short.
const PADDING: u64 = 4096;

/// Length of the superblock, in bytes.
const SUPERBLOCK: usize = 96;

/// Flags of the superblock: equal files share their blocks; there are no extended attributes; the
/// codec has options.
const DUPLICATES: u16 = 0x40;
const NO_XATTRS: u16 = 0x200;
const CODEC_OPTIONS: u16 = 0x400;

/// The bit of a block's size that says that it is not compressed.
const PLAIN: u32 = 1 << 24;

/// Where there is no table.
const NONE: u64 = u64::MAX;

/// Where the bytes of a file are.
#[derive(Clone, Default)]
pub(super) struct Data {
    pub(super) start: u64,
    /// Of each of its blocks; 0 is a hole.
    pub(super) sizes: Vec<u32>,
    /// Bytes in holes.
    pub(super) sparse: u64,
    /// The block that it shares, and where it begins there.
    pub(super) shared: Option<(u32, u32)>,
    pub(super) length: u64,
}

/// Writes the image of this tree, and returns its length.
pub(super) fn write(
    tree: &Tree,
    options: Options,
    time: u32,
    out: impl Write + Seek,
) -> io::Result<u64> {
    let mut packer = Packer::new(options)?;
    let (codec, codec_options) = describe(options.compression);
    let mut image = Image { out, at: 0 };
    image.put(&[0; SUPERBLOCK])?;
    let mut flags = DUPLICATES | NO_XATTRS;
    if !codec_options.is_empty() {
        flags |= CODEC_OPTIONS;
        image.put(&Metadata::plain(&codec_options)?)?;
    }

    let mut blocks = Blocks::new(&mut image, &tree.files);
    make_blocks(&tree.files, options, |made| blocks.add(made))?;
    let Blocks { data, shared, shared_count, .. } = blocks;

    let Tables { inodes, directories, root } = Tables::new(&tree.nodes, data, time, &mut packer)?;
    let inode_table = image.put(&inodes)?;
    let directory_table = image.put(&directories)?;
    let shared_table = image.put_table(&shared, &mut packer)?;
    // Everything is user 0's and group 0's.
    let id_table = image.put_table(&[0; 4], &mut packer)?;
    let bytes_used = image.at;

    let superblock = Record::default()
        .bytes(b"hsqs")
        .u32(fit(tree.nodes.len())?)
        .u32(time)
        .u32(options.block_size)
        .u32(shared_count)
        .u16(codec)
        .u16(fit(options.block_size.ilog2())?)
        .u16(flags)
        // One user and group; version 4.0.
        .u16(1)
        .u16(4)
        .u16(0)
        .u64(root)
        .u64(bytes_used)
        .u64(id_table)
        .u64(NONE)
        .u64(inode_table)
        .u64(directory_table)
        .u64(shared_table)
        .u64(NONE);
    image.put(&trailer::make(&superblock.0, tree.manifest.as_ref())?)?;
    let length = image.at.next_multiple_of(PADDING);
    image.put(&vec![0; fit(length - image.at)?])?;
    image.out.rewind()?;
    image.out.write_all(&superblock.0)?;
    image.out.flush()?;
    Ok(length)
}

/// For what an image has so many bits for.
pub(super) fn fit<T>(value: impl TryInto<T>) -> io::Result<T> {
    value.try_into().map_err(|_| io::Error::other("the tree is too big for one package"))
}

struct Image<W> {
    out: W,
    at: u64,
}

impl<W: Write + Seek> Image<W> {
    /// Returns where it is.
    fn put(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.at;
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(at)
    }

    /// A table of its own: blocks of metadata, and a list of where each begins, which is the
    /// table's place.
    fn put_table(&mut self, table: &[u8], packer: &mut Packer) -> io::Result<u64> {
        let mut list = Record::default();
        for block in table.chunks(Metadata::BLOCK) {
            let mut metadata = Metadata::default();
            metadata.add(block, packer)?;
            list = list.u64(self.put(&metadata.end(packer)?)?);
        }
        self.put(&list.0)
    }

    fn back_to(&mut self, at: u64) -> io::Result<()> {
        self.at = self.out.seek(SeekFrom::Start(at))?;
        Ok(())
    }
}

/// The data of an image, block by block.
struct Blocks<'a, W> {
    image: &'a mut Image<W>,
    files: &'a [Source],
    /// Of each file.
    data: Vec<Data>,
    /// Hashes of the blocks of the file that is written.
    hashes: Vec<u64>,
    /// Files with blocks of their own, by length and hashes.
    known: HashMap<(u64, Vec<u64>), usize>,
    /// The table of shared blocks.
    shared: Vec<u8>,
    shared_count: u32,
}

impl<'a, W: Write + Seek> Blocks<'a, W> {
    fn new(image: &'a mut Image<W>, files: &'a [Source]) -> Self {
        let empty = |file: &Source| Data { length: file.length, ..Data::default() };
        Self {
            image,
            files,
            data: files.iter().map(empty).collect(),
            hashes: vec![],
            known: HashMap::new(),
            shared: vec![],
            shared_count: 0,
        }
    }

    fn add(&mut self, made: Made) -> io::Result<()> {
        match made.block {
            Block::Own(part) => self.add_own(part, &made.content, made.hash),
            Block::Shared(parts) => self.add_shared(&parts, &made.content),
        }
    }

    fn add_own(&mut self, part: Part, content: &Content, hash: u64) -> io::Result<()> {
        let data = &mut self.data[part.file];
        if part.start == 0 {
            data.start = self.image.at;
        }
        data.sizes.push(put(self.image, content)?);
        if let Content::Hole = content {
            data.sparse += part.length;
        }
        self.hashes.push(hash);
        let length = self.files[part.file].length;
        if part.start + part.length == length {
            let key = (length, core::mem::take(&mut self.hashes));
            let first = *self.known.entry(key).or_insert(part.file);
            if first != part.file {
                // That it is the same is known now only: what comes next is written over it.
                self.image.back_to(self.data[part.file].start)?;
                self.data[part.file] = self.data[first].clone();
            }
        }
        Ok(())
    }

    fn add_shared(&mut self, parts: &[Part], content: &Content) -> io::Result<()> {
        let start = self.image.at;
        let size = put(self.image, content)?;
        self.shared.extend(Record::default().u64(start).u32(size).u32(0).0);
        let mut offset = 0;
        for part in parts {
            self.data[part.file].shared = Some((self.shared_count, fit(offset)?));
            offset += part.length;
        }
        self.shared_count += 1;
        Ok(())
    }
}

/// Returns the size as it stands in the image.
fn put<W: Write + Seek>(image: &mut Image<W>, content: &Content) -> io::Result<u32> {
    match content {
        Content::Hole => Ok(0),
        Content::Packed(bytes) => {
            image.put(bytes)?;
            fit(bytes.len())
        }
        Content::Plain(bytes) => {
            image.put(bytes)?;
            Ok(fit::<u32>(bytes.len())? | PLAIN)
        }
    }
}
