//! A living rocker in its caller's hands: pids, pidfds, the two ways to end it.

use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use protocol::Name;
use protocol::socket::now_ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use crate::linux::{Pidfds, deadline_ns};
use crate::machine::Started;
use crate::strays;
use crate::trace::TraceEntry;

/// How long a guard may take to be gone before we look whether it waits for us.
const LOOK: Duration = Duration::from_secs(1);

/// A rocker, its guard and its App.
///
/// Dropping it ends neither; as any child, the App wants to be [waited for](Self::wait).
///
/// As any child, too, an App can leave its parent more to wait for than itself: children of its
/// parent's (`CLONE_PARENT` of `clone(2)`, which the default filter refuses), and threads and
/// children whose tracer its parent is at their wish (`PTRACE_TRACEME` of `ptrace(2)`). A guard that
/// has ended is not gone, nor an App with such a thread, before somebody has waited for them.
/// [`wait_gone`](Self::wait_gone) does that. Who waits by the pidfds alone for Apps that it does not
/// trust reaps as an `init` does instead, at each SIGCHLD: `waitpid(-1, .., WNOHANG | __WALL)` as
/// long as that finds somebody.
#[derive(Debug)]
pub struct Rocker {
    started: Started,
    pidfds: Pidfds,
    status: Option<ExitStatus>,
    trace: Vec<TraceEntry>,
}

impl Rocker {
    pub(crate) fn new(started: Started, pidfds: Pidfds, trace: Vec<TraceEntry>) -> Self {
        Self { started, pidfds, status: None, trace }
    }

    /// The App, a child of this process.
    pub fn app_pid(&self) -> u32 {
        self.started.app_pid
    }

    /// The guard: PID 1 inside, this outside.
    pub fn guard_pid(&self) -> u32 {
        self.started.guard_pid
    }

    /// The rocker's name, which is its guard's too: see [`guard_name`].
    pub fn guard_name(&self) -> Name {
        self.started.name
    }

    /// Stands for the App, never for a later process of the same pid.
    pub fn app_pidfd(&self) -> BorrowedFd<'_> {
        self.pidfds.app.as_fd()
    }

    /// Stands for the guard. It becomes readable when all of the rocker is gone.
    pub fn guard_pidfd(&self) -> BorrowedFd<'_> {
        self.pidfds.guard.as_fd()
    }

    /// The steps of the launch as all actors took them, if [`Launch::trace`] asked for them.
    ///
    /// [`Launch::trace`]: crate::Launch::trace
    pub fn trace(&self) -> &[TraceEntry] {
        &self.trace
    }

    /// root.10: kills the guard, and with it every process in the rocker.
    ///
    /// # Errors
    ///
    /// `EPERM`; that it has ended already is none.
    pub fn kill(&self) -> io::Result<()> {
        signal(self.guard_pidfd(), Signal::KILL)
    }

    /// root.8: sends the App a signal, by its number.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is no standard signal, `EPERM`; that it has ended already is none.
    pub fn signal_app(&self, number: i32) -> io::Result<()> {
        let number = Signal::from_named_raw(number).ok_or(rustix::io::Errno::INVAL)?;
        signal(self.app_pidfd(), number)
    }

    /// Waits for the App's end. The rocker lives on while the App's own children do. Of an App that
    /// is traced from inside its tracer has to hear first; threads that it has made this process the
    /// tracer of (`PTRACE_TRACEME`) are waited for as well, with a delay of a second.
    ///
    /// # Errors
    ///
    /// `ECHILD` if somebody else has waited for it, or SIGCHLD is ignored.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        loop {
            // waitid(2) also tells of the stops of a child that asked to be traced by us: only a
            // pidfd says that it has ended.
            let look = Timespec::try_from(LOOK).ok();
            match poll(&mut [PollFd::new(&self.pidfds.app, PollFlags::IN)], look.as_ref()) {
                Ok(0) => {
                    strays::reap_threads(self.app_pid());
                    continue;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.take_status(WaitIdOptions::empty()) {
                Ok(Some(status)) => return Ok(status),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// root.9: waits until the guard has ended, and with it processes, mounts and loop device;
    /// false if that takes longer than `timeout`.
    ///
    /// The kernel does not report a guard's end before the App has been waited for, and whatever
    /// else the App has left this process to wait for; so this does that too, in the end with a
    /// delay of a second, and [`wait`](Self::wait) still tells the status afterwards. Whose they are
    /// it learns from `/proc`. A caller that may not look there, as one that has given up
    /// `CAP_SYS_PTRACE` or its uid since the launch, waits for the App alone: where there are others
    /// the answer is false after `timeout`, and never comes without one.
    ///
    /// # Errors
    ///
    /// Those of `poll(2)`.
    pub fn wait_gone(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let deadline = timeout.map_or(u64::MAX, deadline_ns);
        let mut app_waits = self.status.is_none();
        loop {
            let left = Duration::from_nanos(deadline.saturating_sub(now_ns())).min(LOOK);
            let left = Timespec::try_from(left).ok();
            let mut ready = [
                PollFd::new(&self.pidfds.guard, PollFlags::IN),
                PollFd::new(&self.pidfds.app, PollFlags::IN),
            ];
            let watched = if app_waits { &mut ready[..] } else { &mut ready[..1] };
            match poll(watched, left.as_ref()) {
                Ok(0) if now_ns() >= deadline => return Ok(false),
                Ok(0) => {
                    if self.status.is_none() {
                        strays::reap_threads(self.app_pid());
                    }
                    if strays::is_dying(self.guard_pid()) {
                        strays::reap(self.guard_pid(), self.app_pid());
                    }
                    app_waits = self.status.is_none();
                    continue;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if !ready[0].revents().is_empty() {
                return Ok(true);
            }
            // Somebody else may have waited for it: then it is gone, which is all we want. Or its
            // tracer has to hear of its end first.
            let _ = self.take_status(WaitIdOptions::NOHANG);
            app_waits = false;
        }
    }

    /// Of an App that has ended.
    fn take_status(&mut self, how: WaitIdOptions) -> rustix::io::Result<Option<ExitStatus>> {
        let status = waitid(WaitId::PidFd(self.app_pidfd()), WaitIdOptions::EXITED | how)?;
        self.status = self.status.or(status.as_ref().map(exit_status));
        Ok(self.status)
    }
}

fn signal(process: BorrowedFd<'_>, number: Signal) -> io::Result<()> {
    match pidfd_send_signal(process, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// As `wait(2)` packs it.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    const CORE: i32 = 0x80;
    ExitStatus::from_raw(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code << 8,
        (None, Some(signal)) => signal | if status.dumped() { CORE } else { 0 },
        (None, None) => 0,
    })
}

/// What the kernel calls the process with this pid (001: "taken from `/proc/<PID>/stat`").
///
/// A caller that kept only pid and name of a guard compares them before it kills by pid; one
/// that has a [`Rocker`] needs neither.
///
/// # Errors
///
/// `ENOENT` if there is no such process.
pub fn guard_name(pid: u32) -> io::Result<String> {
    let stat = std::fs::read(format!("/proc/{pid}/stat"))?;
    let name = comm(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The second field: it may itself hold blanks and parentheses, but no later field does.
fn comm(stat: &[u8]) -> Option<&[u8]> {
    let begin = stat.iter().position(|&byte| byte == b'(')?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    stat.get(begin + 1..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_stands_between_the_outermost_parentheses() {
        assert_eq!(comm(b"12 (0123456789abcde) S 1 12"), Some(b"0123456789abcde".as_slice()));
        assert_eq!(comm(b"12 (a) R (b)) S 1 12"), Some(b"a) R (b)".as_slice()));
        assert_eq!(comm(b"12 () S"), Some(b"".as_slice()));
        for garbage in [b"".as_slice(), b"12 S", b")(", b"("] {
            assert_eq!(comm(garbage), None);
        }
    }

    #[test]
    fn this_process_has_a_name() {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(guard_name(std::process::id()).unwrap(), name.trim_end());
        let error = guard_name(u32::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
