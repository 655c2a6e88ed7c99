//! A real kube-apiserver with a real etcd, and the program `streamvs` against it.
//!
//! [`Cluster`] is the control plane, on a host of a lab; there is no controller and no kubelet, so
//! tests write EndpointSlices and Nodes themselves, as they do with files. The programs come from
//! [`programs`]; `scripts/kube-assets` sees to them.

pub mod api;
pub mod cluster;
pub mod programs;

pub use api::Api;
pub use cluster::Cluster;

#[cfg(test)]
mod watch;
