//! One machine of a lab: a pod, a node or a host outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use super::Netns;
use crate::Family;

/// A machine of a lab: a namespace with one address of each family. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    netns: Netns,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    interface: String,
}

impl Host {
    pub(super) fn new(
        name: &str,
        netns: Netns,
        ipv4: Ipv4Addr,
        ipv6: Ipv6Addr,
        interface: String,
    ) -> Self {
        Self { name: name.to_owned(), netns, ipv4, ipv6, interface }
    }

    /// The name inside the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its address of a family.
    pub fn ip(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4.into(),
            Family::V6 => self.ipv6.into(),
        }
    }

    /// Its address of a family with a port.
    pub fn at(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// Octets its interface has received so far.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn received_bytes(&self) -> u64 {
        let path = "/proc/thread-self/net/dev";
        let table =
            self.netns.run(|| std::fs::read_to_string(path).expect("the kernel's counters"));
        table
            .lines()
            .filter_map(|line| line.trim().split_once(':'))
            .find(|(name, _)| *name == self.interface)
            .and_then(|(_, counters)| counters.split_whitespace().next()?.parse().ok())
            .expect("the interface has a line with its counters")
    }
}

impl Deref for Host {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.netns
    }
}
