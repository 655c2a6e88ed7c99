//! Aim: what a change costs does not depend on how many other Services there are.
//! Method: one EndpointSlice changes in tables of 100 and of 10,000 Services, all the way from the
//! object to the plan, and an allocator counts what was asked of it. Bytes, not time: they are the
//! same on every machine.
#![allow(unsafe_code)] // An allocator cannot be written without.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use streamvs_balance::{Plan, SchedulerName};
use streamvs_resolve::{Change, Config, Resolver};

struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // A thread that is ending has no counter any more, and nobody reads it.
    let _ = BYTES.try_with(|counter| counter.set(counter.get() + bytes));
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing, since
// the counter is a plain cell made at compile time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are the ones System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from System.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: as above; the pointer came from System.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Of each Service.
const ENDPOINTS: usize = 10;

fn metadata(name: String, service: Option<String>) -> ObjectMeta {
    let labels = service.map(|service| ("kubernetes.io/service-name".to_owned(), service));
    ObjectMeta {
        namespace: Some("shop".to_owned()),
        name: Some(name),
        labels: labels.map(|label| BTreeMap::from([label])),
        ..ObjectMeta::default()
    }
}

fn service(number: usize) -> Change {
    let port = ServicePort { port: 80, ..ServicePort::default() };
    let spec = ServiceSpec {
        cluster_ip: Some(format!("10.96.{}.{}", number / 250, number % 250 + 1)),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    let metadata = metadata(format!("service-{number}"), None);
    Change::Service(Box::new(Service { metadata, spec: Some(spec), status: None }))
}

/// `version` is in the endpoints' addresses.
fn slice(number: usize, version: usize, endpoints: usize) -> Change {
    let endpoint = |index| Endpoint {
        addresses: vec![format!("10.{version}.{}.{}", number / 25, number % 25 * 10 + index)],
        ..Endpoint::default()
    };
    let port = EndpointPort { name: Some(String::new()), port: Some(8080), ..Default::default() };
    Change::Slice(Box::new(EndpointSlice {
        address_type: "IPv4".to_owned(),
        endpoints: Some((0..endpoints).map(endpoint).collect()),
        metadata: metadata(format!("slice-{number}"), Some(format!("service-{number}"))),
        ports: Some(vec![port]),
    }))
}

struct Node {
    resolver: Resolver,
    plan: Plan,
}

impl Node {
    fn with(services: usize) -> Self {
        let config = Config {
            node_name: "node-1".into(),
            service_proxy_name: None,
            allow_external_ips: Vec::new(),
        };
        let mut resolver = Resolver::new(config);
        for number in 0..services {
            resolver.apply(service(number));
            resolver.apply(slice(number, 1, ENDPOINTS));
        }
        let mut node = Self { resolver, plan: Plan::seeded(1) };
        assert!(node.publish());
        node
    }

    /// As the agent does it for each table. True: the kernel was to be told.
    fn publish(&mut self) -> bool {
        let (snapshot, notices) = self.resolver.resolve().expect("something changed");
        assert!(notices.is_empty());
        self.resolver.take_changes();
        let snapshot = Arc::new(snapshot);
        let before = Arc::clone(self.plan.snapshot());
        (self.plan, _) = self.plan.next(Arc::clone(&snapshot), SchedulerName::Rr, Instant::now());
        !snapshot.is_reached_as(&before)
    }

    /// The most bytes that a change asks for, over Services in many places of the table.
    fn worst_bytes(&mut self, tells_kernel: bool, change: impl Fn(usize) -> Change) -> usize {
        let numbers = (0..100).map(|step| step * 7919 % 100);
        let bytes = numbers.map(|number| {
            let change = change(number);
            let before = BYTES.get();
            self.resolver.apply(change);
            assert_eq!(self.publish(), tells_kernel);
            BYTES.get() - before
        });
        bytes.max().expect("a hundred changes")
    }
}

#[test]
fn a_change_costs_no_more_among_10000_services_than_among_100() {
    let costs = [100, 10_000].map(|services| {
        let mut node = Node::with(services);
        let all_new = node.worst_bytes(false, |number| slice(number, 2, ENDPOINTS));
        let one_gone = node.worst_bytes(false, |number| slice(number, 2, ENDPOINTS - 1));
        let last_gone = node.worst_bytes(true, |number| slice(number, 2, 0));
        [all_new, one_gone, last_gone]
    });
    println!("bytes for a change among 100 and 10,000 Services: {costs:?}");
    for (few, many) in costs[0].into_iter().zip(costs[1]) {
        assert!(many <= 2 * few, "{many} bytes among 10,000 Services, {few} among 100");
    }
}
