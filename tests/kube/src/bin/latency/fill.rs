//! A cluster full of Services that nobody calls.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use serde_json::{Value, json};
use streamvs_test_kube::{Api, Cluster};
use tokio::task::JoinSet;

/// How many objects are written at once: enough to keep the API server busy.
const AT_ONCE: usize = 16;

/// Before the addresses of the Services: 10.96.0.0/24 is for the one that is measured.
const FIRST_SERVICE: u32 = u32::from_be_bytes([10, 96, 1, 0]);

/// Before the addresses of the endpoints, which no host has.
const FIRST_ENDPOINT: u32 = u32::from_be_bytes([10, 130, 0, 0]);

/// Writes `services` Services with a slice of `endpoints` each.
///
/// # Panics
/// When the server refuses one.
pub(crate) fn fill(cluster: &Cluster, services: usize, endpoints: usize) {
    cluster.block_on(|api| async move {
        let next = Rc::new(Cell::new(0));
        let mut writers = JoinSet::new();
        for _ in 0..AT_ONCE {
            writers.spawn_local(write(api.clone(), Rc::clone(&next), services, endpoints));
        }
        while let Some(ended) = writers.join_next().await {
            ended.expect("the API server takes Services and slices");
        }
    });
}

async fn write(api: Api, next: Rc<Cell<usize>>, services: usize, endpoints: usize) {
    loop {
        let number = next.get();
        if number >= services {
            return;
        }
        next.set(number + 1);
        for object in [service(number), slice(number, endpoints)] {
            api.create(&object).await.unwrap_or_else(|error| panic!("{object}: {error}"));
        }
    }
}

fn after(first: u32, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(first + u32::try_from(number).expect("a cluster is smaller than that"))
}

fn service(number: usize) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": format!("idle-{number}"), "namespace": "default" },
        "spec": {
            "clusterIP": after(FIRST_SERVICE, number),
            "ports": [{ "name": "grpc", "port": 80, "targetPort": 9000 }],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let addresses = (0..endpoints).map(|index| after(FIRST_ENDPOINT, number * endpoints + index));
    let endpoints: Vec<Value> = addresses
        .map(|address| {
            json!({
                "addresses": [address],
                "conditions": { "ready": true },
                "nodeName": "other",
                "targetRef": { "kind": "Pod", "namespace": "default", "name": format!("pod-{address}") },
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("idle-{number}-x"),
            "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": format!("idle-{number}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "grpc", "port": 9000, "protocol": "TCP" }],
        "endpoints": endpoints,
    })
}
