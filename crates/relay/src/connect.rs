//! Dials endpoints: socket options, deadline, and the next endpoint when one does not answer.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use streamvs_balance::{Choice, ConnectFailure, Unit};
use tokio::net::{TcpSocket, TcpStream};

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
    /// Idle time before keepalive probes, and the time between them.
    pub keepalive: Duration,
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged.
    pub user_timeout: Duration,
}

impl Default for DialOptions {
    fn default() -> Self {
        Self {
            mark: None,
            timeout: Duration::from_millis(1500),
            keepalive: Duration::from_secs(30),
            user_timeout: Duration::from_secs(60),
        }
    }
}

/// An endpoint could not be reached. Nothing was sent: trying another is always safe.
#[derive(Debug)]
pub struct DialError {
    /// For the counter of failures.
    pub failure: ConnectFailure,
    /// What the kernel said.
    pub source: io::Error,
}

impl DialError {
    fn new(source: io::Error) -> Self {
        let failure = ConnectFailure::of(source.kind());
        Self { failure, source }
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
pub async fn dial(address: SocketAddr, options: DialOptions) -> Result<TcpStream, DialError> {
    let connect = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        prepare(&SockRef::from(&socket), &options)?;
        socket.connect(address).await
    };
    match tokio::time::timeout(options.timeout, connect).await {
        Ok(connected) => connected.map_err(DialError::new),
        Err(_) => Err(DialError::new(io::ErrorKind::TimedOut.into())),
    }
}

fn prepare(socket: &SockRef<'_>, options: &DialOptions) -> io::Result<()> {
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(options.keepalive).with_interval(options.keepalive),
    )?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))
}

/// An endpoint that accepted, with the choice that counts it as busy.
#[derive(Debug)]
pub struct Dialled {
    /// The connected socket.
    pub socket: TcpStream,
    /// The endpoint, counted as having one outstanding connection while this lives.
    pub choice: Choice,
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
/// [`DialOptions::timeout`]; a Service that has vanished meanwhile ends it.
#[derive(Default)]
pub struct Dialler {
    tried: Vec<SocketAddr>,
    attempt: Option<Attempt>,
}

struct Attempt {
    choice: Choice,
    dial: Dial,
}

/// A dial under way.
pub type Dial = Pin<Box<dyn Future<Output = Result<TcpStream, DialError>>>>;

impl Dialler {
    /// Runs until an endpoint has accepted.
    ///
    /// # Errors
    /// None of the usable endpoints did.
    ///
    /// Cancel safety: called again, it goes on where it was.
    pub async fn run(&mut self, worker: &Worker, route: &Route) -> Result<Dialled, NoEndpoint> {
        loop {
            let attempt = match &mut self.attempt {
                Some(attempt) => attempt,
                None => {
                    let picked = route.server(worker).and_then(|server| {
                        worker.pick(&server, route.client(), Unit::Connection, &self.tried)
                    });
                    let Some(choice) = picked else {
                        return Err(NoEndpoint { tried_count: self.tried.len() });
                    };
                    let dial = Box::pin(dial(choice.address(), worker.options.dial));
                    self.attempt.insert(Attempt { choice, dial })
                }
            };
            let connected = attempt.dial.as_mut().await;
            let Some(Attempt { choice, .. }) = self.attempt.take() else {
                continue;
            };
            match connected {
                Ok(socket) => return Ok(Dialled { socket, choice }),
                Err(error) => {
                    choice.target().stats().failures[error.failure.index()].inc();
                    tracing::debug!(
                        original_dst = %route.address(),
                        endpoint = %choice.address(),
                        error = %error.source,
                        "endpoint did not accept, trying the next"
                    );
                    self.tried.push(choice.address());
                }
            }
        }
    }

    /// The endpoint being dialled and the dial, for who can use it otherwise.
    pub fn into_attempt(self) -> Option<(Choice, Dial)> {
        self.attempt.map(|attempt| (attempt.choice, attempt.dial))
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler").field("tried", &self.tried).finish_non_exhaustive()
    }
}

/// Makes the kernel answer with a reset instead of a FIN when `socket` is dropped.
pub fn reset_on_drop(socket: &TcpStream) {
    // The only failure is a socket that is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
