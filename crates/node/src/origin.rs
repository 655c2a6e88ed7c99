//! Whether a client is a pod or a process of this node, or somebody outside.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use rustc_hash::FxHashSet;
use streamvs_accept::ClientOrigin;
use streamvs_balance::Plan;
use streamvs_table::publish::Reader;
use streamvs_table::{NodeFacts, Origin};

/// How old what is known of the node's interfaces may be. They are asked for only where a client
/// that is no pod connects from outside of the Local policy's reach, so this bounds the cost: one
/// list of addresses a second for each worker.
const FRESH: Duration = Duration::from_secs(1);

/// Where pods are: what the operator says, else the ranges of this node's own pods.
pub(crate) fn pod_ranges<'a>(configured: &'a [IpNet], node: &'a NodeFacts) -> &'a [IpNet] {
    if configured.is_empty() { &node.pod_cidrs } else { configured }
}

/// A worker's view.
pub(crate) struct Origins {
    plan: RefCell<Reader<Plan>>,
    /// Of pods; empty: the Node object's.
    ranges: Vec<IpNet>,
    interfaces: RefCell<Interfaces>,
}

#[derive(Default)]
struct Interfaces {
    addresses: FxHashSet<IpAddr>,
    read_at: Option<Instant>,
}

impl Origins {
    pub(crate) fn new(plan: Reader<Plan>, ranges: Vec<IpNet>) -> Self {
        Self { plan: RefCell::new(plan), ranges, interfaces: RefCell::default() }
    }

    fn is_pod(&self, client: IpAddr) -> bool {
        let mut plan = self.plan.borrow_mut();
        let node = plan.load().snapshot().node();
        pod_ranges(&self.ranges, node).iter().any(|range| range.contains(&client))
    }
}

impl ClientOrigin for Origins {
    fn of(&self, client: IpAddr) -> Origin {
        let is_inside = client.is_loopback()
            || self.is_pod(client)
            || self.interfaces.borrow_mut().have(client, Instant::now());
        if is_inside { Origin::Inside } else { Origin::Outside }
    }
}

impl Interfaces {
    fn have(&mut self, ip: IpAddr, now: Instant) -> bool {
        if self.read_at.is_none_or(|read_at| now.saturating_duration_since(read_at) >= FRESH) {
            self.read_at = Some(now);
            match getifaddrs() {
                Ok(listed) => self.addresses = listed.filter_map(address_of).collect(),
                Err(error) => tracing::warn!(%error, "cannot list the node's addresses"),
            }
        }
        self.addresses.contains(&ip)
    }
}

fn address_of(interface: nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    //! Aim: pods by their ranges, processes of the node by its interfaces, and nobody else.

    use std::sync::Arc;

    use streamvs_table::publish;

    use super::*;

    #[test]
    fn pods_and_this_node_are_inside_and_others_are_not() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let range = |text: &str| text.parse::<IpNet>().expect("a range");
        let (_publisher, plan) = publish::channel(Arc::new(Plan::empty()));
        let origins = Origins::new(plan, vec![range("192.0.2.0/24"), range("2001:db8::/64")]);
        for (client, expected) in [
            ("127.0.0.1", Origin::Inside),
            ("127.9.9.9", Origin::Inside),
            ("::1", Origin::Inside),
            ("192.0.2.7", Origin::Inside),
            ("2001:db8::7", Origin::Inside),
            ("198.51.100.7", Origin::Outside),
            ("2001:db8:1::7", Origin::Outside),
        ] {
            assert_eq!(origins.of(ip(client)), expected, "{client}");
        }
        let mut interfaces = Interfaces::default();
        assert!(interfaces.have(ip("127.0.0.1"), Instant::now()), "every node has lo");
    }

    #[test]
    fn what_the_operator_says_of_pods_replaces_what_the_node_does() {
        let node = NodeFacts {
            pod_cidrs: vec!["10.1.0.0/24".parse().expect("a range")],
            ..NodeFacts::default()
        };
        let configured = ["10.1.0.0/16".parse().expect("a range")];
        assert_eq!(pod_ranges(&[], &node), node.pod_cidrs);
        assert_eq!(pod_ranges(&configured, &node), configured);
    }
}
