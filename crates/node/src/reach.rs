//! From where, and at which addresses of the node, Services are reached.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use streamvs_table::{NodeFacts, Snapshot};

use crate::cli::NodePortAddresses;
use crate::origin::pod_ranges;

/// What the operator says of both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// `--nodeport-addresses`.
    pub(crate) node_ports: Vec<NodePortAddresses>,
    /// `--cluster-cidr`, else `--pod-cidrs`; empty: the ranges the Node has.
    pub(crate) pods: Vec<IpNet>,
    /// The lack of an address was told.
    pub(crate) told: Cell<bool>,
}

impl Reach {
    /// The node's addresses at which node ports are served. None overlaps another.
    pub(crate) fn node_ranges(&self, node: &NodeFacts) -> BTreeSet<IpNet> {
        let ranges = self.node_ports.iter().flat_map(|addresses| match addresses {
            NodePortAddresses::Primary => {
                node.addresses.iter().map(|ip| IpNet::from(*ip)).collect()
            }
            NodePortAddresses::Localhost => vec![
                Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
                Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
            ],
            NodePortAddresses::All => {
                vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
            }
            NodePortAddresses::Range(range) => vec![*range],
        });
        apart(ranges.collect())
    }

    /// Where health check node ports are served: an unspecified address stands for all of its
    /// family. Empty where none is known, which kube-proxy takes for all.
    pub(crate) fn health_addresses(&self, node: &NodeFacts) -> BTreeSet<IpAddr> {
        let ranges = self.node_ranges(node);
        let is_told = ranges.iter().all(is_bound_as_it_is);
        let there = if is_told { BTreeSet::new() } else { addresses_of_node() };
        addresses_in(&ranges, &there)
    }

    /// Says once, in the log, that there are node ports and no address to serve them at.
    pub(crate) fn tell_of_no_address(&self, snapshot: &Snapshot) {
        let is_primary = self.node_ports.contains(&NodePortAddresses::Primary);
        if !is_primary || self.told.get() || !snapshot.node().addresses.is_empty() {
            return;
        }
        if snapshot.services().any(|service| service.node_port.is_some()) {
            self.told.set(true);
            tracing::warn!("no address of this Node is known; node ports are not served at it");
        }
    }

    /// Where pods are. No range overlaps another.
    pub(crate) fn pod_ranges(&self, node: &NodeFacts) -> BTreeSet<IpNet> {
        apart(pod_ranges(&self.pods, node).to_vec())
    }
}

/// The addresses to bind for ranges, of which `there` are the node's.
fn addresses_in(ranges: &BTreeSet<IpNet>, there: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let places = ranges.iter().flat_map(|range| {
        if is_bound_as_it_is(range) {
            return vec![range.addr()];
        }
        there.iter().copied().filter(|ip| range.contains(ip)).collect()
    });
    places.collect()
}

/// It is one address, or all of its family.
fn is_bound_as_it_is(range: &IpNet) -> bool {
    range.prefix_len() == 0 || range.prefix_len() == range.max_prefix_len()
}

/// What the kernel says of this node's interfaces; nothing where it says nothing.
pub(crate) fn addresses_of_node() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    addresses.collect()
}

/// The kernel's sets refuse ranges that overlap.
fn apart(ranges: Vec<IpNet>) -> BTreeSet<IpNet> {
    IpNet::aggregate(&ranges).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_checks_are_answered_at_the_nodes_addresses_in_the_ranges() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let there = ["127.0.0.1", "192.0.2.1", "192.0.2.9", "::1", "2001:db8::1"].map(ip).into();
        for (ranges, expected) in [
            ("0.0.0.0/0 ::/0", "0.0.0.0 ::"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.0/29 2001:db8::/64", "192.0.2.1 2001:db8::1"),
            ("127.0.0.0/8 ::1/128", "127.0.0.1 ::1"),
            ("198.51.100.0/24", ""),
        ] {
            let ranges = ranges.split(' ').map(|range| range.parse().expect("a range"));
            let found = addresses_in(&ranges.collect(), &there);
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected);
        }
    }

    #[test]
    fn keywords_and_ranges_come_out_as_ranges_that_do_not_overlap() {
        use NodePortAddresses::{All, Localhost, Primary, Range};
        let node = NodeFacts {
            addresses: vec!["192.0.2.1".parse().expect("an address")],
            ..NodeFacts::default()
        };
        let range = |text: &str| Range(text.parse().expect("a range"));
        for (node_ports, expected) in [
            (vec![Primary], "192.0.2.1/32"),
            (vec![Localhost], "127.0.0.0/8 ::1/128"),
            (vec![Primary, Localhost], "127.0.0.0/8 192.0.2.1/32 ::1/128"),
            (vec![All, Primary, Localhost], "0.0.0.0/0 ::/0"),
            (vec![Primary, range("192.0.2.0/24")], "192.0.2.0/24"),
            (vec![], ""),
        ] {
            let reach = Reach { node_ports, ..Reach::default() };
            let found: Vec<_> = reach.node_ranges(&node).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected);
        }
    }
}
