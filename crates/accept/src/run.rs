//! One worker: its accept loop, its connections, and its orderly end.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use streamvs_balance::Plan;
use streamvs_relay::h2::{self, Drain};
use streamvs_relay::{Options, Worker};
use streamvs_table::Aliases;
use streamvs_table::publish::Reader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::connection;
use crate::handover::{self, Departing, Handover};
use crate::limits;
use crate::listener::Listener;
use crate::origin::ClientOrigin;
use crate::original_dst::OriginalDestination;
use crate::record::{OnRefused, RefusalReason};

/// What a worker needs to run.
pub struct Config {
    /// Its own listening socket.
    pub listener: Listener,
    /// The table.
    pub plan: Reader<Plan>,
    /// By which addresses endpoints are dialled for clients.
    pub aliases: Reader<Aliases>,
    /// How captured connections tell where they were going.
    pub original_dst: Box<dyn OriginalDestination>,
    /// Where their clients are.
    pub origin: Box<dyn ClientOrigin>,
    /// What an operator may set for the relay.
    pub relay: Options,
    /// Connections this worker serves at once; more are reset. Each takes two descriptors.
    pub max_connections: usize,
    /// Told of each refused connection.
    pub on_refused: OnRefused,
    /// Turns true when the worker shall end.
    pub drain: Drain,
    /// How connections leave for another process, and come from one.
    pub handover: Handover,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listener", &self.listener)
            .field("relay", &self.relay)
            .field("max_connections", &self.max_connections)
            .finish_non_exhaustive()
    }
}

/// What the connections of a worker share.
pub(crate) struct Shared {
    pub(crate) worker: Rc<Worker>,
    pub(crate) original_dst: Box<dyn OriginalDestination>,
    pub(crate) origin: Box<dyn ClientOrigin>,
    pub(crate) on_refused: OnRefused,
    pub(crate) drain: Drain,
    pub(crate) departing: Departing,
    /// Of the listener.
    pub(crate) port: u16,
    open_count: Cell<usize>,
    all_closed: Notify,
}

/// Counts a connection as open until it is dropped.
pub(crate) struct Open(Rc<Shared>);

impl Deref for Open {
    type Target = Rc<Shared>;

    fn deref(&self) -> &Rc<Shared> {
        &self.0
    }
}

impl Open {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        shared.open_count.set(shared.open_count.get() + 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open_count = self.0.open_count.get() - 1;
        self.0.open_count.set(open_count);
        if open_count == 0 {
            self.0.all_closed.notify_one();
        }
    }
}

/// Runs a worker on this thread, which must be inside a `LocalRuntime`: what is spawned is not
/// `Send`, and ends with the runtime. When `drain` turns true it stops accepting, and ends when its
/// last connection has; the caller owns the deadline.
///
/// # Errors
/// The listener cannot be registered with the runtime. A failing accept(2) is not an error: it is
/// logged, and accepting goes on after a pause.
pub async fn run(config: Config) -> io::Result<()> {
    let port = config.listener.local_addr()?.port();
    let listener = TcpListener::from_std(config.listener.socket)?;
    let Handover { leaving, departing, arriving } = config.handover;
    let shared = Rc::new(Shared {
        worker: Rc::new(Worker::new(config.relay, config.plan, config.aliases)),
        original_dst: config.original_dst,
        origin: config.origin,
        on_refused: config.on_refused,
        drain: config.drain,
        departing: departing.into(),
        port,
        open_count: Cell::new(0),
        all_closed: Notify::new(),
    });
    // All end with the runtime.
    tokio::task::spawn_local(h2::switch::driver::run(Rc::clone(&shared.worker)));
    tokio::task::spawn_local(reap(Rc::clone(&shared.worker)));
    tokio::task::spawn_local(handover::leave(Rc::clone(&shared), leaving));
    tokio::task::spawn_local(handover::arrive(Rc::clone(&shared), arriving));

    let mut drain = shared.drain.clone();
    let mut draining = pin!(drain.wait_for(|draining| *draining));
    // What waits to be accepted wins over draining: it would be reset. It is no more than one
    // turn's worth, since the runtime ends a turn that always finds more.
    while let Some(accepted) = poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => draining.as_mut().poll(cx).map(|_| None),
    })
    .await
    {
        match accepted {
            Ok((socket, client)) => {
                let socket = match admit_one(&shared, socket, config.max_connections) {
                    Some(socket) => socket,
                    None => continue,
                };
                // Bounded by max_connections; awaited through Open when draining.
                let heard = Bytes::new();
                tokio::task::spawn_local(connection::serve(
                    Open::new(&shared),
                    socket,
                    client,
                    heard,
                ));
            }
            // The client gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept, pausing");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while shared.open_count.get() > 0 {
        shared.all_closed.notified().await;
    }
    Ok(())
}

fn admit_one(shared: &Shared, socket: TcpStream, max_connections: usize) -> Option<TcpStream> {
    if shared.open_count.get() < max_connections {
        return Some(socket);
    }
    (shared.on_refused)(RefusalReason::Limit);
    streamvs_relay::connect::reset_on_drop(&socket);
    None
}

async fn reap(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(limits::REAP_INTERVAL);
    loop {
        interval.tick().await;
        worker.pool().reap(Instant::now());
    }
}
