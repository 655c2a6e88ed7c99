//! Aim: under `externalTrafficPolicy: Local` a pod of this node sees a client outside by its own
//! address, and the node where that cannot be. Method: the scene of `outside`; endpoints note who
//! connects to them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::load::Load;
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::{Got, Speak, expect};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, tcp};

use crate::outside::{
    BOTH, Endpoints, IPTABLES, NFTABLES, NODE_PORT, PORT, exposed, load_balancer, publish, scene,
};
use crate::scene::{GRPC_PORT, Scene, TCP_PORT, engines, needs_node};

/// The node port and the load balancer's address.
fn external(scene: &Scene, family: Family) -> [SocketAddr; 2] {
    let node_port = SocketAddr::new(scene.lab.node().ip(family), NODE_PORT);
    [node_port, SocketAddr::new(load_balancer(family), PORT)]
}

/// Asks from outside by every address until the endpoint's new connections are of the client, or
/// of somebody else.
#[track_caller]
fn expect_seen(scene: &Scene, endpoint: &tcp::Endpoint, client_is_seen: bool, what: &str) {
    let outside = scene.lab.outside();
    let family = Family::of(endpoint.address().ip());
    for to in external(scene, family) {
        expect(outside, to, Got::Served, what);
    }
    let seen = endpoint.peers().contains(&outside.ip(family));
    assert_eq!(seen, client_is_seen, "{what}: {:?}", endpoint.peers());
}

#[test]
fn a_pod_sees_the_client_outside_under_the_local_policy_alone() {
    needs_node!("nft");
    for capture in [IPTABLES, NFTABLES] {
        let scene = scene();
        for policy in ["Cluster", "Local"] {
            publish(&scene, policy, &[], Endpoints::Here);
            let agent = scene.agent(capture);
            for family in BOTH {
                let endpoint = scene.tcp(family, Speak::Banner, ["here"]).remove(0);
                let what = format!("{capture:?} {policy} {family:?}");
                expect_seen(&scene, &endpoint, policy == "Local", &what);
            }
            drop(agent);
        }
    }
}

#[test]
fn calls_from_outside_come_by_connections_of_their_own() {
    needs_node!("nft");
    for engine in engines() {
        let scene = scene();
        let service = Service::new("echo", &BOTH, 10).port("grpc", PORT, GRPC_PORT);
        let object = exposed(&service, "Local", &[]).to_string();
        scene.manifests.text("service-echo.json", &object);
        let ready = BOTH.map(|family| Endpoint::ready(scene.lab.pod("here"), family));
        scene.manifests.endpoints(&service, &ready);
        let _agent = scene.agent(&["--http2-engine", &engine, "--workers", "1"]);
        for family in BOTH {
            let endpoint = scene.grpc(family, ["here"]).remove(0);
            let [node_port, _] = external(&scene, family);
            let clients = [scene.lab.outside(), scene.lab.pod("far"), scene.client()];
            for client in clients {
                let load = Load::unary(node_port, 2).calls(50);
                load.run(client).without_failure();
            }
            let wanted: BTreeSet<_> = clients.map(|client| client.ip(family)).into();
            assert_eq!(endpoint.peers(), wanted, "{engine} {family:?}");
        }
    }
}

#[test]
fn an_endpoint_that_is_the_node_itself_sees_the_node() {
    needs_node!("nft");
    let scene = scene();
    let (family, node) = (Family::V4, scene.lab.node());
    let service = publish(&scene, "Local", &[], Endpoints::Here);
    scene.manifests.endpoints(&service, &[Endpoint::at(node.ip(family))]);
    let endpoint = tcp::Endpoint::start(node, family, TCP_PORT, Speak::Banner);
    let _agent = scene.agent(IPTABLES);
    expect_seen(&scene, &endpoint, false, "its answers are not routed");
}

#[test]
fn where_the_kernel_looks_back_by_marks_the_node_is_seen_and_the_log_says_why() {
    needs_node!("nft");
    let scene = scene();
    scene.lab.node().sysctl("net.ipv4.conf.all.src_valid_mark", "1");
    publish(&scene, "Local", &[], Endpoints::Here);
    let agent = scene.agent(IPTABLES);
    let endpoint = scene.tcp(Family::V4, Speak::Banner, ["here"]).remove(0);
    expect_seen(&scene, &endpoint, false, "src_valid_mark");
    let endpoint = scene.tcp(Family::V6, Speak::Banner, ["here"]).remove(0);
    expect_seen(&scene, &endpoint, true, "IPv6 looks back at nobody");
    let log = agent.log();
    assert_eq!(log.matches("src_valid_mark is on").count(), 1, "{log}");
}

#[test]
fn what_leads_answers_to_us_is_repaired_and_goes_with_the_agent() {
    needs_node!("nft");
    let scene = scene();
    publish(&scene, "Local", &[], Endpoints::Here);
    let mut agent = scene.agent(&[IPTABLES, &["--iptables-sync-period", "1s"]].concat());
    let node = scene.lab.node();
    let found = || {
        let tables = node.output("nft", &["list", "tables"]);
        let rules = node.output("ip", &["rule"]) + &node.output("ip", &["-6", "rule"]);
        let routes = node.output("ip", &["-4", "route", "show", "table", "all", "proto", "83"])
            + &node.output("ip", &["-6", "route", "show", "table", "all", "proto", "83"]);
        let routes = routes.lines().filter(|line| line.contains("table 83"));
        let tables = tables.lines().filter(|line| line.contains("streamvs-reply"));
        (tables.count(), rules.matches("lookup 83").count(), routes.count())
    };
    assert_eq!(found(), (2, 2, 2));
    node.output("nft", &["delete", "table", "ip", "streamvs-reply"]);
    node.output("ip", &["rule", "del", "pref", "83"]);
    node.output("ip", &["-6", "route", "flush", "table", "83"]);
    eventually("all is back", PATIENCE, || found() == (2, 2, 2));
    for family in BOTH {
        let endpoint = scene.tcp(family, Speak::Banner, ["here"]).remove(0);
        expect_seen(&scene, &endpoint, true, "repaired");
    }
    assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
    assert_eq!(found(), (0, 0, 0));

    // Nobody asks for it.
    publish(&scene, "Cluster", &[], Endpoints::Here);
    let mut agent = scene.agent(IPTABLES);
    assert_eq!(found(), (0, 0, 0));
    publish(&scene, "Local", &[], Endpoints::Here);
    eventually("it comes with the policy", PATIENCE, || found() == (2, 2, 2));
    agent.kill();
    let program = streamvs_support::agent::program();
    node.output(program.to_str().expect("the path is text"), &["cleanup"]);
    assert_eq!(found(), (0, 0, 0));
}

#[test]
fn an_agent_with_another_mark_takes_the_rules_of_the_one_before_away() {
    needs_node!("nft");
    let scene = scene();
    publish(&scene, "Local", &[], Endpoints::Here);
    let mut agent = scene.agent(IPTABLES);
    let node = scene.lab.node();
    let rules = || {
        let rules = node.output("ip", &["rule"]) + &node.output("ip", &["-6", "rule"]);
        let ours = rules.lines().filter(|line| line.contains("lookup 83")).map(str::to_owned);
        ours.collect::<Vec<_>>()
    };
    assert!(rules().len() == 2 && rules().iter().all(|rule| rule.contains("0x8/0x8")));
    agent.kill();
    // Its sockets have the bit that the answers of the one before had.
    let _agent = scene.agent(&[IPTABLES, &["--upstream-mark", "0x8"]].concat());
    assert!(rules().len() == 2 && rules().iter().all(|rule| rule.contains("0x10/0x10")));
    for family in BOTH {
        let endpoint = scene.tcp(family, Speak::Banner, ["here"]).remove(0);
        expect_seen(&scene, &endpoint, true, "by another bit");
    }
}
