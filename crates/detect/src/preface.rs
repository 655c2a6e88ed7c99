//! The client connection preface, matched octet by octet.

use crate::first_bytes::Match;

/// What every HTTP/2 client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much of the preface has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PrefaceMatcher {
    matched: usize,
}

impl PrefaceMatcher {
    /// Looks at the next octets. After anything but [`Match::Partial`] further octets are not
    /// looked at.
    pub(crate) fn feed(&mut self, octets: &[u8]) -> Match {
        let rest = &PREFACE[self.matched..];
        let compared = rest.len().min(octets.len());
        if rest[..compared] != octets[..compared] {
            return Match::Mismatch;
        }
        self.matched += compared;
        if self.matched == PREFACE.len() { Match::Whole } else { Match::Partial }
    }
}
