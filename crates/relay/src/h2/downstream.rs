//! One client connection: settings, its streams, and its end.

use std::fmt;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use h2::Reason;
use streamvs_balance::{Choice, ConnectionLimit, Unit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::h2::switch::Code;
use crate::h2::{settings, stream};
use crate::worker::{Route, Worker};

/// Tells connections to end: turns true once, when the process begins to stop.
pub type Drain = watch::Receiver<bool>;

/// How a downstream connection went.
#[derive(Debug)]
pub struct Outcome {
    /// Streams the client opened.
    pub stream_count: u64,
    /// What ended it, when that was not an orderly close.
    pub error: Option<Error>,
}

/// Why a downstream connection ended other than by an orderly close.
#[derive(Debug)]
pub enum Error {
    /// The client sent the preface but no SETTINGS within [`settings::HANDSHAKE_TIMEOUT`].
    HandshakeTimeout,
    /// HTTP/2 or the socket failed.
    Http2(h2::Error),
    /// The client broke a rule, and was told so.
    Failed(Code),
    /// The client took too long over a frame or a header block, and was told so.
    TooSlow(Code),
    /// The socket failed.
    Socket(io::Error),
}

impl Error {
    /// The limit that ended the connection, if one did.
    pub fn limit(&self) -> Option<ConnectionLimit> {
        let stalled = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        match self {
            Self::HandshakeTimeout | Self::TooSlow(_) => Some(ConnectionLimit::Slow),
            Self::Failed(Code::ENHANCE_YOUR_CALM) => Some(ConnectionLimit::Flood),
            Self::Failed(_) => None,
            Self::Socket(error) => stalled(error).then_some(ConnectionLimit::Stalled),
            Self::Http2(error) if error.get_io().is_some_and(stalled) => {
                Some(ConnectionLimit::Stalled)
            }
            Self::Http2(error) => {
                let calms = !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
                calms.then_some(ConnectionLimit::Flood)
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HandshakeTimeout => f.write_str("no SETTINGS after the preface"),
            Self::Http2(error) => fmt::Display::fmt(error, f),
            Self::Failed(code) => write!(f, "client broke the protocol, {code}"),
            Self::TooSlow(code) => write!(f, "client was too slow, {code}"),
            Self::Socket(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::HandshakeTimeout | Self::Failed(_) | Self::TooSlow(_) => None,
            Self::Http2(error) => Some(error),
            Self::Socket(error) => Some(error),
        }
    }
}

/// Serves a client's connection until it ends. `first` is a choice made before the protocol was
/// known; the first stream takes it, so that it is not lost to the rotation.
///
/// Three things end it: the client closes (streams under way are reset), the connection fails, or
/// `drain` turns true. Then the client gets GOAWAY with the largest stream id, and after a round
/// trip the final one (RFC 9113 section 6.8); streams it opened before that are served to their
/// end. Who called owns the deadline: dropping the future closes the socket.
pub async fn serve<I>(
    worker: Rc<Worker>,
    route: Rc<Route>,
    socket: I,
    mut first: Option<Choice>,
    mut drain: Drain,
) -> Outcome
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream_count = 0;
    let handshake = settings::downstream().handshake(socket);
    let mut connection = match tokio::time::timeout(settings::HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            return Outcome { stream_count, error: Some(Error::Http2(error)) };
        }
        Err(_) => {
            return Outcome { stream_count, error: Some(Error::HandshakeTimeout) };
        }
    };
    let mut draining = pin!(async move {
        // A sender that is gone never drains: the process is being torn down anyway.
        if drain.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    let mut going_away = false;
    loop {
        // Biased: a drain that has begun is announced before another stream is taken.
        let accepted = tokio::select! {
            biased;
            () = &mut draining, if !going_away => {
                going_away = true;
                connection.graceful_shutdown();
                continue;
            }
            accepted = connection.accept() => accepted,
        };
        match accepted {
            Some(Ok((request, mut respond))) => {
                stream_count += 1;
                let Ok(seat) = route.open_stream(&worker) else {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                };
                let first = first.take().map(|choice| choice.into_unit(Unit::Stream));
                // Bounded by settings::DOWNSTREAM_STREAMS; ends when the connection does.
                tokio::task::spawn_local(stream::serve(
                    Rc::clone(&worker),
                    Rc::clone(&route),
                    seat,
                    first,
                    request,
                    respond,
                ));
            }
            Some(Err(error)) => {
                return Outcome { stream_count, error: Some(Error::Http2(error)) };
            }
            None => {
                return Outcome { stream_count, error: None };
            }
        }
    }
}
