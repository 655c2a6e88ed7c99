//! Small tables for this crate's unit tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use streamvs_table::{
    Disposition, Endpoint, Family, PerFamily, PerPolicy, Protocol, ProtocolHint, ServiceName,
    ServicePort, ServicePortName, Snapshot, TrafficPolicy, Usability,
};

use crate::choice::Search;
use crate::{Choice, Plan, Request, SchedulerName, Target, Unit, VirtualServer};

/// One instant for all tests: they count from there.
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// The `number`-th endpoint: ready, of weight 1, IPv4.
pub(crate) fn endpoint(number: u16) -> Endpoint {
    let ip = Ipv4Addr::new(192, 0, 2, number as u8);
    Endpoint {
        address: SocketAddr::from((ip, 8000 + (number >> 8))),
        node: None,
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        weight: 1,
        usability: PerPolicy::both(Usability::Ready),
    }
}

pub(crate) fn weighted(number: u16, weight: u16) -> Endpoint {
    Endpoint { weight, ..endpoint(number) }
}

pub(crate) fn unready(number: u16) -> Endpoint {
    Endpoint { ready: false, usability: PerPolicy::both(Usability::NotReady), ..endpoint(number) }
}

pub(crate) fn endpoint_v6(number: u16) -> Endpoint {
    let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number);
    Endpoint { address: SocketAddr::from((ip, 8000)), ..endpoint(number) }
}

/// Endpoints 0, 1, 2... of these weights, as schedulers see them.
pub(crate) fn targets(weights: &[u16]) -> Vec<Arc<Target>> {
    let endpoints = weights.iter().zip(0..).map(|(&weight, number)| weighted(number, weight));
    endpoints.map(|endpoint| Arc::new(Target::new(endpoint, start()))).collect()
}

/// Puts load on a target.
pub(crate) fn hold(target: &Arc<Target>, count: usize, unit: Unit) -> Vec<Choice> {
    (0..count).map(|_| Choice::new(Arc::clone(target), unit)).collect()
}

/// The `number`-th client.
pub(crate) fn client(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
}

pub(crate) fn request(tried: &[SocketAddr]) -> Request<'_> {
    request_of(client(0), tried)
}

pub(crate) fn request_of(client: IpAddr, tried: &[SocketAddr]) -> Request<'_> {
    Request { client, policy: TrafficPolicy::Cluster, unit: Unit::Stream, now: start(), tried }
}

/// What a scheduler goes by.
pub(crate) fn search(tried: &[SocketAddr]) -> Search<'_> {
    search_of(client(0), tried)
}

pub(crate) fn search_of(client: IpAddr, tried: &[SocketAddr]) -> Search<'_> {
    Search { client, tried, skips_ejected: false, rest: None }
}

/// `shop/<name>:<port>`, of IPv4, at the ClusterIP 198.51.100.x the name's last byte gives.
pub(crate) fn service(name: &str, mut endpoints: Vec<Endpoint>) -> ServicePort {
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let last = name.bytes().last().unwrap_or(0);
    let disposition = PerPolicy::from_fn(|policy| {
        PerFamily::from_fn(|family| {
            let mut of_family = endpoints.iter().filter(|e| Family::of(e.address.ip()) == family);
            match of_family.any(|endpoint| endpoint.usable(policy)) {
                true => Disposition::Balance,
                false => Disposition::Reject,
            }
        })
    });
    ServicePort {
        name: ServicePortName {
            service: ServiceName::new("shop", name),
            port: "grpc".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: None,
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        max_age: Default::default(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        endpoints,
        disposition,
        reasons: Default::default(),
    }
}

/// A snapshot that holds its invariants.
pub(crate) fn snapshot(generation: u64, services: Vec<Arc<ServicePort>>) -> Arc<Snapshot> {
    let (snapshot, _) = Snapshot::new(generation, services);
    snapshot.check_invariants();
    Arc::new(snapshot)
}

/// A plan of one Service `web`, with its virtual server.
pub(crate) fn plan_of(
    scheduler: SchedulerName,
    endpoints: Vec<Endpoint>,
) -> (Plan, Arc<VirtualServer>) {
    follow(&Plan::seeded(7), scheduler, service("web", endpoints))
}

/// The next plan, of one Service, with its IPv4 virtual server.
pub(crate) fn follow(
    plan: &Plan,
    scheduler: SchedulerName,
    service: ServicePort,
) -> (Plan, Arc<VirtualServer>) {
    let name = service.name.clone();
    let snapshot = snapshot(plan.generation() + 1, vec![Arc::new(service)]);
    let (next, _) = plan.next(snapshot, scheduler, start());
    let virtual_server = Arc::clone(next.get(&name, Family::V4).expect("it was just planned"));
    (next, virtual_server)
}
