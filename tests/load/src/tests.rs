//! Aim: a run that lost, changed or broke anything gives no figure, and one that did not does.
//! Method: every client against an endpoint on loopback; then clients that do wrong on purpose.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Command, run};

/// An endpoint on ports of its own, for the rest of the process.
struct Endpoint {
    http2: u16,
    plain: u16,
    greeting: u16,
    counters: PathBuf,
    _folder: TempDir,
}

impl Endpoint {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        // Held until all are known, so that they differ.
        let held = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let [http2, plain, greeting] =
            held.each_ref().map(|held| held.local_addr().expect("is bound").port());
        drop(held);
        let counters = folder.path().join("counters");
        let command = format!(
            "load endpoint --ip 127.0.0.1 --http2 {http2}:70000 --plain {plain} \
             --greeting {greeting} --counters {}",
            counters.display()
        );
        let command = Command::parse_from(command.split(' ').filter(|word| !word.is_empty()));
        std::thread::spawn(move || run(command).expect("an endpoint goes on for ever"));
        let deadline = Instant::now() + Duration::from_secs(5);
        while UnixStream::connect(&counters).is_err() {
            assert!(Instant::now() < deadline, "the endpoint does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { http2, plain, greeting, counters, _folder: folder }
    }

    fn counter(&self, name: &str) -> u64 {
        let mut text = String::new();
        UnixStream::connect(&self.counters)
            .expect("the endpoint listens")
            .read_to_string(&mut text)
            .expect("counters are text");
        let counters: Value = serde_json::from_str(&text).expect("counters are JSON");
        counters[name].as_u64().expect("there is such a counter")
    }

    #[track_caller]
    fn wait_for(&self, name: &str, wanted: u64) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.counter(name) != wanted {
            assert!(Instant::now() < deadline, "{name}: {}", self.counter(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a client reports.
fn client(port: u16, command: &str) -> std::io::Result<Value> {
    let address = format!("--address=127.0.0.1:{port}");
    let words = command.split(' ');
    run(Command::parse_from(["load"].into_iter().chain(words).chain([address.as_str()])))
}

#[test]
fn every_client_is_served_and_counted() {
    let endpoint = Endpoint::start();
    let check = |port, command: &str, wanted: u64| {
        let report = client(port, command).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!((&report["n"], &report["errors"]), (&wanted.into(), &0.into()), "{command}");
    };
    check(endpoint.http2, "probe --connections 2 --calls 20 --request 50000 --response 70000", 40);
    assert_eq!(endpoint.counter("requests"), 40);
    assert_eq!(endpoint.counter("http2_connections"), 2);
    check(endpoint.plain, "short --count 50 --concurrency 7", 50);
    assert_eq!(endpoint.counter("plain_connections"), 50);
    let bulk = "bulk --bytes 9000000 --connections 2 --check --direction";
    check(endpoint.plain, &format!("{bulk} down"), 18_000_000);
    check(endpoint.plain, &format!("{bulk} up"), 18_000_000);
    check(endpoint.plain, "bulk --bytes 9000000 --direction up", 9_000_000);
    check(endpoint.plain, "bulk --bytes 9000000 --direction down", 9_000_000);
    check(endpoint.greeting, "greeting --count 3", 3);
    let report = client(endpoint.plain, "ping-pong --connections 4 --seconds 0.05").unwrap();
    assert!(report["n"].as_u64() > Some(4) && report["p50_us"].as_f64() > Some(0.0), "{report}");
    endpoint.wait_for("open", 0);
    assert_eq!(endpoint.counter("violations"), 0);
}

#[test]
fn an_answer_of_another_length_is_no_success() {
    let endpoint = Endpoint::start();
    let error = client(endpoint.http2, "probe --response 70001").expect_err("one octet is missing");
    assert!(error.to_string().contains("70005 octets of 70006"), "{error}");
}

#[test]
fn a_broken_client_is_a_violation() {
    let endpoint = Endpoint::start();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (count, octets) in (1..).zip([
        // DATA that ends a stream in the middle of its message.
        &b"\0\0\x02\x01\x04\0\0\0\x01\x83\x86\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\x09"[..],
        // A request without a message.
        b"\0\0\x02\x01\x05\0\0\0\x01\x83\x86",
        // CONTINUATION of nothing.
        b"\0\0\0\x09\x04\0\0\0\x01",
        // A frame that is too long.
        b"\x01\0\0\0\0\0\0\0\x01",
    ]) {
        let address = SocketAddr::from(([127, 0, 0, 1], endpoint.http2));
        let mut socket = TcpStream::connect(address).expect("the endpoint listens");
        socket.write_all(&[preface, octets].concat()).expect("is sent");
        endpoint.wait_for("violations", count);
    }
}
