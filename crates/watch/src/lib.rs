//! Where the objects come from: watches a source and turns each change into a published table.
//!
//! What comes in: Service, EndpointSlice and Node objects, from the API server ([`kubernetes()`])
//! or out of files ([`manifests()`]). What goes out: a [`Snapshot`](streamvs_table::Snapshot) after
//! each visible change, what else the agent should know of its node, and the log.
//! Never here: what the objects mean, which is `resolve`'s business, and traffic.
//!
//! A source owns its `Resolver`; there is one writer. Nothing is published before everything that
//! is there was read once. It errs towards staying: what cannot be read leaves in force what was
//! read before.

mod error;
mod kubernetes;
mod manifests;
mod notices;
mod state;

pub use error::Error;
pub use kubernetes::{
    Access, AccessError, Kind, KubernetesConfig, NodeEvent, NodeStatus, Origin, Update, kubernetes,
    report, report_service_health,
};
pub use manifests::{ManifestsConfig, manifests};
pub use state::SaveError;
