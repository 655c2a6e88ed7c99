//! Aim: in place of kube-proxy the kernel serves UDP and SCTP by the same table, and TCP while the
//! agent is away. Method: real datagrams and raw INITs; endpoints say who they are and whom they
//! see; the kernel's own monitor counts what is written.

use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use streamvs_support::agent::{self, Agent, PATIENCE, Source};
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::Service;
use streamvs_support::tcp::Speak;
use streamvs_support::udp::{self, Client, ask_anew};
use streamvs_support::wait::{eventually, eventually_some};
use streamvs_support::{Family, tcp};

use crate::face::write;
use crate::outside::exposed;
use crate::scene::{PODS, Scene, address, needs_node, tcp_service};

/// Where UDP and SCTP endpoints listen.
const PORT: u16 = 5353;

pub(crate) const REPLACE: &str = "--kube-proxy-replacement";

/// A Service over UDP.
pub(crate) fn dns(family: Family) -> Service {
    Service::new("dns", &[family], 53).port("dns", 80, PORT).protocol("UDP")
}

impl Scene {
    /// UDP endpoints in pods.
    pub(crate) fn udp<'a>(
        &self,
        family: Family,
        pods: impl IntoIterator<Item = &'a str>,
    ) -> Vec<udp::Endpoint> {
        let start = |pod| udp::Endpoint::start(self.lab.pod(pod), family, PORT);
        pods.into_iter().map(start).collect()
    }
}

/// Asks on one socket until somebody else than `but` answers.
#[track_caller]
fn until_answered_by_another(client: &Client, but: &str) -> String {
    eventually_some("another endpoint answers the same socket", PATIENCE, || {
        let answer = client.ask_within(Duration::from_millis(200)).ok()?;
        (answer.pod != but).then_some(answer.pod)
    })
}

#[test]
fn udp_is_spread_over_endpoints_from_pods_and_from_the_node() {
    needs_node!("nft");
    for family in [Family::V4, Family::V6] {
        let scene = Scene::new();
        let service = dns(family);
        let _endpoints = scene.udp(family, PODS);
        scene.publish(&service, &PODS);
        let _agent = scene.agent(&[REPLACE]);
        for host in [scene.client(), scene.lab.node()] {
            let answered = ask_anew(host, address(&service), 30);
            let counts: Vec<usize> = PODS.map(|pod| answered[pod]).into();
            assert_eq!(counts, [10, 10, 10], "{family:?} {}: by turns", host.name());
        }
        // Pods keep their address, as with kube-proxy.
        let seen = Client::new(scene.client(), address(&service)).ask().expect("answered").client;
        assert_eq!(seen.ip(), scene.client().ip(family));
    }
}

/// What a client counted that asked one question after the other.
#[derive(Debug, Default)]
struct Asked {
    answered: u32,
    lost: u32,
}

#[test]
fn a_change_of_endpoints_costs_no_more_than_the_answer_in_flight() {
    needs_node!("nft");
    const CHANGES: u32 = 24;
    // No asker waits longer than this for what may be lost.
    const LOST: Duration = Duration::from_secs(2);
    let scene = Scene::new();
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let _agent = scene.agent(&[REPLACE]);
    let new_client = || Client::new(scene.client(), address(&service));
    let done = AtomicBool::new(false);
    // Endpoints that are removed go on answering, as pods do that end in order. Their flows are
    // forgotten, and with them the answer that is on its way: one for each asker and change.
    let ask = |mut client: Client, anew: bool| {
        let mut asked = Asked::default();
        while !done.load(Ordering::Relaxed) && asked.answered < 20_000 {
            match client.ask_within(LOST) {
                Ok(_) => asked.answered += 1,
                Err(_) => asked.lost += 1,
            }
            if anew {
                client = new_client();
            }
        }
        asked
    };
    std::thread::scope(|scope| {
        let askers = [false, true].map(|anew| scope.spawn(move || ask(new_client(), anew)));
        for round in 0..CHANGES {
            let pods = [["a", "b"], ["b", "c"], ["c", "a"]][round as usize % 3];
            scene.publish(&service, &pods);
            // Datagrams meet every stage of a change, and a change the one before it.
            std::thread::sleep(Duration::from_millis(40));
        }
        done.store(true, Ordering::Relaxed);
        for asker in askers {
            let asked = asker.join().expect("an asker counts what it loses");
            println!("{asked:?}");
            assert!(asked.answered > CHANGES && asked.lost <= CHANGES, "{asked:?}");
        }
    });
    assert_eq!(ask_anew(scene.client(), address(&service), 10).values().sum::<usize>(), 10);
}

#[test]
fn a_flow_leaves_a_removed_endpoint() {
    needs_node!("nft");
    for family in [Family::V4, Family::V6] {
        let scene = Scene::new();
        let service = dns(family);
        let _endpoints = scene.udp(family, PODS);
        scene.publish(&service, &PODS);
        let agent = scene.agent(&[REPLACE]);
        let forgotten = |family| {
            let name = "kubeproxy_conntrack_reconciler_deleted_entries_total";
            agent.metric(name, &[("ip_family", family)])
        };
        let client = Client::new(scene.client(), address(&service));
        let first = client.ask().expect("answered").pod;
        for _ in 0..5 {
            assert_eq!(client.ask().expect("answered").pod, first, "a flow stays");
        }
        let left: Vec<&str> = PODS.into_iter().filter(|pod| *pod != first).collect();
        scene.publish(&service, &left);
        let second = until_answered_by_another(&client, &first);
        for _ in 0..5 {
            assert_eq!(client.ask().expect("answered").pod, second);
        }
        let name = family.as_str();
        eventually("the forgotten flow is counted", PATIENCE, || forgotten(name) == Some(1.0));
        let looks = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count";
        let looks = agent.metric(looks, &[("ip_family", name)]);
        assert!(looks >= Some(2.0), "at the start and after the change: {looks:?}");
        for other in Family::BOTH.map(Family::as_str).into_iter().filter(|other| *other != name) {
            assert_eq!(forgotten(other), Some(0.0), "{other} is another series");
        }
    }
}

#[test]
fn a_flow_from_before_the_first_endpoint_finds_it() {
    needs_node!("nft");
    // The node has a way for what is no Service, so that the kernel remembers flows to it.
    let scene = Scene::of(Lab::builder().pod("client").pods(PODS).outside());
    scene.lab.node().netns().ip("route add default via 172.18.0.100\n");
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    let agent = scene.agent(&[REPLACE]);
    let client = Client::new(scene.client(), address(&service));
    assert!(client.ask_within(Duration::from_millis(200)).is_err(), "nobody serves it yet");
    let flows = scene.lab.node().netns().output("conntrack", &["-L", "-p", "udp"]);
    assert!(flows.contains("dst=10.96.0.53"), "the kernel remembers the flow: {flows}");
    scene.publish(&service, &["a"]);
    assert_eq!(until_answered_by_another(&client, ""), "a");
    drop(agent);
}

#[test]
fn a_flow_is_refused_with_the_last_endpoint_and_goes_on_with_the_next() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &["a"]);
    let _agent = scene.agent(&[REPLACE]);
    let client = Client::new(scene.client(), address(&service));
    assert_eq!(client.ask().expect("answered").pod, "a");
    scene.publish(&service, &[]);
    eventually("the flow is refused", PATIENCE, || {
        let asked = client.ask_within(Duration::from_millis(200));
        asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    scene.publish(&service, &["b"]);
    assert_eq!(until_answered_by_another(&client, "a"), "b");
}

#[test]
fn session_affinity_holds_until_the_endpoint_goes() {
    needs_node!("nft");
    for family in [Family::V4, Family::V6] {
        let scene = Scene::of(Lab::builder().pod("client").pods(PODS).pod("other"));
        let service = dns(family).affinity(600);
        let _endpoints = scene.udp(family, PODS);
        scene.publish(&service, &PODS);
        let _agent = scene.agent(&[REPLACE]);
        let of = |pod: &str| {
            let answered = ask_anew(scene.lab.pod(pod), address(&service), 12);
            assert_eq!(answered.len(), 1, "{pod} stays with one endpoint: {answered:?}");
            answered.into_keys().next().expect("one answered")
        };
        let (mine, others) = (of("client"), of("other"));
        // Another one goes or comes: nobody moves.
        let bystander = PODS.into_iter().find(|pod| **pod != mine && **pod != others);
        let bystander = bystander.expect("of three pods two have clients at most");
        let left: Vec<&str> = PODS.into_iter().filter(|pod| *pod != bystander).collect();
        scene.publish(&service, &left);
        let table = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let places = || {
            let text =
                scene.lab.node().netns().output("nft", &["list", "table", table, "streamvs-nat"]);
            text.lines().filter(|line| line.contains("chain pin-")).count()
        };
        eventually("the kernel has two endpoints", PATIENCE, || places() == 2);
        assert_eq!((of("client"), of("other")), (mine.clone(), others));
        // Mine goes: I move, and stay there.
        let left: Vec<&str> = left.into_iter().filter(|pod| *pod != mine).collect();
        scene.publish(&service, &left);
        eventually("the kernel has one endpoint", PATIENCE, || places() == 1);
        assert_eq!(of("client"), left[0]);
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    needs_node!("nft");
    for family in [Family::V4, Family::V6] {
        let scene = Scene::new();
        let service = dns(family);
        let _endpoints = scene.udp(family, ["a"]);
        scene.publish(&service, &["a"]);
        let _agent = scene.agent(&[REPLACE]);
        let own = scene.lab.pod("a");
        let answer = Client::new(own, address(&service)).ask().expect("answered");
        assert_eq!(answer.pod, "a");
        assert_ne!(answer.client.ip(), own.ip(family), "or the answer would not come back");
    }
}

#[test]
fn sctp_is_sent_on_to_an_endpoint() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = Service::new("call", &[Family::V4], 54).port("call", 80, PORT).protocol("SCTP");
    scene.publish(&service, &["a"]);
    let _agent = scene.agent(&[REPLACE]);
    let raw = || {
        let protocol = Some(socket2::Protocol::from(132));
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol)
    };
    let endpoint = scene.lab.pod("a").run(raw).expect("a raw socket in a pod");
    endpoint.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    let client = scene.client().run(raw).expect("a raw socket in a pod");
    let to = SocketAddr::new(service.ip(Family::V4), 0).into();
    let init = init(49_152, 80);
    let datagram = eventually_some("the INIT arrives", PATIENCE, || {
        client.send_to(&init, &to).expect("a raw datagram can be sent");
        let mut datagram = [0; 256];
        let length = (&endpoint).read(&mut datagram).ok()?;
        Some(datagram[..length].to_vec())
    });
    // An IPv4 header without options stands in front.
    assert_eq!(datagram.len(), 20 + init.len());
    let source = <[u8; 4]>::try_from(&datagram[12..16]).expect("four octets");
    assert_eq!(IpAddr::from(source), scene.client().ip(Family::V4), "the client's address");
    let target = u16::from_be_bytes([datagram[22], datagram[23]]);
    assert_eq!(target, PORT, "the endpoint's port");
}

/// An SCTP packet with one INIT chunk (RFC 9260, section 3.3.2).
pub(crate) fn init(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0; 8]); // Verification tag 0, and the checksum to come.
    packet.extend([1, 0, 0, 20]); // INIT, 20 octets.
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// Conntrack does not follow a packet with a wrong one.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (if sum & 1 == 1 { 0x82f6_3b78 } else { 0 })
        })
    })
}

#[test]
fn tcp_goes_on_when_the_agent_is_stopped_or_killed() {
    needs_node!("nft");
    for (family, killed) in [(Family::V4, false), (Family::V6, false), (Family::V4, true)] {
        let scene = Scene::new();
        let service = tcp_service(family);
        let empty = Service::new("empty", &[family], 12).port("tcp", 80, 8080);
        let endpoints = scene.tcp(family, Speak::Echo, PODS);
        scene.publish(&service, &PODS);
        scene.publish(&empty, &[]);
        let mut agent = scene.agent(&[REPLACE]);
        let target = address(&service);
        let hosts = [scene.client(), scene.lab.node()];
        let connect =
            |host: &Host, to: SocketAddr| host.run(|| TcpStream::connect_timeout(&to, PATIENCE));
        for host in hosts {
            connect(host, target).expect("the agent serves it");
        }
        if killed {
            agent.kill();
        } else {
            assert_eq!(agent.stop(PATIENCE).code(), Some(0), "{}", agent.log());
        }
        let accepted = || endpoints.iter().map(tcp::Endpoint::connections).collect::<Vec<_>>();
        let before = accepted();
        for _ in 0..6 {
            for host in hosts {
                connect(host, target).expect("the kernel serves it");
            }
        }
        eventually("all are accepted", PATIENCE, || {
            accepted().iter().sum::<u64>() == before.iter().sum::<u64>() + 12
        });
        let by_each = accepted().iter().zip(&before).map(|(now, before)| now - before).min();
        assert!(by_each > Some(0), "by all: {before:?}, then {:?}", accepted());
        // From the node: a pod's packet would find no route where the node has no IPv6 at all.
        let refused = connect(scene.lab.node(), address(&empty)).expect_err("nobody serves it");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        // The next agent takes over again.
        let agent = scene.agent(&[REPLACE]);
        connect(scene.client(), target).expect("served");
        eventually("the agent has seen it", PATIENCE, || {
            agent.metric("streamvs_connections_total", &[]).is_some_and(|count| count >= 1.0)
        });
    }
}

#[test]
fn a_scheduler_that_is_reloaded_reaches_the_kernel() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let file = scene.folder.path().join("config.yaml");
    let configure = |scheduler: &str| {
        write(&file, &format!("{{scheduler: {scheduler}}}"), "127.0.0.1:10249");
    };
    configure("rr");
    let agent = scene.agent(&[REPLACE, "--config", file.to_str().expect("the path is text")]);
    let answering = |count| ask_anew(scene.client(), address(&service), count).len();
    assert_eq!(answering(3), 3, "by turns");
    configure("sh");
    agent.signal(Signal::SIGHUP);
    eventually("one client has one endpoint", PATIENCE, || answering(12) == 1);
    scene.publish(&service, &PODS[..2]);
    let table = || scene.lab.node().netns().output("nft", &["list", "table", "ip", "streamvs-nat"]);
    eventually("changes keep to it", PATIENCE, || table().contains(": goto enter-hash-2"));
    configure("rr");
    agent.signal(Signal::SIGHUP);
    eventually("by turns again", PATIENCE, || answering(2) == 2);
}

/// Runs `work` and returns what was written to our nftables tables meanwhile, by the kernel's word.
fn written_to_our_tables(scene: &Scene, work: impl FnOnce()) -> Vec<String> {
    let node = scene.lab.node();
    let path = scene.folder.path().join("monitor");
    let file = std::fs::File::create(&path).expect("a file can be made");
    let mut monitor = node
        .command("nft")
        .arg("monitor")
        .stdout(Stdio::from(file))
        .spawn()
        .expect("nft can watch the kernel");
    let seen = || std::fs::read_to_string(&path).unwrap_or_default();
    // It is watching once it tells of something, and has told of all once it tells of a later thing.
    let tells_of = |table: &str| {
        eventually("the monitor tells of a table", PATIENCE, || {
            node.output("nft", &["add", "table", "ip", table]);
            node.output("nft", &["delete", "table", "ip", table]);
            seen().contains(table)
        });
    };
    tells_of("before");
    work();
    tells_of("after");
    monitor.kill().expect("it runs until then");
    monitor.wait().expect("a child can be waited for");
    seen().lines().filter(|line| line.contains("streamvs-")).map(str::to_owned).collect()
}

#[test]
fn capture_gains_addresses_first_and_loses_them_last() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = Service::new("new", &Family::BOTH, 11).port("tcp", 80, 8080);
    let agent = scene.agent(&[REPLACE, "--capture", "nftables"]);
    let [v4, v6] = Family::BOTH.map(|family| service.ip(family).to_string());
    let written = |pods: &[&str]| {
        written_to_our_tables(&scene, || {
            scene.publish(&service, pods);
            scene.wait_until_used(&agent, &service, pods);
            eventually("both are told", PATIENCE, || {
                [
                    &["table", "ip6", "streamvs-nat"][..],
                    &["set", "ip6", "streamvs-capture", "streamvs6"],
                ]
                .iter()
                .all(|what| {
                    let listed =
                        scene.lab.node().netns().output("nft", &[&["list"], *what].concat());
                    listed.contains(&v6) != pods.is_empty()
                })
            });
        })
    };
    let first = |written: &[String], table: &str, address: &str| {
        let position = |line: &String| line.contains(table) && line.contains(address);
        written.iter().position(position).unwrap_or_else(|| panic!("{table}: {written:#?}"))
    };
    // Who connects to a new Service at once is captured.
    let gained = written(&PODS);
    // And what has lost its last endpoint is not sent to endpoints that are none.
    let lost = written(&[]);
    for address in [v4, v6] {
        let first = |written: &[String], table: &str| first(written, table, &address);
        assert!(first(&gained, "streamvs-capture") < first(&gained, "streamvs-nat"));
        assert!(first(&lost, "streamvs-nat") < first(&lost, "streamvs-capture"));
    }
}

#[test]
fn a_restart_with_the_same_services_writes_nothing() {
    needs_node!("nft");
    let scene = Scene::new();
    let both = [Family::V4, Family::V6];
    let plain = Service::new("plain", &both, 11).port("tcp", 80, 8080);
    let dns = Service::new("dns", &both, 53).port("dns", 80, PORT).protocol("UDP");
    let sticky = Service::new("sticky", &both, 54).port("dns", 80, PORT).protocol("UDP");
    for service in [&plain, &dns, &sticky.affinity(7_200)] {
        scene.publish(service, &PODS);
    }
    // By other addresses too, under each policy, and with a guard.
    let seen = Service::new("seen", &both, 55).port("dns", 80, PORT).protocol("UDP");
    for (service, policy, ranges) in
        [(&plain, "Cluster", &["198.51.100.0/24", "2001:db8::/32"][..]), (&seen, "Local", &[])]
    {
        scene.publish(service, &PODS);
        let object = exposed(service, policy, ranges).to_string();
        scene.manifests.text(&format!("service-{}.json", service.name()), &object);
    }
    let start = || scene.agent(&[REPLACE, "--nodeport-addresses", "all"]);
    let mut agent = start();
    agent.kill();
    let mut agent = None;
    let of_nat = |written: Vec<String>| -> Vec<String> {
        written.into_iter().filter(|line| line.contains("streamvs-nat")).collect()
    };
    let written = of_nat(written_to_our_tables(&scene, || agent = Some(start())));
    assert_eq!(written, [""; 0], "nothing has changed");
    drop(agent);
    // One endpoint less while nobody looked: two elements of one Service, and its UDP twin's.
    scene.publish(&dns, &["a", "b"]);
    let written = of_nat(written_to_our_tables(&scene, || drop(start())));
    let elements = written.iter().filter(|line| line.contains(" element ")).count();
    assert!(elements > 0 && elements <= 8, "what differs, in both families: {written:#?}");
}

#[test]
fn what_others_delete_of_the_kernel_path_is_repaired() {
    needs_node!("nft");
    let scene = Scene::new();
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let _agent = scene.agent(&[REPLACE, "--iptables-sync-period", "1s"]);
    let table =
        || scene.lab.node().netns().output("nft", &["-n", "list", "table", "ip", "streamvs-nat"]);
    let whole = table();
    for damage in [
        "delete table ip streamvs-nat",
        "flush chain ip streamvs-nat prerouting",
        "flush chain ip streamvs-nat pick-1",
        "flush ruleset",
        // Another one's table by our name, with a map of another type.
        "delete table ip streamvs-nat; add table ip streamvs-nat; \
         add map ip streamvs-nat services { type ipv4_addr : verdict; }",
    ] {
        scene.lab.node().netns().feed("nft", &["-f", "-"], &format!("{damage}\n"));
        eventually(damage, PATIENCE, || {
            scene.lab.node().netns().output("nft", &["list", "tables"]).contains("ip streamvs-nat")
                && table() == whole
        });
        let answered = ask_anew(scene.client(), address(&service), 3);
        assert_eq!(answered.values().sum::<usize>(), 3, "{damage}");
    }
}

#[test]
fn a_flow_from_a_time_without_the_kernel_path_finds_an_endpoint() {
    needs_node!("nft", "conntrack");
    // The node has a way for what is no Service, so that the kernel remembers flows to it.
    let scene = Scene::of(Lab::builder().pod("client").pods(PODS).outside());
    let node = scene.lab.node();
    node.netns().ip("route add default via 172.18.0.100\n");
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[REPLACE, "--iptables-sync-period", "1s"]);
    let client = Client::new(scene.client(), address(&service));
    let repairs = || agent.metric("streamvs_capture_repairs_total", &[]).unwrap_or_default();
    let flows = || {
        let list =
            node.output("conntrack", &["-L", "-p", "udp", "-d", &service.ips()[0].to_string()]);
        list.lines().filter(|line| line.contains("[UNREPLIED]")).count()
    };
    // Until the agent looks, which it may do at once.
    eventually("a flow is not translated", PATIENCE, || {
        let before = repairs();
        node.output("nft", &["delete", "table", "ip", "streamvs-nat"]);
        let nobody = client.ask_within(Duration::from_millis(50)).is_err();
        let found = flows();
        eventually("the table is repaired", PATIENCE, || repairs() > before);
        nobody && found == 1
    });
    assert_eq!(flows(), 0, "it was forgotten with the repair");
    client.ask().expect("an endpoint answers");
}

#[test]
fn cleanup_takes_the_kernel_path_away() {
    needs_node!("nft");
    let scene = Scene::new();
    scene.publish(&dns(Family::V4), &PODS);
    let mut agent = scene.agent(&[REPLACE]);
    agent.stop(PATIENCE);
    let tables = || scene.lab.node().netns().output("nft", &["list", "tables"]);
    assert!(tables().contains("table ip streamvs-nat\ntable ip6 streamvs-nat"), "{}", tables());
    let program = agent::program();
    let program = program.to_str().expect("the path is text");
    let output = scene.lab.node().netns().output(program, &["cleanup"]);
    for removed in ["removed table ip streamvs-nat", "removed table ip6 streamvs-nat"] {
        assert!(output.contains(removed), "{output}");
    }
    assert!(!tables().contains("streamvs"), "{}", tables());
}

#[test]
fn a_kernel_that_cannot_do_it_is_named() {
    needs_node!("nft");
    let scene = Scene::new();
    for (script, named) in [
        ("echo 'Error: Operation not supported' >&2; exit 1", "this kernel has no nf_tables"),
        (
            "[ \"$1\" = list ] && exit 0; echo 'Error: no such map' >&2; exit 1",
            "cannot do the IPv4 rules of the kernel path",
        ),
    ] {
        // What runs instead of nft, on such a node.
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let program = folder.path().join("nft");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a file can be written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("it is ours");
        let mut command = scene.lab.node().command(agent::program());
        let path = std::env::var("PATH").expect("there are programs");
        command.env("PATH", format!("{}:{path}", folder.path().display()));
        let source = Source::Manifests(&scene.manifests);
        let mut agent =
            Agent::spawn_by(command, scene.lab.node(), scene.folder.path(), source, &[REPLACE]);
        let status = eventually_some("the agent ends", PATIENCE, || agent.ended());
        assert_eq!(status.code(), Some(1));
        assert!(agent.log().contains(named), "{named} in {}", agent.log());
    }
}
