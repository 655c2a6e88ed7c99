//! Aim: what is not HTTP/2 arrives as if nobody were between, through real rules.
//! Method: endpoints that speak first, reset, half-close or shout, and some that do not answer.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use streamvs_support::manifest::Endpoint;
use streamvs_support::tcp::Speak;
use streamvs_support::tcp::load::{self, First};
use streamvs_support::{Family, tcp};

use crate::scene::{PODS, Scene, address, needs_node, tcp_service};

#[test]
fn connections_are_spread_whoever_speaks_first() {
    needs_node!();
    for family in [Family::V4, Family::V6] {
        for (how, first) in [(Speak::Echo, First::Client), (Speak::Banner, First::Server)] {
            let scene = Scene::new();
            let _endpoints = scene.tcp(family, how, PODS);
            let service = tcp_service(family);
            scene.publish(&service, &PODS);
            let _agent = scene.agent(&[]);
            let report = load::run(scene.client().netns(), address(&service), first, 90);
            assert!(report.failures.is_empty(), "{:?}", report.failures);
            assert!(report.spread(&PODS) <= 1, "{family:?} {how:?}");
        }
    }
}

#[test]
fn reset_and_half_close_pass() {
    needs_node!();
    let scene = Scene::new();
    let service = tcp_service(Family::V4);
    let target = address(&service);
    {
        let _endpoints = scene.tcp(Family::V4, Speak::Reset, PODS);
        scene.publish(&service, &PODS);
        let _agent = scene.agent(&[]);
        scene.client().netns().run(|| {
            let mut socket = TcpStream::connect(target).expect("is captured");
            socket.write_all(b"x").expect("is sent");
            let error = tcp::read(&mut socket, &mut [0; 8]).expect_err("is reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        });
    }
    let scene = Scene::new();
    let _endpoints = scene.tcp(Family::V4, Speak::HalfClose, PODS);
    scene.publish(&service, &PODS);
    let _agent = scene.agent(&[]);
    let answer = scene.client().netns().run(|| {
        let mut socket = TcpStream::connect(target).expect("is captured");
        socket.write_all(&[7; 100_000]).expect("is sent");
        socket.shutdown(Shutdown::Write).expect("is open");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("is text");
        answer
    });
    assert!(answer.contains("100000"), "{answer}");
}

#[test]
fn a_dial_that_fails_goes_to_the_next_endpoint() {
    needs_node!();
    let scene = Scene::new();
    // Only pod c listens: a refuses, and nobody has the third address.
    let _endpoints = scene.tcp(Family::V4, Speak::Echo, ["c"]);
    let service = tcp_service(Family::V4);
    scene.manifests.service(&service);
    let mut endpoints = scene.ready(&service, &["a", "c"]);
    endpoints.push(Endpoint::at("10.244.1.250".parse().expect("is an address")));
    scene.manifests.endpoints(&service, &endpoints);
    let agent = scene.agent(&[]);
    let started = Instant::now();
    let report = load::run(scene.client().netns(), address(&service), First::Client, 9);
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(started.elapsed() < Duration::from_secs(30));
    let failures = agent.metric("streamvs_connect_failures_total", &[]);
    assert!(failures.is_some_and(|failures| failures >= 4.0), "{failures:?}");
}
