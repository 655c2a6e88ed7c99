//! Every bound of this crate, with its reason.

use std::time::Duration;

/// Connections that wait to be accepted. The kernel lowers it to `net.core.somaxconn` (4096 by
/// default), which one worker empties in well under a second.
pub(crate) const BACKLOG: u32 = 4096;

/// How long accepting pauses when the process is out of descriptors or memory: long enough not to
/// spin, short enough to be one retransmission late at worst.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Octets read at once while the protocol is unknown. A preface is 24, a greeting rarely 100.
pub(crate) const FIRST_READ_OCTETS: usize = 16 * 1024;

/// How long a client may take over the preface from its first octet on. Then it is no HTTP/2: its
/// octets go to the endpoint as any others, whose own patience counts from there.
pub(crate) const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where HTTP/2 is announced, or all that came so far was HTTP/2, an endpoint is dialled for a
/// silent client only after this long: clients with prior knowledge speak at once, and their
/// streams rarely need the socket. It delays nothing but server-first protocols on such a port.
pub(crate) const EXPECTED_PREFACE: Duration = Duration::from_millis(20);

/// How often idle upstream connections are looked for.
pub(crate) const REAP_INTERVAL: Duration = Duration::from_secs(5);
