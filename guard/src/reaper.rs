//! root.9: when is a rocker empty?
//!
//! The App's parent is outside, so `waitpid(2)` tells PID 1 nothing about it (KERNEL A48). It
//! is watched by pidfd, as is anybody else whose parent is outside; everybody else is, or
//! becomes by orphanage, a child of PID 1 and announces its end by SIGCHLD. So nothing polls,
//! and nothing is allocated however long the rocker lives.
//!
//! The kernel may have no memory or no descriptor to spare, and an App may lower its guard's
//! limits. Whom the guard cannot watch then it does not know, and asks again after a rest: that
//! it is alone it learns from `kill(2)`, which needs neither.

use core::mem::MaybeUninit;

use protocol::limits::REST_MS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait};

use crate::sys;

/// Those whose end will be told.
pub(crate) struct Reaper {
    /// Can be read when a child has ended.
    children: OwnedFd,
    /// The App, or else a stranger.
    watched: Option<OwnedFd>,
}

impl Reaper {
    /// Blocks every signal: none interrupts anything, and those of children are read.
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { children: sys::signals_of_children()?, watched: None })
    }

    /// Watches a process that is nobody's child here.
    pub(crate) fn watch(&mut self, process: OwnedFd) {
        self.watched = Some(process);
    }

    /// What can be read when a child has ended.
    pub(crate) fn children(&self) -> &OwnedFd {
        &self.children
    }

    /// Makes it readable again only for a child that ends after this.
    pub(crate) fn forget_signals(&self) {
        let mut signals = [0; 128 * 4];
        while matches!(rustix::io::read(&self.children, &mut signals), Ok(1..)) {}
    }

    /// Reaps the ended, and forgets the watched unless it lives for sure. Whether anybody is
    /// left whose end will be told.
    pub(crate) fn reap(&mut self) -> bool {
        self.forget_signals();
        let children = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break true,
                // ECHILD; whatever else it were, the children are found like strangers.
                Err(_) => break false,
            }
        };
        self.watched = self.watched.take().filter(|process| has_ended(process) == Ok(false));
        children || self.watched.is_some()
    }

    /// Looks for a living process through `/proc` and watches it; false if all have ended. One
    /// is enough: when it has ended, this is asked again.
    pub(crate) fn find_stranger(&mut self) -> Result<bool, Errno> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = openat(CWD, c"/proc", how, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(list, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_str().ok();
            let pid = name.and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid.filter(|pid| !pid.is_init()) else { continue };
            match pidfd_open(pid, PidfdFlags::empty()) {
                // A zombie's pidfd is readable at once; one whose threads live on is not.
                Ok(process) if has_ended(&process)? => {}
                Ok(process) => {
                    self.watch(process);
                    return Ok(true);
                }
                Err(Errno::SRCH | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Waits until a child or the watched process has ended, as long as that takes.
    pub(crate) fn wait_for_change(&self) -> Result<(), Errno> {
        let watched = self.watched.as_ref().unwrap_or(&self.children);
        let mut sources = [&self.children, watched].map(|fd| PollFd::new(fd, PollFlags::IN));
        loop {
            match poll(&mut sources, None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A pidfd can be read once all threads of its process have ended.
fn has_ended(process: &OwnedFd) -> Result<bool, Errno> {
    let mut sources = [PollFd::new(process, PollFlags::IN)];
    poll(&mut sources, Some(&Timespec::default())).map(|ready| ready > 0)
}

/// Lets some time pass.
pub(crate) fn rest() {
    let (tv_sec, tv_nsec) = (i64::from(REST_MS / 1000), i64::from(REST_MS % 1000) * 1_000_000);
    // No signal ends it early: all are blocked.
    let _ = rustix::thread::nanosleep(&Timespec { tv_sec, tv_nsec });
}
