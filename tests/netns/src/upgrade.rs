//! Aim: one agent takes over from another, again and again, and no client notices.
//! Method: gRPC calls, new connections and long sessions that check every octet run all the while;
//! some agents die on the way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use streamvs_support::agent::{Agent, PATIENCE, Source};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::{Netns, block_on_local};
use streamvs_support::manifest::Manifests;
use streamvs_support::tcp::Speak;
use streamvs_support::tcp::load::{First, who};
use streamvs_support::wait::eventually;
use streamvs_support::{Family, grpc, tcp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::scene::{PODS, Scene, address, engines, grpc_service, needs_node, tcp_service};

/// Sessions unless `STREAMVS_SESSIONS` says how many. A third talk all the while, a third are silent
/// from their first answer on, and a third have not said a word when the upgrades come.
const SESSIONS: usize = 60;

/// Between two pieces of a session, while there are [`SESSIONS`]. More have as much to say in all.
const PAUSE: Duration = Duration::from_millis(5);

fn session_count() -> usize {
    let asked = std::env::var("STREAMVS_SESSIONS").ok().and_then(|count| count.parse().ok());
    asked.unwrap_or(SESSIONS)
}

/// What a session sends at a time.
const PIECE: usize = 32 * 1024;

/// A node with both kinds of Services, and agents that follow one another on one admin socket.
struct Line {
    scene: Scene,
    socket: PathBuf,
    count: usize,
    _grpc: Vec<grpc::Endpoint>,
    _tcp: Vec<tcp::Endpoint>,
}

impl Line {
    fn new() -> Self {
        let scene = Scene::new();
        let grpc = scene.grpc(Family::V4, PODS);
        let tcp = scene.tcp(Family::V4, Speak::Echo, PODS);
        scene.publish(&grpc_service(Family::V4), &PODS);
        scene.publish(&tcp_service(Family::V4), &PODS);
        let socket = scene.folder.path().join("agents.sock");
        Self { scene, socket, count: 0, _grpc: grpc, _tcp: tcp }
    }

    /// Starts the next agent, without waiting.
    #[track_caller]
    fn spawn(&mut self, flags: &[&str]) -> Agent {
        let manifests = Manifests::new(self.scene.manifests.folder());
        self.spawn_from(Source::Manifests(&manifests), flags)
    }

    #[track_caller]
    fn spawn_from(&mut self, source: Source<'_>, flags: &[&str]) -> Agent {
        self.count += 1;
        let folder = self.scene.folder.path().join(format!("agent-{}", self.count));
        std::fs::create_dir(&folder).expect("a folder can be made");
        let socket = self.socket.to_str().expect("the path is text").to_owned();
        let flags = [&["--admin-socket", &socket], flags].concat();
        Agent::spawn_from(self.scene.lab.node(), &folder, source, &flags)
    }

    /// Starts the first agent and waits until it captures.
    #[track_caller]
    fn first(&mut self, flags: &[&str]) -> Agent {
        let agent = self.spawn(flags).wait_until_healthy();
        wait_for(&agent, "capture rules installed");
        agent
    }

    fn netns(&self) -> &Netns {
        self.scene.client().netns()
    }
}

#[track_caller]
fn wait_for(agent: &Agent, message: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !agent.log().contains(message) {
        assert!(Instant::now() < deadline, "no {message:?}:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn wait_for_end(agent: &mut Agent) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = agent.ended() {
            assert_eq!(status.code(), Some(0), "{}", agent.log());
            return;
        }
        assert!(Instant::now() < deadline, "it does not end:\n{}", agent.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sessions and connects from a client pod, until stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicU64>,
    sessions: JoinHandle<(u64, Vec<String>)>,
    connects: JoinHandle<(u64, Vec<String>)>,
}

impl Clients {
    #[track_caller]
    fn start(netns: &Netns, target: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(AtomicU64::new(0));
        let (also_stop, also_ready) = (Arc::clone(&stop), Arc::clone(&ready));
        let sessions = netns.spawn(move || block_on_local(sessions(target, also_stop, also_ready)));
        let also_stop = Arc::clone(&stop);
        let connects = netns.spawn(move || {
            let (mut count, mut failures) = (0, Vec::new());
            while !also_stop.load(Ordering::Relaxed) {
                match who(target, First::Client) {
                    Ok(_) => count += 1,
                    Err(error) => failures.push(format!("after {count} connects: {error}")),
                }
            }
            (count, failures)
        });
        let clients = Self { stop, ready, sessions, connects };
        eventually("all sessions have begun", PATIENCE, || {
            clients.ready.load(Ordering::Relaxed) == session_count() as u64
        });
        clients
    }

    /// Ends them, and demands that nothing failed. Returns octets checked and connects made.
    #[track_caller]
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let (octets, failures) = self.sessions.join().expect("does not panic");
        assert!(failures.is_empty(), "sessions broke: {failures:#?}");
        let (connects, failures) = self.connects.join().expect("does not panic");
        assert!(failures.is_empty(), "connects failed: {failures:#?}");
        (octets, connects)
    }
}

async fn sessions(
    target: SocketAddr,
    stop: Arc<AtomicBool>,
    ready: Arc<AtomicU64>,
) -> (u64, Vec<String>) {
    let mut open = JoinSet::new();
    for index in 0..session_count() {
        let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
        open.spawn_local(async move {
            let session = session(target, &stop, &ready, index % 3);
            session.await.map_err(|error| format!("session {index}: {error}"))
        });
    }
    let (mut octets, mut failures) = (0, Vec::new());
    while let Some(ended) = open.join_next().await {
        match ended.expect("does not panic") {
            Ok(count) => octets += count,
            Err(failure) => failures.push(failure),
        }
    }
    (octets, failures)
}

/// One session with an endpoint that sends back what comes. Returns the octets checked.
async fn session(
    target: SocketAddr,
    stop: &AtomicBool,
    ready: &AtomicU64,
    kind: usize,
) -> std::io::Result<u64> {
    let mut socket = TcpStream::connect(target).await?;
    let begin = |ready: &AtomicU64| ready.fetch_add(1, Ordering::Relaxed);
    let length = PAUSE * session_count().div_ceil(SESSIONS) as u32;
    let pause = || tokio::time::sleep(length);
    if kind == 2 {
        // Not a word before the upgrades are over.
        begin(ready);
        while !stop.load(Ordering::Relaxed) {
            pause().await;
        }
    }
    socket.write_all(b"hello\n").await?;
    let mut octet = [0];
    while octet != *b"\n" {
        socket.read_exact(&mut octet).await?;
    }
    // The endpoint has said its name; what it sends back begins with the greeting.
    let mut greeting = [0; 6];
    socket.read_exact(&mut greeting).await?;
    assert_eq!(&greeting, b"hello\n");
    if kind == 1 {
        begin(ready);
        while !stop.load(Ordering::Relaxed) {
            pause().await;
        }
    } else if kind == 0 {
        begin(ready);
    }
    let (mut from, mut to) = socket.split();
    let sending = async {
        let mut sent: u64 = 0;
        loop {
            // At least one piece, also by those who were silent.
            let piece: Vec<u8> = (sent..sent + PIECE as u64).map(octet_at).collect();
            to.write_all(&piece).await?;
            sent += PIECE as u64;
            if stop.load(Ordering::Relaxed) {
                to.shutdown().await?;
                return std::io::Result::Ok(sent);
            }
            pause().await;
        }
    };
    let receiving = async {
        let mut received: u64 = 0;
        let mut piece = vec![0; PIECE];
        loop {
            let count = from.read(&mut piece).await?;
            if count == 0 {
                return std::io::Result::Ok(received);
            }
            for octet in &piece[..count] {
                if *octet != octet_at(received) {
                    return Err(std::io::Error::other(format!("another octet at {received}")));
                }
                received += 1;
            }
        }
    };
    let (sent, received) = tokio::try_join!(sending, receiving)?;
    if sent == received { Ok(received) } else { Err(std::io::Error::other("not all came back")) }
}

/// A pattern that never lines up with a buffer.
fn octet_at(position: u64) -> u8 {
    (position % 65_521 % 251) as u8
}

#[test]
fn upgrades_under_load_lose_nothing() {
    needs_node!();
    let upgrades = std::env::var("STREAMVS_UPGRADES").ok().and_then(|count| count.parse().ok());
    let upgrades = upgrades.unwrap_or(5);
    for engine in engines() {
        let flags = ["--http2-engine", &engine];
        let mut line = Line::new();
        let mut agent = line.first(&flags);
        let load = Load::unary(address(&grpc_service(Family::V4)), 4).start(line.netns());
        let clients = Clients::start(line.netns(), address(&tcp_service(Family::V4)));
        load.advance(200);
        let mut longest = Duration::ZERO;
        for _ in 0..upgrades {
            let started = Instant::now();
            let next = line.spawn(&flags);
            wait_for_end(&mut agent);
            longest = longest.max(started.elapsed());
            assert!(agent.log().contains("handed over"), "{}", agent.log());
            agent = next;
            load.advance(200);
        }
        let report = load.stop().without_failure();
        let (octets, connects) = clients.stop();
        println!(
            "{engine}: {upgrades} upgrades, the longest {longest:?} from start to the old one's \
             end; {} calls, {} connections anew, {connects} connects, {} sessions with {octets} \
             octets: 0 failed",
            report.total(),
            report.reconnected,
            session_count(),
        );
        let status = agent.stop(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", agent.log());
    }
}

#[test]
fn a_pod_that_handed_over_stays_until_it_is_told() {
    needs_node!();
    let mut line = Line::new();
    let mut old = line.first(&["--handover", "stay"]);
    let load = Load::unary(address(&grpc_service(Family::V4)), 2).start(line.netns());
    load.advance(100);
    let new = line.spawn(&["--handover", "stay"]);
    wait_for(&old, "waiting for SIGTERM");
    assert_eq!(old.ended(), None);
    let status = old.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", old.log());
    load.advance(100);
    load.stop().without_failure();
    assert!(line.socket.exists(), "the admin socket is the new one's");
    assert_eq!(new.page(streamvs_support::agent::HEALTH_PORT, "/healthz").unwrap().status, 200);
    drop(new);
}

#[test]
fn a_successor_that_dies_before_it_serves_leaves_all_as_it_was() {
    needs_node!();
    let mut line = Line::new();
    let mut old = line.first(&[]);
    let load = Load::unary(address(&grpc_service(Family::V4)), 2).start(line.netns());
    let clients = Clients::start(line.netns(), address(&tcp_service(Family::V4)));
    // Nobody answers there, so it gets no table.
    let kubeconfig = line.scene.folder.path().join("kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: \
                {cluster: k, user: u}}], clusters: [{name: k, cluster: {server: \
                'http://127.0.0.1:1'}}], users: [{name: u, user: {}}]}";
    std::fs::write(&kubeconfig, text).expect("a file can be written");
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut successor = line.spawn_from(Source::Kubeconfig(&kubeconfig), &[]);
        wait_for(&successor, "taking over from the agent that runs");
        load.advance(100);
        successor.signal(signal);
        eventually("the successor has ended", PATIENCE, || successor.ended().is_some());
        load.advance(100);
        assert!(line.socket.exists(), "the admin socket is the old one's, {signal}");
    }
    eventually("the old one knows", PATIENCE, || {
        old.log().matches("did not take over, going on").count() == 2
    });
    load.stop().without_failure();
    clients.stop();
    assert_eq!(old.ended(), None);
    let status = old.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", old.log());
}

#[test]
fn a_predecessor_that_dies_on_the_way_leaves_all_to_the_successor() {
    needs_node!();
    let mut line = Line::new();
    let mut agent = line.first(&[]);
    for milliseconds in [0, 5, 20, 60] {
        let next = line.spawn(&[]);
        // Before, while or after the sockets go over.
        wait_for(&next, "starting");
        std::thread::sleep(Duration::from_millis(milliseconds));
        agent.signal(Signal::SIGKILL);
        eventually("it is dead", PATIENCE, || agent.ended().is_some());
        wait_for(&next, "capture rules installed");
        agent = next.wait_until_healthy();
        let load = Load::unary(address(&grpc_service(Family::V4)), 2).calls(200);
        load.run(line.netns()).without_failure();
    }
}
