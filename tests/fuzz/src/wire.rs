//! Frames, for reading what the switch says.

/// What a client says first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The first four octets of the payload.
    pub(crate) fn number(&self) -> u32 {
        u32::from_be_bytes(*self.payload.first_chunk().expect("is four octets long"))
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Octets that must be whole frames, and such as everybody accepts.
pub(crate) fn frames(mut octets: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let (head, rest) = octets.split_first_chunk::<9>().expect("a whole head");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= 16_384);
        let (payload, rest) = rest.split_at_checked(length).expect("a whole payload");
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        frames.push(Frame { kind: head[3], flags: head[4], stream, payload: payload.to_vec() });
        octets = rest;
    }
    frames
}
