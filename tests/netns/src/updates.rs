//! Aim: a changed EndpointSlice is live for the next stream of every open connection, and costs
//! no call. Method: change the files under load and hold the endpoints' own counts against them.

use std::collections::VecDeque;
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
    ON_ITS_WAY, PODS, Scene, address_of, dual_stack_grpc_service, dual_stack_tcp_service, engines,
    needs_node,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A load on one connection in each family, over a Service of both with three gRPC pods.
struct UnderLoad<'a> {
    scene: &'a Scene,
    service: Service,
    agent: Agent,
    lines: [Line; 2],
}

/// What runs in one family.
struct Line {
    family: Family,
    endpoints: Vec<grpc::Endpoint>,
    load: Running,
}

/// Does a check with each engine, all on one node, while calls go to `pods`. Not one may fail.
fn under_load(pods: &[&str], check: impl Fn(&UnderLoad<'_>)) {
    let scene = Scene::new();
    for engine in engines() {
        println!("{engine}");
        let under = UnderLoad::start(&scene, &engine, pods);
        check(&under);
        under.finish();
    }
}

impl<'a> UnderLoad<'a> {
    fn start(scene: &'a Scene, engine: &str, pods: &[&str]) -> Self {
        let service = dual_stack_grpc_service();
        let endpoints = Family::BOTH.map(|family| (family, scene.grpc(family, PODS)));
        scene.publish(&service, pods);
        let agent = scene.agent(&["--http2-engine", engine]);
        let lines = endpoints.map(|(family, endpoints)| {
            let load = Load::unary(address_of(&service, family), 1).start(scene.client());
            load.advance(100);
            Line { family, endpoints, load }
        });
        Self { scene, service, agent, lines }
    }

    /// Writes the slices of both families, each with the endpoints that `slice` makes of its pods.
    fn write(&self, slice: impl Fn(&dyn Fn(&str) -> Endpoint) -> Vec<Endpoint>) {
        let of_family = |family| slice(&|pod| Endpoint::ready(self.scene.lab.pod(pod), family));
        self.scene.manifests.endpoints(&self.service, &Family::BOTH.map(of_family).concat());
    }

    /// The same with these pods, all of them ready.
    fn write_ready(&self, pods: &[&str]) {
        self.write(|ready| pods.iter().map(|pod| ready(pod)).collect());
    }

    /// Demands that these pods and no others get streams from now on, in each family.
    #[track_caller]
    fn expect_receiving(&self, pods: &[&str]) {
        let counts =
            |line: &Line| line.endpoints.iter().map(grpc::Endpoint::calls).collect::<Vec<_>>();
        let before = self.lines.each_ref().map(counts);
        for line in &self.lines {
            line.load.advance(300);
        }
        for (line, before) in self.lines.iter().zip(before) {
            let after = counts(line);
            let grown = PODS.into_iter().zip(before.into_iter().zip(after));
            let receiving: Vec<&str> = grown
                .filter_map(|(pod, (before, after))| (after > before).then_some(pod))
                .collect();
            assert_eq!(receiving, pods, "{:?}", line.family);
        }
    }

    /// Waits until `list` shows these in use, and then demands that these alone get streams.
    #[track_caller]
    fn expect(&self, pods: &[&str]) {
        self.scene.wait_until_used(&self.agent, &self.service, pods);
        std::thread::sleep(ON_ITS_WAY);
        self.expect_receiving(pods);
    }

    /// The end: not one call failed, and all of a family were on its first connection.
    #[track_caller]
    fn finish(self) {
        for line in self.lines {
            let report = line.load.stop().without_failure();
            let again = (report.reconnected, report.retried);
            assert_eq!(again, (0, 0), "{:?}: one connection carried it all", line.family);
        }
        // A worker that is off the core between a pick and its write may start that one stream
        // after the swap; none may be later than a change may take.
        let late = |of: &str| {
            let name = format!("streamvs_last_stream_after_removal_seconds_{of}");
            self.agent.metric(&name, &[]).unwrap_or(0.0)
        };
        assert!(late("sum") < 0.1, "{} streams, {} s late in all", late("count"), late("sum"));
    }
}

#[test]
fn an_added_endpoint_gets_streams_of_open_connections() {
    needs_node!();
    under_load(&["a", "b"], |under| {
        under.expect_receiving(&["a", "b"]);
        under.write_ready(&["a", "b", "c"]);
        under.expect(&["a", "b", "c"]);
    });
}

#[test]
fn a_removed_endpoint_gets_no_stream_from_the_swap_on() {
    needs_node!();
    under_load(&PODS, |under| {
        let generation =
            || under.agent.metric("streamvs_table_generation", &[]).unwrap_or_default();
        let before = generation();
        under.write_ready(&["a", "b"]);
        under.expect(&["a", "b"]);
        assert!(generation() > before);
        under.write_ready(&["b"]);
        under.expect(&["b"]);
    });
}

#[test]
fn an_endpoint_that_is_not_ready_gets_no_stream() {
    needs_node!();
    under_load(&PODS, |under| {
        under.write(|pod| vec![pod("a"), pod("b").not_ready(), pod("c")]);
        under.expect(&["a", "c"]);
        under.write_ready(&["a", "b", "c"]);
        under.expect(&["a", "b", "c"]);
    });
}

#[test]
fn a_terminating_endpoint_gets_none_while_another_is_ready() {
    needs_node!();
    under_load(&PODS, |under| {
        under.write(|pod| vec![pod("a").terminating(true), pod("b"), pod("c")]);
        under.expect(&["b", "c"]);
    });
}

#[test]
fn the_last_endpoints_serve_while_they_terminate() {
    needs_node!();
    under_load(&PODS, |under| {
        // No endpoint is ready: those that still serve are used, the others never (KEP-1669).
        under.write(|pod| {
            vec![pod("a").terminating(true), pod("b").terminating(false), pod("c").not_ready()]
        });
        under.expect(&["a"]);
        // One is ready again: it alone.
        under.write(|pod| vec![pod("a").terminating(true), pod("b")]);
        under.expect(&["b"]);
    });
}

#[test]
fn open_streams_finish_on_a_removed_endpoint() {
    needs_node!();
    under_load(&["c"], |under| {
        under.scene.client().block_on(|| async {
            let mut clients = Vec::new();
            for line in &under.lines {
                let target = address_of(&under.service, line.family);
                let client = Client::connect(target).await.unwrap();
                let mut open = client.open(Kind::Bidi).await.unwrap();
                open.send(b"before").await.unwrap();
                assert_eq!(open.next().await.unwrap().unwrap(), "before");
                assert_eq!(open.endpoint().await.unwrap(), "c");
                clients.push((client, open));
            }

            under.write_ready(&["a", "b"]);
            under.expect(&["a", "b"]);
            // As a pod that was asked to end does: it waits for its streams.
            for line in &under.lines {
                line.endpoints[2].drain();
            }
            for (client, mut open) in clients {
                for round in 0..50_u8 {
                    open.send(&[round]).await.unwrap();
                    assert_eq!(open.next().await.unwrap().unwrap(), [round].as_slice());
                }
                // New calls on the very same connection go elsewhere meanwhile.
                assert_ne!(client.ask(Kind::Unary).await.unwrap().endpoint, "c");
                open.end().unwrap();
                assert_eq!(open.next().await.unwrap(), None);
                assert_eq!(open.finish().await.unwrap(), "c");
            }
        });
    });
}

#[test]
fn a_rolling_replacement_of_all_pods_fails_no_call() {
    needs_node!();
    let old = ["a", "b", "c"];
    let new = ["d", "e", "f"];
    let scene = Scene::of(Lab::builder().pod("client").pods(old).pods(new));
    for engine in engines() {
        println!("{engine}");
        replace_all_pods(&scene, &engine, old, new);
    }
}

fn replace_all_pods<'a>(scene: &Scene, engine: &str, old: [&'a str; 3], new: [&'a str; 3]) {
    let service = dual_stack_grpc_service();
    let serve =
        |pod: &'a str| (pod, Family::BOTH.map(|family| scene.grpc(family, [pod]).remove(0)));
    let mut serving = VecDeque::from(old.map(serve));
    scene.publish(&service, &old);
    let agent = scene.agent(&["--http2-engine", engine]);
    let loads = Family::BOTH
        .map(|family| Load::unary(address_of(&service, family), 3).start(scene.client()));
    let advance = |calls| loads.iter().for_each(|load| load.advance(calls));
    advance(100);

    for pod in new {
        serving.push_back(serve(pod));
        // The new pod is ready, the oldest terminates: as a Deployment does it, one slice at a time.
        let (leaving, endpoints) = serving.pop_front().expect("three serve");
        let used: Vec<&str> = serving.iter().map(|(pod, _)| *pod).collect();
        let terminating = scene.ready(&service, &[leaving]).into_iter();
        let mut slices = scene.ready(&service, &used);
        slices.extend(terminating.map(|endpoint| endpoint.terminating(true)));
        scene.manifests.endpoints(&service, &slices);
        scene.wait_until_used(&agent, &service, &used);
        for endpoint in &endpoints {
            endpoint.drain();
        }
        advance(300);
        scene.publish(&service, &used);
        eventually("its streams have ended", PATIENCE, || {
            endpoints.iter().all(|endpoint| endpoint.active() == 0)
        });
        drop(endpoints);
        advance(300);
    }
    for load in loads {
        let report = load.stop().without_failure();
        assert_eq!((report.reconnected, report.retried), (0, 0), "clients noticed nothing");
        assert!(new.iter().all(|pod| report.of(pod) > 0), "{:?}", report.calls);
    }
}

/// The contract is 100 ms from the renamed file to the first stream at the new endpoint. Half of
/// ten changes are to keep it, in one of a few tries, as others may have the machine for a while.
/// So nothing on the way waits that long each time, be it a timer or a lock, and nothing polls much
/// less often; that no single change is ever later is not shown.
#[test]
fn a_change_is_live_within_a_tenth_of_a_second() {
    needs_node!();
    under_load(&["a"], |under| {
        let mut medians = Vec::new();
        for _ in 0..5 {
            let mut waits: Vec<Duration> =
                (0..10).map(|round| time_of_a_change(under, ["b", "a"][round % 2])).collect();
            waits.sort();
            println!("file renamed to first stream there: median {:?} of {waits:?}", waits[5]);
            if waits[5] < Duration::from_millis(100) {
                return;
            }
            medians.push(waits[5]);
        }
        panic!("medians of ten changes each: {medians:?}");
    });
}

/// Makes this pod the only one and takes the time until it has got a stream in each family.
fn time_of_a_change(under: &UnderLoad<'_>, pod: &str) -> Duration {
    let endpoint = |line: &'_ Line| -> u64 {
        let index = PODS.iter().position(|each| *each == pod).expect("it is one of the pods");
        line.endpoints[index].calls()
    };
    let before = under.lines.each_ref().map(endpoint);
    let start = Instant::now();
    under.write_ready(&[pod]);
    while under.lines.each_ref().map(endpoint).iter().zip(before).any(|(now, then)| *now == then) {
        assert!(start.elapsed() < PATIENCE, "never live");
        std::thread::sleep(Duration::from_millis(1));
    }
    let elapsed = start.elapsed();
    under.scene.wait_until_used(&under.agent, &under.service, &[pod]);
    std::thread::sleep(ON_ITS_WAY);
    elapsed
}

#[test]
fn without_endpoints_calls_are_refused_and_told_why() {
    needs_node!();
    let scene = Scene::new();
    scene.route_everywhere();
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family, ["a"]));
    let service = dual_stack_grpc_service();
    for engine in engines() {
        println!("{engine}");
        scene.publish(&service, &["a"]);
        let agent = scene.agent(&["--http2-engine", &engine]);
        refuse_and_tell_why(&scene, &agent, &service);
    }
}

fn refuse_and_tell_why(scene: &Scene, agent: &Agent, service: &Service) {
    let publish = |pods: &[&str]| {
        scene.publish(service, pods);
        scene.wait_until_used(agent, service, pods);
    };
    let targets = Family::BOTH.map(|family| address_of(service, family));
    scene.client().block_on(|| async {
        let mut clients = Vec::new();
        for target in targets {
            let client = Client::connect(target).await.unwrap();
            assert_eq!(client.ask(Kind::Unary).await.unwrap().endpoint, "a");
            clients.push(client);
        }

        publish(&[]);
        for client in &clients {
            // On the open connection: a gRPC answer of our own, at once.
            let start = Instant::now();
            let refused = client.ask(Kind::Unary).await.unwrap_err().to_string();
            assert!(refused.starts_with("grpc-status 14: "), "{refused}");
            assert!(refused.contains("default/echo"), "it names the Service: {refused}");
            assert!(start.elapsed() < Duration::from_secs(1));
        }

        publish(&["a"]);
        for client in &clients {
            let again = client.ask(Kind::Unary).await.unwrap().endpoint;
            assert_eq!(again, "a", "the same connection");
        }
    });

    // A new connection: refused by the kernel, not accepted and dropped.
    publish(&[]);
    for target in targets {
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
}

/// The ghost of the article: with kernel IPVS, a client that came back from a source port used
/// before was sent to a pod that no longer existed, for the old entry was still there.
#[test]
fn a_reused_source_port_never_reaches_a_removed_pod_over_tcp() {
    needs_node!();
    let scene = Scene::new();
    let service = dual_stack_tcp_service();
    // All three go on listening: whoever has the address now must not be reached.
    let endpoints = Family::BOTH.map(|family| (family, scene.tcp(family, Speak::Echo, PODS)));
    scene.publish(&service, &["a"]);
    let agent = scene.agent(&[]);

    for round in 0..30 {
        let index = round % 3;
        scene.publish(&service, &[PODS[index]]);
        scene.wait_until_used(&agent, &service, &[PODS[index]]);
        for (family, endpoints) in &endpoints {
            let target = address_of(&service, *family);
            let before: Vec<u64> = endpoints.iter().map(tcp::Endpoint::connections).collect();
            for port in 40_000..40_004 {
                let source = scene.client().at(*family, port);
                let name = scene.client().block_on(|| ask_from(source, target));
                assert_eq!(name, PODS[index], "round {round}, from {source}");
            }
            for (other, endpoint) in endpoints.iter().enumerate() {
                let wanted = before[other] + if other == index { 4 } else { 0 };
                let found = endpoint.connections();
                assert_eq!(found, wanted, "{family:?}, round {round}, pod {}", PODS[other]);
            }
        }
    }
}

/// Connects from a source address, asks who answers, and breaks off, so that the source port is
/// free again at once.
async fn ask_from(source: SocketAddr, target: SocketAddr) -> String {
    let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
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
    let service = dual_stack_grpc_service();
    let endpoints = Family::BOTH.map(|family| (family, scene.grpc(family, PODS)));
    // Other ports with each agent: what its predecessor left open is reset when it is gone.
    for (engine, first_port) in engines().iter().zip((41_000..).step_by(10)) {
        println!("{engine}");
        scene.publish(&service, &["a"]);
        let agent = scene.agent(&["--http2-engine", engine]);
        for round in 0..15 {
            let index = round % 3;
            scene.publish(&service, &[PODS[index]]);
            scene.wait_until_used(&agent, &service, &[PODS[index]]);
            for (family, endpoints) in &endpoints {
                let target = address_of(&service, *family);
                let before: Vec<u64> = endpoints.iter().map(grpc::Endpoint::calls).collect();
                for port in first_port..first_port + 3 {
                    let source = scene.client().at(*family, port);
                    scene.client().block_on(|| async {
                        let client = connect_again(source, target).await;
                        for _ in 0..3 {
                            let answered = client.ask(Kind::Unary).await.unwrap().endpoint;
                            assert_eq!(answered, PODS[index], "round {round}, from {source}");
                        }
                    });
                }
                for (other, endpoint) in endpoints.iter().enumerate() {
                    let wanted = before[other] + if other == index { 9 } else { 0 };
                    let found = endpoint.calls();
                    assert_eq!(found, wanted, "{family:?}, round {round}, pod {}", PODS[other]);
                }
            }
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
