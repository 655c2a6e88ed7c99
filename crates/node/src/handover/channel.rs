//! Messages, descriptors and octets over the unix socket between two agents.
//!
//! ```text
//! length of message (u32) | length of octets (u32) | message (JSON) | octets
//! ^ descriptors go with this first part (SCM_RIGHTS, unix(7))
//! ```
//!
//! Whoever is on the other side has root's or our own user's rights. What it sends is checked all
//! the same: it may be of another version.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::message::Message;

/// Descriptors that go with one message: the kernel's limit (SCM_MAX_FD).
pub(super) const MOST_DESCRIPTORS: usize = 253;

/// A message takes a few hundred octets.
const LONGEST_MESSAGE: usize = 64 << 10;

/// Octets in flight of one connection: a pipe (1 MiB) or a buffer (256 KiB) each way.
const MOST_OCTETS: usize = 4 << 20;

const HEADER_OCTETS: usize = 8;

/// A message with what goes beside it.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) message: Message,
    /// In pieces when sent, in one when received.
    pub(super) octets: Vec<Bytes>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl From<Message> for Frame {
    fn from(message: Message) -> Self {
        Self { message, octets: Vec::new(), descriptors: Vec::new() }
    }
}

/// One end of the connection between two agents.
#[derive(Debug)]
pub(crate) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends a frame; the descriptors are closed here, and stay open over there.
    ///
    /// # Errors
    /// The other side has gone.
    pub(super) async fn send(&mut self, frame: impl Into<Frame>) -> io::Result<()> {
        let Frame { message, octets, descriptors } = frame.into();
        let message = serde_json::to_vec(&message)?;
        let length = |octets: usize| u32::try_from(octets).map_err(io::Error::other);
        let octets_length = length(octets.iter().map(Bytes::len).sum())?;
        let mut header = [0; HEADER_OCTETS];
        header[..4].copy_from_slice(&length(message.len())?.to_be_bytes());
        header[4..].copy_from_slice(&octets_length.to_be_bytes());
        let sent = self
            .0
            .async_io(Interest::WRITABLE, || send_with(&self.0, &header, &descriptors))
            .await?;
        self.0.write_all(&header[sent..]).await?;
        self.0.write_all(&message).await?;
        for piece in octets {
            self.0.write_all(&piece).await?;
        }
        Ok(())
    }

    /// Receives a frame. None: the other side has ended between two frames.
    ///
    /// # Errors
    /// The other side has broken off, or speaks differently.
    pub(super) async fn receive(&mut self) -> io::Result<Option<Frame>> {
        let mut header = [0; HEADER_OCTETS];
        let mut descriptors = Vec::new();
        let mut filled = 0;
        while filled < HEADER_OCTETS {
            let rest = &mut header[filled..];
            let count = self
                .0
                .async_io(Interest::READABLE, || receive_with(&self.0, rest, &mut descriptors))
                .await?;
            match count {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        let length = |at: usize, most: usize| {
            let octets: [u8; 4] = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            let length = u32::from_be_bytes(octets) as usize;
            if length <= most {
                Ok(length)
            } else {
                Err(io::Error::from(io::ErrorKind::InvalidData))
            }
        };
        let mut message = vec![0; length(0, LONGEST_MESSAGE)?];
        let mut octets = vec![0; length(4, MOST_OCTETS)?];
        self.0.read_exact(&mut message).await?;
        self.0.read_exact(&mut octets).await?;
        let message = serde_json::from_slice(&message)?;
        Ok(Some(Frame { message, octets: vec![octets.into()], descriptors }))
    }
}

fn send_with(socket: &UnixStream, octets: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The kernel tells a peer that has gone by EPIPE; the signal is ignored by every Rust program.
    Ok(sendmsg(socket, &[IoSlice::new(octets)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

fn receive_with(
    socket: &UnixStream,
    octets: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(octets)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        tracing::warn!("descriptors were lost on the way: too many are open, or it is forbidden");
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests;
