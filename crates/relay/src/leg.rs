//! Where an upstream connection goes, and as whom.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The upstream side of a connection: what distinguishes it from others, so that streams which
/// agree in it may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Where it goes.
    pub endpoint: SocketAddr,
    /// The local address it is dialled from, of the endpoint's family. None: the one the kernel
    /// takes, which is the node's.
    pub source: Option<IpAddr>,
}

/// From the node's own address.
impl From<SocketAddr> for Leg {
    fn from(endpoint: SocketAddr) -> Self {
        Self { endpoint, source: None }
    }
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Some(source) => write!(f, "{source} -> {}", self.endpoint),
            None => self.endpoint.fmt(f),
        }
    }
}
