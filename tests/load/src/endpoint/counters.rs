//! What an endpoint has done and seen.

use serde_json::{Value, json};

/// Counts since the start, but for `open`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) plain_connections: u64,
    pub(super) http2_connections: u64,
    /// Connections open now.
    pub(super) open: u64,
    /// HTTP/2 requests answered.
    pub(super) requests: u64,
    /// What no proxy may let through: broken framing, a request without its message, an end in the
    /// middle of one.
    pub(super) violations: u64,
}

impl Counters {
    pub(super) fn report(&self) -> Value {
        json!({
            "plain_connections": self.plain_connections,
            "http2_connections": self.http2_connections,
            "open": self.open,
            "requests": self.requests,
            "violations": self.violations,
        })
    }

    /// Counts a violation, and says it for whoever looks for its reason.
    pub(super) fn violation(&mut self, what: &str) {
        self.violations += 1;
        eprintln!("violation: {what}");
    }
}
