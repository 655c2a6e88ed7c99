//! What is counted of a ServicePort and of an endpoint, for `streamvs list` and `/metrics`.
//!
//! `accept` and `relay` count, `admin` reads; nothing here steers a choice. All of it is relaxed
//! atomics: a value orders nothing else, and a reader who sees one counter move before another
//! has not been told anything wrong.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Fault, Histogram};

/// A total since start, which only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The total.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now. Whoever calls [`Gauge::inc`] owes one [`Gauge::dec`], so keep the pair
/// in a guard.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a gauge went below zero");
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a captured connection turned out to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// HTTP/2 with prior knowledge: balanced by stream.
    Http2,
    /// Anything else: balanced by connection.
    Tcp,
    /// Began with a TLS ClientHello: balanced by connection.
    Tls,
}

impl Verdict {
    /// All, in the order of [`Verdict::index`].
    pub const ALL: [Self; 3] = [Self::Http2, Self::Tcp, Self::Tls];

    /// Its place in the arrays of [`ServiceStats`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `protocol` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http2 => "http2",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// Why a stream or a connection was given to a second endpoint. Each is a proof that the first
/// could not have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplayReason {
    /// The dial did not succeed.
    DialFailed,
    /// REFUSED_STREAM (RFC 9113 section 8.7).
    Refused,
    /// The stream's id is above the last one of a GOAWAY (RFC 9113 section 6.8).
    GoAway,
    /// The connection ended before a byte of it was written.
    Unwritten,
}

impl ReplayReason {
    /// All, in the order of [`ReplayReason::index`].
    pub const ALL: [Self; 4] = [Self::DialFailed, Self::Refused, Self::GoAway, Self::Unwritten];

    /// Its place in [`ServiceStats::replays`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DialFailed => "dial_failed",
            Self::Refused => "refused_stream",
            Self::GoAway => "goaway",
            Self::Unwritten => "unwritten",
        }
    }
}

/// Why a dial to an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// Reset in answer to the SYN, as nobody listens, or as soon as it was accepted.
    Refused,
    /// No answer in time.
    TimedOut,
    /// No route, or ICMP said so.
    Unreachable,
    /// Anything else, such as no local port left.
    Other,
}

impl ConnectFailure {
    /// All, in the order of [`ConnectFailure::index`].
    pub const ALL: [Self; 4] = [Self::Refused, Self::TimedOut, Self::Unreachable, Self::Other];

    /// What the error of a dial counts as.
    pub fn of(error: io::ErrorKind) -> Self {
        match error {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Self::Unreachable,
            _ => Self::Other,
        }
    }

    /// Its place in [`TargetStats::failures`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        }
    }
}

/// What kept a stream from being carried, or from going on, though nothing was wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamLimit {
    /// The process is short of memory.
    Memory,
    /// Its client has as many streams open as a client may.
    Client,
    /// It had lived long enough, and was ended.
    Age,
}

impl StreamLimit {
    /// All, in the order of [`StreamLimit::index`].
    pub const ALL: [Self; 3] = [Self::Memory, Self::Client, Self::Age];

    /// Its place in [`ServiceStats::limited_streams`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Client => "client_limit",
            Self::Age => "max_age",
        }
    }
}

/// Which limit ended a client's HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionLimit {
    /// Its SETTINGS, a frame, or a header block took too long to come whole.
    Slow,
    /// It sent more of what costs it nothing, or larger headers, than anybody needs.
    Flood,
    /// It took nothing of what it was sent for `--tcp-user-timeout`, or has vanished.
    Stalled,
    /// It had lived long enough, and was asked to go.
    Age,
}

impl ConnectionLimit {
    /// All, in the order of [`ConnectionLimit::index`].
    pub const ALL: [Self; 4] = [Self::Slow, Self::Flood, Self::Stalled, Self::Age];

    /// Its place in [`ServiceStats::limited_connections`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Flood => "flood",
            Self::Stalled => "stalled",
            Self::Age => "max_age",
        }
    }
}

/// Totals of one family of one ServicePort, over all generations in which it exists.
#[derive(Debug, Default)]
pub struct ServiceStats {
    /// Captured connections by what they carried; see [`Verdict::index`].
    pub connections: [Counter; Verdict::ALL.len()],
    /// Captured connections open now.
    pub active_connections: Gauge,
    /// Moves to a second endpoint; see [`ReplayReason::index`].
    pub replays: [Counter; ReplayReason::ALL.len()],
    /// Streams that could have been moved, but for the number of others that were.
    pub replays_refused: Counter,
    /// From accept to verdict; see [`Verdict::index`].
    pub detect: [Histogram; Verdict::ALL.len()],
    /// Payload bytes from clients to endpoints.
    pub bytes_to_upstream: Counter,
    /// Payload bytes from endpoints to clients.
    pub bytes_to_downstream: Counter,
    /// Connections and streams for which no endpoint was left.
    pub no_endpoint: Counter,
    /// How late after its endpoint left the usable set a stream was still started there. Should
    /// stay empty.
    pub last_stream_after_removal: Histogram,
    /// TLS connections whose client offered `h2` by ALPN: gRPC that cannot be balanced by stream.
    pub tls_h2: Counter,
    /// Streams that a limit refused or ended; see [`StreamLimit::index`].
    pub limited_streams: [Counter; StreamLimit::ALL.len()],
    /// HTTP/2 connections of clients that a limit ended; see [`ConnectionLimit::index`].
    pub limited_connections: [Counter; ConnectionLimit::ALL.len()],
}

/// Totals of one endpoint of one ServicePort, over all generations in which its address stays.
#[derive(Debug, Default)]
pub struct TargetStats {
    /// TCP connections given to it: relayed ones, not those of the HTTP/2 pool.
    pub connections: Counter,
    /// Streams given to it.
    pub streams: Counter,
    /// Streams open there now that began long ago, as far as whoever carries them says so.
    pub old_streams: Gauge,
    /// Failed dials; see [`ConnectFailure::index`].
    pub failures: [Counter; ConnectFailure::ALL.len()],
    /// Faults, counted even where nobody is ejected for them; see [`Fault::index`].
    pub faults: [Counter; Fault::ALL.len()],
    /// Times it was ejected.
    pub ejections: Counter,
    /// Ended gRPC streams by `grpc-status` 0 to 16; the last counts other and absent ones. See
    /// [`TargetStats::grpc_response`].
    pub grpc_responses: [Counter; 18],
    /// From the pick to the end of the stream.
    pub stream_duration: Histogram,
}

impl TargetStats {
    /// The counter of a gRPC status. None: the stream ended without one, or it was no number.
    pub fn grpc_response(&self, status: Option<u32>) -> &Counter {
        let last = self.grpc_responses.len() - 1;
        let index = status.and_then(|status| usize::try_from(status).ok()).unwrap_or(last);
        &self.grpc_responses[index.min(last)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_place_in_all() {
        for (index, verdict) in Verdict::ALL.into_iter().enumerate() {
            assert_eq!(verdict.index(), index);
        }
        for (index, reason) in ReplayReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        for (index, failure) in ConnectFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure.index(), index);
        }
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index);
        }
        for (index, limit) in StreamLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit.index(), index);
        }
        for (index, limit) in ConnectionLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit.index(), index);
        }
    }

    #[test]
    fn a_grpc_status_beyond_the_known_ones_shares_the_last_counter() {
        let stats = TargetStats::default();
        for status in (0..=16).map(Some).chain([Some(17), Some(18), Some(u32::MAX), None]) {
            stats.grpc_response(status).inc();
        }
        let counts: Vec<_> = stats.grpc_responses.iter().map(Counter::get).collect();
        assert_eq!(counts[..17], [1; 17]);
        assert_eq!(counts[17], 4);
    }

    #[test]
    fn a_gauge_follows_both_ways() {
        let gauge = Gauge::default();
        gauge.inc();
        gauge.inc();
        gauge.dec();
        assert_eq!(gauge.get(), 1);
    }

    #[test]
    fn errors_of_a_dial_are_told_apart() {
        for (kind, failure) in [
            (io::ErrorKind::ConnectionRefused, ConnectFailure::Refused),
            (io::ErrorKind::ConnectionReset, ConnectFailure::Refused),
            (io::ErrorKind::TimedOut, ConnectFailure::TimedOut),
            (io::ErrorKind::HostUnreachable, ConnectFailure::Unreachable),
            (io::ErrorKind::NetworkUnreachable, ConnectFailure::Unreachable),
            (io::ErrorKind::AddrNotAvailable, ConnectFailure::Other),
        ] {
            assert_eq!(ConnectFailure::of(kind), failure);
        }
    }
}
