//! What can go wrong in serving and in asking.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why an admin address could not be served, or an agent could not be asked.
#[derive(Debug)]
pub enum Error {
    /// A TCP address could not be listened on. Nothing is left behind.
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Another process answers on the unix socket. It is left alone.
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands where the unix socket should. It is left alone.
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The unix socket could not be made. Nothing of ours is left behind.
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody could be reached behind the unix socket.
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent took too long.
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// The agent's answer was cut off, or is no HTTP.
    BrokenAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// The agent refused.
    Status {
        /// The socket.
        path: PathBuf,
        /// The HTTP status code.
        status: u16,
    },
    /// The agent's answer is longer than is read.
    LongAnswer {
        /// The socket.
        path: PathBuf,
        /// The limit in bytes.
        limit: usize,
    },
    /// The agent's answer is not the JSON that was expected.
    BadAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::SocketInUse { path } => {
                write!(f, "another process serves {} already", path.display())
            }
            Self::NotASocket { path } => {
                write!(f, "{} exists and is no socket", path.display())
            }
            Self::Socket { path, source } => {
                write!(f, "cannot make the socket {}: {source}", path.display())
            }
            Self::Unreachable { path, source } => {
                write!(f, "cannot reach {}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        f.write_str("; is streamvs running on this node?")
                    }
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; only the user streamvs runs as may ask it, mostly root")
                    }
                    _ => Ok(()),
                }
            }
            Self::NoAnswer { path, waited } => {
                write!(f, "no answer from {} within {} s", path.display(), waited.as_secs())
            }
            Self::BrokenAnswer { path, source } => {
                write!(f, "broken answer from {}: {source}", path.display())
            }
            Self::Status { path, status } => {
                write!(f, "{} answered with HTTP status {status}", path.display())
            }
            Self::LongAnswer { path, limit } => {
                write!(f, "the answer from {} is longer than {limit} bytes", path.display())
            }
            Self::BadAnswer { path, source } => write!(
                f,
                "the answer from {} cannot be read, it may be of another version: {source}",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. }
            | Self::Socket { source, .. }
            | Self::Unreachable { source, .. } => Some(source),
            Self::BrokenAnswer { source, .. } => Some(source),
            Self::BadAnswer { source, .. } => Some(source),
            Self::SocketInUse { .. }
            | Self::NotASocket { .. }
            | Self::NoAnswer { .. }
            | Self::Status { .. }
            | Self::LongAnswer { .. } => None,
        }
    }
}
