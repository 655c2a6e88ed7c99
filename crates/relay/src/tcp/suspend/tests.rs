//! Aim: a connection that is suspended again and again, wherever it stands, loses nothing.
//! Method: workers that take it from each other, between real sockets.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::super::patience::tests::low_water;
use super::super::tests::{pair, worker};
use super::super::{Early, End, Outcome, relay};
use super::*;

/// Octets sent each way: enough to stall and to be spliced.
const OCTETS: usize = 24 * 1024 * 1024;

/// Relays on `worker` until the connection leaves it.
fn go_on(worker: &Rc<Worker>, suspended: Suspended) -> JoinHandle<Departure> {
    let worker = Rc::clone(worker);
    spawn_local(async move { resume(&worker, suspended).expect("sockets register").await })
}

async fn suspend(worker: &Rc<Worker>, running: JoinHandle<Departure>) -> Suspended {
    worker.suspend();
    let departure = running.await.expect("does not panic");
    match departure {
        Departure::Suspended(suspended) => *suspended,
        Departure::Ended(outcome) => panic!("{outcome:?}"),
    }
}

/// Suspends the connection and goes on with it on another worker.
async fn hand_over(
    owner: &Rc<Worker>,
    running: JoinHandle<Departure>,
    held_octets: &mut usize,
) -> (Rc<Worker>, JoinHandle<Departure>) {
    let suspended = suspend(owner, running).await;
    assert!(owner.relays.wakers.borrow().is_empty(), "no waker is left");
    *held_octets += suspended.up.pending.len();
    let next = worker(4);
    let running = go_on(&next, suspended);
    (next, running)
}

async fn finish(running: JoinHandle<Departure>) -> Outcome {
    match running.await.expect("does not panic") {
        Departure::Ended(outcome) => outcome,
        Departure::Suspended(_) => panic!("nobody suspends it"),
    }
}

fn pattern() -> Vec<u8> {
    (0..OCTETS).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_bulk_transfer_survives_many_hands_octet_for_octet() {
    LocalSet::new()
        .run_until(async {
            let mut owner = worker(4);
            let (client, downstream) = pair().await;
            let (upstream, mut endpoint) = pair().await;
            let first = Rc::clone(&owner);
            let mut running = spawn_local(async move {
                relay(&first, downstream, upstream, Early::default(), None).await
            });
            let (mut from_node, mut to_node) = client.into_split();
            let sent = pattern();
            let expected = sent.clone();
            let sender = spawn_local(async move {
                to_node.write_all(&sent).await.expect("is taken");
                to_node
            });
            let mut received = Vec::new();
            let mut held_octets = 0;
            let mut turn = 0;
            // Nobody reads, so it stalls with octets held sooner or later.
            let deadline = Instant::now() + Duration::from_secs(30);
            while held_octets == 0 {
                assert!(Instant::now() < deadline, "24 MiB fit into the sockets");
                (owner, running) = hand_over(&owner, running, &mut held_octets).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            while received.len() < OCTETS {
                let mut piece = vec![0; 1024 * 1024];
                let count = endpoint.read(&mut piece).await.expect("is open");
                assert!(count > 0, "ended after {} octets", received.len());
                received.extend_from_slice(&piece[..count]);
                if turn < 40 && received.len() < OCTETS / 2 {
                    turn += 1;
                    (owner, running) = hand_over(&owner, running, &mut held_octets).await;
                }
            }
            assert!(received == expected, "another pattern came");
            assert!(turn > 2, "was suspended {turn} times");
            drop(sender.await.expect("does not panic"));
            endpoint.write_all(b"thanks").await.expect("is taken");
            drop(endpoint);
            let mut answer = Vec::new();
            from_node.read_to_end(&mut answer).await.expect("ends in order");
            assert_eq!(answer, b"thanks");
            let outcome = finish(running).await;
            let counts = (outcome.bytes_to_upstream, outcome.bytes_to_downstream);
            assert_eq!(counts, (OCTETS as u64, 6));
            assert_eq!(outcome.end, End::Closed);
        })
        .await;
}

#[tokio::test]
async fn a_pouring_connection_is_waited_for_no_longer_once_it_leaves() {
    LocalSet::new()
        .run_until(async {
            let a = worker(4);
            let (mut client, downstream) = pair().await;
            let (upstream, mut endpoint) = pair().await;
            let source = downstream.as_fd().try_clone_to_owned().expect("is open");
            let first = Rc::clone(&a);
            let running = spawn_local(async move {
                relay(&first, downstream, upstream, Early::default(), None).await
            });
            let pouring = spawn_local(async move {
                let octets = vec![7; 1024 * 1024];
                while client.write_all(&octets).await.is_ok() {}
            });
            let mut buffer = vec![0; 256 * 1024];
            let deadline = Instant::now() + Duration::from_secs(30);
            while low_water(&source) == 1 {
                assert!(Instant::now() < deadline, "nothing is waited for");
                assert!(endpoint.read(&mut buffer).await.expect("is open") > 0);
            }
            let suspended = suspend(&a, running).await;
            assert_eq!(low_water(&source), 1, "who goes on is told of each octet");
            pouring.abort();
            drop(suspended);
        })
        .await;
}

#[tokio::test]
async fn a_half_closed_connection_stays_half_closed() {
    LocalSet::new()
        .run_until(async {
            let (a, b) = (worker(4), worker(4));
            let (mut client, downstream) = pair().await;
            let (upstream, mut endpoint) = pair().await;
            let first = Rc::clone(&a);
            let running = spawn_local(async move {
                relay(&first, downstream, upstream, Early::default(), None).await
            });
            client.write_all(b"question").await.expect("is taken");
            client.shutdown().await.expect("is open");
            let mut question = Vec::new();
            endpoint.read_to_end(&mut question).await.expect("FIN comes");
            let suspended = suspend(&a, running).await;
            assert_eq!(suspended.up.progress, Progress::Ended);
            assert_eq!(suspended.down.progress, Progress::Open);
            let running = go_on(&b, suspended);
            endpoint.write_all(b"answer").await.expect("is taken");
            drop(endpoint);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("ends in order");
            assert_eq!(answer, b"answer");
            assert_eq!(finish(running).await.end, End::Closed);
        })
        .await;
}

#[tokio::test]
async fn an_idle_connection_is_suspended_at_once_and_a_later_one_too() {
    LocalSet::new()
        .run_until(async {
            let a = worker(4);
            let (client, downstream) = pair().await;
            let (upstream, endpoint) = pair().await;
            a.suspend();
            a.suspended().await;
            let departure = relay(&a, downstream, upstream, Early::default(), None).await;
            let Departure::Suspended(suspended) = departure else { panic!("{departure:?}") };
            assert_eq!((suspended.up, suspended.down), (Half::default(), Half::default()));
            drop((client, endpoint));
        })
        .await;
}
