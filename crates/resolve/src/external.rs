//! By what a Service can be reached from outside the cluster.
//!
//! | address | where it stands | used |
//! | --- | --- | --- |
//! | load balancer | `status.loadBalancer.ingress[].ip` | unless `ipMode` is Proxy (KEP-1860) |
//! | externalIP | `spec.externalIPs` | where the operator allows it (CVE-2020-8554, KEP-5707) |
//! | node port | `spec.ports[].nodePort` | always |
//!
//! Addresses of a family in which the Service has no ClusterIP are not used, as by kube-proxy.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use streamvs_table::{Family, PerFamily, ServiceName, TrafficPolicy};

use crate::notice::{AddressFault, Notice, excerpt};
use crate::service::{is_unicast, port_number};

/// The Service is reachable from outside by its type, or by externalIPs, allowed or not.
pub(crate) fn is_accessible(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort" | "LoadBalancer") => true,
        _ => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
    }
}

pub(crate) fn load_balancer_ips(
    name: &ServiceName,
    service: &Service,
    families: PerFamily<bool>,
    notices: &mut Vec<Notice>,
) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    // A load balancer of mode Proxy wants to see the traffic itself, and others have only a name.
    let written = ingress
        .iter()
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_deref())
        .filter(|ip| !ip.is_empty());
    addresses(name, "status.loadBalancer.ingress", written, families, |_| true, notices)
}

pub(crate) fn external_ips(
    name: &ServiceName,
    spec: &ServiceSpec,
    families: PerFamily<bool>,
    allowed: &[IpNet],
    notices: &mut Vec<Notice>,
) -> Vec<IpAddr> {
    let written = spec.external_ips.iter().flatten().map(String::as_str);
    let is_allowed = |ip: &IpAddr| allowed.iter().any(|range| range.contains(ip));
    addresses(name, "spec.externalIPs", written, families, is_allowed, notices)
}

/// Each address once, in the order written.
fn addresses<'a>(
    name: &ServiceName,
    field: &'static str,
    written: impl Iterator<Item = &'a str>,
    families: PerFamily<bool>,
    is_allowed: impl Fn(&IpAddr) -> bool,
    notices: &mut Vec<Notice>,
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    let mut skipped = 0;
    let mut first = None;
    for value in written {
        let fault = match value.trim().parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Err(_) => AddressFault::NotAnAddress,
            Ok(ip) if !is_unicast(ip) => AddressFault::NotUnicast,
            Ok(ip) if !is_allowed(&ip) => AddressFault::NotAllowed,
            Ok(ip) => {
                if *families.get(Family::of(ip)) && !addresses.contains(&ip) {
                    addresses.push(ip);
                }
                continue;
            }
        };
        skipped += 1;
        first.get_or_insert_with(|| (excerpt(value), fault));
    }
    if let Some((first, fault)) = first {
        let service = name.clone();
        notices.push(Notice::SkippedAddresses { service, field, count: skipped, first, fault });
    }
    addresses
}

/// The ranges, without what follows the prefix, each once. They may be written with blanks around
/// them.
pub(crate) fn source_ranges(
    name: &ServiceName,
    spec: &ServiceSpec,
    notices: &mut Vec<Notice>,
) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for value in spec.load_balancer_source_ranges.iter().flatten() {
        match value.trim().parse::<IpNet>().map(|range| range.trunc()) {
            Ok(range) if ranges.contains(&range) => {}
            Ok(range) => ranges.push(range),
            Err(_) => notices.push(Notice::UnknownValue {
                service: name.clone(),
                field: "spec.loadBalancerSourceRanges",
                value: excerpt(value),
                used: "the other ranges",
            }),
        }
    }
    ranges
}

/// Load balancers ask there whether this node has endpoints; only under the Local policy.
pub(crate) fn health_check_node_port(
    spec: &ServiceSpec,
    external_policy: TrafficPolicy,
) -> Option<u16> {
    let asked = spec.type_.as_deref() == Some("LoadBalancer");
    let port = spec.health_check_node_port.and_then(|port| port_number(port).ok())?;
    (asked && external_policy == TrafficPolicy::Local).then_some(port)
}
