//! Framing: one datagram of a SOCK_SEQPACKET socket is one message: the version in one byte,
//! then postcard. Nothing follows. A message has one encoding of ours; a longer form of one of
//! its numbers is read as well, so received bytes are never compared.

use serde::Deserialize;

use crate::error::Loss;
use crate::limits::MESSAGE_MAX;
use crate::message::{ClientMessage, MasterMessage, Message};

/// Raised when an old peer could misread a message. Adding a variant at the end of an enum
/// does not raise it: the old peer answers [`Loss::Garbage`].
pub const VERSION: u8 = 1;

/// Encodes into `buffer`, and returns the part that was filled; none if it does not fit.
pub fn encode<'b>(message: &Message<'_>, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    let limit = buffer.len().min(MESSAGE_MAX);
    let (version, body) = buffer.get_mut(..limit)?.split_first_mut()?;
    *version = VERSION;
    let length = postcard::to_slice(message, body).ok()?.len();
    buffer.get(..=length)
}

/// One of the functions below.
pub type Decode = for<'b> fn(&'b [u8]) -> Result<Message<'b>, Loss>;

/// Decodes one datagram. Bytes left over are garbage.
pub fn decode(datagram: &[u8]) -> Result<Message<'_>, Loss> {
    body(datagram)
}

/// The same for a guard, to which no guard speaks: its program is 6 KB shorter for that.
pub fn decode_for_guard(datagram: &[u8]) -> Result<Message<'_>, Loss> {
    /// The first two of [`Message`].
    #[derive(Deserialize)]
    enum ToGuard<'a> {
        #[serde(borrow)]
        Client(ClientMessage<'a>),
        #[serde(borrow)]
        Master(MasterMessage<'a>),
    }
    Ok(match body(datagram)? {
        ToGuard::Client(message) => Message::Client(message),
        ToGuard::Master(message) => Message::Master(message),
    })
}

fn body<'b, T: Deserialize<'b>>(datagram: &'b [u8]) -> Result<T, Loss> {
    let (&version, body) = datagram.split_first().ok_or(Loss::Died)?;
    if version != VERSION {
        return Err(Loss::Version);
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(Loss::Garbage),
    }
}
