//! Services by the addresses that reach them from outside: node ports, load balancers' addresses
//! and externalIPs.
//!
//! Aim: who gets an answer, and who none, for each place a client may be in and each policy.
//! Method: the binary on a node with a pod, a host outside and a pod on another node; endpoints
//! here, elsewhere and nowhere; every client asks once and is refused, unanswered or served.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::{Got, SILENCE, expect};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, tcp};

use streamvs_support::agent::PATIENCE;

use crate::scene::{Scene, TCP_PORT, needs_node};

pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

pub(crate) const IPTABLES: &[&str] = &["--capture", "iptables"];
pub(crate) const NFTABLES: &[&str] = &["--capture", "nftables"];

pub(crate) const NODE_PORT: u16 = 30_080;
const HEALTH_CHECK: u16 = 30_081;
pub(crate) const PORT: u16 = 80;

/// Where the ready endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    Here,
    Elsewhere,
    None,
}

const NODE_RANGES: &str = "primary,localhost";

pub(crate) fn load_balancer(family: Family) -> IpAddr {
    let address = match family {
        Family::V4 => "203.0.113.7",
        Family::V6 => "2001:db8:203::7",
    };
    address.parse().expect("an address")
}

/// A node with a way to everywhere, a pod and a pod elsewhere, and somebody outside who knows the
/// way to the load balancer's addresses.
pub(crate) fn scene() -> Scene {
    let builder = Lab::builder().pod("client").pod("here").remote_pod("there").remote_pod("far");
    let scene = Scene::of(builder.outside());
    scene.route_everywhere();
    scene.lab.outside().netns().ip(concat!(
        "route add 203.0.113.0/24 via 172.18.0.2\n",
        "route add 2001:db8:203::/48 via fd00:172:18::2\n",
        "route add 10.244.2.0/24 via 172.18.0.3\n",
    ));
    // What is on its way while nobody has the address goes to the other node, and the answer is a
    // redirect that takes this node out of the way.
    for of in ["ipv4.conf.all", "ipv4.conf.eth0", "ipv6.conf.eth0"] {
        scene.lab.outside().netns().sysctl(&format!("net.{of}.accept_redirects"), "0");
    }
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "node" },
        "spec": { "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"] },
        "status": { "addresses": BOTH.map(|family| json!({
            "type": "InternalIP",
            "address": scene.lab.node().ip(family),
        })) },
    });
    scene.manifests.text("node-node.json", &node.to_string());
    scene
}

/// Writes the Service.
pub(crate) fn publish(
    scene: &Scene,
    policy: &str,
    ranges: &[&str],
    endpoints: Endpoints,
) -> Service {
    let service = Service::new("web", &BOTH, 20).port("tcp", PORT, TCP_PORT);
    let mut object = exposed(&service, policy, ranges);
    if policy == "Local" {
        object["spec"]["healthCheckNodePort"] = json!(HEALTH_CHECK);
    }
    scene.manifests.text("service-web.json", &object.to_string());
    list(scene, &service, endpoints);
    service
}

/// The Service as a cloud's controllers would have it, of one port.
pub(crate) fn exposed(service: &Service, policy: &str, ranges: &[&str]) -> Value {
    let mut object = service.object();
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["externalTrafficPolicy"] = json!(policy);
    object["spec"]["loadBalancerSourceRanges"] = json!(ranges);
    object["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    let ingress = BOTH.map(|family| json!({ "ip": load_balancer(family), "ipMode": "VIP" }));
    object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
    object
}

/// Writes the endpoints of a Service.
pub(crate) fn list(scene: &Scene, service: &Service, endpoints: Endpoints) {
    let (pod, node) = match endpoints {
        Endpoints::Here => ("here", "node"),
        Endpoints::Elsewhere => ("there", "node2"),
        Endpoints::None => ("", ""),
    };
    let ready = |family| Endpoint::ready(scene.lab.pod(pod), family).on_node(node);
    let listed: Vec<_> =
        if pod.is_empty() { Vec::new() } else { BOTH.into_iter().map(ready).collect() };
    scene.manifests.endpoints(service, &listed);
}

#[test]
fn each_client_gets_what_kube_proxys_rules_say_by_iptables() {
    needs_node!();
    each_client_gets_what_kube_proxys_rules_say(IPTABLES);
}

#[test]
fn each_client_gets_what_kube_proxys_rules_say_by_nftables() {
    needs_node!("nft");
    each_client_gets_what_kube_proxys_rules_say(NFTABLES);
}

fn each_client_gets_what_kube_proxys_rules_say(capture: &[&str]) {
    let scene = scene();
    let _endpoints: Vec<_> = BOTH
        .into_iter()
        .flat_map(|family| scene.tcp(family, tcp::Speak::Banner, ["here", "there"]))
        .collect();
    publish(&scene, "Cluster", &[], Endpoints::Here);
    let _agent = scene.agent(&[capture, &["--nodeport-addresses", NODE_RANGES]].concat());
    let (pod, node) = (scene.client(), scene.lab.node());
    let (far, outside) = (scene.lab.pod("far"), scene.lab.outside());
    for endpoints in [Endpoints::Here, Endpoints::Elsewhere, Endpoints::None] {
        for policy in ["Cluster", "Local"] {
            let service = publish(&scene, policy, &[], endpoints);
            let what = format!("{policy}, endpoints {endpoints:?}");
            let (inside, from_outside) = match (endpoints, policy) {
                (Endpoints::None, _) => (Got::Refused, Got::Refused),
                (Endpoints::Elsewhere, "Local") => (Got::Served, Got::Silence),
                _ => (Got::Served, Got::Served),
            };
            for family in BOTH {
                let cluster_ip = SocketAddr::new(service.ip(family), PORT);
                let node_port = SocketAddr::new(node.ip(family), NODE_PORT);
                let load_balancer = SocketAddr::new(load_balancer(family), PORT);
                for host in [pod, node] {
                    for to in [cluster_ip, node_port, load_balancer] {
                        expect(host, to, inside, &what);
                    }
                }
                let loopback = match family {
                    Family::V4 => IpAddr::from([127, 0, 0, 1]),
                    Family::V6 => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                };
                expect(node, SocketAddr::new(loopback, NODE_PORT), inside, &what);
                expect(outside, cluster_ip, inside, &what);
                expect(outside, node_port, from_outside, &what);
                expect(outside, load_balancer, from_outside, &what);
                expect(far, node_port, from_outside, &what);
            }
        }
    }
}

#[test]
fn source_ranges_let_in_whom_they_name_to_the_load_balancers_address_alone() {
    needs_node!("nft");
    for capture in [IPTABLES, NFTABLES] {
        source_ranges_let_in_whom_they_name(capture);
    }
}

fn source_ranges_let_in_whom_they_name(capture: &[&str]) {
    let scene = scene();
    let _endpoints = scene.tcp(Family::V4, tcp::Speak::Banner, ["here"]);
    publish(&scene, "Cluster", &["10.244.1.0/24"], Endpoints::Here);
    let _agent = scene.agent(capture);
    let family = Family::V4;
    let load_balancer = SocketAddr::new(load_balancer(family), PORT);
    let node_port = SocketAddr::new(scene.lab.node().ip(family), NODE_PORT);
    expect(scene.client(), load_balancer, Got::Served, "in the range");
    expect(scene.lab.outside(), node_port, Got::Served, "node ports are not filtered");
    expect(scene.lab.outside(), load_balancer, Got::Silence, "not in the range");
    publish(&scene, "Cluster", &["0.0.0.0/0", "10.244.1.0/24"], Endpoints::Here);
    expect(scene.lab.outside(), load_balancer, Got::Served, "ranges that overlap");
    publish(&scene, "Cluster", &[], Endpoints::Here);
    expect(scene.lab.outside(), load_balancer, Got::Served, "no range");
}

/// What a load balancer hears of the node: status and weight; none where nobody listens.
fn health(host: &Host, family: Family, node: &Host) -> Option<(String, String)> {
    let address = SocketAddr::new(node.ip(family), HEALTH_CHECK);
    host.netns().run(move || {
        let mut socket = TcpStream::connect_timeout(&address, SILENCE).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        socket.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n").ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.to_owned();
        let (_, rest) = text.split_once("x-load-balancing-endpoint-weight: ")?;
        Some((status, rest.split_once("\r\n")?.0.to_owned()))
    })
}

#[test]
fn a_load_balancer_hears_how_many_endpoints_are_here() {
    needs_node!("nft");
    let scene = scene();
    let node = scene.lab.node();
    publish(&scene, "Local", &[], Endpoints::Here);
    let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, HEALTH_CHECK));
    let taken = node.netns().run(bind).expect("nobody else has it");
    let agent = scene.agent(&["--capture", "iptables", "--kube-proxy-replacement"]);
    let heard = |status: &str, weight: &str| Some((status.to_owned(), weight.to_owned()));
    let expect = |families: &[Family], expected: Option<(String, String)>| {
        for family in families.iter().copied() {
            for host in [scene.lab.outside(), scene.client()] {
                eventually("the balancer hears it", PATIENCE, || {
                    health(host, family, node) == expected
                });
            }
        }
    };
    expect(&[Family::V6], heard("200", "1"));
    eventually("the log names the port that is taken", PATIENCE, || {
        agent.log().contains(&format!("health check node port {HEALTH_CHECK}: "))
    });
    drop(taken);
    expect(&BOTH, heard("200", "1"));
    publish(&scene, "Local", &[], Endpoints::Elsewhere);
    expect(&BOTH, heard("503", "0"));
    publish(&scene, "Local", &[], Endpoints::None);
    expect(&BOTH, heard("503", "0"));
    publish(&scene, "Cluster", &[], Endpoints::Here);
    expect(&BOTH, None);
}

#[test]
fn without_an_address_of_the_node_its_ports_are_nobodys_and_the_log_says_so() {
    needs_node!();
    let scene = Scene::of(Lab::builder().pod("client").pod("here"));
    let family = Family::V4;
    let _endpoints = scene.tcp(family, tcp::Speak::Banner, ["here"]);
    let service = publish(&scene, "Cluster", &[], Endpoints::Here);
    let agent = scene.agent(IPTABLES);
    let cluster_ip = SocketAddr::new(service.ip(family), PORT);
    expect(scene.client(), cluster_ip, Got::Served, "needs no address");
    let node_port = SocketAddr::new(scene.lab.node().ip(family), NODE_PORT);
    expect(scene.client(), node_port, Got::Refused, "nobody listens");
    eventually("the log says so", PATIENCE, || {
        agent.log().contains("no address of this Node is known")
    });
}
