//! Aim: what a limit keeps out is told so in its protocol's words and counted, and nothing else
//! notices. Method: one worker with small limits, clients that reach them; on both engines where
//! streams are concerned.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use streamvs_accept::RefusalReason;
use streamvs_balance::{ConnectionLimit, StreamLimit};
use streamvs_relay::connect::DialOptions;
use streamvs_relay::h2::Engine;
use streamvs_relay::{ClientLimits, Options, Shed};
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::raw::{PREFACE, flag, frame, header_block, kind, read_frame};
use streamvs_test_flow::{Limits, Node, call, eventually, grpc_request, on_both_engines, options};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const PATH: &str = "/test.Echo/Unary";

/// The longest that anything here may take.
const MOST: Duration = Duration::from_secs(40);

/// A client from there is told by a reset, as soon as it is connected or a moment later.
async fn assert_reset(node: &Node, client: Ipv4Addr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    let told = async {
        let mut socket = socket.connect(node.address).await?;
        socket.read(&mut [0; 1]).await
    };
    let end = tokio::time::timeout(MOST, told).await.expect("is told");
    assert_eq!(end.expect_err("nobody serves it").kind(), ErrorKind::ConnectionReset);
}

fn limited_streams(node: &Node, limit: StreamLimit) -> u64 {
    node.server().stats().limited_streams[limit.index()].get()
}

fn limited_connections(node: &Node, limit: ConnectionLimit) -> u64 {
    node.server().stats().limited_connections[limit.index()].get()
}

async fn assert_refused(client: &SendRequest<Bytes>) {
    let error = call(client, grpc_request(PATH), b"x").await.expect_err("there is no room");
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
}

async fn assert_served(client: &SendRequest<Bytes>) {
    let answer = call(client, grpc_request(PATH), b"x").await.unwrap();
    assert_eq!((answer.grpc_status(), &answer.body[..]), ("0", &b"x"[..]));
}

async fn short_of_memory_new_connections_are_refused_then_new_streams(engine: Engine) {
    let endpoints = start_all(2, Script::Stream).await;
    let relay = options(engine);
    let pressure = relay.pressure.clone();
    let node = Node::start_limited(&addresses(&endpoints), relay, Limits::default());
    let client = node.connect().await;
    let (response, mut stream) =
        client.clone().ready().await.unwrap().send_request(grpc_request(PATH), false).unwrap();
    stream.send_data(Bytes::from_static(b"one"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");

    pressure.set(Shed::Bypass);
    assert_served(&node.connect().await).await;
    pressure.set(Shed::Connections);
    for _ in 0..3 {
        assert_reset(&node, Ipv4Addr::LOCALHOST).await;
    }
    assert_eq!(node.refusals(), [RefusalReason::Memory; 3]);
    assert_served(&client).await;
    let before: usize = endpoints.iter().map(EndpointServer::streams).sum();
    pressure.set(Shed::Streams);
    for _ in 0..5 {
        assert_refused(&client).await;
    }
    assert_eq!(limited_streams(&node, StreamLimit::Memory), 5);
    let after: usize = endpoints.iter().map(EndpointServer::streams).sum();
    assert_eq!(before, after, "no endpoint has heard of them");
    // What has begun goes on.
    stream.send_data(Bytes::from_static(b"two"), true).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "two");
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");

    pressure.set(Shed::Nothing);
    assert_served(&client).await;
    assert_served(&node.connect().await).await;
    let counts = limited_streams(&node, StreamLimit::Client);
    assert_eq!((counts, node.refusals().len()), (0, 3));
}

async fn streams_of_a_client_count_on_all_its_connections(engine: Engine) {
    let hanging = EndpointServer::start(Script::Hang).await;
    let clients = ClientLimits { connections: None, streams: Some(3) };
    let limits = Limits { clients: Some(clients), ..Limits::default() };
    let node = Node::start_limited(&[hanging.address], options(engine), limits);
    let [one, two] = [node.connect().await, node.connect().await];
    let mut open = Vec::new();
    for client in [&one, &one, &two] {
        let mut client = client.clone().ready().await.unwrap();
        open.push(client.send_request(grpc_request(PATH), false).unwrap());
        eventually("it is open", || hanging.streams() == open.len()).await;
    }
    assert_refused(&one).await;
    assert_refused(&two).await;
    let other = node.connect_from(Ipv4Addr::new(127, 0, 0, 9)).await;
    let mut other = other.ready().await.unwrap();
    let _open = other.send_request(grpc_request(PATH), false).unwrap();
    eventually("another client has a count of its own", || hanging.streams() == 4).await;
    assert_eq!(limited_streams(&node, StreamLimit::Client), 2);

    let (_response, mut stream) = open.pop().unwrap();
    stream.send_reset(Reason::CANCEL);
    eventually("one has ended", || hanging.cancelled() == 1).await;
    let mut again = one.clone().ready().await.unwrap();
    let _again = again.send_request(grpc_request(PATH), false).unwrap();
    eventually("another takes its place", || hanging.streams() == 5).await;
    assert_eq!(limited_streams(&node, StreamLimit::Client), 2);
}

async fn upstream_connections_take_descriptors_too(engine: Engine) {
    for (count, has_room) in [(1, true), (4, false)] {
        let endpoints = start_all(count, Script::Echo).await;
        let limits = Limits { max_descriptors: 7, ..Limits::default() };
        let node = Node::start_limited(&addresses(&endpoints), options(engine), limits);
        let client = node.connect().await;
        for _ in 0..4 {
            assert_served(&client).await;
        }
        if has_room {
            assert_served(&node.connect().await).await;
            assert_eq!(node.refusals(), []);
        } else {
            assert_reset(&node, Ipv4Addr::LOCALHOST).await;
            assert_eq!(node.refusals(), [RefusalReason::Limit]);
        }
        assert_served(&client).await;
    }
}

/// What a client hears last.
async fn last_frame(mut socket: TcpStream) -> Option<u8> {
    let mut last = None;
    while let Ok(frame) = tokio::time::timeout(MOST, read_frame(&mut socket)).await.unwrap() {
        last = Some(frame.kind);
    }
    last
}

async fn a_client_that_never_reads_is_given_up(engine: Engine) {
    let endpoint = EndpointServer::start(Script::Pour(64 << 20)).await;
    let dial = DialOptions { user_timeout: Duration::from_millis(500), ..options(engine).dial };
    let node = Node::start_limited(
        &[endpoint.address],
        Options { dial, ..options(engine) },
        Limits::default(),
    );
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    let mut client = socket.connect(node.address).await.unwrap();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "echo.default"),
        ("content-type", "application/grpc"),
    ];
    let head = header_block(&fields);
    client.write_all(PREFACE).await.unwrap();
    client.write_all(&streamvs_test_flow::raw::all_credit()).await.unwrap();
    let flags = flag::END_HEADERS | flag::END_STREAM;
    client.write_all(&frame(kind::HEADERS, flags, 1, &head)).await.unwrap();
    let start = Instant::now();
    while limited_connections(&node, ConnectionLimit::Stalled) == 0 {
        assert!(start.elapsed() < MOST, "it waits for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("its stream has ended", || node.target(endpoint.address).outstanding() == 0).await;
    drop(client);
}

on_both_engines!(
    short_of_memory_new_connections_are_refused_then_new_streams,
    streams_of_a_client_count_on_all_its_connections,
    upstream_connections_take_descriptors_too,
    a_client_that_never_reads_is_given_up,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_and_a_flood_are_counted_apart() {
    let endpoint = EndpointServer::start(Script::Echo).await;
    let node = Node::start(&[endpoint.address]);
    let mut silent = node.dial_from(Ipv4Addr::LOCALHOST).await;
    silent.write_all(PREFACE).await.unwrap();
    let mut slow = node.dial_from(Ipv4Addr::LOCALHOST).await;
    slow.write_all(PREFACE).await.unwrap();
    slow.write_all(&frame(kind::SETTINGS, 0, 0, &[])).await.unwrap();
    slow.write_all(&frame(kind::HEADERS, flag::END_HEADERS, 1, &[0; 100])[..60]).await.unwrap();
    let mut flooding = node.dial_from(Ipv4Addr::LOCALHOST).await;
    flooding.write_all(PREFACE).await.unwrap();
    flooding.write_all(&frame(kind::SETTINGS, 0, 0, &[]).repeat(10_000)).await.unwrap();
    assert_eq!(last_frame(flooding).await, Some(kind::GOAWAY));
    eventually("is counted", || limited_connections(&node, ConnectionLimit::Flood) == 1).await;
    assert_eq!(limited_connections(&node, ConnectionLimit::Slow), 0);
    assert_eq!(last_frame(slow).await, Some(kind::GOAWAY));
    assert_eq!(last_frame(silent).await, Some(kind::GOAWAY));
    eventually("both are counted", || limited_connections(&node, ConnectionLimit::Slow) == 2).await;
    assert_eq!(limited_connections(&node, ConnectionLimit::Flood), 1);
    assert_served(&node.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_as_many_connections_as_it_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clients = ClientLimits { connections: Some(2), streams: None };
    let limits = Limits { clients: Some(clients), ..Limits::default() };
    let endpoints = [listener.local_addr().unwrap()];
    let node = Node::start_limited(&endpoints, options(Engine::default()), limits);
    let greedy = Ipv4Addr::new(127, 0, 0, 5);
    let mut open = Vec::new();
    for client in [greedy, greedy, Ipv4Addr::new(127, 0, 0, 6)] {
        let mut socket = node.dial_from(client).await;
        socket.write_all(b"plain").await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut heard = [0; 5];
        upstream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"plain");
        open.push((socket, upstream));
    }
    for _ in 0..2 {
        assert_reset(&node, greedy).await;
    }
    assert_eq!(node.refusals(), [RefusalReason::ClientLimit; 2]);
    open.swap_remove(0);
    let active = || node.server().stats().active_connections.get();
    eventually("one has ended", || active() == 2).await;
    let mut socket = node.dial_from(greedy).await;
    socket.write_all(b"again").await.unwrap();
    listener.accept().await.unwrap();
    assert_eq!(node.refusals().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preface_that_is_not_ended_goes_to_the_endpoint_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node = Node::start(&[listener.local_addr().unwrap()]);
    let start = Instant::now();
    let mut client = node.dial_from(Ipv4Addr::LOCALHOST).await;
    client.write_all(&PREFACE[..7]).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut heard = [0; 7];
    tokio::time::timeout(MOST, upstream.read_exact(&mut heard)).await.expect("in time").unwrap();
    assert_eq!(heard, PREFACE[..7]);
    assert!(start.elapsed() >= Duration::from_secs(9), "it had time to go on");
    // From here on it is a plain connection, whatever follows.
    client.write_all(&PREFACE[7..]).await.unwrap();
    let mut rest = [0; PREFACE.len() - 7];
    upstream.read_exact(&mut rest).await.unwrap();
    assert_eq!(rest, PREFACE[7..]);
    upstream.write_all(b"what?").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"what?");
}
