//! Waiting for a rocker's end, signals in hand. No threads, no handlers: one poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitStatus;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use protocol::ExitReport;
use rocker_client::{Error, OpenRocker, Rocker, Run};
use rustix::event::{PollFd, PollFlags, poll};

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

/// Those that ask for the end, even when there is no App any more to ask.
const FINAL: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// Signals as something to read. From here on they interrupt nothing.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn take() -> io::Result<Self> {
        let set = FORWARDED.into_iter().collect::<SigSet>();
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

/// root.8: until the App has ended. Nobody has waited for it then, so its guard is still there.
pub(crate) fn until_ended(rocker: &Rocker, signals: &Signals) -> io::Result<()> {
    while !is_over(rocker.app_pidfd(), signals)? {
        while let Some(signal) = signals.next()? {
            rocker.signal_app(signal)?;
        }
    }
    Ok(())
}

/// root.9: the App's status, once all of its rocker is gone.
pub(crate) fn until_gone(rocker: &mut Rocker, signals: &Signals) -> io::Result<ExitStatus> {
    let status = rocker.wait()?;
    while !is_over(rocker.guard_pidfd(), signals)? {
        while let Some(signal) = signals.next()? {
            if is_final(signal) {
                rocker.kill()?;
            }
        }
    }
    Ok(status)
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
        let _ = is_over(rocker.connection(), signals);
        while let Ok(Some(signal)) = signals.next() {
            rocker.signal(run, u8::try_from(signal).unwrap_or(0))?;
        }
    }
}

/// Waits for this process's end or a signal; whether it was the end.
fn is_over(process: BorrowedFd<'_>, signals: &Signals) -> io::Result<bool> {
    let signals = signals.as_fd();
    loop {
        let mut ready = [process, signals].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut ready, None) {
            Ok(_) => return Ok(!ready[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
