//! Aim: what depends on how octets come and stop on real sockets: a preface in pieces, GOAWAY that
//! leaves streams to others, peers that do not read. Method: one side of the node by hand, octet by
//! octet; on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use streamvs_balance::ReplayReason;
use streamvs_relay::h2::Engine;
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, send_all, start_all};
use streamvs_test_flow::raw::{
    PREFACE, all_credit, flag, frame, header_block, kind, ok_response, read_frame,
};
use streamvs_test_flow::{Node, call, collect, eventually, grpc_request, on_both_engines};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const PATH: &str = "/test.Echo/Unary";

/// The longest that anything here may take.
const MOST: Duration = Duration::from_secs(20);

/// What a sender offers to a receiver that does not read.
const OFFERED: usize = 32 * 1024 * 1024;

/// What may be held of it between the two sockets: the window of a stream (256 KiB), what waits
/// for a socket (768 KiB or 1 MiB, by engine), and what the client's library keeps (400 KiB).
const HELD: usize = 2 * 1024 * 1024;

/// The receive buffer of who does not read; the kernel doubles it.
const RECEIVE_BUFFER: u32 = 64 * 1024;

/// What the kernel may hold between our socket and its peer's: the largest send buffer (tcp(7)),
/// and twice the receive buffer.
fn kernel_octets() -> usize {
    let wmem = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    wmem.split_whitespace().nth(2).unwrap().parse::<usize>().unwrap() + 2 * RECEIVE_BUFFER as usize
}

fn total_connections(endpoints: &[EndpointServer]) -> usize {
    endpoints.iter().map(EndpointServer::connections).sum()
}

/// A client whose preface comes in two pieces: the second when an endpoint has been dialled.
async fn connect_in_pieces(
    node: &Node,
    cut: usize,
    endpoints: &Arc<Vec<EndpointServer>>,
) -> SendRequest<Bytes> {
    let (near, mut far) = duplex(64 * 1024);
    let mut socket = node.dial_from(Ipv4Addr::LOCALHOST).await;
    socket.set_nodelay(true).unwrap();
    let endpoints = Arc::clone(endpoints);
    tokio::spawn(async move {
        let mut preface = [0; PREFACE.len()];
        far.read_exact(&mut preface).await.unwrap();
        let (first, rest) = preface.split_at(cut);
        socket.write_all(first).await.unwrap();
        eventually("an endpoint is dialled", || total_connections(&endpoints) == 1).await;
        socket.write_all(rest).await.unwrap();
        // It ends with the test.
        let _ = copy_bidirectional(&mut far, &mut socket).await;
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn preface_may_come_in_two_pieces(engine: Engine) {
    for cut in 1..PREFACE.len() {
        for count in [1, 3] {
            let endpoints = Arc::new(start_all(count, Script::Echo).await);
            let node = Node::start_engine(engine, &addresses(&endpoints));
            let client = connect_in_pieces(&node, cut, &endpoints).await;
            for _ in 0..3 {
                let answer = call(&client, grpc_request(PATH), b"whole").await.unwrap();
                assert_eq!((answer.grpc_status(), &answer.body[..]), ("0", &b"whole"[..]));
            }
            for endpoint in endpoints.iter() {
                // The socket that was dialled early serves, and its endpoint had the first turn.
                let seen = (endpoint.connections(), endpoint.streams());
                assert_eq!(seen, (1, 3 / count), "cut after {cut}, {count} endpoints");
            }
        }
    }
}

async fn stream_above_goaway_goes_to_another_endpoint(engine: Engine) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let leaving = listener.local_addr().unwrap();
    let good = EndpointServer::start(Script::Echo).await;
    let node = Node::start_engine(engine, &[leaving]);
    let client = node.connect().await;
    let calls = [(); 2].map(|()| {
        let client = client.clone();
        tokio::spawn(async move { call(&client, grpc_request(PATH), b"x").await.unwrap() })
    });
    let (mut upstream, _) = listener.accept().await.unwrap();
    upstream.set_nodelay(true).unwrap();
    upstream.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await.unwrap();
    upstream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    let mut begun = Vec::new();
    let mut ended = 0;
    while ended < 2 {
        let frame = read_frame(&mut upstream).await.unwrap();
        if frame.kind == kind::HEADERS {
            begun.push(frame.stream);
        }
        let of_stream = frame.kind == kind::HEADERS || frame.kind == kind::DATA;
        ended += usize::from(of_stream && frame.flags & flag::END_STREAM != 0);
    }
    assert_eq!(begun, [1, 3]);
    node.publish(&[leaving, good.address]);
    let last_stream = 1u32.to_be_bytes();
    let go_away = frame(kind::GOAWAY, 0, 0, &[last_stream, [0; 4]].concat());
    upstream.write_all(&go_away).await.unwrap();
    upstream.write_all(&ok_response(1)).await.unwrap();
    let mut by = Vec::new();
    for answer in calls {
        let answer = tokio::time::timeout(MOST, answer).await.unwrap().unwrap();
        assert_eq!(answer.grpc_status(), "0");
        by.push(answer.header("endpoint").to_owned());
    }
    by.sort();
    // Ours does not name itself.
    assert_eq!(by, [String::new(), good.address.to_string()]);
    assert_eq!(good.streams(), 1);
    let server = node.server();
    assert_eq!(server.stats().replays[ReplayReason::GoAway.index()].get(), 1);
    assert_eq!(server.stats().replays.iter().map(|replays| replays.get()).sum::<u64>(), 1);
    while let Ok(Ok(frame)) =
        tokio::time::timeout(Duration::from_millis(50), read_frame(&mut upstream)).await
    {
        assert_ne!(frame.kind, kind::HEADERS, "a stream after GOAWAY: {frame:?}");
    }
}

/// How much `octets` counts when it has not moved for half a second.
async fn at_rest(octets: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    loop {
        let now = octets.load(Ordering::SeqCst);
        if now == last {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A socket whose own kernel buffer is small.
fn small_socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    socket
}

/// Reads until `stream` has ended, and says how many octets of DATA it had.
async fn read_to_end(socket: &mut TcpStream, stream: u32) -> usize {
    let mut octets = 0;
    loop {
        let frame = tokio::time::timeout(MOST, read_frame(socket)).await.unwrap().unwrap();
        if frame.stream != stream {
            continue;
        }
        if frame.kind == kind::DATA {
            octets += frame.length;
        }
        if matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.flags & flag::END_STREAM != 0 {
            return octets;
        }
    }
}

async fn client_waits_for_an_endpoint_that_does_not_read(engine: Engine) {
    let listener = small_socket().listen(8).unwrap();
    let node = Node::start_engine(engine, &[listener.local_addr().unwrap()]);
    let client = node.connect().await;
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    upstream.write_all(&all_credit()).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let count = |taken| {
            counter.fetch_add(taken, Ordering::SeqCst);
        };
        send_all(&mut stream, OFFERED, count).await.unwrap();
        stream.send_data(Bytes::new(), true).unwrap();
    });
    eventually("a window is full", || sent.load(Ordering::SeqCst) >= 65_536).await;
    let taken = at_rest(&sent).await;
    let most = HELD + kernel_octets();
    assert!((65_536..=most).contains(&taken), "{taken} octets were taken, at most {most} may be");
    upstream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    assert_eq!(read_to_end(&mut upstream, 1).await, OFFERED);
    sending.await.unwrap();
    upstream.write_all(&ok_response(1)).await.unwrap();
    assert_eq!(collect(response).await.unwrap().grpc_status(), "0");
}

async fn endpoint_waits_for_a_client_that_does_not_read(engine: Engine) {
    let pouring = EndpointServer::start(Script::Pour(OFFERED)).await;
    let node = Node::start_engine(engine, &[pouring.address]);
    let mut client = small_socket().connect(node.address).await.unwrap();
    let head = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "echo.default"),
        ("content-type", "application/grpc"),
    ];
    let flags = flag::END_HEADERS | flag::END_STREAM;
    let head = frame(kind::HEADERS, flags, 1, &header_block(&head));
    client.write_all(&[&PREFACE[..], &all_credit(), &head].concat()).await.unwrap();
    let sent = pouring.octets();
    eventually("the endpoint has begun", || sent.load(Ordering::SeqCst) > 0).await;
    eventually("a window is full", || sent.load(Ordering::SeqCst) >= 65_536).await;
    let taken = at_rest(&sent).await;
    let most = HELD + kernel_octets();
    assert!((65_536..=most).contains(&taken), "{taken} octets were taken, at most {most} may be");
    assert_eq!(read_to_end(&mut client, 1).await, OFFERED);
    assert_eq!(sent.load(Ordering::SeqCst), OFFERED);
}

/// Large bodies of many calls at once, each with octets of its own, to clients that hardly read at
/// first and then all of it.
async fn large_bodies_stay_whole_while_their_receivers_are_slow(engine: Engine) {
    const CLIENTS: u32 = 12;
    const BODY: u32 = 1024 * 1024;
    let endpoints = start_all(3, Script::Echo).await;
    let node = Node::start_engine(engine, &addresses(&endpoints));
    let calls: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = node.address;
            tokio::spawn(async move {
                let socket = small_socket().connect(address).await.unwrap();
                let (send, connection) = h2::client::handshake(socket).await.unwrap();
                tokio::spawn(connection);
                let word = |place: u32| (place.wrapping_mul(2_654_435_761) ^ number).to_be_bytes();
                let body: Vec<u8> = (0..BODY / 4).flat_map(word).collect();
                let called = call(&send, grpc_request(PATH), &body);
                let answer = tokio::time::timeout(MOST, called).await.unwrap().unwrap();
                assert_eq!(answer.grpc_status(), "0");
                assert!(answer.body == body, "call {number} has got other octets");
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

on_both_engines!(
    large_bodies_stay_whole_while_their_receivers_are_slow,
    preface_may_come_in_two_pieces,
    stream_above_goaway_goes_to_another_endpoint,
    client_waits_for_an_endpoint_that_does_not_read,
    endpoint_waits_for_a_client_that_does_not_read,
);
