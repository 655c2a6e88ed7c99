//! By which address an endpoint shall see a client that a proxy of ours connects for.
//!
//! A proxy dials from the node. For the endpoint to see the client, it dials from an *alias* of
//! the client's address, which is local to the node, and the kernel translates alias to client on
//! the way out and back on the way in. Aliases never leave the node, so every node may have the
//! same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::Family;

/// A range of clients, and the range of the same size that stands for it: the n-th address of one
/// is the alias of the n-th of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    clients: IpNet,
    aliases: IpNet,
}

impl Alias {
    /// Takes the first part of `reserve` that is as large as `clients`. None: the families differ,
    /// the reserve is smaller, or the two overlap.
    pub fn new(clients: IpNet, reserve: IpNet) -> Option<Self> {
        let (clients, reserve) = (clients.trunc(), reserve.trunc());
        let overlap = clients.contains(&reserve) || reserve.contains(&clients);
        let fits = reserve.prefix_len() <= clients.prefix_len();
        if Family::of(clients.addr()) != Family::of(reserve.addr()) || overlap || !fits {
            return None;
        }
        let aliases = IpNet::new(reserve.addr(), clients.prefix_len()).ok()?;
        Some(Self { clients, aliases })
    }

    /// The same with the first part of `reserve` that shares no address with those taken. None
    /// also where no such part is left.
    pub fn beside(clients: IpNet, reserve: IpNet, taken: &[Self]) -> Option<Self> {
        let first = Self::new(clients, reserve)?;
        let is_free = |part: &IpNet| {
            let shares =
                |other: &Self| other.aliases.contains(part) || part.contains(&other.aliases);
            !taken.iter().any(shares)
        };
        let aliases = reserve.trunc().subnets(first.aliases.prefix_len()).ok()?.find(is_free)?;
        Some(Self { aliases, ..first })
    }

    /// The family of both.
    pub fn family(&self) -> Family {
        Family::of(self.clients.addr())
    }

    /// Whose addresses they stand for.
    pub fn clients(&self) -> IpNet {
        self.clients
    }

    /// What stands for them.
    pub fn aliases(&self) -> IpNet {
        self.aliases
    }

    fn of(&self, client: IpAddr) -> Option<IpAddr> {
        if !self.clients.contains(&client) {
            return None;
        }
        match (client, self.aliases.addr(), self.clients.hostmask()) {
            (IpAddr::V4(client), IpAddr::V4(base), IpAddr::V4(mask)) => {
                let host = client.to_bits() & mask.to_bits();
                Some(Ipv4Addr::from_bits(base.to_bits() | host).into())
            }
            (IpAddr::V6(client), IpAddr::V6(base), IpAddr::V6(mask)) => {
                let host = client.to_bits() & mask.to_bits();
                Some(Ipv6Addr::from_bits(base.to_bits() | host).into())
            }
            _ => None,
        }
    }
}

/// The aliases in force: a few at most, one for each range of this node's pods. Empty: every
/// endpoint sees the node's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    aliases: Vec<Alias>,
    /// Of this node's pods.
    transparent: Vec<IpNet>,
}

impl Aliases {
    /// These, in any order; the first that fits a client counts.
    pub fn new(aliases: impl IntoIterator<Item = Alias>) -> Self {
        Self { aliases: aliases.into_iter().collect(), transparent: Vec::new() }
    }

    /// The same with ranges of this node's pods that may be dialled from any client's own address,
    /// since their answers to whomever come to the proxy if it asked.
    pub fn with_transparent(self, pods: impl IntoIterator<Item = IpNet>) -> Self {
        Self { transparent: pods.into_iter().collect(), ..self }
    }

    /// Without the aliases that do not stay.
    #[must_use]
    pub fn keeping(&self, stays: impl Fn(&Alias) -> bool) -> Self {
        let aliases = self.aliases.iter().filter(|alias| stays(alias)).copied().collect();
        Self { aliases, transparent: self.transparent.clone() }
    }

    /// The alias of a client. None: its endpoints see the node's address.
    pub fn of(&self, client: IpAddr) -> Option<IpAddr> {
        self.aliases.iter().find_map(|alias| alias.of(client))
    }

    /// Whether an endpoint may be dialled from a client's own address.
    pub fn is_transparent(&self, endpoint: IpAddr) -> bool {
        self.transparent.iter().any(|pods| pods.contains(&endpoint))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Alias> {
        self.aliases.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_nth_client_has_the_nth_alias_in_both_families() {
        let aliases = Aliases::new([
            Alias::new(net("192.0.2.0/24"), net("198.18.0.0/15")).expect("fits"),
            Alias::new(net("2001:db8:1::/64"), net("fd00::/49")).expect("fits"),
        ]);
        for (client, alias) in [
            ("192.0.2.7", Some("198.18.0.7")),
            ("192.0.2.255", Some("198.18.0.255")),
            ("192.0.3.7", None),
            ("2001:db8:1::a:7", Some("fd00::a:7")),
            ("2001:db8:2::7", None),
            ("127.0.0.1", None),
        ] {
            assert_eq!(aliases.of(ip(client)), alias.map(ip), "{client}");
        }
        assert_eq!(Aliases::default().of(ip("192.0.2.7")), None);
    }

    #[test]
    fn endpoints_outside_the_ranges_are_not_dialled_from_clients_addresses() {
        let aliases = Aliases::default().with_transparent([net("192.0.2.0/24"), net("fd00::/64")]);
        for (endpoint, expected) in
            [("192.0.2.7", true), ("192.0.3.7", false), ("fd00::7", true), ("fd01::7", false)]
        {
            assert_eq!(aliases.is_transparent(ip(endpoint)), expected, "{endpoint}");
        }
        assert!(!Aliases::default().is_transparent(ip("192.0.2.7")));
    }

    #[test]
    fn a_reserve_that_cannot_stand_for_the_clients_is_refused() {
        for (clients, reserve) in [
            ("192.0.0.0/8", "198.18.0.0/15"),
            ("192.0.2.0/24", "fd00::/49"),
            ("198.18.1.0/24", "198.18.0.0/15"),
            ("198.0.0.0/8", "198.18.0.0/15"),
        ] {
            assert_eq!(Alias::new(net(clients), net(reserve)), None, "{clients} {reserve}");
        }
    }

    #[test]
    fn no_two_ranges_of_clients_share_an_alias() {
        let reserve = net("198.18.0.0/24");
        let mut taken = Vec::new();
        for (clients, aliases) in [
            ("10.244.5.0/26", Some("198.18.0.0/26")),
            ("10.244.9.64/26", Some("198.18.0.64/26")),
            ("10.244.7.0/25", Some("198.18.0.128/25")),
            ("10.244.9.128/26", None),
        ] {
            let alias = Alias::beside(net(clients), reserve, &taken);
            assert_eq!(alias.map(|alias| alias.aliases()), aliases.map(net), "{clients}");
            taken.extend(alias);
        }
        let around = Alias::new(net("192.0.2.0/24"), net("198.18.0.0/16")).expect("fits");
        let beside = Alias::beside(net("10.244.0.0/28"), net("198.18.0.0/16"), &[around]);
        assert_eq!(beside.map(|alias| alias.aliases()), Some(net("198.18.1.0/28")));
    }

    #[test]
    fn networks_written_with_host_bits_are_taken_as_networks() {
        let alias = Alias::new(net("192.0.2.9/24"), net("198.18.3.3/15")).expect("fits");
        assert_eq!((alias.clients(), alias.aliases()), (net("192.0.2.0/24"), net("198.18.0.0/24")));
    }
}
