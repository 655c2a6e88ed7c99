//! Where a captured connection was going.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// Recovers the destination that the client asked for. `capture` knows how; a test says so itself.
pub trait OriginalDestination: Send {
    /// The destination before the redirect, IPv4-mapped addresses unmapped. `client` is the
    /// address that accept(2) told, not IPv4-mapped, for its family.
    ///
    /// # Errors
    /// The kernel has no translation for this connection.
    fn of(&self, socket: &TcpStream, client: IpAddr) -> io::Result<SocketAddr>;
}

impl<F: Fn(&TcpStream, IpAddr) -> io::Result<SocketAddr> + Send> OriginalDestination for F {
    fn of(&self, socket: &TcpStream, client: IpAddr) -> io::Result<SocketAddr> {
        self(socket, client)
    }
}
