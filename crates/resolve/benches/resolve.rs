//! How long a table takes: the first one, and the next after one endpoint changed.
//!
//! Aim: to know both before they hurt; the goal is 5 ms from a changed endpoint to its use with
//! 10,000 Services, of which this is one part. Method: generated objects, wall clock of this
//! process, every change followed by a resolve, as the control loop does at its worst. Run by
//! `cargo bench -p streamvs-resolve --profile fast`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use streamvs_resolve::{Change, Config, Resolver};

const SLICE_SIZE: u32 = 100;
const NODES: u32 = 5_000;
const CHANGES: u32 = 2_000;

fn main() {
    measure(10_000, 250_000);
    measure(30_000, 250_000);
    measure(10, 250_000);
}

fn measure(services: u32, endpoints: u32) {
    let per_service = endpoints / services;
    let before = resident_mib();
    let mut resolver = Resolver::new(Config {
        node_name: "n0".into(),
        service_proxy_name: None,
        allow_external_ips: Vec::new(),
    });
    let mut applying = Duration::ZERO;
    let mut apply = |change| {
        // Objects are made one by one and dropped within, as from a watch.
        let start = Instant::now();
        black_box(resolver.apply(change));
        applying += start.elapsed();
    };
    for service in 0..services {
        apply(Change::Service(Box::new(make_service(service))));
        for first in (0..per_service).step_by(SLICE_SIZE as usize) {
            let count = SLICE_SIZE.min(per_service - first);
            let slice = make_slice(service, service * per_service + first, count);
            apply(Change::Slice(Box::new(slice)));
        }
    }
    let start = Instant::now();
    let (mut snapshot, _) = resolver.resolve().expect("the first table always comes");
    let resolving = start.elapsed();
    println!("{services} Services, {endpoints} endpoints");
    println!("  first table: apply {applying:.1?}, resolve {resolving:.1?}");
    println!("  resident: {before} MiB before, {} MiB after", resident_mib());

    let mut times = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for turn in 0..CHANGES {
        let service = rng.u32(0..services);
        let mut slice = make_slice(service, service * per_service, SLICE_SIZE.min(per_service));
        let index = rng.usize(0..per_service.min(SLICE_SIZE) as usize);
        let endpoints = slice.endpoints.as_mut().expect("just made");
        // The turn makes each change visible, even where chance finds an endpoint twice.
        endpoints[index].addresses[0] = format!("10.200.{}.{}", turn / 250, turn % 250 + 1);
        let change = Change::Slice(Box::new(slice));
        let start = Instant::now();
        resolver.apply(change);
        let next = resolver.resolve();
        times.push(start.elapsed());
        snapshot = next.expect("the endpoint moved").0;
    }
    black_box(&snapshot);
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 1000];
    println!(
        "  one endpoint changed, apply and resolve: p50 {:.2?}, p99 {:.2?}, max {:.2?}",
        at(500),
        at(990),
        at(1000)
    );
}

fn make_service(service: u32) -> Service {
    let cluster_ip =
        format!("10.{}.{}.{}", 96 + (service >> 16), service >> 8 & 255, service & 255);
    Service {
        metadata: metadata(service, format!("svc-{service}")),
        spec: Some(ServiceSpec {
            cluster_ips: Some(vec![cluster_ip.clone()]),
            cluster_ip: Some(cluster_ip),
            ports: Some(vec![ServicePort {
                name: Some("grpc".into()),
                port: 80,
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn make_slice(service: u32, first: u32, count: u32) -> EndpointSlice {
    let endpoint = |number: u32| Endpoint {
        addresses: vec![format!(
            "10.{}.{}.{}",
            128 + (number >> 16),
            number >> 8 & 255,
            number & 255
        )],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: Some(format!("n{}", number % NODES)),
        zone: Some(format!("zone-{}", number % 3)),
        hints: Some(EndpointHints {
            for_nodes: None,
            for_zones: Some(vec![ForZone { name: format!("zone-{}", number % 3) }]),
        }),
        ..Endpoint::default()
    };
    let mut metadata = metadata(service, format!("svc-{service}-{first}"));
    metadata.labels =
        Some([("kubernetes.io/service-name".into(), format!("svc-{service}"))].into());
    EndpointSlice {
        address_type: "IPv4".into(),
        endpoints: Some((first..first + count).map(endpoint).collect()),
        metadata,
        ports: Some(vec![EndpointPort {
            name: Some("grpc".into()),
            port: Some(50051),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
    }
}

fn metadata(service: u32, name: String) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(format!("team-{}", service % 100)),
        name: Some(name),
        ..ObjectMeta::default()
    }
}

/// What the kernel counts as resident for this process.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
