//! Passive health: an endpoint that fails again and again is passed over for a time.
//!
//! ```text
//!                 consecutive faults reach the limit,
//!                 and half of the others stay in use
//!   in use, count 0 .. limit - 1  ------------------>  ejected for base * 2^k, at most the maximum
//!        ^        ^      |                                |
//!        |        |      | an answer: count 0             | the time is up, or too few are left:
//!        |        +------+                                | count 0, k goes up
//!        +------------------------------------------------+
//! ```
//!
//! What comes in: faults and answers of endpoints, from all workers, with their times. What goes
//! out: which endpoints a pick passes over. Never here: health checks of our own, and what a fault
//! is on the wire, which `relay` and `accept` know.
//!
//! Which way it errs: towards using an endpoint. Never more than half of those that take new
//! units under a policy are ejected at once, so never the last one; a pick for which only ejected
//! ones are left takes one of them; and a Service whose endpoints all fail goes on as if nobody
//! looked.
//!
//! After Envoy's outlier detection (`consecutive_gateway_failure` and
//! `consecutive_local_origin_failure` in one, `base_ejection_time`, `max_ejection_time`), with the
//! time doubled where Envoy adds the base once more.

mod health;
mod roster;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use streamvs_table::ServicePortName;

pub(crate) use health::Health;
pub(crate) use roster::{List, Roster};

/// What speaks against an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A dial was refused, was not answered in time, or found no way there.
    DialFailed,
    /// A connection ended by the endpoint's doing before a byte of its reply, or again and again
    /// before anything could be asked on it.
    LostBeforeReply,
    /// gRPC status UNAVAILABLE in place of a reply (trailers-only).
    Unavailable,
}

impl Fault {
    /// All, in the order of [`Fault::index`].
    pub const ALL: [Self; 3] = [Self::DialFailed, Self::LostBeforeReply, Self::Unavailable];

    /// Its place in [`TargetStats::faults`](crate::TargetStats::faults).
    pub fn index(self) -> usize {
        self as usize
    }

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DialFailed => "dial_failed",
            Self::LostBeforeReply => "lost_before_reply",
            Self::Unavailable => "grpc_unavailable",
        }
    }
}

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectionPolicy {
    /// So many faults without an answer between them eject. At least 1.
    pub consecutive_faults: u32,
    /// How long the first time. Each next time it is twice as long.
    pub base_time: Duration,
    /// The longest. An endpoint that was in use for as long before it failed again begins anew
    /// with the base.
    pub max_time: Duration,
}

impl Default for EjectionPolicy {
    /// Envoy's numbers.
    fn default() -> Self {
        Self {
            consecutive_faults: 5,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
        }
    }
}

/// What has happened to an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct EjectionEvent<'a> {
    /// The ServicePort for which it happened. The same address may serve others.
    pub service: &'a ServicePortName,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// What.
    pub change: EjectionChange,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionChange {
    /// It gets nothing new.
    Ejected {
        /// For how long.
        time: Duration,
        /// The last of the faults.
        fault: Fault,
    },
    /// The time is up: it is used again.
    Returned,
    /// It is used again before the time is up, since others have left.
    Recalled,
}

/// Told of each ejection and each return, by any worker, which holds a lock of the ServicePort's
/// meanwhile. Must not block.
pub type OnEjection = Arc<dyn Fn(EjectionEvent<'_>) + Send + Sync>;

/// How all virtual servers of a plan eject.
#[derive(Clone)]
pub(crate) struct Ejecting {
    pub(crate) policy: EjectionPolicy,
    pub(crate) tell: OnEjection,
}

impl fmt::Debug for Ejecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejecting").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// How long, in whole nanoseconds. What does not fit is for ever.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An endpoint's ejection at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// How long it lasts yet.
    pub remaining: Duration,
    /// The last fault before it.
    pub fault: Fault,
}
