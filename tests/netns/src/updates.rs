//! Aim: a changed EndpointSlice is live for the next stream of every open connection, and costs
//! no call. Method: change the files under load and hold the endpoints' own counts against them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use streamvs_support::agent::Agent;
use streamvs_support::grpc::load::{Load, Running};
use streamvs_support::grpc::{Client, Kind};
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Service};
use streamvs_support::tcp::Speak;
use streamvs_support::wait::eventually;
use streamvs_support::{Family, grpc, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::scene::{
    ON_ITS_WAY, PODS, Scene, address, engines, grpc_service, needs_node, tcp_service,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A load on one connection over a Service of three gRPC pods.
struct UnderLoad {
    scene: Scene,
    endpoints: Vec<grpc::Endpoint>,
    service: Service,
    agent: Agent,
    load: Running,
}

impl UnderLoad {
    fn start(pods: &[&str]) -> Self {
        Self::start_with("switch", pods)
    }

    fn start_with(engine: &str, pods: &[&str]) -> Self {
        let scene = Scene::new();
        let endpoints = scene.grpc(Family::V4, PODS);
        let service = grpc_service(Family::V4);
        scene.publish(&service, pods);
        let agent = scene.agent(&["--http2-engine", engine]);
        let load = Load::unary(address(&service), 1).start(scene.client());
        load.advance(100);
        Self { scene, endpoints, service, agent, load }
    }

    fn write(&self, endpoints: &[Endpoint]) {
        self.scene.manifests.endpoints(&self.service, endpoints);
    }

    fn pod(&self, name: &str) -> Endpoint {
        Endpoint::ready(self.scene.lab.pod(name), Family::V4)
    }

    fn calls(&self) -> [u64; 3] {
        [0, 1, 2].map(|index| self.endpoints[index].calls())
    }

    /// Which pods get streams from now on.
    fn receiving(&self) -> Vec<&'static str> {
        let before = self.calls();
        self.load.advance(300);
        let after = self.calls();
        let grown = before.iter().zip(after).map(|(before, after)| after > *before);
        PODS.into_iter().zip(grown).filter_map(|(pod, grown)| grown.then_some(pod)).collect()
    }

    /// Waits until `list` shows these in use, and then demands that these alone get streams.
    #[track_caller]
    fn expect(&self, pods: &[&str]) {
        self.scene.wait_until_used(&self.agent, &self.service, pods);
        std::thread::sleep(ON_ITS_WAY);
        assert_eq!(self.receiving(), pods);
    }

    /// The end: not one call failed, and all were on the first connection.
    #[track_caller]
    fn finish(self) -> Agent {
        let report = self.load.stop().without_failure();
        assert_eq!((report.reconnected, report.retried), (0, 0), "one connection carried it all");
        // A worker that is off the core between a pick and its write may start that one stream
        // after the swap; none may be later than a change may take.
        let late = |of: &str| {
            let name = format!("streamvs_last_stream_after_removal_seconds_{of}");
            self.agent.metric(&name, &[]).unwrap_or(0.0)
        };
        assert!(late("sum") < 0.1, "{} streams, {} s late in all", late("count"), late("sum"));
        self.agent
    }
}

#[test]
fn an_added_endpoint_gets_streams_of_open_connections() {
    needs_node!();
    let under = UnderLoad::start(&["a", "b"]);
    assert_eq!(under.receiving(), ["a", "b"]);
    under.write(&["a", "b", "c"].map(|name| under.pod(name)));
    under.expect(&["a", "b", "c"]);
    under.finish();
}

#[test]
fn a_removed_endpoint_gets_no_stream_from_the_swap_on() {
    needs_node!();
    for engine in engines() {
        let under = UnderLoad::start_with(&engine, &PODS);
        let generation =
            |agent: &Agent| agent.metric("streamvs_table_generation", &[]).unwrap_or_default();
        let before = generation(&under.agent);
        under.write(&["a", "b"].map(|name| under.pod(name)));
        under.expect(&["a", "b"]);
        assert!(generation(&under.agent) > before);
        under.write(&["b"].map(|name| under.pod(name)));
        under.expect(&["b"]);
        under.finish();
    }
}

#[test]
fn an_endpoint_that_is_not_ready_gets_no_stream() {
    needs_node!();
    let under = UnderLoad::start(&PODS);
    under.write(&[under.pod("a"), under.pod("b").not_ready(), under.pod("c")]);
    under.expect(&["a", "c"]);
    under.write(&["a", "b", "c"].map(|name| under.pod(name)));
    under.expect(&["a", "b", "c"]);
    under.finish();
}

#[test]
fn a_terminating_endpoint_gets_none_while_another_is_ready() {
    needs_node!();
    let under = UnderLoad::start(&PODS);
    under.write(&[under.pod("a").terminating(true), under.pod("b"), under.pod("c")]);
    under.expect(&["b", "c"]);
    under.finish();
}

#[test]
fn the_last_endpoints_serve_while_they_terminate() {
    needs_node!();
    let under = UnderLoad::start(&PODS);
    // No endpoint is ready: those that still serve are used, the others never (KEP-1669).
    under.write(&[
        under.pod("a").terminating(true),
        under.pod("b").terminating(false),
        under.pod("c").not_ready(),
    ]);
    under.expect(&["a"]);
    // One is ready again: it alone.
    under.write(&[under.pod("a").terminating(true), under.pod("b")]);
    under.expect(&["b"]);
    under.finish();
}

#[test]
fn open_streams_finish_on_a_removed_endpoint() {
    needs_node!();
    let under = UnderLoad::start(&["c"]);
    let target = address(&under.service);
    under.scene.client().block_on(|| async {
        let client = Client::connect(target).await.unwrap();
        let mut open = client.open(Kind::Bidi).await.unwrap();
        open.send(b"before").await.unwrap();
        assert_eq!(open.next().await.unwrap().unwrap(), "before");
        assert_eq!(open.endpoint().await.unwrap(), "c");

        under.write(&["a", "b"].map(|name| under.pod(name)));
        under.expect(&["a", "b"]);
        // As a pod that was asked to end does: it waits for its streams.
        under.endpoints[2].drain();
        for round in 0..50_u8 {
            open.send(&[round]).await.unwrap();
            assert_eq!(open.next().await.unwrap().unwrap(), [round].as_slice());
        }
        // New calls on the very same connection go elsewhere meanwhile.
        assert_ne!(client.ask(Kind::Unary).await.unwrap().endpoint, "c");
        open.end().unwrap();
        assert_eq!(open.next().await.unwrap(), None);
        assert_eq!(open.finish().await.unwrap(), "c");
    });
    under.finish();
}

#[test]
fn a_rolling_replacement_of_all_pods_fails_no_call() {
    needs_node!();
    for engine in engines() {
        replace_all_pods(&engine);
    }
}

fn replace_all_pods(engine: &str) {
    let old = ["a", "b", "c"];
    let new = ["d", "e", "f"];
    let scene = Scene::of(Lab::builder().pod("client").pods(old).pods(new));
    let service = grpc_service(Family::V4);
    let mut serving: Vec<(&str, grpc::Endpoint)> =
        old.into_iter().zip(scene.grpc(Family::V4, old)).collect();
    scene.publish(&service, &old);
    let agent = scene.agent(&["--http2-engine", engine]);
    let load = Load::unary(address(&service), 3).start(scene.client());
    load.advance(100);

    for name in new {
        let endpoint = scene.grpc(Family::V4, [name]).remove(0);
        serving.push((name, endpoint));
        // The new pod is ready, the oldest terminates: as a Deployment does it, one slice at a time.
        let (leaving, endpoint) = serving.remove(0);
        let mut slice: Vec<Endpoint> = serving
            .iter()
            .map(|(name, _)| Endpoint::ready(scene.lab.pod(name), Family::V4))
            .collect();
        let used: Vec<&str> = serving.iter().map(|(name, _)| *name).collect();
        slice.push(Endpoint::ready(scene.lab.pod(leaving), Family::V4).terminating(true));
        scene.manifests.endpoints(&service, &slice);
        scene.wait_until_used(&agent, &service, &used);
        endpoint.drain();
        load.advance(300);
        slice.pop();
        scene.manifests.endpoints(&service, &slice);
        eventually("its streams have ended", PATIENCE, || endpoint.active() == 0);
        drop(endpoint);
        load.advance(300);
    }
    let report = load.stop().without_failure();
    assert_eq!((report.reconnected, report.retried), (0, 0), "clients noticed nothing");
    assert!(new.iter().all(|name| report.of(name) > 0), "{:?}", report.calls);
}

#[test]
fn a_change_is_live_within_a_tenth_of_a_second() {
    needs_node!();
    let under = UnderLoad::start(&["a"]);
    let mut waits = Vec::new();
    for round in 0..10 {
        let (name, index) = [("b", 1), ("a", 0)][round % 2];
        let before = under.endpoints[index].calls();
        let start = Instant::now();
        under.write(&[under.pod(name)]);
        while under.endpoints[index].calls() == before {
            assert!(start.elapsed() < PATIENCE, "never live");
            std::thread::sleep(Duration::from_millis(1));
        }
        waits.push(start.elapsed());
        under.scene.wait_until_used(&under.agent, &under.service, &[name]);
        std::thread::sleep(ON_ITS_WAY);
    }
    waits.sort();
    println!("file renamed to first stream there: {waits:?}");
    // The fastest, as other tests may have the machine for a while.
    assert!(waits[0] < Duration::from_millis(100), "{waits:?}");
    under.finish();
}

#[test]
fn without_endpoints_calls_are_refused_and_told_why() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, ["a"]);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &["a"]);
    let agent = scene.agent(&[]);
    let target = address(&service);
    scene.client().block_on(|| async {
        let client = Client::connect(target).await.unwrap();
        assert_eq!(client.ask(Kind::Unary).await.unwrap().endpoint, "a");

        scene.publish(&service, &[]);
        scene.wait_until_used(&agent, &service, &[]);
        // On the open connection: a gRPC answer of our own, at once.
        let start = Instant::now();
        let refused = client.ask(Kind::Unary).await.unwrap_err().to_string();
        assert!(refused.starts_with("grpc-status 14: "), "{refused}");
        assert!(refused.contains("default/echo"), "it names the Service: {refused}");
        assert!(start.elapsed() < Duration::from_secs(1));

        scene.publish(&service, &["a"]);
        scene.wait_until_used(&agent, &service, &["a"]);
        assert_eq!(client.ask(Kind::Unary).await.unwrap().endpoint, "a", "the same connection");
    });

    // A new connection: refused by the kernel, not accepted and dropped.
    scene.publish(&service, &[]);
    let refused = || {
        scene.client().run(|| {
            let start = Instant::now();
            let connected = std::net::TcpStream::connect_timeout(&target, PATIENCE);
            (connected.map(drop).map_err(|error| error.kind()), start.elapsed())
        })
    };
    eventually("new connections are refused", PATIENCE, || {
        refused().0 == Err(std::io::ErrorKind::ConnectionRefused)
    });
    let (result, elapsed) = refused();
    assert_eq!(result, Err(std::io::ErrorKind::ConnectionRefused));
    assert!(elapsed < PATIENCE, "{elapsed:?}");
}

/// The ghost of the article: with kernel IPVS, a client that came back from a source port used
/// before was sent to a pod that no longer existed, for the old entry was still there.
#[test]
fn a_reused_source_port_never_reaches_a_removed_pod_over_tcp() {
    needs_node!();
    let scene = Scene::new();
    let service = tcp_service(Family::V4);
    // All three go on listening: whoever has the address now must not be reached.
    let endpoints = scene.tcp(Family::V4, Speak::Echo, PODS);
    scene.publish(&service, &["a"]);
    let agent = scene.agent(&[]);
    let source = scene.client().ip(Family::V4);
    let target = address(&service);

    for round in 0..30 {
        let index = round % 3;
        scene.publish(&service, &[PODS[index]]);
        scene.wait_until_used(&agent, &service, &[PODS[index]]);
        let before: Vec<u64> = endpoints.iter().map(tcp::Endpoint::connections).collect();
        for port in 40_000..40_004 {
            let source = SocketAddr::new(source, port);
            let name = scene.client().block_on(|| ask_from(source, target));
            assert_eq!(name, PODS[index], "round {round}, source port {port}");
        }
        for (other, endpoint) in endpoints.iter().enumerate() {
            let wanted = before[other] + if other == index { 4 } else { 0 };
            assert_eq!(endpoint.connections(), wanted, "round {round}, pod {}", PODS[other]);
        }
    }
}

/// Connects from a source address, asks who answers, and breaks off, so that the source port is
/// free again at once.
async fn ask_from(source: SocketAddr, target: SocketAddr) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(source).unwrap();
    let mut socket = tokio::time::timeout(PATIENCE, socket.connect(target)).await.unwrap().unwrap();
    socket.write_all(b"?").await.unwrap();
    let mut answer = [0; 3];
    socket.read_exact(&mut answer).await.unwrap();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    char::from(answer[0]).to_string()
}

#[test]
fn a_reused_source_port_never_reaches_a_removed_pod_over_grpc() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &["a"]);
    let agent = scene.agent(&[]);
    let source = scene.client().ip(Family::V4);
    let target = address(&service);

    for round in 0..15 {
        let index = round % 3;
        scene.publish(&service, &[PODS[index]]);
        scene.wait_until_used(&agent, &service, &[PODS[index]]);
        let before: Vec<u64> = endpoints.iter().map(grpc::Endpoint::calls).collect();
        for port in 41_000..41_003 {
            let source = SocketAddr::new(source, port);
            scene.client().block_on(|| async {
                let client = connect_again(source, target).await;
                for _ in 0..3 {
                    assert_eq!(client.ask(Kind::Unary).await.unwrap().endpoint, PODS[index]);
                }
            });
        }
        for (other, endpoint) in endpoints.iter().enumerate() {
            let wanted = before[other] + if other == index { 9 } else { 0 };
            assert_eq!(endpoint.calls(), wanted, "round {round}, pod {}", PODS[other]);
        }
    }
}

/// Connects from a source port that the last connection may still be closing.
async fn connect_again(source: SocketAddr, target: SocketAddr) -> Client {
    let start = Instant::now();
    loop {
        match Client::connect_from(source, target).await {
            Ok(client) => return client,
            Err(failure) if start.elapsed() > PATIENCE => panic!("{source}: {failure}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
