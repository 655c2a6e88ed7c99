//! What our table of one family shall hold for Services: elements, and the chains and sets of those
//! with sessionAffinity or loadBalancerSourceRanges. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use streamvs_table::{
    AddressKind, Disposition, Endpoint, Family, ServicePort, Snapshot, TrafficPolicy,
};

use crate::key::{Key, List, Map, Value};
use crate::layout;
use crate::order::{Order, Turn};
use crate::sticky::{self, hash};
use crate::way::{SharedChain, Way};

/// What all Services have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    pub(crate) family: Family,
    /// The order of Services that ask for none.
    pub(crate) order: Order,
    /// Every endpoint sees the node's address.
    pub(crate) masquerade_all: bool,
}

/// The contents for some Services, or for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Of all maps. Maps of endpoints have those of Services without sessionAffinity only.
    pub(crate) elements: BTreeMap<(Map, Key), Value>,
    /// The shared chains that elements lead to, with all that they need.
    pub(crate) shared: BTreeSet<SharedChain>,
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
    pub(crate) fn of(snapshot: &Snapshot, common: Common) -> Self {
        let mut contents = Self::default();
        for port in snapshot.services() {
            contents.add(port, snapshot, common);
        }
        contents
    }

    /// For those that have chains or sets of their own.
    pub(crate) fn with_own_chains(snapshot: &Snapshot, common: Common) -> Self {
        let mut contents = Self::default();
        let has_own = |port: &&_| {
            let port: &ServicePort = port;
            port.affinity.is_some() || !port.source_ranges.is_empty()
        };
        for port in snapshot.services().map(AsRef::as_ref).filter(has_own) {
            contents.add(port, snapshot, common);
        }
        contents
    }

    /// Adds a ServicePort of `snapshot`, as far as it owns its addresses.
    pub(crate) fn add(&mut self, port: &ServicePort, snapshot: &Snapshot, common: Common) {
        let family = common.family;
        let of = |external| keys(port, snapshot, family, external);
        let (cluster_ips, external) = (of(false), of(true));
        let internal = port.internal_policy;
        if !cluster_ips.is_empty() && port.internal_disposition(family) == Disposition::Balance {
            let way = if common.masquerade_all { Way::Masquerade } else { Way::Enter };
            let chain = self.pick(port, (List::Main, internal), way, &cluster_ips, common);
            for key in cluster_ips {
                self.lead(List::Main, key, Value::Goto(chain.clone()));
            }
        }
        self.add_external(port, &external, snapshot, common);
        let is_client = |endpoint: &&Endpoint| endpoint.local || endpoint.node.is_none();
        let used = port.endpoints(family).filter(|endpoint| port.may_use(endpoint));
        let mut clients: Vec<IpAddr> =
            used.filter(is_client).map(|endpoint| endpoint.address.ip()).collect();
        clients.dedup();
        for ip in clients {
            *self.hairpins.entry(ip).or_default() += 1;
        }
    }

    /// Its addresses besides the ClusterIPs, and its node port. Those inside have all endpoints,
    /// and those outside what externalTrafficPolicy says.
    fn add_external(
        &mut self,
        port: &ServicePort,
        external: &[Key],
        snapshot: &Snapshot,
        common: Common,
    ) {
        let family = common.family;
        let inside = TrafficPolicy::Cluster;
        if external.is_empty() || port.disposition_by(inside, family) != Disposition::Balance {
            return;
        }
        let local = port.external_policy == TrafficPolicy::Local;
        let way = if local { Way::Split } else { Way::Masquerade };
        let chain = self.pick(port, (List::Main, inside), way, external, common);
        for &key in external {
            let guarded = match key {
                Key::Address { ip, .. } => port.sources(ip, &snapshot.node().addresses),
                Key::Node { .. } => None,
            };
            let chain = match guarded {
                Some(sources) => self.guard(port, family, &sources, &chain),
                None => chain.clone(),
            };
            self.lead(List::Main, key, Value::Goto(chain));
        }
        if !local {
            return;
        }
        let outside = TrafficPolicy::Local;
        let value = if port.disposition_by(outside, family) == Disposition::Balance {
            let of_list = (List::Local, outside);
            Value::Goto(self.pick(port, of_list, Way::Straight, external, common))
        } else {
            // So that nobody else's node port is taken for it. `capture` drops it then.
            Value::Accept
        };
        for &key in external {
            self.lead(List::Local, key, value.clone());
        }
    }

    fn lead(&mut self, list: List, key: Key, to: Value) {
        self.elements.insert((Map::of(list, None, key), key), to);
    }

    /// Adds the endpoints that a policy allows as a list for these addresses. Returns the chain
    /// that leads there by a way.
    ///
    /// As in `balance`, endpoints of weight 0 get nothing unless all have weight 0; otherwise
    /// weights make no difference here.
    fn pick(
        &mut self,
        port: &ServicePort,
        (list, policy): (List, TrafficPolicy),
        way: Way,
        keys: &[Key],
        common: Common,
    ) -> String {
        let Common { family, order, .. } = common;
        let usable = || port.endpoints(family).filter(|endpoint| endpoint.usable(policy));
        let all_zero = usable().all(|endpoint| endpoint.weight == 0);
        let picked = usable().filter(|endpoint| all_zero || endpoint.weight > 0);
        let picked: Vec<SocketAddr> =
            picked.map(|endpoint| endpoint.address).take(usize::from(u16::MAX)).collect();
        if let Some(timeout) = port.affinity {
            let sticky = sticky::add(self, &port.name, family, picked, timeout);
            for way in &way.with_needed()[1..] {
                self.chains.insert(way.chain(&sticky), way.rules(family, &sticky));
            }
            return way.chain(&sticky);
        }
        for (place, endpoint) in (0..).zip(&picked) {
            for &key in keys {
                let map = Map::of(list, Some(place), key);
                self.elements.insert((map, key), Value::Endpoint(*endpoint));
            }
        }
        let order = port.scheduler.as_deref().map_or(order, Order::of);
        let count = u16::try_from(picked.len()).expect("no more than that were taken");
        let seed = port.cluster_ip(family).map_or(0, last_octet);
        let turn = Turn::new(list, order, count, seed);
        self.shared.extend(way.with_needed().iter().map(|&way| SharedChain { way, turn }));
        SharedChain { way, turn }.to_string()
    }

    /// Adds a chain that lets only these clients go on to another one. Returns its name.
    fn guard(&mut self, port: &ServicePort, family: Family, sources: &[IpNet], to: &str) -> String {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let rule = format!("{} {{ {} }} goto {to}", layout::source(family), sources.join(", "));
        let chain = format!("{GUARD}{:016x}", hash(&format!("{:?} {rule}", port.name)));
        self.chains.insert(chain.clone(), vec![rule]);
        chain
    }
}

/// Names of chains by [`Contents::guard`] begin so.
const GUARD: &str = "guard-";

/// A chain of this name is one Service's own.
pub(crate) fn is_own(chain: &str) -> bool {
    let (_, chain) = Way::of(chain);
    [sticky::CHAIN, sticky::PIN, GUARD].iter().any(|prefix| chain.starts_with(prefix))
}

/// What clients dial to come to a ServicePort, as far as nobody else has it: its ClusterIPs, or all
/// else.
fn keys(port: &ServicePort, snapshot: &Snapshot, family: Family, external: bool) -> Vec<Key> {
    let protocol = port.name.protocol;
    let is_owner = |owner: Option<&Arc<ServicePort>>| owner.is_some_and(|it| it.name == port.name);
    let addresses = port
        .addresses()
        .filter(|ip| Family::of(*ip) == family && is_programmed(*ip, port.port))
        .filter(|ip| (port.kind_of(*ip) != Some(AddressKind::ClusterIp)) == external)
        .filter(|ip| is_owner(snapshot.lookup(*ip, port.port, protocol)))
        .map(|ip| Key::Address { protocol, ip, port: port.port });
    let node_port = port
        .node_port
        .filter(|number| external && port.cluster_ip(family).is_some() && *number != 0)
        .filter(|number| is_owner(snapshot.node_port(*number, protocol)))
        .map(|port| Key::Node { protocol, port });
    addresses.chain(node_port).collect()
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
