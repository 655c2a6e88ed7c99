//! Aim: the rules of Kubernetes for Services hold for what comes from the API: which endpoints get
//! calls, and what becomes of a connect when none does; and `streamvs explain` names the rule.
//! Method: one Service of both families and its slices are written again and again; after each the
//! endpoints in use are read, explained and called.
//!
//! Each step follows from the one before, so that every rule is also seen to take effect, and to
//! cease, while the agent runs.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::wait::eventually_equals;

use crate::scene::{PODS, Scene, TARGET_PORT, address, connect, grpc_service, needs_node};

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

/// What becomes of an endpoint, and the rule that says so in `explain`.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Used(&'static str),
    Unused(&'static str),
}

use Verdict::{Unused, Used};

/// Rules as `explain` names them.
const READY: &str = "conditions.ready, KEP-752";
const NOT_READY: &str = "conditions.ready, KEP-1669";
const LAST_TO_SERVE: &str = "conditions.serving and terminating, KEP-1669";
const POLICY: &str = "spec.internalTrafficPolicy, KEP-2086";
const ZONE_HINT: &str = "hints.forZones, KEP-2433";
const NODE_HINT: &str = "hints.forNodes, KEP-3015";

/// What is written, and what comes of it.
struct Step {
    what: &'static str,
    /// Fields of the Service's `spec`.
    spec: Value,
    /// Pods, the fields of their endpoints, and what becomes of them.
    endpoints: Vec<(&'static str, Value, Verdict)>,
    answer: Answer,
}

/// The agent's node stands in this zone.
const HERE: &str = "zone-a";

/// A slice of each family, with these endpoints, whose port has this name and number.
fn slices(scene: &Scene, name: &str, port: (&str, u16), endpoints: &[(&str, Value)]) -> [Value; 2] {
    Family::BOTH.map(|family| {
        let endpoints = endpoints.iter().map(|(pod, fields)| {
            let mut endpoint = fields.clone();
            endpoint["addresses"] = json!([scene.lab.pod(pod).ip(family)]);
            endpoint
        });
        slice(&format!("{name}-{family}").to_lowercase(), family, port, endpoints.collect())
    })
}

fn slice(name: &str, family: Family, port: (&str, u16), endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": "echo" } },
        "addressType": family.to_string(),
        "ports": [{ "name": port.0, "port": port.1 }],
        "endpoints": endpoints,
    })
}

/// The Service with these fields in its `spec`, and its port's name.
fn service(port_name: &str, spec: &Value) -> Value {
    let mut object = grpc_service(&Family::BOTH).object();
    object["spec"]["ports"][0]["name"] = port_name.into();
    for (key, value) in spec.as_object().expect("fields of a spec") {
        object["spec"][key] = value.clone();
    }
    object
}

fn target(family: Family) -> SocketAddr {
    address(&grpc_service(&Family::BOTH), family)
}

/// Waits until exactly these are used in each family, and a connect comes to that.
#[track_caller]
fn expect(scene: &Scene, agent: &Agent, what: &str, used: &[(&str, u16)], answer: Answer) {
    let at = |family| used.iter().map(move |(pod, port)| scene.lab.pod(pod).at(family, *port));
    let mut wanted: Vec<SocketAddr> = Family::BOTH.into_iter().flat_map(at).collect();
    wanted.sort();
    eventually_equals(&format!("{what}: the endpoints in use"), PATIENCE, &wanted, || {
        agent.usable("echo")
    });
    for family in Family::BOTH {
        eventually_equals(&format!("{what}: the answer by {family}"), PATIENCE, &answer, || {
            match connect(scene, target(family)) {
                Ok(()) => Served,
                Err(ErrorKind::ConnectionRefused) => Refused,
                Err(_) => Silence,
            }
        });
    }
}

/// The same, and calls go to each of them and nobody else.
#[track_caller]
fn expect_calls(scene: &Scene, agent: &Agent, what: &str, used: &[&str]) {
    let endpoints: Vec<_> = used.iter().map(|pod| (*pod, TARGET_PORT)).collect();
    expect(scene, agent, what, &endpoints, Served);
    for family in Family::BOTH {
        let load = Load::unary(target(family), 1).calls(30);
        let report = load.run(scene.client()).without_failure();
        for pod in PODS {
            assert_eq!(report.of(pod) > 0, used.contains(&pod), "{what}: {:?}", report.calls);
        }
    }
}

/// Demands that `streamvs explain` says of each endpoint whether it is used and by which rule, and
/// of each family what becomes of a connection.
#[track_caller]
fn expect_explained(
    scene: &Scene,
    agent: &Agent,
    what: &str,
    endpoints: &[(&str, Verdict)],
    answer: Answer,
) {
    let disposition = match answer {
        Served => "balance",
        Refused => "reject",
        Silence => "drop",
    };
    let verdicts = endpoints.iter().flat_map(|(pod, verdict)| {
        let (used, rule) = match verdict {
            Used(rule) => (true, rule),
            Unused(rule) => (false, rule),
        };
        let at = move |family| scene.lab.pod(pod).at(family, TARGET_PORT).to_string();
        Family::BOTH.map(|family| (at(family), (used, (*rule).to_owned())))
    });
    let wanted = (vec![disposition.to_owned(); 2], verdicts.collect());
    eventually_equals(&format!("{what}: explained"), PATIENCE, &wanted, || explained(agent));
}

/// What `explain` says of the Service's port: the disposition of each family, and of each endpoint
/// whether it is used and by which rule.
fn explained(agent: &Agent) -> (Vec<String>, BTreeMap<String, (bool, String)>) {
    let output = agent.command(&["explain", "default/echo", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let explained: Value = serde_json::from_slice(&output.stdout).expect("explain gives JSON");
    let entries = |field: &str| explained["ports"][0][field].as_array().cloned();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let families = entries("families").unwrap_or_default();
    let dispositions = families.iter().map(|entry| text(entry, "disposition")).collect();
    let endpoints = entries("endpoints").unwrap_or_default();
    let verdicts = endpoints
        .iter()
        .map(|entry| (text(entry, "address"), (entry["used"] == true, text(entry, "rule"))))
        .collect();
    (dispositions, verdicts)
}

/// Every rule about which endpoints are used, one after the other.
fn steps() -> Vec<Step> {
    let (ready, gone) = (json!({ "ready": true }), json!({ "ready": false, "serving": false }));
    let ending = |serving: bool| json!({ "ready": false, "serving": serving, "terminating": true });
    let (local, none) = (json!({ "internalTrafficPolicy": "Local" }), json!({}));
    let zone = |name: &str| json!({ "hints": { "forZones": [{ "name": name }] } });
    let node = |name: &str| json!({ "hints": { "forZones": [{ "name": HERE }], "forNodes": [{ "name": name }] } });
    let with = |conditions: &Value| json!({ "conditions": conditions });
    let on = |node: &str, conditions: &Value| json!({ "nodeName": node, "conditions": conditions });
    let step = |what, spec: &Value, answer, endpoints| Step {
        what,
        spec: spec.clone(),
        endpoints,
        answer,
    };
    vec![
        step(
            "missing conditions mean ready",
            &none,
            Served,
            vec![
                ("a", json!({}), Used(READY)),
                ("b", with(&gone), Unused(NOT_READY)),
                ("c", with(&ready), Used(READY)),
            ],
        ),
        step(
            "publishNotReadyAddresses: ready is all that counts",
            &json!({ "publishNotReadyAddresses": true }),
            Served,
            vec![("b", with(&json!({ "ready": true, "serving": false })), Used(READY))],
        ),
        step(
            "the last to serve while terminating are used (KEP-1669)",
            &json!({ "publishNotReadyAddresses": false }),
            Served,
            vec![
                ("a", with(&ending(true)), Used(LAST_TO_SERVE)),
                ("b", with(&ending(false)), Unused(NOT_READY)),
            ],
        ),
        step(
            "who terminates and serves no more is not",
            &none,
            Refused,
            vec![
                ("a", with(&ending(false)), Unused(NOT_READY)),
                ("b", with(&gone), Unused(NOT_READY)),
            ],
        ),
        step(
            "internalTrafficPolicy Local: those of this node (KEP-2086)",
            &local,
            Served,
            vec![
                ("a", on("node", &ready), Used(READY)),
                ("b", on("other", &ready), Unused(POLICY)),
                ("c", with(&ready), Unused(POLICY)),
            ],
        ),
        step(
            "of this node also while terminating, whoever is ready elsewhere",
            &local,
            Served,
            vec![
                ("b", on("node", &ending(true)), Used(LAST_TO_SERVE)),
                ("c", on("other", &ready), Unused(POLICY)),
            ],
        ),
        step(
            "none of this node: dropped",
            &local,
            Silence,
            vec![("c", on("other", &ready), Unused(POLICY))],
        ),
        step(
            "none anywhere: refused",
            &local,
            Refused,
            vec![("c", on("other", &gone), Unused(POLICY))],
        ),
        step(
            "hints for this zone (KEP-2433)",
            &json!({ "internalTrafficPolicy": "Cluster" }),
            Served,
            vec![
                ("a", zone(HERE), Used(ZONE_HINT)),
                ("b", zone("zone-b"), Unused(ZONE_HINT)),
                ("c", zone(HERE), Used(ZONE_HINT)),
            ],
        ),
        step(
            "one without a hint: hints are ignored",
            &none,
            Served,
            vec![
                ("a", zone(HERE), Used(READY)),
                ("b", json!({}), Used(READY)),
                ("c", zone("zone-b"), Used(READY)),
            ],
        ),
        step(
            "no hint for this zone: hints are ignored",
            &none,
            Served,
            vec![("a", zone("zone-b"), Used(READY)), ("b", zone("zone-c"), Used(READY))],
        ),
        step(
            "hints for this node before those for its zone (KEP-3015)",
            &none,
            Served,
            vec![
                ("a", node("other"), Unused(NODE_HINT)),
                ("b", node("node"), Used(NODE_HINT)),
                ("c", node("other"), Unused(NODE_HINT)),
            ],
        ),
    ]
}

#[test]
fn the_rules_for_services_hold_for_what_the_server_tells() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family));
    let agent = scene.agent(&[]);
    let cluster = &scene.cluster;
    let write = |name: &str, port: (&str, u16), endpoints: &[(&str, Value)]| {
        cluster.apply(&slices(&scene, name, port, endpoints));
    };
    let grpc = ("grpc", TARGET_PORT);
    for Step { what, spec, endpoints, answer } in steps() {
        let (written, verdicts): (Vec<_>, Vec<_>) = endpoints
            .into_iter()
            .map(|(pod, fields, verdict)| ((pod, fields), (pod, verdict)))
            .unzip();
        cluster.apply(&[service("grpc", &spec)]);
        write("echo", grpc, &written);
        let used = verdicts.iter().filter(|(_, verdict)| matches!(verdict, Used(_)));
        let used: Vec<_> = used.map(|(pod, _)| *pod).collect();
        assert_eq!(!used.is_empty(), answer == Served, "{what}: a step that contradicts itself");
        if answer == Served {
            expect_calls(&scene, &agent, what, &used);
        } else {
            expect(&scene, &agent, what, &[], answer);
        }
        expect_explained(&scene, &agent, what, &verdicts, answer);
    }

    let all = PODS.map(|pod| (pod, json!({})));
    let affinity = |value: &str| service("grpc", &json!({ "sessionAffinity": value }));
    cluster.apply(&[affinity("ClientIP")]);
    write("echo", grpc, &all);
    let everyone = PODS.map(|pod| (pod, TARGET_PORT));
    expect(&scene, &agent, "sessionAffinity: all may be used", &everyone, Served);
    for family in Family::BOTH {
        let load = Load::unary(target(family), 3).calls(60);
        let report = load.run(scene.client()).without_failure();
        let chosen = PODS.iter().filter(|pod| report.of(pod) > 0).count();
        assert_eq!(chosen, 1, "sessionAffinity: a client has one: {:?}", report.calls);
    }
    cluster.apply(&[affinity("None")]);
    expect_calls(&scene, &agent, "without affinity again", &PODS);

    // A named target port may be another number in each slice; who stands in two is used once.
    let other = ("grpc", 9001);
    write("echo", grpc, &all[..2]);
    write("other", other, &all[2..]);
    write("twice", grpc, &all[1..2]);
    let numbers = [("a", TARGET_PORT), ("b", TARGET_PORT), ("c", 9001)];
    expect(&scene, &agent, "two numbers for one name", &numbers, Served);
    for name in ["other", "twice"] {
        slices(&scene, name, other, &[]).iter().for_each(|slice| cluster.delete(slice));
    }

    cluster.apply(&[service("renamed", &json!({}))]);
    expect(&scene, &agent, "the port has a name that no slice has", &[], Refused);
    let renamed = ("renamed", TARGET_PORT);
    write("echo", renamed, &all);
    expect_calls(&scene, &agent, "slices follow", &PODS);

    // The most that a slice may hold; only those of this node exist, so nobody calls.
    let addresses = (0..1000_u32).map(|number| IpAddr::from((0x0afa_0000 + number).to_be_bytes()));
    let endpoints = addresses.map(|ip| json!({ "addresses": [ip] })).collect();
    cluster.apply(&[slice("echo-ipv4", Family::V4, renamed, endpoints)]);
    eventually_equals("a slice of 1,000 endpoints", PATIENCE, &1000, || {
        let usable = agent.usable("echo");
        usable.iter().filter(|endpoint| endpoint.is_ipv4()).count()
    });

    // Not ours: ours no more from the moment the label says so, and ours again.
    let mut foreign = service("renamed", &json!({}));
    foreign["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "x" });
    cluster.apply(&[foreign]);
    write("echo", renamed, &all);
    expect(&scene, &agent, "another proxy's", &[], Silence);
    // What is not applied any more is taken away.
    cluster.apply(&[service("renamed", &json!({}))]);
    expect_calls(&scene, &agent, "ours again", &PODS);
}
