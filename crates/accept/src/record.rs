//! What is remembered of connections: counters while they run, one log line when they end.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use streamvs_balance::{Choice, Verdict, VirtualServer};
use streamvs_relay::{Route, Seat, h2, tcp};
use streamvs_table::Origin;

use crate::handover::Facts;
use crate::opening::Failure;

/// Why a connection was reset without having been given to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// It was made to the listener itself: nothing was captured.
    NotCaptured,
    /// The kernel does not know where it was going.
    NoOriginalDestination,
    /// Its original destination is no address of a Service (any more).
    UnknownService,
    /// As many connections as allowed are open.
    Limit,
    /// Its client has as many open as a client may.
    ClientLimit,
    /// The process is short of memory.
    Memory,
    /// The process has no descriptor left.
    Descriptors,
}

/// Told of each refused connection, by any worker. Must not block.
pub type OnRefused = Arc<dyn Fn(RefusalReason) + Send + Sync>;

/// How a connection ended. Only the log says it, so it becomes text only there.
pub(crate) enum Ending {
    /// Cut off, because the worker ended first.
    Unfinished,
    /// Before its protocol was known, or before it had an endpoint.
    Unopened(Failure),
    /// As a plain connection.
    Plain(tcp::End),
    /// Given to the agent that takes our place, which goes on with it.
    PassedOn,
    /// As HTTP/2.
    Http2(Box<h2::Outcome>),
}

impl Ending {
    fn stream_count(&self) -> u64 {
        match self {
            Self::Http2(outcome) => outcome.stream_count,
            _ => 0,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => f.write_str("unfinished"),
            Self::Unopened(failure) => failure.fmt(f),
            Self::Plain(end) => end.fmt(f),
            Self::PassedOn => f.write_str("passed on"),
            Self::Http2(outcome) => match &outcome.error {
                None => f.write_str("closed"),
                Some(error) => error.fmt(f),
            },
        }
    }
}

/// One admitted connection: counted as active while this lives, logged when it is dropped.
pub(crate) struct Record {
    client: SocketAddr,
    original_dst: SocketAddr,
    origin: Origin,
    server: Arc<VirtualServer>,
    /// Where what clients have open is limited.
    seat: Option<Rc<Seat>>,
    accepted_at: Instant,
    verdict: Option<Verdict>,
    /// Of a plain connection.
    choice: Option<Choice>,
    ending: Ending,
}

impl Record {
    pub(crate) fn new(
        client: SocketAddr,
        original_dst: SocketAddr,
        origin: Origin,
        server: Arc<VirtualServer>,
        seat: Option<Seat>,
    ) -> Self {
        server.stats().active_connections.inc();
        Self {
            client,
            original_dst,
            origin,
            server,
            seat: seat.map(Rc::new),
            accepted_at: Instant::now(),
            verdict: None,
            choice: None,
            ending: Ending::Unfinished,
        }
    }

    /// Who serves it.
    pub(crate) fn server(&self) -> &Arc<VirtualServer> {
        &self.server
    }

    /// Where to look up who serves it later.
    pub(crate) fn route(&self) -> Route {
        let server = Arc::clone(&self.server);
        Route::new(self.original_dst, self.client.ip(), self.origin, server)
            .seated(self.seat.clone())
    }

    /// The protocol is known.
    pub(crate) fn settle(&mut self, verdict: Verdict) {
        let stats = self.server.stats();
        stats.connections[verdict.index()].inc();
        stats.detect[verdict.index()].observe(self.accepted_at.elapsed());
        self.verdict = Some(verdict);
    }

    /// The protocol was recognised, and counted, by the agent that had it before.
    pub(crate) fn settled(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }

    /// An endpoint has it, and counts as busy until the record is closed.
    pub(crate) fn choose(&mut self, choice: Choice) {
        self.choice = Some(choice);
    }

    /// Whom a plain connection speaks for or against.
    pub(crate) fn opinion(&self) -> Option<tcp::Opinion> {
        let target = Arc::clone(self.choice.as_ref()?.target());
        Some(tcp::Opinion { server: Arc::clone(&self.server), target })
    }

    /// It got no endpoint.
    pub(crate) fn failed(&mut self, failure: Failure) {
        if let Failure::NoEndpoint(_) = failure {
            self.server.stats().no_endpoint.inc();
        }
        self.ending = Ending::Unopened(failure);
    }

    /// It was relayed as a plain connection.
    pub(crate) fn relayed(&mut self, outcome: tcp::Outcome) {
        let stats = self.server.stats();
        stats.bytes_to_upstream.add(outcome.bytes_to_upstream);
        stats.bytes_to_downstream.add(outcome.bytes_to_downstream);
        self.ending = Ending::Plain(outcome.end);
    }

    /// Somebody else goes on with it. These are the octets written so far, to endpoint and client.
    pub(crate) fn passed_on(&mut self, to_upstream: u64, to_downstream: u64) {
        let stats = self.server.stats();
        stats.bytes_to_upstream.add(to_upstream);
        stats.bytes_to_downstream.add(to_downstream);
        self.ending = Ending::PassedOn;
    }

    /// Who opened it.
    pub(crate) fn client(&self) -> SocketAddr {
        self.client
    }

    /// What is known of a plain connection. None: it has no endpoint, or no protocol.
    pub(crate) fn facts(&self) -> Option<Facts> {
        let endpoint = self.choice.as_ref()?.address();
        Some(Facts { original_dst: self.original_dst, endpoint, verdict: self.verdict? })
    }

    /// Its streams were relayed.
    pub(crate) fn served(&mut self, outcome: h2::Outcome) {
        if let Some(limit) = outcome.error.as_ref().and_then(h2::Error::limit) {
            self.server.stats().limited_connections[limit.index()].inc();
        }
        self.ending = Ending::Http2(Box::new(outcome));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.server.stats().active_connections.dec();
        tracing::debug!(
            downstream = %self.client,
            original_dst = %self.original_dst,
            service = %self.server.service().name,
            endpoint = self.choice.as_ref().map(|choice| tracing::field::display(choice.address())),
            protocol = self.verdict.map_or("unknown", Verdict::as_str),
            stream_count = self.ending.stream_count(),
            duration_seconds = self.accepted_at.elapsed().as_secs_f64(),
            outcome = %self.ending,
            "connection ended"
        );
    }
}
