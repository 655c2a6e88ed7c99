//! Addresses that are no Service's, and count.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use streamvs_table::Family;

use crate::layout::{KEPT, NODE, PODS};

/// Where node ports are served, and where clients are inside. No range of either overlaps another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Addresses of the node at which node ports are served, unless they are loopback: the kernel
    /// sends nothing from there to another host.
    pub node: BTreeSet<IpNet>,
    /// Where pods are.
    pub pods: BTreeSet<IpNet>,
}

/// What each of our table's sets of ranges holds, or shall hold.
pub(crate) type RangeSets = BTreeMap<&'static str, BTreeSet<IpNet>>;

impl Ranges {
    /// As the sets of a family hold them.
    pub(crate) fn sets(&self, family: Family) -> RangeSets {
        let only = |ranges: &BTreeSet<IpNet>| -> BTreeSet<IpNet> {
            let of_family = ranges.iter().filter(|range| Family::of(range.addr()) == family);
            of_family.copied().collect()
        };
        let pods = only(&self.pods);
        // Nobody is masqueraded for being no pod where nobody knows where pods are.
        let kept = if pods.is_empty() { [everywhere(family)].into() } else { pods.clone() };
        [(NODE, only(&self.node)), (PODS, pods), (KEPT, kept)].into()
    }

    /// Node ports are served at the address, if it is the node's.
    pub(crate) fn serve_at(&self, ip: IpAddr) -> bool {
        !ip.is_loopback() && self.node.iter().any(|range| range.contains(&ip))
    }
}

fn everywhere(family: Family) -> IpNet {
    match family {
        Family::V4 => Ipv4Net::default().into(),
        Family::V6 => Ipv6Net::default().into(),
    }
}
