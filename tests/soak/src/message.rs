//! What calls carry: an id, and octets that prove themselves.
//!
//! ```text
//! id (8) | length of the octets (4) | CRC-32 of id, length and octets (4) | octets
//! ```
//!
//! Numbers are big-endian. The octets come from the id, so that those of another message are
//! recognised even where their checksum is right.

/// Octets before the octets.
pub(crate) const HEAD_BYTES: usize = 16;

/// The most that a message may carry; more in a length is a damaged length.
pub(crate) const MAX_BYTES: usize = 1 << 20;

/// Makes a message.
pub(crate) fn encode(id: u64, length: usize) -> Vec<u8> {
    let count = u32::try_from(length).expect("a message is small");
    let mut message = Vec::with_capacity(HEAD_BYTES + length);
    message.extend_from_slice(&id.to_be_bytes());
    message.extend_from_slice(&count.to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    let mut octets = fastrand::Rng::with_seed(id);
    message.resize(HEAD_BYTES + length, 0);
    octets.fill(&mut message[HEAD_BYTES..]);
    let sum = checksum(&message).to_be_bytes();
    message[12..16].copy_from_slice(&sum);
    message
}

/// The id of a whole message; none where anything in it is not as it was made.
pub(crate) fn decode(message: &[u8]) -> Option<u64> {
    let (id, length) = head(message)?;
    let sum = message.get(12..16)?;
    (message.len() == HEAD_BYTES + length && sum == checksum(message).to_be_bytes()).then_some(id)
}

/// Id and number of octets that follow the head; none where it is cut or says too many.
pub(crate) fn head(message: &[u8]) -> Option<(u64, usize)> {
    let id = u64::from_be_bytes(message.get(..8)?.try_into().ok()?);
    let length = u32::from_be_bytes(message.get(8..12)?.try_into().ok()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_BYTES)?;
    Some((id, length))
}

fn checksum(message: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&message[..12]);
    sum.update(&message[HEAD_BYTES..]);
    sum.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_only_whole_and_unchanged() {
        for length in [0, 1, 700] {
            let message = encode(7, length);
            assert_eq!(decode(&message), Some(7));
            for cut in 0..message.len() {
                assert_eq!(decode(&message[..cut]), None, "cut at {cut} of {length}");
            }
            for at in 0..message.len() {
                let mut damaged = message.clone();
                damaged[at] ^= 0x10;
                assert_eq!(decode(&damaged), None, "octet {at} of {length} changed");
            }
        }
        assert_ne!(encode(7, 100), encode(8, 100));
    }

    #[test]
    fn a_head_that_says_too_much_is_refused() {
        let mut message = encode(7, 0);
        message[8] = 0xff;
        assert_eq!(head(&message), None);
    }
}
