//! exec.0: whose orders the guard takes, and how its master brings it another. Nobody of them can
//! make it wait: an order is heard when there is room for its answer, an end is told when there is
//! room for it, and who leaves no room for too long is lost.

use core::array;

use protocol::limits::{ATTACHED_MAX, INTAKE, UNREAD_MS};
use protocol::socket::{Buffer, Received, receive};
use protocol::{Errno, MasterMessage, Message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::machine::Peer;
use crate::sys;

/// The owner, and whoever was attached.
pub(crate) const PEERS_MAX: usize = 1 + ATTACHED_MAX;

/// Everybody, by number.
pub(crate) struct Peers {
    connections: [Option<Connection>; PEERS_MAX],
    /// Who is heard first the next time.
    turn: usize,
}

struct Connection {
    socket: OwnedFd,
    /// `CLOCK_MONOTONIC`, nanoseconds: until when it has to read something; `u64::MAX`: there is
    /// room.
    read_by_ns: u64,
}

/// Where the master puts the connections of those who may give orders. It takes the guard's own
/// sending end for that, by its number ([`INTAKE`], `man 2 pidfd_getfd`), so that neither needs to
/// hold anything for the other. Nobody else can: the guard is not dumpable, and what it starts
/// inherits nothing.
pub(crate) struct Intake {
    inside: OwnedFd,
    _outside: OwnedFd,
}

impl Intake {
    /// `EBUSY` if the number is taken.
    pub(crate) fn new() -> Result<Self, rustix::io::Errno> {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
        let (inside, outside) = socketpair(family, SocketType::SEQPACKET, flags, None)?;
        let outside = rustix::io::fcntl_dupfd_cloexec(&outside, INTAKE)?;
        if outside.as_raw_fd() != INTAKE {
            return Err(rustix::io::Errno::BUSY);
        }
        Ok(Self { inside, _outside: outside })
    }

    /// What can be read when somebody has been put there.
    pub(crate) fn source(&self) -> &OwnedFd {
        &self.inside
    }

    /// Takes one connection, out of a socket that only the guard has by now: its master has closed
    /// the connection before it sent that.
    pub(crate) fn take(&self, buffer: &mut Buffer) -> Result<Option<OwnedFd>, Errno> {
        match passed_on(&self.inside, buffer)? {
            Some(parcel) => passed_on(&parcel, buffer),
            None => Ok(None),
        }
    }
}

fn passed_on(through: &OwnedFd, buffer: &mut Buffer) -> Result<Option<OwnedFd>, Errno> {
    Ok(match receive(through, buffer)? {
        Received::Message(Message::Master(MasterMessage::Attach), mut descriptors) => {
            descriptors.pop()
        }
        // The descriptor did not get through, or a master of another version has sent it: whoever
        // waits for an answer sees the connection closed.
        Received::Message(..) | Received::Lost(_) | Received::Empty => None,
    })
}

impl Peers {
    pub(crate) fn new() -> Self {
        Self { connections: array::from_fn(|_| None), turn: 0 }
    }

    /// Takes another's connection; gives it back if there is no room.
    pub(crate) fn admit(&mut self, socket: OwnedFd) -> Result<Peer, OwnedFd> {
        let places = (1_u8..).zip(self.connections.iter_mut().skip(1));
        match { places }.find(|(_, place)| place.is_none()) {
            Some((number, place)) => {
                *place = Some(Connection { socket, read_by_ns: u64::MAX });
                Ok(Peer(number))
            }
            None => Err(socket),
        }
    }

    /// Takes the owner's connection.
    pub(crate) fn own(&mut self, socket: OwnedFd) {
        self.connections[0] = Some(Connection { socket, read_by_ns: u64::MAX });
    }

    /// Closes a connection.
    pub(crate) fn close(&mut self, peer: Peer) {
        if let Some(place) = self.connections.get_mut(usize::from(peer.0)) {
            *place = None;
        }
    }

    fn connection(&mut self, peer: Peer) -> Option<&mut Connection> {
        self.connections.get_mut(usize::from(peer.0))?.as_mut()
    }

    /// A connection that is open.
    pub(crate) fn socket(&self, peer: Peer) -> Option<&OwnedFd> {
        Some(&self.connections.get(usize::from(peer.0))?.as_ref()?.socket)
    }

    /// Has a peer send descriptors from now on, which its master refuses: nobody but this guard
    /// has its connection any more, and so has to close them.
    pub(crate) fn accept_descriptors(&self, peer: Peer) {
        self.socket(peer).into_iter().for_each(sys::accept_descriptors);
    }

    /// Whether a peer can be told something without a wait. One that cannot has to read soon.
    pub(crate) fn has_room(&mut self, peer: Peer, now_ns: u64) -> bool {
        let Some(connection) = self.connection(peer) else { return false };
        let mut ready = [PollFd::new(&connection.socket, PollFlags::OUT)];
        // An errno of poll(2) says nothing of the peer: the answer will.
        let has_room = !matches!(poll(&mut ready, Some(&Timespec::default())), Ok(0));
        connection.read_by_ns = match has_room {
            true => u64::MAX,
            false => {
                connection.read_by_ns.min(now_ns.saturating_add(u64::from(UNREAD_MS) * 1_000_000))
            }
        };
        has_room
    }

    /// When the first of them has not read for too long; `u64::MAX`: never.
    pub(crate) fn read_by_ns(&self) -> u64 {
        let waiting = self.connections.iter().flatten().map(|connection| connection.read_by_ns);
        waiting.min().unwrap_or(u64::MAX)
    }

    /// One that has not read for too long.
    pub(crate) fn overdue(&self, now_ns: u64) -> Option<Peer> {
        self.each().find(|(_, connection)| connection.read_by_ns <= now_ns).map(|(peer, _)| peer)
    }

    /// Everybody, in turn, with what to wait for: that one says something, or reads.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (Peer, PollFd<'_>)> {
        self.each().map(|(peer, connection)| {
            let what =
                if connection.read_by_ns == u64::MAX { PollFlags::IN } else { PollFlags::OUT };
            (peer, PollFd::new(&connection.socket, what))
        })
    }

    fn each(&self) -> impl Iterator<Item = (Peer, &Connection)> {
        (0..PEERS_MAX).filter_map(|offset| {
            let number = (self.turn + offset) % PEERS_MAX;
            let peer = Peer(u8::try_from(number).unwrap_or(u8::MAX));
            Some((peer, self.connections[number].as_ref()?))
        })
    }

    /// Whether it is waited for until it has read something.
    pub(crate) fn is_reading(&self, peer: Peer) -> bool {
        let connection = self.connections.get(usize::from(peer.0)).and_then(Option::as_ref);
        connection.is_some_and(|connection| connection.read_by_ns != u64::MAX)
    }

    /// It was heard: all others come before it.
    pub(crate) fn was_heard(&mut self, peer: Peer) {
        self.turn = (usize::from(peer.0) + 1) % PEERS_MAX;
    }
}
