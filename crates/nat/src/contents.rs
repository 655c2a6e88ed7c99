//! What our table of one family shall hold for Services: elements, and the chains and sets of those
//! with sessionAffinity. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use streamvs_table::{Disposition, Endpoint, Family, Protocol, ServicePort, Snapshot};

use crate::order::{Order, Turn};
use crate::sticky;

/// A service address: what clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

/// As nft reads it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, ip, port } = self;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{protocol} . {ip} . {port}")
    }
}

/// The contents for some Services, or for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The chain each service address leads to.
    pub(crate) services: BTreeMap<Key, String>,
    /// The endpoint of each place: that of `pick-N` for a service address. Only of Services
    /// without sessionAffinity.
    pub(crate) endpoints: BTreeMap<(u16, Key), SocketAddr>,
    /// The shared chains that `services` leads to.
    pub(crate) turns: BTreeSet<Turn>,
    /// Chains of one Service and their rules, which may lead to each other.
    pub(crate) chains: BTreeMap<String, Vec<String>>,
    /// Sets of clients, and for how many seconds an entry lasts.
    pub(crate) clients: BTreeMap<String, u64>,
    /// Endpoints that may be clients on this node, and so their own endpoint, with the number of
    /// ServicePorts that have each.
    pub(crate) hairpins: BTreeMap<IpAddr, u32>,
}

impl Contents {
    /// For all ServicePorts of a table.
    pub(crate) fn of(snapshot: &Snapshot, family: Family, default: Order) -> Self {
        let mut contents = Self::default();
        for port in snapshot.services() {
            contents.add(port, snapshot, family, default);
        }
        contents
    }

    /// Adds a ServicePort of `snapshot`, as far as it owns its addresses.
    ///
    /// As in `balance`, endpoints of weight 0 get nothing unless all have weight 0; otherwise
    /// weights make no difference here.
    pub(crate) fn add(
        &mut self,
        port: &ServicePort,
        snapshot: &Snapshot,
        family: Family,
        default: Order,
    ) {
        let policy = port.internal_policy;
        if port.internal_disposition(family) != Disposition::Balance {
            return;
        }
        let usable = || port.endpoints(family).filter(|endpoint| endpoint.usable(policy));
        let all_zero = usable().all(|endpoint| endpoint.weight == 0);
        let picked: Vec<&Endpoint> = usable()
            .filter(|endpoint| all_zero || endpoint.weight > 0)
            .take(usize::from(u16::MAX))
            .collect();
        let protocol = port.name.protocol;
        let keys: Vec<Key> = port
            .cluster_ips
            .iter()
            .filter(|ip| Family::of(**ip) == family && is_programmed(**ip, port.port))
            .filter(|ip| {
                let owner = snapshot.lookup(**ip, port.port, protocol);
                owner.is_some_and(|owner| owner.name == port.name)
            })
            .map(|ip| Key { protocol, ip: *ip, port: port.port })
            .collect();
        let (Some(first), false) = (keys.first(), picked.is_empty()) else { return };

        let chain = match port.affinity {
            Some(timeout) => {
                let addresses = picked.iter().map(|endpoint| endpoint.address);
                sticky::add(self, &port.name, family, addresses.collect(), timeout)
            }
            None => {
                for (place, endpoint) in (0..).zip(&picked) {
                    let elements = keys.iter().map(|key| ((place, *key), endpoint.address));
                    self.endpoints.extend(elements);
                }
                let order = port.scheduler.as_deref().map_or(default, Order::of);
                let count = u16::try_from(picked.len()).expect("no more than that were taken");
                let turn = Turn::new(order, count, last_octet(first.ip));
                self.turns.insert(turn);
                turn.to_string()
            }
        };
        for key in keys {
            self.services.insert(key, chain.clone());
        }
        let local = picked.iter().filter(|endpoint| endpoint.local || endpoint.node.is_none());
        let mut local: Vec<IpAddr> = local.map(|endpoint| endpoint.address.ip()).collect();
        local.dedup();
        for ip in local {
            *self.hairpins.entry(ip).or_default() += 1;
        }
    }
}

/// No packet can have another as destination, and nft refuses some.
fn is_programmed(ip: IpAddr, port: u16) -> bool {
    !ip.is_unspecified() && port != 0
}

fn last_octet(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    }
}
