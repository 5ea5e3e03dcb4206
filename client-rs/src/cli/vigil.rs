//! Waiting for a rocker's end, signals in hand. No threads, no handlers: one poll.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::ExitReport;
use protocol::limits::REAPED_MAX;
use rocker_client::{Error, OpenRocker, Rocker, Run};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};

/// Passed on to the App, which in its session of its own gets none from the terminal.
const FORWARDED: [Signal; 8] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

const SIGCHLD: i32 = Signal::SIGCHLD as i32;

/// Those that ask for the end, even when there is no App any more to ask.
const FINAL: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Signals as something to read. From here on they interrupt nothing.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        Self::of(FORWARDED.into_iter().collect())
    }

    /// The same with SIGCHLD, for whoever has the App as a child.
    pub(crate) fn with_children() -> io::Result<Self> {
        Self::of(FORWARDED.into_iter().chain([Signal::SIGCHLD]).collect())
    }

    fn of(set: SigSet) -> io::Result<Self> {
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// The number of one that has come.
    pub(crate) fn next(&self) -> io::Result<Option<i32>> {
        let info = self.0.read_signal()?;
        Ok(info.and_then(|info| i32::try_from(info.ssi_signo).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a signal asks for the end.
pub(crate) fn is_final(signal: i32) -> bool {
    FINAL.iter().any(|known| *known as i32 == signal)
}

/// root.8 and root.9: the App's status, once all of its rocker is gone. As long as nobody has waited
/// for the App its guard is still there, and `look` is called.
///
/// This waits for whatever ends, as an `init` does: an App can make this process the parent of
/// others (`CLONE_PARENT`, which the default filter refuses) and the tracer of its threads and
/// children (`PTRACE_TRACEME`, `CLONE_PTRACE`), and a guard is not gone while the kernel keeps one
/// of them for somebody to wait for. So whoever has a child beside it waits by a pidfd, and for no
/// more than its end.
pub(crate) fn until_gone(
    rocker: &Rocker,
    signals: &Signals,
    mut look: impl FnMut(),
) -> io::Result<ExitStatus> {
    let (mut status, mut has_more) = (None, false);
    while !is_over(rocker.guard_pidfd(), signals, has_more)? {
        // One of each at most: whoever leaves children without pause keeps none of the others.
        for _ in 0..=FORWARDED.len() {
            let Some(signal) = signals.next()? else { break };
            match signal {
                SIGCHLD => has_more = true,
                _ if status.is_none() && can_hear(rocker)? => rocker.signal_app(signal)?,
                _ if is_final(signal) => rocker.kill()?,
                _ => {}
            }
        }
        if has_more {
            if status.is_none() {
                look();
            }
            has_more = reap(rocker, &mut status)?;
        }
    }
    // It may have ended at the same moment.
    while status.is_none() && reap(rocker, &mut status)? {}
    // Somebody else has waited for it, or told the kernel that nobody will.
    status.ok_or_else(|| Errno::CHILD.into())
}

/// Waits for those that have ended, but for no more than so many at once; whether there may be
/// more. The App's status, if it was among them.
fn reap(rocker: &Rocker, status: &mut Option<ExitStatus>) -> io::Result<bool> {
    let app = i32::try_from(rocker.app_pid()).ok().and_then(Pid::from_raw);
    for _ in 0..REAPED_MAX {
        match wait(WaitOptions::NOHANG) {
            // Who asked to be traced has not ended when it stops.
            Ok(Some((pid, told))) if Some(pid) == app && !told.stopped() => {
                // Its number may be another's from here on.
                status.get_or_insert(ExitStatus::from_raw(told.as_raw()));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Whether the App, for which nobody has waited, has anybody left to get a signal. Where its first
/// thread has ended, and each other one has as well or is stopped for a tracer inside, it is as
/// good as dead: only that tracer keeps it from having ended.
fn can_hear(rocker: &Rocker) -> io::Result<bool> {
    if has_ended(rocker.app_pidfd())? {
        return Ok(false);
    }
    let app = format!("/proc/{}", rocker.app_pid());
    if state(&app) != Some('Z') {
        return Ok(true);
    }
    let threads = fs::read_dir(format!("{app}/task")).into_iter().flatten();
    let mut states = threads.filter_map(|thread| state(thread.ok()?.path().to_str()?));
    Ok(states.any(|state| !matches!(state, 'Z' | 'X' | 't')))
}

/// Of a thread, or of a process's first one, by its directory in `/proc`: `man 5 proc_pid_stat`.
fn state(thread: &str) -> Option<char> {
    let stat = fs::read(format!("{thread}/stat")).ok()?;
    // The name may hold anything, and ends at the last parenthesis.
    String::from_utf8_lossy(&stat).rsplit_once(") ")?.1.chars().next()
}

fn has_ended(process: BorrowedFd<'_>) -> io::Result<bool> {
    let mut ready = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    Ok(poll(&mut ready, Some(&Timespec::default()))? > 0)
}

/// exec.3: a program's end in a rocker that takes orders.
pub(crate) fn until_told(
    rocker: &mut OpenRocker,
    run: &Run,
    signals: &Signals,
) -> Result<ExitReport, Error> {
    loop {
        if let Some(report) = rocker.try_wait(run)? {
            return Ok(report);
        }
        // Whatever `poll` says, both are looked at.
        let _ = is_over(rocker.connection(), signals, false);
        while let Ok(Some(signal)) = signals.next() {
            rocker.signal(run, u8::try_from(signal).unwrap_or(0))?;
        }
    }
}

/// Waits for this process's end or a signal, unless there is something to do at once; whether it
/// was the end.
fn is_over(process: BorrowedFd<'_>, signals: &Signals, is_busy: bool) -> io::Result<bool> {
    let signals = signals.as_fd();
    let left = is_busy.then(Timespec::default);
    loop {
        let mut ready = [process, signals].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut ready, left.as_ref()) {
            Ok(_) => return Ok(!ready[0].revents().is_empty()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
