//! The immutable table of one generation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{Family, Protocol, ServiceName, ServicePort, ServicePortName, Unserved};

/// All ServicePorts this node serves, and who owns which (ClusterIP, port, protocol).
///
/// Invariants: ServicePorts are sorted by name and each name stands once; every address leads to
/// a ServicePort that lists it; the endpoints of a ServicePort are sorted and unique.
///
/// Unchanged ServicePorts are the same `Arc` in the next generation, so that a change costs its
/// own Service plus one pointer for each other one.
#[derive(Clone, Default)]
pub struct Snapshot {
    generation: u64,
    services: Arc<[Arc<ServicePort>]>,
    by_address: Arc<FxHashMap<(IpAddr, u16, Protocol), u32>>,
    unserved: Arc<BTreeMap<ServiceName, Unserved>>,
}

/// Two ServicePorts claim the same (ClusterIP, port, protocol); the second was left out of the
/// lookup for that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The ClusterIP.
    pub address: IpAddr,
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
        write!(f, "{refused} claims {address} port {port}, which {owner} has already")
    }
}

impl Snapshot {
    /// Builds the table of a generation. Where two ServicePorts claim an address, the first in
    /// name order has it and the conflict is returned.
    pub fn new(generation: u64, mut services: Vec<Arc<ServicePort>>) -> (Self, Vec<Conflict>) {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.dedup_by(|a, b| a.name == b.name);
        let mut by_address = FxHashMap::default();
        by_address.reserve(services.len());
        let mut conflicts = Vec::new();
        for (index, service) in services.iter().enumerate() {
            for &ip in &service.cluster_ips {
                let key = (ip, service.port, service.name.protocol);
                let index = u32::try_from(index).expect("fewer than 2^32 ServicePorts");
                let owner = *by_address.entry(key).or_insert(index);
                if owner != index {
                    conflicts.push(Conflict {
                        address: ip,
                        port: service.port,
                        owner: services[owner as usize].name.clone(),
                        refused: service.name.clone(),
                    });
                }
            }
        }
        let by_address = Arc::new(by_address);
        let unserved = Arc::default();
        (Self { generation, services: services.into(), by_address, unserved }, conflicts)
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
                    && new.cluster_ips == old.cluster_ips)
        };
        if services.len() == self.services.len()
            && services.iter().zip(self.services()).all(same_place)
        {
            let by_address = Arc::clone(&self.by_address);
            let unserved = Arc::clone(&self.unserved);
            return (Self { generation, services: services.into(), by_address, unserved }, None);
        }
        let (mut next, conflicts) = Self::new(generation, services);
        next.unserved = Arc::clone(&self.unserved);
        (next, Some(conflicts))
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

    /// Who serves this address, if anyone. The address must not be IPv4-mapped.
    pub fn lookup(&self, ip: IpAddr, port: u16, protocol: Protocol) -> Option<&Arc<ServicePort>> {
        let index = *self.by_address.get(&(ip, port, protocol))?;
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

    /// The (ClusterIP, port, protocol) pairs and who has each, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol, &Arc<ServicePort>)> {
        self.by_address.iter().map(|(&(ip, port, protocol), &index)| {
            (ip, port, protocol, &self.services[index as usize])
        })
    }

    /// True: each address leads to the same ServicePort in both, with the same disposition, so that
    /// the kernel need not be told. Errs towards false. Costs a comparison of pointers for each
    /// ServicePort that is the same.
    pub fn is_reached_as(&self, other: &Self) -> bool {
        let alike = |(one, other): (&Arc<ServicePort>, &Arc<ServicePort>)| {
            Arc::ptr_eq(one, other) || one.disposition == other.disposition
        };
        Arc::ptr_eq(&self.by_address, &other.by_address)
            && self.services().iter().zip(other.services()).all(alike)
    }

    /// Panics where an invariant of the type does not hold. For tests.
    pub fn check_invariants(&self) {
        assert!(self.services.is_sorted_by(|a, b| a.name < b.name), "ServicePorts out of order");
        for (ip, port, protocol, service) in self.addresses() {
            assert!(service.cluster_ips.contains(&ip), "{ip} leads to a stranger");
            assert_eq!(service.port, port);
            assert_eq!(service.name.protocol, protocol);
        }
        for service in self.services() {
            assert!(
                service.endpoints.is_sorted_by(|a, b| a.address < b.address),
                "endpoints of {} out of order",
                service.name
            );
            for family in Family::BOTH {
                let any_usable = service.endpoints(family).any(|endpoint| endpoint.usable());
                let balance = *service.disposition.get(family) == crate::Disposition::Balance;
                assert_eq!(any_usable, balance, "disposition of {} {family}", service.name);
            }
        }
    }
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
