//! One message in flight on each connection, for some seconds.

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
use crate::socket::{connect, receive, receive_exact, send_all};

/// Without an answer for this long something is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Octets of a message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

struct Connection {
    socket: TcpStream,
    sent: Instant,
    received: usize,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let message = plain_message(options.size);
    let mut buffer = vec![0; options.size];
    let mut ready = Ready::new()?;
    let mut connections = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let socket = connect(options.address)?;
        // One exchange that is not timed, so that setting up is not measured.
        send_all(&socket, &[ECHO])?;
        send_all(&socket, &message)?;
        receive_exact(&socket, &mut buffer)?;
        ready.add(&socket, number, Watch::Read)?;
        connections.push(Connection { socket, sent: Instant::now(), received: 0 });
    }

    let mut histogram = Histogram::new();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let mut last = start;
    for connection in &mut connections {
        connection.sent = Instant::now();
        send_all(&connection.socket, &message)?;
    }
    let mut live = connections.len();
    while live > 0 {
        for place in 0..ready.wait(Some(SILENCE_MAX))? {
            let event = ready.event(place);
            let connection = &mut connections[event.number];
            let from = connection.received;
            match receive(&connection.socket, &mut buffer[from..])? {
                None => continue,
                Some(0) => return Err(wrong("the connection ended")),
                Some(count) => connection.received += count,
            }
            if buffer[from..connection.received] != message[from..connection.received] {
                return Err(wrong("another message came back"));
            }
            if connection.received < options.size {
                continue;
            }
            last = Instant::now();
            histogram.add(last - connection.sent);
            connection.received = 0;
            if last >= end {
                live -= 1;
                ready.remove(&connection.socket)?;
                continue;
            }
            connection.sent = last;
            send_all(&connection.socket, &message)?;
        }
    }
    let seconds = (last - start).as_secs_f64();
    Ok(histogram.report(json!({ "n": histogram.count(), "seconds": seconds, "errors": 0 })))
}
