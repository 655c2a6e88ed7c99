//! What a unary call costs in the core of the switch, without sockets: printed, not judged.
//!
//! `cargo bench -p streamvs-relay --bench switch --profile fast`; without `--bench` (as `cargo test
//! --all-targets` runs it) counts are tiny and the figures mean nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use streamvs_relay::h2::switch::hpack::{Encoder, Field, Indexing};
use streamvs_relay::h2::switch::{ConnectionKey, Event, Switch};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn block(fields: &[(&str, &str)], encoder: &mut Encoder) -> Vec<u8> {
    let mut block = Vec::new();
    let mut writer = encoder.begin(&mut block);
    for (name, value) in fields {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        writer.field(&Field::new(name, value, Indexing::Incremental));
    }
    block
}

const CALL: [(&str, &str); 7] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "echo.default"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.70"),
];

/// A client, and one endpoint that every stream goes to.
struct Lab {
    switch: Switch,
    now: Instant,
    client: ConnectionKey,
    endpoint: Option<ConnectionKey>,
    ended: u64,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let mut switch = Switch::new(now);
        let client = switch.open_downstream(false, now);
        let mut lab = Self { switch, now, client, endpoint: None, ended: 0 };
        lab.send(client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        lab.send(client, &frame(SETTINGS, 0, 0, &[]));
        lab
    }

    fn send(&mut self, key: ConnectionKey, mut octets: &[u8]) {
        while !octets.is_empty() {
            let taken = self.switch.receive(key, octets, self.now);
            octets = &octets[taken..];
            self.follow();
        }
    }

    fn follow(&mut self) {
        while let Some(event) = self.switch.next_event() {
            match event {
                Event::Pick { exchange, .. } => {
                    let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80));
                    self.switch.assign(exchange, address, self.now);
                }
                Event::Dial { leg } => {
                    self.endpoint = Some(self.switch.open_upstream(leg, self.now));
                }
                Event::Ended { .. } => self.ended += 1,
                Event::Sent { .. } | Event::Responds { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Everything is read on both sides. Says how much it was.
    fn flush(&mut self) -> usize {
        let mut octets = 0;
        while let Some(key) = self.switch.next_dirty() {
            let length = self.switch.output_octets(key);
            octets += length;
            self.switch.written(key, length, self.now);
            self.follow();
        }
        octets
    }

    fn endpoint(&self) -> ConnectionKey {
        self.endpoint.expect("a stream made the switch ask for a connection")
    }
}

fn main() {
    let real = std::env::args().any(|argument| argument == "--bench");
    let rounds: u32 = if real { 200_000 } else { 20 };
    for at_once in [1, 100] {
        let mut fastest = f64::MAX;
        for _ in 0..5 {
            fastest = fastest.min(calls(rounds, at_once));
        }
        println!("unary call, {at_once} at once: {fastest:.0} ns");
    }
}

/// Nanoseconds of one call, when the socket brings so many of them at once.
fn calls(rounds: u32, at_once: u32) -> f64 {
    let mut lab = Lab::new();
    let (mut client, mut endpoint) = (Encoder::new(), Encoder::new());
    let mut blocks = || {
        [
            block(&CALL, &mut client),
            block(&[(":status", "200"), ("content-type", "application/grpc")], &mut endpoint),
            block(&[("grpc-status", "0"), ("grpc-message", "")], &mut endpoint),
        ]
    };
    let (first, repeated) = (blocks(), blocks());
    let credit = frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffffu32.to_be_bytes());
    let mut spent = 0.0;
    let mut stream = 1;
    for round in 0..rounds / at_once {
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for number in 0..at_once {
            let known = round > 0 || number > 0;
            let [head, response, trailers] = if known { &repeated } else { &first };
            requests.extend(frame(HEADERS, END_HEADERS, stream, head));
            requests.extend(frame(DATA, END_STREAM, stream, &[7; 21]));
            answers.extend(frame(HEADERS, END_HEADERS, stream, response));
            answers.extend(frame(DATA, 0, stream, &[7; 21]));
            answers.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers));
            stream += 2;
        }
        let started = Instant::now();
        lab.send(lab.client, &requests);
        if round == 0 {
            lab.send(lab.endpoint(), &frame(SETTINGS, 0, 0, &[]));
            for key in [lab.client, lab.endpoint()] {
                lab.send(key, &credit);
            }
        }
        lab.flush();
        lab.send(lab.endpoint(), &answers);
        lab.flush();
        spent += started.elapsed().as_secs_f64();
    }
    assert_eq!(lab.ended, u64::from(rounds / at_once * at_once));
    spent * 1e9 / lab.ended as f64
}
