//! One connection after another, tallied by who answered, with the time to the first octet.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::lab::Netns;

/// Far above what any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of many connections.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections answered, by endpoint.
    pub connections: BTreeMap<String, u64>,
    /// Connections that failed, in words.
    pub failures: Vec<String>,
    /// From connect to the endpoint's line, sorted.
    pub durations: Vec<Duration>,
}

impl Report {
    /// The middle duration; zero when no connection was answered.
    pub fn median(&self) -> Duration {
        self.durations.get(self.durations.len() / 2).copied().unwrap_or_default()
    }

    /// The difference between the busiest and the idlest of these endpoints.
    pub fn spread(&self, endpoints: &[&str]) -> u64 {
        let counts = endpoints.iter().map(|name| self.connections.get(*name).copied().unwrap_or(0));
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }
}

/// Who speaks first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// The client, as with [`Speak::Echo`](super::Speak::Echo).
    Client,
    /// The server, as with [`Speak::Banner`](super::Speak::Banner).
    Server,
}

/// Makes `count` connections from inside a namespace, one after another.
pub fn run(netns: &Netns, address: SocketAddr, first: First, count: usize) -> Report {
    netns.run(|| {
        let mut report = Report::default();
        for _ in 0..count {
            let start = Instant::now();
            match who(address, first) {
                Ok(name) => {
                    *report.connections.entry(name).or_insert(0) += 1;
                    report.durations.push(start.elapsed());
                }
                Err(error) => report.failures.push(error.to_string()),
            }
        }
        report.durations.sort_unstable();
        report
    })
}

/// Connects once and returns the name of who answered. For a thread inside the namespace.
///
/// # Errors
/// When nobody answers with a line within ten seconds.
pub fn who(address: SocketAddr, first: First) -> io::Result<String> {
    open(address, first).map(|(_, name)| name)
}

/// The same, with the connection still open.
///
/// # Errors
/// As [`who`].
pub fn open(address: SocketAddr, first: First) -> io::Result<(TcpStream, String)> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    if first == First::Client {
        socket.write_all(b"who?\n")?;
    }
    let mut line = String::new();
    BufReader::new(&socket).read_line(&mut line)?;
    let name = line.trim_end();
    let name = name.rsplit_once('-').map_or(name, |(_version, name)| name);
    if name.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let name = name.to_owned();
    Ok((socket, name))
}
