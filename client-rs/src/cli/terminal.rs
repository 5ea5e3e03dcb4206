//! `rocker exec` at a terminal: the program never has this one, for it could leave somebody in the
//! rocker who reads what is typed here later. It has one of its own, and what it writes there is
//! shown here. With `--tty` what is typed goes there, too, and becomes lines and signals over
//! there; here it is bytes. If this one is hung up, so is the program's. One poll, as in `vigil`.

use core::ops::Range;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;

use protocol::ExitReport;
use rocker_client::{OpenRocker, Run};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::{Errno, read, write};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::Fault;
use super::vigil::{Signals, is_final};

const SIGWINCH: i32 = 28;
const SIGCONT: i32 = 18;

/// So much is shown at most of what comes when the program has ended: more than a terminal holds
/// of what is written, so that what the program has left cannot keep this from its end.
const REST_MAX: usize = 64 * 1024;

/// Two terminals: this one, and the other end of the program's.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// None once it is hung up.
    pty: Option<OwnedFd>,
    typed: Flow,
    shown: Flow,
    this: BorrowedFd<'static>,
    /// Where it is shown.
    to: BorrowedFd<'static>,
    /// This terminal as it was, if what is typed is the program's.
    saved: Option<Termios>,
}

impl Terminal {
    /// `--tty`: one with the keys of this one, which is at standard input.
    pub(crate) fn passed_through(uid: u32) -> Result<(Self, OwnedFd), Fault> {
        if !isatty(stdin()) {
            return Err(Fault::Said("tty: standard input is no terminal".to_owned()));
        }
        Self::new(stdin(), stdout(), true, uid)
    }

    /// One to write to alone. This terminal, which it is shown at, stays as it is: it makes lines
    /// of what it gets.
    pub(crate) fn shown_at(this: BorrowedFd<'static>, uid: u32) -> Result<(Self, OwnedFd), Fault> {
        Self::new(this, this, false, uid)
    }

    /// A new one of the size of this one, and the program's end of it. It belongs to the rocker's
    /// user, if this is root, as after a login.
    fn new(
        this: BorrowedFd<'static>,
        to: BorrowedFd<'static>,
        is_typed_at: bool,
        uid: u32,
    ) -> Result<(Self, OwnedFd), Fault> {
        let made = || {
            let saved = tcgetattr(this)?;
            let how = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let pty = openpt(how)?;
            grantpt(&pty)?;
            unlockpt(&pty)?;
            fcntl_setfl(&pty, OFlags::NONBLOCK)?;
            let theirs = ioctl_tiocgptpeer(&pty, how)?;
            let mut wanted = saved.clone();
            if !is_typed_at {
                wanted.make_raw();
            }
            tcsetattr(&theirs, OptionalActions::Now, &wanted)?;
            if rustix::process::geteuid().is_root() {
                fchown(&theirs, Some(uid), None)?;
            }
            let typed = Flow { is_over: !is_typed_at, ..Flow::default() };
            let saved = is_typed_at.then_some(saved);
            Ok((Self { pty: Some(pty), typed, shown: Flow::default(), this, to, saved }, theirs))
        };
        let (terminal, theirs) =
            made().map_err(|error: io::Error| Fault::refused("make a terminal", &error))?;
        terminal.resize();
        Ok((terminal, theirs))
    }

    /// From here on every key is the program's, if any is.
    fn make_raw(&self) -> io::Result<()> {
        let Some(mut raw) = self.saved.clone() else { return Ok(()) };
        raw.make_raw();
        Ok(tcsetattr(self.this, OptionalActions::Now, &raw)?)
    }

    /// One that is gone has no size.
    fn resize(&self) {
        if let (Some(pty), Ok(size)) = (&self.pty, tcgetwinsize(self.this)) {
            let _ = tcsetwinsize(pty, size);
        }
    }

    /// exec.3, as `vigil::until_told`, with all that is typed and shown meanwhile.
    pub(crate) fn until_told(
        mut self,
        rocker: &mut OpenRocker,
        run: &Run,
        signals: &Signals,
    ) -> Result<ExitReport, Fault> {
        let cannot = |error: io::Error| Fault::refused("use the terminal", &error);
        self.make_raw().map_err(cannot)?;
        loop {
            if let Some(report) = rocker.try_wait(run)? {
                self.show_the_rest(signals);
                return Ok(report);
            }
            self.wait(rocker.connection(), signals).map_err(cannot)?;
            while let Some(signal) = signals.next().map_err(cannot)? {
                match signal {
                    SIGWINCH => self.resize(),
                    // A shell may have had it meanwhile.
                    SIGCONT => self.make_raw().map_err(cannot)?,
                    _ => {}
                }
                // These two are not for a program whose terminal sends them.
                if self.saved.is_none() || !matches!(signal, SIGWINCH | SIGCONT) {
                    rocker.signal(run, u8::try_from(signal).unwrap_or(0))?;
                }
            }
        }
    }

    /// Waits until there is something to do, and passes on what there is.
    fn wait(&mut self, connection: BorrowedFd<'_>, signals: &Signals) -> io::Result<()> {
        let [connection, signals] =
            [connection, signals.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let Some(pty) = &self.pty else { return poll_all(&mut [connection, signals]) };
        let pty = pty.as_fd();
        let mut all = vec![connection, signals];
        all.extend(self.typed.wants(self.this, pty));
        let typed = all.len();
        all.extend(self.shown.wants(pty, self.to));
        poll_all(&mut all)?;
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let is_typed = all[2..typed].iter().any(is_ready);
        let is_shown = all[typed..].iter().any(is_ready);
        drop(all);
        if is_typed && self.typed.pass(self.this, pty).is_err() {
            // The program has closed its end: nobody reads what was typed.
            self.typed.held = 0..0;
        }
        let is_lost = is_shown && self.shown.pass(pty, self.to).is_err();
        // Nobody is here any more: that hangs up the program's, too.
        if is_lost || (is_typed && self.typed.is_over) {
            self.pty = None;
        }
        Ok(())
    }

    /// What the program wrote before it ended is there; nobody has to take it.
    fn show_the_rest(&mut self, signals: &Signals) {
        let Some(pty) = &self.pty else { return };
        let mut left = REST_MAX;
        loop {
            if self.shown.is_empty() && (left == 0 || !self.shown.fill(pty.as_fd())) {
                return;
            }
            let signals_in = PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN);
            let taken = PollFd::from_borrowed_fd(self.to, PollFlags::OUT);
            let waited = poll_all(&mut [signals_in, taken]);
            let is_over = matches!(signals.next(), Ok(Some(signal)) if is_final(signal));
            left = left.saturating_sub(self.shown.held.len());
            if is_over || waited.is_err() || self.shown.drain(self.to).is_err() {
                return;
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // Where it is gone there is nothing to restore.
            let _ = tcsetattr(self.this, OptionalActions::Now, saved);
        }
    }
}

/// Waits for one of these.
fn poll_all(all: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(all, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Bytes on their way in one direction; as many as a pipe takes at once.
#[derive(Debug)]
struct Flow {
    bytes: [u8; 4096],
    held: Range<usize>,
    /// Nothing more will come.
    is_over: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self { bytes: [0; 4096], held: 0..0, is_over: false }
    }
}

impl Flow {
    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What has to be ready for the next [`pass`](Self::pass): nobody is read from faster than
    /// the other one is written to.
    fn wants<'a>(&self, from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Option<PollFd<'a>> {
        match (self.is_empty(), self.is_over) {
            (false, _) => Some(PollFd::from_borrowed_fd(to, PollFlags::OUT)),
            (true, false) => Some(PollFd::from_borrowed_fd(from, PollFlags::IN)),
            (true, true) => None,
        }
    }

    /// Reads, or writes what was read.
    fn pass(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        match self.is_empty() {
            true => self.fill(from),
            false => return self.drain(to),
        };
        Ok(())
    }

    /// Whether anything has come.
    fn fill(&mut self, from: BorrowedFd<'_>) -> bool {
        match read(from, &mut self.bytes) {
            Ok(count @ 1..) => self.held = 0..count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose other end is closed says EIO.
            Ok(0) | Err(_) => self.is_over = true,
        }
        !self.is_empty()
    }

    fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        match write(to, &self.bytes[self.held.clone()]) {
            Ok(count) => self.held.start += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_before_the_last_was_written() {
        let [(from, source), (drain, to)] = [(); 2].map(|()| std::io::pipe().unwrap());
        let (from, to) = (from.as_fd(), to.as_fd());
        let mut flow = Flow::default();
        write(&source, b"one").unwrap();
        flow.pass(from, to).unwrap();
        write(&source, b"two").unwrap();
        assert_eq!(flow.held, 0..3);
        flow.pass(from, to).unwrap();
        assert!(flow.is_empty() && flow.wants(from, to).is_some());
        flow.pass(from, to).unwrap();
        flow.pass(from, to).unwrap();
        let mut bytes = [0; 9];
        assert_eq!(read(&drain, &mut bytes).unwrap(), 6);
        assert_eq!(&bytes[..6], b"onetwo");
        drop(source);
        assert!(!flow.fill(from));
        assert!(flow.wants(from, to).is_none(), "it is over");
        drop(drain);
        flow.held = 0..1;
        assert!(flow.pass(from, to).is_err());
    }
}
