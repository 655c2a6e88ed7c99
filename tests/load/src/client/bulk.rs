//! Many octets one way, on some connections at once.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::wrong;
use crate::endpoint::plain::{CHECK, DOWNLOAD, UPLOAD, verdict};
use crate::pattern::{CHUNK, Pattern};
use crate::ready::{Ready, Watch};
use crate::socket::{connect, discard, receive, send, send_all};

/// Without an octet for this long something is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What is given to the kernel at once.
const WRITE: usize = 128 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    direction: Direction,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Octets on each connection
    #[arg(long)]
    bytes: u64,
    /// Compare each octet; without this the receiver lets the kernel drop them, so that it is not
    /// what is measured
    #[arg(long)]
    check: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    Down,
    Up,
}

struct Transfer {
    socket: TcpStream,
    moved: u64,
    /// All is sent, and the endpoint's verdict is awaited.
    closing: bool,
    verdict: Vec<u8>,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let pattern = Pattern::new();
    let mut buffer = vec![0; CHUNK];
    let mut ready = Ready::new()?;
    let start = Instant::now();
    let mut transfers = Vec::with_capacity(options.connections);
    for number in 0..options.connections {
        let socket = connect(options.address)?;
        let watch = match options.direction {
            Direction::Down => {
                let mut request = vec![DOWNLOAD];
                request.extend_from_slice(&options.bytes.to_le_bytes());
                send_all(&socket, &request)?;
                Watch::Read
            }
            Direction::Up => {
                send_all(&socket, &[if options.check { CHECK } else { UPLOAD }])?;
                Watch::Write
            }
        };
        ready.add(&socket, number, watch)?;
        transfers.push(Transfer { socket, moved: 0, closing: false, verdict: Vec::new() });
    }
    let mut live = transfers.len();
    while live > 0 {
        for place in 0..ready.wait(Some(SILENCE_MAX))? {
            let event = ready.event(place);
            let transfer = &mut transfers[event.number];
            let done = match options.direction {
                Direction::Down => transfer.download(options, &pattern, &mut buffer)?,
                Direction::Up if transfer.closing => transfer.conclude(options)?,
                Direction::Up => {
                    transfer.upload(options, &pattern)?;
                    if transfer.closing {
                        ready.change(&transfer.socket, event.number, Watch::Read)?;
                    }
                    false
                }
            };
            if done {
                live -= 1;
                ready.remove(&transfer.socket)?;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let moved: u64 = transfers.iter().map(|transfer| transfer.moved).sum();
    Ok(json!({ "n": moved, "seconds": seconds, "errors": 0 }))
}

impl Transfer {
    /// True at the end.
    fn download(
        &mut self,
        options: &Options,
        pattern: &Pattern,
        buffer: &mut [u8],
    ) -> io::Result<bool> {
        let received = if options.check {
            receive(&self.socket, buffer)?
        } else {
            discard(&self.socket, buffer)?
        };
        match received {
            None => Ok(false),
            Some(0) if self.moved == options.bytes => Ok(true),
            Some(0) => Err(wrong(format!("{} octets came of {}", self.moved, options.bytes))),
            Some(count) => {
                if options.check && buffer[..count] != *pattern.at(self.moved, count) {
                    return Err(wrong(format!("other octets came from {} on", self.moved)));
                }
                self.moved += count as u64;
                Ok(false)
            }
        }
    }

    fn upload(&mut self, options: &Options, pattern: &Pattern) -> io::Result<()> {
        let left = usize::try_from(options.bytes - self.moved).unwrap_or(WRITE).min(WRITE);
        if let Some(count) = send(&self.socket, pattern.at(self.moved, left))? {
            self.moved += count as u64;
        }
        if self.moved == options.bytes {
            self.closing = true;
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// True at the end.
    fn conclude(&mut self, options: &Options) -> io::Result<bool> {
        let mut buffer = [0; 64];
        match receive(&self.socket, &mut buffer)? {
            None => Ok(false),
            Some(0) if self.verdict == verdict(options.bytes, true) => Ok(true),
            Some(0) => Err(wrong("the endpoint did not get what was sent")),
            Some(count) => {
                self.verdict.extend_from_slice(&buffer[..count]);
                Ok(false)
            }
        }
    }
}
