//! root.15: the top directories that are attached from a kept overlay are looked up in it before
//! somebody waits for that. It is done in a thread.

use std::os::fd::{AsFd as _, OwnedFd};

use protocol::Strings;
use protocol::mark::{self, Mark, Marks};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io;

/// What lies below the overlay over the root mount, whose directories are in `data`; none if the
/// kernel would have to wait to say it, or if nobody could tell its next change.
pub(crate) fn marks(data: &OwnedFd, top_dirs: &[u8]) -> Option<Marks> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, c"/", how, Mode::empty()).ok()?;
    let top_dirs = Strings::new(top_dirs).filter(|top_dirs| !top_dirs.as_bytes().is_empty())?;
    for name in top_dirs.texts() {
        // What is cached takes no lock of a directory's, so the overlay will not wait there either.
        let cached = ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
        openat2(&root, name, how, Mode::empty(), cached).ok()?;
    }
    let upper = openat(data, mark::UPPER, how, Mode::empty()).ok()?;
    Marks::of(upper.as_fd(), root.as_fd(), top_dirs).filter(Marks::are_settled)
}

/// Looks these up. What changes after the marks were made is seen by them.
pub(crate) fn look_up(overlay: &OwnedFd, top_dirs: &[u8]) -> io::Result<()> {
    let top_dirs = Strings::new(top_dirs).unwrap_or_default();
    top_dirs.texts().try_for_each(|name| Mark::of(overlay.as_fd(), name).map(drop))
}
