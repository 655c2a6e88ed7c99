//! Length-prefixed messages, cut out of whatever pieces the body came in.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest message taken, as in gRPC's own libraries.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A flag octet (not compressed), the length, the message.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a message is shorter than 4 GiB");
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(length);
    framed.put_slice(message);
    framed.freeze()
}

/// Collects pieces of a body and gives whole messages.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pending: BytesMut,
}

impl Messages {
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.pending.extend_from_slice(piece);
    }

    /// The next whole message; none while it is incomplete.
    ///
    /// # Errors
    /// When what came is no uncompressed message of at most 4 MiB.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(head) = self.pending.first_chunk::<5>() else {
            return Ok(None);
        };
        let [flag, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed)?;
        if flag != 0 || length > MAX_BYTES {
            return Err(Malformed);
        }
        if self.pending.len() < 5 + length {
            return Ok(None);
        }
        self.pending.advance(5);
        Ok(Some(self.pending.split_to(length).freeze()))
    }

    /// True when nothing is left over.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// Octets that are no gRPC message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_cut() {
        let mut sent = frame(b"one").to_vec();
        sent.extend_from_slice(&frame(b""));
        sent.extend_from_slice(&frame(b"three"));
        for cut in 0..sent.len() {
            let mut messages = Messages::default();
            let mut got = Vec::new();
            for piece in [&sent[..cut], &sent[cut..]] {
                messages.feed(piece);
                while let Some(message) = messages.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, [&b"one"[..], b"", b"three"], "cut at {cut}");
            assert!(messages.is_empty());
        }
    }

    #[test]
    fn a_compressed_or_huge_message_is_refused() {
        for head in [[1, 0, 0, 0, 1], [0, 0xff, 0, 0, 0]] {
            let mut messages = Messages::default();
            messages.feed(&head);
            assert_eq!(messages.next(), Err(Malformed));
        }
    }
}
