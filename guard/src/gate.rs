//! exec.1 of a program for which the guard does not wait: its caller is told of it before it
//! executes, and lets it go, or it may be frozen until then, in control groups of its caller's.
//! The new process has a copy of the guard's memory, is all that the program is to be, and waits
//! at one end of a socket pair for a byte, if it is to wait. If it cannot execute it says why
//! there, and ends: so the guard reads that when it has ended.

use protocol::limits::{COMMAND_MAX, DESCRIPTORS_MAX};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

/// No descriptor of a program's own has this number or a higher one before it executes.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "it is 32")]
const NUMBER_MIN: i32 = 2 * DESCRIPTORS_MAX as i32;

/// The guard's end.
pub(crate) struct Gate {
    end: OwnedFd,
    is_shut: bool,
}

/// The new process's end; shut behind it when it executes.
pub(crate) struct Waiter(OwnedFd);

/// An errno, and a command.
pub(crate) struct Room([u8; 2 + COMMAND_MAX]);

impl Default for Room {
    fn default() -> Self {
        Self([0; 2 + COMMAND_MAX])
    }
}

impl Gate {
    pub(crate) fn new(is_shut: bool) -> Result<(Self, Waiter), Errno> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (end, theirs) = socketpair(family, SocketType::SEQPACKET, flags, None)?;
        let theirs = rustix::io::fcntl_dupfd_cloexec(&theirs, NUMBER_MIN)?;
        Ok((Self { end, is_shut }, Waiter(theirs)))
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// `EALREADY` if it is, `ESRCH` if nobody waits any more.
    pub(crate) fn open(&mut self) -> Result<(), Errno> {
        if !self.is_shut {
            return Err(Errno::ALREADY);
        }
        match send(&self.end, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Errno::SRCH),
            Err(errno) => return Err(errno),
        }
        self.is_shut = false;
        Ok(())
    }

    /// Why it has not executed, of one that has ended; none if it has, or was killed before.
    pub(crate) fn failure<'a>(&self, room: &'a mut Room) -> Option<(protocol::Errno, &'a str)> {
        let mut hear = || recv(&self.end, &mut room.0[..], RecvFlags::DONTWAIT);
        let (length, _) = match hear() {
            // It was let go when it had failed already, and never heard of that.
            Err(Errno::CONNRESET) => hear(),
            heard => heard,
        }
        .ok()?;
        let (&[low, high], command) = room.0.get(..length)?.split_first_chunk()?;
        let command = core::str::from_utf8(command).unwrap_or_default();
        Some((protocol::Errno(u16::from_le_bytes([low, high])), command))
    }
}

impl Waiter {
    pub(crate) fn number(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }

    /// Until the gate is opened; `ECANCELED` if nobody is left who could.
    pub(crate) fn wait(&self) -> Result<(), Errno> {
        let mut byte = [0];
        loop {
            match recv(&self.0, &mut byte, RecvFlags::empty()) {
                Ok((1, _)) => return Ok(()),
                Ok(_) => return Err(Errno::CANCELED),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Says why it does not execute.
    pub(crate) fn fail(&self, errno: Errno, command: &str) {
        let mut room = Room::default();
        let errno = protocol::socket::errno(errno).0.to_le_bytes();
        let bytes = errno.iter().chain(command.as_bytes());
        let length = room.0.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count();
        // By the call that every filter allows, if any.
        let _ = rustix::io::write(&self.0, &room.0[..length]);
    }
}
