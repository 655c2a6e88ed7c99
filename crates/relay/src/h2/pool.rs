//! The upstream HTTP/2 connections of one worker.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use rustc_hash::FxHashMap;
use streamvs_balance::{ConnectFailure, Fault};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use crate::Leg;
use crate::connect::{DialError, DialOptions, dial, dial_fault, share};
use crate::h2::lease::Lease;
use crate::h2::settings;
use crate::worker::{Pooled, PooledCount};

/// Connections by leg. They are opened when a stream needs one, shared by all streams of the
/// worker that agree in their leg, and closed when idle.
///
/// Invariants: a retired connection gets no new stream, and no connection more than it has room
/// for; at most one dial a leg is under way, and all streams that need it wait for that one. A new
/// connection takes streams when the endpoint's SETTINGS have come; one that ends before is a
/// failed dial. Who waits for room is served in order.
pub struct Pool {
    dial: DialOptions,
    crowd: usize,
    pooled: PooledCount,
    endpoints: RefCell<FxHashMap<Leg, Rc<EndpointPool>>>,
}

#[derive(Default)]
struct EndpointPool {
    pooled: PooledCount,
    connections: RefCell<Vec<Rc<Upstream>>>,
    dialling: RefCell<Option<Rc<Dialling>>>,
    /// A stream has ended, a connection has, or its endpoint allows other numbers.
    room: Rc<Notify>,
    /// How many wait for room.
    waiting: Cell<usize>,
}

/// A dial under way, and what became of it.
#[derive(Default)]
struct Dialling {
    done: Notify,
    failure: RefCell<Option<Rc<DialError>>>,
    finished: Cell<bool>,
}

/// One upstream connection.
pub(super) struct Upstream {
    pub(super) leg: Leg,
    pub(super) send: SendRequest<Bytes>,
    pub(super) open_count: Cell<usize>,
    pub(super) idle_since: Cell<Instant>,
    retired: Cell<bool>,
    opened: Instant,
    /// When the connection ended.
    ended_at: Cell<Option<Instant>>,
    /// SETTINGS have come, or the connection has ended.
    settled: Notify,
    /// Its endpoint's.
    room: Rc<Notify>,
    /// The endpoint is taken to allow [`settings::UPSTREAM_STREAMS_AT_START`], having sent no
    /// SETTINGS in time.
    assumed: Cell<bool>,
    _pooled: Pooled,
}

impl Upstream {
    /// No new stream goes here: it failed, or its endpoint said GOAWAY.
    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// When what has just failed on it failed: all of it at once where the connection did.
    pub(super) fn failed_at(&self) -> Instant {
        self.ended_at.get().unwrap_or_else(Instant::now)
    }

    fn has_room(&self) -> bool {
        let limit = match self.send.current_max_send_streams() {
            settings::UNKNOWN if self.assumed.get() => settings::UPSTREAM_STREAMS_AT_START,
            settings::UNKNOWN => 0,
            told => told.min(settings::UPSTREAM_STREAMS),
        };
        self.open_count.get() < limit
    }

    fn awaits_settings(&self) -> bool {
        self.send.current_max_send_streams() == settings::UNKNOWN && !self.assumed.get()
    }

    /// A stream of it has ended.
    pub(super) fn make_room(&self) {
        self.room.notify_one();
    }

    /// Waits until the endpoint's SETTINGS have come, or for as long as they may take.
    ///
    /// # Errors
    /// The connection has ended without any.
    async fn settle(&self) -> Result<(), Rc<DialError>> {
        let deadline = self.opened + settings::SETTINGS_TIMEOUT;
        if timeout_at(deadline.into(), self.settled.notified()).await.is_err() {
            self.assumed.set(true);
        }
        match self.ended_at.get().filter(|_| self.awaits_settings()) {
            None => Ok(()),
            Some(at) => Err(Rc::new(DialError {
                failure: ConnectFailure::Refused,
                source: io::ErrorKind::ConnectionReset.into(),
                fault: dial_fault(ConnectFailure::Refused),
                at,
            })),
        }
    }
}

impl Pool {
    /// An empty pool that dials with `dial`, keeps fewer idle connections when it has more than
    /// `crowd`, and counts those it has in `pooled`.
    pub(crate) fn new(dial: DialOptions, crowd: usize, pooled: PooledCount) -> Self {
        Self { dial, crowd, pooled, endpoints: RefCell::default() }
    }

    /// A connection on `leg` with room for one more stream; dials one where there is none.
    ///
    /// # Errors
    /// The dial failed. Nothing was sent.
    ///
    /// Cancel safety: a dial that was begun goes on for those who wait with us.
    pub(super) async fn lease(&self, leg: Leg) -> Result<Lease, Rc<DialError>> {
        let endpoint = self.endpoint(leg);
        let mut has_waited = false;
        loop {
            // Nobody overtakes who waits.
            if (has_waited || endpoint.waiting.get() == 0)
                && let Some(connection) = endpoint.best()
            {
                return Ok(Lease::new(connection));
            }
            if let Some(connection) = endpoint.awaiting_settings() {
                connection.settle().await?;
                continue;
            }
            if endpoint.is_full() {
                endpoint.wait_for_room().await;
                has_waited = true;
                continue;
            }
            let dialling = endpoint.dialling.borrow().clone();
            let dialling = match dialling {
                Some(dialling) => dialling,
                None => start_dial(leg, &endpoint, self.dial, dial(leg, self.dial)),
            };
            dialling.wait().await?;
        }
    }

    /// True where a stream on `leg` would need a dial.
    pub fn wants(&self, leg: Leg) -> bool {
        let endpoint = self.endpoints.borrow().get(&leg).cloned();
        endpoint.is_none_or(|endpoint| {
            endpoint.best().is_none()
                && endpoint.awaiting_settings().is_none()
                && !endpoint.is_full()
                && endpoint.dialling.borrow().is_none()
        })
    }

    /// Takes over a dial of `leg` that was begun before the protocol was known.
    pub fn adopt_dial<F>(&self, leg: Leg, dial: F)
    where
        F: Future<Output = Result<TcpStream, DialError>> + 'static,
    {
        start_dial(leg, &self.endpoint(leg), self.dial, dial);
    }

    /// Takes over a socket of `leg` that was dialled before the protocol was known. It must replay what
    /// its endpoint has sent already.
    pub async fn adopt<I>(&self, leg: Leg, socket: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let endpoint = self.endpoint(leg);
        if let Err(error) = open(&endpoint, leg, socket).await {
            tracing::debug!(endpoint = %leg.endpoint(), error = %error, "early connection is unusable");
        }
    }

    /// Closes connections that have been without a stream for long, and forgets legs without
    /// connections.
    pub fn reap(&self, now: Instant) {
        let counts = |leg: &Rc<EndpointPool>| leg.connections.borrow().len();
        let count = self.endpoints.borrow().values().map(counts).sum();
        let idle = settings::upstream_idle(count, self.crowd);
        self.endpoints.borrow_mut().retain(|_, endpoint| {
            endpoint.connections.borrow_mut().retain(|connection| {
                connection.open_count.get() > 0
                    || now.saturating_duration_since(connection.idle_since.get()) < idle
            });
            !endpoint.connections.borrow().is_empty()
                || endpoint.dialling.borrow().is_some()
                || Rc::strong_count(endpoint) > 1
        });
    }

    fn endpoint(&self, leg: Leg) -> Rc<EndpointPool> {
        let new =
            || Rc::new(EndpointPool { pooled: self.pooled.clone(), ..EndpointPool::default() });
        Rc::clone(self.endpoints.borrow_mut().entry(leg).or_insert_with(new))
    }
}

/// Runs `dial` and puts what it yields into the pool.
fn start_dial<F>(
    leg: Leg,
    endpoint: &Rc<EndpointPool>,
    options: DialOptions,
    dial: F,
) -> Rc<Dialling>
where
    F: Future<Output = Result<TcpStream, DialError>> + 'static,
{
    let dialling = Rc::new(Dialling::default());
    *endpoint.dialling.borrow_mut() = Some(Rc::clone(&dialling));
    let (endpoint, result) = (Rc::clone(endpoint), Rc::clone(&dialling));
    // Ends by itself: the dial has a deadline.
    tokio::task::spawn_local(async move {
        let outcome = async {
            let socket = dial.await?;
            share(&socket, &options);
            open(&endpoint, leg, socket).await
        };
        if let Err(error) = outcome.await {
            *result.failure.borrow_mut() = Some(Rc::new(error));
        }
        *endpoint.dialling.borrow_mut() = None;
        result.finished.set(true);
        result.done.notify_waiters();
    });
    dialling
}

impl EndpointPool {
    /// The least loaded connection with room.
    fn best(&self) -> Option<Rc<Upstream>> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.retired.get());
        connections
            .iter()
            .filter(|connection| connection.has_room())
            .min_by_key(|connection| connection.open_count.get())
            .cloned()
    }

    /// There may be no more connections.
    fn is_full(&self) -> bool {
        self.connections.borrow().len() >= settings::UPSTREAM_CONNECTIONS
    }

    /// Cancel safety: the room that was given to it goes to the next.
    async fn wait_for_room(&self) {
        struct Waiting<'a>(&'a Cell<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(&self.waiting);
        self.room.notified().await;
    }

    fn awaiting_settings(&self) -> Option<Rc<Upstream>> {
        self.connections.borrow().iter().find(|connection| connection.awaits_settings()).cloned()
    }
}

impl Dialling {
    async fn wait(&self) -> Result<(), Rc<DialError>> {
        let done = self.done.notified();
        if !self.finished.get() {
            done.await;
        }
        match &*self.failure.borrow() {
            Some(error) => Err(Rc::clone(error)),
            None => Ok(()),
        }
    }
}

/// Starts HTTP/2 on a connected socket and puts it into the pool.
async fn open<I>(endpoint: &Rc<EndpointPool>, leg: Leg, socket: I) -> Result<(), DialError>
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (send, mut connection): (SendRequest<Bytes>, client::Connection<_, Bytes>) =
        settings::upstream().handshake(socket).await.map_err(|error| DialError {
            failure: ConnectFailure::Other,
            source: error.into_io().unwrap_or_else(|| io::ErrorKind::InvalidData.into()),
            // It accepted, and took nothing.
            fault: Some(Fault::LostBeforeReply),
            at: Instant::now(),
        })?;
    let upstream = Rc::new(Upstream {
        leg,
        send,
        open_count: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        retired: Cell::new(false),
        opened: Instant::now(),
        ended_at: Cell::new(None),
        settled: Notify::new(),
        room: Rc::clone(&endpoint.room),
        assumed: Cell::new(false),
        _pooled: endpoint.pooled.one_more(),
    });
    endpoint.connections.borrow_mut().push(Rc::clone(&upstream));
    let (upstream, endpoint) = (Rc::downgrade(&upstream), Rc::clone(endpoint));
    // Ends when the endpoint closes, or when no stream and no handle is left.
    tokio::task::spawn_local(async move {
        let mut told = settings::UNKNOWN;
        let end = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let tells = connection.max_concurrent_send_streams();
            if told != tells {
                told = tells;
                upstream.upgrade().inspect(|upstream| upstream.settled.notify_waiters());
                endpoint.room.notify_waiters();
            }
            polled
        })
        .await;
        if let Some(upstream) = upstream.upgrade() {
            upstream.ended_at.set(Some(Instant::now()));
            upstream.retire();
            upstream.settled.notify_waiters();
        }
        endpoint.connections.borrow_mut().retain(|connection| !connection.retired.get());
        endpoint.room.notify_waiters();
        match end {
            Ok(()) => tracing::debug!(endpoint = %leg.endpoint(), "upstream connection closed"),
            Err(error) => {
                tracing::debug!(endpoint = %leg.endpoint(), error = %error, "upstream connection lost");
            }
        }
    });
    Ok(())
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("endpoint_count", &self.endpoints.borrow().len()).finish()
    }
}
