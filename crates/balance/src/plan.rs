//! A snapshot made pickable.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use siphasher::sip::SipHasher13;
use streamvs_table::{Family, Protocol, ServiceName, ServicePort, ServicePortName, Snapshot};

use crate::{Notice, SchedulerName, VirtualServer};

/// All virtual servers of one generation, by address and port. Immutable and swapped whole, by
/// [`publish`](streamvs_table::publish).
///
/// Invariants: virtual servers are sorted by name, then family; there is one for each family in
/// which a TCP ServicePort has a ClusterIP, with or without endpoints; an address leads to the
/// ServicePort the snapshot gives it to.
#[derive(Clone)]
pub struct Plan {
    snapshot: Arc<Snapshot>,
    default: SchedulerName,
    /// The node's own: where rotations begin and how candidates are shuffled.
    seed: u64,
    virtual_servers: Vec<Arc<VirtualServer>>,
    /// Shared with the plan before while no address changed.
    places: Arc<Places>,
}

/// Who is where. Values are indexes into the virtual servers.
#[derive(Debug, Default)]
struct Places {
    /// ClusterIPs, load balancers' addresses and externalIPs.
    by_address: FxHashMap<(IpAddr, u16), u32>,
    by_node_port: FxHashMap<(u16, Family), u32>,
}

impl Plan {
    /// The plan before the first snapshot: generation 0 and no virtual server. Draws the node's
    /// own order of endpoints by chance.
    pub fn empty() -> Self {
        Self::seeded(fastrand::u64(..))
    }

    /// The same with a given order, for tests and simulations that are to repeat.
    pub fn seeded(seed: u64) -> Self {
        Self {
            snapshot: Arc::default(),
            default: SchedulerName::default(),
            seed,
            virtual_servers: Vec::new(),
            places: Arc::default(),
        }
    }

    /// The next generation. Carries over each continuing ServicePort's rotation, affinity and
    /// statistics, and each continuing endpoint's load.
    ///
    /// A ServicePort that is the same `Arc` under the same scheduler costs a pointer; 10k of them
    /// with 250k endpoints, one changed, a fraction of a millisecond.
    ///
    /// Endpoints that are no longer usable are marked [retired](crate::Target::retired_at) at
    /// `now`, which old plans show too: call this when the result is about to be published, and
    /// one after the other from the newest plan.
    pub fn next(
        &self,
        snapshot: Arc<Snapshot>,
        default: SchedulerName,
        now: Instant,
    ) -> (Self, Vec<Notice>) {
        let mut notices = Vec::new();
        if default.degenerate() && default != self.default {
            notices.push(Notice::DegenerateScheduler { service: None, name: default });
        }
        let mut virtual_servers = Vec::with_capacity(self.virtual_servers.len());
        let mut old = self.virtual_servers.as_slice();
        for service in snapshot.services() {
            if service.name.protocol != Protocol::Tcp {
                continue;
            }
            // Both lists are sorted by name: what stands before is gone.
            while let Some(gone) = old.first().filter(|first| stands_before(first, service)) {
                gone.retire(now);
                old = &old[1..];
            }
            let families = old.iter().take_while(|first| is_of(first, service)).count();
            let (previous, rest) = old.split_at(families);
            old = rest;

            if previous.first().is_some_and(|previous| {
                Arc::ptr_eq(previous.service(), service)
                    && (default == self.default
                        || Asked::by(service).granted(default) == previous.scheduler())
            }) {
                virtual_servers.extend_from_slice(previous);
            } else {
                self.renew(service, previous, default, now, &mut virtual_servers);
            }
            if default != self.default || !unchanged(previous, service) {
                self.announce(service, default, &mut notices);
            }
        }
        for gone in old {
            gone.retire(now);
        }
        let places = self.index(&snapshot, &virtual_servers);
        let next = Self { snapshot, default, seed: self.seed, virtual_servers, places };
        (next, notices)
    }

    /// Makes the virtual servers of a ServicePort that is new or changed. `previous` are those it
    /// had: none, or one of each family.
    fn renew(
        &self,
        service: &Arc<ServicePort>,
        previous: &[Arc<VirtualServer>],
        default: SchedulerName,
        now: Instant,
        into: &mut Vec<Arc<VirtualServer>>,
    ) {
        let name = Asked::by(service).granted(default);
        for family in Family::BOTH {
            let previous = previous.iter().find(|previous| previous.family() == family);
            let previous = previous.map(Arc::as_ref);
            if service.cluster_ip(family).is_some() {
                let seed = self.seed_of(&service.name, family);
                let next = VirtualServer::new(service, family, name, previous, seed, now);
                into.push(Arc::new(next));
            } else if let Some(gone) = previous {
                gone.retire(now);
            }
        }
    }

    /// Says what is to be said of a ServicePort and was not true of its Service before.
    fn announce(&self, service: &ServicePort, default: SchedulerName, notices: &mut Vec<Notice>) {
        for notice in notices_of(service, default) {
            let name = &service.name.service;
            let before = self.of_service(name);
            let known = before.iter().any(|virtual_server| {
                notices_of(virtual_server.service(), self.default).any(|known| known == notice)
            });
            let of_this = notices.iter().rev().take_while(|said| said.service() == Some(name));
            let said = of_this.into_iter().any(|said| *said == notice);
            if !known && !said {
                notices.push(notice);
            }
        }
    }

    fn of_service(&self, name: &ServiceName) -> &[Arc<VirtualServer>] {
        let all = &self.virtual_servers;
        let start = all.partition_point(|first| first.service().name.service < *name);
        let count = all[start..].partition_point(|next| next.service().name.service == *name);
        &all[start..start + count]
    }

    /// Addresses lead where the snapshot says. `next` are its virtual servers.
    fn index(&self, snapshot: &Snapshot, next: &[Arc<VirtualServer>]) -> Arc<Places> {
        let old = &self.virtual_servers;
        let same_place = |(old, next): (&Arc<VirtualServer>, &Arc<VirtualServer>)| {
            Arc::ptr_eq(old, next)
                || (old.service().name == next.service().name && old.family() == next.family())
        };
        if snapshot.has_places_of(&self.snapshot)
            && old.len() == next.len()
            && old.iter().zip(next).all(same_place)
        {
            return Arc::clone(&self.places);
        }
        let mut places = Places::default();
        places.by_address.reserve(next.len());
        for (index, virtual_server) in (0..).zip(next) {
            let (service, family) = (virtual_server.service(), virtual_server.family());
            let owns = |owner: Option<&Arc<ServicePort>>| {
                owner.is_some_and(|owner| Arc::ptr_eq(owner, service))
            };
            for ip in service.addresses().filter(|ip| Family::of(*ip) == family) {
                if owns(snapshot.lookup(ip, service.port, Protocol::Tcp)) {
                    places.by_address.insert((ip, service.port), index);
                }
            }
            if let Some(port) = service.node_port
                && owns(snapshot.node_port(port, Protocol::Tcp))
            {
                places.by_node_port.insert((port, family), index);
            }
        }
        Arc::new(places)
    }

    fn seed_of(&self, name: &ServicePortName, family: Family) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, family as u64);
        for part in [&name.service.namespace, &name.service.name, &name.port] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        hasher.finish()
    }

    /// The snapshot's.
    pub fn generation(&self) -> u64 {
        self.snapshot.generation()
    }

    /// What it was made of.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Who serves this address over TCP, if anyone. The address must not be IPv4-mapped. What is no
    /// address of a Service is taken for one of the node's own: there, node ports are served.
    pub fn lookup(&self, ip: IpAddr, port: u16) -> Option<&Arc<VirtualServer>> {
        let Places { by_address, by_node_port } = &*self.places;
        let index =
            by_address.get(&(ip, port)).or_else(|| by_node_port.get(&(port, Family::of(ip))))?;
        Some(&self.virtual_servers[*index as usize])
    }

    /// By name and family.
    pub fn get(&self, name: &ServicePortName, family: Family) -> Option<&Arc<VirtualServer>> {
        let key = |virtual_server: &Arc<VirtualServer>| {
            virtual_server.service().name.cmp(name).then(virtual_server.family().cmp(&family))
        };
        let index = self.virtual_servers.binary_search_by(key).ok()?;
        Some(&self.virtual_servers[index])
    }

    /// All, sorted by name, then family.
    pub fn virtual_servers(&self) -> impl Iterator<Item = &Arc<VirtualServer>> {
        self.virtual_servers.iter()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("generation", &self.generation())
            .field("default", &self.default)
            .field("virtual_servers", &self.virtual_servers.len())
            .finish_non_exhaustive()
    }
}

/// Pointers first: names of unchanged ServicePorts are not read.
fn is_of(virtual_server: &VirtualServer, service: &Arc<ServicePort>) -> bool {
    Arc::ptr_eq(virtual_server.service(), service) || virtual_server.service().name == service.name
}

fn stands_before(virtual_server: &VirtualServer, service: &Arc<ServicePort>) -> bool {
    !Arc::ptr_eq(virtual_server.service(), service) && virtual_server.service().name < service.name
}

fn unchanged(previous: &[Arc<VirtualServer>], service: &Arc<ServicePort>) -> bool {
    previous.first().is_some_and(|previous| Arc::ptr_eq(previous.service(), service))
}

/// What a ServicePort's annotation asks for.
enum Asked<'a> {
    Nothing,
    Scheduler(SchedulerName),
    Unknown(&'a Arc<str>),
}

impl<'a> Asked<'a> {
    /// Spaces around the name are forgiven; an annotation without a name asks for nothing.
    fn by(service: &'a ServicePort) -> Self {
        let Some(annotation) = &service.scheduler else {
            return Self::Nothing;
        };
        match annotation.trim() {
            "" => Self::Nothing,
            name => name.parse().map_or(Self::Unknown(annotation), Self::Scheduler),
        }
    }

    fn granted(&self, default: SchedulerName) -> SchedulerName {
        match self {
            Self::Scheduler(name) => *name,
            Self::Nothing | Self::Unknown(_) => default,
        }
    }
}

/// What is to be said of a ServicePort.
fn notices_of(service: &ServicePort, default: SchedulerName) -> impl Iterator<Item = Notice> {
    let name = || service.name.service.clone();
    let scheduler = match Asked::by(service) {
        Asked::Unknown(asked) => {
            Some(Notice::UnknownScheduler { service: name(), name: Arc::clone(asked), default })
        }
        Asked::Scheduler(asked) if asked.degenerate() => {
            Some(Notice::DegenerateScheduler { service: Some(name()), name: asked })
        }
        Asked::Scheduler(_) | Asked::Nothing => None,
    };
    let affinity = service.affinity.map(|_| Notice::AffinityPinsStreams { service: name() });
    scheduler.into_iter().chain(affinity)
}

#[cfg(test)]
mod tests;
