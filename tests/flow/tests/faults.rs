//! Aim: endpoints that fail in a row are passed over and taken again, and only what an endpoint does
//! itself is held for or against it. Method: one worker, scripted endpoints; HTTP/2 on both engines.
#![allow(clippy::unwrap_used)] // Tests, though the compiler sees functions that tests call.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use socket2::SockRef;
use streamvs_accept::{Facts, Passed, Stage};
use streamvs_balance::{EjectionPolicy, Fault, Target, Verdict};
use streamvs_relay::Options;
use streamvs_relay::h2::Engine;
use streamvs_relay::tcp::{Half, Suspended};
use streamvs_table::ProtocolHint;
use streamvs_test_flow::endpoint::{EndpointServer, Script, addresses, start_all};
use streamvs_test_flow::{
    Node, SERVICE, call, eventually, grpc_request, on_both_engines, options, service_port,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATH: &str = "/test.Echo/Unary";

/// Longer than any of these tests may take.
const FOR_EVER: Duration = Duration::from_secs(600);

fn policy(time: Duration) -> EjectionPolicy {
    EjectionPolicy { consecutive_faults: 5, base_time: time, max_time: time }
}

/// Faults of the endpoint by kind, in the order of [`Fault::ALL`].
fn faults(target: &Target) -> [u64; 3] {
    target.stats().faults.each_ref().map(|count| count.get())
}

/// One fault short of an ejection.
fn almost_eject(node: &Node, target: &Target) {
    let now = Instant::now();
    for fault in 0..4 {
        node.server().fault(target, Fault::DialFailed, now + Duration::from_nanos(fault));
    }
    assert_eq!(target.consecutive_faults(), 4);
}

/// A Service of HTTP/2 with a client.
struct Scene {
    node: Node,
    client: SendRequest<Bytes>,
}

impl Scene {
    async fn start(engine: Engine, time: Duration, endpoints: &[SocketAddr]) -> Self {
        // Without early dials there are only those of streams.
        let service = service_port(endpoints, ProtocolHint::H2c);
        let node = Node::start_ejecting(policy(time), options(engine), service);
        let client = node.connect().await;
        Self { node, client }
    }

    async fn call(&self) -> String {
        let answer = call(&self.client, grpc_request(PATH), b"x").await.unwrap();
        answer.grpc_status().to_owned()
    }

    /// The statuses of calls one after the other, each as often as it came.
    async fn statuses(&self, count: usize) -> Vec<(String, usize)> {
        let mut statuses: Vec<(String, usize)> = Vec::new();
        for _ in 0..count {
            let status = self.call().await;
            match statuses.iter_mut().find(|(known, _)| *known == status) {
                Some((_, count)) => *count += 1,
                None => statuses.push((status, 1)),
            }
        }
        statuses.sort();
        statuses
    }
}

fn times(statuses: &[(&str, usize)]) -> Vec<(String, usize)> {
    statuses.iter().map(|(status, count)| ((*status).to_owned(), *count)).collect()
}

async fn nobody_listens() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn an_endpoint_that_refuses_gets_no_dial_while_it_is_ejected(engine: Engine) {
    let dead = nobody_listens().await;
    let good = start_all(2, Script::Echo).await;
    let all = [&addresses(&good)[..], &[dead]].concat();
    let scene = Scene::start(engine, FOR_EVER, &all).await;
    assert_eq!(scene.statuses(30).await, times(&[("0", 30)]), "all went on to another one");
    let target = scene.node.target(dead);
    assert!(target.is_ejected());
    assert_eq!(faults(&target), [5, 0, 0]);
    let dials = || target.stats().failures.iter().map(|count| count.get()).sum::<u64>();
    assert_eq!(dials(), 5, "and then none");
    let before = [good[0].streams(), good[1].streams()];
    scene.statuses(20).await;
    assert_eq!((dials(), faults(&target)), (5, [5, 0, 0]));
    assert_eq!(good[0].streams() - before[0], 10, "the others take turns as before");
    assert_eq!(good[1].streams() - before[1], 10);
}

async fn an_endpoint_that_was_restarted_gets_streams_again(engine: Engine) {
    let dead = nobody_listens().await;
    let good = EndpointServer::start(Script::Echo).await;
    let scene = Scene::start(engine, Duration::from_millis(200), &[good.address, dead]).await;
    let target = scene.node.target(dead);
    while target.stats().ejections.get() == 0 {
        assert_eq!(scene.call().await, "0");
    }
    let again = EndpointServer::start_at(dead, Script::Echo).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while again.streams() < 10 {
        assert!(Instant::now() < deadline, "it is never taken again");
        assert_eq!(scene.call().await, "0");
    }
    eventually("its answers count", || target.consecutive_faults() == 0).await;
    assert!(!target.is_ejected());
}

async fn an_endpoint_that_breaks_off_is_ejected(engine: Engine) {
    let breaking = EndpointServer::start(Script::BreakBefore).await;
    let good = start_all(2, Script::Echo).await;
    let all = [&addresses(&good)[..], &[breaking.address]].concat();
    let scene = Scene::start(engine, FOR_EVER, &all).await;
    assert_eq!(scene.statuses(40).await, times(&[("0", 35), ("14", 5)]));
    let target = scene.node.target(breaking.address);
    assert_eq!((faults(&target), target.is_ejected()), ([0, 5, 0], true));
}

async fn an_endpoint_that_closes_every_connection_at_once_is_ejected(engine: Engine) {
    let closing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closing.local_addr().unwrap();
    tokio::spawn(async move { while closing.accept().await.is_ok() {} });
    let good = start_all(2, Script::Echo).await;
    let all = [&addresses(&good)[..], &[address]].concat();
    let scene = Scene::start(engine, FOR_EVER, &all).await;
    let target = scene.node.target(address);
    // Nothing is sent to it, since it says nothing first: it is as good as one that refuses.
    assert_eq!(scene.statuses(40).await, times(&[("0", 40)]), "all went on to another one");
    assert_eq!((faults(&target), target.is_ejected()), ([5, 0, 0], true));
    assert_eq!(target.stats().streams.get(), 0);
}

/// A Service of one endpoint, which the test plays and which is one fault short of an ejection.
async fn one_fault_short(engine: Engine) -> (Node, SendRequest<Bytes>, TcpListener, Arc<Target>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let Scene { node, client } = Scene::start(engine, FOR_EVER, &[address]).await;
    let target = node.target(address);
    almost_eject(&node, &target);
    (node, client, listener, target)
}

/// As a server that is asked to end, with a request larger than is kept on its way.
async fn a_stream_above_the_last_one_that_cannot_be_sent_again_says_nothing(engine: Engine) {
    let (_node, client, listener, target) = one_fault_short(engine).await;
    let called =
        tokio::spawn(
            async move { call(&client, grpc_request(PATH), &vec![7; 200_000]).await.unwrap() },
        );
    let (mut upstream, _) = listener.accept().await.unwrap();
    // SETTINGS with a window of 1 MiB, and as much for the connection.
    upstream.write_all(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 16, 0, 0]).await.unwrap();
    upstream.write_all(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 16, 0, 0]).await.unwrap();
    read_some(&mut upstream, 150_000).await;
    // GOAWAY: nothing was looked at, nothing is wrong.
    upstream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let answer = called.await.unwrap();
    assert_eq!(answer.grpc_status(), "14");
    assert_eq!((faults(&target), target.consecutive_faults()), ([4, 0, 0], 4));
}

async fn a_stream_that_breaks_a_rule_says_nothing(engine: Engine) {
    let (_node, client, listener, target) = one_fault_short(engine).await;
    let called =
        tokio::spawn(async move { call(&client, grpc_request(PATH), b"x").await.unwrap() });
    let (mut upstream, _) = listener.accept().await.unwrap();
    upstream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    eventually("it is sent", || target.stats().streams.get() == 1).await;
    // HEADERS without a status (RFC 9113 section 8.3.2).
    upstream.write_all(&[0, 0, 0, 1, 4, 0, 0, 0, 1]).await.unwrap();
    let answer = called.await.unwrap();
    assert_eq!(answer.grpc_status(), "14");
    assert_eq!((faults(&target), target.consecutive_faults()), ([4, 0, 0], 4));
}

async fn unavailable_in_place_of_a_reply_ejects(engine: Engine) {
    let failing = EndpointServer::start(Script::Fail(14)).await;
    let good = EndpointServer::start(Script::Echo).await;
    let scene = Scene::start(engine, FOR_EVER, &[good.address, failing.address]).await;
    let target = scene.node.target(failing.address);
    assert_eq!(scene.statuses(30).await, times(&[("0", 25), ("14", 5)]));
    assert_eq!((faults(&target), target.is_ejected()), ([0, 0, 5], true));
}

async fn other_statuses_and_a_late_unavailable_are_answers(engine: Engine) {
    for script in [Script::Fail(13), Script::FailLate(14), Script::Echo] {
        let endpoint = EndpointServer::start(script.clone()).await;
        let good = EndpointServer::start(Script::Echo).await;
        let scene = Scene::start(engine, FOR_EVER, &[endpoint.address, good.address]).await;
        let target = scene.node.target(endpoint.address);
        almost_eject(&scene.node, &target);
        scene.statuses(20).await;
        assert_eq!(endpoint.streams(), 10, "{script:?}");
        assert_eq!((target.consecutive_faults(), target.is_ejected()), (0, false), "{script:?}");
        assert_eq!(faults(&target), [4, 0, 0], "{script:?}");
    }
}

async fn an_answer_counts_from_its_head_on(engine: Engine) {
    let endpoints = start_all(2, Script::StreamLate).await;
    let scene = Scene::start(engine, FOR_EVER, &addresses(&endpoints)).await;
    let targets = endpoints.iter().map(|endpoint| scene.node.target(endpoint.address));
    let targets: Vec<Arc<Target>> = targets.collect();
    let mut open = Vec::new();
    for _ in &targets {
        let mut client = scene.client.clone().ready().await.unwrap();
        open.push(client.send_request(grpc_request(PATH), false).unwrap());
    }
    for target in &targets {
        eventually("each has a stream", || target.active_streams() == 1).await;
        almost_eject(&scene.node, target);
    }
    for (response, request) in &mut open {
        request.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
    }
    for target in &targets {
        eventually("the head counts", || target.consecutive_faults() == 0).await;
        assert_eq!(target.active_streams(), 1, "its stream is open yet");
    }
}

async fn streams_that_are_lost_together_are_one_fault(engine: Engine) {
    let hanging = EndpointServer::start(Script::Hang).await;
    let good = EndpointServer::start(Script::Echo).await;
    let scene = Scene::start(engine, FOR_EVER, &[hanging.address, good.address]).await;
    let target = scene.node.target(hanging.address);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let client = scene.client.clone();
        calls.spawn(async move { call(&client, grpc_request(PATH), b"x").await });
    }
    eventually("half of them hang", || hanging.streams() == 20).await;
    let connections = hanging.connections();
    drop(hanging);
    while let Some(answer) = calls.join_next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(connections, 1);
    assert_eq!(target.consecutive_faults(), 1);
    assert!(!target.is_ejected());
}

async fn what_an_endpoint_declines_or_resets_says_nothing(engine: Engine) {
    for script in [Script::Refuse, Script::Reset(Reason::INTERNAL_ERROR), Script::Hang] {
        let endpoint = EndpointServer::start(script.clone()).await;
        let good = EndpointServer::start(Script::Echo).await;
        let scene = Scene::start(engine, FOR_EVER, &[endpoint.address, good.address]).await;
        let target = scene.node.target(endpoint.address);
        almost_eject(&scene.node, &target);
        let deadline = Instant::now() + Duration::from_secs(20);
        while endpoint.streams() < 10 {
            assert!(Instant::now() < deadline, "{script:?}: {} streams", endpoint.streams());
            let call = call(&scene.client, grpc_request(PATH), b"x");
            // A client that gives up is neither.
            let _ = tokio::time::timeout(Duration::from_millis(100), call).await;
        }
        assert_eq!(target.consecutive_faults(), 4, "{script:?}");
        assert_eq!(faults(&target), [4, 0, 0], "{script:?}");
    }
}

on_both_engines!(
    an_endpoint_that_refuses_gets_no_dial_while_it_is_ejected,
    an_endpoint_that_was_restarted_gets_streams_again,
    an_endpoint_that_breaks_off_is_ejected,
    an_endpoint_that_closes_every_connection_at_once_is_ejected,
    a_stream_above_the_last_one_that_cannot_be_sent_again_says_nothing,
    a_stream_that_breaks_a_rule_says_nothing,
    unavailable_in_place_of_a_reply_ejects,
    other_statuses_and_a_late_unavailable_are_answers,
    an_answer_counts_from_its_head_on,
    streams_that_are_lost_together_are_one_fault,
    what_an_endpoint_declines_or_resets_says_nothing,
);

/// A plain Service of two endpoints, of which the test plays one and nobody asks the other.
struct Plain {
    node: Node,
    listener: TcpListener,
    target: Arc<Target>,
}

impl Plain {
    async fn start(hint: ProtocolHint, relay: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = service_port(&[address], hint);
        let node = Node::start_ejecting(policy(FOR_EVER), relay, service);
        let target = node.target(address);
        Self { node, listener, target }
    }

    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.node.address).await.unwrap();
        let (upstream, _) = self.listener.accept().await.unwrap();
        (client, upstream)
    }

    async fn ended(&self) {
        let server = self.node.server();
        eventually("it ends", || server.stats().active_connections.get() == 0).await;
    }
}

async fn read_some(socket: &mut TcpStream, count: usize) {
    let mut octets = vec![0; count];
    let read = tokio::time::timeout(Duration::from_secs(5), socket.read_exact(&mut octets));
    read.await.expect("comes in time").unwrap();
}

fn reset(socket: TcpStream) {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
}

/// How a plain connection goes on after both sides are connected.
#[derive(Clone, Copy, Debug)]
enum Course {
    EndpointCloses,
    EndpointResets,
    AskedAndEndpointCloses,
    AskedAndEndpointResets,
    AskedClientEndsAndEndpointCloses,
    AskedClientEndsAndEndpointResets,
    ClientEndsAndEndpointResets,
    ClientCloses,
    ClientResets,
    AskedAndClientResets,
    AskedAndIdle,
}

/// Whether it is a fault; nothing of it is an answer.
const COURSES: [(Course, bool); 11] = [
    (Course::EndpointCloses, false),
    (Course::EndpointResets, true),
    (Course::AskedAndEndpointCloses, false),
    (Course::AskedAndEndpointResets, true),
    (Course::AskedClientEndsAndEndpointCloses, false),
    (Course::AskedClientEndsAndEndpointResets, true),
    (Course::ClientEndsAndEndpointResets, false),
    (Course::ClientCloses, false),
    (Course::ClientResets, false),
    (Course::AskedAndClientResets, false),
    (Course::AskedAndIdle, false),
];

async fn play(course: Course, mut client: TcpStream, mut upstream: TcpStream) {
    use Course::*;
    let asks = !matches!(
        course,
        EndpointCloses | EndpointResets | ClientEndsAndEndpointResets | ClientCloses | ClientResets
    );
    if asks {
        client.write_all(b"ask").await.unwrap();
        read_some(&mut upstream, 3).await;
    }
    match course {
        EndpointCloses | AskedAndEndpointCloses => {
            drop(upstream);
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        }
        EndpointResets | AskedAndEndpointResets => {
            reset(upstream);
            client.read(&mut [0; 8]).await.unwrap_err();
        }
        AskedClientEndsAndEndpointCloses => {
            client.shutdown().await.unwrap();
            assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
            drop(upstream);
            assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        }
        AskedClientEndsAndEndpointResets | ClientEndsAndEndpointResets => {
            client.shutdown().await.unwrap();
            assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
            reset(upstream);
            client.read(&mut [0; 8]).await.unwrap_err();
        }
        ClientCloses => {
            drop(client);
            assert_eq!(upstream.read(&mut [0; 8]).await.unwrap(), 0);
        }
        ClientResets | AskedAndClientResets => {
            reset(client);
            // A FIN where the protocol was not known yet, else a reset.
            assert_eq!(upstream.read(&mut [0; 8]).await.unwrap_or(0), 0);
        }
        AskedAndIdle => {
            client.read(&mut [0; 8]).await.unwrap_err();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_endpoint_does_to_a_plain_connection_is_held_against_it() {
    for hint in [ProtocolHint::Auto, ProtocolHint::Tcp] {
        for (course, is_fault) in COURSES {
            let mut relay = options(Engine::Switch);
            if matches!(course, Course::AskedAndIdle) {
                relay.idle_timeout = Some(Duration::from_millis(50));
            }
            let plain = Plain::start(hint, relay).await;
            // One fault that is there stays there: nothing of this is an answer.
            plain.node.server().fault(&plain.target, Fault::DialFailed, Instant::now());
            let (client, upstream) = plain.pair().await;
            play(course, client, upstream).await;
            plain.ended().await;
            // A connection that is reset before we have seen it accepted is a failed dial.
            let [dial_failed, lost, unavailable] = faults(&plain.target);
            let counted = (dial_failed + lost, unavailable);
            assert_eq!(counted, (1 + u64::from(is_fault), 0), "{hint:?} {course:?}");
            assert_eq!(plain.target.consecutive_faults(), 1 + u32::from(is_fault), "{course:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoints_first_octet_is_an_answer_and_no_other() {
    let greeting: [(ProtocolHint, bool); 3] = [
        (ProtocolHint::Auto, false),
        (ProtocolHint::Tcp, false),
        // Read before it is known that the connection is a plain one.
        (ProtocolHint::Auto, true),
    ];
    for (hint, server_first) in greeting {
        let plain = Plain::start(hint, options(Engine::Switch)).await;
        let (mut client, mut upstream) = plain.pair().await;
        almost_eject(&plain.node, &plain.target);
        if !server_first {
            client.write_all(b"ask").await.unwrap();
            read_some(&mut upstream, 3).await;
            assert_eq!(plain.target.consecutive_faults(), 4, "the client's octets say nothing");
        }
        upstream.write_all(b"!").await.unwrap();
        read_some(&mut client, 1).await;
        eventually("it counts while the connection is open", || {
            plain.target.consecutive_faults() == 0
        })
        .await;
        // Later octets say nothing more, and how it ends neither.
        almost_eject(&plain.node, &plain.target);
        upstream.write_all(b"!").await.unwrap();
        read_some(&mut client, 1).await;
        reset(upstream);
        plain.ended().await;
        assert_eq!(plain.target.consecutive_faults(), 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_connections_pass_over_an_endpoint_that_breaks_off_or_refuses() {
    for refuses in [false, true] {
        let bad = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [bad.local_addr().unwrap(), good.local_addr().unwrap()];
        if refuses {
            drop(bad);
        } else {
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = bad.accept().await {
                    read_some(&mut socket, 3).await;
                    reset(socket);
                }
            });
        }
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = good.accept().await {
                read_some(&mut socket, 3).await;
                socket.write_all(b"yes").await.unwrap();
            }
        });
        let service = service_port(&addresses, ProtocolHint::Tcp);
        let node = Node::start_ejecting(policy(FOR_EVER), options(Engine::Switch), service);
        let mut failed = 0;
        for _ in 0..30 {
            let mut client = TcpStream::connect(node.address).await.unwrap();
            client.write_all(b"ask").await.unwrap();
            let mut answer = Vec::new();
            // A connection that the endpoint had taken is not replayed.
            let _ = client.read_to_end(&mut answer).await;
            failed += u32::from(answer != b"yes");
        }
        let target = node.target(addresses[0]);
        assert!(target.is_ejected());
        let (of_calls, counted) = if refuses { (0, [5, 0, 0]) } else { (5, [0, 5, 0]) };
        assert_eq!((failed, faults(&target)), (of_calls, counted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_from_another_agent_says_nothing() {
    let plain = Plain::start(ProtocolHint::Tcp, options(Engine::Switch)).await;
    almost_eject(&plain.node, &plain.target);
    let (mut client, downstream) = pair().await;
    let (mut endpoint, upstream) = pair().await;
    let descriptor = |socket: TcpStream| OwnedFd::from(socket.into_std().unwrap());
    let suspended = Suspended {
        downstream: descriptor(downstream),
        upstream: descriptor(upstream),
        // As handover has it: what was written before is counted by who wrote it.
        up: Half::default(),
        down: Half::default(),
    };
    let facts =
        Facts { original_dst: SERVICE, endpoint: plain.target.address(), verdict: Verdict::Tcp };
    let stage = Stage::Plain { facts, suspended: Box::new(suspended) };
    plain.node.pass(Passed { client: "127.0.0.1:9".parse().unwrap(), stage });
    client.write_all(b"ask").await.unwrap();
    read_some(&mut endpoint, 3).await;
    reset(endpoint);
    client.read(&mut [0; 8]).await.unwrap_err();
    plain.ended().await;
    assert_eq!(plain.target.consecutive_faults(), 4);
    assert_eq!(faults(&plain.target), [4, 0, 0]);
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}
