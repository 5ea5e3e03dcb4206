//! prepare.4: what a crash of the machine may have done to layers that are not synced
//! (`volatile` in `Documentation/filesystems/overlayfs.rst`; KERNEL A12).
//!
//! The kernel leaves a mark in the work directory of a volatile overlay, and refuses every later
//! overlay over these layers while it is there, for it cannot know whether the machine has
//! crashed since. The guard can: it writes down which boot the layers were volatile in. In that
//! boot the layers are whole, and the mark goes; in a later one they may be anything.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, fsync, openat, syncfs, unlinkat};
use rustix::io::{Errno, read, write};

use crate::mounts::{Refusal, open_beneath};

/// The record, in `.rocker`: the id of a boot.
const RECORD: &core::ffi::CStr = c"volatile";

/// The mark, below a layer's work directory, from the inside out.
const MARK: [(&[u8], &core::ffi::CStr, AtFlags); 3] = [
    (b"work/incompat/volatile", c"dirty", AtFlags::empty()),
    (b"work/incompat", c"volatile", AtFlags::REMOVEDIR),
    (b"work", c"incompat", AtFlags::REMOVEDIR),
];

/// What the kernel calls this boot: a UUID and a line end.
type Boot = [u8; 37];

/// Makes the layers in `data`, the `.rocker` directory, fit for overlays that are volatile, or
/// are not. What is volatile no more is synced first: from now on a crash must not matter.
///
/// `EUCLEAN` if they were volatile when the machine crashed, or was shut down.
pub(crate) fn settle(data: BorrowedFd<'_>, volatile: bool) -> Result<(), Refusal> {
    let recorded = match openat(data, RECORD, READ.union(OFlags::NOFOLLOW), Mode::empty()) {
        Ok(record) => boot_in(&record)?,
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(errno.into()),
    };
    if recorded.is_none() && !volatile {
        return Ok(());
    }
    let boot = openat(CWD, c"/proc/sys/kernel/random/boot_id", READ, Mode::empty())?;
    let boot = boot_in(&boot)?.ok_or(Errno::IO)?;
    match recorded {
        None => record(data, &boot)?,
        Some(recorded) if recorded == boot => {
            let directory = openat(data, c".", READ.union(OFlags::DIRECTORY), Mode::empty())?;
            if !volatile {
                syncfs(&directory)?;
            }
            remove_marks(&directory)?;
            if !volatile {
                unlinkat(&directory, RECORD, AtFlags::empty())?;
            }
        }
        Some(_) => {
            let words = "the layers were volatile, and the machine was restarted since: remove \
                         .rocker in the data dir, or .rocker/volatile and what is in \
                         .rocker/work* if you know them to be whole"
                .to_owned();
            return Err(Refusal { errno: Errno::UCLEAN, words });
        }
    }
    Ok(())
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// None where a guard was killed before it had written all of it, and mounted nothing yet.
fn boot_in(file: &OwnedFd) -> Result<Option<Boot>, Errno> {
    let mut boot = [0; size_of::<Boot>()];
    let length = read(file, &mut boot)?;
    Ok((length == boot.len()).then_some(boot))
}

/// On disk before the first volatile write. Once in a boot for each data dir.
fn record(data: BorrowedFd<'_>, boot: &Boot) -> Result<(), Errno> {
    let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(data, RECORD, how, Mode::RUSR | Mode::WUSR)?;
    match write(&file, boot)? {
        written if written == boot.len() => fsync(&file),
        _ => Err(Errno::NOSPC),
    }
}

/// Of all layers, also of those that this launch does not use.
fn remove_marks(directory: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut works: Vec<String> = Vec::new();
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        if let Ok(name) = entry?.file_name().to_str()
            && name.starts_with("work")
        {
            works.push(name.to_owned());
        }
    }
    for work in works {
        let work = open_beneath(directory.as_fd(), work.as_bytes(), OFlags::DIRECTORY)?;
        for (inside, name, how) in MARK {
            match open_beneath(work.as_fd(), inside, OFlags::DIRECTORY)
                .and_then(|inside| unlinkat(inside, name, how))
            {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}
