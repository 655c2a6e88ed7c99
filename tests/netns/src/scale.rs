//! Aim: what the kernel path costs among 10,000 Services of 5 endpoints, as figures to look at.
//! Method: one file of Services that nobody asks, one Service that answers; the times are the
//! agent's own metrics and a client's clock. Only what does not depend on the machine is demanded.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::manifest::Service;
use streamvs_support::udp::{self, Client, ask_anew};
use streamvs_support::wait::eventually;

use crate::scene::{PODS, Scene, address, needs_node};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 5;
const PORT: u16 = 5353;

/// Services over TCP and UDP by turns, with endpoints that no host has.
fn crowd() -> Value {
    let address = |first: [u8; 4], number: u32| Ipv4Addr::from(u32::from_be_bytes(first) + number);
    let items: Vec<Value> = (0..SERVICES)
        .flat_map(|number| {
            let name = format!("idle-{number}");
            let protocol = ["TCP", "UDP"][number as usize % 2];
            let endpoints: Vec<Value> = (0..ENDPOINTS)
                .map(|place| address([10, 130, 0, 0], number * ENDPOINTS + place))
                .map(|ip| json!({ "addresses": [ip], "nodeName": "other" }))
                .collect();
            [
                json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": { "name": name, "namespace": "crowd" },
                    "spec": {
                        "clusterIP": address([10, 97, 0, 0], number),
                        "ports": [{ "name": "it", "port": 80, "protocol": protocol }],
                    },
                }),
                json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "name": name,
                        "namespace": "crowd",
                        "labels": { "kubernetes.io/service-name": name },
                    },
                    "addressType": "IPv4",
                    "ports": [{ "name": "it", "port": 9000, "protocol": protocol }],
                    "endpoints": endpoints,
                }),
            ]
        })
        .collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// How often rules were synced, and how long that took in all.
fn syncs(agent: &Agent, which: &str) -> (f64, Duration) {
    let name = format!("kubeproxy_sync_{which}_proxy_rules_duration_seconds");
    let labels = [("ip_family", "IPv4")];
    let of = |part: &str| agent.metric(&format!("{name}_{part}"), &labels).unwrap_or_default();
    (of("count"), Duration::from_secs_f64(of("sum")))
}

/// How often the agent looked for stale UDP flows, and how long that took in all.
fn looks(agent: &Agent) -> (f64, Duration) {
    let name = "kubeproxy_conntrack_reconciler_sync_duration_seconds";
    let of = |part: &str| agent.metric(&format!("{name}_{part}"), &[]).unwrap_or_default();
    (of("count"), Duration::from_secs_f64(of("sum")))
}

/// The middle of how long the first answer on a new socket takes.
fn first_answer(scene: &Scene, to: SocketAddr) -> Duration {
    let mut times: Vec<Duration> = (0..300)
        .map(|_| {
            let client = Client::new(scene.client(), to);
            let asked = Instant::now();
            client.ask().expect("an endpoint answers");
            asked.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_change_among_ten_thousand_services_is_one_of_few_elements() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = Service::new("dns", &[Family::V4], 53).port("dns", 80, PORT).protocol("UDP");
    let _endpoints = PODS.map(|pod| udp::Endpoint::start(scene.lab.pod(pod), Family::V4, PORT));
    scene.manifests.text("crowd.json", &crowd().to_string());
    scene.publish(&service, &PODS);
    let started = Instant::now();
    let agent = scene.agent(&["--kube-proxy-replacement", "-v", "debug"]);
    let start = started.elapsed();
    let (_, program) = syncs(&agent, "full");
    let answered = ask_anew(scene.client(), address(&service), 9);
    assert_eq!(answered.len(), 3, "the one that answers is served: {answered:?}");

    let (count_before, before) = syncs(&agent, "partial");
    let looks_before = looks(&agent);
    for round in 0..20 {
        let pods = if round % 2 == 0 { &PODS[..2] } else { &PODS[..] };
        scene.publish(&service, pods);
        eventually("the change is in the kernel", PATIENCE, || {
            syncs(&agent, "partial").0 > count_before + f64::from(round)
        });
    }
    let (count, total) = syncs(&agent, "partial");
    let change = (total - before).div_f64(count - count_before);
    let (looked, took) = looks(&agent);
    let look = (took - looks_before.1).div_f64((looked - looks_before.0).max(1.0));
    let largest = agent
        .log()
        .lines()
        .filter(|line| line.contains("the kernel path follows"))
        .filter_map(|line| {
            let (_, bytes) = line.split_once("script_bytes=")?;
            bytes.split_whitespace().next()?.parse::<usize>().ok()
        })
        .max();
    assert!(largest.is_some_and(|bytes| bytes < 2_000), "the difference only: {largest:?}");

    let direct = first_answer(&scene, scene.lab.pod("a").at(Family::V4, PORT));
    let through = first_answer(&scene, address(&service));
    println!(
        "{SERVICES} Services of {ENDPOINTS}: agent ready in {start:?}, of which the kernel's rules \
         {program:?}; one change {change:?} in {largest:?} octets, \
         of which a look at all flows {look:?}; first answer {through:?}, \
         direct {direct:?}"
    );
}
