//! Aim: who asks the API server what became of a node's agent is told as of kube-proxy.
//! Method: the events as `kubectl get events` shows them.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};
use streamvs_support::agent::{HEALTH_PORT, METRICS_PORT, PATIENCE};
use streamvs_support::wait::{eventually, eventually_some};

use crate::scene::{Scene, needs_node};

/// Reason and type of the events on an object of the namespace `default`, or on a Node.
fn events(scene: &Scene, kind: &str, name: &str) -> Vec<(String, String)> {
    let selector =
        format!("--field-selector=involvedObject.kind={kind},involvedObject.name={name}");
    let printed = scene.cluster.kubectl(&["get", "events", "-o", "json", &selector], "");
    let printed: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let items = printed["items"].as_array().expect("a list");
    items.iter().map(|event| (text(event, "reason"), text(event, "type"))).collect()
}

fn wait_for(scene: &Scene, reason: &str, kind: &str) {
    let wanted = (reason.to_owned(), kind.to_owned());
    eventually("the event is recorded", PATIENCE, || {
        events(scene, "Node", "node").contains(&wanted)
    });
}

#[test]
fn a_start_is_recorded_on_the_node() {
    needs_node!();
    let scene = Scene::new();
    let _agent = scene.agent(&[]);
    wait_for(&scene, "Starting", "Normal");
}

#[test]
fn a_port_that_is_taken_ends_the_agent_and_is_recorded() {
    needs_node!();
    let scene = Scene::new();
    for (address, port, reason) in [
        (Ipv4Addr::UNSPECIFIED, HEALTH_PORT, "FailedToStartProxierHealthcheck"),
        (Ipv4Addr::LOCALHOST, METRICS_PORT, "FailedToStartMetricServer"),
    ] {
        let taken = scene.lab.node().netns().run(|| TcpListener::bind((address, port)));
        let _taken = taken.expect("nobody else has it");
        let mut agent = scene.agent_without_waiting(&["--bind-address-hard-fail"]);
        let status = eventually_some("the agent ends", PATIENCE, || agent.ended());
        assert_eq!(status.code(), Some(1), "{}", agent.log());
        wait_for(&scene, reason, "Warning");
    }
}

#[test]
fn a_health_check_node_port_that_is_taken_is_recorded_on_its_service() {
    needs_node!();
    let scene = Scene::new();
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "checked", "namespace": "default" },
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "selector": { "app": "none" },
            "ports": [{ "port": 80 }],
        },
    });
    scene.cluster.kubectl(&["apply", "-f", "-"], &service.to_string());
    let path = "-o=jsonpath={.spec.healthCheckNodePort}";
    let port = scene.cluster.kubectl(&["get", "service", "checked", path], "");
    let port: u16 = port.trim().parse().expect("the server gives it a port");
    let taken = scene.lab.node().netns().run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let _taken = taken.expect("nobody else has it");
    let _agent = scene.agent(&["--kube-proxy-replacement"]);
    let wanted = ("FailedToStartServiceHealthcheck".to_owned(), "Warning".to_owned());
    eventually("the event is recorded", PATIENCE, || {
        events(&scene, "Service", "checked").contains(&wanted)
    });
}
