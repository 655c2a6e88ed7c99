//! An endpoint pod: one thread, one event loop, ports of three kinds.
//!
//! - HTTP/2 with prior knowledge: each request, a gRPC message, is answered with a message of the
//!   port's size ([`http2`]).
//! - Plain: the client's first octet says what to do ([`plain`]).
//! - Greeting: speaks first, then echoes.
//!
//! It answers in about half a microsecond, so that it is never what is measured; it checks what
//! comes, so that a proxy which breaks it does not get a figure. Its counters are read through a
//! Unix socket, from any namespace.

mod counters;
mod http2;
pub(crate) mod plain;

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use self::counters::Counters;
use self::http2::Http2;
use self::plain::Plain;
use crate::pattern::{CHUNK, Pattern, grpc_message};
use crate::ready::{Ready, Watch};
use crate::socket::{accept, listen, send};

/// Connections accepted before others have their turn.
const ACCEPTED_AT_ONCE: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The pod's address
    #[arg(long)]
    ip: IpAddr,
    /// HTTP/2 ports, each with the octets of its answers
    #[arg(long, value_name = "PORT:SIZE", value_delimiter = ',')]
    http2: Vec<Http2Port>,
    #[arg(long, value_name = "PORT")]
    plain: u16,
    #[arg(long, value_name = "PORT")]
    greeting: u16,
    /// Unix socket that tells the counters, in JSON, to whoever connects
    #[arg(long, value_name = "PATH")]
    counters: PathBuf,
}

#[derive(Clone, Copy, Debug)]
struct Http2Port {
    port: u16,
    size: u32,
}

impl FromStr for Http2Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |(port, size): (&str, &str)| Some((port.parse().ok()?, size.parse().ok()?));
        let (port, size) = text.split_once(':').and_then(parse).ok_or("PORT:SIZE is needed")?;
        Ok(Self { port, size })
    }
}

/// What a port answers with.
enum Port {
    Http2(Rc<Vec<u8>>),
    Plain,
    Greeting,
}

/// A watched socket, by its number.
enum Slot {
    Free,
    Counters(UnixListener),
    Listener(TcpListener, Port),
    Connection(Connection),
}

struct Connection {
    socket: TcpStream,
    protocol: Protocol,
    /// It waits for room to write.
    full: bool,
}

enum Protocol {
    Http2(Box<Http2>),
    Plain(Plain),
}

/// What is left of a connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// All that can be said is said.
    Idle,
    /// There is more to write once there is room.
    Full,
    /// It is over.
    Over,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let mut endpoint = Endpoint {
        ready: Ready::new()?,
        slots: Vec::new(),
        free: Vec::new(),
        counters: Counters::default(),
        pattern: Pattern::new(),
        buffer: vec![0; CHUNK],
    };
    for Http2Port { port, size } in &options.http2 {
        let message = Rc::new(grpc_message(*size));
        endpoint.listen(SocketAddr::new(options.ip, *port), Port::Http2(message))?;
    }
    endpoint.listen(SocketAddr::new(options.ip, options.plain), Port::Plain)?;
    endpoint.listen(SocketAddr::new(options.ip, options.greeting), Port::Greeting)?;
    let counters = UnixListener::bind(&options.counters)?;
    counters.set_nonblocking(true)?;
    endpoint.ready.add(&counters, endpoint.slots.len(), Watch::Read)?;
    endpoint.slots.push(Slot::Counters(counters));
    loop {
        endpoint.turn()?;
    }
}

struct Endpoint {
    ready: Ready,
    slots: Vec<Slot>,
    /// Numbers of free slots.
    free: Vec<usize>,
    counters: Counters,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Endpoint {
    fn listen(&mut self, address: SocketAddr, port: Port) -> io::Result<()> {
        let listener = listen(address)?;
        self.ready.add(&listener, self.slots.len(), Watch::Read)?;
        self.slots.push(Slot::Listener(listener, port));
        Ok(())
    }

    /// Waits, and does what is to be done.
    fn turn(&mut self) -> io::Result<()> {
        for place in 0..self.ready.wait(None)? {
            let event = self.ready.event(place);
            match &mut self.slots[event.number] {
                // Its connection ended in this very turn.
                Slot::Free => {}
                Slot::Counters(listener) => {
                    if let Ok((mut socket, _)) = listener.accept() {
                        // Whoever asked and left does not need the answer.
                        let _ = socket.write_all(self.counters.report().to_string().as_bytes());
                    }
                }
                Slot::Listener(..) => self.accept(event.number)?,
                Slot::Connection(connection) => {
                    let step = connection.step(
                        event.readable,
                        &mut self.buffer,
                        &self.pattern,
                        &mut self.counters,
                    );
                    if step == Step::Over {
                        self.counters.open -= 1;
                        self.slots[event.number] = Slot::Free;
                        self.free.push(event.number);
                    } else {
                        connection.watch(step, event.number, &self.ready)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Accepts what waits at a listener.
    fn accept(&mut self, listener: usize) -> io::Result<()> {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Slot::Listener(socket, port) = &self.slots[listener] else { break };
            let Some(socket) = accept(socket)? else { break };
            let protocol = match port {
                Port::Http2(message) => Protocol::Http2(Box::new(Http2::new(Rc::clone(message)))),
                Port::Plain => Protocol::Plain(Plain::new()),
                Port::Greeting => Protocol::Plain(Plain::greeting()),
            };
            match protocol {
                Protocol::Http2(_) => self.counters.http2_connections += 1,
                Protocol::Plain(_) => self.counters.plain_connections += 1,
            }
            self.counters.open += 1;
            let number = self.free.pop().unwrap_or(self.slots.len());
            self.ready.add(&socket, number, Watch::Read)?;
            let mut connection = Connection { socket, protocol, full: false };
            // A connection that is over already says so at the next turn.
            let step = connection.step(false, &mut self.buffer, &self.pattern, &mut self.counters);
            connection.watch(step, number, &self.ready)?;
            let slot = Slot::Connection(connection);
            if number == self.slots.len() {
                self.slots.push(slot);
            } else {
                self.slots[number] = slot;
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Reads once if there is something to read, and writes what there is to write.
    fn step(
        &mut self,
        readable: bool,
        buffer: &mut [u8],
        pattern: &Pattern,
        counters: &mut Counters,
    ) -> Step {
        let done = match &mut self.protocol {
            Protocol::Http2(http2) => {
                if readable && !http2.read(&self.socket, buffer, counters).unwrap_or(false) {
                    return Step::Over;
                }
                http2.write(&self.socket, counters)
            }
            Protocol::Plain(plain) => {
                if readable && !plain.read(&self.socket, buffer, pattern, counters).unwrap_or(false)
                {
                    return Step::Over;
                }
                plain.write(&self.socket, pattern)
            }
        };
        done.unwrap_or(Step::Over)
    }

    fn watch(&mut self, step: Step, number: usize, ready: &Ready) -> io::Result<()> {
        let full = step == Step::Full;
        if full != self.full {
            self.full = full;
            let watch = if full { Watch::Both } else { Watch::Read };
            ready.change(&self.socket, number, watch)?;
        }
        Ok(())
    }
}

/// Writes what is pending, from `sent` on, and empties the buffer when all is written. True then.
fn flush(socket: &TcpStream, pending: &mut Vec<u8>, sent: &mut usize) -> io::Result<bool> {
    while *sent < pending.len() {
        match send(socket, &pending[*sent..])? {
            Some(count) => *sent += count,
            None => return Ok(false),
        }
    }
    pending.clear();
    *sent = 0;
    Ok(true)
}
