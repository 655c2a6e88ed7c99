//! Aim: whatever comes to its doors, and whatever stands in the kernel under its names, the agent
//! serves: it does not crash, does not hang, and keeps no descriptor.
//! Method: a real process; octets from a seed at each door beside calls, and a node on which
//! somebody has used our names for other things.
//!
//! `STREAMVS_DAMAGE_SEED` repeats a run, `STREAMVS_DAMAGE_ROUNDS` makes it longer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastrand::Rng;
use streamvs_support::Family;
use streamvs_support::agent::{HEALTH_PORT, METRICS_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::Netns;
use streamvs_support::tcp::Speak;
use streamvs_support::wait::eventually;
use streamvs_test_flow::raw::{PREFACE, frame, header_block};

use crate::scene::{
    CAPTURES, PODS, Scene, address, address_of, dual_stack_grpc_service, grpc_service, needs_node,
    tcp_service,
};

/// How long somebody who has sent noise waits for the end. What takes longer is left.
const WAIT: Duration = Duration::from_millis(200);

/// Descriptors that connections to endpoints may take which wait for another stream.
const KEPT_DESCRIPTORS: usize = 60;

/// Where octets may go.
#[derive(Clone, Debug)]
enum Door {
    Tcp(Netns, SocketAddr),
    Unix(PathBuf),
}

impl Door {
    /// Sends it all, or as much as is taken, and sees to the end one way or the other.
    fn knock(&self, octets: &[u8], rng: &mut Rng) {
        let (stays, shuts) = (rng.bool(), rng.bool());
        match self {
            Self::Tcp(netns, address) => netns.run(|| {
                let socket = TcpStream::connect_timeout(address, PATIENCE).expect("it is open");
                socket.set_read_timeout(Some(WAIT)).expect("a timeout can be set");
                socket.set_write_timeout(Some(WAIT)).expect("a timeout can be set");
                let _ = (&socket).write_all(octets);
                if shuts {
                    let _ = socket.shutdown(Shutdown::Write);
                }
                if stays {
                    let _ = (&socket).read_to_end(&mut Vec::new());
                }
            }),
            Self::Unix(path) => {
                let socket = connect_unix(path);
                let _ = (&socket).write_all(octets);
                if shuts {
                    let _ = socket.shutdown(Shutdown::Write);
                }
                if stays {
                    let _ = (&socket).read_to_end(&mut Vec::new());
                }
            }
        }
    }
}

fn connect_unix(path: &Path) -> UnixStream {
    let socket = UnixStream::connect(path).expect("it is open");
    socket.set_read_timeout(Some(WAIT)).expect("a timeout can be set");
    socket.set_write_timeout(Some(WAIT)).expect("a timeout can be set");
    socket
}

fn noise(rng: &mut Rng, most: usize) -> Vec<u8> {
    let length = rng.usize(..=most);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// Octets that begin like something, or not, and are damaged somewhere.
fn octets(rng: &mut Rng, handover: bool) -> Vec<u8> {
    let request = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n").into_bytes()
    };
    let pages =
        ["/healthz", "/livez", "/metrics", "/services", "/configz", "/statusz", "/", "/%00"];
    let mut octets = match rng.u8(..6) {
        0 => noise(rng, 2000),
        1 => request(&format!("GET {}", pages[rng.usize(..pages.len())]), ""),
        2 => {
            let more = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", rng.u64(..));
            [request("POST /services", &more), noise(rng, 500)].concat()
        }
        3 => frames(rng),
        4 => [vec![b'A'; rng.usize(..100_000)], noise(rng, 10)].concat(),
        _ if handover => handover_noise(rng),
        _ => [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &noise(rng, 600)].concat(),
    };
    for _ in 0..rng.usize(..4) {
        if !octets.is_empty() {
            let at = rng.usize(..octets.len());
            match rng.u8(..3) {
                0 => octets[at] = rng.u8(..),
                1 => octets.truncate(at),
                _ => octets.insert(at, rng.u8(..)),
            }
        }
    }
    octets
}

/// HTTP/2 with frames of any type, length and stream.
fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut octets = PREFACE.to_vec();
    octets.extend(frame(4, 0, 0, b""));
    for _ in 0..rng.usize(..40) {
        let payload = match rng.u8(..3) {
            0 => noise(rng, 300),
            1 => header_block(&[(":method", "POST"), (":path", "/"), (":scheme", "http")]),
            _ => vec![0; rng.usize(..9)],
        };
        octets.extend(frame(rng.u8(..12), rng.u8(..), rng.u32(..12), &payload));
    }
    octets
}

/// A successor that speaks otherwise after it was let in.
fn handover_noise(rng: &mut Rng) -> Vec<u8> {
    let ask = b"GET /handover HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
                Upgrade: streamvs-handover/1\r\n\r\n\n";
    let message: &[u8] = match rng.u8(..5) {
        0 => br#"{"message":"ready"}"#,
        1 => br#"{"message":"serving"}"#,
        2 => br#"{"message":"plain"}"#,
        3 => b"{",
        _ => b"",
    };
    let lengths = match rng.u8(..3) {
        0 => [rng.u32(..), rng.u32(..)],
        _ => [message.len() as u32, rng.u32(..100)],
    };
    [&ask[..], &lengths.map(u32::to_be_bytes).concat(), message, &noise(rng, 100)].concat()
}

#[test]
fn noise_at_every_door_harms_nobody() {
    needs_node!();
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("STREAMVS_DAMAGE_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("STREAMVS_DAMAGE_ROUNDS").unwrap_or(80);
    println!("STREAMVS_DAMAGE_SEED={seed}");
    let scene = Scene::new();
    let _grpc = scene.grpc(Family::V4, PODS);
    let _tcp = scene.tcp(Family::V4, Speak::Echo, PODS);
    scene.publish(&grpc_service(Family::V4), &PODS);
    scene.publish(&tcp_service(Family::V4), &PODS);
    let mut agent = scene.agent(&[]);
    let node = scene.lab.node().netns();
    let here = |port| Door::Tcp(node.clone(), SocketAddr::from(([127, 0, 0, 1], port)));
    let client = scene.client().netns();
    let doors = [
        ("a Service of gRPC", Door::Tcp(client.clone(), address(&grpc_service(Family::V4)))),
        ("a Service of TCP", Door::Tcp(client.clone(), address(&tcp_service(Family::V4)))),
        ("the health port", here(HEALTH_PORT)),
        ("the metrics port", here(METRICS_PORT)),
        ("the admin socket", Door::Unix(agent.socket().to_owned())),
    ];
    let load = Load::unary(address(&grpc_service(Family::V4)), 1).streams(2).start(client);
    load.advance(50);
    let descriptors = agent.descriptors();
    std::thread::scope(|scope| {
        for (index, (name, door)) in doors.iter().enumerate() {
            scope.spawn(move || {
                let mut rng = Rng::with_seed(seed.wrapping_add(index as u64));
                for round in 0..rounds {
                    let octets = octets(&mut rng, matches!(door, Door::Unix(_)));
                    door.knock(&octets, &mut rng);
                    if round % 20 == 0 {
                        println!("{name}: {round}");
                    }
                }
            });
        }
    });
    assert_eq!(agent.ended(), None, "seed {seed}: {}", agent.log());
    assert!(!agent.log().contains("panicked"), "seed {seed}: {}", agent.log());
    // Nothing of it hangs: calls go on, every door answers, and rules follow a change.
    load.advance(50);
    load.stop().without_failure();
    assert_eq!(agent.page(HEALTH_PORT, "/healthz").expect("answers").status, 200, "seed {seed}");
    assert_eq!(agent.page(METRICS_PORT, "/metrics").expect("answers").status, 200, "seed {seed}");
    assert!(!agent.list().is_empty());
    scene.publish(&grpc_service(Family::V4), &PODS[..1]);
    scene.wait_until_used(&agent, &grpc_service(Family::V4), &PODS[..1]);
    eventually("descriptors are given back", PATIENCE, || {
        agent.descriptors() <= descriptors + KEPT_DESCRIPTORS
    });
    let status = agent.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "seed {seed}: {}", agent.log());
}

/// What others, or another version of ours, left on the node under our names: sets of other types,
/// chains with other rules, tables with maps of other types.
const STRANGERS: [&str; 14] = [
    "ipset create streamvs4 hash:net family inet",
    "ipset add streamvs4 192.0.2.0/24",
    "ipset create streamvs6 hash:ip family inet6",
    "ipset create streamvs-reject4 hash:ip,port family inet timeout 60",
    "iptables -t nat -N STREAMVS-CAPTURE",
    "iptables -t nat -A STREAMVS-CAPTURE -m set --match-set streamvs4 dst -j RETURN",
    "iptables -t nat -I PREROUTING -j STREAMVS-CAPTURE",
    "iptables -t filter -N STREAMVS-INPUT",
    "iptables -t filter -A STREAMVS-INPUT -p udp -j DROP",
    "nft add table ip streamvs-capture",
    "nft add set ip streamvs-capture streamvs4 { type ether_addr; }",
    "nft add table ip streamvs-nat",
    "nft add map ip streamvs-nat services { type ipv4_addr : verdict; }",
    "nft add chain ip streamvs-nat prerouting { type filter hook prerouting priority 0; policy drop; }",
];

#[test]
fn what_others_made_under_our_names_is_replaced_at_the_start() {
    needs_node!("nft");
    for capture in CAPTURES {
        let scene = Scene::new();
        let node = scene.lab.node().netns();
        let backend = capture.iter().find(|flag| ["nft", "legacy"].contains(flag));
        for command in STRANGERS {
            let words: Vec<&str> = command.split(' ').collect();
            let program = match (words[0], backend) {
                ("iptables", Some(backend)) => format!("iptables-{backend}"),
                (program, _) => program.to_owned(),
            };
            node.output(&program, &words[1..]);
        }
        let service = dual_stack_grpc_service();
        let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
        scene.publish(&service, &PODS);
        let flags = [capture, &["--kube-proxy-replacement"]].concat();
        let mut agent = scene.agent(&flags);
        for family in Family::BOTH {
            for client in [scene.client(), scene.lab.node()] {
                let load = Load::unary(address_of(&service, family), 1).calls(30);
                let report = load.run(client).without_failure();
                assert!(report.spread(&PODS) <= 1, "{capture:?}, {family:?}");
            }
        }
        assert_eq!(agent.stop(PATIENCE).code(), Some(0), "{capture:?}: {}", agent.log());
        let program = streamvs_support::agent::program();
        node.output(program.to_str().expect("the path is text"), &["cleanup"]);
        let left = [
            node.output("ipset", &["save"]),
            node.output("iptables-save", &[]),
            node.output("iptables-legacy-save", &[]),
            node.output("nft", &["list", "ruleset"]),
        ]
        .concat()
        .to_lowercase();
        assert!(!left.contains("streamvs"), "{capture:?}: {left}");
    }
}
