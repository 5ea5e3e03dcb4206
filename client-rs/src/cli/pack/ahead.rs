//! Compresses blocks on all processors, and hands them out in their order.
//!
//! Which blocks an image has follows from the lengths of its files alone ([`Plan`]), so a package
//! has the same bytes whatever the number of threads.
//!
//! They stay a few blocks ahead of who writes, so memory is bounded: some 4 MiB for each thread
//! ([`AHEAD`], as they are and packed), and what the codec needs.

use core::hash::BuildHasher;
use core::mem;
use std::hash::RandomState;
use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::Options;
use super::packer::Packer;
use super::source::Source;

/// How much may be ready for each thread, in bytes; two blocks at least. Less, and the threads
/// wait whenever the writer does not run.
const AHEAD: u64 = 2 << 20;

/// The blocks of an image, in their order: a file that fills a block has blocks of its own, the
/// last of them short; shorter ones share a block.
pub(super) struct Plan<'a> {
    files: &'a [Source],
    next: usize,
    block_size: u64,
    /// What is left of the file that has blocks of its own.
    long: Option<Part>,
    /// Short files that wait for more to fill a block.
    shared: Vec<Part>,
    filled: u64,
}

/// Bytes of one file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Part {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) start: u64,
    pub(super) length: u64,
}

/// What is compressed together.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Block {
    /// Of one file. The image has no block for zeros.
    Own(Part),
    Shared(Vec<Part>),
}

impl<'a> Plan<'a> {
    pub(super) fn new(files: &'a [Source], block_size: u32) -> Self {
        let block_size = block_size.into();
        Self { files, next: 0, block_size, long: None, shared: vec![], filled: 0 }
    }
}

impl Iterator for Plan<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        loop {
            if let Some(Part { file, start, length }) = self.long.take() {
                let now = length.min(self.block_size);
                if now < length {
                    self.long = Some(Part { file, start: start + now, length: length - now });
                }
                return Some(Block::Own(Part { file, start, length: now }));
            }
            let Some(Source { length, .. }) = self.files.get(self.next) else {
                let rest = mem::take(&mut self.shared);
                return (!rest.is_empty()).then_some(Block::Shared(rest));
            };
            let file = Part { file: self.next, start: 0, length: *length };
            self.next += 1;
            if file.length >= self.block_size {
                self.long = Some(file);
                continue;
            }
            if file.length == 0 {
                continue;
            }
            let fits = self.filled + file.length <= self.block_size;
            let full = if fits { None } else { Some(mem::take(&mut self.shared)) };
            self.filled = if fits { self.filled + file.length } else { file.length };
            self.shared.push(file);
            if let Some(full) = full {
                return Some(Block::Shared(full));
            }
        }
    }
}

/// A block as it is to be in the image.
pub(super) struct Made {
    pub(super) block: Block,
    pub(super) content: Content,
    /// Of the bytes before they were compressed, by [`Maker::hasher`].
    pub(super) hash: u64,
}

pub(super) enum Content {
    /// Zeros.
    Hole,
    Packed(Vec<u8>),
    /// Bytes that get no smaller.
    Plain(Vec<u8>),
}

struct Maker<'a> {
    files: &'a [Source],
    /// With a key that nobody knows: nobody can make two files that have the same hash.
    hasher: RandomState,
}

impl Maker<'_> {
    fn make(&self, block: Block, packer: &mut Packer) -> io::Result<Made> {
        let parts = match &block {
            Block::Own(part) => core::slice::from_ref(part),
            Block::Shared(parts) => parts,
        };
        // With room for all of it each part is one system call.
        let length: u64 = parts.iter().map(|part| part.length).sum();
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        for Part { file, start, length } in parts {
            self.files[*file].read(*start, *length, &mut bytes).map_err(io::Error::other)?;
        }
        let hash = self.hasher.hash_one(&bytes);
        let content = if matches!(block, Block::Own(_)) && bytes.iter().all(|byte| *byte == 0) {
            Content::Hole
        } else {
            packer.pack(&bytes)?.map_or(Content::Plain(bytes), Content::Packed)
        };
        Ok(Made { block, content, hash })
    }
}

/// Blocks in the order of the plan, each to come when it is made.
type Order = Receiver<Receiver<io::Result<Made>>>;

/// The plan, and where the next of its blocks is announced; none when all are.
type Work<'a> = Mutex<Option<(Plan<'a>, SyncSender<Receiver<io::Result<Made>>>)>>;

/// Gives `take` the blocks of these files, made with as many threads beside this one as there are
/// jobs; one means this one alone.
pub(super) fn make_blocks(
    files: &[Source],
    options: Options,
    mut take: impl FnMut(Made) -> io::Result<()>,
) -> io::Result<()> {
    let mut plan = Plan::new(files, options.block_size);
    let maker = Maker { files, hasher: RandomState::new() };
    let threads = options.jobs.get();
    if threads == 1 {
        let mut packer = Packer::new(options)?;
        return plan.try_for_each(|block| take(maker.make(block, &mut packer)?));
    }
    let ready = usize::try_from(AHEAD / plan.block_size).unwrap_or(0).max(2);
    let (announce, order) = sync_channel(ready * threads);
    let work = Work::new(Some((plan, announce)));
    thread::scope(|scope| {
        // Dropped first, whatever fails here: it ends the threads.
        let order: Order = order;
        for _ in 0..threads {
            let packer = Packer::new(options)?;
            let (work, maker) = (&work, &maker);
            thread::Builder::new().spawn_scoped(scope, move || serve(work, maker, packer))?;
        }
        for made in order {
            let panicked = |_| io::Error::other("a thread that compresses panicked");
            take(made.recv().map_err(panicked)??)?;
        }
        Ok(())
    })
}

/// What a thread does: block after block, until there is none or nobody wants them.
fn serve(work: &Work<'_>, maker: &Maker<'_>, mut packer: Packer) {
    while let Some((block, done)) = next(work) {
        let _ = done.send(maker.make(block, &mut packer));
    }
}

fn next(work: &Work<'_>) -> Option<(Block, SyncSender<io::Result<Made>>)> {
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

#[cfg(test)]
mod tests {
    use core::num::NonZero;
    use std::fs::{self, File};
    use std::io::Cursor;

    use super::super::tests::{noise, place};
    use super::super::tree::Tree;
    use super::super::{Compression, image};
    use super::*;

    const BLOCK: u32 = 4096;

    fn plan(lengths: &[u64]) -> Vec<Vec<(usize, u64, u64)>> {
        let (_place, tree) = place();
        for (number, length) in lengths.iter().enumerate() {
            File::create(tree.join(number.to_string())).unwrap().set_len(*length).unwrap();
        }
        let part = |Part { file, start, length }: Part| (file, start, length);
        Plan::new(&Tree::walk(&tree).unwrap().files, BLOCK)
            .map(|block| match block {
                Block::Own(own) => vec![part(own)],
                Block::Shared(parts) => parts.into_iter().map(part).collect(),
            })
            .collect()
    }

    #[test]
    fn long_files_have_blocks_and_short_ones_share_them() {
        assert_eq!(plan(&[]), Vec::<Vec<_>>::new());
        assert_eq!(plan(&[0, 0]), Vec::<Vec<_>>::new());
        assert_eq!(plan(&[4096]), [[(0, 0, 4096)]]);
        assert_eq!(plan(&[0, 4000, 96]), [[(1, 0, 4000), (2, 0, 96)]]);
        assert_eq!(plan(&[4000, 97]), [[(0, 0, 4000)], [(1, 0, 97)]]);
        assert_eq!(
            plan(&[1, 4097, 2]),
            [vec![(1, 0, 4096)], vec![(1, 4096, 1)], vec![(0, 0, 1), (2, 0, 2)]]
        );
    }

    /// A full disk, say. It is told, and the threads end.
    #[test]
    fn write_that_fails_ends_the_threads() {
        let (_place, tree) = place();
        fs::write(tree.join("a"), noise(1 << 20)).unwrap();
        let tree = Tree::walk(&tree).unwrap();
        for jobs in [1, 3] {
            let jobs = NonZero::new(jobs).unwrap();
            let options = Options { compression: Compression::Lz4, block_size: BLOCK, jobs };
            let mut room = [0; 10_000];
            let written = image::write(&tree, options, 0, Cursor::new(&mut room[..]));
            assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::WriteZero));
        }
    }

    /// So does a file that cannot be read.
    #[test]
    fn read_that_fails_ends_the_threads() {
        let (_place, dir) = place();
        fs::write(dir.join("a"), noise(1 << 20)).unwrap();
        fs::write(dir.join("b"), noise(1 << 20)).unwrap();
        let tree = Tree::walk(&dir).unwrap();
        fs::remove_file(dir.join("a")).unwrap();
        for jobs in [1, 3] {
            let jobs = NonZero::new(jobs).unwrap();
            let options = Options { compression: Compression::Lz4, block_size: BLOCK, jobs };
            let error = image::write(&tree, options, 0, Cursor::new(vec![])).unwrap_err();
            assert_eq!(error.to_string(), "a: No such file or directory");
        }
    }
}
