//! Service, EndpointSlice and Node objects in, the table of this node out.
//!
//! What comes in: changes of single objects ([`Change`]), in any order and as often as anyone
//! likes. What goes out: a [`Snapshot`](streamvs_table::Snapshot) after each batch that changed
//! something visible, and [`Notice`]s for the log. Never here: a client, a clock, a log, a task.
//! The answer depends on the set of objects only, not on the order in which they came.
//!
//! The rules, and where they come from:
//!
//! | rule | module | source |
//! | --- | --- | --- |
//! | which Services count, and their ports | `service` | kube-proxy's ShouldSkipService, KEP-2447 (service-proxy-name), KEP-563 (dual stack) |
//! | load balancer addresses, externalIPs, node ports | `external` | KEP-1860 (ipMode), KEP-5707 and CVE-2020-8554 (externalIPs) |
//! | what a port's protocol is said to be | `app_protocol` | KEP-3726 |
//! | joining the slices of a Service | `slices` | KEP-752, kube-proxy's EndpointSliceCache |
//! | ready, serving, terminating | `conditions`, `usability` | KEP-1669, KEP-1672 |
//! | hints to nodes and zones | `topology` | KEP-2433, KEP-4444, KEP-3015 |
//! | the two traffic policies, reject or drop | `usability` | KEP-2086, kube-proxy's CategorizeEndpoints |
//! | this node's zone, addresses and pod ranges | `node` | kube-proxy's GetNodeHostIPs |
//!
//! It errs towards kube-proxy: what kube-proxy skips is skipped, with a notice where a person
//! would otherwise wonder. No object can make it panic, and no part of an object that is wrong
//! takes away the parts that are right.

mod app_protocol;
mod build;
mod changes;
mod conditions;
mod duration;
mod external;
mod names;
mod node;
mod notice;
mod resolver;
mod service;
mod slices;
mod topology;
mod usability;

pub use changes::{Changes, Trigger};
pub use duration::go_duration;
pub use notice::{AddressFault, ClusterIpFault, Notice, ObjectName, PortFault};
pub use resolver::{Change, Config, Resolver};
pub use service::LEAST_AGE;
pub use slices::SliceName;
