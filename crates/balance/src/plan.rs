//! A snapshot made pickable.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap};
use rustc_hash::FxBuildHasher;
use siphasher::sip::SipHasher13;
use streamvs_table::{
    Family, Protocol, ServiceChange, ServiceName, ServicePort, ServicePortName, Snapshot,
};

use crate::ejection::Ejecting;
use crate::virtual_server::Common;
use crate::{EjectionPolicy, Notice, OnEjection, SchedulerName, VirtualServer};

/// All virtual servers of one generation, by address and port. Immutable and swapped whole, by
/// [`publish`](streamvs_table::publish).
///
/// Invariants: virtual servers are sorted by name, then family; there is one for each family in
/// which a TCP ServicePort has a ClusterIP, with or without endpoints; an address leads to the
/// ServicePort the snapshot gives it to.
///
/// The maps are persistent, as the snapshot's.
#[derive(Clone)]
pub struct Plan {
    snapshot: Arc<Snapshot>,
    default: SchedulerName,
    /// The node's own: where rotations begin and how candidates are shuffled.
    seed: u64,
    /// None: nobody is ejected.
    ejecting: Option<Arc<Ejecting>>,
    /// How long endpoints are new. None: they never are.
    slow_start: Option<Duration>,
    /// None of the lists is empty.
    services: OrdMap<ServiceName, Arc<[Arc<VirtualServer>]>>,
    /// ClusterIPs, load balancers' addresses and externalIPs.
    by_address: Places<(IpAddr, u16)>,
    by_node_port: Places<(u16, Family)>,
}

/// Who is where.
type Places<K> = GenericHashMap<K, Arc<VirtualServer>, FxBuildHasher, DefaultSharedPtr>;

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
            ejecting: None,
            slow_start: None,
            services: OrdMap::new(),
            by_address: Places::default(),
            by_node_port: Places::default(),
        }
    }

    /// The same with passive health, in the plans that follow: endpoints are ejected by `policy`,
    /// and `tell` is told. For a plan without virtual servers.
    pub fn ejecting(mut self, policy: EjectionPolicy, tell: OnEjection) -> Self {
        debug_assert!(self.services.is_empty(), "virtual servers that exist would not eject");
        self.ejecting = Some(Arc::new(Ejecting { policy, tell }));
        self
    }

    /// The same with slow start, in the plans that follow: an endpoint that is new gets less than its
    /// share for as long as `window`.
    pub fn starting_slowly(mut self, window: Duration) -> Self {
        self.slow_start = Some(window).filter(|window| !window.is_zero());
        self
    }

    /// The next generation. Carries over each continuing ServicePort's rotation, affinity and
    /// statistics, and each continuing endpoint's load.
    ///
    /// Costs as much as changed since the snapshot of this plan, and the logarithm of the number
    /// of Services; everything where `default` is another one.
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
        let mut next = Self { snapshot: Arc::clone(&snapshot), default, ..self.clone() };
        for change in snapshot.changes_since(&self.snapshot) {
            next.put(self, change, now, &mut notices);
        }
        if default != self.default {
            for name in snapshot.service_names() {
                let after = snapshot.of_service(name);
                if self.snapshot.of_service(name).as_ptr() == after.as_ptr() {
                    next.put(self, ServiceChange { name, before: after, after }, now, &mut notices);
                }
            }
        }
        (next, notices)
    }

    /// Puts a Service's virtual servers in the place of those it has in `old`.
    fn put(
        &mut self,
        old: &Self,
        change: ServiceChange<'_>,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) {
        let ServiceChange { name, before, after } = change;
        let mut previous = old.of_service(name);
        let mut servers = Vec::with_capacity(previous.len());
        for service in after.iter().filter(|service| service.name.protocol == Protocol::Tcp) {
            // Both lists are sorted by name: what stands before is gone.
            while let Some(gone) = previous.first().filter(|first| stands_before(first, service)) {
                gone.retire(now);
                previous = &previous[1..];
            }
            let families = previous.iter().take_while(|first| is_of(first, service)).count();
            let (of_this, rest) = previous.split_at(families);
            previous = rest;

            let same = of_this.first().is_some_and(|of_this| {
                Arc::ptr_eq(of_this.service(), service)
                    && Asked::by(service).granted(self.default) == of_this.scheduler()
            });
            if same {
                servers.extend_from_slice(of_this);
            } else {
                self.renew(service, of_this, now, &mut servers);
            }
            if self.default != old.default || !unchanged(of_this, service) {
                self.announce(old, service, notices);
            }
        }
        for gone in previous {
            gone.retire(now);
        }
        if servers.is_empty() {
            self.services.remove(name);
        } else {
            self.services.insert(name.clone(), servers.into());
        }
        for service in before.iter().chain(after) {
            self.find_again(service);
        }
    }

    /// Looks up anew who has the addresses and the node port that a ServicePort claims, or claimed.
    fn find_again(&mut self, service: &ServicePort) {
        if service.name.protocol != Protocol::Tcp {
            return;
        }
        let server = |plan: &Self, owner: Option<&Arc<ServicePort>>, family| {
            owner.and_then(|owner| plan.get(&owner.name, family)).cloned()
        };
        for ip in service.addresses() {
            let owner = self.snapshot.lookup(ip, service.port, Protocol::Tcp);
            let server = server(self, owner, Family::of(ip));
            put_place(&mut self.by_address, (ip, service.port), server);
        }
        let Some(port) = service.node_port else { return };
        for family in Family::BOTH {
            let server = server(self, self.snapshot.node_port(port, Protocol::Tcp), family);
            put_place(&mut self.by_node_port, (port, family), server);
        }
    }

    /// Makes the virtual servers of a ServicePort that is new or changed. `previous` are those it
    /// had: none, or one of each family.
    fn renew(
        &self,
        service: &Arc<ServicePort>,
        previous: &[Arc<VirtualServer>],
        now: Instant,
        into: &mut Vec<Arc<VirtualServer>>,
    ) {
        let name = Asked::by(service).granted(self.default);
        for family in Family::BOTH {
            let previous = previous.iter().find(|previous| previous.family() == family);
            let previous = previous.map(Arc::as_ref);
            if service.cluster_ip(family).is_some() {
                let seed = self.seed_of(&service.name, family);
                let ejecting = self.ejecting.clone();
                let common = Common { seed, ejecting, slow_start: self.slow_start };
                let next = VirtualServer::new(service, family, name, previous, &common, now);
                into.push(Arc::new(next));
            } else if let Some(gone) = previous {
                gone.retire(now);
            }
        }
    }

    /// Says what is to be said of a ServicePort and was not true of its Service before.
    fn announce(&self, old: &Self, service: &ServicePort, notices: &mut Vec<Notice>) {
        for notice in notices_of(service, self.default) {
            let name = &service.name.service;
            let known = old.of_service(name).iter().any(|virtual_server| {
                notices_of(virtual_server.service(), old.default).any(|known| known == notice)
            });
            let of_this = notices.iter().rev().take_while(|said| said.service() == Some(name));
            let said = of_this.into_iter().any(|said| *said == notice);
            if !known && !said {
                notices.push(notice);
            }
        }
    }

    fn of_service(&self, name: &ServiceName) -> &[Arc<VirtualServer>] {
        self.services.get(name).map_or(&[], |servers| servers)
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
        let at_node = || self.by_node_port.get(&(port, Family::of(ip)));
        self.by_address.get(&(ip, port)).or_else(at_node)
    }

    /// By name and family.
    pub fn get(&self, name: &ServicePortName, family: Family) -> Option<&Arc<VirtualServer>> {
        let servers = self.of_service(&name.service);
        let key = |virtual_server: &Arc<VirtualServer>| {
            virtual_server.service().name.cmp(name).then(virtual_server.family().cmp(&family))
        };
        let index = servers.binary_search_by(key).ok()?;
        Some(&servers[index])
    }

    /// All, sorted by name, then family.
    pub fn virtual_servers(&self) -> impl Iterator<Item = &Arc<VirtualServer>> {
        self.services.values().flat_map(|servers| &**servers)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("generation", &self.generation())
            .field("default", &self.default)
            .field("services", &self.services.len())
            .finish_non_exhaustive()
    }
}

/// Puts who has a place, or that nobody has it.
fn put_place<K: Clone + Eq + Hash>(
    places: &mut Places<K>,
    place: K,
    server: Option<Arc<VirtualServer>>,
) {
    match server {
        Some(server) => places.insert(place, server),
        None => places.remove(&place),
    };
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
