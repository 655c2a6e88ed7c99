//! Addresses that are no Service's, and count.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::Family;

/// Where node ports are served, and where clients are inside. No range of either overlaps another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Addresses of the node at which node ports are served, unless they are loopback: the kernel
    /// sends nothing from there to another host.
    pub node: BTreeSet<IpNet>,
    /// Where pods are.
    pub pods: BTreeSet<IpNet>,
}

impl Ranges {
    /// Those of a family.
    pub(crate) fn of(&self, family: Family) -> Self {
        let only = |ranges: &BTreeSet<IpNet>| {
            let of_family = ranges.iter().filter(|range| Family::of(range.addr()) == family);
            of_family.copied().collect()
        };
        Self { node: only(&self.node), pods: only(&self.pods) }
    }

    /// Node ports are served at the address, if it is the node's.
    pub(crate) fn serve_at(&self, ip: IpAddr) -> bool {
        !ip.is_loopback() && self.node.iter().any(|range| range.contains(&ip))
    }

    /// Every address is in some range of the node's, so that this says nothing of whose it is.
    pub(crate) fn are_all_of(&self, family: Family) -> bool {
        let all = |range: &IpNet| range.prefix_len() == 0 && Family::of(range.addr()) == family;
        self.node.iter().any(all)
    }
}
