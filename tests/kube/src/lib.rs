//! A real kube-apiserver with a real etcd, and the program `streamvs` against it.
//!
//! [`Cluster`] is the control plane, on a host of a lab; there is no controller and no kubelet, so
//! tests write EndpointSlices and Nodes themselves, as they do with files. The programs come from
//! [`programs`]; `scripts/kube-assets` sees to them.
//!
//! Each file of tests is a promise to an operator:
//!
//! - `access`: by whatever way the API server is to be reached, and never through ourselves.
//! - `watch`: what the API server is told becomes the table.
//! - `flow`: what is applied is served.
//! - `semantics`: by the rules of Kubernetes, which `explain` names.
//! - `labelled`: if it is asked to be, only what is labelled.
//! - `outside`: and by node port, load balancer and externalIP too.
//! - `updates`: what changes is live at once, and costs nothing.
//! - `live`: also what changes on Services and the Node themselves.
//! - `outage`: nor does the API server's absence.
//! - `fallbacks`: an older server is asked otherwise, for the same.
//! - `face`: what reads kube-proxy's pages reads ours.
//! - `schedulers`: by flag and by annotation.
//! - `matrix`: each client gets what kube-proxy gives, but for what is listed.
//! - `health`: what probes and load balancers are told of the node.
//! - `events`: a node's agent tells the API server of itself.
//! - `rbac`: no right too many, none too few.
//! - `manifests`: what `deploy/` installs is accepted.

pub mod api;
pub mod cluster;
pub mod programs;

pub use api::Api;
pub use cluster::Cluster;

#[cfg(test)]
mod access;
#[cfg(test)]
mod events;
#[cfg(test)]
mod face;
#[cfg(test)]
mod fallbacks;
#[cfg(test)]
mod flow;
#[cfg(test)]
mod health;
#[cfg(test)]
mod labelled;
#[cfg(test)]
mod live;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod outside;
#[cfg(test)]
mod rbac;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod schedulers;
#[cfg(test)]
mod semantics;
#[cfg(test)]
mod updates;
#[cfg(test)]
mod watch;
