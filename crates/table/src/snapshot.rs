//! The immutable table of one generation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{
    AddressKind, Disposition, Family, NodeFacts, Protocol, ServiceName, ServicePort,
    ServicePortName, TrafficPolicy, Unserved,
};

/// All ServicePorts this node serves, and who owns which (address, port, protocol) and which node
/// port.
///
/// Invariants: ServicePorts are sorted by name and each name stands once; every address leads to
/// a ServicePort that lists it, as does every node port; the endpoints of a ServicePort are sorted
/// and unique. Nobody's load balancer address or externalIP takes another's ClusterIP away
/// (CVE-2020-8554).
///
/// Unchanged ServicePorts are the same `Arc` in the next generation, so that a change costs its
/// own Service plus one pointer for each other one.
#[derive(Clone, Default)]
pub struct Snapshot {
    generation: u64,
    services: Arc<[Arc<ServicePort>]>,
    places: Arc<Places>,
    node: Arc<NodeFacts>,
    unserved: Arc<BTreeMap<ServiceName, Unserved>>,
}

/// Who is where. Values are indexes into the ServicePorts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Places {
    by_address: FxHashMap<(IpAddr, u16, Protocol), u32>,
    by_node_port: FxHashMap<(u16, Protocol), u32>,
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
    /// Builds the table of a generation. Where two ServicePorts claim an address, the first in
    /// name order has it and the conflict is returned.
    pub fn new(generation: u64, mut services: Vec<Arc<ServicePort>>) -> (Self, Vec<Conflict>) {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.dedup_by(|a, b| a.name == b.name);
        let mut places = Places::default();
        places.by_address.reserve(services.len());
        let mut conflicts = Vec::new();
        // ClusterIPs first, so that no other kind of address takes one away.
        for kind in [AddressKind::ClusterIp, AddressKind::LoadBalancer, AddressKind::ExternalIp] {
            for (index, service) in numbered(&services) {
                for &ip in addresses_of(service, kind) {
                    let key = (ip, service.port, service.name.protocol);
                    let owner = *places.by_address.entry(key).or_insert(index);
                    if owner != index {
                        conflicts.push(Conflict {
                            address: Some(ip),
                            port: service.port,
                            owner: services[owner as usize].name.clone(),
                            refused: service.name.clone(),
                        });
                    }
                }
            }
        }
        for (index, service) in numbered(&services) {
            let Some(port) = service.node_port else { continue };
            let key = (port, service.name.protocol);
            let owner = *places.by_node_port.entry(key).or_insert(index);
            if owner != index {
                conflicts.push(Conflict {
                    address: None,
                    port,
                    owner: services[owner as usize].name.clone(),
                    refused: service.name.clone(),
                });
            }
        }
        let table = Self {
            generation,
            services: services.into(),
            places: Arc::new(places),
            ..Self::default()
        };
        (table, conflicts)
    }

    /// Builds the table of the generation after this one. Where no name and no address changed,
    /// as when endpoints come and go, the lookup is shared with this table instead of being built
    /// again; conflicts are then those of this table, and none are returned.
    pub fn next(&self, services: Vec<Arc<ServicePort>>) -> (Self, Option<Vec<Conflict>>) {
        let generation = self.generation + 1;
        let same_place = |(new, old): (&Arc<ServicePort>, &Arc<ServicePort>)| {
            Arc::ptr_eq(new, old)
                || (new.name == old.name
                    && new.port == old.port
                    && new.node_port == old.node_port
                    && new.cluster_ips == old.cluster_ips
                    && new.load_balancer_ips == old.load_balancer_ips
                    && new.external_ips == old.external_ips)
        };
        if services.len() == self.services.len()
            && services.iter().zip(self.services()).all(same_place)
        {
            return (Self { generation, services: services.into(), ..self.clone() }, None);
        }
        let (next, conflicts) = Self::new(generation, services);
        let (node, unserved) = (Arc::clone(&self.node), Arc::clone(&self.unserved));
        (Self { node, unserved, ..next }, Some(conflicts))
    }

    /// The same table for a node of which this is known.
    pub fn with_node(self, node: Arc<NodeFacts>) -> Self {
        Self { node, ..self }
    }

    /// What is known of this node.
    pub fn node(&self) -> &Arc<NodeFacts> {
        &self.node
    }

    /// The same table with other [`Snapshot::unserved`].
    pub fn with_unserved(self, unserved: Arc<BTreeMap<ServiceName, Unserved>>) -> Self {
        Self { unserved, ..self }
    }

    /// Services that are known and not served, and why. Nothing on the traffic path asks for them.
    pub fn unserved(&self) -> &BTreeMap<ServiceName, Unserved> {
        &self.unserved
    }

    /// Counts up with each published change; 0 is the empty table before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Who serves this address (ClusterIP, load balancer's address or externalIP), if anyone. The
    /// address must not be IPv4-mapped. [`ServicePort::kind_of`] tells what kind it is.
    pub fn lookup(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<&Arc<ServicePort>> {
        let index = *self.places.by_address.get(&(ip, port, protocol))?;
        Some(&self.services[index as usize])
    }

    /// Who has this node port, if anyone: it serves connections to the node's own addresses, in the
    /// families in which it has a ClusterIP.
    pub fn node_port(&self, port: u16, protocol: Protocol) -> Option<&Arc<ServicePort>> {
        let index = *self.places.by_node_port.get(&(port, protocol))?;
        Some(&self.services[index as usize])
    }

    /// By name.
    pub fn get(&self, name: &ServicePortName) -> Option<&Arc<ServicePort>> {
        let index = self.services.binary_search_by(|service| service.name.cmp(name)).ok()?;
        Some(&self.services[index])
    }

    /// All ServicePorts, sorted by name.
    pub fn services(&self) -> &[Arc<ServicePort>] {
        &self.services
    }

    /// The (address, port, protocol) triples and who has each, in no order: ClusterIPs, load
    /// balancers' addresses and externalIPs.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol, &Arc<ServicePort>)> {
        self.places.by_address.iter().map(|(&(ip, port, protocol), &index)| {
            (ip, port, protocol, &self.services[index as usize])
        })
    }

    /// The node ports and who has each, in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = (u16, Protocol, &Arc<ServicePort>)> {
        self.places
            .by_node_port
            .iter()
            .map(|(&(port, protocol), &index)| (port, protocol, &self.services[index as usize]))
    }

    /// True: the same names have the same addresses and node ports in both. Errs towards false.
    pub fn has_places_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.places, &other.places)
    }

    /// True: each address and node port leads to the same ServicePort in both, with the same
    /// dispositions and source ranges, and the node is the same, so that the kernel need not be
    /// told. Errs towards false. Costs a comparison of pointers for each ServicePort that is the
    /// same.
    pub fn is_reached_as(&self, other: &Self) -> bool {
        let alike = |(one, other): (&Arc<ServicePort>, &Arc<ServicePort>)| {
            Arc::ptr_eq(one, other) || is_treated_as(one, other)
        };
        self.has_places_of(other)
            && self.node == other.node
            && self.services().iter().zip(other.services()).all(alike)
    }

    /// Panics where an invariant of the type does not hold. For tests.
    pub fn check_invariants(&self) {
        assert!(self.services.is_sorted_by(|a, b| a.name < b.name), "ServicePorts out of order");
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

fn numbered(services: &[Arc<ServicePort>]) -> impl Iterator<Item = (u32, &ServicePort)> {
    let number = |index| u32::try_from(index).expect("fewer than 2^32 ServicePorts");
    services.iter().enumerate().map(move |(index, service)| (number(index), &**service))
}

fn addresses_of(service: &ServicePort, kind: AddressKind) -> &[IpAddr] {
    match kind {
        AddressKind::ClusterIp => &service.cluster_ips,
        AddressKind::LoadBalancer => &service.load_balancer_ips,
        AddressKind::ExternalIp => &service.external_ips,
        AddressKind::NodePort => &[],
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
            .field("services", &self.services())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
