//! What we ask of both sides, with the sum behind each number.

use std::time::Duration;

use h2::{client, server};

/// Streams a client may have open on one connection. As Envoy's default: enough for clients that
/// hold hundreds of watches on one connection, as they could against the endpoint itself.
pub const DOWNSTREAM_STREAMS: u32 = 1024;

/// Streams on one upstream connection before a second one is opened, when the endpoint does not
/// set a lower limit: bounds what one lost connection takes with it.
pub const UPSTREAM_STREAMS: usize = 1024;

/// What the crate says while the endpoint's SETTINGS have not come. They come with the first round
/// trip; until then no stream is opened, because an endpoint may allow none, and because who
/// accepts a connection and closes it cannot be told from who has acted on a stream.
pub(super) const UNKNOWN: usize = usize::MAX - 1;

/// How long streams wait for them.
pub const SETTINGS_TIMEOUT: Duration = Duration::from_secs(1);

/// Streams taken to be allowed after that: the least that RFC 9113 section 6.5.2 recommends.
pub const UPSTREAM_STREAMS_AT_START: usize = 100;

/// Connections of one worker to one endpoint; beyond it streams wait for room.
/// With 1024 streams each that is more than a pod serves, and it bounds the sockets an endpoint
/// which allows one stream a connection can cost us.
pub const UPSTREAM_CONNECTIONS: usize = 64;

/// Credit of one stream: 256 KiB keep 2 Gbit/s busy over a round trip of 1 ms.
pub const STREAM_WINDOW_OCTETS: u32 = 256 * 1024;

/// Credit of one connection: 64 streams may stall with full windows before their siblings feel
/// it, and no connection makes us hold more.
pub const CONNECTION_WINDOW_OCTETS: u32 = 16 * 1024 * 1024;

/// All octets of a header block as RFC 9113 section 6.5.2 counts them. gRPC advises 8 KiB; four
/// times Envoy's and eight times that, against header bombs.
pub const HEADER_LIST_OCTETS: u32 = 64 * 1024;

/// The table that peers may use to compress what they send us: the default of RFC 9113.
pub const HEADER_TABLE_OCTETS: u32 = 4096;

/// Octets that one connection's frames may wait in our send buffer.
pub const SEND_BUFFER_OCTETS: usize = 1024 * 1024;

/// The crate charges 256 octets for each small DATA frame that waits, and closes the connection
/// when this is used up. gRPC messages are small: allow 64 of them on each of 1024 streams.
pub const SMALL_FRAME_BUDGET_OCTETS: usize = 1024 * 64 * 256;

/// Streams reset by us whose late frames are still ignored quietly.
pub const REMEMBERED_RESETS: usize = 1024;

/// Streams a client may reset before we have looked at them (CVE-2023-44487). A client that
/// cancels a whole batch at once is legitimate; the next batch finds these gone again.
pub const PENDING_RESETS: usize = 256;

/// From the matched preface to the client's SETTINGS. Of the `h2` engine, whose library does not wait
/// for them, only to the end of the preface.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream connection without a stream for this long is closed. Shorter than what servers,
/// conntrack (24 h) and balancers allow, longer than bursts are apart.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// Upstream connections of one worker from which on [`UPSTREAM_IDLE_IN_A_CROWD`] counts. Where
/// endpoints see the client there may be one for each pair of pod and endpoint: 100 pods that talk
/// to 1000 endpoints would keep 100,000 for a minute. An idle one takes a descriptor and some 10
/// KiB, the kernel's share included, so that these keep 20 MiB at most. Fewer where descriptors are
/// few.
pub const UPSTREAM_CROWD: usize = 2048;

/// In a crowd, a connection without a stream for this long is closed: what is in use is as much as
/// before, and what is kept for later is what the last second used.
pub const UPSTREAM_IDLE_IN_A_CROWD: Duration = Duration::from_secs(1);

/// How long one of `count` upstream connections of a worker may be without a stream, where more
/// than `crowd` are a crowd.
pub(super) fn upstream_idle(count: usize, crowd: usize) -> Duration {
    if count <= crowd { UPSTREAM_IDLE } else { UPSTREAM_IDLE_IN_A_CROWD }
}

/// The settings of a downstream connection.
pub(super) fn downstream() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(DOWNSTREAM_STREAMS)
        .initial_window_size(STREAM_WINDOW_OCTETS)
        .initial_connection_window_size(CONNECTION_WINDOW_OCTETS)
        .max_header_list_size(HEADER_LIST_OCTETS)
        .max_send_buffer_size(SEND_BUFFER_OCTETS)
        .data_frame_budget(SMALL_FRAME_BUDGET_OCTETS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS);
    builder
}

/// The settings of an upstream connection.
pub(super) fn upstream() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(UNKNOWN)
        .initial_window_size(STREAM_WINDOW_OCTETS)
        .initial_connection_window_size(CONNECTION_WINDOW_OCTETS)
        .max_header_list_size(HEADER_LIST_OCTETS)
        .max_send_buffer_size(SEND_BUFFER_OCTETS)
        .data_frame_budget(SMALL_FRAME_BUDGET_OCTETS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS);
    builder
}
