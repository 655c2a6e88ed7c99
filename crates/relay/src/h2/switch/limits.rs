//! Every bound of the switch, with its reason. Windows, streams and header lists are bounded by
//! [`settings`](crate::h2::settings), which both engines share.

use std::time::Duration;

/// Octets that wait for a socket before DATA stays in its stream's queue. Twice what one turn of
/// reading brings, so that a sink as fast as its source never queues.
pub(super) const OUTPUT_OCTETS: usize = 512 * 1024;

/// Octets that wait for a socket before nothing more is read from it: a peer that does not read
/// its answers (to PING, SETTINGS, or its requests) does not get to make us keep more of them.
/// Above [`OUTPUT_OCTETS`] by what the frames of 1024 streams' ends take, so that a client whose
/// answers are merely many is still heard.
pub(super) const OUTPUT_PAUSE_OCTETS: usize = OUTPUT_OCTETS + 256 * 1024;

/// Octets of DATA from which on they stay in the chunk they were read into. A copy of fewer costs
/// less than another piece of a system call.
pub(super) const LOAN_OCTETS: usize = 4096;

/// The largest DATA frame we send: what everybody accepts.
pub(super) const DATA_OCTETS: usize = 16_384;

/// Octets of a header block as it is on the wire. A block that is longer than the list it may
/// stand for is refused before it is decoded.
pub(super) const BLOCK_OCTETS: usize = 64 * 1024;

/// Frames one header block may be cut into (CVE-2024-27316). Four full ones hold
/// [`BLOCK_OCTETS`].
pub(super) const CONTINUATION_COUNT: u32 = 16;

/// How long a header block may take from its first frame to its last, and a frame that is kept until
/// it is whole from its first octet to its last.
pub(super) const BLOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that one side has reset and whose late frames are ignored.
pub(super) const REMEMBERED_RESETS: usize = 1024;

/// Returned credit of a connection waits until it is this much: a quarter of the window, so that
/// the sender never runs dry and updates stay rare.
pub(super) const CONNECTION_UPDATE_OCTETS: u32 = crate::h2::settings::CONNECTION_WINDOW_OCTETS / 4;

/// Connections that may turn out to be gone before a stream was written, until the endpoint counts
/// as failed for that stream.
pub(super) const OPEN_ATTEMPTS: u8 = 3;

/// Octets of a request body kept for another endpoint. Calls whose body is larger when the
/// endpoint refuses them are not sent again.
pub(super) const REPLAY_OCTETS: usize = 64 * 1024;

/// Buffers kept for the next connection that needs one: what all busy connections of a worker use
/// at once.
pub(super) const SPARE_COUNT: usize = 256;

/// Octets of all buffers that are kept.
pub(super) const SPARE_TOTAL_OCTETS: usize = 16 * 1024 * 1024;

/// The largest buffer that is kept: room for what one turn of reading brings, with the heads of
/// its frames, so that bulk neither grows a buffer nor copies it.
pub(super) const SPARE_OCTETS: usize = 320 * 1024;

/// How long a client may take to answer the PING between the two GOAWAYs.
pub(super) const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// An endpoint that has sent nothing for this long while streams are open is asked by PING. gRPC
/// servers punish more than one in five minutes (gRPC keepalive, "too_many_pings").
pub(super) const KEEPALIVE_AFTER: Duration = Duration::from_secs(300);

/// How long it may take to answer.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
