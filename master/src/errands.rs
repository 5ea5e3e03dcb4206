//! What may take long and waits for disks, in threads: nobody else waits with it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use protocol::mark::forget_names;
use rustix::fs::{Mode, OFlags, openat, syncfs};
use rustix::io::Errno;

use crate::looks::Looks;
use crate::names;
use crate::overlays::{Away, Key};
use crate::sessions::Kept;

/// Lets go of mounts. The last of a file system frees what it had in memory, for milliseconds where
/// that was much, and waits for its disk.
pub(crate) fn unmount<T: Send + 'static>(mounts: Vec<T>) {
    if !mounts.is_empty() {
        in_a_thread(move || drop(mounts));
    }
}

/// False where there is no thread to be had.
pub(crate) fn in_a_thread(errand: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name("errand".into()).stack_size(64 * 1024);
    // Then it is not done, and all that it holds is dropped here.
    thread.spawn(errand).is_ok()
}

/// What has come of an errand.
#[derive(Debug)]
enum Back {
    /// Overlays that are ready, or none.
    Overlays(Key, Option<Kept>),
    /// A look of this user's.
    Look(u32),
}

/// Those that come back, or do not.
#[derive(Debug)]
pub(crate) struct Errands {
    heard: Receiver<Back>,
    said: Sender<Back>,
    pub(crate) looks: Looks,
    /// Holds a byte for each that can be heard.
    bell: PipeReader,
    ring: Arc<PipeWriter>,
}

impl Errands {
    pub(crate) fn new() -> io::Result<Self> {
        let ((said, heard), (bell, ring)) = (channel(), io::pipe()?);
        Ok(Self { heard, said, looks: Looks::default(), bell, ring: Arc::new(ring) })
    }

    /// What becomes readable when somebody is back.
    pub(crate) fn source(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Makes overlays ready for the next launch, or unmounts them, which syncs them.
    pub(crate) fn send(&self, away: Away<Kept>) {
        let Away { key, kept, has_ended_well, is_over } = away;
        let (said, ring) = (self.said.clone(), Arc::clone(&self.ring));
        let errand = Errand { key, kept: Some(kept), ready: None, said, ring };
        in_a_thread(move || {
            errand.run(|kept| !is_over && make_ready(kept, has_ended_well).is_ok())
        });
    }

    /// Something that a thread is to find out for a user, and where it will be told; none if that
    /// user has to wait for it to begin.
    pub(crate) fn look<T>(&mut self, user: u32) -> Option<(Look<T>, Receiver<T>)> {
        let (said, ring, (tell, told)) = (self.said.clone(), Arc::clone(&self.ring), channel());
        self.looks.begin(user).then(|| (Look { tell, user, said, ring }, told))
    }

    /// Overlays that are back; to be asked when it can be read.
    pub(crate) fn done(&mut self) -> Vec<(Key, Option<Kept>)> {
        let rung = self.bell.read(&mut [0; 64]).unwrap_or(0);
        let mut done = vec![];
        for back in self.heard.try_iter().take(rung) {
            match back {
                Back::Overlays(key, kept) => done.push((key, kept)),
                Back::Look(user) => self.looks.end(user),
            }
        }
        done
    }
}

/// What a thread is to find out. At its end, however that comes, its user may have another.
#[derive(Debug)]
pub(crate) struct Look<T> {
    tell: Sender<T>,
    user: u32,
    said: Sender<Back>,
    ring: Arc<PipeWriter>,
}

impl<T> Look<T> {
    pub(crate) fn finds(self, found: T) {
        // Who asked may have given up.
        let _ = self.tell.send(found);
    }
}

impl<T> Drop for Look<T> {
    fn drop(&mut self) {
        let _ = self.said.send(Back::Look(self.user));
        let _ = (&*self.ring).write_all(&[0]);
    }
}

/// Says what has come of it at its end, however that comes: what nobody has made ready is
/// unmounted by then.
struct Errand {
    key: Key,
    kept: Option<Kept>,
    ready: Option<Kept>,
    said: Sender<Back>,
    ring: Arc<PipeWriter>,
}

impl Errand {
    fn run(mut self, make_ready: impl FnOnce(&mut Kept) -> bool) {
        if self.kept.as_mut().is_some_and(make_ready) {
            self.ready = self.kept.take();
        }
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        drop(self.kept.take());
        // Where the master is gone nobody needs to know.
        let _ = self.said.send(Back::Overlays(self.key, self.ready.take()));
        let _ = (&*self.ring).write_all(&[0]);
    }
}

/// Syncs what a killed guard could not, and makes the kernel forget the names that were looked up,
/// and those that were missing: it would not notice what is done to the layers from now on. What
/// the next launch looks up before all else it has looked up then.
fn make_ready(kept: &mut Kept, has_ended_well: bool) -> Result<(), Errno> {
    let (lock, layers) = kept.descriptors.split_last().ok_or(Errno::BADF)?;
    if kept.is_volatile {
        // A volatile overlay writes nothing now, but fails for good once its disk has failed
        // (`ovl_sync_status`): such a one is not passed on.
        for layer in layers {
            syncfs(openat(layer, c".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?;
        }
    } else if !has_ended_well {
        // They are on its file system.
        syncfs(lock)?;
    }
    layers.iter().try_for_each(|layer| forget_names(layer.as_fd()))?;
    kept.marks = [].into();
    let root = layers.get(usize::from(kept.root));
    if let (Some(root), Some(marks)) = (root, names::marks(lock, &kept.top_dirs)) {
        names::look_up(root, &kept.top_dirs)?;
        kept.marks = marks.as_bytes().into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::looks::LOOKS_MAX;

    /// What has come of overlays whose descriptors nobody asks for anything.
    fn outcome(errand: impl FnOnce(Errand)) -> (Option<Kept>, usize) {
        let kept = Kept {
            descriptors: [].into_iter().collect(),
            seal: [].into(),
            root: 0,
            top_dirs: [].into(),
            marks: [].into(),
            is_volatile: false,
        };
        let mut errands = Errands::new().unwrap();
        let (said, ring) = (errands.said.clone(), Arc::clone(&errands.ring));
        let key = Key { device: 8, inode: 1 };
        errand(Errand { key, kept: Some(kept), ready: None, said, ring });
        let mut done = errands.done();
        let count = done.len();
        match done.pop() {
            Some((_, kept)) => (kept, count),
            None => (None, count),
        }
    }

    #[test]
    fn only_what_was_made_ready_comes_back() {
        assert!(matches!(outcome(|errand| errand.run(|_| true)), (Some(_), 1)));
        assert!(matches!(outcome(|errand| errand.run(|_| false)), (None, 1)));
        // No thread was to be had.
        assert!(matches!(outcome(drop), (None, 1)));
    }

    #[test]
    fn a_user_has_a_few_looks_at_a_time() {
        let mut errands = Errands::new().unwrap();
        let (open, gate) = channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let look = |errands: &mut Errands, user| {
            let (gate, (look, told)) = (Arc::clone(&gate), errands.look(user)?);
            assert!(in_a_thread(move || look.finds(gate.lock().unwrap().recv().is_ok())));
            Some(told)
        };
        let first: Vec<_> = (0..LOOKS_MAX).map(|_| look(&mut errands, 1).unwrap()).collect();
        assert!(look(&mut errands, 1).is_none());
        let other = look(&mut errands, 2).unwrap();
        (0..=LOOKS_MAX).for_each(|_| open.send(()).unwrap());
        assert!(first.iter().chain([&other]).all(|told| told.recv() == Ok(true)));
        while !errands.looks.is_idle() {
            assert!(errands.done().is_empty() && errands.looks.has_news());
        }
        assert!(look(&mut errands, 1).is_some());
        open.send(()).unwrap();
        // No thread was to be had.
        let (lost, told) = errands.look::<()>(2).unwrap();
        drop(lost);
        assert!(told.recv().is_err());
        while !errands.looks.is_idle() {
            errands.done();
        }
    }
}
