//! A gRPC endpoint inside a namespace: serves `test.Echo`, counts its calls, obeys orders.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use h2::server;
use http::Request;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};

use super::call::Call;
use super::{Conduct, Kind, conduct};
use crate::Family;
use crate::lab::{Host, block_on_local};

/// Is shown each message that an endpoint has received, and says how long the answer shall wait.
pub type Observer = Arc<dyn Fn(&[u8]) -> Duration + Send + Sync>;

/// An endpoint that serves until it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    name: Arc<str>,
    address: SocketAddr,
    counts: Arc<Counts>,
    orders: watch::Sender<Orders>,
    worker: Option<JoinHandle<()>>,
}

/// What every connection of an endpoint is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) conduct: Conduct,
    /// Counts how often every connection was told to send GOAWAY.
    goaways: u32,
    /// No new connections; the open ones get GOAWAY and end after their last stream.
    draining: bool,
    /// Everything ends at once.
    stopped: bool,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Counts {
    calls: [AtomicU64; 4],
    active: AtomicU64,
    most_active: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    peers: Mutex<BTreeSet<IpAddr>>,
}

impl Endpoint {
    /// Serves on a pod's address and `port`, under the pod's name.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(host: &Host, family: Family, port: u16) -> Self {
        Self::start_limited(host, family, port, None)
    }

    /// As [`start`](Self::start), announcing at most `limit` concurrent streams on a connection.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start_limited(host: &Host, family: Family, port: u16, limit: Option<u32>) -> Self {
        let address = host.at(family, port);
        let listener = host.run(|| {
            std::net::TcpListener::bind(address)
                .unwrap_or_else(|error| panic!("{}: {address}: {error}", host.name()))
        });
        Self::on(listener, host.name(), limit, Arc::new(|_message| Duration::ZERO))
    }

    /// Serves on a socket that listens already, under any name. `seen` is shown each message that
    /// came whole, before it is answered; by the endpoint's only thread.
    ///
    /// # Panics
    /// When the socket does not listen.
    pub fn on(
        listener: std::net::TcpListener,
        name: &str,
        limit: Option<u32>,
        seen: Observer,
    ) -> Self {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let counts = Arc::new(Counts::default());
        let (orders, receiver) = watch::channel(Orders::default());
        let name: Arc<str> = name.into();
        let server = Server { name: Arc::clone(&name), counts: Arc::clone(&counts), limit, seen };
        // The sockets it accepts are in the namespace of the one that listens.
        let worker = std::thread::spawn(move || {
            block_on_local(async move {
                let listener = TcpListener::from_std(listener).expect("the runtime takes sockets");
                server.serve(listener, receiver).await;
            });
        });
        Self { name, address, counts, orders, worker: Some(worker) }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls started here so far, of all kinds.
    pub fn calls(&self) -> u64 {
        self.counts.calls.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Calls of one kind started here so far.
    pub fn calls_of(&self, kind: Kind) -> u64 {
        self.counts.calls[kind as usize].load(Ordering::Relaxed)
    }

    /// Calls under way.
    pub fn active(&self) -> u64 {
        self.counts.active.load(Ordering::Relaxed)
    }

    /// The most calls that were under way at one time.
    pub fn most_active(&self) -> u64 {
        self.counts.most_active.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Connections open.
    pub fn open_connections(&self) -> u64 {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// The addresses that connections came from, so far.
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        self.counts.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes how it answers.
    pub fn conduct(&self, conduct: Conduct) {
        self.orders.send_modify(|orders| orders.conduct = conduct);
    }

    /// Sends GOAWAY on every connection: open streams finish, new ones are not taken. New
    /// connections are.
    pub fn go_away(&self) {
        self.orders.send_modify(|orders| orders.goaways += 1);
    }

    /// Takes no new connection, sends GOAWAY on the open ones and lets their streams finish, as a
    /// pod does that was asked to end.
    pub fn drain(&self) {
        self.orders.send_modify(|orders| orders.draining = true);
    }

    /// Ends everything at once, as a killed pod does.
    ///
    /// # Panics
    /// When the endpoint's own thread did.
    pub fn stop(&mut self) {
        self.orders.send_modify(|orders| orders.stopped = true);
        if let Some(worker) = self.worker.take() {
            worker.join().expect("an endpoint does not panic");
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.stopped = true);
        if let Some(worker) = self.worker.take() {
            // While a test already panics a second panic would hide the first.
            let _ = worker.join();
        }
    }
}

/// What a listener and its connections share.
#[derive(Clone)]
struct Server {
    name: Arc<str>,
    counts: Arc<Counts>,
    limit: Option<u32>,
    seen: Observer,
}

impl Server {
    async fn serve(self, listener: TcpListener, mut orders: watch::Receiver<Orders>) {
        let mut connections = JoinSet::new();
        let mut listener = Some(listener);
        let commands = orders.clone();
        loop {
            let accepted = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = accepted => {
                    if let Ok((socket, peer)) = accepted {
                        let peers = &self.counts.peers;
                        let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
                        peers.insert(peer.ip());
                        drop(peers);
                        let server = self.clone();
                        connections.spawn_local(server.connection(socket, commands.clone()));
                    }
                }
                Some(_) = connections.join_next() => {}
                changed = orders.changed() => {
                    let now = orders.borrow_and_update();
                    if changed.is_err() || now.stopped {
                        break;
                    }
                    if now.draining {
                        drop(listener.take());
                    }
                }
            }
        }
    }

    async fn connection(self, socket: TcpStream, orders: watch::Receiver<Orders>) {
        // Without it the kernel may hold small frames back; every gRPC server sets it.
        let _ = socket.set_nodelay(true);
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let _open = Held::take(&self.counts, |counts| &counts.open);
        // A peer that breaks the protocol or goes away ends its own connection, nothing else.
        let _ = self.streams(socket, orders).await;
    }

    async fn streams(
        &self,
        socket: TcpStream,
        mut orders: watch::Receiver<Orders>,
    ) -> Result<(), h2::Error> {
        let mut builder = server::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
        // Many tiny messages in flight are this service's trade, not an attack.
        builder.data_frame_budget(1 << 24).max_pending_accept_reset_streams(1 << 16);
        if let Some(limit) = self.limit {
            builder.max_concurrent_streams(limit);
        }
        let mut connection = builder.handshake::<_, Bytes>(socket).await?;
        let mut goaways = orders.borrow_and_update().goaways;
        if orders.borrow().draining {
            connection.graceful_shutdown();
        }
        let commands = orders.clone();
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted {
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        self.start_call(request, respond, commands.clone());
                    }
                    None => return Ok(()),
                },
                Ok(()) = orders.changed() => {
                    let now = orders.borrow_and_update();
                    if now.goaways > goaways || now.draining {
                        goaways = now.goaways;
                        connection.graceful_shutdown();
                    }
                }
            }
        }
    }

    fn start_call(
        &self,
        request: Request<h2::RecvStream>,
        mut respond: server::SendResponse<Bytes>,
        orders: watch::Receiver<Orders>,
    ) {
        let Some(kind) = Kind::of_path(request.uri().path()) else {
            respond.send_reset(h2::Reason::PROTOCOL_ERROR);
            return;
        };
        let conduct = orders.borrow().conduct.clone();
        if conduct != Conduct::Refusing {
            self.counts.calls[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        let active = Held::take(&self.counts, |counts| &counts.active);
        self.counts
            .most_active
            .fetch_max(self.counts.active.load(Ordering::Relaxed), Ordering::Relaxed);
        let body = request.into_body();
        let (endpoint, seen) = (Arc::clone(&self.name), Arc::clone(&self.seen));
        let call = Call { kind, body, respond, endpoint, orders, seen };
        spawn_local(async move {
            let _active = active;
            // The caller learns of a stream's end by itself; there is nobody else to tell.
            let _ = conduct::answer(conduct, call).await;
        });
    }
}

/// One unit of a count of [`Counts`], given back on drop.
#[derive(Debug)]
struct Held {
    counts: Arc<Counts>,
    which: fn(&Counts) -> &AtomicU64,
}

impl Held {
    fn take(counts: &Arc<Counts>, which: fn(&Counts) -> &AtomicU64) -> Self {
        which(counts).fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(counts), which }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        (self.which)(&self.counts).fetch_sub(1, Ordering::Relaxed);
    }
}
