//! Dials endpoints: socket options, deadline, and the next endpoint when one does not answer.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::MSG_NOSIGNAL;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use streamvs_balance::{Choice, ConnectFailure, Fault, Unit};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::Leg;
use crate::worker::{Route, Worker};

/// How to connect to endpoints.
#[derive(Clone, Copy, Debug)]
pub struct DialOptions {
    /// SO_MARK of every upstream socket, by which `capture` knows our own and lets them pass.
    /// None without the privilege to set it: then nothing may be captured either.
    pub mark: Option<u32>,
    /// How long one endpoint may take to accept. Longer than the kernel's first SYN
    /// retransmission (1 s), so that one lost packet does not fail an endpoint.
    pub timeout: Duration,
    /// When a silent endpoint is asked whether it is still there.
    pub keepalive: Keepalive,
    /// TCP_USER_TIMEOUT of connections that streams share, see [`share`].
    pub user_timeout: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            mark: None,
            timeout: Duration::from_millis(1500),
            keepalive: Keepalive::default(),
            user_timeout: Duration::from_secs(60),
        }
    }
}

/// TCP keepalive of either side's connections: what ends those whose peer has vanished, if nothing is
/// on its way to it. After `time + net.ipv4.tcp_keepalive_probes * interval` without an answer the
/// kernel fails the connection (tcp(7)).
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// How long nothing comes before the first probe. Whole seconds, 1 to 32,767.
    pub time: Duration,
    /// Between two probes. Whole seconds, 1 to 32,767.
    pub interval: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), interval: Duration::from_secs(30) }
    }
}

impl Keepalive {
    /// Sets it on a connection, or on a listener for what that accepts.
    ///
    /// # Errors
    /// As setsockopt(2), with durations outside of what is said above.
    pub fn set(self, socket: SockRef<'_>) -> io::Result<()> {
        let keepalive = TcpKeepalive::new().with_time(self.time).with_interval(self.interval);
        socket.set_tcp_keepalive(&keepalive)
    }
}

/// An endpoint could not be reached. Nothing was sent: trying another is always safe.
#[derive(Debug)]
pub struct DialError {
    /// For the counter of failures.
    pub failure: ConnectFailure,
    /// What the kernel said.
    pub source: io::Error,
    /// What that says of the endpoint.
    pub fault: Option<Fault>,
    /// When it failed.
    pub at: Instant,
}

impl DialError {
    fn new(source: io::Error) -> Self {
        let failure = ConnectFailure::of(source.kind());
        Self { failure, source, fault: dial_fault(failure), at: Instant::now() }
    }
}

/// What a failed dial says of the endpoint: nothing where there is no local port left, or something
/// else of ours is to blame.
pub(crate) fn dial_fault(failure: ConnectFailure) -> Option<Fault> {
    match failure {
        ConnectFailure::Refused | ConnectFailure::TimedOut | ConnectFailure::Unreachable => {
            Some(Fault::DialFailed)
        }
        ConnectFailure::Other => None,
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint cannot be reached: {}", self.source)
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// Connects to one endpoint within [`DialOptions::timeout`].
///
/// Cancel safety: dropping the future closes the socket.
pub async fn dial(leg: Leg, options: DialOptions) -> Result<TcpStream, DialError> {
    let socket = begin(leg, &options, false).map_err(DialError::new)?;
    established(socket, options.timeout).await.map_err(DialError::new)
}

/// Starts to connect. What this returns may be connected already: the whole handshake with an
/// endpoint on this node happens inside connect(2).
///
/// Who `speaks` calls [`speak`] as soon as the socket is connected. The handshake's last segment
/// then goes with what is said, instead of as a segment of its own through both sides' rules: with
/// TCP_QUICKACK off (tcp(7)) the kernel puts it off when the SYN is answered. For who does not
/// speak it would come up to 200 ms late, and an endpoint that speaks first would wait for it.
fn begin(leg: Leg, options: &DialOptions, speaks: bool) -> io::Result<TcpStream> {
    let address = leg.endpoint();
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    options.keepalive.set(SockRef::from(&socket))?;
    if speaks {
        // Without it there is a segment more.
        let _ = socket.set_tcp_quickack(false);
    }
    if let Some(source) = leg.source() {
        if leg.is_transparent() {
            // Any address, and packets to it that this socket is asked for are its own (ip(7)). The
            // option is the socket's, whatever its family.
            setsockopt(&socket, sockopt::IpTransparent, &true)?;
        }
        bind(&socket, source)?;
    }
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        _ => TcpStream::from_std(socket.into()),
    }
}

/// Makes `source` the socket's own address. Its port is chosen by connect(2), which knows the
/// destination: so each destination has all ports, and not all destinations together.
fn bind(socket: &Socket, source: IpAddr) -> io::Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    if source.is_ipv6() {
        // IPv6 takes a route for the address as no proof that it is the node's own.
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&SocketAddr::new(source, 0).into())
}

/// Waits until the endpoint has accepted. Only a socket that the kernel reports as failed is asked
/// why, which spares a getsockopt(2) for all others.
async fn established(socket: TcpStream, timeout: Duration) -> io::Result<TcpStream> {
    let ready = socket.ready(Interest::WRITABLE | Interest::ERROR);
    let ready =
        tokio::time::timeout(timeout, ready).await.map_err(|_| io::ErrorKind::TimedOut)??;
    if (ready.is_error() || ready.is_write_closed())
        && let Some(error) = socket.take_error()?
    {
        return Err(error);
    }
    Ok(socket)
}

/// An endpoint that accepted, with the choice that counts it as busy.
#[derive(Debug)]
pub struct Dialled {
    /// The connected socket.
    pub socket: TcpStream,
    /// The endpoint, counted as having one outstanding connection while this lives.
    pub choice: Choice,
    /// How it was reached.
    pub leg: Leg,
    /// How many of the first octets the socket has taken already.
    pub sent_count: usize,
}

/// No endpoint accepted a plain connection.
#[derive(Debug)]
pub struct NoEndpoint {
    /// How many were tried.
    pub tried_count: usize,
}

/// Connects to the endpoint the scheduler picks, and on failure to the next one until one accepts.
///
/// Each endpoint is tried once, so the wait is at most the number of endpoints times
/// [`DialOptions::timeout`], and once more for each that was removed while it was dialled; a
/// Service that has vanished meanwhile ends it.
#[derive(Default)]
pub struct Dialler {
    tried: Vec<SocketAddr>,
    /// Of the table that the last pick was made from.
    generation: u64,
    attempt: Option<Attempt>,
}

/// An endpoint that is being dialled.
pub struct Attempt {
    /// The endpoint, counted as busy while this lives.
    pub choice: Choice,
    /// How it is reached.
    pub leg: Leg,
    /// Yields the connected socket.
    pub dial: Dial,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("leg", &self.leg).finish_non_exhaustive()
    }
}

/// A dial under way.
pub type Dial = Pin<Box<dyn Future<Output = Result<TcpStream, DialError>>>>;

impl Dialler {
    /// Runs until an endpoint has accepted. `first`, if not empty, is what the client has sent: it
    /// is offered to each new socket at once, which an endpoint on this node takes without any
    /// waiting. An endpoint that took some of it has accepted.
    ///
    /// # Errors
    /// None of the usable endpoints did.
    ///
    /// Cancel safety: called again, it goes on where it was, unless octets of `first` were taken.
    pub async fn run(
        &mut self,
        worker: &Worker,
        route: &Route,
        first: &[u8],
    ) -> Result<Dialled, NoEndpoint> {
        loop {
            let Attempt { choice, leg, dial } = match self.attempt.take() {
                Some(attempt) => attempt,
                None => {
                    self.generation = worker.generation();
                    let picked = route.server(worker).and_then(|server| {
                        worker.pick(&server, route, Unit::Connection, &self.tried)
                    });
                    let Some(choice) = picked else {
                        return Err(NoEndpoint { tried_count: self.tried.len() });
                    };
                    let leg = route.leg(worker, choice.address());
                    match offer(leg, &worker.options.dial, first) {
                        Ok(Offered::Taken(socket, sent_count)) => {
                            return Ok(Dialled { socket, choice, leg, sent_count });
                        }
                        Ok(Offered::Waiting(socket)) => {
                            let timeout = worker.options.dial.timeout;
                            let dial = established(socket, timeout);
                            let dial = Box::pin(async { dial.await.map_err(DialError::new) });
                            Attempt { choice, leg, dial }
                        }
                        Err(error) => {
                            self.failed(worker, route, &choice, DialError::new(error));
                            continue;
                        }
                    }
                }
            };
            let attempt = self.attempt.insert(Attempt { choice, leg, dial });
            let connected = attempt.dial.as_mut().await;
            let Some(Attempt { choice, leg, .. }) = self.attempt.take() else {
                continue;
            };
            match connected {
                // It has heard nothing of the connection yet. The table is another one, so that
                // the next pick is too.
                Ok(_)
                    if choice.target().retired_at().is_some()
                        && worker.generation() != self.generation => {}
                Ok(socket) => {
                    // A socket that has failed since tells whoever uses it next.
                    let sent_count = speak(&socket, first).unwrap_or(0);
                    return Ok(Dialled { socket, choice, leg, sent_count });
                }
                Err(error) => self.failed(worker, route, &choice, error),
            }
        }
    }

    fn failed(&mut self, worker: &Worker, route: &Route, choice: &Choice, error: DialError) {
        choice.target().stats().failures[error.failure.index()].inc();
        if let (Some(fault), Some(server)) = (error.fault, route.server(worker)) {
            server.fault(choice.target(), fault, error.at);
        }
        tracing::debug!(
            original_dst = %route.address(),
            endpoint = %choice.address(),
            error = %error.source,
            "endpoint did not accept, trying the next"
        );
        self.tried.push(choice.address());
    }

    /// The dial under way, for who can use it otherwise.
    pub fn into_attempt(self) -> Option<Attempt> {
        self.attempt
    }
}

/// A dial that has begun.
enum Offered {
    /// Connected, and so many octets of the first ones taken.
    Taken(TcpStream, usize),
    /// Not connected yet, or there was nothing to offer.
    Waiting(TcpStream),
}

/// Starts to connect and offers `first`, which a socket that is still connecting refuses.
fn offer(leg: Leg, options: &DialOptions, first: &[u8]) -> io::Result<Offered> {
    let socket = begin(leg, options, !first.is_empty())?;
    if first.is_empty() {
        return Ok(Offered::Waiting(socket));
    }
    match speak(&socket, first) {
        Ok(count) => Ok(Offered::Taken(socket, count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Offered::Waiting(socket)),
        Err(error) => Err(error),
    }
}

/// Sends the first octets on a new socket, if there are any, and says how many it took.
///
/// From then on it acknowledges as any new socket does. One that has put off its first
/// acknowledgement would go on to put them off by 40 ms, and an endpoint without TCP_NODELAY waits
/// for one between two small writes.
fn speak(socket: &TcpStream, first: &[u8]) -> io::Result<usize> {
    if first.is_empty() {
        return Ok(0);
    }
    // The driver may not have reported this socket yet, so that it is asked past tokio.
    let socket = SockRef::from(socket);
    let count = socket.send_with_flags(first, MSG_NOSIGNAL)?;
    // Fails where the socket is gone already.
    let _ = socket.set_tcp_quickack(true);
    Ok(count)
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler").field("tried", &self.tried).finish_non_exhaustive()
    }
}

/// Prepares a connection that many streams share, on either side: a peer that acknowledges nothing
/// for [`DialOptions::user_timeout`] fails it, or streams would go on being sent into the void, and
/// what waits for a client that never reads would wait for ever.
///
/// Not for plain connections: the kernel counts a receiver that has closed its window as one that
/// acknowledges nothing (tcp(7)), and would cut off every client or endpoint that pauses.
pub fn share(socket: &TcpStream, options: &DialOptions) {
    // Fails where the socket is gone already.
    let _ = SockRef::from(socket).set_tcp_user_timeout(Some(options.user_timeout));
}

/// Makes the kernel answer with a reset instead of a FIN when `socket` is dropped.
pub fn reset_on_drop(socket: &TcpStream) {
    // The only failure is a socket that is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
