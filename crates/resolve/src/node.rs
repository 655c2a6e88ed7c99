//! What is needed of this node's own object.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use streamvs_table::{Family, NodeFacts};

use crate::service::is_unicast;

/// Reads the Node. What is no address or range is passed over: the kubelet and the control plane
/// write these fields, and no person.
pub(crate) fn read(node: &Node) -> NodeFacts {
    NodeFacts { addresses: addresses(node), pod_cidrs: pod_cidrs(node) }
}

fn addresses(node: &Node) -> Vec<IpAddr> {
    let of_type = |type_: &str| {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for written in status.filter(|address| address.type_ == type_) {
            let Ok(ip) = written.address.parse::<IpAddr>().map(|ip| ip.to_canonical()) else {
                continue;
            };
            let is_first = addresses.iter().all(|known| Family::of(*known) != Family::of(ip));
            if is_first && is_unicast(ip) {
                addresses.push(ip);
            }
        }
        addresses
    };
    let internal = of_type("InternalIP");
    if internal.is_empty() { of_type("ExternalIP") } else { internal }
}

fn pod_cidrs(node: &Node) -> Vec<ipnet::IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = spec.pod_cidrs.as_deref().unwrap_or_default();
    let single = spec.pod_cidr.as_slice();
    let written = if listed.is_empty() { single } else { listed };
    written.iter().filter_map(|range| range.parse().ok()).collect()
}
