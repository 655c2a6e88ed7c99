//! What the Node object says of this node, as far as traffic depends on it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Facts of this node. Empty while its Node object is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// `status.addresses`: the first InternalIP of each family, or the first ExternalIP where
    /// there is no InternalIP at all; the primary family first. What kube-proxy calls the node's
    /// primary addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`: where the addresses of this node's pods are from.
    pub pod_cidrs: Vec<IpNet>,
}
