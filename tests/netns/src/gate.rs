//! Aim: a dead or hanging agent is no outage, for whoever is behind it takes over.
//! Method: kube-proxy's rules behind ours, connections without pause, and the agent killed or
//! stopped. What happens at that moment is printed; what must be over seconds later is asserted.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::kube_rules::{self, ServicePort};
use streamvs_support::manifest::Service;
use streamvs_support::tcp::Speak;
use streamvs_support::wait::eventually;

use crate::knocking::{FAST, Knocking, SLOW};
use crate::scene::{
    CAPTURES, GRPC_PORT, PODS, Scene, TCP_PORT, address, grpc_service, needs_node, tcp_service,
};

/// After this a connection to a dead or stopped agent is nobody's excuse. Not a measure: a busy
/// machine may take seconds to run a process at all.
pub(crate) const OVER: Duration = Duration::from_secs(5);

/// How long connections go on on both sides of an event.
pub(crate) const A_WHILE: Duration = Duration::from_millis(1500);

/// The lease as operators have it: in other tests it is longer, since nobody is behind the agent.
pub(crate) const LEASE: [&str; 2] = ["--dead-man-timeout", "500ms"];

/// Rules of kube-proxy for these Services, whose endpoints are all pods.
pub(crate) fn kube_proxy(scene: &Scene, services: &[(&Service, u16)]) {
    let ports: Vec<ServicePort> = services
        .iter()
        .map(|(service, port)| ServicePort {
            name: format!("default/{}", service.name()),
            address: address(service),
            endpoints: PODS
                .map(|pod| scene.lab.pod(pod).at(Family::of(service.ips()[0]), *port))
                .to_vec(),
        })
        .collect();
    kube_rules::apply(scene.lab.node(), &ports);
}

/// The same as kube-proxy's nftables mode has them, as far as the order of rules goes: a table of
/// this name, and translation at the usual priority.
fn kube_proxy_by_nftables(scene: &Scene, services: &[(&Service, u16)]) {
    let mut rules = String::new();
    for (service, port) in services {
        let service = address(service);
        let pods = PODS.iter().enumerate();
        let map: Vec<String> = pods
            .map(|(index, pod)| format!("{index} : {}", scene.lab.pod(pod).ip(Family::V4)))
            .collect();
        let (map, count) = (map.join(", "), map.len());
        let (ip, service_port) = (service.ip(), service.port());
        rules.push_str(&format!(
            "ip daddr {ip} tcp dport {service_port} \
             dnat to numgen random mod {count} map {{ {map} }} : {port}\n"
        ));
    }
    let table = format!(
        "table ip kube-proxy {{\n\
         chain services {{\n{rules}}}\n\
         chain nat-prerouting {{\ntype nat hook prerouting priority -100\njump services\n}}\n\
         chain nat-output {{\ntype nat hook output priority -100\njump services\n}}\n\
         }}\n"
    );
    scene.lab.node().feed("nft", &["-f", "-"], &table);
}

/// TCP and gRPC endpoints, their Services, and kube-proxy's rules for both.
pub(crate) struct BesideKubeProxy {
    pub(crate) scene: Scene,
    plain: Service,
    pub(crate) echo: Service,
    _tcp: Vec<streamvs_support::tcp::Endpoint>,
    _grpc: Vec<streamvs_support::grpc::Endpoint>,
}

impl BesideKubeProxy {
    pub(crate) fn new() -> Self {
        let scene = Scene::new();
        let (plain, echo) = (tcp_service(Family::V4), grpc_service(Family::V4));
        let tcp = scene.tcp(Family::V4, Speak::Echo, PODS);
        let grpc = scene.grpc(Family::V4, PODS);
        scene.publish(&plain, &PODS);
        scene.publish(&echo, &PODS);
        let node = Self { scene, plain, echo, _tcp: tcp, _grpc: grpc };
        node.kube_proxy_by_iptables();
        node
    }

    fn kube_proxy_by_iptables(&self) {
        kube_proxy(&self.scene, &[(&self.plain, TCP_PORT), (&self.echo, GRPC_PORT)]);
    }

    fn kube_proxy_by_nftables(&self) {
        let services = [(&self.plain, TCP_PORT), (&self.echo, GRPC_PORT)];
        kube_proxy_by_nftables(&self.scene, &services);
    }

    pub(crate) fn agent(&self, flags: &[&str]) -> Agent {
        self.scene.agent(&[&LEASE, flags].concat())
    }

    /// The pods that 30 calls on one connection reach: all through the agent, one past it.
    pub(crate) fn reached(&self) -> usize {
        let load = Load::unary(address(&self.echo), 1).calls(30);
        load.run(self.scene.client()).without_failure().calls.len()
    }

    /// Waits until calls go through the agent: on a busy machine its lease may have run out just
    /// now, and it has the next second for it.
    #[track_caller]
    fn balances_by_call(&self) {
        eventually("by call", PATIENCE, || self.reached() == PODS.len());
    }

    fn gates(&self) -> usize {
        let tables = self.scene.lab.node().output("nft", &["list", "tables"]);
        tables.lines().filter(|line| line.contains("streamvs-gate")).count()
    }
}

/// A connection that says something and hears it again.
fn still_talks(socket: &mut TcpStream) -> bool {
    let mut answer = [0; 1];
    socket.write_all(b"x").is_ok() && socket.read_exact(&mut answer).is_ok()
}

#[test]
fn a_killed_agent_leaves_new_connections_to_kube_proxy() {
    needs_node!("nft");
    for capture in CAPTURES {
        let node = BesideKubeProxy::new();
        let target = address(&node.plain);
        // Made before we came, so it is the kernel's own and none of our business.
        let mut older = node.scene.client().run(|| TcpStream::connect(target)).expect("answers");
        let mut agent = node.agent(capture);
        assert_eq!(node.gates(), 1);
        node.balances_by_call();

        let knocking = Knocking::start(node.scene.client(), target, FAST);
        std::thread::sleep(A_WHILE);
        let killed = Instant::now();
        agent.kill();
        std::thread::sleep(OVER + A_WHILE);
        let knocks = knocking.finish();
        knocks.report(&format!("kill -9, {}", capture.join(" ")), killed);
        knocks.fail_only_around(killed, OVER);
        assert_eq!(node.gates(), 0, "its table went with it");
        assert_eq!(node.reached(), 1, "by connection, as kube-proxy balances");
        assert!(still_talks(&mut older));

        let _agent = node.agent(capture);
        node.balances_by_call();
        assert!(still_talks(&mut older));
    }
}

#[test]
fn a_stopped_agent_leaves_new_connections_to_kube_proxy() {
    needs_node!("nft");
    let node = BesideKubeProxy::new();
    let agent = node.agent(&[]);
    let knocking = Knocking::start(node.scene.client(), address(&node.plain), SLOW);
    std::thread::sleep(A_WHILE);
    let stopped = Instant::now();
    agent.signal(Signal::SIGSTOP);
    std::thread::sleep(OVER + A_WHILE);
    let knocks = knocking.finish();
    knocks.report("SIGSTOP", stopped);
    knocks.fail_only_around(stopped, OVER);
    assert_eq!(node.reached(), 1, "by connection, as kube-proxy balances");

    agent.signal(Signal::SIGCONT);
    node.balances_by_call();
    assert!(agent.log().contains("new connections passed it by"), "{}", agent.log());
}

#[test]
fn without_owned_tables_the_lease_runs_out() {
    needs_node!("nft");
    let node = BesideKubeProxy::new();
    let mut agent = node.agent(&["--dead-man-switch", "lease"]);
    node.balances_by_call();
    let knocking = Knocking::start(node.scene.client(), address(&node.plain), FAST);
    std::thread::sleep(A_WHILE);
    let killed = Instant::now();
    agent.kill();
    std::thread::sleep(OVER + A_WHILE);
    let knocks = knocking.finish();
    knocks.report("kill -9, lease only", killed);
    knocks.fail_only_around(killed, OVER);
    assert_eq!(node.reached(), 1, "by connection, as kube-proxy balances");

    // The table stays, and the next agent takes its place; a flushed ruleset is mended.
    assert_eq!(node.gates(), 1);
    let sync = ["--dead-man-switch", "lease", "--iptables-sync-period", "1s"];
    let mut agent = node.agent(&sync);
    assert_eq!(node.gates(), 1);
    node.balances_by_call();
    node.scene.lab.node().output("nft", &["delete", "table", "inet", "streamvs-gate"]);
    eventually("it is mended", PATIENCE, || {
        agent.log().contains("somebody deleted the gate") && node.reached() == PODS.len()
    });
    agent.kill();
    let program = streamvs_support::agent::program();
    let program = program.to_str().expect("the path is text");
    let removed = node.scene.lab.node().output(program, &["cleanup"]);
    assert!(removed.contains("streamvs-gate"), "{removed}");
    assert_eq!(node.gates(), 0);
}

#[test]
fn an_orderly_stop_fails_no_new_connection() {
    needs_node!("nft");
    let node = BesideKubeProxy::new();
    let mut agent = node.agent(&[]);
    let knocking = Knocking::start(node.scene.client(), address(&node.plain), FAST);
    std::thread::sleep(A_WHILE);
    let asked = Instant::now();
    assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
    drop(agent);
    let _next = node.agent(&[]);
    std::thread::sleep(A_WHILE);
    let knocks = knocking.finish();
    knocks.report("SIGTERM and a start", asked);
    knocks.without_failure();
    assert_eq!(node.gates(), 1);
}

#[test]
fn other_programs_rulesets_keep_their_generation() {
    needs_node!("nft", "timeout");
    let node = BesideKubeProxy::new();
    let _agent = node.agent(&[]);
    // Each transaction of anybody is told here, ours too.
    let mut command = node.scene.lab.node().command("timeout");
    let output = command.args(["1.5", "nft", "monitor"]).output().expect("timeout starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "heartbeats are no transactions");
    node.balances_by_call();
}

#[test]
fn beside_nftables_capture_follows_kube_proxys_mode() {
    needs_node!("nft");
    let node = BesideKubeProxy::new();
    let host = node.scene.lab.node();
    kube_rules::remove(host);
    // Loaded before ours: with equal priorities it would come first.
    node.kube_proxy_by_nftables();
    assert_eq!(node.reached(), 1, "kube-proxy alone");
    let mut agent = node.agent(&["--iptables-sync-period", "1s"]);
    assert!(agent.log().contains("by=nftables"), "{}", agent.log());
    node.balances_by_call();

    // kube-proxy changes to iptables and back, and nobody notices.
    let knocking = Knocking::start(node.scene.client(), address(&node.plain), FAST);
    let ours = |what: &str| {
        let rules = host.output("iptables-save", &["-t", "nat"]);
        let tables = host.output("nft", &["list", "tables"]);
        (rules.contains("STREAMVS"), tables.contains("streamvs-capture"))
            == (what == "iptables", what == "nftables")
    };
    node.kube_proxy_by_iptables();
    host.output("nft", &["delete", "table", "ip", "kube-proxy"]);
    eventually("captured by iptables", PATIENCE, || ours("iptables"));
    node.balances_by_call();
    node.kube_proxy_by_nftables();
    eventually("captured by nftables", PATIENCE, || ours("nftables"));
    node.balances_by_call();
    knocking.finish().without_failure();

    let knocking = Knocking::start(node.scene.client(), address(&node.plain), FAST);
    std::thread::sleep(A_WHILE);
    let killed = Instant::now();
    agent.kill();
    std::thread::sleep(OVER + A_WHILE);
    let knocks = knocking.finish();
    knocks.report("kill -9, beside kube-proxy's nftables mode", killed);
    knocks.fail_only_around(killed, OVER);
    assert_eq!(node.reached(), 1, "by connection, as kube-proxy balances");
}

/// What `streamvs cleanup --kube-proxy` on the node says, and whether it did it.
fn clean_up_kube_proxy(node: &BesideKubeProxy) -> (bool, String) {
    let mut command = node.scene.lab.node().command(streamvs_support::agent::program());
    let output = command.args(["cleanup", "--kube-proxy"]).output().expect("streamvs starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn kube_proxy_leaves_and_comes_back_without_a_failed_connection() {
    needs_node!("nft");
    let node = BesideKubeProxy::new();
    let host = node.scene.lab.node();
    host.output("iptables", &["-t", "mangle", "-N", "KUBE-KUBELET-CANARY"]);
    node.kube_proxy_by_nftables();
    let has_rules = || {
        let rules = host.output("iptables-save", &[]) + &host.output("ip6tables-save", &[]);
        let tables = host.output("nft", &["list", "tables"]);
        rules.contains("KUBE-SERVICES")
            || rules.contains("KUBE-SVC-")
            || tables.contains("kube-proxy")
    };
    assert!(has_rules());
    assert_eq!(node.reached(), 1, "kube-proxy alone");

    let knocking = Knocking::start(node.scene.client(), address(&node.plain), FAST);
    let began = Instant::now();
    // Next to it: its ports are ours in this lab, so nobody else answers there.
    // Nobody is behind it for a while.
    let mut agent = node.agent(&["--iptables-sync-period", "1s", "--dead-man-timeout", "600s"]);
    node.balances_by_call();
    let (done, said) = clean_up_kube_proxy(&node);
    assert!(done && said.contains("KUBE-SERVICES"), "{said}");
    assert!(!has_rules(), "{said}");
    node.balances_by_call();
    let kept = host.output("iptables-save", &["-t", "mangle"]);
    assert!(kept.contains("KUBE-KUBELET-CANARY"), "the kubelet's: {kept}");
    let (done, said) = clean_up_kube_proxy(&node);
    assert!(done && said == "nothing to remove\n", "{said}");

    // And back.
    node.kube_proxy_by_iptables();
    assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
    assert_eq!(node.reached(), 1, "kube-proxy alone again");
    let knocks = knocking.finish();
    knocks.report("next to kube-proxy, without it, and back", began);
    knocks.without_failure();
}

#[test]
fn what_a_running_kube_proxy_needs_is_not_removed() {
    needs_node!();
    let node = BesideKubeProxy::new();
    let host = node.scene.lab.node();
    // Answers as kube-proxy does on its metrics port; the real one needs an API server.
    let answers = host.run(|| std::net::TcpListener::bind("127.0.0.1:10249")).expect("is free");
    let answering = host.spawn(move || {
        let (mut socket, _) = answers.accept().expect("is asked");
        let _ = socket.read(&mut [0; 1024]);
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\niptables";
        let _ = socket.write_all(answer.as_bytes());
    });
    let (done, said) = clean_up_kube_proxy(&node);
    // Had nobody asked, it would wait for ever.
    let _ = host.run(|| TcpStream::connect("127.0.0.1:10249"));
    answering.join().expect("was asked");
    assert!(!done && said.contains("kube-proxy answers on port 10249"), "{said}");
    assert!(host.output("iptables-save", &["-t", "nat"]).contains("KUBE-SVC-"));
}
