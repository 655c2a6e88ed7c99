//! Connections that do nothing: opened in steps, each used once. After a step a line on standard
//! output says how many are open, and they are held until a line comes on standard input. At the
//! end each is used once more, to show that all of them are alive.

use std::io::{self, BufRead as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::wrong;
use crate::endpoint::plain::ECHO;
use crate::pattern::{grpc_message, plain_message};
use crate::socket::{connect, receive_exact, send_all};

/// Octets of a message.
const SIZE: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    connections: usize,
    /// Steps in which they are opened
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    #[arg(long)]
    kind: Kind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Tcp,
    Http2,
}

pub(crate) fn run(options: &Options) -> io::Result<Value> {
    let mut sockets = Vec::with_capacity(options.connections);
    for step in 1..=usize::from(options.steps) {
        while sockets.len() < options.connections * step / usize::from(options.steps) {
            let socket = connect(options.address)?;
            greet(&socket, options.kind)?;
            exchange(&socket, options.kind, 1)?;
            sockets.push(socket);
        }
        println!("READY {}", sockets.len());
        io::stdout().flush()?;
        io::stdin().lock().read_line(&mut String::new())?;
    }
    for socket in &sockets {
        exchange(socket, options.kind, 3)?;
    }
    Ok(json!({ "n": sockets.len(), "errors": 0 }))
}

fn greet(socket: &TcpStream, kind: Kind) -> io::Result<()> {
    match kind {
        Kind::Tcp => send_all(socket, &[ECHO]),
        // The preface and an empty SETTINGS frame (RFC 9113, section 3.4).
        Kind::Http2 => send_all(socket, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    }
}

/// One message each way; on HTTP/2 a stream of its own.
fn exchange(socket: &TcpStream, kind: Kind, stream: u32) -> io::Result<()> {
    match kind {
        Kind::Tcp => {
            let message = plain_message(SIZE);
            let mut answer = [0; SIZE];
            send_all(socket, &message)?;
            receive_exact(socket, &mut answer)?;
            if answer == message[..] { Ok(()) } else { Err(wrong("another message came back")) }
        }
        Kind::Http2 => {
            send_all(socket, &request(stream))?;
            await_end(socket, stream)
        }
    }
}

/// A gRPC call: HEADERS that end the block, DATA that ends the stream.
fn request(stream: u32) -> Vec<u8> {
    // RFC 7541: POST and http by index, the rest literal without indexing.
    let mut block = vec![0x83, 0x86];
    block.extend_from_slice(b"\x04\x10/bench.Bench/Get");
    block.extend_from_slice(b"\x01\x0bbench:50051");
    block.extend_from_slice(b"\x0f\x10\x10application/grpc");
    block.extend_from_slice(b"\x00\x02te\x08trailers");
    let mut frames = frame(1, 0x4, stream, &block);
    frames.extend(frame(0, 0x1, stream, &grpc_message(SIZE as u32)));
    frames
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("these frames are small").to_be_bytes();
    let mut frame = vec![0, length[0], length[1], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Reads frames until the stream ends; acknowledges SETTINGS and PING.
fn await_end(socket: &TcpStream, stream: u32) -> io::Result<()> {
    loop {
        let mut head = [0; 9];
        receive_exact(socket, &mut head)?;
        let [high, middle, low, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        receive_exact(socket, &mut payload)?;
        match (kind, flags & 0x1 != 0) {
            (0 | 1, true) if u32::from_be_bytes(id) == stream => return Ok(()),
            (3 | 7, _) => return Err(wrong(format!("a frame of type {kind} came"))),
            (4, false) => send_all(socket, &frame(4, 0x1, 0, &[]))?,
            (6, false) => send_all(socket, &frame(6, 0x1, 0, &payload))?,
            _ => {}
        }
    }
}
