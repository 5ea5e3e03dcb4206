//! Compresses blocks on all processors before the writer asks for them.
//!
//! backhand's writer is one thread: it reads, compresses and writes block after block. But which
//! blocks these are follows from the lengths of the files alone ([`Plan`]), so other threads make
//! them in the same order, and the compressor that the writer calls hands out what they made.
//!
//! It does so only for the very bytes that were compressed, and compresses itself whatever else
//! it is given. So a plan that is wrong, as when a file changes meanwhile, costs time and cannot
//! spoil a package: it has the same bytes whatever the number of threads.
//!
//! They stay a few blocks ahead, so memory is bounded: some 4 MiB for each thread ([`AHEAD`], as
//! they are and packed), and what the codec needs.

use core::mem;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{thread, vec};

use backhand::compression::{CompressionAction, Compressor, DefaultCompressor};
use backhand::kind::Kind;
use backhand::{BackhandError, FilesystemCompressor, SuperBlock};

use super::packer::Packer;
use super::writer::Image;
use super::{Options, source};

/// How much may be ready for each thread, in bytes; two blocks at least. Less, and the threads
/// wait whenever the writer does not run.
const AHEAD: u64 = 2 << 20;

/// The blocks of an image, in the order in which backhand asks for them: a file that fills a
/// block has blocks of its own, the last of them short; shorter ones share a block.
pub(super) struct Plan {
    files: vec::IntoIter<(PathBuf, u64)>,
    block_size: u64,
    /// What is left of the file that has blocks of its own.
    long: Option<Part>,
    /// Short files that wait for more to fill a block.
    shared: Vec<Part>,
    filled: u64,
}

/// Bytes of one file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    path: Arc<Path>,
    start: u64,
    length: u64,
}

/// What is compressed together.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Block {
    /// Of one file. The image has no block for zeros.
    Own(Part),
    Shared(Vec<Part>),
}

impl Plan {
    /// Of these files with their lengths, sorted as in the image.
    pub(super) fn new(files: Vec<(PathBuf, u64)>, block_size: u32) -> Self {
        Self {
            files: files.into_iter(),
            block_size: block_size.into(),
            long: None,
            shared: vec![],
            filled: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        loop {
            if let Some(Part { path, start, length }) = self.long.take() {
                let now = length.min(self.block_size);
                let block = Part { path: path.clone(), start, length: now };
                if now < length {
                    self.long = Some(Part { path, start: start + now, length: length - now });
                }
                return Some(Block::Own(block));
            }
            let Some((path, length)) = self.files.next() else {
                let rest = mem::take(&mut self.shared);
                return (!rest.is_empty()).then_some(Block::Shared(rest));
            };
            let file = Part { path: path.into(), start: 0, length };
            if length >= self.block_size {
                self.long = Some(file);
                continue;
            }
            if length == 0 {
                continue;
            }
            let fits = self.filled + length <= self.block_size;
            let full = if fits { None } else { Some(mem::take(&mut self.shared)) };
            self.filled = if fits { self.filled + length } else { length };
            self.shared.push(file);
            if let Some(full) = full {
                return Some(Block::Shared(full));
            }
        }
    }
}

impl Block {
    fn read(&self) -> io::Result<Vec<u8>> {
        let parts = match self {
            Self::Own(part) => core::slice::from_ref(part),
            Self::Shared(parts) => parts,
        };
        // With room for all of it each part is one system call.
        let length: u64 = parts.iter().map(|part| part.length).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        for part in parts {
            let mut file: File = source::open(&part.path)?;
            if part.start > 0 {
                file.seek(io::SeekFrom::Start(part.start))?;
            }
            file.take(part.length).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }
}

/// What became of a block.
enum Made {
    /// Zeros, for which the writer does not ask.
    Hole,
    Packed {
        bytes: Vec<u8>,
        packed: Vec<u8>,
    },
}

/// Blocks in the order of the plan, each to come when it is made. Of one that could not be made
/// nothing comes.
type Order = Receiver<Receiver<Made>>;

/// The plan, and where the next of its blocks is announced; none when all are.
type Work = Mutex<Option<(Plan, SyncSender<Receiver<Made>>)>>;

/// Writes the image, whose blocks are planned so, with as many threads beside this one as there
/// are jobs; one means this one alone. Returns the image's size.
pub(super) fn write(
    image: &mut Image<'_>,
    plan: Plan,
    options: Options,
    out: impl Write + Seek,
) -> Result<u64, BackhandError> {
    let threads = match options.jobs.get() {
        1 => 0,
        jobs => jobs,
    };
    let ready = usize::try_from(AHEAD / plan.block_size).unwrap_or(0).max(2);
    let (announce, order) = sync_channel(ready * threads);
    let desk = Desk { order: (threads > 0).then_some(order), packer: Packer::new(options)? };
    // backhand wants its compressor for the life of the process, so these few bytes stay.
    let ahead: &'static Ahead = Box::leak(Box::new(Ahead(Mutex::new(Some(desk)))));
    image.set_kind(Kind::new_v4(ahead));
    let work = Work::new(Some((plan, announce)));
    thread::scope(|scope| {
        let _end = End(ahead);
        for _ in 0..threads {
            let packer = Packer::new(options)?;
            let work = || make_blocks(&work, packer);
            thread::Builder::new().spawn_scoped(scope, work)?;
        }
        image.write(out).map(|(_, size)| size)
    })
}

/// What a thread does: block after block, until there is none or nobody wants them.
fn make_blocks(work: &Work, mut packer: Packer) {
    while let Some((block, done)) = take_block(work) {
        // What fails here fails again where the writer does it, who tells why.
        if let Ok(made) = make(&block, &mut packer) {
            let _ = done.send(made);
        }
    }
}

fn take_block(work: &Work) -> Option<(Block, SyncSender<Made>)> {
    let mut work = work.lock().ok()?;
    let (plan, announce) = work.as_mut()?;
    let (done, made) = sync_channel(1);
    // Waits while enough is ready, and the other threads for the lock.
    let block = plan.next().filter(|_| announce.send(made).is_ok());
    if block.is_none() {
        *work = None;
    }
    block.map(|block| (block, done))
}

fn make(block: &Block, packer: &mut Packer) -> Result<Made, BackhandError> {
    let bytes = block.read()?;
    if matches!(block, Block::Own(_)) && bytes.iter().all(|byte| *byte == 0) {
        return Ok(Made::Hole);
    }
    let packed = packer.pack(&bytes)?;
    Ok(Made::Packed { bytes, packed })
}

/// The writer's compressor. It has nothing any more when the image is written.
struct Ahead(Mutex<Option<Desk>>);

/// What the writer is served from.
struct Desk {
    /// None if nobody works ahead.
    order: Option<Order>,
    /// For what is not planned.
    packer: Packer,
}

impl Desk {
    /// The next block for which the writer asks, if the plan is right.
    fn next(&self) -> Option<Made> {
        loop {
            match self.order.as_ref()?.recv().ok()?.recv().ok()? {
                Made::Hole => {}
                made @ Made::Packed { .. } => return Some(made),
            }
        }
    }

    fn pack(&mut self, bytes: &[u8]) -> Result<Vec<u8>, BackhandError> {
        match self.next() {
            Some(Made::Packed { bytes: planned, packed }) if planned == bytes => Ok(packed),
            _ => self.packer.pack(bytes),
        }
    }
}

/// Ends the threads, also when the writer has failed: nobody wants their blocks any more.
struct End(&'static Ahead);

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(mut desk) = self.0.0.lock() {
            *desk = None;
        }
    }
}

impl CompressionAction for Ahead {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn compress(
        &self,
        bytes: &[u8],
        _codec: FilesystemCompressor,
        _block_size: u32,
    ) -> Result<Vec<u8>, BackhandError> {
        let mut desk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(desk) = desk.as_mut() else { unreachable!("who writes has not ended") };
        desk.pack(bytes)
    }

    fn decompress(
        &self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        compressor: Compressor,
    ) -> Result<(), BackhandError> {
        DefaultCompressor.decompress(bytes, out, compressor)
    }

    fn compression_options(
        &self,
        superblock: &mut SuperBlock,
        kind: &Kind,
        codec: FilesystemCompressor,
    ) -> Result<Option<Vec<u8>>, BackhandError> {
        DefaultCompressor.compression_options(superblock, kind, codec)
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZero;
    use std::fs;
    use std::io::Cursor;

    use super::super::tests::{fill, noise, place};
    use super::super::writer::Layout;
    use super::super::{Compression, Options, lay_out};
    use super::*;

    const BLOCK: u32 = 4096;

    fn plan(lengths: &[u64]) -> Vec<Vec<(String, u64, u64)>> {
        let files = lengths.iter().enumerate();
        let files = files.map(|(number, length)| (number.to_string().into(), *length)).collect();
        let part = |Part { path, start, length }: Part| (path.display().to_string(), start, length);
        Plan::new(files, BLOCK)
            .map(|block| match block {
                Block::Own(own) => vec![part(own)],
                Block::Shared(parts) => parts.into_iter().map(part).collect(),
            })
            .collect()
    }

    #[test]
    fn long_files_have_blocks_and_short_ones_share_them() {
        let file = |name: &str, start, length| (name.to_owned(), start, length);
        assert_eq!(plan(&[]), Vec::<Vec<_>>::new());
        assert_eq!(plan(&[0, 0]), Vec::<Vec<_>>::new());
        assert_eq!(plan(&[4096]), [[file("0", 0, 4096)]]);
        assert_eq!(plan(&[0, 4000, 96]), [[file("1", 0, 4000), file("2", 0, 96)]]);
        assert_eq!(plan(&[4000, 97]), [[file("0", 0, 4000)], [file("1", 0, 97)]]);
        assert_eq!(
            plan(&[1, 4097, 2]),
            [
                vec![file("1", 0, 4096)],
                vec![file("1", 4096, 1)],
                vec![file("0", 0, 1), file("2", 0, 2)],
            ]
        );
    }

    /// Notes what it is asked for.
    #[derive(Default)]
    struct Listener(Mutex<Vec<Vec<u8>>>);

    impl CompressionAction for Listener {
        type Error = BackhandError;
        type Compressor = Compressor;
        type FilesystemCompressor = FilesystemCompressor;
        type SuperBlock = SuperBlock;

        fn compress(
            &self,
            bytes: &[u8],
            _codec: FilesystemCompressor,
            _block_size: u32,
        ) -> Result<Vec<u8>, BackhandError> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.to_vec())
        }

        fn decompress(
            &self,
            _: &[u8],
            _: &mut Vec<u8>,
            _: Compressor,
        ) -> Result<(), BackhandError> {
            unreachable!("nothing is read");
        }
    }

    /// Otherwise nothing would be wrong, and all of it slow.
    #[test]
    fn the_plan_is_what_the_writer_asks_for() {
        let (_place, tree) = place();
        fill(&tree);
        for number in 0..100 {
            fs::write(tree.join(number.to_string()), noise(number * 101)).unwrap();
        }
        fs::create_dir(tree.join("1 a")).unwrap();
        fs::write(tree.join("1 a/b"), noise(8192)).unwrap();
        fs::write(tree.join("1 a/zeros"), [0; 10_000]).unwrap();
        for block_size in [4096, 16_384, 1 << 20] {
            let options = Options { block_size, ..Options::default() };
            let Layout { mut image, files, .. } =
                lay_out(&tree, Path::new("p"), options, 0).unwrap();
            let plan = Plan::new(files, block_size);
            let listener: &'static Listener = Box::leak(Box::default());
            image.set_kind(Kind::new_v4(listener));
            image.write(Cursor::new(vec![])).unwrap();
            let asked = listener.0.lock().unwrap();
            let mut asked = asked.iter();
            for block in plan {
                let bytes = block.read().unwrap();
                let is_hole = matches!(block, Block::Own(_)) && bytes.iter().all(|byte| *byte == 0);
                assert!(is_hole || asked.next() == Some(&bytes), "{block_size}: {block:?}");
            }
            // Inodes and directories, of which backhand asks when it has written all files.
            assert!(asked.next().is_some_and(|bytes| bytes.len() <= 8192));
        }
    }

    #[test]
    fn compress_trusts_the_bytes_and_not_the_plan() {
        let (done, made) = sync_channel(1);
        let (announce, order) = sync_channel(1);
        done.send(Made::Packed { bytes: b"planned".to_vec(), packed: b"wrong".to_vec() }).unwrap();
        announce.send(made).unwrap();
        drop(announce);
        let options = Options { compression: Compression::Lz4, ..Options::default() };
        let mut desk = Desk { order: Some(order), packer: Packer::new(options).unwrap() };
        let right = Packer::new(options).unwrap().pack(b"changed").unwrap();
        assert_eq!(desk.pack(b"changed").unwrap(), right);
        assert_eq!(desk.pack(b"changed").unwrap(), right);
    }

    /// A full disk, say. It is told, and the threads end.
    #[test]
    fn write_that_fails_ends_the_threads() {
        let (_place, tree) = place();
        fs::write(tree.join("a"), noise(1 << 20)).unwrap();
        let jobs = NonZero::new(3).unwrap();
        let options = Options { compression: Compression::Lz4, block_size: BLOCK, jobs };
        let Layout { mut image, files, .. } = lay_out(&tree, Path::new("p"), options, 0).unwrap();
        let plan = Plan::new(files, BLOCK);
        let mut room = [0; 10_000];
        let written = write(&mut image, plan, options, Cursor::new(&mut room[..]));
        assert!(matches!(written, Err(BackhandError::StdIo(_))), "{written:?}");
    }
}
