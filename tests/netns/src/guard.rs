//! Aim: the listener serves captured connections and nobody else, and captures nothing of its own.
//! Method: strangers knock; endpoints are put where a loop would begin.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use streamvs_support::agent::{Agent, LISTEN_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::{Family, grpc, tcp};

use crate::scene::{
    CAPTURES, GRPC_PORT, PODS, Scene, address_of, dual_stack_grpc_service, engines, needs_node,
};

#[test]
fn direct_connections_to_the_listener_are_refused() {
    needs_node!();
    let scene = Scene::of(Lab::builder().pod("client").pods(PODS).outside());
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
    let service = dual_stack_grpc_service();
    scene.publish(&service, &PODS);
    for capture in CAPTURES {
        check_direct(&scene, &service, &scene.agent(capture));
    }
}

fn check_direct(scene: &Scene, service: &Service, agent: &Agent) {
    for family in Family::BOTH {
        let listener = SocketAddr::new(scene.lab.node().ip(family), LISTEN_PORT);
        // Captured traffic goes on beside the flood.
        let load = Load::unary(address_of(service, family), 1).start(scene.client());
        load.advance(1);
        for host in [scene.lab.outside(), scene.client(), scene.lab.node()] {
            host.netns().run(|| {
                for _ in 0..200 {
                    let error = TcpStream::connect(listener).expect_err("is refused");
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{}", host.name());
                }
            });
        }
        load.advance(300);
        assert!(load.stop().without_failure().spread(&PODS) <= 1, "{family:?}");
    }
    let captured = agent.metric("streamvs_connections_total", &[]);
    assert_eq!(captured, Some(2.0), "the load's, one in each family");
    // The kernel refuses them: none gets as far as the listener.
    assert_eq!(agent.metric("streamvs_refused_connections_total", &[]), Some(0.0));
}

#[test]
fn a_node_that_drops_what_it_does_not_know_lets_captured_connections_in() {
    needs_node!("nft");
    for capture in CAPTURES {
        let scene = Scene::of(Lab::builder().pod("client").pods(PODS).outside());
        let node = scene.lab.node();
        let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
        let service = dual_stack_grpc_service();
        scene.publish(&service, &PODS);
        drop_by_default(node, capture);
        let _agent = scene.agent(capture);
        if capture.contains(&"nftables") {
            // No table of nftables can accept for another, so operators are told what to let in.
            let dropped = scene
                .client()
                .netns()
                .run(|| TcpStream::connect_timeout(&address_of(&service, Family::V4), SHORT));
            assert_eq!(dropped.expect_err("is dropped").kind(), ErrorKind::TimedOut);
            node.netns().feed("nft", &["-f", "-"], LISTENER_LET_IN);
        }
        for family in Family::BOTH {
            for client in [scene.client(), node] {
                let load = Load::unary(address_of(&service, family), 1).calls(30);
                assert!(load.run(client).without_failure().spread(&PODS) <= 1, "{capture:?}");
            }
            let listener = SocketAddr::new(node.ip(family), LISTEN_PORT);
            for stranger in [scene.lab.outside(), scene.client()] {
                // Refused, where all else is dropped without an answer.
                let dialled =
                    stranger.netns().run(|| TcpStream::connect_timeout(&listener, PATIENCE));
                let kind = dialled.expect_err("is refused").kind();
                assert_eq!(kind, ErrorKind::ConnectionRefused, "{capture:?}, {}", stranger.name());
                let other = SocketAddr::new(node.ip(family), LISTEN_PORT + 1);
                let dialled = stranger.netns().run(|| TcpStream::connect_timeout(&other, SHORT));
                let kind = dialled.expect_err("is dropped").kind();
                assert_eq!(kind, ErrorKind::TimedOut, "{capture:?}, {}", stranger.name());
            }
        }
    }
}

/// After this nothing comes that has not come.
const SHORT: Duration = Duration::from_millis(300);

/// What docs/operations.md asks of such a firewall.
const LISTENER_LET_IN: &str = "\
    add rule inet firewall input ip daddr 169.254.83.86 tcp dport 15001 accept
    add rule inet firewall input ip6 daddr fdf2:43cb:12db:5356::1 tcp dport 15001 accept
    ";

/// A firewall that lets in what every node needs and nothing of ours: by the tool that also
/// captures.
fn drop_by_default(node: &Host, capture: &[&str]) {
    let Some(backend) = capture.iter().find(|flag| ["nft", "legacy"].contains(flag)) else {
        let firewall = "\
            add table inet firewall
            add chain inet firewall input { type filter hook input priority 0; policy drop; }
            add rule inet firewall input iifname lo accept
            add rule inet firewall input ct state established,related accept
            add rule inet firewall input meta l4proto { icmp, ipv6-icmp } accept
            ";
        node.netns().feed("nft", &["-f", "-"], firewall);
        return;
    };
    for (program, icmp) in [("iptables", "icmp"), ("ip6tables", "ipv6-icmp")] {
        for rule in [
            "-A INPUT -i lo -j ACCEPT",
            "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            &format!("-A INPUT -p {icmp} -j ACCEPT"),
            "-P INPUT DROP",
        ] {
            let words: Vec<&str> = rule.split(' ').collect();
            node.netns().output(&format!("{program}-{backend}"), &words);
        }
    }
}

#[test]
fn an_endpoint_on_the_node_itself_makes_no_loop() {
    needs_node!();
    let scene = Scene::new();
    let service = dual_stack_grpc_service();
    let node = scene.lab.node();
    let here = Family::BOTH.map(|family| grpc::Endpoint::start(node, family, GRPC_PORT));
    scene.manifests.service(&service);
    scene.manifests.endpoints(&service, &Family::BOTH.map(|family| Endpoint::at(node.ip(family))));
    for engine in engines() {
        let agent = scene.agent(&["--http2-engine", &engine]);
        for (family, here) in Family::BOTH.into_iter().zip(&here) {
            let before = here.calls();
            let load = Load::unary(address_of(&service, family), 1).calls(100);
            load.run(scene.client()).without_failure();
            assert_eq!(here.calls() - before, 100, "{engine}, {family:?}");
        }
        let captured = agent.metric("streamvs_connections_total", &[]);
        assert_eq!(captured, Some(2.0), "{engine}: one in each family, and none of our own");
    }
}

#[test]
fn an_endpoint_that_is_the_service_itself_is_not_dialled_for_ever() {
    needs_node!();
    let scene = Scene::new();
    // The endpoint's address is the ClusterIP and its port the Service's own.
    let service = Service::new("loop", &Family::BOTH, 11).port("tcp", 80, 80);
    scene.manifests.service(&service);
    scene
        .manifests
        .endpoints(&service, &Family::BOTH.map(|family| Endpoint::at(service.ip(family))));
    for capture in CAPTURES {
        let agent = scene.agent(capture);
        for family in Family::BOTH {
            let target = address_of(&service, family);
            let client = scene.client().netns().spawn(move || {
                let mut socket = TcpStream::connect(target)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                tcp::read(&mut socket, &mut [0; 8])
            });
            let mut most: f64 = 0.0;
            while !client.is_finished() {
                let open = agent.metric("streamvs_active_connections", &[]);
                most = most.max(open.unwrap_or(0.0));
            }
            let answer = client.join().expect("the client does not panic");
            let error = answer.expect_err("is reset, not answered");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{capture:?}, {family:?}");
            assert!(most <= 1.0, "{capture:?}, {family:?}: {most} open where one was made");
        }
    }
}
