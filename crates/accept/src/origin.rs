//! Where a client is.

use std::net::IpAddr;

use streamvs_table::Origin;

/// Tells pods and processes of the node from everybody else. `node` knows how; a test says so
/// itself.
pub trait ClientOrigin: Send {
    /// Where the client with this address is. Asked only for connections to which that makes a
    /// difference, so it may take some system calls.
    fn of(&self, client: IpAddr) -> Origin;
}

impl<F: Fn(IpAddr) -> Origin + Send> ClientOrigin for F {
    fn of(&self, client: IpAddr) -> Origin {
        self(client)
    }
}
