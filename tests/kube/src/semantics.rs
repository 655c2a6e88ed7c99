//! Aim: the rules of Kubernetes for Services hold for what comes from the API: which endpoints get
//! calls, and what becomes of a connect when none does. Method: one Service and its slices are
//! written again and again; after each the endpoints in use are read and called.
//!
//! Each step follows from the one before, so that every rule is also seen to take effect, and to
//! cease, while the agent runs.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::wait::eventually_equals;

use crate::scene::{PODS, Scene, TARGET_PORT, address, grpc_service, needs_node};

/// What a connect from a pod of this node comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Calls are answered by all that are used.
    Served,
    /// Reset at once: there is nobody.
    Refused,
    /// Nothing comes back: there is somebody, on other nodes.
    Silence,
}

use Answer::{Refused, Served, Silence};

/// The agent's node stands in this zone.
const HERE: &str = "zone-a";

fn at(scene: &Scene, pod: &str, fields: Value) -> Value {
    let mut endpoint = json!({ "addresses": [scene.lab.pod(pod).ip(Family::V4)] });
    for (key, value) in fields.as_object().expect("fields of an endpoint") {
        endpoint[key] = value.clone();
    }
    endpoint
}

fn slice(name: &str, port: (&str, u16), endpoints: &[Value]) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": "echo" } },
        "addressType": "IPv4",
        "ports": [{ "name": port.0, "port": port.1 }],
        "endpoints": endpoints,
    })
}

/// The Service with these fields in its `spec`, and its port's name.
fn service(port_name: &str, spec: Value) -> Value {
    let mut object = grpc_service(&[Family::V4]).object();
    object["spec"]["ports"][0]["name"] = port_name.into();
    for (key, value) in spec.as_object().expect("fields of a spec") {
        object["spec"][key] = value.clone();
    }
    object
}

/// Waits until exactly these are used, and the connect comes to that.
#[track_caller]
fn expect(scene: &Scene, agent: &Agent, what: &str, used: &[(&str, u16)], answer: Answer) {
    let mut wanted: Vec<SocketAddr> =
        used.iter().map(|(pod, port)| scene.lab.pod(pod).at(Family::V4, *port)).collect();
    wanted.sort();
    eventually_equals(&format!("{what}: the endpoints in use"), PATIENCE, &wanted, || {
        agent.usable("echo")
    });
    let target = address(&grpc_service(&[Family::V4]), Family::V4);
    eventually_equals(&format!("{what}: the answer"), PATIENCE, &answer, || {
        scene.client().run(|| match TcpStream::connect_timeout(&target, Duration::from_secs(1)) {
            Ok(_) => Served,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Refused,
            Err(_) => Silence,
        })
    });
}

/// The same, and calls go to each of them and nobody else.
#[track_caller]
fn expect_calls(scene: &Scene, agent: &Agent, what: &str, used: &[&str]) {
    let endpoints: Vec<_> = used.iter().map(|pod| (*pod, TARGET_PORT)).collect();
    expect(scene, agent, what, &endpoints, Served);
    let target = address(&grpc_service(&[Family::V4]), Family::V4);
    let report = Load::unary(target, 1).calls(30).run(scene.client()).without_failure();
    for pod in PODS {
        assert_eq!(report.of(pod) > 0, used.contains(&pod), "{what}: {:?}", report.calls);
    }
}

#[test]
fn the_rules_for_services_hold_for_what_the_server_tells() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let agent = scene.agent(&[]);
    let cluster = &scene.cluster;
    let (ready, gone) = (json!({ "ready": true }), json!({ "ready": false, "serving": false }));
    let ending = |serving: bool| json!({ "ready": false, "serving": serving, "terminating": true });
    let local = json!({ "internalTrafficPolicy": "Local" });
    let zone = |name: &str| json!({ "hints": { "forZones": [{ "name": name }] } });
    let node = |name: &str| json!({ "hints": { "forZones": [{ "name": HERE }], "forNodes": [{ "name": name }] } });
    let with = |conditions: &Value| json!({ "conditions": conditions });
    let on = |node: &str, conditions: &Value| json!({ "nodeName": node, "conditions": conditions });

    // What, the Service's fields, endpoints, who is used, what a connect comes to.
    type Step<'a> = (&'a str, Value, Vec<(&'a str, Value)>, &'a [&'a str], Answer);
    let steps: Vec<Step<'_>> = vec![
        (
            "missing conditions mean ready",
            json!({}),
            vec![("a", json!({})), ("b", with(&gone)), ("c", with(&ready))],
            &["a", "c"],
            Served,
        ),
        (
            "publishNotReadyAddresses: ready is all that counts",
            json!({ "publishNotReadyAddresses": true }),
            vec![("b", with(&json!({ "ready": true, "serving": false })))],
            &["b"],
            Served,
        ),
        (
            "the last to serve while terminating are used (KEP-1669)",
            json!({ "publishNotReadyAddresses": false }),
            vec![("a", with(&ending(true))), ("b", with(&ending(false)))],
            &["a"],
            Served,
        ),
        (
            "who terminates and serves no more is not",
            json!({}),
            vec![("a", with(&ending(false))), ("b", with(&gone))],
            &[],
            Refused,
        ),
        (
            "internalTrafficPolicy Local: those of this node (KEP-2086)",
            local.clone(),
            vec![("a", on("node", &ready)), ("b", on("other", &ready)), ("c", with(&ready))],
            &["a"],
            Served,
        ),
        (
            "of this node also while terminating, whoever is ready elsewhere",
            local.clone(),
            vec![("b", on("node", &ending(true))), ("c", on("other", &ready))],
            &["b"],
            Served,
        ),
        (
            "none of this node: dropped",
            local.clone(),
            vec![("c", on("other", &ready))],
            &[],
            Silence,
        ),
        ("none anywhere: refused", local, vec![("c", on("other", &gone))], &[], Refused),
        (
            "hints for this zone (KEP-2433)",
            json!({ "internalTrafficPolicy": "Cluster" }),
            vec![("a", zone(HERE)), ("b", zone("zone-b")), ("c", zone(HERE))],
            &["a", "c"],
            Served,
        ),
        (
            "one without a hint: hints are ignored",
            json!({}),
            vec![("a", zone(HERE)), ("b", json!({})), ("c", zone("zone-b"))],
            &PODS,
            Served,
        ),
        (
            "no hint for this zone: hints are ignored",
            json!({}),
            vec![("a", zone("zone-b")), ("b", zone("zone-c"))],
            &["a", "b"],
            Served,
        ),
        (
            "hints for this node before those for its zone (KEP-3015)",
            json!({}),
            vec![("a", node("other")), ("b", node("node")), ("c", node("other"))],
            &["b"],
            Served,
        ),
    ];
    for (what, spec, endpoints, used, answer) in steps {
        let endpoints: Vec<_> =
            endpoints.into_iter().map(|(pod, fields)| at(&scene, pod, fields)).collect();
        cluster.apply(&[service("grpc", spec), slice("echo-v4", ("grpc", 9000), &endpoints)]);
        if answer == Served {
            expect_calls(&scene, &agent, what, used);
        } else {
            expect(&scene, &agent, what, &[], answer);
        }
    }

    let all = PODS.map(|pod| at(&scene, pod, json!({})));
    let affinity = |value: &str| json!({ "sessionAffinity": value });
    cluster.apply(&[
        service("grpc", affinity("ClientIP")),
        slice("echo-v4", ("grpc", TARGET_PORT), &all),
    ]);
    let everyone = PODS.map(|pod| (pod, TARGET_PORT));
    expect(&scene, &agent, "sessionAffinity: all may be used", &everyone, Served);
    let target = address(&grpc_service(&[Family::V4]), Family::V4);
    let report = Load::unary(target, 3).calls(60).run(scene.client()).without_failure();
    let chosen = PODS.iter().filter(|pod| report.of(pod) > 0).count();
    assert_eq!(chosen, 1, "sessionAffinity: a client has one: {:?}", report.calls);
    cluster.apply(&[service("grpc", affinity("None"))]);
    expect_calls(&scene, &agent, "without affinity again", &PODS);

    // A named target port may be another number in each slice; who stands in two is used once.
    cluster.apply(&[
        slice("echo-v4", ("grpc", TARGET_PORT), &all[..2]),
        slice("echo-other", ("grpc", 9001), &all[2..]),
        slice("echo-twice", ("grpc", TARGET_PORT), &all[1..2]),
    ]);
    let numbers = [("a", TARGET_PORT), ("b", TARGET_PORT), ("c", 9001)];
    expect(&scene, &agent, "two numbers for one name", &numbers, Served);
    cluster.delete(&slice("echo-other", ("grpc", 9001), &[]));
    cluster.delete(&slice("echo-twice", ("grpc", TARGET_PORT), &[]));

    cluster.apply(&[service("renamed", json!({}))]);
    expect(&scene, &agent, "the port has a name that no slice has", &[], Refused);
    cluster.apply(&[slice("echo-v4", ("renamed", TARGET_PORT), &all)]);
    expect_calls(&scene, &agent, "slices follow", &PODS);

    // The most that a slice may hold; only those of this node exist, so nobody calls.
    let addresses = (0..1000_u32).map(|number| IpAddr::from((0x0afa_0000 + number).to_be_bytes()));
    let endpoints: Vec<_> = addresses.map(|ip| json!({ "addresses": [ip] })).collect();
    cluster.apply(&[slice("echo-v4", ("renamed", TARGET_PORT), &endpoints)]);
    eventually_equals("a slice of 1,000 endpoints", PATIENCE, &1000, || agent.usable("echo").len());

    // Not ours: ours no more from the moment the label says so, and ours again.
    let mut foreign = service("renamed", json!({}));
    foreign["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "x" });
    cluster.apply(&[foreign, slice("echo-v4", ("renamed", TARGET_PORT), &all)]);
    expect(&scene, &agent, "another proxy's", &[], Silence);
    // What is not applied any more is taken away.
    cluster.apply(&[service("renamed", json!({}))]);
    expect_calls(&scene, &agent, "ours again", &PODS);
}
