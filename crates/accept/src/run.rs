//! One worker: its accept loop, its connections, and its orderly end.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::ops::Deref;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use streamvs_balance::Plan;
use streamvs_relay::connect::reset_on_drop;
use streamvs_relay::h2::{self, Drain};
use streamvs_relay::{Clients, Options, Shed, Worker};
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
    /// Descriptors that this worker's connections may take; a connection that comes when there are
    /// not two left is reset.
    pub max_descriptors: usize,
    /// What each client has open, where that is limited: the same for all workers.
    pub clients: Option<Arc<Clients>>,
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
            .field("max_descriptors", &self.max_descriptors)
            .finish_non_exhaustive()
    }
}

/// What the connections of a worker share.
pub(crate) struct Shared {
    pub(crate) worker: Rc<Worker>,
    pub(crate) original_dst: Box<dyn OriginalDestination>,
    pub(crate) origin: Box<dyn ClientOrigin>,
    pub(crate) on_refused: OnRefused,
    pub(crate) clients: Option<Arc<Clients>>,
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
        clients: config.clients,
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

    let mut spare = Spare::new();
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
                if let Some(reason) = refusal(&shared, config.max_descriptors) {
                    refuse(&shared, &socket, reason);
                    continue;
                }
                // Bounded by max_descriptors; awaited through Open when draining.
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
            Err(error) if is_out_of_descriptors(&error) && spare.is_there() => {
                spare.refuse_one(&shared, &listener).await;
            }
            Err(error) => {
                spare.renew();
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

/// Why no connection is taken now, whoever's it is.
fn refusal(shared: &Shared, max_descriptors: usize) -> Option<RefusalReason> {
    let used = 2 * shared.open_count.get() + shared.worker.pooled_count();
    if used + 2 > max_descriptors {
        Some(RefusalReason::Limit)
    } else if shared.worker.shed() >= Shed::Connections {
        Some(RefusalReason::Memory)
    } else {
        None
    }
}

fn refuse(shared: &Shared, socket: &TcpStream, reason: RefusalReason) {
    (shared.on_refused)(reason);
    reset_on_drop(socket);
}

/// A descriptor to give up when there is no other: a connection is accepted with it and reset, for
/// a client that is told may try elsewhere, and one that waits in the backlog hears nothing.
struct Spare(Option<File>);

impl Spare {
    fn new() -> Self {
        let mut spare = Self(None);
        spare.renew();
        spare
    }

    fn is_there(&self) -> bool {
        self.0.is_some()
    }

    fn renew(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }

    /// Resets the connection that has waited longest, unless somebody else takes the descriptor.
    async fn refuse_one(&mut self, shared: &Shared, listener: &TcpListener) {
        self.0 = None;
        let accepted = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
            Poll::Pending => Poll::Ready(None),
        });
        let accepted = accepted.await;
        if let Some((socket, _)) = &accepted {
            refuse(shared, socket, RefusalReason::Descriptors);
        }
        drop(accepted);
        self.renew();
    }
}

/// The process, or the machine, has as many open files as it may.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    // EMFILE and ENFILE.
    matches!(error.raw_os_error(), Some(24 | 23))
}

async fn reap(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(limits::REAP_INTERVAL);
    loop {
        interval.tick().await;
        worker.pool().reap(Instant::now());
    }
}
