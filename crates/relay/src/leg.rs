//! Where an upstream connection goes, and as whom.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The upstream side of a connection: what distinguishes it from others, so that streams which
/// agree in it may share one. Small, as each connection and each stream has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    ip: IpAddr,
    port: u16,
    source: Option<IpAddr>,
    is_transparent: bool,
}

impl Leg {
    /// To an endpoint, dialled from a local address of the same family. None: from the one the
    /// kernel takes, which is the node's.
    pub fn new(endpoint: SocketAddr, source: Option<IpAddr>) -> Self {
        Self { ip: endpoint.ip(), port: endpoint.port(), source, is_transparent: false }
    }

    /// To an endpoint, dialled from an address that is not the node's: the client's own.
    pub fn transparent(endpoint: SocketAddr, client: IpAddr) -> Self {
        Self { is_transparent: true, ..Self::new(endpoint, Some(client)) }
    }

    /// Where it goes.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// The local address it is dialled from, where that matters.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Whether that address is somebody else's.
    pub fn is_transparent(&self) -> bool {
        self.is_transparent
    }
}

/// From the node's own address.
impl From<SocketAddr> for Leg {
    fn from(endpoint: SocketAddr) -> Self {
        Self::new(endpoint, None)
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(source) => write!(f, "{source} -> {}", self.endpoint()),
            None => self.endpoint().fmt(f),
        }
    }
}
