//! What is remembered of connections: counters while they run, one log line when they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use streamvs_balance::{Verdict, VirtualServer};

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
}

/// Told of each refused connection, by any worker. Must not block.
pub type OnRefused = Arc<dyn Fn(RefusalReason) + Send + Sync>;

/// One admitted connection: counted as active while this lives, logged when it is dropped.
pub(crate) struct Record {
    client: SocketAddr,
    original_dst: SocketAddr,
    server: Arc<VirtualServer>,
    accepted_at: Instant,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) stream_count: u64,
    pub(crate) outcome: String,
}

impl Record {
    pub(crate) fn new(
        client: SocketAddr,
        original_dst: SocketAddr,
        server: Arc<VirtualServer>,
    ) -> Self {
        server.stats().active_connections.inc();
        Self {
            client,
            original_dst,
            server,
            accepted_at: Instant::now(),
            verdict: None,
            endpoint: None,
            stream_count: 0,
            outcome: String::new(),
        }
    }

    /// The protocol is known.
    pub(crate) fn settle(&mut self, verdict: Verdict) {
        let stats = self.server.stats();
        stats.connections[verdict.index()].inc();
        stats.detect[verdict.index()].observe(self.accepted_at.elapsed());
        self.verdict = Some(verdict);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.server.stats().active_connections.dec();
        tracing::debug!(
            downstream = %self.client,
            original_dst = %self.original_dst,
            service = %self.server.service().name,
            endpoint = self.endpoint.map(tracing::field::display),
            protocol = self.verdict.map_or("unknown", Verdict::as_str),
            stream_count = self.stream_count,
            duration_seconds = self.accepted_at.elapsed().as_secs_f64(),
            outcome = self.outcome,
            "connection ended"
        );
    }
}
