//! Aim: the listener serves captured connections and nobody else, and captures nothing of its own.
//! Method: strangers knock; endpoints are put where a loop would begin.

use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};

use streamvs_support::Family;
use streamvs_support::agent::{Agent, LISTEN_PORT};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Service};

use crate::scene::{CAPTURES, GRPC_PORT, PODS, Scene, address, grpc_service, needs_node};

#[test]
fn direct_connections_to_the_listener_are_refused() {
    needs_node!();
    let scene = Scene::of(Lab::builder().pod("client").pods(PODS).outside());
    let _endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    for capture in CAPTURES {
        check_direct(&scene, &service, &scene.agent(capture));
    }
}

fn check_direct(scene: &Scene, service: &Service, agent: &Agent) {
    for family in [Family::V4, Family::V6] {
        let listener = SocketAddr::new(scene.lab.node().ip(family), LISTEN_PORT);
        for host in [scene.lab.outside(), scene.client(), scene.lab.node()] {
            host.netns().run(|| {
                for _ in 0..200 {
                    let error = TcpStream::connect(listener).expect_err("is refused");
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{}", host.name());
                }
            });
        }
    }
    // Captured traffic goes on beside the flood.
    let report = Load::unary(address(service), 1).calls(300).run(scene.client());
    assert!(report.without_failure().spread(&PODS) <= 1);
    assert_eq!(
        agent.metric("streamvs_connections_total", &[("protocol", "tcp")]).unwrap_or(0.0),
        0.0
    );
}

#[test]
fn an_endpoint_on_the_node_itself_makes_no_loop() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let node = scene.lab.node();
    let here = streamvs_support::grpc::Endpoint::start(node, Family::V4, GRPC_PORT);
    scene.manifests.service(&service);
    scene.manifests.endpoints(&service, &[Endpoint::at(node.ip(Family::V4))]);
    let _agent = scene.agent(&[]);
    let report = Load::unary(address(&service), 1).calls(100).run(scene.client());
    report.without_failure();
    assert_eq!(here.calls(), 100);
}

#[test]
fn an_endpoint_that_is_the_service_itself_is_not_dialled_for_ever() {
    needs_node!();
    let scene = Scene::new();
    // The endpoint's address is the ClusterIP and its port the Service's own.
    let service = Service::new("loop", &[Family::V4], 11).port("tcp", 80, 80);
    scene.manifests.service(&service);
    scene.manifests.endpoints(&service, &[Endpoint::at(service.ip(Family::V4))]);
    let agent = scene.agent(&[]);
    let target = SocketAddr::new(service.ip(Family::V4), 80);
    scene.client().netns().run(|| {
        if let Ok(mut socket) = TcpStream::connect(target) {
            assert!(socket.read(&mut [0; 8]).is_err(), "is reset, not answered");
        }
    });
    let captured = agent.metric("streamvs_detect_seconds_count", &[]).unwrap_or(0.0);
    assert!(captured <= 1.0, "captured {captured} connections where one was made");
}
