//! What an image says of its files: inodes and directories.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::image::{Data, fit};
use super::packer::Packer;
use super::tree::{Kind, Node};

/// Numbers as they stand in an image.
#[derive(Default)]
pub(super) struct Record(pub(super) Vec<u8>);

impl Record {
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_le_bytes())
    }
}

/// A table in blocks that are compressed each by itself, with its length before it.
#[derive(Default)]
pub(super) struct Metadata {
    done: Vec<u8>,
    /// The block that is not full yet.
    open: Vec<u8>,
}

/// Where something is in a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    /// Where its block begins.
    block: u32,
    /// Where it begins in the block, when that is unpacked.
    offset: u16,
}

impl Metadata {
    /// How long blocks are before they are compressed, in bytes.
    pub(super) const BLOCK: usize = 8192;

    /// The bit of the length that says that the block is not compressed.
    const PLAIN: u16 = 0x8000;

    /// One short block, not compressed.
    pub(super) fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        Ok(Record::default().u16(fit::<u16>(bytes.len())? | Self::PLAIN).bytes(bytes).0)
    }

    pub(super) fn add(&mut self, mut bytes: &[u8], packer: &mut Packer) -> io::Result<()> {
        while let Some((now, later)) = bytes.split_at_checked(Self::BLOCK - self.open.len()) {
            self.open.extend_from_slice(now);
            self.close(packer)?;
            bytes = later;
        }
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    fn close(&mut self, packer: &mut Packer) -> io::Result<()> {
        match packer.pack(&self.open)? {
            Some(packed) => {
                let block = Record::default().u16(fit(packed.len())?).bytes(&packed);
                self.done.extend(block.0);
            }
            None => self.done.extend(Self::plain(&self.open)?),
        }
        self.open.clear();
        Ok(())
    }

    pub(super) fn end(mut self, packer: &mut Packer) -> io::Result<Vec<u8>> {
        if !self.open.is_empty() {
            self.close(packer)?;
        }
        Ok(self.done)
    }

    /// Of what is added next.
    fn place(&self) -> io::Result<Place> {
        Ok(Place { block: fit(self.done.len())?, offset: fit(self.open.len())? })
    }
}

/// Both tables, and the root's inode: where its block begins << 16 | where it begins in it.
pub(super) struct Tables {
    pub(super) inodes: Vec<u8>,
    pub(super) directories: Vec<u8>,
    pub(super) root: u64,
}

impl Tables {
    /// `data` is that of the files among the nodes, in their order.
    pub(super) fn new(
        nodes: &[Node],
        data: Vec<Data>,
        time: u32,
        packer: &mut Packer,
    ) -> io::Result<Self> {
        let (inodes, directories) = (Metadata::default(), Metadata::default());
        let mut maker = Maker { inodes, directories, packer, time };
        let mut data = data.into_iter();
        // From the root to where we are: an inode says where the directory's entries are, and
        // those where the inodes are, so a directory is told of when all in it is.
        let mut path: Vec<Open<'_>> = vec![];
        let beyond = fit(nodes.len() + 1)?;
        for (node, inode) in nodes.iter().zip(1..) {
            while path.len() > node.depth {
                maker.leave(&mut path, beyond)?;
            }
            let record = match &node.kind {
                Kind::Directory => {
                    path.push(Open { node, inode, entries: vec![], directories: 0 });
                    continue;
                }
                Kind::File => {
                    let Some(data) = data.next() else { unreachable!("each file has its data") };
                    maker.file(node, inode, &data)?
                }
                Kind::Symlink(target) => {
                    let record = maker.inode(kind::SYMLINK, node, inode);
                    record.u32(1).u32(fit(target.len())?).bytes(target)
                }
            };
            let kind = if let Kind::File = node.kind { kind::FILE } else { kind::SYMLINK };
            let Some(parent) = path.last_mut() else { unreachable!("the root is a directory") };
            parent.entries.push(Entry {
                place: maker.add(&record)?,
                inode,
                kind,
                name: &node.name,
            });
        }
        let mut root = Place { block: 0, offset: 0 };
        while !path.is_empty() {
            root = maker.leave(&mut path, beyond)?;
        }
        let Maker { inodes, directories, packer, .. } = maker;
        Ok(Self {
            inodes: inodes.end(packer)?,
            directories: directories.end(packer)?,
            root: u64::from(root.block) << 16 | u64::from(root.offset),
        })
    }
}

/// What inodes and entries are of. An inode that needs more than the usual fields has 7 more.
mod kind {
    pub(super) const DIRECTORY: u16 = 1;
    pub(super) const FILE: u16 = 2;
    pub(super) const SYMLINK: u16 = 3;
    pub(super) const LONG: u16 = 7;
}

/// Where there is no shared block, and where no extended attributes are.
const NONE: u32 = u32::MAX;

/// A directory not all of whose entries are known.
struct Open<'a> {
    node: &'a Node,
    inode: u32,
    entries: Vec<Entry<'a>>,
    directories: u32,
}

struct Entry<'a> {
    place: Place,
    inode: u32,
    kind: u16,
    name: &'a OsStr,
}

struct Maker<'a> {
    inodes: Metadata,
    directories: Metadata,
    packer: &'a mut Packer,
    time: u32,
}

impl Maker<'_> {
    /// How an inode of this kind begins. User and group are the first and only ones.
    fn inode(&self, kind: u16, node: &Node, inode: u32) -> Record {
        Record::default().u16(kind).u16(node.mode).u16(0).u16(0).u32(self.time).u32(inode)
    }

    fn add(&mut self, inode: &Record) -> io::Result<Place> {
        let place = self.inodes.place()?;
        self.inodes.add(&inode.0, self.packer)?;
        Ok(place)
    }

    fn file(&self, node: &Node, inode: u32, data: &Data) -> io::Result<Record> {
        let (shared, offset) = data.shared.unwrap_or((NONE, 0));
        let record = match (u32::try_from(data.start), u32::try_from(data.length), data.sparse) {
            (Ok(start), Ok(length), 0) => {
                let record = self.inode(kind::FILE, node, inode);
                record.u32(start).u32(shared).u32(offset).u32(length)
            }
            _ => {
                let record = self.inode(kind::FILE + kind::LONG, node, inode);
                let record = record.u64(data.start).u64(data.length).u64(data.sparse);
                record.u32(1).u32(shared).u32(offset).u32(NONE)
            }
        };
        Ok(data.sizes.iter().fold(record, |record, size| record.u32(*size)))
    }

    /// The last directory of the path has no more entries.
    fn leave(&mut self, path: &mut Vec<Open<'_>>, beyond: u32) -> io::Result<Place> {
        let Some(Open { node, inode, entries, directories }) = path.pop() else {
            unreachable!("it was entered");
        };
        let List { place, length, index } = self.list(&entries)?;
        let links = 2 + directories;
        let parent = path.last().map_or(beyond, |parent| parent.inode);
        let record = match u16::try_from(length) {
            Ok(length) if index.is_empty() => {
                let record = self.inode(kind::DIRECTORY, node, inode);
                record.u32(place.block).u32(links).u16(length).u16(place.offset).u32(parent)
            }
            _ => {
                let record = self.inode(kind::DIRECTORY + kind::LONG, node, inode);
                let record = record.u32(links).u32(length).u32(place.block).u32(parent);
                let record = record.u16(fit(index.len())?).u16(place.offset).u32(NONE);
                index.iter().try_fold(record, |record, mark| {
                    let record = record.u32(mark.position).u32(mark.block);
                    let length = fit(mark.name.len() - 1)?;
                    io::Result::Ok(record.u32(length).bytes(mark.name.as_bytes()))
                })?
            }
        };
        let place = self.add(&record)?;
        if let Some(parent) = path.last_mut() {
            parent.directories += 1;
            parent.entries.push(Entry { place, inode, kind: kind::DIRECTORY, name: &node.name });
        }
        Ok(place)
    }

    /// Entries in runs with a header each, of the same block of inodes. A run ends with its block
    /// of the table, too: where the next one begins is in the index. Without one the kernel unpacks
    /// all blocks before a name to find it, anew for each name.
    fn list<'a>(&mut self, entries: &[Entry<'a>]) -> io::Result<List<'a>> {
        let begin = self.directories.place()?;
        // `.` and `..`, which are not in the list, count so much.
        let mut list = List { place: begin, length: 3, index: vec![] };
        let (mut rest, mut block) = (entries, begin.block);
        while let Some(first) = rest.first() {
            let at = self.directories.place()?;
            if at.block != block && list.index.len() < usize::from(u16::MAX) {
                let position = list.length - 3;
                list.index.push(Mark { position, block: at.block, name: first.name });
            }
            block = at.block;
            let mut end = usize::from(at.offset);
            let fits = |entry: &&Entry<'_>| {
                let fits = end < Metadata::BLOCK;
                end += ENTRY + entry.name.len();
                fits && entry.place.block == first.place.block
                    && entry.inode - first.inode < 1 << 15
            };
            let (run, later) = rest.split_at(rest.iter().take(RUN).take_while(fits).count());
            let header = Record::default().u32(fit(run.len() - 1)?).u32(first.place.block);
            let record = run.iter().try_fold(header.u32(first.inode), |record, entry| {
                let record = record.u16(entry.place.offset).u16(fit(entry.inode - first.inode)?);
                let record = record.u16(entry.kind).u16(fit(entry.name.len() - 1)?);
                io::Result::Ok(record.bytes(entry.name.as_bytes()))
            })?;
            self.directories.add(&record.0, self.packer)?;
            list.length = fit(u64::from(list.length) + record.0.len() as u64)?;
            rest = later;
        }
        if list.length as usize <= Metadata::BLOCK {
            list.index.clear();
        }
        Ok(list)
    }
}

/// The most entries after one header.
const RUN: usize = 256;

/// Bytes of an entry without its name.
const ENTRY: usize = 8;

/// Where the entries of a directory are.
struct List<'a> {
    place: Place,
    length: u32,
    index: Vec<Mark<'a>>,
}

/// The first name of a block of the table.
struct Mark<'a> {
    /// From the list's begin.
    position: u32,
    block: u32,
    name: &'a OsStr,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::tests::with;
    use super::super::{Compression, Options};
    use super::*;

    fn node(name: &str, depth: usize, kind: Kind) -> Node {
        Node { name: name.into(), depth, mode: 0o755, kind }
    }

    fn tables(nodes: &[Node]) -> Tables {
        let files = nodes.iter().filter(|node| matches!(node.kind, Kind::File)).count();
        let mut packer = Packer::new(with(Compression::Zstd)).unwrap();
        Tables::new(nodes, vec![Data::default(); files], 0, &mut packer).unwrap()
    }

    /// The blocks of a table, by where they begin.
    fn unpacked(table: &[u8]) -> HashMap<u32, Vec<u8>> {
        let (mut blocks, mut at) = (HashMap::new(), 0);
        while let Some((length, rest)) = table[at..].split_first_chunk() {
            let length = u16::from_le_bytes(*length);
            let bytes = &rest[..usize::from(length & !Metadata::PLAIN)];
            let block = match length & Metadata::PLAIN {
                0 => zstd::bulk::decompress(bytes, Metadata::BLOCK).unwrap(),
                _ => bytes.to_vec(),
            };
            blocks.insert(u32::try_from(at).unwrap(), block);
            at += 2 + bytes.len();
        }
        blocks
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// What the kernel does with it: `get_dir_index_using_name` in `fs/squashfs/namei.c`.
    #[test]
    fn the_index_of_a_big_directory_leads_to_the_names_it_tells() {
        let names = (0..3000).map(|number| format!("{number:04}-{}", "x".repeat(number % 200)));
        let mut nodes: Vec<Node> = names.map(|name| node(&name, 1, Kind::File)).collect();
        nodes.insert(0, node("", 0, Kind::Directory));
        // So that the list does not begin with a block.
        nodes.insert(1, node("0", 1, Kind::Directory));
        nodes.insert(2, node("inner", 2, Kind::File));
        let Tables { inodes, directories, root } = tables(&nodes);
        let (inodes, directories) = (unpacked(&inodes), unpacked(&directories));
        let mut inode = inodes[&u32::try_from(root >> 16).unwrap()].clone();
        inode.drain(..usize::try_from(root & 0xffff).unwrap());
        assert_eq!(inode[0], 8);
        let begin = usize::from(u16::from_le_bytes([inode[34], inode[35]]));
        let marks = u16::from_le_bytes([inode[32], inode[33]]);
        // The root's inode may go on in the next block.
        let last = inodes.keys().max().unwrap();
        if u64::from(*last) != root >> 16 {
            inode.extend(&inodes[last]);
        }
        assert!(begin > 0 && usize::from(marks) == u32_at(&inode, 20) / Metadata::BLOCK, "{marks}");
        let mut mark = &inode[40..];
        for _ in 0..marks {
            let (position, block) = (u32_at(mark, 0), u32_at(mark, 4));
            let name = &mark[12..=12 + u32_at(mark, 8)];
            let entries = &directories[&u32::try_from(block).unwrap()];
            // After a header of 12 bytes, eight of the first entry.
            let first = (begin + position) % Metadata::BLOCK + 20;
            assert_eq!(&entries[first..first + name.len()], name);
            mark = &mark[12 + name.len()..];
        }
    }

    #[test]
    fn a_small_directory_has_no_index() {
        let nodes: Vec<Node> = core::iter::once(node("", 0, Kind::Directory))
            .chain((0..300).map(|number| node(&format!("{number:03}"), 1, Kind::File)))
            .collect();
        let Tables { inodes, root, .. } = tables(&nodes);
        let inodes = unpacked(&inodes);
        let inode = &inodes[&u32::try_from(root >> 16).unwrap()];
        assert_eq!(inode[usize::try_from(root & 0xffff).unwrap()], 1);
    }

    /// An inode that is longer than a block, after what fills one to the last byte.
    #[test]
    fn metadata_is_in_blocks_of_one_length() {
        let options = Options { block_size: 4096, ..with(Compression::Zstd) };
        let mut packer = Packer::new(options).unwrap();
        let mut metadata = Metadata::default();
        metadata.add(&[1; Metadata::BLOCK - 1], &mut packer).unwrap();
        assert_eq!(metadata.place().unwrap(), Place { block: 0, offset: 8191 });
        metadata.add(&[2], &mut packer).unwrap();
        let Place { block, offset } = metadata.place().unwrap();
        assert!(block > 0 && offset == 0);
        metadata.add(&[3; 2 * Metadata::BLOCK + 5], &mut packer).unwrap();
        assert_eq!(metadata.place().unwrap().offset, 5);
        let blocks = unpacked(&metadata.end(&mut packer).unwrap());
        let mut lengths: Vec<usize> = blocks.values().map(Vec::len).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [5, 8192, 8192, 8192]);
        assert_eq!(blocks[&0][8191], 2);
        assert_eq!(blocks[&block][0], 3);
    }
}
