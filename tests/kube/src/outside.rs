//! Aim: who asks by an address of the outside gets what the API says of the Service: by node port,
//! by load balancer and by externalIP. Method: one Service is changed as its owner and a cloud's
//! controllers do; after each change a pod, the node and a host outside ask. `tests/netns` has the
//! same with files, for each way to capture.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::Got::{self, Refused, Served, Silence};
use streamvs_support::udp::{self, Client, ask_anew};
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, http, tcp};

use crate::scene::{SERVICE_PORT, Scene, needs_node};

/// Where TCP endpoints listen.
const TCP_PORT: u16 = 8080;

/// Where UDP endpoints listen.
const UDP_PORT: u16 = 5353;

const NODE_PORT: u16 = 30_080;

/// What the load balancer was given: [`OUTSIDE`] leads there.
const LOAD_BALANCER: [&str; 2] = ["203.0.113.7", "2001:db8:203::7"];

/// An externalIP in the range the operator allows, and one in no such range.
const ALLOWED: &str = "203.0.113.9";
const NOT_ALLOWED: &str = "203.0.113.200";

/// How the host outside finds them.
const OUTSIDE: &str = "route add 203.0.113.0/24 via 172.18.0.2\n\
                       route add 2001:db8:203::/48 via fd00:172:18::2\n";

/// A client pod and an endpoint pod, an endpoint pod on another node, and a host outside.
fn scene() -> Scene {
    let builder = Lab::builder().pods(["client", "here"]).remote_pod("there").outside();
    let scene = Scene::of(builder, "alongside");
    let outside = scene.lab.outside().netns();
    outside.ip(OUTSIDE);
    // What is not captured goes back out by the node, which tells of the shorter way; once taken,
    // nothing would come by the node any more.
    for interface in ["all", "eth0"] {
        outside.sysctl(&format!("net.ipv4.conf.{interface}.accept_redirects"), "0");
        outside.sysctl(&format!("net.ipv6.conf.{interface}.accept_redirects"), "0");
    }
    // Where the node's default route leads; without a route of its own it would answer by ICMPv6.
    scene.lab.control().netns().ip("route add blackhole 2001:db8:203::/48\n");
    let ranges = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    let spec = json!({ "spec": { "podCIDR": ranges[0], "podCIDRs": ranges } }).to_string();
    scene.cluster.kubectl(&["patch", "node", "node", "-p", &spec], "");
    let addresses = Family::BOTH.map(|family| scene.lab.node().ip(family));
    scene.cluster.set_node_addresses("node", &addresses);
    scene
}

fn web() -> Service {
    Service::new("web", &Family::BOTH, 20).port("tcp", SERVICE_PORT, TCP_PORT)
}

/// Writes the Service with these fields in its `spec`, as a `LoadBalancer` unless they say else.
fn write(scene: &Scene, fields: Value) {
    let mut object = web().object();
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
    for (key, value) in fields.as_object().expect("fields of a spec") {
        object["spec"][key] = value.clone();
    }
    scene.cluster.apply(&[object]);
}

/// Writes what a cloud's controller found out: its addresses, and who answers at them.
fn allocate(scene: &Scene, mode: &str) {
    let ingress = LOAD_BALANCER.map(|ip| json!({ "ip": ip, "ipMode": mode }));
    let status = json!({ "status": { "loadBalancer": { "ingress": ingress } } }).to_string();
    let service = ["patch", "service", "web", "--subresource=status", "--type=merge", "-p"];
    scene.cluster.kubectl(&[&service[..], &[&status]].concat(), "");
}

/// Moves a Service's only endpoint.
fn move_to(scene: &Scene, service: &Service, pod: &str, node: &str) {
    let endpoint = |family| Endpoint::ready(scene.lab.pod(pod), family).on_node(node);
    scene.cluster.apply(&service.slices(&Family::BOTH.map(endpoint)));
}

/// Demands what each host gets by cluster IP, node port and load balancer, in both families: all at
/// the same time, as silence takes its time.
#[track_caller]
fn expect(scene: &Scene, what: &str, expected: &[(&Host, [Got; 3])]) {
    let targets: Vec<[SocketAddr; 3]> = Family::BOTH
        .into_iter()
        .zip(LOAD_BALANCER)
        .map(|(family, load_balancer)| {
            [
                SocketAddr::new(web().ip(family), SERVICE_PORT),
                SocketAddr::new(scene.lab.node().ip(family), NODE_PORT),
                SocketAddr::new(ip(load_balancer), SERVICE_PORT),
            ]
        })
        .collect();
    let mut each = Vec::new();
    for (host, gets) in expected {
        for of_family in &targets {
            each.extend(of_family.iter().zip(gets).map(|(to, got)| (*host, *to, *got)));
        }
    }
    expect_each(what, each.into_iter());
}

#[track_caller]
fn expect_each<'a>(what: &str, each: impl Iterator<Item = (&'a Host, SocketAddr, Got)>) {
    std::thread::scope(|scope| {
        for (host, to, got) in each {
            scope.spawn(move || tcp::expect(host, to, got, what));
        }
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What the load balancer hears of the node: status and count of local endpoints; none where
/// nobody listens.
fn health(scene: &Scene, port: u16) -> [Option<(u16, u64)>; 2] {
    Family::BOTH.map(|family| {
        let address = SocketAddr::new(scene.lab.node().ip(family), port);
        let answer = http::get(scene.lab.outside(), address, "/").ok()?;
        let body: Value = serde_json::from_str(&answer.body).expect("the body is JSON");
        Some((answer.status, body["localEndpoints"].as_u64().expect("the body counts them")))
    })
}

#[test]
fn who_asks_from_outside_gets_what_the_api_says() {
    needs_node!("nft");
    let scene = scene();
    let _endpoints = Family::BOTH.map(|family| {
        let start = |pod| {
            let host = scene.lab.pod(pod);
            let tcp = tcp::Endpoint::start(host, family, TCP_PORT, tcp::Speak::Banner);
            (tcp, udp::Endpoint::start(host, family, UDP_PORT))
        };
        ["here", "there"].map(start)
    });
    write(&scene, json!({}));
    move_to(&scene, &web(), "here", "node");
    let agent = scene.agent(&[]);
    by_load_balancer(&scene);
    by_policy(&scene, &agent);
    let dns = Service::new("dns", &Family::BOTH, 53).port("dns", 53, UDP_PORT).protocol("UDP");
    scene.cluster.apply(&[dns.object()]);
    move_to(&scene, &dns, "here", "node");
    what_is_left_to_others(&scene, &agent, &dns);
    drop(agent);
    let flags = ["--allow-external-ips", "203.0.113.0/28", "--kube-proxy-replacement"];
    let _agent = scene.agent(&flags);
    what_is_served_when_asked_for(&scene, &dns);
    health_checks(&scene);
}

fn by_load_balancer(scene: &Scene) {
    let (pod, node, outside) = (scene.client(), scene.lab.node(), scene.lab.outside());
    let not_by_balancer = [Served, Served, Silence];
    let all = [Served; 3];
    expect(scene, "none yet", &[(pod, not_by_balancer), (outside, not_by_balancer)]);
    allocate(scene, "VIP");
    expect(scene, "ipMode VIP", &[(pod, all), (node, all), (outside, all)]);
    // The balancer wants to see that traffic itself (KEP-1860).
    allocate(scene, "Proxy");
    expect(scene, "ipMode Proxy", &[(pod, not_by_balancer), (outside, not_by_balancer)]);
    allocate(scene, "VIP");
    write(scene, json!({ "loadBalancerSourceRanges": ["10.244.1.0/24", "fd00:10:244:1::/64"] }));
    expect(scene, "source ranges", &[(outside, not_by_balancer), (pod, all)]);
}

fn by_policy(scene: &Scene, agent: &Agent) {
    let (pod, outside) = (scene.client(), scene.lab.outside());
    write(scene, json!({ "externalTrafficPolicy": "Local" }));
    expect(scene, "Local, an endpoint here", &[(outside, [Served; 3])]);
    expect_explained(agent, ["Local", "balance", "balance"]);
    move_to(scene, &web(), "there", "node2");
    // It is a matter of those who come from outside.
    let expected = [(outside, [Served, Silence, Silence]), (pod, [Served; 3])];
    expect(scene, "Local, no endpoint here", &expected);
    expect_explained(agent, ["Local", "drop", "drop"]);
    write(scene, json!({}));
    expect(scene, "Cluster, the endpoint elsewhere", &[(outside, [Served; 3])]);
    expect_explained(agent, ["Cluster", "balance", "balance"]);
}

/// Demands that `explain` names the external policy, and for each family what comes of it.
#[track_caller]
fn expect_explained(agent: &Agent, wanted: [&str; 3]) {
    eventually_equals("explained", PATIENCE, &wanted.map(|word| json!(word)), || {
        let output = agent.command(&["explain", "default/web", "-o", "json"]);
        let explained: Value = serde_json::from_slice(&output.stdout).expect("explain gives JSON");
        let external = &explained["ports"][0]["external"];
        let disposition = |family: usize| external["families"][family]["disposition"].clone();
        [external["externalTrafficPolicy"].clone(), disposition(0), disposition(1)]
    });
}

/// Where clients find externalIPs, an allowed one first.
fn by_external_ip() -> [SocketAddr; 2] {
    [ALLOWED, NOT_ALLOWED].map(|text| SocketAddr::new(ip(text), SERVICE_PORT))
}

fn by_udp(dns: &Service) -> [SocketAddr; 2] {
    Family::BOTH.map(|family| SocketAddr::new(dns.ip(family), 53))
}

fn what_is_left_to_others(scene: &Scene, agent: &Agent, dns: &Service) {
    let outside = scene.lab.outside();
    let ports = web().object()["spec"]["ports"].clone();
    let external_ips = [ALLOWED, NOT_ALLOWED];
    let fields = json!({ "type": "ClusterIP", "ports": ports, "externalIPs": external_ips });
    write(scene, fields);
    expect(scene, "of type ClusterIP", &[(outside, [Served, Refused, Silence])]);
    let each = by_external_ip().into_iter().map(|to| (outside, to, Silence));
    expect_each("no externalIP is allowed by default", each);
    eventually("the log says so", PATIENCE, || agent.log().contains("--allow-external-ips"));
    let client = Client::new(scene.client(), by_udp(dns)[0]);
    assert!(client.ask_within(Duration::from_millis(500)).is_err(), "UDP is kube-proxy's");
}

fn what_is_served_when_asked_for(scene: &Scene, dns: &Service) {
    let (pod, outside) = (scene.client(), scene.lab.outside());
    let each = [pod, outside].into_iter().flat_map(|host| {
        by_external_ip().into_iter().zip([Served, Silence]).map(move |(to, got)| (host, to, got))
    });
    expect_each("the allowed externalIP and the other", each);
    for to in by_udp(dns) {
        let answered = ask_anew(pod, to, 4);
        assert_eq!(answered.keys().collect::<Vec<_>>(), ["here"], "UDP is ours in its place");
    }
    move_to(scene, dns, "there", "node2");
    for to in by_udp(dns) {
        eventually("UDP follows its slices", PATIENCE, || {
            Client::new(pod, to).ask().is_ok_and(|answer| answer.pod == "there")
        });
    }
}

/// Beside kube-proxy it answers the balancer, in its place we do.
fn health_checks(scene: &Scene) {
    write(scene, json!({ "externalTrafficPolicy": "Local" }));
    allocate(scene, "VIP");
    let object = scene.cluster.kubectl(&["get", "service", "web", "-o", "json"], "");
    let object: Value = serde_json::from_str(&object).expect("kubectl prints JSON");
    let port = object["spec"]["healthCheckNodePort"].as_u64();
    let port = port.and_then(|port| port.try_into().ok()).expect("the server gives it a port");
    let expect_health = |expected: Option<(u16, u64)>| {
        let what = "the balancer hears it";
        eventually_equals(what, PATIENCE, &[expected; 2], || health(scene, port));
    };
    expect_health(Some((503, 0)));
    move_to(scene, &web(), "here", "node");
    expect_health(Some((200, 1)));
    expect(scene, "in place of kube-proxy", &[(scene.lab.outside(), [Served; 3])]);
    write(scene, json!({}));
    expect_health(None);
}
