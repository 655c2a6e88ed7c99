//! Aim: what `kubectl apply` makes is served, and served no longer when it is gone. Method: real
//! objects, real capture, exact counts.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::load::Load;
use streamvs_support::grpc::{Client, Kind};
use streamvs_support::lab::Lab;
use streamvs_support::manifest::Service;
use streamvs_support::wait::{eventually, eventually_equals};

use crate::scene::{
    PODS, SERVICE_PORT, Scene, TARGET_PORT, address, connect, grpc_service, needs_node,
};

/// What an operator would write: two families by the server's choice of order, a named port.
const APPLIED: &str = "
apiVersion: v1
kind: Service
metadata: { name: echo }
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:10:96::10']
  ipFamilyPolicy: RequireDualStack
  selector: { app: echo }
  ports: [{ name: grpc, port: 80, targetPort: grpc }]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: echo-4, labels: { kubernetes.io/service-name: echo } }
addressType: IPv4
ports: [{ name: grpc, port: 9000 }]
endpoints:
  - { addresses: [10.244.1.11], nodeName: node }
  - { addresses: [10.244.1.12], nodeName: node, conditions: { ready: true } }
  - { addresses: [10.244.1.13] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: echo-6, labels: { kubernetes.io/service-name: echo } }
addressType: IPv6
ports: [{ name: grpc, port: 9000 }]
endpoints:
  - { addresses: ['fd00:10:244:1::11'] }
  - { addresses: ['fd00:10:244:1::12'] }
  - { addresses: ['fd00:10:244:1::13'] }
";

/// A call is answered.
fn answers(scene: &Scene, target: SocketAddr) -> bool {
    scene.client().block_on(|| async {
        let call = async { Client::connect(target).await.ok()?.ask(Kind::Unary).await.ok() };
        matches!(tokio::time::timeout(Duration::from_secs(1), call).await, Ok(Some(_)))
    })
}

#[test]
fn applied_objects_are_served_until_they_are_deleted() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family));
    let agent = scene.agent(&[]);
    scene.cluster.kubectl(&["apply", "-f", "-"], APPLIED);
    let service = grpc_service(&Family::BOTH);
    scene.wait_until_used(&agent, &service, &PODS);
    for family in Family::BOTH {
        let load = Load::unary(address(&service, family), 1).calls(300);
        let report = load.run(scene.client()).without_failure();
        assert!(report.spread(&PODS) <= 1, "{family:?}: {:?}", report.calls);
    }

    // Without its slices it is refused, as an empty Service is; without itself it is nobody's.
    scene.cluster.kubectl(&["delete", "endpointslices", "echo-4", "echo-6"], "");
    for family in Family::BOTH {
        let what = format!("an answer to a connect by {family:?}");
        eventually_equals(&what, PATIENCE, &Err(ErrorKind::ConnectionRefused), || {
            connect(&scene, address(&service, family))
        });
    }
    scene.cluster.kubectl(&["delete", "service", "echo"], "");
    eventually("it is forgotten", PATIENCE, || agent.usable("echo").is_empty());
    eventually("nobody answers", PATIENCE, || {
        connect(&scene, address(&service, Family::V4)) != Err(ErrorKind::ConnectionRefused)
    });
}

#[test]
fn a_service_made_anew_is_served_at_its_new_address_only() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let old = grpc_service(&[Family::V4]);
    scene.publish(&old, &PODS);
    let _agent = scene.agent(&[]);
    Load::unary(address(&old, Family::V4), 1).calls(30).run(scene.client()).without_failure();

    // Its slices stay: only their owner's address changes.
    scene.cluster.delete(&old.object());
    let new = Service::new("echo", &[Family::V4], 77).port("grpc", SERVICE_PORT, TARGET_PORT);
    scene.cluster.apply(&[new.object()]);
    // By calls: a bare connection takes a turn of the rotation too, whenever a worker sees it.
    eventually("the new address is served", PATIENCE, || {
        answers(&scene, address(&new, Family::V4))
    });
    let load = Load::unary(address(&new, Family::V4), 1).calls(300);
    assert!(load.run(scene.client()).without_failure().spread(&PODS) <= 1);
    eventually("the old one is not", PATIENCE, || {
        connect(&scene, address(&old, Family::V4)).is_err()
    });
}

#[test]
fn an_agent_before_its_objects_serves_them_as_they_come() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4);
    let agent = scene.agent(&[]);
    let service = grpc_service(&[Family::V4]);
    // Slices first: a Service is often the later one.
    scene.write(&service, &scene.ready(&service, &["a", "b"]));
    scene.cluster.apply(&[service.object()]);
    scene.wait_until_used(&agent, &service, &["a", "b"]);
    let load = Load::unary(address(&service, Family::V4), 1).calls(300);
    let report = load.run(scene.client()).without_failure();
    assert!(report.spread(&["a", "b"]) <= 1, "{:?}", report.calls);
}

#[test]
fn pods_reach_the_api_server_by_its_cluster_ip() {
    needs_node!();
    let scene = Scene::new();
    let _agent = scene.agent(&[]);
    let server = format!("https://{}", Lab::service_address(Family::V4, 1));
    let kubeconfig = scene.cluster.kubeconfig_for(&server);
    let nodes = scene.client().block_on(|| async {
        let api = crate::Api::new(&kubeconfig).await;
        tokio::time::timeout(PATIENCE, api.get("/api/v1/nodes")).await
    });
    let nodes = nodes.expect("in time").expect("the API server answers");
    assert_eq!(nodes["items"][0]["metadata"]["name"], "node");
}
