//! Aim: the lab is the network it claims to be. Method: build each shape and talk across it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::needs;

/// Sends one octet from `client` to a socket on `server` and returns the address it came from.
fn reach(client: &Host, server: &Host, family: Family) -> SocketAddr {
    let listener = server.run(|| TcpListener::bind(server.at(family, 0)).expect("a free port"));
    let address = listener.local_addr().expect("a bound socket has an address");
    let mut socket = client.run(|| {
        TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .unwrap_or_else(|error| panic!("{} to {address}: {error}", client.name()))
    });
    socket.write_all(b"x").unwrap();
    let (mut accepted, from) = listener.accept().unwrap();
    accepted.read_exact(&mut [0]).unwrap();
    from
}

fn check_shape(shape: Shape) {
    let lab = Lab::builder().shape(shape).pods(["a", "b"]).remote_pod("far").outside().build();
    for family in [Family::V4, Family::V6] {
        let a = lab.pod("a").ip(family);
        assert_eq!(reach(lab.pod("a"), lab.pod("b"), family).ip(), a, "{shape:?} pod to pod");
        assert_eq!(reach(lab.pod("a"), lab.pod("far"), family).ip(), a, "{shape:?} to the far pod");
        assert_eq!(reach(lab.pod("a"), lab.node(), family).ip(), a, "{shape:?} to the node");
        reach(lab.node(), lab.pod("a"), family);
        let outside = lab.outside().ip(family);
        assert_eq!(reach(lab.outside(), lab.pod("b"), family).ip(), outside, "{shape:?} outside");
    }
}

#[test]
fn point_to_point_pods_reach_each_other_and_keep_their_address() {
    needs!("ip", "nsenter");
    check_shape(Shape::PointToPoint);
}

#[test]
fn bridged_pods_reach_each_other_and_keep_their_address() {
    needs!("ip", "nsenter");
    check_shape(Shape::Bridge);
}

#[test]
fn unnumbered_pods_reach_each_other_and_keep_their_address() {
    needs!("ip", "nsenter");
    check_shape(Shape::Unnumbered);
    let lab = Lab::builder().shape(Shape::Unnumbered).pod("a").build();
    let addresses = lab.node().output("ip", &["-4", "address", "show", "dev", "veth-a"]);
    assert_eq!(addresses, "", "the node's side of the link has no IPv4 address");
}

#[test]
fn a_host_client_has_no_route_to_services() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().build();
    for family in [Family::V4, Family::V6] {
        let service = SocketAddr::new(Lab::service_address(family, 10), 80);
        let error = lab
            .node()
            .run(|| TcpStream::connect_timeout(&service, Duration::from_secs(1)))
            .expect_err("no route was made");
        assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable, "{family:?}");
    }
}

#[test]
fn a_lab_is_gone_after_its_drop_and_after_a_panic() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().pod("a").build();
    let prefix = lab.prefix.clone();
    let mut sleeper = lab.pod("a").command("sleep").arg("600").spawn().unwrap();
    assert_eq!(named(&prefix).len(), 3);
    drop(lab);
    assert_eq!(named(&prefix), Vec::<String>::new());
    assert!(!sleeper.wait().unwrap().success(), "what ran inside was ended");

    let (send, prefix) = std::sync::mpsc::channel();
    let panicking = std::thread::spawn(move || {
        let lab = Lab::builder().build();
        send.send(lab.prefix.clone()).unwrap();
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    let prefix = prefix.recv().unwrap();
    assert!(panicking.join().is_err());
    assert_eq!(named(&prefix), Vec::<String>::new());
}

#[test]
fn what_a_killed_process_left_is_swept_and_nothing_else() {
    needs!("ip", "nsenter");
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    let pid = gone.id();
    gone.wait().unwrap();
    let stale = format!("svs-{pid}-0-node");
    std::process::Command::new("ip").args(["netns", "add", &stale]).status().unwrap();
    let lab = Lab::builder().build();
    sweep();
    assert_eq!(named(&stale), Vec::<String>::new());
    assert_eq!(named(&lab.prefix).len(), 2);
}

fn named(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(netns::FOLDER)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&format!("{prefix}-")) || name == prefix)
        .collect();
    names.sort();
    names
}
