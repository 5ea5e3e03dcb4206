//! exec.1 and exec.3: programs with a filter of their own that says "kill it, and name the call".
//! The kernel asks whoever holds the filter's listener what to do (`man 2 seccomp_unotify`); the
//! guard does, and never lets a call be made: it notes the number, and kills.
//!
//! The new process makes the listener, under that filter already, and passes it on through a
//! socket: by the one call for which the filter has a door (`protocol::seccomp::door`). The guard
//! cannot fetch it (`pidfd_getfd(2)`): nobody may look into memory that is the guard's.

use protocol::seccomp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::sys::{self, Notification, SIGKILL};

/// A filter of a program's own, ready to be installed.
pub(crate) struct Filter<'a> {
    bytes: &'a [u8],
    /// None: it asks nobody.
    asks: Option<Door>,
}

/// How the listener gets to the guard.
struct Door {
    /// Shut behind the new process when it executes.
    way: OwnedFd,
    secret: [u32; 3],
}

/// The guard's end: where the listener will come, then that itself.
pub(crate) enum Watch {
    Way(OwnedFd),
    Listener(OwnedFd),
}

impl<'a> Filter<'a> {
    /// Of an order; none: it has no filter. What has a door is put together in `room`.
    pub(crate) fn new(
        given: &'a [u8],
        room: &'a mut [u8],
    ) -> Result<Option<(Self, Option<Watch>)>, Errno> {
        if given.is_empty() {
            return Ok(None);
        }
        if !protocol::request::is_filter(given) {
            return Err(Errno::INVAL);
        }
        if !seccomp::notifies(given) {
            return Ok(Some((Self { bytes: given, asks: None }, None)));
        }
        let mut secret = [[0; 4]; 3];
        let got = getrandom(secret.as_flattened_mut(), GetRandomFlags::empty())?;
        if got != secret.as_flattened().len() {
            return Err(Errno::AGAIN);
        }
        let secret = secret.map(u32::from_ne_bytes);
        let door = seccomp::door(secret);
        let door = door.bytes().ok_or(Errno::NOMEM)?;
        let length = door.len() + given.len();
        let bytes = room.get_mut(..length).ok_or(Errno::NOMEM)?;
        bytes[..door.len()].copy_from_slice(door);
        bytes[door.len()..].copy_from_slice(given);
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(family, SocketType::SEQPACKET, flags, None)?;
        let asks = Some(Door { way: theirs, secret });
        Ok(Some((Self { bytes, asks }, Some(Watch::Way(ours)))))
    }

    /// What the new process has to keep until it executes.
    pub(crate) fn way(&self) -> Option<&OwnedFd> {
        self.asks.as_ref().map(|door| &door.way)
    }

    /// In the new process, where `way` has another number.
    pub(crate) fn install(&self, way: Option<&OwnedFd>) -> Result<(), Errno> {
        let (Some(Door { secret, .. }), Some(way)) = (&self.asks, way) else {
            return sys::install_filter(self.bytes);
        };
        let listener = sys::install_listening(self.bytes)?;
        sys::send_through(way.as_fd(), listener.as_fd(), *secret)
    }
}

/// What a program's filter tells.
pub(crate) enum Heard {
    /// Somebody wants to make this call; none: one of another machine's. It has been killed.
    Call(Option<u32>),
    /// Nothing.
    Nothing,
    /// Nobody is left under the filter, or nobody will be.
    End,
}

impl Watch {
    /// What can be read when there is something to hear.
    pub(crate) fn source(&self) -> &OwnedFd {
        match self {
            Self::Way(source) | Self::Listener(source) => source,
        }
    }

    /// Looks without a wait. Who asks is killed, and before it the program whose filter it is, by
    /// its process group: else that could end by itself when it hears of the other's end.
    pub(crate) fn hear(&mut self, program: Option<i32>) -> Heard {
        if let Self::Way(way) = self {
            if ready(way).is_empty() {
                return Heard::Nothing;
            }
            // It executes, or has ended, without one.
            let Some(listener) = sys::receive_one(way.as_fd()) else { return Heard::End };
            *self = Self::Listener(listener);
        }
        let listener = self.source();
        match ready(listener) {
            told if told.is_empty() => return Heard::Nothing,
            told if !told.contains(PollFlags::IN) => return Heard::End,
            _ => {}
        }
        match sys::hear_notification(listener.as_fd()) {
            Ok(Notification { pid, number, machine }) => {
                // It waits in the kernel, so the number is its own. It need not be of the
                // program's process group.
                for pid in [program.map_or(0, |program| -program), pid] {
                    // Nobody is asked to kill all, or its own group.
                    if !(-1..=1).contains(&pid) {
                        let _ = sys::kill(pid, SIGKILL);
                    }
                }
                Heard::Call((machine == seccomp::THIS_MACHINE).then_some(number))
            }
            // It was killed while it asked.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => Heard::Nothing,
            Err(_) => Heard::End,
        }
    }
}

fn ready(source: &OwnedFd) -> PollFlags {
    let mut sources = [PollFd::new(source, PollFlags::IN)];
    match poll(&mut sources, Some(&Timespec::default())) {
        Ok(1..) => sources[0].revents(),
        _ => PollFlags::empty(),
    }
}
