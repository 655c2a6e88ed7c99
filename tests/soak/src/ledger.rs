//! What clients know of their calls.

use std::fmt;
use std::time::Duration;

use crate::records::Incarnation;

/// What kind of call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A unary gRPC call.
    Unary,
    /// A message of a gRPC stream both ways.
    Stream,
    /// A TCP connection for one message.
    Connection,
    /// A message of a long TCP connection.
    Session,
    /// A datagram.
    Datagram,
}

impl Kind {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Unary, Self::Stream, Self::Connection, Self::Session, Self::Datagram];

    /// True where a connection carries it.
    pub(crate) fn is_connected(self) -> bool {
        self != Self::Datagram
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unary => "gRPC calls",
            Self::Stream => "messages of gRPC streams",
            Self::Connection => "TCP connections",
            Self::Session => "messages of TCP sessions",
            Self::Datagram => "UDP datagrams",
        })
    }
}

/// A call that was answered with what was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    pub(crate) by: Incarnation,
}

/// A call that was not.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    /// When the client began to make its connection; of a datagram its socket.
    pub(crate) opened: Duration,
    /// When the last answer came on that connection.
    pub(crate) proven: Option<Duration>,
    /// Who gave it.
    pub(crate) peer: Option<Incarnation>,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) why: Why,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its connection was not made.
    Refused(String),
    /// Its connection or stream ended, or it was told that the endpoint is gone.
    Broken(String),
    /// Nothing came in time.
    Silent,
    /// It ended in a way that nothing explains.
    Strange(String),
    /// It was answered with something else.
    Wrong(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Broken(text) | Self::Strange(text) => f.write_str(text),
            Self::Silent => f.write_str("no answer in time"),
            Self::Wrong(text) => write!(f, "wrong: {text}"),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, kind, opened, began, ended, why, .. } = self;
        write!(f, "{kind} {id:x}: opened {opened:.3?}, began {began:.3?}, ended {ended:.3?}")?;
        if let (Some(peer), Some(proven)) = (self.peer, self.proven) {
            write!(f, ", {peer} answered before at {proven:.3?}")?;
        }
        write!(f, ": {why}")
    }
}

/// All calls of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) answered: Vec<Answered>,
    pub(crate) failed: Vec<Failed>,
    /// Tried once more, because certainly nobody had looked at them.
    pub(crate) retried: u64,
    /// Connections made.
    pub(crate) connected: u64,
}
