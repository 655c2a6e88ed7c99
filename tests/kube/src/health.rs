//! Aim: load balancers and the kubelet are told of this node what kube-proxy tells them: `/healthz`
//! whether it may get traffic, `/livez` whether the agent works (features A2 of kube-proxy's health
//! server, KEP-3836). Method: the Node is changed through the API as a cluster's controllers would.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};
use streamvs_support::Family;
use streamvs_support::agent::{Agent, HEALTH_PORT, PATIENCE, Source, program};
use streamvs_support::manifest::{Service, node};
use streamvs_support::wait::{eventually, eventually_equals};

use crate::cluster::Reach;
use crate::scene::{SERVICE_PORT, Scene, TARGET_PORT, grpc_service, needs_node};

/// The cluster autoscaler's taint, as `kubectl taint` takes it.
pub(crate) const GOING: &str = "ToBeDeletedByClusterAutoscaler";

/// An answer's status and body.
fn probe(agent: &Agent, path: &str) -> (u16, Value) {
    let answer = agent.page(HEALTH_PORT, path).expect("health is served");
    let body = serde_json::from_str(&answer.body).expect("the body is JSON");
    (answer.status, body)
}

/// `/healthz`: its status and what it says of the node.
fn eligible(agent: &Agent) -> (u16, Value) {
    let (status, body) = probe(agent, "/healthz");
    (status, body["nodeEligible"].clone())
}

/// The agent works, whatever becomes of its node.
#[track_caller]
fn expect_alive(agent: &Agent, what: &str) {
    let (status, body) = probe(agent, "/livez");
    assert_eq!((status, &body["healthy"]), (200, &json!(true)), "{what}: {body}");
    assert_eq!(body.get("nodeEligible"), None, "{what}: {body}");
}

/// Waits until the node may get traffic, or may not; `/livez` does not care.
#[track_caller]
fn expect(agent: &Agent, what: &str, may_get_traffic: bool) {
    let status = if may_get_traffic { 200 } else { 503 };
    eventually_equals(what, PATIENCE, &(status, json!(may_get_traffic)), || eligible(agent));
    expect_alive(agent, what);
}

/// Endpoints with hints, so that it is seen from outside which Node the agent knows: those of its
/// zone are used, or all when it has none.
fn publish_hints(scene: &Scene, service: &Service) {
    scene.cluster.apply(&[service.object()]);
    let mut slice = service.slices(&scene.ready(service, &["a", "b"])).remove(0);
    for (index, zone) in ["zone-a", "zone-b"].into_iter().enumerate() {
        slice["endpoints"][index]["hints"] = json!({ "forZones": [{ "name": zone }] });
    }
    scene.cluster.apply(&[slice]);
}

fn patch_node(scene: &Scene, patch: &Value) {
    scene.cluster.kubectl(&["patch", "node", "node", "--type=merge", "-p", &patch.to_string()], "");
}

#[test]
fn what_becomes_of_the_node_is_told_as_kube_proxy_tells_it() {
    needs_node!();
    let mut scene = Scene::new();
    let service = grpc_service(&[Family::V4]);
    publish_hints(&scene, &service);
    let agent = scene.agent(&[]);
    scene.wait_until_used(&agent, &service, &["a"]);
    expect(&agent, "a Node like any other", true);

    let cordon = json!({
        "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-b" } },
        "spec": { "unschedulable": true, "taints": [{
            "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule",
        }] },
    });
    patch_node(&scene, &cordon);
    scene.wait_until_used(&agent, &service, &["b"]);
    assert_eq!(eligible(&agent), (200, json!(true)), "a cordon does not count");

    scene.cluster.kubectl(&["taint", "node", "node", &format!("{GOING}:NoSchedule")], "");
    expect(&agent, "the autoscaler is about to delete it", false);
    scene.cluster.kill_server();
    eventually("the agent misses the server", PATIENCE, || {
        agent.metric("streamvs_watch_works", &[("kind", "nodes")]) == Some(0.0)
    });
    assert_eq!(eligible(&agent), (503, json!(false)), "the last that was known holds");
    expect_alive(&agent, "without the server");
    scene.cluster.start_server(Reach::Lab);
    scene.cluster.kubectl(&["taint", "node", "node", &format!("{GOING}:NoSchedule-")], "");
    expect(&agent, "the autoscaler thinks better of it", true);

    patch_node(&scene, &json!({ "metadata": { "finalizers": ["streamvs.io/test"] } }));
    scene.cluster.kubectl(&["delete", "node", "node", "--wait=false"], "");
    expect(&agent, "it is being deleted", false);
    scene.wait_until_used(&agent, &service, &["b"]);
    patch_node(&scene, &json!({ "metadata": { "finalizers": null } }));
    scene.wait_until_used(&agent, &service, &["a", "b"]);
    assert_eq!(eligible(&agent), (503, json!(false)), "it is gone");
    expect_alive(&agent, "without a Node");
    scene.cluster.apply(&[node("node", "zone-a")]);
    expect(&agent, "it is there again", true);
    drop(agent);

    rules_that_are_late_are_told_to_both(&scene);
}

/// A change that does not get into the kernel in two sync periods is what both probes are for.
fn rules_that_are_late_are_told_to_both(scene: &Scene) {
    // The program that changes sets, kept from it as by somebody who holds a lock.
    let tools = tempfile::tempdir().expect("a temporary folder can be made");
    let lock = tools.path().join("lock");
    let real = scene.lab.node().output("sh", &["-c", "command -v ipset"]);
    let script = format!(
        "#!/bin/sh\nwhile [ -e {} ]; do sleep 0.05; done\nexec {} \"$@\"\n",
        lock.display(),
        real.trim(),
    );
    let slow = tools.path().join("ipset");
    fs::write(&slow, script).expect("a new folder can be written to");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let mut command = scene.lab.node().command(program());
    let usual = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{usual}", tools.path().display()));
    let source = Source::Kubeconfig(&scene.kubeconfig);
    let flags = ["--capture=iptables", "--iptables-sync-period=1s"];
    let folder = scene.folder.path();
    let agent = Agent::spawn_by(command, scene.lab.node(), folder, source, &flags);
    let agent = agent.wait_until_healthy();
    expect(&agent, "nothing waits", true);

    fs::write(&lock, "").expect("a new folder can be written to");
    let new = Service::new("new", &[Family::V4], 20).port("grpc", SERVICE_PORT, TARGET_PORT);
    scene.publish(&new, &["a"]);
    for path in ["/healthz", "/livez"] {
        let what = format!("{path} while a change waits");
        eventually_equals(&what, PATIENCE, &(503, json!(false)), || {
            let (status, body) = probe(&agent, path);
            (status, body["healthy"].clone())
        });
    }
    let (_, body) = probe(&agent, "/healthz");
    assert_eq!(body["nodeEligible"], true, "the node is not to blame: {body}");
    assert_eq!(body["status"]["IPv4"]["healthy"], false, "{body}");
    fs::remove_file(&lock).expect("it was written");
    expect(&agent, "the change is made", true);
}
