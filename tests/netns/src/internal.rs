//! ClusterIPs by `internalTrafficPolicy` (KEP-2086).
//!
//! Aim: under `Local` only endpoints of the client's node are used, and where there are none, but
//! some elsewhere, a client gets no answer at all: neither theirs nor a reset. Method: endpoints
//! here and elsewhere come and go; a pod and a process of the node ask, in both families.

use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::load::{self, First};
use streamvs_support::tcp::{self, Got, Speak, ask, expect};
use streamvs_support::{Family, lab::Lab};

use crate::scene::{CAPTURES, Scene, address_of, dual_stack_tcp_service, needs_node};

/// The pod of this node and that of another one.
const PODS: [&str; 2] = ["here", "there"];

#[test]
fn local_means_this_nodes_endpoints_or_silence() {
    needs_node!("iptables-nft", "iptables-legacy", "nft");
    let scene = Scene::of(Lab::builder().pod("client").pod(PODS[0]).remote_pod(PODS[1]));
    scene.route_everywhere();
    let endpoints = Family::BOTH.map(|family| (family, scene.tcp(family, Speak::Banner, PODS)));
    for capture in CAPTURES {
        println!("{capture:?}");
        let local = dual_stack_tcp_service().internal_local();
        publish(&scene, &local, &PODS);
        let agent = scene.agent(capture);
        scene.wait_until_used(&agent, &local, &["here"]);
        for (family, endpoints) in &endpoints {
            expect_only_here(&scene, &local, *family, endpoints);
        }

        // Endpoints elsewhere alone: silence. Under the other policy they answer, and where there
        // are none at all clients are refused.
        publish(&scene, &local, &["there"]);
        scene.wait_until_used(&agent, &local, &[]);
        expect_silence(&scene, &local);
        let cluster = dual_stack_tcp_service();
        publish(&scene, &cluster, &["there"]);
        expect_of_all(&scene, &cluster, Got::Served, "Cluster, an endpoint elsewhere");
        publish(&scene, &local, &[]);
        expect_of_all(&scene, &local, Got::Refused, "Local, no endpoint at all");

        publish(&scene, &local, &PODS);
        expect_of_all(&scene, &local, Got::Served, "Local, an endpoint here again");
    }
}

fn publish(scene: &Scene, service: &Service, pods: &[&str]) {
    let ready = |family| {
        pods.iter().map(move |pod| {
            let node = if *pod == "here" { "node" } else { "node2" };
            Endpoint::ready(scene.lab.pod(pod), family).on_node(node)
        })
    };
    let endpoints: Vec<Endpoint> = Family::BOTH.into_iter().flat_map(ready).collect();
    scene.manifests.service(service);
    scene.manifests.endpoints(service, &endpoints);
}

/// Many connections, all of them to this node's endpoint.
fn expect_only_here(scene: &Scene, service: &Service, family: Family, endpoints: &[tcp::Endpoint]) {
    let before: Vec<u64> = endpoints.iter().map(tcp::Endpoint::connections).collect();
    for client in [scene.client(), scene.lab.node()] {
        let report = load::run(client.netns(), address_of(service, family), First::Server, 20);
        assert!(report.failures.is_empty(), "{}: {:?}", client.name(), report.failures);
    }
    let after = endpoints.iter().map(tcp::Endpoint::connections);
    let grown: Vec<u64> = after.zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(grown, [40, 0], "{family:?}: {PODS:?}");
}

/// Every client in every family, all at once.
fn expect_silence(scene: &Scene, service: &Service) {
    // The kernel learns of a change a little after the table.
    let last = address_of(service, Family::V6);
    expect(scene.lab.node(), last, Got::Silence, "Local, an endpoint elsewhere");
    std::thread::scope(|scope| {
        for client in [scene.client(), scene.lab.node()] {
            for family in Family::BOTH {
                scope.spawn(move || {
                    let got = ask(client, address_of(service, family));
                    assert_eq!(got, Got::Silence, "{}, {family:?}", client.name());
                });
            }
        }
    });
}

fn expect_of_all(scene: &Scene, service: &Service, expected: Got, what: &str) {
    for client in [scene.client(), scene.lab.node()] {
        for family in Family::BOTH {
            expect(client, address_of(service, family), expected, what);
        }
    }
}
