//! One message with its descriptors over a SOCK_SEQPACKET socket (`man 7 unix`).
//!
//! rustix and not nix: a peer that sends more descriptors than there is room for leaves them
//! open in a receiver that uses nix 0.31, which would let any client fill the master's table.

use core::mem::MaybeUninit;
use core::time::Duration;

use alloc::boxed::Box;

use heapless::Vec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

extern crate alloc;

use crate::error::{Errno, Loss};
use crate::limits::{DESCRIPTORS_MAX, MESSAGE_MAX};
use crate::message::Message;
use crate::wire;

/// Descriptors that came with a message; dropping closes them.
pub type Descriptors = Vec<OwnedFd, DESCRIPTORS_MAX>;

/// Room for one message and its descriptors.
///
/// The one allocation on the path of a launch, made at its first use: 32 KiB do not belong on a
/// small stack.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    /// How many of them were received last.
    received: usize,
    decode: wire::Decode,
}

impl Default for Buffer {
    fn default() -> Self {
        Self::with(wire::decode)
    }
}

impl Buffer {
    /// For what a guard is told.
    pub fn for_guard() -> Self {
        Self::with(wire::decode_for_guard)
    }

    fn with(decode: wire::Decode) -> Self {
        Self { bytes: Box::default(), received: 0, decode }
    }

    /// Borrows the bytes, as for [`wire::encode`].
    pub fn bytes(&mut self) -> &mut [u8] {
        self.received = 0;
        if self.bytes.is_empty() {
            self.bytes = alloc::vec![0; MESSAGE_MAX + 1].into_boxed_slice();
        }
        &mut self.bytes
    }

    /// The message that was received last, once more; none since anything else was done.
    pub fn last(&self) -> Option<Message<'_>> {
        (self.decode)(self.bytes.get(..self.received)?).ok()
    }
}

/// What an attempt to receive gave.
#[derive(Debug)]
pub enum Received<'b> {
    /// One well-formed message with exactly its descriptors.
    Message(Message<'b>, Descriptors),
    /// The peer is lost.
    Lost(Loss),
    /// Nothing is there yet.
    Empty,
}

/// Sends one message without waiting: a peer that does not read is the peer's problem.
///
/// `EMSGSIZE` if the message is longer than [`MESSAGE_MAX`]; `EAGAIN` if the peer's queue is
/// full; `EPIPE` or `ECONNRESET` if it is gone.
pub fn send(
    socket: impl AsFd,
    message: &Message<'_>,
    descriptors: &[BorrowedFd<'_>],
    buffer: &mut Buffer,
) -> Result<(), Errno> {
    debug_assert_eq!(message.descriptors(), descriptors.len());
    let bytes = wire::encode(message, buffer.bytes()).ok_or(errno(rustix::io::Errno::MSGSIZE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

/// The same for what has to be said: where the peer's queue is full this waits for room, until
/// the deadline (`CLOCK_MONOTONIC`, nanoseconds).
pub fn send_before(
    socket: impl AsFd,
    message: &Message<'_>,
    descriptors: &[BorrowedFd<'_>],
    buffer: &mut Buffer,
    deadline_ns: u64,
) -> Result<(), Errno> {
    loop {
        match send(&socket, message, descriptors, buffer) {
            Err(Errno::AGAIN) if wait_for(&socket, PollFlags::OUT, deadline_ns)? => {}
            answer => return answer,
        }
    }
}

/// Receives one message if one is there. Descriptors arrive close-on-exec; a wrong number of
/// them is garbage, and whatever came is closed.
pub fn receive<'b>(socket: impl AsFd, buffer: &'b mut Buffer) -> Result<Received<'b>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer.bytes())], &mut control, flags) {
            Ok(got) => break got,
            // The peer has gone without reading everything we sent. The kernel says so once,
            // before the last that the peer said, which may be what we wait for.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(Received::Empty),
            Err(error) => return Err(errno(error)),
        }
    };
    let mut descriptors = Descriptors::new();
    let mut too_many = false;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for right in rights {
                // The room is rounded up, so one more than that may have come.
                too_many |= descriptors.push(right).is_err();
            }
        }
    }
    if too_many || got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Received::Lost(Loss::Garbage));
    }
    buffer.received = got.bytes;
    let Some(datagram) = buffer.bytes.get(..got.bytes) else {
        return Ok(Received::Lost(Loss::Garbage));
    };
    Ok(match (buffer.decode)(datagram) {
        Ok(message) if message.descriptors() == descriptors.len() => {
            Received::Message(message, descriptors)
        }
        Ok(_) => Received::Lost(Loss::Garbage),
        // The dead send no descriptors.
        Err(Loss::Died) if !descriptors.is_empty() => Received::Lost(Loss::Garbage),
        Err(loss) => Received::Lost(loss),
    })
}

/// Receives one message, waiting for it until the deadline (`CLOCK_MONOTONIC`, nanoseconds).
pub fn receive_before<'b>(
    socket: impl AsFd,
    buffer: &'b mut Buffer,
    deadline_ns: u64,
) -> Result<Received<'b>, Errno> {
    if !wait_readable(&socket, deadline_ns)? {
        return Ok(Received::Lost(Loss::Silent));
    }
    receive(socket, buffer)
}

/// Waits until `socket` can be read or the peer is gone; false when the deadline
/// (`CLOCK_MONOTONIC`, nanoseconds) has passed first.
pub fn wait_readable(socket: impl AsFd, deadline_ns: u64) -> Result<bool, Errno> {
    wait_for(socket, PollFlags::IN, deadline_ns)
}

fn wait_for(socket: impl AsFd, what: PollFlags, deadline_ns: u64) -> Result<bool, Errno> {
    loop {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        let mut ready = [PollFd::new(&socket, what)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(errno(error)),
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: one clock for all processes of a launch.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    // Never negative, and 584 years fit.
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// rustix's errno as ours.
pub fn errno(error: rustix::io::Errno) -> Errno {
    Errno(u16::try_from(error.raw_os_error()).unwrap_or(0))
}
