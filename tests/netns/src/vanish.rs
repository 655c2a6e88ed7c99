//! Aim: who talks to a peer that has vanished is told, in the time that the flags say.
//! Method: a pod whose packets are dropped in the middle of a connection, so that nothing ends it
//! but a time-out. Those are short here; with the defaults every test would be out of patience.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::{Client, Failure, Kind};
use streamvs_support::lab::Host;
use streamvs_support::tcp::Speak;
use streamvs_support::wait::eventually_equals;
use streamvs_support::{Family, figure, tcp};

use crate::scene::{PODS, Scene, address, engines, grpc_service, needs_node, tcp_service};

/// What ends a silent connection after 1 s and three probes, 1 s apart.
const KEEPALIVE: [&str; 4] = ["--tcp-keepalive-time", "1s", "--tcp-keepalive-interval", "1s"];
const PROBES: &str = "3";

/// No packet reaches the host any more, and none leaves it.
fn vanish(host: &Host) {
    for chain in ["INPUT", "OUTPUT"] {
        host.output("iptables", &["-w", "-I", chain, "-j", "DROP"]);
    }
}

/// Says something and hears it again.
fn echoes(socket: &mut TcpStream) {
    socket.write_all(b"more").expect("is open");
    socket.read_exact(&mut [0; 4]).expect("is answered");
}

#[test]
fn a_plain_connection_to_a_vanished_endpoint_is_reset() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.tcp(Family::V4, Speak::Echo, PODS);
    let service = tcp_service(Family::V4);
    scene.publish(&service, &PODS);
    let node = scene.lab.node();
    node.sysctl("net.ipv4.tcp_keepalive_probes", PROBES);
    node.sysctl("net.ipv4.tcp_retries2", "3");
    let agent = scene.agent(&KEEPALIVE);
    let pod = scene.lab.pod("a");
    scene.client().netns().run(|| {
        // One of each three is at each pod.
        let mut sockets: Vec<(TcpStream, String)> =
            (0..6).map(|_| named(address(&service))).collect();
        vanish(pod);
        let since = Instant::now();
        let (gone, mut left): (Vec<_>, Vec<_>) =
            sockets.drain(..).partition(|(_, name)| name == pod.name());
        assert_eq!((gone.len(), left.len()), (2, 4));
        for (index, (mut socket, _)) in gone.into_iter().enumerate() {
            if index == 0 {
                // What is not acknowledged is sent again `tcp_retries2` times instead.
                socket.write_all(b"anybody?").expect("we take it");
            }
            let error = tcp::read(&mut socket, &mut [0; 8]).expect_err("nobody answers");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{index}\n{}", agent.log());
        }
        let waited = since.elapsed();
        figure::report(&format!("vanished endpoint, plain: reset after {waited:.1?}"));
        for (socket, _) in &mut left {
            echoes(socket);
        }
    });
}

/// Connects to an endpoint that echoes, and learns its name.
fn named(address: std::net::SocketAddr) -> (TcpStream, String) {
    let mut socket = TcpStream::connect(address).expect("is captured");
    socket.set_read_timeout(Some(PATIENCE)).expect("is open");
    socket.write_all(b"x").expect("is sent");
    // The name is a line, and what was said comes after it. Names are one letter here.
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).expect("is answered");
    assert_eq!(answer[1..], *b"\nx");
    (socket, char::from(answer[0]).to_string())
}

#[test]
fn calls_at_a_vanished_endpoint_fail_and_others_go_on() {
    needs_node!();
    for engine in engines() {
        for asks in [false, true] {
            check_calls(&engine, asks);
        }
    }
}

/// Vanishes an endpoint in the middle of a call, which then `asks` something more or not.
fn check_calls(engine: &str, asks: bool) {
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let mut flags = vec!["--http2-engine", engine, "--tcp-user-timeout", "2s"];
    flags.extend(KEEPALIVE);
    let agent = scene.agent(&flags);
    let pod = scene.lab.pod("a");
    scene.client().block_on(|| async {
        let client = Client::connect(address(&service)).await.expect("is captured");
        let mut calls = Vec::new();
        for _ in PODS {
            let mut call = client.open(Kind::Bidi).await.expect("is open");
            call.send(b"hello").await.expect("is open");
            assert_eq!(call.next().await.expect("is answered").expect("is answered"), "hello");
            let name = call.endpoint().await.expect("is answered");
            calls.push((call, name));
        }
        let at = calls.iter().position(|(_, name)| name == pod.name()).expect("each has one");
        let (mut gone, _) = calls.swap_remove(at);
        vanish(pod);
        let since = Instant::now();
        if asks {
            gone.send(b"anybody?").await.expect("we take it");
        }
        let ended = async {
            gone.next().await?;
            gone.finish().await
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await;
        let ended = ended.unwrap_or_else(|_| panic!("{engine}, {asks}: it waits\n{}", agent.log()));
        let failure = ended.expect_err("nobody answers");
        let waited = since.elapsed();
        figure::report(&format!("vanished endpoint, {engine}: {failure} after {waited:.1?}"));
        assert!(
            matches!(failure, Failure::Status { code: 14, .. } | Failure::Stream(_)),
            "{failure}"
        );
        for (call, _) in &mut calls {
            call.send(b"still?").await.expect("is open");
            assert_eq!(call.next().await.expect("is answered").expect("is answered"), "still?");
        }
        // Whoever would be next in turn at the vanished one is answered by another.
        for _ in 0..6 {
            let reply = client.unary(b"ping").await.expect("is answered");
            assert_ne!(reply.endpoint, pod.name());
        }
    });
}

#[test]
fn connections_of_a_vanished_client_are_forgotten() {
    needs_node!();
    let scene = Scene::new();
    let _tcp = scene.tcp(Family::V4, Speak::Echo, ["a"]);
    let _grpc = scene.grpc(Family::V4, ["b"]);
    let (plain, calls) = (tcp_service(Family::V4), grpc_service(Family::V4));
    scene.publish(&plain, &["a"]);
    scene.publish(&calls, &["b"]);
    scene.lab.node().sysctl("net.ipv4.tcp_keepalive_probes", PROBES);
    let mut flags = vec!["--tcp-user-timeout", "2s"];
    flags.extend(KEEPALIVE);
    let agent = scene.agent(&flags);
    let active = || agent.metric("streamvs_active_connections", &[]);
    let client = scene.client();
    let (_socket, _) = client.netns().run(|| named(address(&plain)));
    client.block_on(|| async {
        let grpc = Client::connect(address(&calls)).await.expect("is captured");
        grpc.unary(b"ping").await.expect("is answered");
        assert_eq!(active(), Some(2.0));
        vanish(client);
        eventually_equals("open connections", PATIENCE, &Some(0.0), active);
    });
}
