//! Aim: what waits when its endpoint is removed goes to another one, and nothing new begins at the
//! removed one, be it dialled, silent or just lost. Method: endpoints that hold back one step of
//! what a stream waits for, and a table that changes meanwhile; on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use streamvs_balance::SchedulerName;
use streamvs_relay::Options;
use streamvs_relay::connect::DialOptions;
use streamvs_relay::h2::Engine;
use streamvs_test_flow::endpoint::{EndpointServer, Script};
use streamvs_test_flow::raw::FullBacklog;
use streamvs_test_flow::{Answer, Node, call, eventually, grpc_request, on_both_engines};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PATH: &str = "/test.Echo/Unary";

/// The longest that anything here may take.
const MOST: Duration = Duration::from_secs(10);

/// A node that waits for the second SYN of a dial.
fn patient_node(http2_engine: Engine, endpoint: SocketAddr) -> Node {
    let dial = DialOptions { timeout: Duration::from_secs(4), ..DialOptions::default() };
    let options = Options { http2_engine, dial, ..Options::default() };
    Node::start_with(&[endpoint], SchedulerName::Rr, options)
}

fn begin_call(client: &SendRequest<Bytes>) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { call(&client, grpc_request(PATH), b"x").await.unwrap() })
}

async fn end_call(answer: JoinHandle<Answer>) -> Answer {
    tokio::time::timeout(MOST, answer).await.expect("is answered in time").unwrap()
}

/// Streams that began at an endpoint after it was removed.
fn late_count(node: &Node) -> u64 {
    node.server().stats().last_stream_after_removal.snapshot().count
}

async fn stream_that_waits_for_settings_leaves_a_removed_endpoint(engine: Engine) {
    // Whether SETTINGS come after the removal, or never.
    for release in [true, false] {
        let good = EndpointServer::start(Script::Echo).await;
        let mut waited = false;
        // A machine that sleeps for a second here lets the streams go before the removal.
        for _ in 0..5 {
            let old = EndpointServer::start(Script::Mute).await;
            let node = Node::start_engine(engine, &[old.address]);
            let client = node.connect().await;
            let target = node.server().targets()[0].clone();
            let first = begin_call(&client);
            let second = begin_call(&client);
            eventually("both wait", || target.active_streams() == 2).await;
            node.publish(&[good.address]);
            if target.stats().streams.get() > 0 {
                continue;
            }
            waited = true;
            eventually("the endpoint has accepted", || old.connections() == 1).await;
            while release && !(first.is_finished() && second.is_finished()) {
                old.release();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for answer in [first, second] {
                let answer = end_call(answer).await;
                assert_eq!(answer.header("endpoint"), good.address.to_string());
            }
            assert_eq!(old.streams(), 0);
            assert_eq!((old.connections(), late_count(&node)), (1, 0));
            assert_eq!(target.stats().streams.get(), 0);
            break;
        }
        assert!(waited, "the streams never had to wait");
    }
}

async fn stream_that_waits_for_a_dial_leaves_a_removed_endpoint(engine: Engine) {
    for has_other in [true, false] {
        let (full, good) = (FullBacklog::new(), EndpointServer::start(Script::Echo).await);
        let node = patient_node(engine, full.address);
        let client = node.connect().await;
        let target = node.server().targets()[0].clone();
        let waiting = begin_call(&client);
        eventually("it waits", || target.active_streams() == 1).await;
        let others = [good.address];
        node.publish(if has_other { &others } else { &[] });
        // The dial succeeds, too late.
        let listener = full.make_room();
        let answer = end_call(waiting).await;
        if has_other {
            assert_eq!(answer.header("endpoint"), good.address.to_string());
        } else {
            let status = (answer.grpc_status(), answer.header("grpc-message"));
            assert_eq!(status, ("14", "Service default/echo:grpc has no usable endpoint"));
        }
        assert_eq!((target.stats().streams.get(), late_count(&node)), (0, 0));
        assert_eq!(target.active_streams(), 0);
        let failures = target.stats().failures.iter().map(|failures| failures.get()).sum::<u64>();
        assert_eq!(failures, 0, "a removed endpoint has not failed");
        drop(listener);
    }
}

/// Heads that leave no room in the socket, so that the last ones are not written when the
/// connection is lost.
async fn stream_that_was_not_written_leaves_a_removed_endpoint(engine: Engine) {
    const CALLS: usize = 700;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (old, good) = (listener.local_addr().unwrap(), EndpointServer::start(Script::Echo).await);
    let node = Node::start_engine(engine, &[old]);
    let client = node.connect().await;
    let target = node.server().targets()[0].clone();
    let first = begin_call(&client);
    let (mut upstream, _) = listener.accept().await.unwrap();
    // SETTINGS with MAX_CONCURRENT_STREAMS of 1000; then it reads nothing.
    upstream.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 3, 0xe8]).await.unwrap();
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut request = grpc_request(PATH);
                // Nothing that Huffman's code or a table makes shorter.
                let mut value = format!("{number:08}").into_bytes();
                value.resize(12_000, b'~');
                request.headers_mut().insert("padding", value.try_into().unwrap());
                call(&client, request, b"").await.unwrap()
            })
        })
        .collect();
    eventually("all were sent", || target.stats().streams.get() == CALLS as u64 + 1).await;
    node.publish(&[good.address]);
    drop((upstream, listener));
    let again = TcpListener::bind(old).await.unwrap();
    let mut moved_count = 0;
    for answer in calls.into_iter().chain([first]) {
        let answer = end_call(answer).await;
        match answer.grpc_status() {
            "0" => moved_count += 1,
            lost => assert_eq!((lost, answer.header("endpoint")), ("14", "")),
        }
    }
    assert_eq!(good.streams(), moved_count);
    if engine == Engine::Switch {
        assert!(moved_count > 0, "all were written");
    }
    assert_eq!(late_count(&node), 0);
    let dialled = tokio::time::timeout(Duration::from_millis(50), again.accept()).await;
    assert!(dialled.is_err(), "a removed endpoint is dialled");
}

on_both_engines!(
    stream_that_waits_for_settings_leaves_a_removed_endpoint,
    stream_that_waits_for_a_dial_leaves_a_removed_endpoint,
    stream_that_was_not_written_leaves_a_removed_endpoint,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_connection_that_waits_for_a_dial_leaves_a_removed_endpoint() {
    for speaks in [true, false] {
        let full = FullBacklog::new();
        let good = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let node = patient_node(Engine::default(), full.address);
        let target = node.server().targets()[0].clone();
        let mut client = TcpStream::connect(node.address).await.unwrap();
        if speaks {
            client.write_all(b"hello").await.unwrap();
        }
        eventually("it is dialled", || target.active_connections() == 1).await;
        node.publish(&[good.local_addr().unwrap()]);
        let old = full.make_room();
        let (mut upstream, _) = tokio::time::timeout(MOST, good.accept()).await.unwrap().unwrap();
        if !speaks {
            client.write_all(b"hello").await.unwrap();
        }
        let mut heard = [0; 5];
        upstream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let failures = target.stats().failures.iter().map(|failures| failures.get()).sum::<u64>();
        assert_eq!(failures, 0, "the dial came late, but it did not fail");
        assert_eq!(target.stats().connections.get(), 0);
        // The dial has succeeded, and been given up with nothing said.
        let (mut given_up, _) = tokio::time::timeout(MOST, old.accept()).await.unwrap().unwrap();
        let mut heard = Vec::new();
        // It may end with a reset.
        let _ = tokio::time::timeout(MOST, given_up.read_to_end(&mut heard)).await.unwrap();
        assert!(heard.is_empty(), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_connection_that_loses_its_only_endpoint_while_it_waits_is_reset() {
    let full = FullBacklog::new();
    let node = patient_node(Engine::default(), full.address);
    let target = node.server().targets()[0].clone();
    let mut client = TcpStream::connect(node.address).await.unwrap();
    eventually("it is dialled", || target.active_connections() == 1).await;
    node.publish(&[]);
    let _old = full.make_room();
    let ended = tokio::time::timeout(MOST, client.read(&mut [0; 8])).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(node.server().stats().no_endpoint.get(), 1);
}
