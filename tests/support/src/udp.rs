//! UDP endpoints that answer with their pod's name, and clients that ask them.

pub mod load;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::Family;
use crate::lab::Host;

/// How long an answer may take on a machine that builds something beside the test.
const PATIENCE: Duration = Duration::from_secs(10);

/// Room for questions that come while its machine does something else. Root may take more than
/// others (`SO_RCVBUFFORCE`).
const ROOM: usize = 4 << 20;

/// Answers `NAME` to each datagram, with the source address it saw and the question. Ends when
/// dropped.
#[derive(Debug)]
pub struct Endpoint {
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Starts it on a host's address of a family.
    ///
    /// # Panics
    /// When the port is taken there.
    pub fn start(host: &Host, family: Family, port: u16) -> Self {
        let (address, name) = (host.at(family, port), host.name().to_owned());
        let socket = host.run(|| UdpSocket::bind(address)).expect("the port is free in a pod");
        setsockopt(&socket, sockopt::RcvBufForce, &ROOM).expect("root may take that much");
        // So that it sees that it shall stop.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let server = host.spawn(move || {
            let mut datagram = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    let question = String::from_utf8_lossy(&datagram[..length]);
                    let _ = socket.send_to(format!("{name} {from} {question}").as_bytes(), from);
                }
            }
        });
        Self { stop, server: Some(server) }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// Who answered, and whom it saw asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The endpoint's host.
    pub pod: String,
    /// Whom the endpoint saw.
    pub client: SocketAddr,
}

/// A client's socket, connected to a Service.
#[derive(Debug)]
pub struct Client(UdpSocket);

impl Client {
    /// Opens it, without a datagram yet.
    ///
    /// # Panics
    /// When the host has no route there.
    pub fn new(host: &Host, service: SocketAddr) -> Self {
        let any: SocketAddr = match service {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0; 16], 0).into(),
        };
        let socket = host.run(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(service)?;
            io::Result::Ok(socket)
        });
        Self(socket.expect("a UDP socket can be connected"))
    }

    /// Asks once and waits.
    ///
    /// # Errors
    /// Nobody answered, or the question was refused.
    pub fn ask(&self) -> io::Result<Answer> {
        self.ask_within(PATIENCE)
    }

    /// Asks once and waits no longer than this.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_within(&self, timeout: Duration) -> io::Result<Answer> {
        self.0.set_read_timeout(Some(timeout))?;
        self.0.send(b"who?")?;
        let mut datagram = [0; 512];
        let length = loop {
            match self.0.recv(&mut datagram) {
                // A signal of a child: a read with a time-out is not begun anew by the kernel.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        Ok(read(&datagram[..length]).0)
    }
}

/// Reads an answer, and the question that it is an answer to.
fn read(datagram: &[u8]) -> (Answer, String) {
    let text = String::from_utf8_lossy(datagram);
    let words: Vec<&str> = text.splitn(3, ' ').collect();
    let [pod, client, question] = words[..] else { panic!("an answer has three parts: {text}") };
    let client = client.parse().expect("the second word is an address");
    (Answer { pod: pod.to_owned(), client }, question.to_owned())
}

/// Asks from a new socket each time and counts who answered. Fails where nobody does. No port is
/// used twice, since the kernel remembers the flow of a closed socket.
///
/// # Panics
/// When a question is not answered.
#[track_caller]
pub fn ask_anew(host: &Host, service: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut answered = BTreeMap::new();
    let clients: Vec<Client> = (0..count).map(|_| Client::new(host, service)).collect();
    for client in &clients {
        let answer = client.ask().expect("an endpoint answers");
        *answered.entry(answer.pod).or_default() += 1;
    }
    answered
}
