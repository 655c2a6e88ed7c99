//! The header of a SETTINGS frame: what an HTTP/2 server may send before it reads anything.

use crate::first_bytes::Match;

/// Octets of a frame header (RFC 9113 section 4.1).
const HEADER_OCTETS: usize = 9;
/// The frame type of SETTINGS (RFC 9113 section 6.5).
const TYPE_SETTINGS: u8 = 0x04;
/// No SETTINGS frame is longer before the receiver has raised SETTINGS_MAX_FRAME_SIZE.
const MAX_LENGTH: usize = 16_384;

/// Matches the nine octets of a first SETTINGS frame's header: a length that is a multiple of six
/// (RFC 9113 section 6.5) and allowed, type 4, no flags, stream 0.
///
/// MySQL's greeting also starts with a three-octet length, but a little-endian one with a
/// sequence number behind it: as an HTTP/2 length it is far above the limit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SettingsMatcher {
    header: [u8; HEADER_OCTETS],
    seen: usize,
}

impl SettingsMatcher {
    /// Looks at the next octets. After anything but [`Match::Partial`] further octets are not
    /// looked at.
    pub(crate) fn feed(&mut self, octets: &[u8]) -> Match {
        for &octet in octets {
            self.header[self.seen] = octet;
            self.seen += 1;
            if !self.plausible() {
                return Match::Mismatch;
            }
            if self.seen == HEADER_OCTETS {
                return Match::Whole;
            }
        }
        Match::Partial
    }

    /// What came so far can be the beginning of a SETTINGS frame.
    fn plausible(&self) -> bool {
        let [high, middle, low, kind, flags, stream @ ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match self.seen {
            1 => high == 0,
            2 => length <= MAX_LENGTH,
            3 => length <= MAX_LENGTH && length % 6 == 0,
            4 => kind == TYPE_SETTINGS,
            5 => flags == 0,
            _ => stream[..self.seen - 5].iter().all(|&octet| octet == 0),
        }
    }
}
