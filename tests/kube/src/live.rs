//! Aim: what changes on a Node or a Service in use takes effect while the agent runs, and ceases.
//! Method: each claim has a Service of its own, changed through the API, called after each change.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value, json};
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::manifest::Service;
use streamvs_support::tcp::load::{self, First};
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, tcp, udp};

use crate::scene::{PODS, SERVICE_PORT, Scene, TARGET_PORT, address, connect, needs_node};

/// Where TCP and UDP endpoints listen that do not speak gRPC.
const TCP_PORT: u16 = 8080;
const UDP_PORT: u16 = 5353;

const ZONE: &str = "topology.kubernetes.io/zone";

fn service(name: &str, families: &[Family], number: u8) -> Service {
    Service::new(name, families, number).port("main", SERVICE_PORT, TARGET_PORT)
}

/// What `explain` says of the first port of a Service.
fn explained(agent: &Agent, service: &Service) -> Value {
    let name = format!("default/{}", service.name());
    let output = agent.command(&["explain", &name, "-o", "json"]);
    let explained: Value = serde_json::from_slice(&output.stdout).expect("explain gives JSON");
    explained["ports"][0].clone()
}

/// Demands that calls on one connection are answered by exactly these pods.
#[track_caller]
fn expect_calls(scene: &Scene, what: &str, service: &Service, family: Family, pods: &[&str]) {
    let target = address(service, family);
    // The table knows of an address a little before the kernel does.
    eventually_equals(what, PATIENCE, &Ok(()), || connect(scene, target));
    let report = Load::unary(target, 1).calls(30).run(scene.client()).without_failure();
    let answered: Vec<&str> = report.calls.keys().map(String::as_str).collect();
    assert_eq!(answered, pods, "{what}: {:?}", report.calls);
}

/// Demands that nobody answers for an address any more.
#[track_caller]
fn expect_nobody(scene: &Scene, what: &str, service: &Service, family: Family) {
    let nobody = Err(ErrorKind::TimedOut);
    eventually_equals(what, PATIENCE, &nobody, || connect(scene, address(service, family)));
}

#[test]
fn what_changes_on_objects_in_use_takes_effect() {
    needs_node!("nft");
    let scene = Scene::new();
    let _grpc = Family::BOTH.map(|family| scene.grpc(family));
    let _others = PODS.map(|pod| {
        let host = scene.lab.pod(pod);
        let tcp = tcp::Endpoint::start(host, Family::V4, TCP_PORT, tcp::Speak::Echo);
        (tcp, udp::Endpoint::start(host, Family::V4, UDP_PORT))
    });
    let agent = scene.agent(&[]);
    a_node_that_changes_its_zone_or_loses_it_heeds_the_hints_for_where_it_is(&scene, &agent);
    a_service_gets_a_second_family_and_loses_it(&scene);
    a_service_that_gives_up_its_address_is_nobodys(&scene, &agent);
    what_is_said_of_a_protocol_decides_how_it_is_balanced(&scene, &agent);
    drop(agent);
    let agent = scene.agent(&["--kube-proxy-replacement"]);
    an_affinity_ends_with_its_timeout(&scene, &agent);
}

fn a_node_that_changes_its_zone_or_loses_it_heeds_the_hints_for_where_it_is(
    scene: &Scene,
    agent: &Agent,
) {
    let service = service("zoned", &[Family::V4], 20);
    scene.publish(&service, &PODS);
    let mut slice = service.slices(&scene.ready(&service, &PODS)).remove(0);
    for (endpoint, zone) in ["zone-a", "zone-b", "zone-a"].into_iter().enumerate() {
        slice["endpoints"][endpoint]["hints"] = json!({ "forZones": [{ "name": zone }] });
    }
    scene.cluster.apply(&[slice]);
    let relabel = |label: &str| {
        scene.cluster.kubectl(&["label", "--overwrite", "node/node", label], "");
    };
    let expect = |what: &str, pods: &[&str], topology: &str| {
        scene.wait_until_used(agent, &service, pods);
        expect_calls(scene, what, &service, Family::V4, pods);
        let said = explained(agent, &service)["families"][0]["topology"].clone();
        assert!(said.as_str().is_some_and(|said| said.contains(topology)), "{what}: {said}");
    };
    expect("in zone-a", &["a", "c"], "this node's zone are used");
    relabel(&format!("{ZONE}=zone-b"));
    expect("moved to zone-b", &["b"], "this node's zone are used");
    relabel(&format!("{ZONE}-"));
    expect("without a zone", &PODS, "this node has no label topology.kubernetes.io/zone");
    relabel(&format!("{ZONE}=zone-a"));
    expect("back in zone-a", &["a", "c"], "this node's zone are used");
}

fn a_service_gets_a_second_family_and_loses_it(scene: &Scene) {
    let single = service("family", &[Family::V4], 30);
    let dual = service("family", &Family::BOTH, 30);
    scene.publish(&single, &PODS);
    expect_calls(scene, "one family", &single, Family::V4, &PODS);
    let steady = Load::unary(address(&single, Family::V4), 1).start(scene.client());
    for round in ["first", "second"] {
        let what = |what: &str| format!("{what}, for the {round} time");
        scene.publish(&dual, &PODS);
        for family in Family::BOTH {
            expect_calls(scene, &what("dual-stack"), &dual, family, &PODS);
        }
        // The slice of the other family is left behind, as it is for a moment in a cluster.
        scene.cluster.apply(&[single.object()]);
        expect_nobody(scene, &what("single-stack"), &dual, Family::V6);
        expect_calls(scene, &what("single-stack"), &single, Family::V4, &PODS);
    }
    steady.stop().without_failure();

    let only = service("only-six", &[Family::V6], 31);
    scene.publish(&only, &["a", "b"]);
    expect_calls(scene, "IPv6 only", &only, Family::V6, &["a", "b"]);
}

fn a_service_that_gives_up_its_address_is_nobodys(scene: &Scene, agent: &Agent) {
    let service = service("fickle", &[Family::V4], 40);
    let with = |spec: Value| {
        let mut object = service.object();
        object["spec"] = spec;
        object["spec"]["ports"] = service.object()["spec"]["ports"].clone();
        scene.cluster.apply(&[object]);
    };
    let expect_gone = |what: &str| {
        eventually(what, PATIENCE, || {
            agent.list().iter().all(|port| port["name"] != service.name())
        });
        expect_nobody(scene, what, &service, Family::V4);
    };
    scene.publish(&service, &PODS);
    expect_calls(scene, "with an address", &service, Family::V4, &PODS);
    with(json!({ "type": "ExternalName", "externalName": "elsewhere.example" }));
    expect_gone("ExternalName");
    scene.cluster.apply(&[service.object()]);
    expect_calls(scene, "with its address again", &service, Family::V4, &PODS);
    // The API takes an address away only by way of ExternalName, or with the Service.
    with(json!({ "type": "ExternalName", "externalName": "elsewhere.example" }));
    with(json!({ "type": "ClusterIP", "clusterIP": "None" }));
    expect_gone("headless");
    scene.cluster.delete(&service.object());
    scene.cluster.apply(&[service.object()]);
    expect_calls(scene, "made anew with its address", &service, Family::V4, &PODS);
    scene.cluster.delete(&service.object());
    with(json!({ "type": "ClusterIP", "clusterIP": "None" }));
    expect_gone("made anew and headless");
}

fn what_is_said_of_a_protocol_decides_how_it_is_balanced(scene: &Scene, agent: &Agent) {
    let plain = || service("said", &[Family::V4], 50);
    let by_annotation = |value: &str| {
        plain().app_protocol("kubernetes.io/h2c").annotation("streamvs.io/protocol", value)
    };
    scene.publish(&plain(), &PODS);
    for (service, hint, source) in [
        (plain(), "auto", "nothing says otherwise"),
        (plain().app_protocol("tcp"), "tcp", "appProtocol tcp (KEP-3726)"),
        (
            plain().app_protocol("kubernetes.io/h2c"),
            "h2c",
            "appProtocol kubernetes.io/h2c (KEP-3726)",
        ),
        (by_annotation("tcp"), "tcp", "annotation streamvs.io/protocol"),
        (by_annotation("auto"), "auto", "annotation streamvs.io/protocol"),
        (
            plain().annotation("streamvs.io/protocol", "h2c"),
            "h2c",
            "annotation streamvs.io/protocol",
        ),
        (plain(), "auto", "nothing says otherwise"),
    ] {
        scene.cluster.apply(&[service.object()]);
        let wanted = [json!(hint), json!(source)];
        eventually_equals("the hint", PATIENCE, &wanted, || {
            let port = explained(agent, &service);
            ["protocolHint", "protocolHintSource"].map(|field| port[field].clone())
        });
        let target = address(&service, Family::V4);
        eventually_equals("it answers", PATIENCE, &Ok(()), || connect(scene, target));
        let report = Load::unary(target, 1).calls(30).run(scene.client()).without_failure();
        let pods = if hint == "tcp" { 1 } else { PODS.len() };
        assert_eq!(report.calls.len(), pods, "{hint} by {source}: {:?}", report.calls);
    }
}

fn an_affinity_ends_with_its_timeout(scene: &Scene, agent: &Agent) {
    let service = |timeout_seconds| {
        Service::new("sticky", &[Family::V4], 60)
            .port("tcp", SERVICE_PORT, TCP_PORT)
            .port("udp", SERVICE_PORT, UDP_PORT)
            .protocol("UDP")
            .affinity(timeout_seconds)
    };
    let target = address(&service(1), Family::V4);
    let by_tcp = |count| -> BTreeSet<String> {
        let report = load::run(scene.client(), target, First::Client, count);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        report.connections.into_keys().collect()
    };
    let by_udp = |count| -> BTreeSet<String> {
        udp::ask_anew(scene.client(), target, count).into_keys().collect()
    };
    scene.publish(&service(600), &PODS);
    eventually_equals("it answers", PATIENCE, &Ok(()), || connect(scene, target));
    // The kernel path is told after capture.
    eventually("the kernel answers", PATIENCE, || {
        udp::Client::new(scene.client(), target).ask_within(Duration::from_millis(200)).is_ok()
    });
    assert_eq!((by_tcp(6).len(), by_udp(6).len()), (1, 1), "one endpoint for each protocol");

    scene.cluster.apply(&[service(1).object()]);
    eventually("both ports have the new timeout", PATIENCE, || {
        let list = agent.list();
        let mut ports = list.iter().filter(|port| port["name"] == "sticky");
        ports.all(|port| port["affinitySeconds"] == 1)
    });
    // Nothing but time ends an affinity. A change of the Service might too, but once.
    let (mut tcp, mut udp) = (BTreeSet::new(), BTreeSet::new());
    // By chance in the kernel: one of three stays away from 50 draws once in 10^8 times.
    eventually("each endpoint was met by each protocol", 4 * PATIENCE, || {
        std::thread::sleep(Duration::from_millis(1200));
        tcp.extend(by_tcp(1));
        udp.extend(by_udp(1));
        tcp.len() == PODS.len() && udp.len() == PODS.len()
    });
}
