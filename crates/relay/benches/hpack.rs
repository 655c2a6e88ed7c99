//! What the header blocks of a gRPC call cost: printed, not judged.
//!
//! `cargo bench -p streamvs-relay --bench hpack --profile fast`; without `--bench` (as `cargo test
//! --all-targets` runs it) counts are tiny and the figures mean nothing.

use std::hint::black_box;
use std::time::Instant;

use streamvs_relay::h2::switch::hpack::{Decoder, Encoder, Field, Indexing, Translator};

type List = Vec<(&'static str, String, Indexing)>;

fn main() {
    let real = std::env::args().any(|argument| argument == "--bench");
    let rounds = if real { 1_000_000 } else { 100 };
    println!("ns per block, median of all passes:");
    println!(
        "{:34} {:>6} {:>8} {:>8} {:>9} {:>9} {:>10}",
        "", "decode", "+encode", "foreign", "+encode", "to one", "to 8"
    );
    row("request, as before", rounds, |_| request(None));
    row("request, a new timeout each time", rounds, |round| {
        request(Some((round, Indexing::Without)))
    });
    row("request, and its sender indexes it", rounds, |round| {
        request(Some((round, Indexing::Incremental)))
    });
    row("response", rounds, |_| {
        vec![
            (":status", "200".into(), Indexing::Incremental),
            ("content-type", "application/grpc".into(), Indexing::Incremental),
        ]
    });
    row("trailers", rounds, |_| {
        vec![
            ("grpc-status", "0".into(), Indexing::Incremental),
            ("grpc-message", String::new(), Indexing::Incremental),
        ]
    });
    strings(rounds);
}

fn request(timeout: Option<(usize, Indexing)>) -> List {
    let field = |name, value: &str| (name, value.to_owned(), Indexing::Incremental);
    let mut list = vec![
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", "/helloworld.Greeter/SayHello"),
        field(":authority", "greeter.default.svc.cluster.local:50051"),
        field("content-type", "application/grpc"),
        field("user-agent", "grpc-go/1.76.0"),
        field("te", "trailers"),
    ];
    if let Some((round, indexing)) = timeout {
        list.push(("grpc-timeout", format!("{}u", 999_000 + round), indexing));
    }
    list
}

/// The blocks a sender writes for these lists.
fn blocks(list: impl Fn(usize) -> List) -> Vec<Vec<u8>> {
    let mut sender = fluke_hpack::Encoder::new();
    let mut own = Encoder::new();
    (0..1000)
        .map(|round| {
            let mut out = Vec::new();
            let list = list(round);
            // Our encoder keeps a timeout out of its table; a sender that does not is played by
            // the other one, which indexes everything.
            let indexes = list.iter().all(|field| field.2 == Indexing::Incremental);
            if indexes {
                return sender.encode(list.iter().map(|it| (it.0.as_bytes(), it.1.as_bytes())));
            }
            let mut writer = own.begin(&mut out);
            for (name, value, indexing) in &list {
                writer.field(&Field::new(name.as_bytes(), value.as_bytes(), *indexing));
            }
            out
        })
        .collect()
}

fn row(what: &str, rounds: usize, list: impl Fn(usize) -> List) {
    let blocks = blocks(list);
    let (first, rest) = blocks.split_first().expect("there are some");
    let mut scratch = Vec::new();
    let mut out = Vec::new();

    let decode = median(rounds, || {
        let mut decoder = Decoder::new(4096);
        let mut take = |block: &[u8]| {
            let result = decoder.decode(block, 65_536, &mut scratch, |field| {
                black_box(field);
            });
            result.expect("valid");
        };
        take(first);
        pass_through(rounds, rest, take)
    });
    let both = median(rounds, || {
        let (mut decoder, mut encoder) = (Decoder::new(4096), Encoder::new());
        let mut take = |block: &[u8]| {
            out.clear();
            let mut writer = encoder.begin(&mut out);
            let result = decoder.decode(block, 65_536, &mut scratch, |field| writer.field(&field));
            result.expect("valid");
            black_box(&out);
        };
        take(first);
        pass_through(rounds, rest, take)
    });
    let foreign = median(rounds, || {
        let mut decoder = fluke_hpack::Decoder::new();
        let mut take = |block: &[u8]| {
            let result = decoder.decode_with_cb(block, |name, value| {
                black_box((name, value));
            });
            result.expect("valid");
        };
        take(first);
        pass_through(rounds, rest, take)
    });
    let foreign_both = median(rounds, || {
        let (mut decoder, mut encoder) = (fluke_hpack::Decoder::new(), fluke_hpack::Encoder::new());
        let mut take = |block: &[u8]| {
            out.clear();
            let result = decoder.decode_with_cb(block, |name, value| {
                encoder.encode_header_into((&name, &value), &mut out).expect("into memory");
            });
            result.expect("valid");
            black_box(&out);
        };
        take(first);
        pass_through(rounds, rest, take)
    });
    let mut translated = [1, 8].map(|connections: usize| {
        let mut translator = Translator::new();
        median(rounds, || {
            let mut ends: Vec<_> =
                (0..connections).map(|_| (Decoder::new(4096), Encoder::new())).collect();
            let mut turn = 0;
            let mut take = |block: &[u8]| {
                out.clear();
                turn += 1;
                // One client, and another endpoint each time.
                let decoder = &mut ends[0].0;
                let list = translator.read(decoder, block, 65_536, 0, |fields| fields.len());
                let encoder = &mut ends[turn % connections].1;
                translator.write(&list.expect("valid"), encoder, &mut out);
                black_box(&out);
            };
            take(first);
            pass_through(rounds, rest, take)
        })
    });
    let [one, eight] = &mut translated;
    println!("{what:34} {decode:>6} {both:>8} {foreign:>8} {foreign_both:>9} {one:>9} {eight:>10}");
}

/// All blocks in order, each once, since they may insert: ns for one.
fn pass_through(rounds: usize, blocks: &[Vec<u8>], mut take: impl FnMut(&[u8])) -> u128 {
    let rounds = rounds.min(blocks.len());
    let began = Instant::now();
    blocks[..rounds].iter().for_each(|block| take(block));
    began.elapsed().as_nanos() / rounds as u128
}

/// Passes with fresh tables until all rounds are done, at least 5.
fn median(rounds: usize, mut pass: impl FnMut() -> u128) -> u128 {
    let mut times: Vec<_> = (0..(rounds / 1000).max(5)).map(|_| pass()).collect();
    times.sort();
    times[times.len() / 2]
}

/// A string that comes for the first time, coded and raw (RFC 7541 appendix C.4.1 and C.3.1).
fn strings(rounds: usize) {
    let coded =
        [0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
    let raw = [&[0x41, 0x0f], &b"www.example.com"[..]].concat();
    for (what, block) in [("Huffman-coded", &coded[..]), ("raw", &raw)] {
        let mut scratch = Vec::new();
        let mut decoder = Decoder::new(4096);
        let began = Instant::now();
        for _ in 0..rounds {
            let result = decoder.decode(black_box(block), 65_536, &mut scratch, |field| {
                black_box(field);
            });
            result.expect("valid");
        }
        let each = began.elapsed().as_nanos() / rounds as u128;
        println!("15 octets, {what}, inserted each time: {each}");
    }
}
