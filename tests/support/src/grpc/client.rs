//! A gRPC client on one HTTP/2 connection.
//!
//! Must run inside [`Netns::block_on`](crate::lab::Netns::block_on): the connection's own work is
//! a local task beside the calls.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::spawn_local;

use super::Kind;
use super::call::{next_message, send_message};
use super::message::Messages;

/// How long a connect or a whole call may take: far above any that succeeds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
    authority: String,
}

/// A call that ended with status 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Who answered.
    pub endpoint: String,
    /// With what.
    pub messages: Vec<Bytes>,
}

/// Why there is no [`Reply`].
#[derive(Debug)]
pub enum Failure {
    /// The connection could not be made.
    Connect(io::Error),
    /// The stream or its connection ended before the call did.
    Stream(h2::Error),
    /// The call ended with a gRPC status other than 0.
    Status {
        /// The status.
        code: u16,
        /// `grpc-message`, as sent.
        message: String,
    },
    /// The answer was not gRPC: the HTTP status it had.
    NotGrpc(u16),
    /// Nothing happened for [`PATIENCE`].
    TimedOut,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "connect: {error}"),
            Self::Stream(error) => write!(f, "stream: {error}"),
            Self::Status { code, message } => write!(f, "grpc-status {code}: {message}"),
            Self::NotGrpc(status) => write!(f, "not gRPC: HTTP status {status}"),
            Self::TimedOut => write!(f, "nothing within {PATIENCE:?}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Stream(error) => Some(error),
            Self::Status { .. } | Self::NotGrpc(_) | Self::TimedOut => None,
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Stream(error)
    }
}

impl Failure {
    /// True when the call was certainly not looked at by anybody, so that every gRPC library tries
    /// it once more by itself: the stream was refused, or lies above a GOAWAY's last one.
    pub fn is_untouched(&self) -> bool {
        match self {
            Self::Stream(error) => {
                error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away()
                        && error.is_remote()
                        && error.reason() == Some(h2::Reason::NO_ERROR))
            }
            _ => false,
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Open {
    body: SendStream<Bytes>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Awaited(ResponseFuture),
    Headers { headers: HeaderMap, body: RecvStream, messages: Messages },
}

impl Client {
    /// Connects to an address.
    ///
    /// # Errors
    /// [`Failure::Connect`], [`Failure::TimedOut`], or the handshake's.
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let socket = bounded(async { TcpStream::connect(address).await.map_err(Failure::Connect) });
        Self::over(socket.await?, address).await
    }

    /// Connects from a source port of the caller's choice. The connection will end in a reset, so
    /// that the port can be used again at once.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_from(source: SocketAddr, address: SocketAddr) -> Result<Self, Failure> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let connect = async {
            let socket = socket?;
            socket.set_reuseaddr(true)?;
            socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
            socket.bind(source)?;
            socket.connect(address).await
        };
        let socket = bounded(async { connect.await.map_err(Failure::Connect) }).await?;
        Self::over(socket, address).await
    }

    async fn over(socket: TcpStream, address: SocketAddr) -> Result<Self, Failure> {
        socket.set_nodelay(true).map_err(Failure::Connect)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
        // Hundreds of tiny answers at once are this client's purpose, not an attack on it.
        builder.data_frame_budget(1 << 24).enable_push(false);
        let (requests, connection) = builder.handshake(socket).await?;
        spawn_local(async move {
            // Its calls report the end of a connection; nobody else waits for it.
            let _ = connection.await;
        });
        Ok(Self { requests, authority: address.to_string() })
    }

    /// Waits until the connection takes one more call.
    ///
    /// # Errors
    /// When it never will: it is gone, or the other side said GOAWAY.
    pub async fn ready(&self) -> Result<(), Failure> {
        self.requests.clone().ready().await.map(drop).map_err(Failure::Stream)
    }

    /// Opens a call of a kind.
    ///
    /// # Errors
    /// When the connection takes no more calls.
    pub async fn open(&self, kind: Kind) -> Result<Open, Failure> {
        self.open_with(kind, &HeaderMap::new()).await
    }

    /// Opens a call with more headers.
    ///
    /// # Errors
    /// When the connection takes no more calls.
    pub async fn open_with(&self, kind: Kind, more: &HeaderMap) -> Result<Open, Failure> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{}", self.authority, kind.path()))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", "streamvs-support")
            .body(())
            .expect("the request is well-formed");
        request.headers_mut().extend(more.clone());
        let mut requests = self.requests.clone().ready().await?;
        let (response, body) = requests.send_request(request, false)?;
        Ok(Open { body, answer: Answer::Awaited(response) })
    }

    /// Makes a whole call: sends the messages, ends, and reads to the end.
    ///
    /// # Errors
    /// When it does not end with status 0 within [`PATIENCE`].
    pub async fn call(&self, kind: Kind, messages: &[Bytes]) -> Result<Reply, Failure> {
        bounded(async {
            let mut open = self.open(kind).await?;
            for message in messages {
                open.send(message).await?;
            }
            open.end()?;
            let mut replies = Vec::new();
            while let Some(message) = open.next().await? {
                replies.push(message);
            }
            let endpoint = open.finish().await?;
            Ok(Reply { endpoint, messages: replies })
        })
        .await
    }

    /// A unary call.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn unary(&self, message: &[u8]) -> Result<Reply, Failure> {
        self.call(Kind::Unary, &[Bytes::copy_from_slice(message)]).await
    }

    /// A call of any kind with a small, fitting question; the answer is checked.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    ///
    /// # Panics
    /// When the answer is not the one the service promises.
    pub async fn ask(&self, kind: Kind) -> Result<Reply, Failure> {
        let (question, answer): (&[&str], &[&str]) = match kind {
            Kind::Unary => (&["ping"], &["ping"]),
            Kind::ServerStream => (&["3"], &["0", "1", "2"]),
            Kind::ClientStream => (&["a", "b", "c"], &["3"]),
            Kind::Bidi => (&["a", "b"], &["a", "b"]),
        };
        let messages: Vec<Bytes> =
            question.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        let reply = self.call(kind, &messages).await?;
        assert_eq!(reply.messages, answer, "{kind:?} answered by {}", reply.endpoint);
        Ok(reply)
    }
}

impl Open {
    /// Sends a message, waiting for credit.
    ///
    /// # Errors
    /// When the stream is no longer open.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        send_message(&mut self.body, message).await.map_err(Failure::Stream)
    }

    /// Ends the sending side.
    ///
    /// # Errors
    /// When the stream is no longer open.
    pub fn end(&mut self) -> Result<(), Failure> {
        self.body.send_data(Bytes::new(), true).map_err(Failure::Stream)
    }

    /// Cancels the call: `RST_STREAM(CANCEL)`.
    pub fn cancel(mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }

    /// Who answers, known once the response's headers are here.
    ///
    /// # Errors
    /// When the stream ends first.
    pub async fn endpoint(&mut self) -> Result<String, Failure> {
        let (headers, ..) = self.headers().await?;
        Ok(text(headers, "x-endpoint"))
    }

    /// The next message; none at the end.
    ///
    /// # Errors
    /// When the stream ends otherwise.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let (_, body, messages) = self.headers().await?;
        next_message(body, messages).await.map_err(Failure::Stream)
    }

    /// Waits for the status that ends the call and returns who answered.
    ///
    /// # Errors
    /// When the status is not 0, or the stream ends without one.
    pub async fn finish(mut self) -> Result<String, Failure> {
        let (headers, body, _) = self.headers().await?;
        let endpoint = text(headers, "x-endpoint");
        let only_headers = headers.contains_key("grpc-status").then(|| headers.clone());
        let trailers = match only_headers {
            Some(headers) => headers,
            None => body.trailers().await?.unwrap_or_default(),
        };
        match text(&trailers, "grpc-status").parse::<u16>() {
            Ok(0) => Ok(endpoint),
            Ok(code) => Err(Failure::Status { code, message: text(&trailers, "grpc-message") }),
            Err(_) => Err(Failure::NotGrpc(200)),
        }
    }

    async fn headers(&mut self) -> Result<(&HeaderMap, &mut RecvStream, &mut Messages), Failure> {
        if let Answer::Awaited(response) = &mut self.answer {
            let (head, body) = response.await?.into_parts();
            if head.status != http::StatusCode::OK {
                return Err(Failure::NotGrpc(head.status.as_u16()));
            }
            self.answer =
                Answer::Headers { headers: head.headers, body, messages: Messages::default() };
        }
        match &mut self.answer {
            Answer::Headers { headers, body, messages } => Ok((headers, body, messages)),
            Answer::Awaited(_) => unreachable!("the response was just awaited"),
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

async fn bounded<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Failure::TimedOut))
}
