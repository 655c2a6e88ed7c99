//! A pick allocates nothing. Counted by an allocator that knows, for this thread alone, how often
//! it was asked.
#![allow(unsafe_code)] // An allocator cannot be written without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_balance::{EjectionPolicy, Fault, Plan, Request, SchedulerName, Unit, VirtualServer};
use streamvs_table::{
    Disposition, Endpoint, PerFamily, PerPolicy, Protocol, ProtocolHint, ServiceName, ServicePort,
    ServicePortName, Snapshot, TrafficPolicy, Usability,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody reads it.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing, since
// the counter is a plain cell made at compile time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the ones System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from System.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as above; the pointer came from System.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations_of(act: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    act();
    ALLOCATIONS.get() - before
}

fn address(number: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, number as u8), 8000 + (number >> 8)))
}

fn virtual_server(
    name: SchedulerName,
    endpoints: u16,
    affinity: Option<Duration>,
) -> Arc<VirtualServer> {
    let mut endpoints: Vec<_> = (0..endpoints)
        .map(|number| Endpoint {
            address: address(number),
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            weight: 1 + number % 3,
            usability: PerPolicy::both(Usability::Ready),
        })
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let service = ServicePort {
        name: ServicePortName {
            service: ServiceName::new("shop", "web"),
            port: "grpc".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: None,
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        max_age: Default::default(),
        affinity,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        endpoints,
        disposition: PerPolicy::both(PerFamily {
            v4: Disposition::Balance,
            v6: Disposition::Reject,
        }),
        reasons: Default::default(),
    };
    let (snapshot, _) = Snapshot::new(1, vec![Arc::new(service)]);
    let plan = Plan::seeded(1).ejecting(EjectionPolicy::default(), Arc::new(|_| {}));
    let (plan, _) = plan.next(Arc::new(snapshot), name, Instant::now());
    let found = plan.virtual_servers().next();
    Arc::clone(found.expect("one Service was planned"))
}

/// Picks for this many clients, twice, holding all choices at once.
const CLIENTS: u32 = 200;

fn pick_for_all(server: &VirtualServer, tried: &[SocketAddr], rng: &mut fastrand::Rng) -> u64 {
    let mut choices = Vec::with_capacity(2 * CLIENTS as usize);
    let now = Instant::now();
    let allocations = allocations_of(|| {
        for number in (0..CLIENTS).chain(0..CLIENTS) {
            let client = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
            let request = Request {
                client,
                policy: TrafficPolicy::Cluster,
                unit: Unit::Connection,
                now,
                tried,
            };
            choices.extend(server.pick(&request, rng));
        }
        // Some become streams and all end.
        for choice in choices.drain(..) {
            drop(choice.into_unit(Unit::Stream));
        }
    });
    assert!(choices.capacity() >= 2 * CLIENTS as usize);
    allocations
}

#[test]
fn the_counter_counts() {
    let counted = allocations_of(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(counted, 1);
}

#[test]
fn no_scheduler_allocates_for_a_pick() {
    let mut rng = fastrand::Rng::with_seed(1);
    for &name in SchedulerName::ALL {
        for endpoints in [0, 1, 3, 64, 65, 1000] {
            let server = virtual_server(name, endpoints, None);
            for tried in [&[][..], &[address(0)], &[address(2), address(1)]] {
                let allocations = pick_for_all(&server, tried, &mut rng);
                assert_eq!(allocations, 0, "{name}, {endpoints} endpoints");
            }
        }
    }
}

/// Ejects every second endpoint.
fn eject_half(server: &VirtualServer) {
    let now = Instant::now();
    for target in server.targets().iter().step_by(2) {
        for fault in 0..5 {
            server.fault(target, Fault::DialFailed, now + Duration::from_nanos(fault));
        }
    }
}

#[test]
fn no_scheduler_allocates_while_half_of_the_endpoints_are_ejected() {
    let mut rng = fastrand::Rng::with_seed(1);
    for &name in SchedulerName::ALL {
        for endpoints in [2, 3, 64, 65, 1000] {
            let server = virtual_server(name, endpoints, None);
            eject_half(&server);
            let ejected = server.targets().iter().filter(|target| target.is_ejected()).count();
            assert_eq!(ejected, usize::from(endpoints) / 2, "{name}");
            for tried in [&[][..], &[address(0)], &[address(2), address(1)]] {
                let allocations = pick_for_all(&server, tried, &mut rng);
                assert_eq!(allocations, 0, "{name}, {endpoints} endpoints");
            }
        }
    }
}

#[test]
fn faults_and_answers_of_an_endpoint_in_use_cost_no_allocation() {
    let server = virtual_server(SchedulerName::Rr, 3, None);
    let target = &server.targets()[0];
    target.stats().streams.inc();
    let now = Instant::now();
    let allocations = allocations_of(|| {
        for fault in 0..100 {
            server.fault(target, Fault::Unavailable, now + Duration::from_nanos(fault));
            if fault % 7 == 0 {
                target.answered();
            }
        }
    });
    assert!(target.is_ejected());
    assert_eq!(allocations, 0);
}

#[test]
fn a_known_client_under_affinity_costs_no_allocation() {
    let mut rng = fastrand::Rng::with_seed(1);
    let server = virtual_server(SchedulerName::Rr, 10, Some(Duration::from_secs(10_800)));
    let first = pick_for_all(&server, &[], &mut rng);
    assert!(first > 0, "new clients take memory");
    assert!(first < u64::from(CLIENTS), "which grows in steps: {first}");
    assert_eq!(pick_for_all(&server, &[], &mut rng), 0);
    assert_eq!(pick_for_all(&server, &[address(0)], &mut rng), 0);
    eject_half(&server);
    assert_eq!(pick_for_all(&server, &[], &mut rng), 0);
}
