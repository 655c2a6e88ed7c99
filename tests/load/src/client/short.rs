//! Short connections: connect, one message there and back, close; some at a time.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::wrong;
use crate::endpoint::plain::ECHO;
use crate::histogram::Histogram;
use crate::pattern::plain_message;
use crate::ready::{Ready, Watch};
use crate::socket::{begin_connect, receive, send};

/// Without any step for this long something is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    /// Connections at a time
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Octets of a message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Connections in all
    #[arg(long)]
    count: u64,
    /// No new connection after this time
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

struct Connection {
    socket: TcpStream,
    begun: Instant,
    sent: bool,
    received: usize,
}

impl Connection {
    fn begin(address: SocketAddr, ready: &Ready, number: usize) -> io::Result<Self> {
        let begun = Instant::now();
        let socket = begin_connect(address)?;
        ready.add(&socket, number, Watch::Write)?;
        Ok(Self { socket, begun, sent: false, received: 0 })
    }
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let mut request = vec![ECHO];
    request.extend(plain_message(options.size));
    let mut buffer = vec![0; options.size + 1];
    let mut ready = Ready::new()?;
    let mut histogram = Histogram::new();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let at_once = options.concurrency.min(usize::try_from(options.count).unwrap_or(usize::MAX));
    let mut connections = (0..at_once)
        .map(|number| Connection::begin(options.address, &ready, number))
        .collect::<io::Result<Vec<_>>>()?;
    let mut begun = at_once as u64;
    let mut live = at_once;
    while live > 0 {
        for place in 0..ready.wait(Some(SILENCE_MAX))? {
            let event = ready.event(place);
            let connection = &mut connections[event.number];
            if !connection.sent {
                if send(&connection.socket, &request)? != Some(request.len()) {
                    return Err(wrong("a new connection took less than a message"));
                }
                connection.sent = true;
                ready.change(&connection.socket, event.number, Watch::Read)?;
                continue;
            }
            let from = connection.received;
            match receive(&connection.socket, &mut buffer[from..])? {
                None => continue,
                Some(0) => return Err(wrong("the connection ended")),
                Some(count) => connection.received += count,
            }
            if request[1..].get(from..connection.received)
                != Some(&buffer[from..connection.received])
            {
                return Err(wrong("another message came back"));
            }
            if connection.received < options.size {
                continue;
            }
            histogram.add(connection.begun.elapsed());
            if begun < options.count && Instant::now() < end {
                begun += 1;
                // The one that is done closes when it is overwritten.
                *connection = Connection::begin(options.address, &ready, event.number)?;
            } else {
                live -= 1;
                ready.remove(&connection.socket)?;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(histogram.report(json!({ "n": histogram.count(), "seconds": seconds, "errors": 0 })))
}
