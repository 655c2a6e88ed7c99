//! Frames as a peer of the switch reads and writes them, written for the tests alone.

use std::fmt;

pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const MAX_PAYLOAD: usize = 16_384;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// One frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KINDS: [&str; 10] = [
            "DATA",
            "HEADERS",
            "PRIORITY",
            "RST_STREAM",
            "SETTINGS",
            "PUSH_PROMISE",
            "PING",
            "GOAWAY",
            "WINDOW_UPDATE",
            "CONTINUATION",
        ];
        let kind = KINDS.get(usize::from(self.kind)).unwrap_or(&"unknown");
        let Self { flags, stream, payload, .. } = self;
        write!(f, "{kind} flags {flags:#x} stream {stream} {} octets", payload.len())?;
        if payload.len() <= 24 && self.kind > HEADERS {
            write!(f, " {payload:02x?}")?;
        }
        Ok(())
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Octets of a connection on their way to become frames.
#[derive(Debug)]
pub(crate) struct Parser {
    held: Vec<u8>,
    preface: bool,
}

impl Parser {
    /// `preface`: the other side is a client, and says that first.
    pub(crate) fn new(preface: bool) -> Self {
        Self { held: Vec::new(), preface }
    }

    pub(crate) fn feed(&mut self, octets: &[u8]) {
        self.held.extend_from_slice(octets);
    }

    pub(crate) fn next(&mut self) -> Option<Frame> {
        if self.preface {
            let preface = self.held.get(..PREFACE.len())?;
            assert_eq!(preface, PREFACE);
            self.held.drain(..PREFACE.len());
            self.preface = false;
        }
        let head: [u8; 9] = *self.held.first_chunk()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(length <= MAX_PAYLOAD, "a frame of {length} octets");
        let payload = self.held.get(9..9 + length)?.to_vec();
        self.held.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        assert!(stream < 1 << 31, "the reserved bit is set");
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }
}
