//! The listening sockets, one a worker.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use streamvs_relay::connect::Keepalive;

use crate::limits;

/// A bound listening socket that has not been given to a runtime yet.
#[derive(Debug)]
pub struct Listener {
    pub(crate) socket: std::net::TcpListener,
}

impl Listener {
    /// The bound address.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Another descriptor of the same socket, to give it to a successor.
    ///
    /// # Errors
    /// As dup(2).
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Sets what connections that are accepted from now on inherit.
    ///
    /// # Errors
    /// As [`Keepalive::set`].
    pub fn set_keepalive(&self, keepalive: Keepalive) -> io::Result<()> {
        keepalive.set(SockRef::from(&self.socket))
    }
}

/// A listening socket that a predecessor bound with [`bind`].
impl From<OwnedFd> for Listener {
    fn from(socket: OwnedFd) -> Self {
        Self { socket: socket.into() }
    }
}

/// Binds `count` listeners to one port on all addresses of both families; the kernel spreads the
/// connections over them (SO_REUSEPORT), so that each stays on the worker that accepted it.
///
/// REDIRECT sends a connection to the address of the interface it came in by, so that all
/// addresses are needed; `capture` keeps strangers out. Accepted sockets inherit TCP_NODELAY
/// and `keepalive`, which costs no system call for each.
///
/// # Errors
/// The port is taken, or sockets are forbidden. Without IPv6 in the kernel, IPv4 alone is bound.
pub fn bind(port: u16, count: usize, keepalive: Keepalive) -> io::Result<Vec<Listener>> {
    let first = bind_one(port, keepalive)?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind_one(port, keepalive)?);
    }
    Ok(listeners)
}

fn bind_one(port: u16, keepalive: Keepalive) -> io::Result<Listener> {
    let socket = match dual_stack(port) {
        Err(error) if lacks_ipv6(&error) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            listen(&socket, (Ipv4Addr::UNSPECIFIED, port).into())?;
            socket
        }
        bound => bound?,
    };
    let listener = Listener { socket: socket.into() };
    listener.set_keepalive(keepalive)?;
    Ok(listener)
}

fn dual_stack(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    listen(&socket, (Ipv6Addr::UNSPECIFIED, port).into())?;
    Ok(socket)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT where the kernel has no IPv6, EADDRNOTAVAIL where it is disabled by sysctl.
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

fn listen(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    SockRef::from(socket).set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(limits::BACKLOG as i32)
}
