//! ServicePorts and tables for tests.

use std::sync::Arc;
use std::time::Duration;

use streamvs_table::{
    Disposition, Endpoint, Family, PerFamily, PerPolicy, Protocol, ProtocolHint, ServiceName,
    ServicePort, ServicePortName, Snapshot, TrafficPolicy, Usability,
};

use crate::change::{self, Shared};
use crate::contents::{Common, Contents};
use crate::order::Order;
use crate::ranges::Ranges;
use crate::script::Script;

/// A ServicePort with ready endpoints on another node; rejected where it has none of a family.
pub(crate) fn port(
    name: &str,
    protocol: Protocol,
    addresses: &[&str],
    number: u16,
    endpoints: &[&str],
) -> ServicePort {
    let mut endpoints: Vec<Endpoint> = endpoints.iter().map(|address| endpoint(address)).collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let disposition = PerFamily::from_fn(|family| {
        let mut addresses = endpoints.iter().map(|endpoint| endpoint.address.ip());
        if addresses.any(|ip| Family::of(ip) == family) {
            Disposition::Balance
        } else {
            Disposition::Reject
        }
    });
    ServicePort {
        name: ServicePortName {
            service: ServiceName::new("shop", name),
            port: "".into(),
            protocol,
        },
        port: number,
        node_port: None,
        cluster_ips: addresses.iter().map(|ip| ip.parse().expect("an address")).collect(),
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        max_age: Default::default(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        endpoints,
        disposition: PerPolicy { cluster: disposition, local: PerFamily::default() },
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        external_policy: TrafficPolicy::Cluster,
        reasons: Default::default(),
    }
}

/// A UDP ServicePort with a load balancer's address and a node port.
pub(crate) fn balancer(name: &str, endpoints: &[&str]) -> ServicePort {
    ServicePort {
        load_balancer_ips: vec!["203.0.113.7".parse().expect("an address")],
        node_port: Some(30_053),
        ..port(name, Protocol::Udp, &["10.96.0.10"], 53, endpoints)
    }
}

/// The same with sessionAffinity.
pub(crate) fn sticky(port: ServicePort, seconds: u64) -> ServicePort {
    ServicePort { affinity: Some(Duration::from_secs(seconds)), ..port }
}

pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().expect("an address with a port"),
        node: Some("elsewhere".into()),
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        weight: 1,
        usability: PerPolicy { cluster: Usability::Ready, local: Usability::NotLocal },
    }
}

pub(crate) fn snapshot(ports: Vec<ServicePort>) -> Snapshot {
    Snapshot::new(1, ports.into_iter().map(Arc::new).collect()).0
}

pub(crate) fn contents(snapshot: &Snapshot, family: Family) -> Contents {
    Contents::of(snapshot, Common { family, order: Order::Rotation, masquerade_all: false })
}

/// Any mark bit.
pub(crate) const MARK: u32 = 0x4000;

/// Where the tests' node and its pods are.
pub(crate) fn ranges() -> Ranges {
    let range = |text: &str| [text.parse().expect("a range")].into();
    Ranges { node: range("192.0.2.1/32"), pods: range("10.244.0.0/16") }
}

/// The script that makes a table with these contents, from nothing.
pub(crate) fn whole(family: Family, contents: &Contents) -> (String, Shared) {
    let (mut script, mut shared) = (Script::new(), Shared::default());
    change::renew(&mut script, family, MARK, false);
    change::ranges(&mut script, family, &Default::default(), &ranges().sets(family));
    change::contents(&mut script, family, &Contents::default(), contents, &mut shared);
    change::hairpins(&mut script, family, &Default::default(), &contents.hairpins);
    (script.text().to_owned(), shared)
}
