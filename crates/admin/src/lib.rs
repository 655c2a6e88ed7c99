//! What the agent shows of itself: `/healthz` and `/livez` for load balancers and the kubelet,
//! `/metrics` for Prometheus, and the table with its load and
//! its reasons for `streamvs list`, `streamvs top` and `streamvs explain`.
//!
//! Comes in: the published [`Plan`], whose statistics the traffic path counts in atomics, a
//! [`Health`] and [`NodeMetrics`] which the node keeps. Goes out: HTTP answers. Nothing here
//! changes what the agent does, and nothing here is on the traffic path: a scrape reads.
//!
//! ```text
//!            0.0.0.0:10256   /healthz /livez                          kube-proxy's contract
//!  Server -- 127.0.0.1:10249 /metrics /metrics/slis /proxyMode /healthz /livez ...
//!            spec.healthCheckNodePort of a Service                    its endpoints on this node
//!            admin.sock      /services /explain /metrics /healthz /livez /handover   root only
//! ```

mod client;
mod error;
pub mod explain;
pub mod handover;
pub mod health;
pub mod list;
pub mod metrics;
mod pages;
mod routes;
mod server;
pub mod service_health;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use streamvs_balance::Plan;
use streamvs_table::publish::Reader;

pub use client::metrics_page;
pub use error::Error;
pub use health::{Health, Moment, NodeState, TableSource};
pub use metrics::{NodeMetrics, Refusal, Sync, anonymous_bytes};
pub use pages::Pages;
pub use server::{Addresses, Bound, Closing, Doors, Server};

/// What is shown.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The table in use, with all statistics of traffic.
    pub plan: Reader<Plan>,
    /// Freshness and eligibility.
    pub health: Arc<Health>,
    /// What belongs to no ServicePort.
    pub metrics: Arc<NodeMetrics>,
    /// What the agent was told to do.
    pub pages: Reader<Pages>,
    /// Who takes successors; none where nothing is handed over.
    pub handover: Option<handover::HandoverDoor>,
}
