//! Aim: at every change between copying and splicing, and at every ending, each octet arrives once
//! and in order, the counters are exact, and no pipe is kept for nothing.
//! Method: the relay between real sockets of one thread, with readers that stall on purpose.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use streamvs_balance::Plan;
use streamvs_table::publish;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::*;
use crate::worker::Options;

const MIB: usize = 1024 * 1024;

pub(super) fn worker(pipe_limit: usize) -> Rc<Worker> {
    let options = Options::default();
    let (_publisher, reader) = publish::channel(Arc::new(Plan::empty()));
    let (_publisher, aliases) = publish::channel(Arc::default());
    let mut worker = Worker::new(options, reader, aliases);
    worker.pipes = Pipes::new(pipe_limit);
    Rc::new(worker)
}

/// A relayed connection: what the client holds, what the endpoint holds, and its end.
struct Relayed {
    client: TcpStream,
    endpoint: TcpStream,
    outcome: JoinHandle<Outcome>,
}

impl Relayed {
    async fn new(worker: &Rc<Worker>) -> Self {
        let (client, downstream) = pair().await;
        let (upstream, endpoint) = pair().await;
        let worker = Rc::clone(worker);
        let outcome = spawn_local(async move {
            ended(relay(&worker, downstream, upstream, Early::default(), None).await)
        });
        Self { client, endpoint, outcome }
    }
}

fn ended(departure: Departure) -> Outcome {
    match departure {
        Departure::Ended(outcome) => outcome,
        Departure::Suspended(_) => panic!("nobody suspends it"),
    }
}

pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("is bound");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.expect("is accepted"), accepted.expect("was dialled").0)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts");
    let limited = async {
        tokio::time::timeout(Duration::from_secs(60), test).await.expect("ends in time");
    };
    LocalSet::new().block_on(&runtime, limited);
}

/// The octet at `index` of what is sent with this seed. No two pieces look alike.
fn octet(index: usize, seed: u8) -> u8 {
    ((index % 251) as u8) ^ ((index / 251) as u8).wrapping_mul(31) ^ seed
}

async fn send(socket: &mut (impl AsyncWriteExt + Unpin), from: usize, count: usize, seed: u8) {
    let octets: Vec<u8> = (from..from + count).map(|index| octet(index, seed)).collect();
    socket.write_all(&octets).await.expect("is open");
}

/// Reads `count` octets that shall be those from index `from` on.
async fn receive(socket: &mut (impl AsyncReadExt + Unpin), from: usize, count: usize, seed: u8) {
    let mut octets = vec![0; count];
    socket.read_exact(&mut octets).await.expect("comes");
    check(&octets, from, seed);
}

fn check(octets: &[u8], from: usize, seed: u8) {
    let wrong = octets.iter().enumerate().find(|&(index, &got)| got != octet(from + index, seed));
    assert_eq!(wrong.map(|(index, _)| from + index), None, "first wrong octet");
}

/// Lets the relay go on until it has nothing to do.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Sends until the relay and all buffers are full, and says how much.
async fn send_until_stuck(socket: &mut TcpStream, seed: u8) -> usize {
    let mut sent = 0;
    loop {
        let octets: Vec<u8> = (sent..sent + MIB).map(|index| octet(index, seed)).collect();
        let write = tokio::time::timeout(Duration::from_millis(100), socket.write(&octets));
        match write.await {
            Ok(count) => sent += count.expect("is open"),
            Err(_) => return sent,
        }
    }
}

#[test]
fn bulk_both_ways_arrives_through_pipes_that_come_back() {
    const OCTETS: usize = 24 * MIB;
    run(async {
        let worker = worker(MAX_PIPES);
        let relayed = Relayed::new(&worker).await;
        let side = |socket: TcpStream, sent_seed: u8, got_seed: u8| {
            let (mut read, mut write) = socket.into_split();
            let writer = spawn_local(async move {
                for piece in 0..24 {
                    send(&mut write, piece * MIB, MIB, sent_seed).await;
                }
                write
            });
            async move {
                for piece in 0..24 {
                    receive(&mut read, piece * MIB, MIB, got_seed).await;
                    if piece % 8 == 0 {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                drop(writer.await.expect("has written"));
                read
            }
        };
        let ends = tokio::join!(side(relayed.client, 1, 2), side(relayed.endpoint, 2, 1));
        let (open, spare) = worker.pipes.counts();
        assert!(open > 0, "the test is about pipes");
        assert_eq!(open, spare, "an idle connection holds none");
        drop(ends);
        let outcome = relayed.outcome.await.expect("does not panic");
        assert_eq!(outcome.end, End::Closed);
        assert_eq!(outcome.bytes_to_upstream, OCTETS as u64);
        assert_eq!(outcome.bytes_to_downstream, OCTETS as u64);
    });
}

#[test]
fn what_comes_last_of_a_long_pour_arrives_without_an_end() {
    const OCTETS: usize = 40 * MIB;
    run(async {
        let worker = worker(MAX_PIPES);
        let Relayed { mut client, mut endpoint, outcome } = Relayed::new(&worker).await;
        let writer = spawn_local(async move {
            for piece in 0..40 {
                send(&mut client, piece * MIB, MIB, 11).await;
            }
            // Less than is waited for.
            send(&mut client, OCTETS, 100_000, 11).await;
            client
        });
        for piece in 0..40 {
            receive(&mut endpoint, piece * MIB, MIB, 11).await;
        }
        receive(&mut endpoint, OCTETS, 100_000, 11).await;
        let mut client = writer.await.expect("has written");
        let mut at = OCTETS + 100_000;
        for _ in 0..20 {
            send(&mut client, at, 64, 11).await;
            receive(&mut endpoint, at, 64, 11).await;
            at += 64;
        }
        drop((client, endpoint));
        let outcome = outcome.await.expect("does not panic");
        assert_eq!(outcome.bytes_to_upstream, at as u64);
    });
}

#[test]
fn half_close_in_the_middle_of_splicing_passes_after_the_last_octet() {
    run(async {
        let worker = worker(MAX_PIPES);
        let Relayed { mut client, mut endpoint, outcome } = Relayed::new(&worker).await;
        let sent = send_until_stuck(&mut client, 3).await;
        let (open, spare) = worker.pipes.counts();
        assert_eq!((open, spare), (1, 0), "the stalled direction keeps its pipe");
        client.shutdown().await.expect("is open");
        let mut got = Vec::new();
        endpoint.read_to_end(&mut got).await.expect("ends in order");
        assert_eq!(got.len(), sent);
        check(&got, 0, 3);
        assert_eq!(worker.pipes.counts(), (1, 1), "half closed, and nothing held");
        let answer = spawn_local(async move {
            send(&mut endpoint, 0, 5 * MIB, 4).await;
        });
        receive(&mut client, 0, 5 * MIB, 4).await;
        assert_eq!(client.read(&mut [0; 8]).await.expect("ends in order"), 0);
        answer.await.expect("has answered");
        let outcome = outcome.await.expect("does not panic");
        assert_eq!(outcome.end, End::Closed);
        assert_eq!(outcome.bytes_to_upstream, sent as u64);
        assert_eq!(outcome.bytes_to_downstream, 5 * MIB as u64);
    });
}

#[test]
fn reset_of_the_source_comes_after_what_is_in_the_pipe() {
    run(async {
        let worker = worker(MAX_PIPES);
        let Relayed { mut client, mut endpoint, outcome } = Relayed::new(&worker).await;
        let sent = send_until_stuck(&mut client, 5).await;
        assert_eq!(worker.pipes.counts(), (1, 0), "octets are in the pipe");
        reset_on_drop(&client);
        drop(client);
        let mut got = Vec::new();
        let error = endpoint.read_to_end(&mut got).await.expect_err("is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        check(&got, 0, 5);
        let outcome = outcome.await.expect("does not panic");
        assert_eq!(outcome.end, End::Reset(Side::Downstream, io::ErrorKind::ConnectionReset));
        assert!(outcome.bytes_to_upstream >= got.len() as u64);
        assert!(outcome.bytes_to_upstream <= sent as u64);
        let (open, spare) = worker.pipes.counts();
        assert_eq!(open, spare);
    });
}

#[test]
fn reset_of_the_sink_with_octets_in_the_pipe_closes_both() {
    run(async {
        let worker = worker(MAX_PIPES);
        let Relayed { mut client, endpoint, outcome } = Relayed::new(&worker).await;
        send_until_stuck(&mut client, 6).await;
        assert_eq!(worker.pipes.counts(), (1, 0), "octets are in the pipe");
        reset_on_drop(&endpoint);
        drop(endpoint);
        let error = client.read(&mut [0; 8]).await.expect_err("is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let outcome = outcome.await.expect("does not panic");
        assert!(matches!(outcome.end, End::Reset(Side::Upstream, _)), "{outcome:?}");
        assert_eq!(worker.pipes.counts(), (0, 0), "a pipe with lost octets is closed");
    });
}

#[test]
fn stalled_connections_beyond_the_pipes_are_copied_and_lose_nothing() {
    run(async {
        for limit in [0, 2] {
            let worker = worker(limit);
            let mut stalled = Vec::new();
            for _ in 0..5 {
                let mut relayed = Relayed::new(&worker).await;
                let sent = send_until_stuck(&mut relayed.client, 7).await;
                stalled.push((relayed, sent));
            }
            assert_eq!(worker.pipes.counts(), (limit, 0), "all are in use");
            for (relayed, sent) in stalled {
                let Relayed { mut client, mut endpoint, outcome } = relayed;
                client.shutdown().await.expect("is open");
                let mut got = Vec::new();
                endpoint.read_to_end(&mut got).await.expect("ends in order");
                assert_eq!(got.len(), sent);
                check(&got, 0, 7);
                drop(endpoint);
                let outcome = outcome.await.expect("does not panic");
                assert_eq!(outcome.bytes_to_upstream, sent as u64);
            }
            assert_eq!(worker.pipes.counts(), (limit, limit), "all came back");
        }
    });
}

#[test]
fn many_bulky_connections_share_few_pipes() {
    run(async {
        let worker = worker(4);
        let mut all = Vec::new();
        for _ in 0..64 {
            let Relayed { mut client, mut endpoint, outcome } = Relayed::new(&worker).await;
            let writer = spawn_local(async move {
                for piece in 0..3 {
                    send(&mut client, piece * MIB, MIB, 8).await;
                }
                client.shutdown().await.expect("is open");
                client
            });
            all.push(spawn_local(async move {
                for piece in 0..3 {
                    receive(&mut endpoint, piece * MIB, MIB, 8).await;
                }
                assert_eq!(endpoint.read(&mut [0; 8]).await.expect("ends in order"), 0);
                drop((endpoint, writer.await.expect("has written")));
                let outcome = outcome.await.expect("does not panic");
                assert_eq!(outcome.bytes_to_upstream, 3 * MIB as u64);
            }));
        }
        for connection in all {
            connection.await.expect("is whole");
        }
        let (open, spare) = worker.pipes.counts();
        assert!((1..=4).contains(&open), "{open} pipes");
        assert_eq!(open, spare);
    });
}

#[test]
fn small_messages_after_bulk_use_no_pipe() {
    run(async {
        let worker = worker(1);
        let Relayed { mut client, mut endpoint, outcome } = Relayed::new(&worker).await;
        let mut at = send_until_stuck(&mut client, 9).await;
        receive(&mut endpoint, 0, at, 9).await;
        settle().await;
        assert_eq!(worker.pipes.counts(), (1, 1));
        // The first small piece is spliced yet and ends the bulk; the others are not.
        let pipe = {
            send(&mut client, at, 64, 9).await;
            receive(&mut endpoint, at, 64, 9).await;
            at += 64;
            worker.pipes.take().expect("is spare")
        };
        for _ in 0..100 {
            send(&mut client, at, 64, 9).await;
            receive(&mut endpoint, at, 64, 9).await;
            at += 64;
            send(&mut endpoint, at, 64, 10).await;
            receive(&mut client, at, 64, 10).await;
        }
        worker.pipes.give(pipe);
        drop((client, endpoint));
        let outcome = outcome.await.expect("does not panic");
        assert_eq!(outcome.bytes_to_upstream, at as u64);
        assert_eq!(outcome.bytes_to_downstream, 6400);
        assert_eq!(worker.pipes.counts(), (1, 1));
    });
}

#[test]
fn early_octets_go_first_and_count_once() {
    run(async {
        let worker = worker(0);
        let (mut client, downstream) = pair().await;
        let (upstream, mut endpoint) = pair().await;
        let early = Early {
            sent_to_upstream: 3,
            to_upstream: Bytes::from_static(b"lo, "),
            to_downstream: Bytes::from_static(b"220 "),
        };
        let outcome =
            spawn_local(
                async move { ended(relay(&worker, downstream, upstream, early, None).await) },
            );
        client.write_all(b"endpoint").await.expect("is open");
        client.shutdown().await.expect("is open");
        let (mut at_client, mut at_endpoint) = (Vec::new(), Vec::new());
        endpoint.read_to_end(&mut at_endpoint).await.expect("ends in order");
        endpoint.write_all(b"ready").await.expect("is open");
        drop(endpoint);
        client.read_to_end(&mut at_client).await.expect("ends in order");
        assert_eq!((&at_endpoint[..], &at_client[..]), (&b"lo, endpoint"[..], &b"220 ready"[..]));
        let outcome = outcome.await.expect("does not panic");
        assert_eq!((outcome.bytes_to_upstream, outcome.bytes_to_downstream), (15, 9));
    });
}

#[test]
fn any_schedule_of_writes_reads_and_pauses_delivers_all_in_order() {
    for seed in 0..12 {
        run(async {
            let mut rng = fastrand::Rng::with_seed(seed);
            let worker = worker(rng.usize(0..3));
            let mut relayed = Vec::new();
            for _ in 0..3 {
                relayed.push(Relayed::new(&worker).await);
            }
            let mut ends = Vec::new();
            for Relayed { client, endpoint, outcome } in relayed {
                let octets = [rng.usize(0..6 * MIB), rng.usize(0..6 * MIB)];
                let mut sides = Vec::new();
                for (socket, out, into) in [(client, 0, 1), (endpoint, 1, 0)] {
                    if rng.bool() {
                        // Not tiny, for a window of one segment waits for delayed ACKs.
                        let buffer = rng.usize(64 * 1024..MIB);
                        SockRef::from(&socket).set_recv_buffer_size(buffer).expect("is open");
                        SockRef::from(&socket).set_send_buffer_size(buffer).expect("is open");
                    }
                    let (mut read, mut write) = socket.into_split();
                    let (mut writer_rng, mut reader_rng) = (rng.fork(), rng.fork());
                    sides.push(spawn_local(async move {
                        let mut at = 0;
                        while at < octets[out] {
                            let piece = piece(&mut writer_rng).min(octets[out] - at);
                            send(&mut write, at, piece, out as u8).await;
                            at += piece;
                            pause(&mut writer_rng).await;
                        }
                        write.shutdown().await.expect("is open");
                    }));
                    sides.push(spawn_local(async move {
                        let mut at = 0;
                        loop {
                            let mut octets = vec![0; piece(&mut reader_rng)];
                            let count = read.read(&mut octets).await.expect("is open");
                            if count == 0 {
                                break;
                            }
                            check(&octets[..count], at, into as u8);
                            at += count;
                            pause(&mut reader_rng).await;
                        }
                        assert_eq!(at, octets[into], "seed {seed}");
                    }));
                }
                ends.push((sides, outcome, octets));
            }
            for (sides, outcome, octets) in ends {
                for side in sides {
                    side.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                }
                let outcome = outcome.await.expect("does not panic");
                let counted = [outcome.bytes_to_upstream, outcome.bytes_to_downstream];
                assert_eq!(counted, octets.map(|count| count as u64), "seed {seed}");
                assert_eq!(outcome.end, End::Closed, "seed {seed}");
            }
            let (open, spare) = worker.pipes.counts();
            assert_eq!(open, spare, "seed {seed}");
        });
    }
}

/// From one octet to more than the relay's buffer, every order of magnitude as likely.
fn piece(rng: &mut fastrand::Rng) -> usize {
    1 << rng.u32(0..20)
}

async fn pause(rng: &mut fastrand::Rng) {
    if rng.u32(0..20) == 0 {
        tokio::time::sleep(Duration::from_millis(rng.u64(0..4))).await;
    }
}
