//! Aim: each endpoint speaks as it says, before anything stands between it and a client.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use tokio::io::AsyncReadExt;

use super::load::{First, run};
use super::transfer::{Sum, send_pattern};
use super::*;
use crate::lab::Lab;
use crate::{Family, needs};

#[test]
fn both_orders_of_speech_tell_who_answered() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().pods(["client", "a"]).build();
    for (how, first) in [(Speak::Echo, First::Client), (Speak::Banner, First::Server)] {
        let endpoint = Endpoint::start(lab.pod("a"), Family::V6, 0, how);
        let report = run(lab.pod("client"), endpoint.address(), first, 20);
        assert_eq!(report.failures, Vec::<String>::new());
        assert_eq!(report.connections.get("a"), Some(&20), "{how:?}");
        assert_eq!((endpoint.connections(), report.spread(&["a", "b"])), (20, 20));
    }
}

#[test]
fn a_half_close_is_answered_with_the_sum() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().pods(["client", "a"]).build();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0, Speak::HalfClose);
    let address = endpoint.address();
    let line = lab.pod("client").run(|| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"hello").unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        let mut line = String::new();
        socket.read_to_string(&mut line).unwrap();
        line
    });
    // FNV-1a of "hello", as its authors publish it.
    assert_eq!(line, "a 5 a430d84680aabd0b\n");
}

#[test]
fn a_reset_is_a_reset() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().pods(["client", "a"]).build();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0, Speak::Reset);
    let address = endpoint.address();
    let error = lab.pod("client").run(|| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"x").unwrap();
        socket.read(&mut [0]).expect_err("the connection is reset")
    });
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn both_directions_at_once_keep_every_octet() {
    needs!("ip", "nsenter");
    const COUNT: u64 = 3_000_000;
    let lab = Lab::builder().pods(["client", "a"]).build();
    let endpoint = Endpoint::start(lab.pod("a"), Family::V4, 0, Speak::Shout(COUNT));
    let address = endpoint.address();
    let line = lab.pod("client").block_on(|| async move {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut from, mut to) = socket.split();
        let (sum, sent) = tokio::join!(Sum::of(&mut from, COUNT), send_pattern(&mut to, COUNT));
        sent.unwrap();
        assert_eq!(sum.unwrap(), Sum::of_pattern(COUNT));
        let mut line = String::new();
        from.read_to_string(&mut line).await.unwrap();
        line
    });
    assert_eq!(line, format!("a {}\n", Sum::of_pattern(COUNT)));
}
