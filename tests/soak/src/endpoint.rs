//! The endpoint, a process of its own so that it can be killed: gRPC, TCP and UDP in one pod.
//!
//! It sends back what it gets, with its name, and records each id first. SIGTERM asks it to end as
//! a good pod does: no new connections, GOAWAY on HTTP/2, a word to TCP clients that they shall go;
//! it still answers. SIGUSR1 then ends it once nothing is open any more.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_support::grpc;
use streamvs_support::lab::block_on_local;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::message;
use crate::records::{DAMAGED, Writer};

/// Where gRPC is served.
pub(crate) const GRPC_PORT: u16 = 9000;

/// Where TCP is served.
pub(crate) const TCP_PORT: u16 = 8080;

/// Where UDP is served.
pub(crate) const UDP_PORT: u16 = 5353;

/// What an answer begins with: the endpoint's name, filled up with spaces.
pub(crate) const NAME_BYTES: usize = 8;

/// The octet after the name: nothing special, or that the client shall go.
pub(crate) const STAY: u8 = b' ';
pub(crate) const GO: u8 = b'!';

/// The largest datagram.
pub(crate) const DATAGRAM_BYTES: usize = 2048;

/// How long connections may take to end after they were told.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Its name.
    #[arg(long)]
    pub(crate) name: String,
    /// The address it serves at.
    #[arg(long)]
    pub(crate) ip: IpAddr,
    /// Where it records what it has received.
    #[arg(long)]
    pub(crate) records: PathBuf,
}

/// What its parts share.
struct Shared {
    name: Vec<u8>,
    writer: Arc<Writer>,
    leaving: Cell<bool>,
    open: Cell<u64>,
}

/// Serves until it is told to end. 0: everything had ended by then.
pub(crate) fn run(options: &Options) -> ExitCode {
    block_on_local(serve(options)).expect("an endpoint can serve")
}

async fn serve(options: &Options) -> io::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut finish = signal(SignalKind::user_defined1())?;
    let writer = Arc::new(Writer::create(&options.records));
    let mut name = options.name.clone().into_bytes();
    name.resize(NAME_BYTES, b' ');
    let (leaving, open) = (Cell::new(false), Cell::new(0));
    let shared = Rc::new(Shared { name, writer: Arc::clone(&writer), leaving, open });

    let udp = UdpSocket::bind(SocketAddr::new(options.ip, UDP_PORT)).await?;
    let tcp = tokio::net::TcpListener::bind(SocketAddr::new(options.ip, TCP_PORT)).await?;
    let http2 = TcpListener::bind(SocketAddr::new(options.ip, GRPC_PORT))?;
    let seen = Arc::new(move |message: &[u8]| record(&writer, message));
    let http2 = grpc::Endpoint::on(http2, &options.name, None, seen);
    println!("serving");

    tokio::task::spawn_local(datagrams(udp, Rc::clone(&shared)));
    let connections = tokio::task::spawn_local(connections(tcp, Rc::clone(&shared)));
    terminate.recv().await;
    shared.leaving.set(true);
    connections.abort();
    http2.drain();
    finish.recv().await;
    let start = Instant::now();
    while http2.open_connections() > 0 || shared.open.get() > 0 {
        if start.elapsed() > PATIENCE {
            println!("open: {} HTTP/2, {} TCP", http2.open_connections(), shared.open.get());
            return Ok(ExitCode::FAILURE);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Records a message and says how long its answer waits: mostly not at all, sometimes long enough
/// for somebody to be killed meanwhile.
fn record(writer: &Writer, message: &[u8]) -> Duration {
    let id = message::decode(message).unwrap_or(DAMAGED);
    writer.add(id);
    let mut random = fastrand::Rng::with_seed(id);
    if random.u32(0..8) == 0 { Duration::from_millis(random.u64(1..60)) } else { Duration::ZERO }
}

async fn connections(listener: tokio::net::TcpListener, shared: Rc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            shared.open.set(shared.open.get() + 1);
            // However a connection ends, the client sees it.
            let _ = connection(socket, &shared).await;
            shared.open.set(shared.open.get() - 1);
        });
    }
}

/// Answers one message after another.
async fn connection(mut socket: TcpStream, shared: &Shared) -> io::Result<()> {
    socket.set_nodelay(true)?;
    while let Some(message) = read_message(&mut socket).await? {
        tokio::time::sleep(record(&shared.writer, &message)).await;
        let mut answer = shared.name.clone();
        answer.push(if shared.leaving.get() { GO } else { STAY });
        answer.extend_from_slice(&message);
        socket.write_all(&answer).await?;
    }
    socket.shutdown().await
}

/// The next message of a connection; none at its orderly end.
///
/// # Errors
/// When it ends otherwise, or in the middle, or what comes is no message.
pub(crate) async fn read_message(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; message::HEAD_BYTES];
    let first = socket.read(&mut message).await?;
    if first == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut message[first..]).await?;
    let Some((_, length)) = message::head(&message) else {
        return Err(io::Error::other("no message"));
    };
    message.resize(message::HEAD_BYTES + length, 0);
    socket.read_exact(&mut message[message::HEAD_BYTES..]).await?;
    Ok(Some(message))
}

async fn datagrams(socket: UdpSocket, shared: Rc<Shared>) {
    let socket = Rc::new(socket);
    let mut datagram = [0; DATAGRAM_BYTES];
    loop {
        // An error is of an earlier answer that nobody took.
        let Ok((length, from)) = socket.recv_from(&mut datagram).await else { continue };
        let wait = record(&shared.writer, &datagram[..length]);
        let answer = [&shared.name, &[STAY][..], &datagram[..length]].concat();
        let socket = Rc::clone(&socket);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            let _ = socket.send_to(&answer, from).await;
        });
    }
}
