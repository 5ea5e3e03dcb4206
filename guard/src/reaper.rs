//! root.9: when is a rocker empty?
//!
//! The App's parent is outside, so `waitpid(2)` tells PID 1 nothing about it (KERNEL A48). It
//! is watched by pidfd, as is anybody else whose parent is outside; everybody else is, or
//! becomes by orphanage, a child of PID 1 and announces its end by SIGCHLD. So nothing polls.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait};

/// Those whose end will be told.
pub(crate) struct Reaper {
    children: SignalFd,
    watched: Vec<OwnedFd>,
}

impl Reaper {
    /// Blocks every signal: none interrupts anything, and those of children are read.
    pub(crate) fn new() -> Result<Self, Errno> {
        let from_nix = |error: nix::errno::Errno| Errno::from_raw_os_error(error as i32);
        SigSet::all().thread_block().map_err(from_nix)?;
        let only = SigSet::from_iter([Signal::SIGCHLD]);
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let children = SignalFd::with_flags(&only, flags).map_err(from_nix)?;
        Ok(Self { children, watched: vec![] })
    }

    /// Watches a process that is nobody's child here.
    pub(crate) fn watch(&mut self, process: OwnedFd) {
        self.watched.push(process);
    }

    /// Reaps the ended and forgets the watched that have ended. Whether anybody is left whose
    /// end will be told.
    pub(crate) fn reap(&mut self) -> Result<bool, Errno> {
        // Read first: a child that ends after this makes the descriptor readable again.
        while matches!(self.children.read_signal(), Ok(Some(_))) {}
        let children = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break true,
                Err(Errno::CHILD) => break false,
                Err(error) => return Err(error),
            }
        };
        self.watched.retain(|process| !has_ended(process));
        Ok(children || !self.watched.is_empty())
    }

    /// Whether the kernel knows of nobody else in this PID namespace: `kill(-1, 0)` is `ESRCH`
    /// exactly then. Ended processes that nobody has reaped count.
    pub(crate) fn is_alone() -> bool {
        matches!(
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), None),
            Err(nix::errno::Errno::ESRCH)
        )
    }

    /// Looks for a living process through `/proc` and watches it; false if all have ended. One
    /// is enough: when it has ended, this is asked again.
    pub(crate) fn find_stranger(&mut self) -> Result<bool, Errno> {
        let entries = std::fs::read_dir("/proc").map_err(|error| errno_of(&error))?;
        for entry in entries {
            let name = entry.map_err(|error| errno_of(&error))?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let Some(pid) = pid.filter(|pid| !pid.is_init()) else { continue };
            match pidfd_open(pid, PidfdFlags::empty()) {
                // A zombie's pidfd is readable at once; one whose threads live on is not.
                Ok(process) if has_ended(&process) => {}
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

    /// Waits until a child or a watched process has ended, as long as that takes.
    pub(crate) fn wait_for_change(&self) -> Result<(), Errno> {
        let mut sources: Vec<PollFd<'_>> =
            self.watched.iter().map(|process| PollFd::new(process, PollFlags::IN)).collect();
        let children = self.children.as_fd();
        sources.push(PollFd::from_borrowed_fd(children, PollFlags::IN));
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
fn has_ended(process: &OwnedFd) -> bool {
    let mut sources = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut sources, Some(&rustix::event::Timespec::default())), Ok(1..))
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
