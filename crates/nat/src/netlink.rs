//! What the kernel answers on a netfilter socket, and transactions of nf_tables.
//!
//! Sources: linux/netlink.h, linux/netfilter/nfnetlink.h.

use std::io;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_sys::Socket;
use netlink_sys::constants::NETLINK_NETFILTER;
use tokio::task::spawn_blocking;

use crate::nft::DEADLINE;

/// The messages of a datagram, in order. None: one that the library cannot read. An error ends
/// them: a length that cannot be.
#[derive(Debug)]
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<Option<NetlinkPayload<NetfilterMessage>>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = match length_of(self.0) {
            Ok(length) => length,
            Err(error) => {
                self.0 = &[];
                return Some(Err(error));
            }
        };
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(&self.0[..length]);
        // Messages are aligned to four octets.
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(match message {
            Ok(message) => Some(message.payload),
            Err(error) => {
                tracing::trace!(%error, "netlink message skipped");
                None
            }
        }))
    }
}

/// The length that a netlink message says it has, which the datagram must hold.
fn length_of(bytes: &[u8]) -> io::Result<usize> {
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize);
    length
        .filter(|length| (16..=bytes.len()).contains(length))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Has the kernel do a transaction, in the network namespace of the calling thread, of which the
/// last message asks for an acknowledgement.
///
/// The kernel works while the octets are sent, and waits there for other programs' transactions: on
/// a thread of its own, so that nothing else of ours does.
///
/// # Errors
/// The kernel refused a message, and did none of them; or it was not done within the time that `nft`
/// has for the same, and may be yet.
///
/// # Cancel safety
/// When dropped, the transaction is done all the same.
pub(crate) async fn commit(octets: Vec<u8>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let done = spawn_blocking(move || {
        socket.send(&octets, 0)?;
        // All answers are there already. Errors come before the acknowledgement.
        socket.set_non_blocking(true)?;
        loop {
            let (datagram, _) = socket.recv_from_full()?;
            for message in Messages(&datagram) {
                if let Some(NetlinkPayload::Error(answer)) = message? {
                    return match answer.code {
                        None => Ok(()),
                        Some(_) => Err(answer.to_io()),
                    };
                }
            }
        }
    });
    let done = tokio::time::timeout(DEADLINE, done).await?;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_cannot_be_is_an_error() {
        let with = |length: u32, size: usize| {
            let mut bytes = vec![0; size];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            length_of(&bytes).ok()
        };
        assert_eq!(
            [with(20, 20), with(21, 20), with(0, 20), with(15, 40)],
            [Some(20), None, None, None]
        );
        assert!(length_of(&[1, 2]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn every_datagram_ends(datagram in proptest::collection::vec(0u8.., 0..200)) {
            assert!(Messages(&datagram).count() <= datagram.len());
        }
    }
}
