//! The immutable table of one generation.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::claims::{Claims, claimed, rank};
use crate::{
    Disposition, Family, NodeFacts, Protocol, ServiceName, ServicePort, ServicePortName,
    TrafficPolicy, Unserved,
};

/// All ServicePorts this node serves, and who owns which (address, port, protocol) and which node
/// port.
///
/// Invariants: ServicePorts are sorted by name and each name stands once; every address leads to
/// a ServicePort that lists it, as does every node port; the endpoints of a ServicePort are sorted
/// and unique. Nobody's load balancer address or externalIP takes another's ClusterIP away
/// (CVE-2020-8554).
///
/// The maps are persistent: a table shares with the one before everything but the Services that
/// changed and the way to them, so that a change costs the logarithm of the number of Services.
#[derive(Clone, Default)]
pub struct Snapshot {
    generation: u64,
    services: OrdMap<ServiceName, Ports>,
    service_port_count: usize,
    claims: Claims,
    node: Arc<NodeFacts>,
    unserved: OrdMap<ServiceName, Unserved>,
}

/// The ServicePorts of a Service, sorted by name; never empty in a table.
#[derive(Clone, Default)]
struct Ports(Arc<[Arc<ServicePort>]>);

/// Ports that were not touched are told from others without a look into them.
impl PartialEq for Ports {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A Service that is not the same in two tables.
#[derive(Clone, Copy, Debug)]
pub struct ServiceChange<'a> {
    /// Its name.
    pub name: &'a ServiceName,
    /// What it had, sorted by name; empty where it is new.
    pub before: &'a [Arc<ServicePort>],
    /// What it has; empty where it is gone.
    pub after: &'a [Arc<ServicePort>],
}

/// Two ServicePorts claim the same (address, port, protocol), or the same node port; the second was
/// left out of the lookup for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The Service's address; none for a node port.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Who has it.
    pub owner: ServicePortName,
    /// Who does not get it.
    pub refused: ServicePortName,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, port, owner, refused } = self;
        match address {
            Some(address) => write!(f, "{refused} claims {address} port {port}, which ")?,
            None => write!(f, "{refused} claims node port {port}, which ")?,
        }
        write!(f, "{owner} has already")
    }
}

impl Snapshot {
    /// Builds the table of a generation. Where two ServicePorts claim a place, that of the more
    /// trusted kind has it, or else the first in name order, and the conflict is returned.
    pub fn new(generation: u64, mut services: Vec<Arc<ServicePort>>) -> (Self, Vec<Conflict>) {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.dedup_by(|a, b| a.name == b.name);
        let mut table = Self { generation, ..Self::default() };
        for ports in services.chunk_by(|a, b| a.name.service == b.name.service) {
            table.put(&ports[0].name.service, ports);
        }
        let conflicts = table.conflicts().collect();
        (table, conflicts)
    }

    /// Builds the table of the generation after this one. Each of `changes` is a Service with all
    /// its ServicePorts, sorted by name; with none it is gone.
    pub fn next(&self, changes: &[(ServiceName, Vec<Arc<ServicePort>>)]) -> Self {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        for (name, ports) in changes {
            next.put(name, ports);
        }
        next
    }

    fn put(&mut self, name: &ServiceName, ports: &[Arc<ServicePort>]) {
        let before = if ports.is_empty() {
            self.services.remove(name)
        } else {
            self.services.insert(name.clone(), Ports(ports.into()))
        };
        let before = before.unwrap_or_default().0;
        for old in &*before {
            if !named(ports, &old.name).is_some_and(|new| same_place(old, new)) {
                self.claims.remove(old);
            }
        }
        for new in ports {
            match named(&before, &new.name) {
                Some(old) if Arc::ptr_eq(old, new) => {}
                Some(old) if same_place(old, new) => self.claims.replace(new),
                _ => self.claims.add(new),
            }
        }
        self.service_port_count = self.service_port_count + ports.len() - before.len();
    }

    /// The same table for a node of which this is known.
    pub fn with_node(self, node: Arc<NodeFacts>) -> Self {
        Self { node, ..self }
    }

    /// What is known of this node.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// The same table under another number: for one that was kept elsewhere.
    pub fn at_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// The same table with other [`Snapshot::unserved`].
    pub fn with_unserved(self, unserved: OrdMap<ServiceName, Unserved>) -> Self {
        Self { unserved, ..self }
    }

    /// Services that are known and not served, and why. Nothing on the traffic path asks for them.
    pub fn unserved(&self) -> &OrdMap<ServiceName, Unserved> {
        &self.unserved
    }

    /// Counts up with each published change; 0 is the empty table before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who serves this address (ClusterIP, load balancer's address or externalIP), if anyone. The
    /// address must not be IPv4-mapped. [`ServicePort::kind_of`] tells what kind it is.
    pub fn lookup(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<&Arc<ServicePort>> {
        self.claims.owner((Some(ip), port, protocol))
    }

    /// Who has this node port, if anyone: it serves connections to the node's own addresses, in the
    /// families in which it has a ClusterIP.
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Option<&Arc<ServicePort>> {
        self.claims.owner((None, port, protocol))
    }

    /// By name.
    pub fn get(&self, name: &ServicePortName) -> Option<&Arc<ServicePort>> {
        named(self.of_service(&name.service), name)
    }

    /// The ServicePorts of a Service, sorted by name; none where there is no such Service.
    pub fn of_service(&self, name: &ServiceName) -> &[Arc<ServicePort>] {
        self.services.get(name).map_or(&[], |ports| &ports.0)
    }

    /// All ServicePorts, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServicePort>> {
        self.services.values().flat_map(|ports| &*ports.0)
    }

    /// How many ServicePorts there are.
    pub fn service_port_count(&self) -> usize {
        self.service_port_count
    }

    /// The names of all Services, sorted.
    pub fn service_names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    /// The (address, port, protocol) triples and who has each, in no order: ClusterIPs, load
    /// balancers' addresses and externalIPs.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol, &Arc<ServicePort>)> {
        self.claims
            .iter()
            .filter_map(|((ip, port, protocol), owner)| Some((ip?, port, protocol, owner)))
    }

    /// The node ports and who has each, in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = (u16, Protocol, &Arc<ServicePort>)> {
        let of_node = self.claims.iter().filter(|((ip, ..), _)| ip.is_none());
        of_node.map(|((_, port, protocol), owner)| (port, protocol, owner))
    }

    /// Who claims an address or a node port in vain, by address; node ports first.
    pub fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.claims.conflicts()
    }

    /// True: no conflict came, went or changed. Errs towards false. Costs nothing.
    pub fn disputes_as(&self, other: &Self) -> bool {
        self.claims.disputes_as(&other.claims)
    }

    /// The Services that are not the same here as in an earlier table, sorted by name. Costs as
    /// much as changed in between where this table descends from that one by [`Snapshot::next`].
    pub fn changes_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = ServiceChange<'a>> + use<'a> {
        before.services.diff(&self.services).map(|item| match item {
            DiffItem::Add(name, new) => ServiceChange { name, before: &[], after: &new.0 },
            DiffItem::Remove(name, old) => ServiceChange { name, before: &old.0, after: &[] },
            DiffItem::Update { old: (name, old), new: (_, new) } => {
                ServiceChange { name, before: &old.0, after: &new.0 }
            }
        })
    }

    /// True: each address and node port leads to the same ServicePort in both, with the same
    /// dispositions and source ranges, and the node is the same, so that the kernel need not be
    /// told. Errs towards false. Costs as [`Snapshot::changes_since`].
    pub fn is_reached_as(&self, other: &Self) -> bool {
        let alike = |(one, other): (&Arc<ServicePort>, &Arc<ServicePort>)| {
            Arc::ptr_eq(one, other) || same_place(one, other) && is_treated_as(one, other)
        };
        self.node == other.node
            && self.changes_since(other).all(|ServiceChange { before, after, .. }| {
                before.len() == after.len() && before.iter().zip(after).all(alike)
            })
    }

    /// Panics where an invariant of the type does not hold. For tests.
    pub fn check_invariants(&self) {
        assert!(self.services().is_sorted_by(|a, b| a.name < b.name), "ServicePorts out of order");
        assert_eq!(self.services().count(), self.service_port_count, "ServicePorts miscounted");
        assert!(self.services.values().all(|ports| !ports.0.is_empty()), "a Service of no ports");
        for service in self.services() {
            for place in claimed(service) {
                let owner = self.claims.owner(place).expect("what is claimed has an owner");
                assert!(rank(place, owner) <= rank(place, service), "{place:?} is another one's");
            }
        }
        for (_, owner) in self.claims.iter() {
            let listed = self.get(&owner.name).is_some_and(|listed| Arc::ptr_eq(listed, owner));
            assert!(listed, "an address leads to {}, which is not listed so", owner.name);
        }
        for (ip, port, protocol, service) in self.addresses() {
            assert!(service.kind_of(ip).is_some(), "{ip} leads to a stranger");
            assert_eq!(service.port, port);
            assert_eq!(service.name.protocol, protocol);
        }
        for (port, protocol, service) in self.node_ports() {
            assert_eq!((service.node_port, service.name.protocol), (Some(port), protocol));
        }
        for service in self.services() {
            assert!(
                service.endpoints.is_sorted_by(|a, b| a.address < b.address),
                "endpoints of {} out of order",
                service.name
            );
            for family in Family::BOTH {
                let by = |policy| {
                    let any_usable = service.endpoints(family).any(|each| each.usable(policy));
                    let disposition = service.disposition_by(policy, family);
                    let balance = disposition == Disposition::Balance;
                    assert_eq!(any_usable, balance, "disposition of {} {family}", service.name);
                    disposition
                };
                let (cluster, local) = (by(TrafficPolicy::Cluster), by(TrafficPolicy::Local));
                let sound = cluster != Disposition::Drop
                    && (cluster == Disposition::Balance || local == Disposition::Reject);
                assert!(sound, "disposition of {} {family}", service.name);
            }
        }
    }
}

/// The kernel does the same with connections to either.
fn is_treated_as(one: &ServicePort, other: &ServicePort) -> bool {
    one.internal_policy == other.internal_policy
        && one.external_policy == other.external_policy
        && one.source_ranges == other.source_ranges
        && one.health_check_node_port == other.health_check_node_port
        && TrafficPolicy::BOTH.into_iter().all(|policy| {
            !one.uses(policy) || one.disposition.get(policy) == other.disposition.get(policy)
        })
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("services", &self.service_port_count)
            .finish_non_exhaustive()
    }
}

fn named<'a>(
    sorted: &'a [Arc<ServicePort>],
    name: &ServicePortName,
) -> Option<&'a Arc<ServicePort>> {
    let index = sorted.binary_search_by(|service| service.name.cmp(name)).ok()?;
    Some(&sorted[index])
}

/// They claim the same addresses and node ports under the same name.
fn same_place(one: &ServicePort, other: &ServicePort) -> bool {
    one.name == other.name
        && one.port == other.port
        && one.node_port == other.node_port
        && one.cluster_ips == other.cluster_ips
        && one.load_balancer_ips == other.load_balancer_ips
        && one.external_ips == other.external_ips
}

#[cfg(test)]
mod tests;
