//! An HTTP/2 endpoint that follows a script.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What an endpoint does with its streams.
#[derive(Clone, Debug)]
pub enum Script {
    /// Reads the whole request, answers with its bytes, `endpoint: ADDRESS` and `grpc-status: 0`.
    Echo,
    /// Sends each chunk back as it comes.
    Stream,
    /// The same, and begins its response with the first.
    StreamLate,
    /// Answers trailers-only with this status before it reads the request.
    Fail(u32),
    /// Begins a response, and ends it with this status.
    FailLate(u32),
    /// Sends 103 with `link: hint`, then as [`Script::Echo`].
    Informational,
    /// Refuses every stream with REFUSED_STREAM.
    Refuse,
    /// Resets every stream with this code, having read nothing.
    Reset(Reason),
    /// Sends response headers and some data, then closes the socket.
    BreakMidway,
    /// Closes the socket when the first request's head has come.
    BreakBefore,
    /// Answers nothing, and counts the streams that were cancelled.
    Hang,
    /// As [`Script::Echo`], with GOAWAY after this many streams.
    GoAwayAfter(usize),
    /// As [`Script::Echo`], with this many streams allowed at once.
    MaxStreams(u32),
    /// As [`Script::Echo`], but says nothing before it is released, not even SETTINGS.
    Mute,
    /// Answers with this many octets, as fast as they are taken.
    Pour(usize),
}

/// A listening endpoint. Dropping it stops it, connections included.
#[derive(Debug)]
pub struct EndpointServer {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    streams: AtomicUsize,
    connections: AtomicUsize,
    peers: Mutex<Vec<IpAddr>>,
    cancelled: AtomicUsize,
    most_at_once: AtomicUsize,
    open: AtomicUsize,
    release: Notify,
    octets: Arc<AtomicUsize>,
}

impl EndpointServer {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start(script: Script) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script).await
    }

    /// Starts one there.
    pub async fn start_at(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("is bound");
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(accept(listener, script, Arc::clone(&counts), address));
        Self { address, counts, task }
    }

    /// Streams it has seen.
    pub fn streams(&self) -> usize {
        self.counts.streams.load(Ordering::SeqCst)
    }

    /// Connections it has accepted.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Who made them, in order.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.counts.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Streams that were reset under [`Script::Hang`].
    pub fn cancelled(&self) -> usize {
        self.counts.cancelled.load(Ordering::SeqCst)
    }

    /// The most streams that were open on one connection at once.
    pub fn most_at_once(&self) -> usize {
        self.counts.most_at_once.load(Ordering::SeqCst)
    }

    /// Octets that were taken under [`Script::Pour`].
    pub fn octets(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.counts.octets)
    }

    /// Lets all streams under [`Script::MaxStreams`] answer, and all connections under
    /// [`Script::Mute`] begin, that wait now.
    pub fn release(&self) {
        self.counts.release.notify_waiters();
    }
}

impl Drop for EndpointServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts `count` endpoints with the same script.
pub async fn start_all(count: usize, script: Script) -> Vec<EndpointServer> {
    let mut endpoints = Vec::new();
    for _ in 0..count {
        endpoints.push(EndpointServer::start(script.clone()).await);
    }
    endpoints
}

/// Their addresses.
pub fn addresses(endpoints: &[EndpointServer]) -> Vec<SocketAddr> {
    endpoints.iter().map(|endpoint| endpoint.address).collect()
}

async fn accept(listener: TcpListener, script: Script, counts: Arc<Counts>, name: SocketAddr) {
    // Connections die with their JoinSet, that is with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((socket, peer)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        counts.peers.lock().unwrap_or_else(PoisonError::into_inner).push(peer.ip());
        connections.spawn(serve(socket, script.clone(), Arc::clone(&counts), name));
    }
}

async fn serve(socket: TcpStream, script: Script, counts: Arc<Counts>, name: SocketAddr) {
    let mut builder = server::Builder::new();
    builder.data_frame_budget(64 * 1024 * 1024);
    if let Script::MaxStreams(most) = script {
        builder.max_concurrent_streams(most);
    }
    socket.set_nodelay(true).expect("is connected");
    if matches!(script, Script::Mute) {
        counts.release.notified().await;
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let count = counts.streams.fetch_add(1, Ordering::SeqCst) + 1;
        match script {
            Script::BreakBefore => return,
            Script::GoAwayAfter(after) if count == after => connection.graceful_shutdown(),
            _ => {}
        }
        let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_at_once.fetch_max(open, Ordering::SeqCst);
        let breaks = matches!(script, Script::BreakMidway);
        let (script, counts) = (script.clone(), Arc::clone(&counts));
        streams.spawn(async move {
            let _ = answer(request, respond, &script, &counts, name).await;
            counts.open.fetch_sub(1, Ordering::SeqCst);
        });
        if breaks {
            // Polling writes what the stream has sent; then the socket is closed.
            let _ = tokio::time::timeout(Duration::from_millis(50), connection.accept()).await;
            return;
        }
    }
    while streams.join_next().await.is_some() {}
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: &Script,
    counts: &Counts,
    name: SocketAddr,
) -> Result<(), h2::Error> {
    let authority = request.uri().authority().map_or("none".to_owned(), ToString::to_string);
    let head = || {
        Response::builder()
            .header("authority", &authority)
            .header("content-type", "application/grpc")
            .header("endpoint", name.to_string())
            .body(())
            .expect("is a response")
    };
    let mut ok = HeaderMap::new();
    ok.insert("grpc-status", HeaderValue::from_static("0"));
    let mut body = request.into_body();
    match script {
        Script::Fail(status) => {
            let mut response = head();
            response.headers_mut().insert("grpc-status", HeaderValue::from(*status));
            respond.send_response(response, true)?;
        }
        Script::FailLate(status) => {
            let mut stream = respond.send_response(head(), false)?;
            ok.insert("grpc-status", HeaderValue::from(*status));
            stream.send_trailers(ok)?;
        }
        Script::Refuse => respond.send_reset(Reason::REFUSED_STREAM),
        Script::Reset(reason) => respond.send_reset(*reason),
        Script::BreakMidway => {
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data(Bytes::from_static(b"part"), false)?;
            // Dropped now, the stream would be reset before the socket is closed.
            std::future::pending::<()>().await;
        }
        Script::Hang => {
            let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            if reset.is_ok() {
                counts.cancelled.fetch_add(1, Ordering::SeqCst);
            }
        }
        Script::Stream | Script::StreamLate => {
            let mut next = match script {
                Script::StreamLate => body.data().await,
                _ => None,
            };
            let mut stream = respond.send_response(head(), false)?;
            if next.is_none() {
                next = body.data().await;
            }
            while let Some(chunk) = next {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                stream.send_data(chunk, false)?;
                next = body.data().await;
            }
            stream.send_trailers(ok)?;
        }
        Script::Pour(octets) => {
            let mut stream = respond.send_response(head(), false)?;
            send_all(&mut stream, *octets, |taken| {
                counts.octets.fetch_add(taken, Ordering::SeqCst);
            })
            .await?;
            stream.send_trailers(ok)?;
        }
        Script::Echo
        | Script::Informational
        | Script::BreakBefore
        | Script::GoAwayAfter(_)
        | Script::MaxStreams(_)
        | Script::Mute => {
            if matches!(script, Script::Informational) {
                let hint = Response::builder().status(103).header("link", "hint").body(());
                respond.send_informational(hint.expect("is a response"))?;
            }
            let mut all = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk?;
                body.flow_control().release_capacity(chunk.len())?;
                all.extend_from_slice(&chunk);
            }
            if matches!(script, Script::MaxStreams(_)) {
                counts.release.notified().await;
            }
            let mut stream = respond.send_response(head(), false)?;
            stream.send_data(all.into(), false)?;
            stream.send_trailers(ok)?;
        }
    }
    Ok(())
}

/// Sends so many octets as fast as they are taken, and says how many each time.
///
/// # Errors
/// The stream or the connection failed.
pub async fn send_all(
    stream: &mut SendStream<Bytes>,
    octets: usize,
    on_taken: impl Fn(usize),
) -> Result<(), h2::Error> {
    let mut left = octets;
    while left > 0 {
        stream.reserve_capacity(left.min(16_384));
        let Some(credit) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return Ok(());
        };
        let count = credit?.min(left);
        left -= count;
        stream.send_data(Bytes::from(vec![7; count]), false)?;
        on_taken(count);
    }
    Ok(())
}
