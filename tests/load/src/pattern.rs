//! What messages and bulk transfers are made of, so that each octet can be checked.

/// Octets after which the pattern repeats: no buffer size divides it, so an octet that went missing
/// or came twice shifts all that follow.
const PERIOD: usize = 4 * 1024 * 1024 - 13;

/// The most that is taken or compared at once.
pub(crate) const CHUNK: usize = 256 * 1024;

/// The pattern of bulk transfers.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    /// Pseudo-random octets (xorshift64), the same in every process.
    pub(crate) fn new() -> Self {
        let mut octets = Vec::with_capacity(PERIOD + CHUNK);
        let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
        while octets.len() < PERIOD {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            octets.extend_from_slice(&state.to_le_bytes());
        }
        octets.truncate(PERIOD);
        // The beginning once more, so that no chunk is cut at the end of the period.
        octets.extend_from_within(..CHUNK);
        Self(octets)
    }

    /// What stands at an offset of the transfer, at most [`CHUNK`] of it.
    pub(crate) fn at(&self, offset: u64, length: usize) -> &[u8] {
        let from = usize::try_from(offset % PERIOD as u64).expect("is below the period");
        &self.0[from..from + length.min(CHUNK)]
    }
}

/// A gRPC message with its prefix of five octets.
pub(crate) fn grpc_message(length: u32) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend((b'a'..=b'z').cycle().take(length as usize));
    message
}

/// A plain message.
pub(crate) fn plain_message(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place * 7 + 3) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_goes_on_over_its_end() {
        let pattern = Pattern::new();
        let end = PERIOD as u64;
        assert_eq!(pattern.at(end - 3, 8)[3..], *pattern.at(0, 5));
        assert_eq!(pattern.at(2 * end + 7, 100), pattern.at(7, 100));
        assert_eq!(pattern.at(end - 1, usize::MAX).len(), CHUNK);
    }

    #[test]
    fn a_grpc_message_says_its_length() {
        assert_eq!(grpc_message(3), [0, 0, 0, 0, 3, b'a', b'b', b'c']);
    }
}
