//! exec.3 and root.9: who has ended, and when is a rocker empty?
//!
//! The App's parent is outside, so `waitpid(2)` tells PID 1 nothing about it (KERNEL A48). It
//! is watched by pidfd, as is anybody else whose parent is outside; everybody else is, or
//! becomes by orphanage, a child of PID 1 and announces its end by SIGCHLD. So nothing polls,
//! and nothing is allocated however long the rocker lives.
//!
//! The kernel may have no memory or no descriptor to spare, and an App may lower its guard's
//! limits. Whom the guard cannot watch then it does not know, and asks again after a rest: that
//! it is alone it learns from a `/proc` that is open, which needs neither. `kill(-1, 0)` would say
//! it as well, but looks at every process of the host for that, and nobody forks meanwhile.

use core::ffi::CStr;
use core::fmt::Write as _;
use core::mem::MaybeUninit;
use core::time::Duration;

use protocol::limits::{REAPED_MAX, REST_MS};
use protocol::socket::now_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::proc;
use crate::sys::{self, Ended, SIGKILL};

/// Those whose end will be told.
pub(crate) struct Reaper {
    /// Can be read when a child has ended.
    children: OwnedFd,
    /// The App, or else a stranger.
    watched: Option<OwnedFd>,
    /// The rocker's `/proc`, from prepare.5 on.
    proc: Option<Processes>,
    /// There may be children that have ended, of whom no signal will tell any more.
    has_more: bool,
}

/// `/proc`, to be read.
struct Processes {
    list: OwnedFd,
    /// Where PID 1 is: all that is no process comes before it (`proc_root_readdir`).
    begin: u64,
}

impl Reaper {
    /// Blocks every signal: none interrupts anything, and those of children are read.
    pub(crate) fn new() -> Result<Self, Errno> {
        let children = sys::signals_of_children()?;
        Ok(Self { children, watched: None, proc: None, has_more: false })
    }

    /// prepare.5: where to find processes, whatever programs see at `/proc` later.
    pub(crate) fn look_in(&mut self, proc: BorrowedFd<'_>) -> Result<(), Errno> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = openat(proc, c".", how, Mode::empty())?;
        let begin = place_of(c"1", &list)?;
        self.proc = Some(Processes { list, begin });
        Ok(())
    }

    /// Watches a process that is nobody's child here.
    pub(crate) fn watch(&mut self, process: OwnedFd) {
        self.watched = Some(process);
    }

    /// What can be read when somebody has ended.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &OwnedFd> {
        core::iter::once(&self.children).chain(&self.watched)
    }

    /// Whether there is no need to wait.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Makes it readable again only for a child that ends after this.
    fn forget_signals(&self) {
        let mut signals = [0; 128 * 4];
        while matches!(rustix::io::read(&self.children, &mut signals), Ok(1..)) {}
    }

    /// Reaps those that have ended, but no more than so many at once: whoever leaves dying
    /// children without pause keeps nobody waiting. Forgets the watched unless it lives for sure.
    /// Whether anybody is left whose end will be told.
    pub(crate) fn reap(&mut self, mut tell: impl FnMut(&Ended)) -> Result<bool, Errno> {
        self.forget_signals();
        self.has_more = true;
        let mut children = true;
        for _ in 0..REAPED_MAX {
            match sys::reap_one() {
                Ok(Some(ended)) => {
                    tell(&ended);
                    continue;
                }
                Ok(None) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::CHILD) => children = false,
                Err(error) => return Err(error),
            }
            self.has_more = false;
            break;
        }
        self.watched = self.watched.take().filter(|process| has_ended(process) == Ok(false));
        Ok(children || self.watched.is_some())
    }

    /// Looks for a living process through `/proc` and watches it; false if all have ended. One
    /// is enough: when it has ended, this is asked again. So it is for a child that came late.
    pub(crate) fn find_stranger(&mut self) -> Result<bool, Errno> {
        let Processes { list, begin } = self.proc.as_ref().ok_or(Errno::BADF)?;
        seek(list, SeekFrom::Start(*begin))?;
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
        // Numbers begin anew some day. So one that was still to come on the list may have ended
        // and left a child with a number that had passed: it is PID 1's by now.
        has_children()
    }
}

impl Reaper {
    /// Kills who traces a process, or a thread of it, if anybody does. A process has not ended
    /// before its threads have.
    ///
    /// Errors of `/proc`, to which nobody could do anything: this is asked again.
    pub(crate) fn kill_tracers(&self, pid: i32) -> Result<(), Errno> {
        let proc = &self.proc.as_ref().ok_or(Errno::BADF)?.list;
        let mut path = heapless::String::<32>::new();
        let _ = write!(path, "{pid}/task");
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let threads = openat(proc, path.as_str(), how, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut entries = RawDir::new(&threads, &mut buffer);
        while let Some(entry) = entries.next() {
            path.clear();
            let _ = write!(path, "{}/status", entry?.file_name().to_str().unwrap_or_default());
            let tracer = proc::number(threads.as_fd(), &path, b"TracerPid:").unwrap_or(0);
            if let Ok(tracer @ 2..) = i32::try_from(tracer) {
                let _ = sys::kill(tracer, SIGKILL);
            }
        }
        Ok(())
    }
}

/// Where a name is in a directory, for `lseek(2)`; `ESRCH`: nowhere.
fn place_of(name: &CStr, list: &OwnedFd) -> Result<u64, Errno> {
    let mut place = 0;
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(list, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() == name {
            return Ok(place);
        }
        place = entry.next_entry_cookie();
    }
    Err(Errno::SRCH)
}

/// Whether PID 1 has any, ended ones included: SIGCHLD tells of them.
fn has_children() -> Result<bool, Errno> {
    let ask = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::All, ask) {
        Ok(_) => Ok(true),
        Err(Errno::CHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A pidfd can be read once all threads of its process have ended.
fn has_ended(process: &OwnedFd) -> Result<bool, Errno> {
    let mut sources = [PollFd::new(process, PollFlags::IN)];
    poll(&mut sources, Some(&Timespec::default())).map(|ready| ready > 0)
}

/// Lets some time pass, until then at most.
pub(crate) fn rest(until_ns: u64) {
    let rest = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
    let rest = rest.min(Duration::from_millis(REST_MS.into()));
    // No signal ends it early: all are blocked.
    let _ = Timespec::try_from(rest).map(|rest| rustix::thread::nanosleep(&rest));
}
