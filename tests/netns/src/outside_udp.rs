//! UDP and SCTP by the addresses that reach Services from outside, in place of kube-proxy; and TCP
//! by them while the agent is away.
//!
//! Aim: who gets an answer, and whom endpoints see, as by kube-proxy. Method: the scene of
//! `outside`; each client asks by a new socket, and an answer says whom its endpoint saw.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use streamvs_support::agent::PATIENCE;
use streamvs_support::lab::Host;
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::{SILENCE, expect_by};
use streamvs_support::udp::{self, Client, ask_anew};
use streamvs_support::wait::{eventually, eventually_some};
use streamvs_support::{Family, tcp};

use crate::kernel::init;
use crate::outside::{BOTH, Endpoints, NODE_PORT, exposed, list, load_balancer, scene};
use crate::scene::{Scene, TCP_PORT, needs_node};

const REPLACE: &str = "--kube-proxy-replacement";

/// The Service's own port, and its endpoints'.
const PORT: u16 = 80;
const TARGET: u16 = 5353;

/// Whom an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A client that is not the node.
    Client,
    /// The node.
    Node,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// An answer by an endpoint that saw one of these.
    Served(Seen),
    /// "Port unreachable" at once.
    Refused,
    /// Nothing at all.
    Silence,
}

fn dns() -> Service {
    Service::new("dns", &BOTH, 53).port("dns", PORT, TARGET).protocol("UDP")
}

/// Writes the Service with its endpoints.
fn publish(scene: &Scene, policy: &str, ranges: &[&str], endpoints: Endpoints) -> Service {
    let service = dns();
    write(scene, &service, policy, ranges);
    list(scene, &service, endpoints);
    service
}

fn write(scene: &Scene, service: &Service, policy: &str, ranges: &[&str]) {
    let object = exposed(service, policy, ranges).to_string();
    scene.manifests.text(&format!("service-{}.json", service.name()), &object);
}

fn endpoints(scene: &Scene) -> Vec<udp::Endpoint> {
    let of = |pod| BOTH.map(|family| udp::Endpoint::start(scene.lab.pod(pod), family, TARGET));
    ["here", "there"].into_iter().flat_map(of).collect()
}

fn ask(host: &Host, to: SocketAddr) -> Got {
    match Client::new(host, to).ask_within(SILENCE) {
        Ok(answer) => {
            let is_client = answer.client.ip() == host.ip(Family::of(to.ip()));
            let is_node = host.name() == "node";
            Got::Served(if is_client && !is_node { Seen::Client } else { Seen::Node })
        }
        Err(error) => match error.kind() {
            // The second is what a process of the node hears.
            ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => Got::Refused,
            ErrorKind::WouldBlock => Got::Silence,
            _ => panic!("{to}: {error}"),
        },
    }
}

#[track_caller]
fn expect(host: &Host, to: SocketAddr, expected: Got, what: &str) {
    expect_by(ask, host, to, expected, what);
}

/// The node port and the load balancer's address.
fn external(scene: &Scene, family: Family) -> [SocketAddr; 2] {
    let node_port = SocketAddr::new(scene.lab.node().ip(family), NODE_PORT);
    [node_port, SocketAddr::new(load_balancer(family), PORT)]
}

#[test]
fn each_client_gets_what_kube_proxys_rules_say() {
    needs_node!("nft");
    for capture in ["iptables", "nftables"] {
        let scene = scene();
        let _endpoints = endpoints(&scene);
        publish(&scene, "Cluster", &[], Endpoints::Here);
        let _agent = scene.agent(&[REPLACE, "--capture", capture]);
        for endpoints in [Endpoints::Here, Endpoints::Elsewhere, Endpoints::None] {
            for policy in ["Cluster", "Local"] {
                publish(&scene, policy, &[], endpoints);
                for family in BOTH {
                    check(&scene, family, policy, endpoints);
                }
            }
        }
    }
}

/// Each place a client may be in, and each address but loopback, from where the kernel sends
/// nothing to endpoints.
fn check(scene: &Scene, family: Family, policy: &str, endpoints: Endpoints) {
    let what = format!("{policy}, endpoints {endpoints:?}");
    let (pod, node) = (scene.client(), scene.lab.node());
    let cluster_ip = SocketAddr::new(dns().ip(family), PORT);
    let external = external(scene, family);
    let served = |seen| match endpoints {
        Endpoints::None => Got::Refused,
        Endpoints::Here | Endpoints::Elsewhere => Got::Served(seen),
    };
    let (to_pod, outside) = match (policy, endpoints) {
        ("Local", Endpoints::Elsewhere) => (served(Seen::Client), Got::Silence),
        ("Local", _) => (served(Seen::Client), served(Seen::Client)),
        _ => (served(Seen::Node), served(Seen::Node)),
    };
    expect(pod, cluster_ip, served(Seen::Client), &what);
    for host in [node, scene.lab.outside()] {
        expect(host, cluster_ip, served(Seen::Node), &what);
    }
    for to in external {
        expect(pod, to, to_pod, &what);
        expect(node, to, served(Seen::Node), &what);
        expect(scene.lab.outside(), to, outside, &what);
    }
    expect(scene.lab.pod("far"), external[0], outside, &what);
}

/// Writes the Node with these addresses and ranges of pods.
fn write_node(scene: &Scene, addresses: &[IpAddr], pod_cidrs: &[&str]) {
    let address = |ip: &IpAddr| json!({ "type": "InternalIP", "address": ip });
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": "node" },
        "spec": { "podCIDRs": pod_cidrs },
        "status": { "addresses": addresses.iter().map(address).collect::<Vec<_>>() },
    });
    scene.manifests.text("node-node.json", &node.to_string());
}

#[test]
fn whose_address_a_cluster_ips_endpoint_sees_depends_on_what_is_known() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    publish(&scene, "Cluster", &[], Endpoints::Here);
    write_node(&scene, &[], &[]);
    let agent = scene.agent(&[REPLACE]);
    let (pod, outside) = (scene.client(), scene.lab.outside());
    let expect = |host: &Host, seen: Seen, what: &str| {
        for family in BOTH {
            let cluster_ip = SocketAddr::new(dns().ip(family), PORT);
            expect(host, cluster_ip, Got::Served(seen), what);
        }
    };
    expect(outside, Seen::Client, "nobody knows where pods are");
    write_node(&scene, &[], &["10.244.1.0/24", "fd00:10:244:1::/64"]);
    expect(outside, Seen::Node, "it is no pod");
    expect(pod, Seen::Client, "it is a pod");
    drop(agent);
    let agent = scene.agent(&[REPLACE, "--cluster-cidr", "172.18.0.0/16,fd00:172:18::/64"]);
    expect(outside, Seen::Client, "the operator says that it is inside");
    expect(pod, Seen::Node, "and that this is not");
    drop(agent);
    let _agent = scene.agent(&[REPLACE, "--masquerade-all"]);
    for host in [pod, outside] {
        expect(host, Seen::Node, "--masquerade-all");
    }
}

#[test]
fn source_ranges_let_in_whom_they_name_to_the_load_balancers_address_alone() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    publish(&scene, "Cluster", &["10.244.1.0/24", "fd00:10:244:1::/64"], Endpoints::Here);
    let _agent = scene.agent(&[REPLACE]);
    let served = Got::Served(Seen::Node);
    let (client, outside) = (scene.client(), scene.lab.outside());
    for family in BOTH {
        let [node_port, load_balancer] = external(&scene, family);
        expect(client, load_balancer, served, "in the range");
        expect(outside, node_port, served, "node ports are not filtered");
        expect(outside, load_balancer, Got::Silence, "not in the range");
    }
    let load_balancer = SocketAddr::new(load_balancer(Family::V4), PORT);
    publish(&scene, "Cluster", &["0.0.0.0/0", "10.244.1.0/24"], Endpoints::Here);
    expect(outside, load_balancer, served, "ranges that overlap");
    publish(&scene, "Local", &["172.18.0.100/32"], Endpoints::Here);
    expect(outside, load_balancer, Got::Served(Seen::Client), "in the range, and the policy Local");
    expect(client, load_balancer, Got::Silence, "not in the range");
}

#[test]
fn an_external_ip_is_served_where_it_is_allowed() {
    needs_node!("nft");
    for allowed in [true, false] {
        let scene = scene();
        let _endpoints = endpoints(&scene);
        let service = dns();
        let mut object = service.object();
        object["spec"]["externalIPs"] = json!([load_balancer(Family::V4)]);
        scene.manifests.text("service-dns.json", &object.to_string());
        list(&scene, &service, Endpoints::Elsewhere);
        let flags: &[&str] = if allowed { &["--allow-external-ips=203.0.113.0/24"] } else { &[] };
        let _agent = scene.agent(&[&[REPLACE], flags].concat());
        let to = SocketAddr::new(load_balancer(Family::V4), PORT);
        let expected = if allowed { Got::Served(Seen::Node) } else { Got::Silence };
        expect(scene.lab.outside(), to, expected, "by the externalIP");
    }
}

#[test]
fn a_flow_from_outside_leaves_a_removed_endpoint() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    let service = publish(&scene, "Cluster", &[], Endpoints::Here);
    let _agent = scene.agent(&[REPLACE]);
    for family in BOTH {
        for to in external(&scene, family) {
            list(&scene, &service, Endpoints::Here);
            expect(scene.lab.outside(), to, Got::Served(Seen::Node), "served");
            let answered_by = |client: &Client, pod: &str| {
                eventually(&format!("{to} is answered by {pod}"), PATIENCE, || {
                    let answer = client.ask_within(Duration::from_millis(200));
                    answer.is_ok_and(|answer| answer.pod == pod)
                });
            };
            let client = Client::new(scene.lab.outside(), to);
            answered_by(&client, "here");
            list(&scene, &service, Endpoints::Elsewhere);
            answered_by(&client, "there");
            list(&scene, &service, Endpoints::None);
            eventually("the flow is refused", PATIENCE, || {
                let asked = client.ask_within(Duration::from_millis(200));
                asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            });
            list(&scene, &service, Endpoints::Here);
            answered_by(&client, "here");
        }
    }
}

#[test]
fn a_pod_reaches_itself_by_every_address_of_its_service() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    publish(&scene, "Local", &[], Endpoints::Here);
    let _agent = scene.agent(&[REPLACE]);
    let own = scene.lab.pod("here");
    for family in BOTH {
        for to in external(&scene, family) {
            expect(own, to, Got::Served(Seen::Node), "or the answer would not come back");
        }
    }
}

#[test]
fn session_affinity_holds_over_a_services_addresses() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    let service = dns().affinity(600);
    write(&scene, &service, "Cluster", &[]);
    let everywhere = BOTH.into_iter().flat_map(|family| {
        let at = |pod: &str| Endpoint::ready(scene.lab.pod(pod), family);
        [at("here"), at("there").on_node("node2")]
    });
    scene.manifests.endpoints(&service, &everywhere.collect::<Vec<_>>());
    let _agent = scene.agent(&[REPLACE]);
    for family in BOTH {
        let [node_port, load_balancer] = external(&scene, family);
        let mut answered = ask_anew(scene.client(), node_port, 6);
        answered.extend(ask_anew(scene.client(), load_balancer, 6));
        answered.extend(ask_anew(scene.client(), SocketAddr::new(service.ip(family), PORT), 6));
        assert_eq!(answered.len(), 1, "{family:?}: {answered:?}");
    }
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    publish(&scene, "Cluster", &[], Endpoints::Here);
    let node = |addresses: &[IpAddr]| write_node(&scene, addresses, &[]);
    node(&[]);
    let _agent = scene.agent(&[REPLACE]);
    let address = scene.lab.node().ip(Family::V4);
    let node_port = SocketAddr::new(address, NODE_PORT);
    expect(scene.lab.outside(), node_port, Got::Refused, "nobody listens");
    node(&[address]);
    expect(scene.lab.outside(), node_port, Got::Served(Seen::Node), "the address is known");
    node(&[]);
    expect(scene.lab.outside(), node_port, Got::Refused, "and not any more");
}

#[test]
fn a_flow_from_before_the_service_finds_it_at_an_address_that_no_node_object_names() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = endpoints(&scene);
    write_node(&scene, &[], &[]);
    let _agent = scene.agent(&[REPLACE, "--nodeport-addresses", "all"]);
    let clients = BOTH.map(|family| {
        let to = SocketAddr::new(scene.lab.node().ip(family), NODE_PORT);
        Client::new(scene.lab.outside(), to)
    });
    for client in &clients {
        let error = client.ask_within(SILENCE).expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
    publish(&scene, "Cluster", &[], Endpoints::Here);
    for client in &clients {
        // It goes on asking all the while, which keeps its flow.
        eventually("the same socket is served", PATIENCE, || {
            client.ask_within(Duration::from_millis(200)).is_ok_and(|answer| answer.pod == "here")
        });
    }
}

#[test]
fn at_all_addresses_means_those_of_the_node_only() {
    needs_node!("nft");
    let scene = scene();
    let mut endpoints = endpoints(&scene);
    publish(&scene, "Cluster", &[], Endpoints::Elsewhere);
    let _agent = scene.agent(&[REPLACE, "--nodeport-addresses", "all"]);
    // The node's address towards its pods is none of those that the Node object names.
    let pod = scene.client();
    let service = SocketAddr::new(scene.lab.node().ip(Family::V4), NODE_PORT);
    expect(pod, service, Got::Served(Seen::Node), "the node's");
    let own = scene.lab.pod("here");
    endpoints.push(udp::Endpoint::start(own, Family::V4, NODE_PORT));
    let answer = Client::new(pod, own.at(Family::V4, NODE_PORT)).ask().expect("answered");
    assert_eq!(answer.pod, "here", "a pod's port of the same number is its own");
}

#[test]
fn sctp_comes_in_by_a_node_port() {
    needs_node!("nft");
    let scene = scene();
    let service = Service::new("call", &BOTH, 54).port("call", PORT, TARGET).protocol("SCTP");
    let raw = || {
        let protocol = Some(socket2::Protocol::from(132));
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol)
    };
    let outside = scene.lab.outside();
    let mut agent = None;
    for (policy, endpoint, seen) in [
        ("Cluster", "there", scene.lab.node().ip(Family::V4)),
        ("Local", "here", outside.ip(Family::V4)),
    ] {
        let where_it_is = if endpoint == "here" { Endpoints::Here } else { Endpoints::Elsewhere };
        write(&scene, &service, policy, &[]);
        list(&scene, &service, where_it_is);
        agent.get_or_insert_with(|| scene.agent(&[REPLACE]));
        let endpoint = scene.lab.pod(endpoint).run(raw).expect("a raw socket in a pod");
        endpoint.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
        let client = outside.run(raw).expect("a raw socket");
        let to = SocketAddr::new(scene.lab.node().ip(Family::V4), 0).into();
        let mut from = 49_152;
        let datagram = eventually_some("the INIT arrives", PATIENCE, || {
            // Another association each time, which is not the last one's flow.
            from += 1;
            client.send_to(&init(from, NODE_PORT), &to).expect("a raw datagram can be sent");
            let mut datagram = [0; 256];
            let length = (&endpoint).read(&mut datagram).ok()?;
            Some(datagram[..length].to_vec())
        });
        let source = <[u8; 4]>::try_from(&datagram[12..16]).expect("an IPv4 header");
        assert_eq!(IpAddr::from(source), seen, "{policy}");
        let target = u16::from_be_bytes([datagram[22], datagram[23]]);
        assert_eq!(target, TARGET, "the endpoint's port");
    }
}

#[test]
fn tcp_from_outside_goes_on_when_the_agent_is_gone() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints: Vec<_> = BOTH
        .into_iter()
        .flat_map(|family| scene.tcp(family, tcp::Speak::Banner, ["here", "there"]))
        .collect();
    let service = Service::new("web", &BOTH, 20).port("tcp", PORT, TCP_PORT);
    let start = |policy: &str, ranges: &[&str], endpoints| {
        write(&scene, &service, policy, ranges);
        list(&scene, &service, endpoints);
        drop(scene.agent(&[REPLACE]));
    };
    let connects = |host: &Host, to: SocketAddr| {
        host.run(|| {
            let mut socket = TcpStream::connect_timeout(&to, SILENCE)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.read_exact(&mut [0])
        })
    };
    let outside = scene.lab.outside();
    start("Cluster", &["172.18.0.100/32", "fd00:172:18::100/128"], Endpoints::Elsewhere);
    for to in BOTH.into_iter().flat_map(|family| external(&scene, family)) {
        connects(outside, to).expect("the kernel serves it");
    }
    let load_balancer = SocketAddr::new(load_balancer(Family::V4), PORT);
    let error = connects(scene.client(), load_balancer).expect_err("it is not in the range");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    start("Local", &[], Endpoints::Elsewhere);
    for to in BOTH.into_iter().flat_map(|family| external(&scene, family)) {
        connects(scene.client(), to).expect("pods are inside");
        let error = connects(outside, to).expect_err("no endpoint is here");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
