#![forbid(unsafe_code)]
//! Which endpoint takes the next connection or stream.
//!
//! What comes in: [`Snapshot`](streamvs_table::Snapshot)s, the time, randomness, and requests.
//! What goes out: a [`Plan`] for each snapshot, and from its [`VirtualServer`]s a [`Choice`] for
//! each request, which counts on its [`Target`] until it is dropped. Never here: sockets, clocks,
//! logs, tasks, Kubernetes types. One thread makes plans; all workers pick from them, through
//! atomics, and under sessionAffinity through a short lock. What they tell of endpoints' faults and
//! answers decides who is passed over ([`EjectionPolicy`]).
//!
//! # What a scheduler owes
//!
//! - It picks among the candidates: usable endpoints of a weight above 0 that are not in
//!   [`Request::tried`]; ejected ones only where there is no other. If there is one it picks one; it
//!   never refuses for load.
//! - A pick is O(1) or looks at 64 endpoints at most, and allocates nothing. For a unit that failed
//!   before it may look at all.
//! - Its state belongs to the virtual server, not to a worker or a connection: 100 connections of
//!   one stream each are spread as one connection of 100.
//! - Load is what [`Target::outstanding`] says, streams and TCP connections alike; it goes on when
//!   the scheduler changes.
//!
//! # The names, and what each means here
//!
//! | name | picks | against IPVS |
//! | --- | --- | --- |
//! | `rr` | by turns; any N picks in a row over k endpoints differ by at most 1 | starts at a random place, in an order of the node's own |
//! | `wrr` | by turns in proportion to the weights, evenly spread | the kernel gives a heavy server its extra turns in a row |
//! | `random` | by chance, weighted | not an IPVS name; kube-proxy's iptables and nftables modes |
//! | `lc` | least outstanding | ties by chance; the kernel takes the first, and weighs idle sockets |
//! | `wlc` | least outstanding for its weight | as `lc` |
//! | `sed` | least (outstanding + 1) for its weight | as `lc` |
//! | `nq` | an idle one by chance, else as `sed` | the kernel takes the first idle one |
//! | `twos` | the less loaded of two drawn by weight | the two are never the same one |
//! | `sh` | by a hash of the client address | no 256-entry table; goes on to others after a failure |
//! | `mh` | by Maglev hash of the client address, alike on all nodes | table sized by endpoints |
//! | `fo` | highest weight, the next one only after a failure | nodes agree on the first |
//! | `ovf` | highest weight that has less outstanding than its weight, else as `wlc` | the kernel refuses when all are full |
//! | `dh`, `lblc`, `lblcr` | as `rr` | degenerate: a Service has one destination address |
//!
//! With kube-proxy's weights, which are all 1, `wrr` is `rr`, `wlc` and `sed` are `lc`, and `ovf`
//! gives every endpoint a first unit before any gets a second.
//!
//! # Weight 0
//!
//! Takes nothing new, as in IPVS: not a pick, not the return of a client under sessionAffinity,
//! not a second try. But when all usable endpoints have weight 0, all are used as if they had
//! weight 1, where IPVS refuses: in Kubernetes whether a Service has endpoints is not a matter of
//! weights, the kernel captures its traffic all the same, and refusing would turn a slip of an
//! annotation into an outage. It is the rule of the terminating fallback (KEP-1669): rather the
//! last resort than nobody.

mod affinity;
mod choice;
mod ejection;
mod hash;
mod histogram;
mod least;
mod maglev;
mod name;
mod notice;
mod overflow;
mod plan;
mod replay_budget;
mod round_robin;
mod scheduler;
mod sequence;
mod shares;
mod slow_start;
mod source_hash;
mod stats;
mod target;
#[cfg(test)]
mod testing;
mod two_choices;
mod virtual_server;

pub use choice::{Choice, Request, Unit};
pub use ejection::{Ejected, EjectionChange, EjectionEvent, EjectionPolicy, Fault, OnEjection};
pub use histogram::{Histogram, HistogramSnapshot};
pub use name::{SchedulerName, UnknownScheduler};
pub use notice::Notice;
pub use plan::Plan;
pub use stats::{
    ConnectFailure, ConnectionLimit, Counter, Gauge, ReplayReason, ServiceStats, StreamLimit,
    TargetStats, Verdict,
};
pub use target::Target;
pub use virtual_server::VirtualServer;
