//! Endpoints below HTTP/2: sockets, and frames by hand.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

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
