//! The data path in one process, without privilege: a real listener, real sockets, an original
//! destination that the test says, and endpoints that misbehave on demand.
//!
//! Tests read like transcripts: a [`Node`] with a table, endpoints with a script, a client.

pub mod endpoint;
pub mod raw;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response};
use streamvs_accept::{Config, Handover, Passed, RefusalReason};
use streamvs_balance::{EjectionPolicy, Plan, SchedulerName, Target, VirtualServer};
use streamvs_relay::connect::{DialOptions, Keepalive};
use streamvs_relay::h2::Engine;
use streamvs_relay::{ClientLimits, Clients, Options};
use streamvs_table::publish::{self, Publisher};
use streamvs_table::{
    Aliases, Disposition, Endpoint, Origin, PerFamily, PerPolicy, Protocol, ProtocolHint,
    ServiceName, ServicePort, ServicePortName, Snapshot, TrafficPolicy, Usability,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};

/// The Service address that every test connection was "made to".
pub const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 50051);

/// One worker of the data path on a thread of its own.
#[derive(Debug)]
pub struct Node {
    /// Where a client connects instead of to [`SERVICE`].
    pub address: SocketAddr,
    plan: Publisher<Plan>,
    aliases: Publisher<Aliases>,
    generation: AtomicU64,
    drain: watch::Sender<bool>,
    arriving: mpsc::UnboundedSender<Passed>,
    thread: Option<JoinHandle<()>>,
    scheduler: SchedulerName,
    refusals: Arc<Mutex<Vec<RefusalReason>>>,
}

/// What a worker may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Descriptors of its connections.
    pub max_descriptors: usize,
    /// What each client may have open.
    pub clients: Option<ClientLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_descriptors: 2048, clients: None }
    }
}

impl Node {
    /// Serves [`SERVICE`] by `rr` over `endpoints`.
    pub fn start(endpoints: &[SocketAddr]) -> Self {
        Self::start_engine(Engine::default(), endpoints)
    }

    /// The same with this HTTP/2 engine.
    pub fn start_engine(http2_engine: Engine, endpoints: &[SocketAddr]) -> Self {
        Self::start_with(endpoints, SchedulerName::Rr, options(http2_engine))
    }

    /// The same with passive health.
    pub fn start_ejecting(policy: EjectionPolicy, relay: Options, service: ServicePort) -> Self {
        let plan = Plan::empty().ejecting(policy, Arc::new(|_| {}));
        let node = Self::start_planned(plan, SchedulerName::Rr, relay, Limits::default());
        node.publish_service(service);
        node
    }

    /// The same with limits.
    pub fn start_limited(endpoints: &[SocketAddr], relay: Options, limits: Limits) -> Self {
        let node = Self::start_planned(Plan::empty(), SchedulerName::Rr, relay, limits);
        node.publish(endpoints);
        node
    }

    /// The same with another scheduler or other options.
    pub fn start_with(endpoints: &[SocketAddr], scheduler: SchedulerName, relay: Options) -> Self {
        let node = Self::start_planned(Plan::empty(), scheduler, relay, Limits::default());
        node.publish(endpoints);
        node
    }

    fn start_planned(plan: Plan, scheduler: SchedulerName, relay: Options, limits: Limits) -> Self {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let refused = Arc::clone(&refusals);
        let (plan, reader) = publish::channel(Arc::new(plan));
        let (aliases, aliases_reader) = publish::channel(Arc::default());
        let (drain, draining) = watch::channel(false);
        let (handover, arriving) = handover();
        let listener =
            streamvs_accept::bind(0, 1, Keepalive::default()).expect("a port is free").remove(0);
        let port = listener.local_addr().expect("is bound").port();
        let config = Config {
            listener,
            plan: reader,
            aliases: aliases_reader,
            original_dst: Box::new(|_: &TcpStream, _: IpAddr| -> io::Result<SocketAddr> {
                Ok(SERVICE)
            }),
            origin: Box::new(|_: IpAddr| Origin::Inside),
            relay,
            max_descriptors: limits.max_descriptors,
            clients: limits.clients.map(Clients::new),
            on_refused: Arc::new(move |reason| {
                refused.lock().unwrap_or_else(PoisonError::into_inner).push(reason);
            }),
            drain: draining,
            handover,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default())
                .expect("a runtime starts");
            runtime.block_on(streamvs_accept::run(config)).expect("the listener registers");
        });
        Self {
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
            plan,
            aliases,
            generation: AtomicU64::new(0),
            drain,
            arriving,
            thread: Some(thread),
            scheduler,
            refusals,
        }
    }

    /// Shows a new table in which exactly `endpoints` are usable.
    pub fn publish(&self, endpoints: &[SocketAddr]) {
        self.publish_service(service_port(endpoints, ProtocolHint::Auto));
    }

    /// Shows a new table with this ServicePort alone.
    pub fn publish_service(&self, service: ServicePort) {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let (snapshot, conflicts) = Snapshot::new(generation, vec![Arc::new(service)]);
        assert!(conflicts.is_empty());
        snapshot.check_invariants();
        let current = self.plan.current();
        let (plan, _) = current.next(Arc::new(snapshot), self.scheduler, Instant::now());
        self.plan.publish(Arc::new(plan));
    }

    /// Lets endpoints see clients by these.
    pub fn publish_aliases(&self, aliases: Aliases) {
        self.aliases.publish(Arc::new(aliases));
    }

    /// Who serves [`SERVICE`] now, for its statistics.
    pub fn server(&self) -> Arc<VirtualServer> {
        let plan = self.plan.current();
        Arc::clone(plan.lookup(SERVICE.ip(), SERVICE.port()).expect("is published"))
    }

    /// Why connections were refused, in order.
    pub fn refusals(&self) -> Vec<RefusalReason> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the worker a connection as another process does.
    pub fn pass(&self, passed: Passed) {
        self.arriving.send(passed).expect("the worker runs");
    }

    /// The endpoint of [`SERVICE`] with this address.
    pub fn target(&self, address: SocketAddr) -> Arc<Target> {
        let server = self.server();
        let target = server.targets().iter().find(|target| target.address() == address);
        Arc::clone(target.expect("is published"))
    }

    /// Tells the worker to end.
    pub fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Waits until the worker has ended.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the worker does not panic");
        }
    }

    /// An HTTP/2 client connection through the node.
    pub async fn connect(&self) -> SendRequest<Bytes> {
        self.connect_from(Ipv4Addr::LOCALHOST).await
    }

    /// The same from another loopback address.
    pub async fn connect_from(&self, client: Ipv4Addr) -> SendRequest<Bytes> {
        let socket = self.dial_from(client).await;
        // As every gRPC client does.
        socket.set_nodelay(true).expect("is connected");
        let (send, connection) = h2::client::Builder::new()
            .initial_connection_window_size(16 * 1024 * 1024)
            .data_frame_budget(64 * 1024 * 1024)
            .handshake(socket)
            .await
            .expect("is HTTP/2");
        tokio::spawn(connection);
        send
    }
}

impl Node {
    /// A client's socket from a loopback address.
    pub async fn dial_from(&self, client: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("sockets are allowed");
        socket.bind((client, 0).into()).expect("every loopback address is there");
        socket.connect(self.address).await.expect("is accepted")
    }
}

/// What the tests relay with: endpoints that do not answer are given up soon.
pub fn options(http2_engine: Engine) -> Options {
    Options {
        http2_engine,
        dial: DialOptions { timeout: Duration::from_millis(300), ..DialOptions::default() },
        ..Options::default()
    }
}

/// Nothing leaves for another process; what comes is sent.
fn handover() -> (Handover, mpsc::UnboundedSender<Passed>) {
    let (arriving, arrivals) = mpsc::unbounded_channel();
    let handover = Handover {
        leaving: watch::channel(false).1,
        departing: mpsc::unbounded_channel().0,
        arriving: arrivals,
    };
    (handover, arriving)
}

/// A ServicePort at [`SERVICE`] with these endpoints, all ready.
pub fn service_port(endpoints: &[SocketAddr], protocol_hint: ProtocolHint) -> ServicePort {
    let mut endpoints: Vec<_> = endpoints
        .iter()
        .map(|&address| Endpoint {
            address,
            node: None,
            zone: None,
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            weight: 1,
            usability: PerPolicy::both(Usability::Ready),
        })
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.address);
    let v4 = if endpoints.is_empty() { Disposition::Reject } else { Disposition::Balance };
    ServicePort {
        name: ServicePortName {
            service: ServiceName::new("default", "echo"),
            port: "grpc".into(),
            protocol: Protocol::Tcp,
        },
        port: SERVICE.port(),
        node_port: None,
        cluster_ips: vec![SERVICE.ip()],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        app_protocol: None,
        protocol_hint,
        scheduler: None,
        max_age: Default::default(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        endpoints,
        disposition: PerPolicy::both(PerFamily { v4, v6: Disposition::Reject }),
        reasons: Default::default(),
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: Response<()>,
    /// All data.
    pub body: Vec<u8>,
    /// Trailers, where there were any.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// `grpc-status` of trailers or of a trailers-only answer.
    pub fn grpc_status(&self) -> &str {
        let headers = self.trailers.as_ref().unwrap_or(self.head.headers());
        headers.get("grpc-status").map_or("none", |value| value.to_str().unwrap_or("not text"))
    }

    /// A header of the head or the trailers, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.head.headers().get(name);
        let value = value.or_else(|| self.trailers.as_ref()?.get(name));
        value.map_or("", |value| value.to_str().unwrap_or("not text"))
    }
}

/// The head of a gRPC call to `path`.
pub fn grpc_request(path: &str) -> Request<()> {
    Request::post(format!("http://echo.default{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("is a request")
}

/// Makes a unary call with `body` and waits for the whole answer.
///
/// # Errors
/// The stream or the connection failed.
pub async fn call(
    send: &SendRequest<Bytes>,
    request: Request<()>,
    body: &[u8],
) -> Result<Answer, h2::Error> {
    let mut send = send.clone().ready().await?;
    let (response, mut stream) = send.send_request(request, false)?;
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(credit) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            break;
        };
        let chunk = rest.split_to(credit?.min(rest.len()));
        stream.send_data(chunk, false)?;
    }
    // A peer that has answered early may have closed its side already.
    let _ = stream.send_data(Bytes::new(), true);
    collect(response).await
}

/// Waits for a whole answer.
///
/// # Errors
/// The stream or the connection failed.
pub async fn collect(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut source) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = source.data().await {
        let chunk = chunk?;
        source.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    let trailers = source.trailers().await?;
    Ok(Answer { head: Response::from_parts(head, ()), body, trailers })
}

/// Waits until `condition` holds.
///
/// # Panics
/// It does not within five seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Makes a test of each function, on each engine. `Engine` must be in scope.
#[macro_export]
macro_rules! on_both_engines {
    ($($name:ident),* $(,)?) => {
        mod on_h2 {
            use super::Engine;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Engine::H2).await;
                }
            )*
        }

        mod on_switch {
            use super::Engine;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(Engine::Switch).await;
                }
            )*
        }
    };
}
