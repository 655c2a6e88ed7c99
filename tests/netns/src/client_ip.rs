//! Aim: endpoints see a pod that uses a Service by its own address, wherever they are, and the
//! node's address exactly where Kubernetes masquerades or nothing else works.
//! Method: endpoints note who connects to them; filters let one pod in and nobody else.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use streamvs_support::agent::{Agent, PATIENCE, Source, program};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::{Builder, Host, Lab, Shape};
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::load::{self, First, Report};
use streamvs_support::tcp::transfer::{Sum, send_pattern};
use streamvs_support::tcp::{self, Speak};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, grpc};

use crate::scene::{Scene, TCP_PORT, address, engines, grpc_service, needs_node, tcp_service};

/// The two that translate aliases each in its own way.
const CAPTURES: [&[&str]; 2] = [&["--capture", "iptables"], &["--capture", "nftables"]];

const SHAPES: [Shape; 3] = [Shape::PointToPoint, Shape::Bridge, Shape::Unnumbered];

/// Two client pods and an endpoint pod on the node, and an endpoint pod on another one.
fn lab(shape: Shape) -> Builder {
    Lab::builder().shape(shape).pods(["client", "other", "near"]).remote_pod("far")
}

/// Writes a Service with endpoints on both nodes.
fn publish(scene: &Scene, service: &Service, pods: &[&str]) {
    scene.manifests.service(service);
    let endpoints: Vec<Endpoint> = pods
        .iter()
        .flat_map(|pod| {
            let node = if *pod == "far" { "node2" } else { "node" };
            let of = |ip: &IpAddr| Endpoint::ready(scene.lab.pod(pod), Family::of(*ip));
            service.ips().iter().map(of).map(move |endpoint| endpoint.on_node(node))
        })
        .collect();
    scene.manifests.endpoints(service, &endpoints);
}

fn connect(from: &Host, service: &Service, count: usize) -> Report {
    load::run(from.netns(), address(service), First::Client, count)
}

#[track_caller]
fn connect_well(from: &Host, service: &Service, count: usize) {
    let report = connect(from, service, count);
    assert!(report.failures.is_empty(), "{}: {:?}", from.name(), report.failures);
}

fn kept(agent: &Agent, family: Family) -> Option<f64> {
    let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
    agent.metric("streamvs_client_ip_kept", &[("ip_family", family)])
}

fn ips<'a>(hosts: impl IntoIterator<Item = &'a Host>, family: Family) -> BTreeSet<IpAddr> {
    hosts.into_iter().map(|host| host.ip(family)).collect()
}

#[test]
fn endpoints_here_and_elsewhere_see_the_pod() {
    needs_node!("nft");
    for (shape, family) in SHAPES.into_iter().flat_map(|shape| Family::BOTH.map(|it| (shape, it))) {
        let scene = Scene::of(lab(shape));
        let endpoints = scene.tcp(family, Speak::Echo, ["near", "far"]);
        let service = tcp_service(family);
        publish(&scene, &service, &["near", "far"]);
        let clients = [scene.client(), scene.lab.pod("other")];
        for (done, capture) in (0..).zip(CAPTURES) {
            let agent = scene.agent(capture);
            assert_eq!(kept(&agent, family), Some(1.0), "{}", agent.log());
            for client in clients {
                connect_well(client, &service, 6);
            }
            for endpoint in &endpoints {
                let what = format!("{shape:?} {capture:?} at {}", endpoint.name());
                assert_eq!(endpoint.peers(), ips(clients, family), "{what}");
                assert_eq!(endpoint.connections(), 6 * (done + 1), "{what}");
            }
        }
    }
}

#[test]
fn two_pods_do_not_share_an_upstream_http2_connection() {
    needs_node!();
    for engine in engines() {
        for (shape, family) in [(Shape::PointToPoint, Family::V4), (Shape::Bridge, Family::V6)] {
            let scene = Scene::of(lab(shape));
            let endpoints: Vec<grpc::Endpoint> = scene.grpc(family, ["near", "far"]);
            let service = grpc_service(family);
            publish(&scene, &service, &["near", "far"]);
            // One worker: there nothing but the client's address keeps them apart.
            let _agent = scene.agent(&["--http2-engine", &engine, "--workers", "1"]);
            let clients = [scene.client(), scene.lab.pod("other")];
            for client in clients {
                let load = Load::unary(address(&service), 2).calls(200);
                assert!(load.run(client).without_failure().spread(&["near", "far"]) <= 1);
            }
            for endpoint in &endpoints {
                let seen = endpoint.peers();
                assert_eq!(seen, ips(clients, family), "{engine} {shape:?} at {}", endpoint.name());
            }
        }
    }
}

#[test]
fn who_is_no_pod_of_this_node_and_who_reaches_itself_is_seen_as_the_node() {
    needs_node!();
    for (shape, family) in SHAPES.into_iter().flat_map(|shape| Family::BOTH.map(|it| (shape, it))) {
        let scene = Scene::of(lab(shape).outside());
        let endpoints = scene.tcp(family, Speak::Echo, ["client", "far"]);
        let [hairpin, far] = endpoints.as_slice() else { panic!("two endpoints") };
        let (service, remote) = (tcp_service(family), Service::new("remote", &[family], 12));
        let remote = remote.port("tcp", 80, TCP_PORT);
        publish(&scene, &service, &["client"]);
        publish(&scene, &remote, &["far"]);
        let _agent = scene.agent(&[]);
        let client = scene.client();
        connect_well(client, &service, 3);
        assert!(!hairpin.peers().contains(&client.ip(family)), "{shape:?} {:?}", hairpin.peers());
        for host in [scene.lab.node(), scene.lab.outside()] {
            connect_well(host, &remote, 2);
        }
        // Of its addresses the node takes the one that is nearest.
        let gateway = if family == Family::V4 { "10.244.1.1" } else { "fd00:10:244:1::1" };
        let mut of_node = ips([scene.lab.node()], family);
        of_node.insert(gateway.parse().expect("an address"));
        assert!(far.peers().is_subset(&of_node), "{shape:?}: {:?}", far.peers());
    }
}

#[test]
fn an_endpoint_on_the_node_itself_sees_the_pod() {
    needs_node!();
    for (shape, family) in SHAPES.into_iter().flat_map(|shape| Family::BOTH.map(|it| (shape, it))) {
        let scene = Scene::of(lab(shape));
        let node = scene.lab.node();
        let here = tcp::Endpoint::start(node, family, TCP_PORT, Speak::Echo);
        let service = tcp_service(family);
        scene.manifests.service(&service);
        scene.manifests.endpoints(&service, &[Endpoint::at(node.ip(family))]);
        let _agent = scene.agent(&[]);
        connect_well(scene.client(), &service, 3);
        assert_eq!(here.peers(), ips([scene.client()], family), "{shape:?}");
    }
}

/// Lets nobody but one address reach a port, as a NetworkPolicy does: in the endpoint's namespace,
/// and where its node forwards to it.
fn allow_only(scene: &Scene, family: Family, client: IpAddr) {
    let program = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let (port, client) = (TCP_PORT.to_string(), client.to_string());
    for (host, chain) in [
        (scene.lab.pod("near"), "INPUT"),
        (scene.lab.pod("far"), "INPUT"),
        (scene.lab.second_node(), "FORWARD"),
    ] {
        let rule = ["-A", chain, "-p", "tcp", "--dport", &port, "!", "-s", &client];
        let verdict = ["-j", "REJECT", "--reject-with", "tcp-reset"];
        host.output(program, &[&rule[..], &verdict].concat());
    }
}

#[test]
fn a_policy_that_allows_one_pod_lets_it_in_and_nobody_else() {
    needs_node!("nft");
    for (shape, family) in [
        (Shape::PointToPoint, Family::V4),
        (Shape::PointToPoint, Family::V6),
        (Shape::Bridge, Family::V4),
        (Shape::Bridge, Family::V6),
    ] {
        for (client_ip, capture) in
            [("keep", CAPTURES[0]), ("keep", CAPTURES[1]), ("node", CAPTURES[0])]
        {
            let scene = Scene::of(lab(shape));
            let endpoints = scene.tcp(family, Speak::Echo, ["near", "far"]);
            let service = tcp_service(family);
            publish(&scene, &service, &["near", "far"]);
            let _agent = scene.agent(&[capture, &["--client-ip", client_ip]].concat());
            allow_only(&scene, family, scene.client().ip(family));
            let allowed = connect(scene.client(), &service, 4);
            let refused = connect(scene.lab.pod("other"), &service, 4);
            assert_eq!(refused.failures.len(), 4, "{shape:?} {family:?}");
            // Without the client's address the same policy keeps everybody out.
            let failures = if client_ip == "keep" { 0 } else { 4 };
            assert_eq!(allowed.failures.len(), failures, "{shape:?} {:?}", allowed.failures);
            let reached = if client_ip == "keep" { 2 } else { 0 };
            assert!(endpoints.iter().all(|endpoint| endpoint.connections() == reached));
        }
    }
}

#[test]
fn a_pod_that_talks_to_the_endpoint_directly_keeps_its_connections() {
    needs_node!("nft");
    const PORTS: std::ops::Range<u16> = 40_000..40_016;
    for (shape, capture) in [Shape::PointToPoint, Shape::Bridge].into_iter().zip(CAPTURES) {
        let scene = Scene::of(lab(shape));
        let endpoints = scene.tcp(Family::V4, Speak::Echo, ["near"]);
        let service = tcp_service(Family::V4);
        publish(&scene, &service, &["near"]);
        let _agent = scene.agent(capture);
        let client = scene.client();
        let direct: Vec<TcpStream> = client.run(|| {
            let dial = |port| {
                let from = SocketAddr::new(client.ip(Family::V4), port);
                dial_from(from, endpoints[0].address())
            };
            PORTS.map(dial).collect()
        });
        // The node has no other ports to dial from than those.
        let range = format!("{} {}", PORTS.start, PORTS.end - 1);
        scene.lab.node().sysctl("net.ipv4.ip_local_port_range", &range);
        connect_well(client, &service, 8);
        assert_eq!(endpoints[0].peers(), ips([client], Family::V4), "{shape:?}");
        for mut socket in direct {
            socket.write_all(b"still there?").expect("is sent");
            let mut answer = [0; 5];
            socket.read_exact(&mut answer).expect("is answered");
            assert_eq!(&answer, b"near\n", "{shape:?}");
        }
    }
}

/// Says something on a connection and hears an answer.
#[track_caller]
fn say_and_hear(socket: &mut TcpStream) {
    let patience = Some(std::time::Duration::from_secs(10));
    socket.set_read_timeout(patience).expect("more than none is allowed");
    socket.write_all(b"x").expect("is sent");
    // A banner may come before it.
    let mut octet = [0];
    while octet != *b"x" {
        socket.read_exact(&mut octet).expect("is answered");
    }
}

/// Connects from a given port.
fn dial_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let dial = async {
        let socket = tokio::net::TcpSocket::new_v4().expect("sockets are allowed");
        socket.bind(from).expect("the port is free");
        let socket = socket.connect(to).await.expect("the endpoint listens");
        let socket = socket.into_std().expect("is registered");
        socket.set_nonblocking(false).expect("is open");
        socket
    };
    streamvs_support::lab::block_on_local(dial)
}

/// How often a host has said that a packet was too big.
fn too_big_count(host: &Host, family: Family) -> u64 {
    let (path, name) = match family {
        Family::V4 => ("/proc/thread-self/net/snmp", "OutDestUnreachs"),
        Family::V6 => ("/proc/thread-self/net/snmp6", "Icmp6OutPktTooBigs"),
    };
    let text = host.run(|| std::fs::read_to_string(path).expect("the kernel's counters"));
    if family == Family::V6 {
        let line = text.lines().find(|line| line.starts_with(name)).expect("is counted");
        return line.split_whitespace().last().and_then(|it| it.parse().ok()).expect("a number");
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.split_whitespace().position(|word| word == name).expect("is counted");
    values.split_whitespace().nth(at).and_then(|it| it.parse().ok()).expect("a number")
}

#[test]
fn bulk_passes_both_ways_over_a_narrow_path() {
    needs_node!("nft");
    const OCTETS: u64 = 4 * 1024 * 1024;
    for (shape, family, capture) in [
        (Shape::PointToPoint, Family::V4, CAPTURES[0]),
        (Shape::PointToPoint, Family::V6, CAPTURES[0]),
        (Shape::Bridge, Family::V4, CAPTURES[0]),
        (Shape::PointToPoint, Family::V6, CAPTURES[1]),
        (Shape::Bridge, Family::V4, CAPTURES[1]),
    ] {
        let scene = Scene::of(lab(shape));
        let _endpoints = scene.tcp(family, Speak::Shout(OCTETS), ["far"]);
        let service = tcp_service(family);
        publish(&scene, &service, &["far"]);
        let agent = scene.agent(capture);
        assert_eq!(kept(&agent, family), Some(1.0), "{}", agent.log());
        let node2 = scene.lab.second_node();
        let far = scene.lab.pod("far").ip(family);
        let length = if family == Family::V4 { 32 } else { 128 };
        let device = if shape == Shape::Bridge { "cni0" } else { "veth-far" };
        let back = match family {
            Family::V4 => "10.244.1.0/24 via 172.18.0.2",
            Family::V6 => "fd00:10:244:1::/64 via fd00:172:18::2",
        };
        node2.netns().ip(&format!(
            "route replace {far}/{length} dev {device} mtu 1300\nroute replace {back} mtu 1300\n"
        ));
        let before = too_big_count(node2, family);
        let target = address(&service);
        let answer = scene.client().block_on(|| async move {
            let mut socket = tokio::net::TcpStream::connect(target).await.expect("is captured");
            let (mut from, mut to) = socket.split();
            let (sent, sum) =
                tokio::join!(send_pattern(&mut to, OCTETS), Sum::of(&mut from, OCTETS));
            sent.expect("all is sent");
            assert_eq!(sum.expect("all comes"), Sum::of_pattern(OCTETS));
            let mut answer = String::new();
            tokio::io::AsyncReadExt::read_to_string(&mut from, &mut answer).await.expect("is text");
            answer
        });
        assert_eq!(answer, format!("far {}\n", Sum::of_pattern(OCTETS)), "{shape:?}");
        // Each side was told once at least.
        assert!(too_big_count(node2, family) >= before + 2, "{shape:?} {family:?}");
    }
}

/// Endpoints see the node, connections work, and the log says why, once.
#[track_caller]
fn check_fallback(scene: &Scene, agent: &Agent, service: &Service, reason: Option<&str>) {
    let family = Family::of(service.ips()[0]);
    let endpoints = scene.tcp(family, Speak::Echo, ["near", "far"]);
    connect_well(scene.client(), service, 4);
    for endpoint in &endpoints {
        assert!(!endpoint.peers().contains(&scene.client().ip(family)), "{:?}", endpoint.peers());
    }
    assert_eq!(kept(agent, family), Some(0.0), "{}", agent.log());
    let log = agent.log();
    let told: Vec<&str> =
        log.lines().filter(|line| line.contains("instead of the client's")).collect();
    match reason {
        None => assert!(told.is_empty(), "{told:?}"),
        Some(reason) => {
            let count = told.iter().filter(|line| line.contains(reason)).count();
            assert_eq!(count, 1, "{reason}: {told:?}");
        }
    }
}

#[test]
fn where_the_pods_address_cannot_be_kept_the_nodes_is_used_and_the_log_says_why() {
    needs_node!();
    type Case = (Shape, &'static [&'static str], Option<&'static str>, fn(&Scene));
    let cases: [Case; 6] = [
        (Shape::PointToPoint, &["--client-ip", "node"], None, |_| {}),
        (Shape::PointToPoint, &["--masquerade-all"], None, |_| {}),
        (Shape::PointToPoint, &[], Some("spec.podCIDRs"), |scene| {
            scene.manifests.node("node", "zone-a");
        }),
        (
            Shape::PointToPoint,
            &["--client-ip-ranges", "192.0.2.0/25"],
            Some("as large as the pods' 10.244.1.0/24"),
            |_| {},
        ),
        (Shape::PointToPoint, &[], Some("198.18.0.128/25"), |scene| {
            scene.lab.node().netns().ip("route add 198.18.0.128/25 via 172.18.0.100\n");
        }),
        (Shape::Bridge, &[], Some("cni0"), |scene| {
            scene.lab.node().sysctl("net.bridge.bridge-nf-call-iptables", "0");
        }),
    ];
    for (shape, flags, reason, prepare) in cases {
        let scene = Scene::of(lab(shape));
        let service = tcp_service(Family::V4);
        publish(&scene, &service, &["near", "far"]);
        prepare(&scene);
        let agent = scene.agent(&[flags, &["--iptables-sync-period", "1s"]].concat());
        // Two looks at the rules tell it no second time.
        std::thread::sleep(std::time::Duration::from_millis(2500));
        check_fallback(&scene, &agent, &service, reason);
    }
}

/// A folder of iptables' extensions without one of them.
fn extensions_without(folder: &Path, name: &str) {
    let usual = ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables"];
    let usual = usual.iter().map(Path::new).find(|path| path.is_dir());
    for file in usual.expect("iptables has extensions").read_dir().expect("is a folder").flatten() {
        let file_name = file.file_name();
        if !file_name.to_string_lossy().contains(name) {
            symlink(file.path(), folder.join(file_name)).expect("a link can be made");
        }
    }
}

#[test]
fn without_the_netmap_target_everything_else_works() {
    needs_node!();
    for backend in ["nft", "legacy"] {
        let scene = Scene::of(lab(Shape::PointToPoint));
        let service = tcp_service(Family::V4);
        publish(&scene, &service, &["near", "far"]);
        let extensions = tempfile::tempdir().expect("a temporary folder can be made");
        extensions_without(extensions.path(), "NETMAP");
        let mut command = scene.lab.node().command(program());
        command.env("XTABLES_LIBDIR", extensions.path());
        let flags = ["--iptables-backend", backend];
        let source = Source::Manifests(&scene.manifests);
        let node = scene.lab.node();
        let agent = Agent::spawn_by(command, node, scene.folder.path(), source, &flags);
        let agent = agent.wait_until_healthy();
        eventually("the rules are in place", PATIENCE, || {
            agent.log().contains("capture rules installed")
        });
        let reason = "pods=10.244.1.0/24 reason=the NETMAP target";
        check_fallback(&scene, &agent, &service, Some(reason));
    }
}

/// An `nft` that knows no translation of prefixes, as before 0.9.5.
fn nft_without_prefixes(folder: &Path) {
    let nft = streamvs_support::privilege::find("nft").expect("nft is installed");
    let script = format!(
        "#!/bin/sh\n\
         text=$(cat)\n\
         case \"$text\" in *'prefix to'*) echo 'unexpected prefix' >&2; exit 1;; esac\n\
         printf '%s\\n' \"$text\" | {} \"$@\"\n",
        nft.display()
    );
    let program = folder.join("nft");
    std::fs::write(&program, script).expect("a new folder can be written to");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, all).expect("it is ours");
}

#[test]
fn without_translation_of_prefixes_everything_else_works() {
    needs_node!("nft");
    let scene = Scene::of(lab(Shape::PointToPoint));
    let service = tcp_service(Family::V4);
    publish(&scene, &service, &["near", "far"]);
    let programs = tempfile::tempdir().expect("a temporary folder can be made");
    nft_without_prefixes(programs.path());
    let mut command = scene.lab.node().command(program());
    let path = std::env::var("PATH").expect("there is a PATH");
    command.env("PATH", format!("{}:{path}", programs.path().display()));
    let source = Source::Manifests(&scene.manifests);
    let node = scene.lab.node();
    let agent = Agent::spawn_by(command, node, scene.folder.path(), source, CAPTURES[1]);
    let agent = agent.wait_until_healthy();
    eventually("the rules are in place", PATIENCE, || {
        agent.log().contains("capture rules installed")
    });
    let reason = "pods=10.244.1.0/24 reason=the translation of prefixes by nft";
    check_fallback(&scene, &agent, &service, Some(reason));
}

#[test]
fn what_changes_while_the_agent_runs_is_followed_by_iptables() {
    needs_node!();
    let tidy = |node: &Host| drop(node.output("iptables", &["-t", "nat", "-F", "STREAMVS-ALIAS"]));
    let is_back = |node: &Host| {
        node.output("iptables", &["-t", "nat", "-S", "STREAMVS-ALIAS"]).contains("NETMAP")
    };
    what_changes_while_the_agent_runs_is_followed(CAPTURES[0], tidy, is_back);
}

#[test]
fn what_changes_while_the_agent_runs_is_followed_by_nftables() {
    needs_node!("nft");
    let tidy = |node: &Host| {
        node.output("nft", &["flush", "chain", "ip", "streamvs-capture", "alias"]);
    };
    let is_back = |node: &Host| {
        let table = node.output("nft", &["list", "table", "ip", "streamvs-capture"]);
        table.contains("prefix to 10.244.1.0/24")
    };
    what_changes_while_the_agent_runs_is_followed(CAPTURES[1], tidy, is_back);
}

/// `tidy` takes the rules of aliases away.
fn what_changes_while_the_agent_runs_is_followed(
    capture: &[&str],
    tidy: impl Fn(&Host),
    is_back: impl Fn(&Host) -> bool,
) {
    let scene = Scene::of(lab(Shape::Bridge));
    let endpoint = scene.tcp(Family::V4, Speak::Echo, ["near"]).remove(0);
    let service = tcp_service(Family::V4);
    publish(&scene, &service, &["near"]);
    let _far = scene.tcp(Family::V4, Speak::Banner, ["far"]);
    let remote = Service::new("remote", &[Family::V4], 12).port("tcp", 80, TCP_PORT);
    publish(&scene, &remote, &["far"]);
    scene.manifests.node("node", "zone-a");
    let agent = scene.agent(&[capture, &["--iptables-sync-period", "1s"]].concat());
    let node = scene.lab.node();
    let client = scene.client().ip(Family::V4);
    connect_well(scene.client(), &service, 2);
    assert!(!endpoint.peers().contains(&client));

    scene.manifests.node_with_pods("node", "zone-a", &["10.244.1.0/24"]);
    eventually("the Node's ranges are used", PATIENCE, || kept(&agent, Family::V4) == Some(1.0));
    connect_well(scene.client(), &service, 2);
    assert!(endpoint.peers().contains(&client));

    // One that is open already, to an endpoint elsewhere, goes on.
    let mut open =
        scene.client().run(|| TcpStream::connect(address(&remote)).expect("is captured"));
    say_and_hear(&mut open);
    node.sysctl("net.bridge.bridge-nf-call-iptables", "0");
    eventually("the bridge is looked at", PATIENCE, || kept(&agent, Family::V4) == Some(0.0));
    connect_well(scene.client(), &service, 2);
    say_and_hear(&mut open);
    node.sysctl("net.bridge.bridge-nf-call-iptables", "1");
    eventually("and once more", PATIENCE, || kept(&agent, Family::V4) == Some(1.0));
    connect_well(scene.client(), &service, 2);

    // Somebody tidies up.
    tidy(node);
    node.output("ip", &["route", "del", "local", "198.18.0.0/24", "dev", "lo"]);
    eventually("rule and route are back", PATIENCE, || {
        let routes = node.output("ip", &["route", "show", "table", "local"]);
        is_back(node) && routes.contains("198.18.0.0/24")
    });
    connect_well(scene.client(), &service, 2);
}
