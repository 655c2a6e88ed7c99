//! Frame heads, types, flags, and error codes (RFC 9113 sections 4.1, 6 and 7).

use std::fmt;

/// What every HTTP/2 client sends first (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Octets of a frame's head.
pub(super) const HEAD_OCTETS: usize = 9;

/// The largest payload we accept: what everybody may send without asking. Larger frames only
/// make streams wait longer for each other.
pub(super) const MAX_PAYLOAD_OCTETS: usize = 16_384;

/// Frame types.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const PRIORITY: u8 = 0x2;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const GOAWAY: u8 = 0x7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

/// Frame flags.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Octets of the payload, below 2^24.
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Stream id, without the reserved bit.
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(octets: &[u8; HEAD_OCTETS]) -> Self {
        let [high, middle, low, kind, flags, a, b, c, d] = *octets;
        Self {
            length: usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low),
            kind,
            flags,
            stream: u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff,
        }
    }

    pub(super) fn octets(self) -> [u8; HEAD_OCTETS] {
        let [_, high, middle, low] = (self.length as u32).to_be_bytes();
        let [a, b, c, d] = self.stream.to_be_bytes();
        [high, middle, low, self.kind, self.flags, a, b, c, d]
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// An error code of RST_STREAM or GOAWAY. Any number may come, and is passed on as it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

impl Code {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// We, or the endpoint, failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// The peer sent more than it was granted, or granted more than there can be.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// The peer's SETTINGS did not come.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame on a stream that has ended.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of a size it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// Not acted on: another try is safe.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// Not wanted any more.
    pub const CANCEL: Self = Self(0x8);
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// Too much of what costs the sender nothing.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);

    fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Takes off what PADDED adds: the length octet in front and the padding behind.
///
/// # Errors
/// The padding is as long as the payload or longer (RFC 9113 section 6.1): PROTOCOL_ERROR.
pub(super) fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Code> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Code::FRAME_SIZE_ERROR)?;
    let kept = rest.len().checked_sub(usize::from(padding)).ok_or(Code::PROTOCOL_ERROR)?;
    Ok(&rest[..kept])
}

/// The four octets of a WINDOW_UPDATE, a RST_STREAM or a stream id, from the start of `payload`.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    let octets = payload.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*octets))
}
