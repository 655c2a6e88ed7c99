//! Aim: a client sees the same from an endpoint alone, from it behind the `h2` engine, and from it
//! behind the switch, whether the client keeps the rules or not. Method: the same frames on three
//! real connections; endpoints of the `h2` crate. Where the three differ, the difference stands in
//! a list with its reason.

#[path = "differential/client.rs"]
mod client;
#[path = "differential/probes.rs"]
mod probes;

use std::net::SocketAddr;

use client::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY, Seen,
    frame,
};
use fastrand::Rng;
use probes::{Effect, PROBES, effect};
use streamvs_relay::h2::Engine;
use streamvs_test_flow::Node;
use streamvs_test_flow::endpoint::{EndpointServer, Script};

/// An endpoint, and the ways to it.
struct Ways {
    ways: [(&'static str, SocketAddr); 3],
    _endpoint: EndpointServer,
    _nodes: [Node; 2],
}

impl Ways {
    async fn to(script: Script) -> Self {
        let endpoint = EndpointServer::start(script).await;
        let address = endpoint.address;
        let [h2, switch] =
            [Engine::H2, Engine::Switch].map(|engine| Node::start_engine(engine, &[address]));
        let ways = [("direct", address), ("h2", h2.address), ("switch", switch.address)];
        Self { ways, _endpoint: endpoint, _nodes: [h2, switch] }
    }
}

/// The frames of one call, to be sent in this order.
fn call(client: &mut Client, stream: u32, rng: &mut Rng) -> Vec<Vec<u8>> {
    let value: String = (0..rng.usize(..300)).map(|_| rng.alphanumeric()).collect();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/test.Echo/Any"),
        (":authority", "echo"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("x-any", &value),
    ];
    let block = client.encode(&fields);
    let cut = if rng.u8(..3) == 0 { rng.usize(..block.len()) } else { block.len() };
    let (first, rest) = block.split_at(cut);
    let mut octets = rng.usize(..3000);
    let trailers = rng.u8(..5) == 0;
    let end = if octets == 0 && !trailers && rng.bool() { END_STREAM } else { 0 };
    let mut head =
        frame(HEADERS, end | if rest.is_empty() { END_HEADERS } else { 0 }, stream, first);
    if !rest.is_empty() {
        head.extend(frame(CONTINUATION, END_HEADERS, stream, rest));
    }
    let mut frames = vec![head];
    if end != 0 {
        return frames;
    }
    while octets > 0 {
        let piece = rng.usize(1..=octets);
        octets -= piece;
        let mut payload: Vec<u8> = (0..piece).map(|_| rng.u8(..)).collect();
        let mut flags = 0;
        if rng.u8(..4) == 0 {
            let padding = rng.u8(..);
            payload.insert(0, padding);
            payload.resize(payload.len() + usize::from(padding), 0);
            flags |= PADDED;
        }
        if octets == 0 && !trailers && rng.bool() {
            frames.push(frame(DATA, flags | END_STREAM, stream, &payload));
            return frames;
        }
        frames.push(frame(DATA, flags, stream, &payload));
        match rng.u8(..6) {
            0 => frames.push(frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1])),
            1 => frames.push(frame(0x30, rng.u8(..), stream, &[1, 2, 3])),
            2 => frames.push(frame(PING, 0, 0, &[9; 8])),
            _ => {}
        }
    }
    if trailers {
        // Written by hand and not indexed, since it is sent after blocks that are encoded later.
        let block = b"\x00\x06x-last\x011";
        frames.push(frame(HEADERS, END_STREAM | END_HEADERS, stream, block));
    } else {
        frames.push(frame(DATA, END_STREAM, stream, &[]));
    }
    frames
}

/// Several calls at once, their frames mixed and written in pieces of any length.
async fn calls(address: SocketAddr, seed: u64) -> Vec<(u32, Seen)> {
    let mut rng = Rng::with_seed(seed);
    let mut client = Client::connect(address).await;
    let streams: Vec<u32> = (0..rng.u32(1..6)).map(|number| 2 * number + 1).collect();
    // Heads first: blocks must be sent in the order in which they were encoded.
    let mut waiting: Vec<_> =
        streams.iter().map(|&stream| call(&mut client, stream, &mut rng).into_iter()).collect();
    let mut octets: Vec<u8> = Vec::new();
    for frames in &mut waiting {
        octets.extend(frames.next().expect("each has a head"));
    }
    while !waiting.is_empty() {
        let place = rng.usize(..waiting.len());
        match waiting[place].next() {
            Some(frame) => octets.extend(frame),
            None => drop(waiting.swap_remove(place)),
        }
    }
    let mut rest = &octets[..];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rng.usize(1..=rest.len()));
        client.say(piece).await;
        rest = after;
    }
    client.wait_for(&streams).await;
    assert!(
        !client.closed && client.go_away.is_none(),
        "GOAWAY {:?}, closed: {}",
        client.go_away,
        client.closed
    );
    // An endpoint that wants no more of the request may say so after its answer, sooner or later.
    client.seen.values_mut().filter(|seen| seen.end).for_each(|seen| {
        seen.reset.take_if(|code| *code == 0);
    });
    client.seen.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valid_calls_look_the_same_on_every_way() {
    let first = fastrand::u64(..1 << 32);
    for script in [Script::Echo, Script::Stream, Script::Informational, Script::Fail(7)] {
        let ways = Ways::to(script.clone()).await;
        for seed in first..first + 40 {
            println!("{script:?}, seed {seed}");
            let [(_, direct), others @ ..] = ways.ways;
            let expected = calls(direct, seed).await;
            assert!(expected.iter().all(|(_, seen)| seen.end), "the endpoint answers");
            for (name, address) in others {
                assert_eq!(calls(address, seed).await, expected, "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_keep_their_code_on_every_way() {
    for code in [2, 8, 11, 13, 0x4242] {
        let ways = Ways::to(Script::Reset(code.into())).await;
        for (name, address) in ways.ways {
            for (stream, seen) in calls(address, u64::from(code)).await {
                assert_eq!((seen.reset, seen.head), (Some(code), None), "{name} {stream}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_rules_have_the_same_effect_on_every_way() {
    let ways = Ways::to(Script::Echo).await;
    let mut wrong = Vec::new();
    for probe in PROBES {
        let mut effects: Vec<Effect> = Vec::new();
        for (_, address) in ways.ways {
            effects.push(effect(address, probe).await);
        }
        println!("{:40} {effects:?}", probe.name);
        let expected = match probe.differs {
            Some((expected, reason)) => {
                assert!(!reason.is_empty());
                expected.to_vec()
            }
            None => vec![effects[2]; 3],
        };
        if effects != expected {
            wrong.push(format!("{}: {effects:?}, not {expected:?}", probe.name));
        }
    }
    assert!(wrong.is_empty(), "direct, h2, switch:\n{}", wrong.join("\n"));
}
