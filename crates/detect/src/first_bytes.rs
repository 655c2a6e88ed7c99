//! The verdict over both sides' first bytes.

use crate::preface::PrefaceMatcher;
use crate::settings::SettingsMatcher;

/// What a connection speaks, as far as balancing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 in the clear: balance each stream.
    Http2,
    /// Anything else: balance the connection.
    Tcp,
}

/// How far a fixed pattern has matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// All octets so far fit, more are needed.
    Partial,
    /// The whole pattern has come.
    Whole,
    /// An octet does not fit.
    Mismatch,
}

/// Both sides of a connection whose protocol is not known yet.
///
/// ```text
///            client: true prefix of the preface          client: whole preface
///           +---------------------------------+       +------------------------> Http2
///           v                                 |       |
///   +--> unknown -----------------------------+-------+
///   |       |   \   client: first octet that differs, or end of its bytes
///   +-------+    +-------------------------------------------------------------> Tcp
///  endpoint:      \ endpoint: any octet that is not a SETTINGS frame's header,
///  a SETTINGS        or end of its bytes
///  header
/// ```
///
/// An endpoint that sends a SETTINGS frame first is no server-first protocol: gRPC servers write
/// SETTINGS before they have read the preface. It proves nothing either, so the client's bytes go
/// on to decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstBytes {
    preface: PrefaceMatcher,
    settings: SettingsMatcher,
    endpoint_settled: bool,
}

impl FirstBytes {
    /// The client sent `octets` (not empty).
    pub fn client(&mut self, octets: &[u8]) -> Option<Protocol> {
        match self.preface.feed(octets) {
            Match::Whole => Some(Protocol::Http2),
            Match::Mismatch => Some(Protocol::Tcp),
            Match::Partial => None,
        }
    }

    /// The endpoint sent `octets` (not empty).
    pub fn endpoint(&mut self, octets: &[u8]) -> Option<Protocol> {
        if self.endpoint_settled {
            return None;
        }
        match self.settings.feed(octets) {
            Match::Mismatch => Some(Protocol::Tcp),
            Match::Whole => {
                self.endpoint_settled = true;
                None
            }
            Match::Partial => None,
        }
    }

    /// A SETTINGS header has come from the endpoint: nothing it sends can decide any more, so
    /// there is no need to read more of it before the client has spoken.
    pub fn endpoint_settled(&self) -> bool {
        self.endpoint_settled
    }
}

#[cfg(test)]
mod tests;
