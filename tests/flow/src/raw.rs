//! Endpoints below HTTP/2: sockets, and frames by hand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// A listener that answers no SYN: its queue of one is full.
#[derive(Debug)]
pub struct FullBacklog {
    /// Where it listens.
    pub address: SocketAddr,
    listener: Socket,
    queued: Vec<Socket>,
}

impl FullBacklog {
    /// Listens on a free port of 127.0.0.1.
    #[expect(clippy::new_without_default, reason = "it opens sockets")]
    pub fn new() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets are allowed");
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port is free");
        listener.listen(0).expect("is bound");
        let address = listener.local_addr().expect("is bound");
        let queued = std::iter::repeat_with(socket).take(4);
        let queued = queued
            .inspect(|socket| {
                socket.set_nonblocking(true).expect("is open");
                // Under way, or failed already: it is in the queue, or there is no room.
                let _ = socket.connect(&address);
            })
            .collect();
        Self { address: address.as_socket().expect("is of IPv4"), listener, queued }
    }

    /// Makes room: the next SYN is answered, and the kernel sends one again after a second.
    /// What was in the queue is gone.
    pub fn make_room(self) -> TcpListener {
        drop(self.queued);
        self.listener.set_nonblocking(true).expect("is open");
        self.listener.listen(128).expect("is bound");
        TcpListener::from_std(self.listener.into()).expect("a runtime is there")
    }
}

/// A frame as it came (RFC 9113 section 4.1).
#[derive(Debug)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// Octets of its payload.
    pub length: usize,
}

/// Types of frames.
pub mod kind {
    #![allow(missing_docs)] // RFC 9113 section 6 says it.
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const SETTINGS: u8 = 4;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
}

/// Flags of frames.
pub mod flag {
    #![allow(missing_docs)] // RFC 9113 section 6 says it.
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// SETTINGS and WINDOW_UPDATE that grant all the credit there is, on each stream and in all.
pub fn all_credit() -> Vec<u8> {
    const MOST: u32 = 0x7fff_ffff;
    let mut settings = vec![0, 4];
    settings.extend(MOST.to_be_bytes());
    let more = MOST - 65_535;
    [frame(kind::SETTINGS, 0, 0, &settings), frame(kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes())]
        .concat()
}

/// The octets of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    let mut octets = length[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A header block of literals that are in no table (RFC 7541 section 6.2.2), each shorter than
/// 127 octets.
pub fn header_block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "its length is one octet");
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    }
    block
}

/// The octets of a gRPC response without a message, on `stream`.
pub fn ok_response(stream: u32) -> Vec<u8> {
    let head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "0")];
    let flags = flag::END_HEADERS | flag::END_STREAM;
    frame(kind::HEADERS, flags, stream, &header_block(&head))
}

/// Reads the next frame and drops its payload.
///
/// # Errors
/// The connection has ended.
pub async fn read_frame(socket: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 9];
    socket.read_exact(&mut head).await?;
    let [high, middle, low, kind, flags, a, b, c, d] = head;
    let length = u32::from_be_bytes([0, high, middle, low]) as usize;
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await?;
    Ok(Frame { kind, flags, stream: u32::from_be_bytes([a, b, c, d]), length })
}
