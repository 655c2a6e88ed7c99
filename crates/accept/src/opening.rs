//! A connection before its protocol is known.
//!
//! The client's first bytes and the endpoint's are awaited together. An endpoint is dialled
//! without waiting for either, because a plain connection would get the same one anyway; so a
//! protocol in which the server speaks first starts as fast as without us, and no timer has to
//! guess. Only a client that has begun the preface and does not end it is not waited for without
//! end.

use std::fmt;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use streamvs_balance::Fault;
use streamvs_detect::{FirstBytes, Protocol};
use streamvs_relay::connect::{Dialled, Dialler, NoEndpoint};
use streamvs_relay::socket::read_once;
use streamvs_relay::{Route, Worker};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::limits;

/// What is known once the protocol is.
pub(crate) struct Opened {
    pub(crate) protocol: Protocol,
    /// What the client has sent.
    pub(crate) from_client: Bytes,
    /// What the endpoint has sent; empty unless it is connected.
    pub(crate) from_endpoint: Bytes,
    /// How far the early dial has come.
    pub(crate) upstream: Upstream,
}

/// How the watch over both sides ends.
pub(crate) enum Opening {
    /// The protocol is known.
    Settled(Opened),
    /// Whoever takes our place shall begin anew; this the client has sent. What the endpoint has
    /// said goes with the early dial: nothing was sent there, so another dial says it again.
    Suspended(Bytes),
}

impl Opened {
    /// A connection that is plain by declaration: nothing is dialled yet.
    pub(crate) fn plain(from_client: Bytes) -> Self {
        Self {
            protocol: Protocol::Tcp,
            from_client,
            from_endpoint: Bytes::new(),
            upstream: Upstream::new(Duration::ZERO),
        }
    }
}

/// An endpoint for a plain connection, dialled early.
pub(crate) enum Upstream {
    /// Not before this.
    Delayed(Pin<Box<Sleep>>),
    /// On the way.
    Dialling(Dialler),
    /// There.
    Connected(Dialled),
}

/// Why a connection ended before its protocol was known.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client's socket failed.
    Downstream(io::Error),
    /// The endpoint reset the connection before it said anything.
    Upstream(io::Error),
    /// No endpoint accepted.
    NoEndpoint(NoEndpoint),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Downstream(error) => write!(f, "downstream: {error}"),
            Self::Upstream(error) => write!(f, "upstream: {error}"),
            Self::NoEndpoint(none) => write!(f, "no endpoint, {} tried", none.tried_count),
        }
    }
}

enum Event {
    Connected,
    Readable,
}

impl Upstream {
    pub(crate) fn new(delay: Duration) -> Self {
        if delay.is_zero() {
            Self::Dialling(Dialler::default())
        } else {
            Self::Delayed(Box::pin(tokio::time::sleep(delay)))
        }
    }

    /// Connects, whatever was awaited until now. `first` is what the client has sent.
    pub(crate) async fn connected(
        self,
        worker: &Worker,
        route: &Route,
        first: &[u8],
    ) -> Result<Dialled, NoEndpoint> {
        match self {
            Self::Delayed(_) => Dialler::default().run(worker, route, first).await,
            Self::Dialling(mut dialler) => dialler.run(worker, route, first).await,
            Self::Connected(dialled) => Ok(dialled),
        }
    }

    /// Holds it against the endpoint if it failed and had not said anything.
    fn blame(&self, worker: &Worker, route: &Route, failure: Failure, said: &[u8]) -> Failure {
        if let (Failure::Upstream(_), Self::Connected(dialled)) = (&failure, self)
            && said.is_empty()
            && let Some(server) = route.server(worker)
        {
            server.fault(dialled.choice.target(), Fault::LostBeforeReply, Instant::now());
        }
        failure
    }

    /// The next thing that happens on the endpoint's side. Cancel safe.
    async fn event(
        &mut self,
        worker: &Worker,
        route: &Route,
        silent: bool,
    ) -> Result<Event, Failure> {
        if let Self::Delayed(sleep) = self {
            sleep.await;
            *self = Self::Dialling(Dialler::default());
        }
        match self {
            Self::Dialling(dialler) => {
                let dialled = dialler.run(worker, route, &[]).await.map_err(Failure::NoEndpoint)?;
                *self = Self::Connected(dialled);
                Ok(Event::Connected)
            }
            Self::Connected(dialled) if !silent => {
                dialled.socket.readable().await.map_err(Failure::Upstream)?;
                Ok(Event::Readable)
            }
            Self::Connected(_) | Self::Delayed(_) => pending().await,
        }
    }
}

/// Watches both sides until one of them settles the protocol, or until the worker's connections
/// are suspended. `heard` is what the client has sent already.
pub(crate) async fn open(
    worker: &Worker,
    route: &Route,
    downstream: &TcpStream,
    delay: Duration,
    heard: Bytes,
) -> Result<Opening, Failure> {
    let mut first = FirstBytes::default();
    let mut from_client = BytesMut::from(heard);
    let known = first.client(&from_client);
    let mut from_endpoint = BytesMut::new();
    let mut preface_due = None;
    // One turn of the event loop: what the client has sent already is known then, and a client
    // that has sent its preface needs no early dial.
    tokio::task::yield_now().await;
    let mut upstream = Upstream::new(delay);
    let protocol = loop {
        if let Some(protocol) = known {
            break protocol;
        }
        match read(worker, downstream, &mut from_client).map_err(Failure::Downstream)? {
            Read::Bytes(start) => {
                if let Some(protocol) = first.client(&from_client[start..]) {
                    break protocol;
                }
                continue;
            }
            // The client has nothing more to say, so it is not HTTP/2.
            Read::End => break Protocol::Tcp,
            Read::Nothing => {}
        }
        if preface_due.is_none() && !from_client.is_empty() {
            preface_due = Some(Box::pin(tokio::time::sleep(limits::PREFACE_TIMEOUT)));
        }
        tokio::select! {
            biased;
            readable = downstream.readable() => {
                readable.map_err(Failure::Downstream)?;
            }
            event = upstream.event(worker, route, first.endpoint_settled()) => {
                let blame = |failure| upstream.blame(worker, route, failure, &from_endpoint);
                let Event::Readable = event.map_err(blame)? else { continue };
                let Upstream::Connected(dialled) = &upstream else { continue };
                let heard = read(worker, &dialled.socket, &mut from_endpoint);
                let blame = |error| {
                    upstream.blame(worker, route, Failure::Upstream(error), &from_endpoint)
                };
                match heard.map_err(blame)? {
                    Read::Bytes(start) => {
                        if let Some(protocol) = first.endpoint(&from_endpoint[start..]) {
                            break protocol;
                        }
                    }
                    Read::End => break Protocol::Tcp,
                    Read::Nothing => {}
                }
            }
            () = due(preface_due.as_mut()) => break Protocol::Tcp,
            () = worker.suspended() => return Ok(Opening::Suspended(from_client.freeze())),
        }
    };
    Ok(Opening::Settled(Opened {
        protocol,
        from_client: from_client.freeze(),
        from_endpoint: from_endpoint.freeze(),
        upstream,
    }))
}

/// As the timer, if there is one; else never.
async fn due(timer: Option<&mut Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => pending().await,
    }
}

enum Read {
    /// Appended from this index on.
    Bytes(usize),
    End,
    Nothing,
}

/// Reads what there is, once.
fn read(worker: &Worker, socket: &TcpStream, into: &mut BytesMut) -> io::Result<Read> {
    worker.with_buffer(|buffer| {
        let buffer = &mut buffer[..limits::FIRST_READ_OCTETS];
        match read_once(socket, buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                let start = into.len();
                into.extend_from_slice(&buffer[..count]);
                Ok(Read::Bytes(start))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(error) => Err(error),
        }
    })
}
