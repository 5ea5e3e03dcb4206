//! A file that goes to the disk while it is written: the disk works while processors compress,
//! and the sync at the end has little left to wait for.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// What is written between two syncs, in bytes. Less costs the file system a journal entry more
/// often, more has to be waited for at the end.
const STRIDE: usize = 4 << 20;

/// The file, for who writes it.
pub(super) struct Early<'a> {
    file: &'a File,
    unsynced: usize,
    sync: SyncSender<()>,
}

/// Has `file` written by `write`, and synced by another thread meanwhile. What came last may not
/// be on disk yet.
pub(super) fn write<T, E: From<io::Error>>(
    file: &File,
    write: impl FnOnce(Early<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let (sync, asked) = sync_channel(1);
    thread::scope(|scope| {
        let syncs = thread::Builder::new().spawn_scoped(scope, move || sync_when(asked, file))?;
        let written = write(Early { file, unsynced: 0, sync })?;
        // An error of the disk is told to one sync only: the one at the end would not hear of it.
        syncs.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs panicked")))?;
        Ok(written)
    })
}

fn sync_when(asked: Receiver<()>, file: &File) -> io::Result<()> {
    asked.into_iter().try_for_each(|()| file.sync_data())
}

impl Write for Early<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.unsynced += count;
        if self.unsynced >= STRIDE {
            self.unsynced = 0;
            // If one is asked for already, that will sync this as well; if one has failed, that is
            // told at the end.
            let _ = self.sync.try_send(());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Early<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// /dev/null takes everything, and cannot be synced.
    #[test]
    fn sync_that_fails_is_told() {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let told = |length: usize| {
            write(&null, |mut out| out.write_all(&vec![0; length])).map_err(|error| error.kind())
        };
        assert_eq!(told(STRIDE), Err(io::ErrorKind::InvalidInput));
        // Nothing was to be synced yet.
        assert_eq!(told(STRIDE - 1), Ok(()));
    }
}
