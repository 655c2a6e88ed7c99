//! Aim: plain connections arrive byte for byte, with every ending, whoever speaks first.
//! Method: one worker, hand-written sockets on both sides.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::SockRef;
use streamvs_balance::{ConnectFailure, SchedulerName, Verdict};
use streamvs_relay::Options;
use streamvs_relay::connect::DialOptions;
use streamvs_table::ProtocolHint;
use streamvs_test_flow::endpoint::{EndpointServer, Script};
use streamvs_test_flow::raw::FullBacklog;
use streamvs_test_flow::{Node, call, eventually, grpc_request, service_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn endpoint() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Connects both sides through a node.
async fn pair(node: &Node, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(node.address).await.unwrap();
    let (upstream, _) = listener.accept().await.unwrap();
    (client, upstream)
}

async fn read_some(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    tokio::time::timeout(Duration::from_secs(5), socket.read_exact(&mut bytes))
        .await
        .expect("comes in time")
        .unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_speaks_first_is_heard_at_once() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    let (mut client, mut upstream) = pair(&node, &listener).await;
    upstream.write_all(&[0x5b, 0, 0, 0, 0x0a, b'8']).await.unwrap();
    assert_eq!(read_some(&mut client, 6).await, [0x5b, 0, 0, 0, 0x0a, b'8']);
    client.write_all(b"login").await.unwrap();
    assert_eq!(read_some(&mut upstream, 5).await, b"login");
    assert_eq!(node.server().stats().connections[Verdict::Tcp.index()].get(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_first_works_where_http2_was_announced() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    node.publish_service(service_port(&[address], ProtocolHint::H2c));
    let (mut client, mut upstream) = pair(&node, &listener).await;
    upstream.write_all(b"220 ready\r\n").await.unwrap();
    assert_eq!(read_some(&mut client, 11).await, b"220 ready\r\n");
}

/// Nothing but HTTP/2 was seen on the port: an endpoint is dialled 20 ms after a silent client came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_that_speaks_first_where_only_http2_was_seen_is_heard_soon() {
    let (listener, address) = endpoint().await;
    let echo = EndpointServer::start(Script::Echo).await;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let node = Node::start(&[echo.address]);
        let answer = call(&node.connect().await, grpc_request("/test.Echo/Unary"), b"x").await;
        assert_eq!(answer.unwrap().grpc_status(), "0");
        node.publish(&[address]);
        let counts = node.server().stats().connections.each_ref().map(|count| count.get());
        assert_eq!((counts.iter().sum::<u64>(), counts[Verdict::Http2.index()]), (1, 1));
        let begun = Instant::now();
        let (mut client, mut upstream) = pair(&node, &listener).await;
        upstream.write_all(b"220 ready\r\n").await.unwrap();
        assert_eq!(read_some(&mut client, 11).await, b"220 ready\r\n");
        best = best.min(begun.elapsed());
    }
    assert!(best >= Duration::from_millis(19), "dialled at once: {best:?}");
    assert!(best < Duration::from_millis(100), "{best:?} at best");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_bytes_of_both_sides_arrive_in_order() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    // A prefix of the preface keeps the verdict open while the endpoint speaks as HTTP/2 would.
    let mut client = TcpStream::connect(node.address).await.unwrap();
    client.write_all(b"PRI * HT").await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    upstream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.write_all(b"ML, not HTTP/2").await.unwrap();
    assert_eq!(read_some(&mut upstream, 22).await, b"PRI * HTML, not HTTP/2");
    assert_eq!(read_some(&mut client, 9).await, [0, 0, 0, 4, 0, 0, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_close_passes_in_both_directions() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    let (mut client, mut upstream) = pair(&node, &listener).await;
    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let mut request = Vec::new();
    upstream.read_to_end(&mut request).await.unwrap();
    assert_eq!(request, b"request");
    upstream.write_all(b"a late answer").await.unwrap();
    upstream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"a late answer");
    let server = node.server();
    eventually("the connection has ended", || server.stats().active_connections.get() == 0).await;
    assert_eq!(server.stats().bytes_to_upstream.get(), 7);
    assert_eq!(server.stats().bytes_to_downstream.get(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_only_closes_is_passed_on() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    let (mut client, mut upstream) = pair(&node, &listener).await;
    client.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    upstream.read_to_end(&mut nothing).await.unwrap();
    upstream.write_all(b"bye").await.unwrap();
    drop(upstream);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((nothing.len(), &answer[..]), (0, &b"bye"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_passes_in_both_directions() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    for client_resets in [true, false] {
        let (mut client, mut upstream) = pair(&node, &listener).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(read_some(&mut upstream, 1).await, b"x");
        let (resetting, mut other) =
            if client_resets { (client, upstream) } else { (upstream, client) };
        SockRef::from(&resetting).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resetting);
        let error = other.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_speaking_at_once_lose_nothing() {
    const OCTETS: usize = 20_000_000;
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    let (client, upstream) = pair(&node, &listener).await;
    let stream = |socket: TcpStream, seed: u8| async move {
        let (mut read, mut write) = socket.into_split();
        let writer = tokio::spawn(async move {
            let block: Vec<u8> = (0..65_521u32).map(|index| (index % 253) as u8 ^ seed).collect();
            let mut left = OCTETS;
            while left > 0 {
                let count = left.min(block.len());
                write.write_all(&block[..count]).await.unwrap();
                left -= count;
            }
            write.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        read.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        got
    };
    let (at_client, at_upstream) = tokio::join!(stream(client, 0), stream(upstream, 0xa5));
    for (got, seed) in [(at_client, 0xa5), (at_upstream, 0)] {
        assert_eq!(got.len(), OCTETS);
        let whole = got
            .iter()
            .enumerate()
            .all(|(index, octet)| *octet == ((index % 65_521) % 253) as u8 ^ seed);
        assert!(whole, "bytes differ");
    }
    let server = node.server();
    eventually("the connection has ended", || server.stats().active_connections.get() == 0).await;
    assert_eq!(server.stats().bytes_to_upstream.get(), OCTETS as u64);
    assert_eq!(server.stats().bytes_to_downstream.get(), OCTETS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_dial_goes_to_the_next_endpoint() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // A full backlog drops SYNs, so this one times out.
    let full = FullBacklog::new();
    let silent = full.address;
    let (listener, address) = endpoint().await;
    let node = Node::start(&[refused, silent, address]);
    for _ in 0..3 {
        let mut client = TcpStream::connect(node.address).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let (mut upstream, _) =
            tokio::time::timeout(Duration::from_secs(5), listener.accept()).await.unwrap().unwrap();
        assert_eq!(read_some(&mut upstream, 5).await, b"hello");
    }
    let server = node.server();
    let reasons = |address| -> Vec<_> {
        let target = server.targets().iter().find(|target| target.address() == address).unwrap();
        let failures = &target.stats().failures;
        ConnectFailure::ALL.into_iter().filter(|it| failures[it.index()].get() > 0).collect()
    };
    assert_eq!(reasons(refused), [ConnectFailure::Refused]);
    assert_eq!(reasons(silent), [ConnectFailure::TimedOut]);
    assert_eq!(reasons(address), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reachable_resets_the_client() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let node = Node::start(&[refused]);
    for endpoints in [vec![refused], vec![]] {
        node.publish(&endpoints);
        // The reset may come before connecting is seen to have succeeded.
        let ended = match TcpStream::connect(node.address).await {
            Ok(mut client) => client.read(&mut [0; 8]).await.map(|_| ()),
            Err(error) => Err(error),
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!(node.server().stats().no_endpoint.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_half_closed_connections_end_at_their_limits() {
    let (listener, address) = endpoint().await;
    let limits = |idle: Duration, half_close: Duration| Options {
        idle_timeout: Some(idle),
        half_close_timeout: Some(half_close),
        ..Options::default()
    };
    let (short, long) = (Duration::from_millis(400), Duration::from_secs(3600));
    let node = Node::start_with(&[address], SchedulerName::Rr, limits(short, long));
    let (mut client, mut upstream) = pair(&node, &listener).await;
    client.write_all(b"x").await.unwrap();
    read_some(&mut upstream, 1).await;
    let idle = Instant::now();
    assert!(client.read(&mut [0; 8]).await.is_err(), "both sides are reset");
    assert!(idle.elapsed() >= Duration::from_millis(390));
    assert!(upstream.read(&mut [0; 8]).await.is_err());

    let node = Node::start_with(&[address], SchedulerName::Rr, limits(long, short));
    let (mut client, mut upstream) = pair(&node, &listener).await;
    client.write_all(b"x").await.unwrap();
    client.shutdown().await.unwrap();
    read_some(&mut upstream, 1).await;
    let half_closed = Instant::now();
    assert!(client.read(&mut [0; 8]).await.is_err());
    assert!(half_closed.elapsed() < long / 2, "the shorter limit counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_and_tls_are_relayed_and_counted_apart() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    for (first, verdict) in [
        (&b"GET / HTTP/1.1\r\nupgrade: h2c\r\n\r\n"[..], Verdict::Tcp),
        (b"\x16\x03\x01\x00\x05hello", Verdict::Tls),
    ] {
        let mut client = TcpStream::connect(node.address).await.unwrap();
        client.write_all(first).await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        assert_eq!(read_some(&mut upstream, first.len()).await, first);
        assert_eq!(node.server().stats().connections[verdict.index()].get(), 1, "{verdict:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_tcp_is_never_taken_apart() {
    let (listener, address) = endpoint().await;
    let node = Node::start(&[address]);
    node.publish_service(service_port(&[address], ProtocolHint::Tcp));
    let (mut client, mut upstream) = pair(&node, &listener).await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(read_some(&mut upstream, 24).await, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

/// TCP_USER_TIMEOUT would take a receiver that has closed its window for a dead one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_pauses_longer_than_the_user_timeout_is_waited_for() {
    const OCTETS: usize = 32 * 1024 * 1024;
    let (listener, address) = endpoint().await;
    let dial = DialOptions { user_timeout: Duration::from_millis(200), ..DialOptions::default() };
    let options = Options { dial, ..Options::default() };
    let node = Node::start_with(&[address], SchedulerName::Rr, options);
    let (mut client, mut upstream) = pair(&node, &listener).await;
    let sent = tokio::spawn(async move {
        client.write_all(&vec![7; OCTETS]).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    // Several probes of the closed window.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut received = Vec::new();
    upstream.read_to_end(&mut received).await.expect("the connection is still there");
    assert_eq!(received.len(), OCTETS);
    sent.await.unwrap();
}
