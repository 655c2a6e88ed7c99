//! What a generation and a pick cost: printed, not judged.
//!
//! `cargo bench -p streamvs-balance --profile fast`; without `--bench` (as `cargo test
//! --all-targets` runs it) sizes are tiny and the figures mean nothing.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_balance::{Plan, Request, SchedulerName, Unit, VirtualServer};
use streamvs_table::{
    Disposition, Endpoint, PerFamily, PerPolicy, Protocol, ProtocolHint, ServiceName, ServicePort,
    ServicePortName, Snapshot, TrafficPolicy, Usability,
};

fn main() {
    let real = std::env::args().any(|argument| argument == "--bench");
    let scale = if real { 1 } else { 100 };
    plans(10_000 / scale, 25);
    plans(30_000 / scale, 8);
    picks(if real { 1_000_000 } else { 1_000 });
    threads(if real { 1_000_000 } else { 1_000 });
}

fn endpoint(number: u32) -> Endpoint {
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + number), 8080)),
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

fn service(number: u32, endpoints: impl Iterator<Item = u32>) -> Arc<ServicePort> {
    Arc::new(ServicePort {
        name: ServicePortName {
            service: ServiceName::new(format!("namespace-{}", number % 100), format!("s-{number}")),
            port: "grpc".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: None,
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number))],
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
        endpoints: endpoints.map(endpoint).collect(),
        disposition: PerPolicy::both(PerFamily {
            v4: Disposition::Balance,
            v6: Disposition::Reject,
        }),
        reasons: Default::default(),
    })
}

fn snapshot(generation: u64, services: &[Arc<ServicePort>]) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(generation, services.to_vec()).0)
}

/// The first plan, and then one Service changed in each of many generations.
fn plans(services: u32, endpoints: u32) {
    let before = resident_kib();
    let table: Vec<_> = (0..services)
        .map(|number| service(number, number * endpoints..(number + 1) * endpoints))
        .collect();
    let first = snapshot(1, &table);
    let tables = resident_kib();
    let began = Instant::now();
    let (mut plan, _) = Plan::seeded(1).next(first, SchedulerName::Rr, began);
    println!(
        "{services} Services x {endpoints} endpoints: first plan {:?}, table {} KiB, plan {} KiB",
        began.elapsed(),
        tables.saturating_sub(before),
        resident_kib().saturating_sub(tables),
    );

    for (what, default) in [("rr", SchedulerName::Rr), ("lc", SchedulerName::Lc)] {
        (plan, _) = plan.next(Arc::clone(plan.snapshot()), default, Instant::now());
        let (mut next, mut drop_old) = (Vec::new(), Vec::new());
        for generation in 0..200u32 {
            let number = generation * 7919 % services;
            let start = number * endpoints + generation % 2;
            let changed = service(number, start..start + endpoints - 1);
            let change = (changed.name.service.clone(), vec![changed]);
            let snapshot = Arc::new(plan.snapshot().next(&[change]));
            let began = Instant::now();
            let (newer, notices) = plan.next(snapshot, default, began);
            next.push(began.elapsed());
            assert!(notices.is_empty());
            let began = Instant::now();
            plan = newer;
            drop_old.push(began.elapsed());
        }
        println!("  one changed, {what}: next {}, drop {}", spread(next), spread(drop_old));
    }
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("median {:?} p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100])
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn server(name: SchedulerName, endpoints: u32) -> Arc<VirtualServer> {
    let table = snapshot(1, &[service(0, 0..endpoints)]);
    let (plan, _) = Plan::seeded(1).next(table, name, Instant::now());
    let found = plan.virtual_servers().next();
    Arc::clone(found.expect("one Service was planned"))
}

fn pick_many(server: &VirtualServer, picks: usize, seed: u64) -> Duration {
    let mut rng = fastrand::Rng::with_seed(seed);
    let now = Instant::now();
    let began = Instant::now();
    // Four units are open at any time.
    let mut open = [const { None }; 4];
    for number in 0..picks {
        let client = IpAddr::V4(Ipv4Addr::from_bits(0x0c00_0000 + (number % 1000) as u32));
        let request =
            Request { client, policy: TrafficPolicy::Cluster, unit: Unit::Stream, now, tried: &[] };
        open[number % 4] = black_box(server.pick(&request, &mut rng));
    }
    began.elapsed()
}

fn picks(picks: usize) {
    let sizes = [1, 3, 16, 64, 65, 1000, 10_000];
    println!("ns per pick and end, by endpoints {sizes:?}:");
    for &name in SchedulerName::ALL {
        let times = sizes.map(|endpoints| {
            let server = server(name, endpoints);
            pick_many(&server, picks / 10, 1);
            pick_many(&server, picks, 2).as_nanos() as usize / picks
        });
        println!("  {name:6} {times:?}");
    }
}

/// All cores on one virtual server: what the shared atomics cost.
fn threads(picks: usize) {
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get());
    println!("ns per pick and end, {threads} threads on one virtual server of 3 and of 64:");
    for name in [SchedulerName::Rr, SchedulerName::Random, SchedulerName::Lc, SchedulerName::Twos] {
        let times = [3, 64].map(|endpoints| {
            let server = server(name, endpoints);
            let began = Instant::now();
            std::thread::scope(|scope| {
                for seed in 0..threads {
                    let server = &server;
                    scope.spawn(move || pick_many(server, picks, seed as u64));
                }
            });
            began.elapsed().as_nanos() as usize / picks
        });
        println!("  {name:6} {times:?}");
    }
}
