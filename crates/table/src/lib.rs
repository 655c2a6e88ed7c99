//! The vocabulary both paths share, and the snapshot in which they meet.
//!
//! Knowledge (`watch -> resolve`) builds a [`Snapshot`]; traffic (`accept -> balance`) reads it.
//! A snapshot is immutable: a change of the cluster makes a new one with a higher generation, and
//! one atomic swap ([`publish`]) shows all of it at once. Readers never lock and never see half
//! of a change.
//!
//! What comes in: facts decided by `resolve` (which endpoints of a Service this node may use).
//! What goes out: lookups by (address, port, protocol). Never here: sockets, clocks, logs,
//! Kubernetes types, choices between endpoints.

mod alias;
mod claims;
mod endpoint;
mod name;
mod node;
pub mod publish;
mod reasons;
mod service;
mod snapshot;
mod traffic;

pub use alias::{Alias, Aliases};
pub use endpoint::{Endpoint, Usability};
/// The persistent map of [`Snapshot::unserved`].
pub use imbl::OrdMap;
pub use name::{Family, Protocol, ServiceName, ServicePortName};
pub use node::NodeFacts;
pub use reasons::{HintSource, Reasons, TopologyOutcome, Unserved};
pub use service::{Disposition, MaxAge, PerFamily, ProtocolHint, ServicePort};
pub use snapshot::{Conflict, ServiceChange, Snapshot};
pub use traffic::{AddressKind, Origin, PerPolicy, TrafficPolicy};
