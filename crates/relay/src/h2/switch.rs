//! The HTTP/2 relay that switches frames: one downstream connection, many upstream ones, and an
//! endpoint for each stream. It is not two HTTP/2 endpoints back to back: stream ids and windows
//! are translated, header blocks re-encoded, and DATA goes on as it comes.
//!
//! ```text
//!   receive(connection, octets) --> [ frames -> streams -> exchanges ] --> output(connection)
//!                                                  |  ^
//!                                      next_event()|  | assign, retry, answer, open_upstream, ...
//!                                                  v  |
//!                                        the driver: picks, dials, counts, owns sockets
//! ```
//!
//! [`Switch`] is pure: what comes in are octets and decisions, what goes out are octets and
//! events; the time is an argument. [`driver`] puts it on sockets. All connections of a worker are
//! in one switch, on one thread.
//!
//! An *exchange* is a client's stream with the endpoint's stream that answers it. Its life:
//!
//! ```text
//!  HEADERS
//!     |                    Unreachable, Replayed, Unwritten: the endpoint cannot have acted on it;
//!     |                    withdraw: it was removed before a connection had room.
//!     |                    Past the client's deadline none of these: it is answered
//!     v        assign           +-----------------------------------------+
//!  Picking ----------> Waiting  |                                         |
//!     ^ |                 | a connection with room                        |
//!     | | answer          v                                               |
//!     | |               Sent --- response, trailers, both sides closed ---|--> Ended
//!     | v                 |                                               |
//!     | Answering <-------+ Lost: it may have acted on it                 |
//!     +-------------------------------------------------------------------+
//! ```
//!
//! Credit of a stream passes from end to end: a sender is granted what its receiver grants, at
//! most [`STREAM_WINDOW_OCTETS`](crate::h2::settings::STREAM_WINDOW_OCTETS). Credit of a
//! connection is ours, and returned when the octets have gone on. What cannot go on waits in its
//! own stream's queue, so that a stalled stream stops nobody else.
//!
//! Which way it errs: a peer that breaks a rule for one stream loses that stream, and for the
//! connection the connection; what another peer sees of it is a reset or an answer, never a
//! malformed message.

mod age;
mod answering;
mod calm;
mod connection;
mod connections;
mod control;
mod data;
mod deadline;
pub mod driver;
mod ending;
mod exchange;
mod facts;
mod flow;
mod forward;
mod frame;
pub mod hpack;
mod inbound;
mod invariants;
mod limits;
mod output;
mod pool;
mod receive;
mod request;
mod resets;
mod response;
mod state;
mod tick;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use slotmap::SlotMap;
use streamvs_balance::{ConnectFailure, ReplayReason};

pub use age::Expiry;
pub use connection::Over;
pub use frame::Code;

use connection::{Connection, Role, Stage};
use connections::Connections;
use exchange::Exchange;
use facts::Facts;
use hpack::Translator;
use pool::Endpoint;

use crate::Leg;
use crate::h2::settings;

slotmap::new_key_type! {
    /// Names a connection for as long as it is there, and never another.
    pub struct ConnectionKey;

    /// Names an exchange for as long as it is there, and never another.
    pub struct ExchangeKey;
}

/// What the driver has to do, or to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A stream of this client needs an endpoint. Call [`Switch::assign`], [`Switch::answer`], or
    /// [`Switch::refuse`].
    Pick {
        /// The stream.
        exchange: ExchangeKey,
        /// The client's connection.
        connection: ConnectionKey,
    },
    /// The dial that the stream waited for failed. Call [`Switch::assign`] with another endpoint,
    /// or [`Switch::answer`].
    Unreachable {
        /// The stream.
        exchange: ExchangeKey,
        /// Why.
        failure: ConnectFailure,
        /// When the dial failed: the same for all that waited for it.
        at: Instant,
    },
    /// The endpoint has not acted on the stream, and all of the request is at hand. Call as for
    /// [`Event::Unreachable`].
    Replayed {
        /// The stream.
        exchange: ExchangeKey,
        /// How that is known.
        reason: ReplayReason,
        /// When: the same for all streams of one connection.
        at: Instant,
    },
    /// The connection was gone before any of the stream was written to it. Call [`Switch::retry`],
    /// or as for [`Event::Unreachable`] where the endpoint has been removed meanwhile.
    Unwritten {
        /// The stream.
        exchange: ExchangeKey,
    },
    /// The endpoint was lost, or broke the rules, before its response began, and may have acted on
    /// the stream. Call [`Switch::answer`].
    Lost {
        /// The stream.
        exchange: ExchangeKey,
        /// That speaks against the endpoint: its connection is gone. Not so where it broke the
        /// rules for one stream, or gave notice of its end.
        is_fault: bool,
        /// When: the same for all streams of one connection.
        at: Instant,
    },
    /// A connection on this leg is needed. Call [`Switch::open_upstream`] when there is one,
    /// else [`Switch::dial_failed`].
    Dial {
        /// Where to, and as whom.
        leg: Leg,
    },
    /// The stream is on its endpoint.
    Sent {
        /// The stream.
        exchange: ExchangeKey,
    },
    /// The head of the endpoint's final response has come.
    Responds {
        /// The stream.
        exchange: ExchangeKey,
        /// It is gRPC's UNAVAILABLE in place of a reply (trailers-only).
        is_unavailable: bool,
    },
    /// The stream is over, and its key with it.
    Ended {
        /// The stream.
        exchange: ExchangeKey,
        /// How it went.
        report: Report,
    },
}

/// How a stream went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// What ended it.
    pub end: Ended,
    /// The request was gRPC.
    pub grpc: bool,
    /// The endpoint's `grpc-status`, where it sent one.
    pub grpc_status: Option<u32>,
    /// Octets of DATA passed to endpoints.
    pub octets_to_upstream: u64,
    /// Octets of DATA passed to the client.
    pub octets_to_downstream: u64,
}

/// What ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The endpoint's response was passed on whole.
    Complete,
    /// The answer was ours.
    Answered,
    /// The client reset the stream, broke it, or is gone.
    Cancelled,
    /// The endpoint reset the stream, and the client was given the same code; or we did, having no
    /// room for it.
    Reset(Code),
    /// The endpoint was lost while the response ran; the client was told.
    Broken,
    /// It had lived long enough, and the client of a gRPC call was told behind what had come.
    Expired,
}

/// Both halves of all connections of a worker, and the streams between them.
pub struct Switch {
    connections: Connections,
    exchanges: SlotMap<ExchangeKey, Exchange>,
    endpoints: FxHashMap<Leg, Endpoint>,
    translator: Translator<Facts>,
    events: VecDeque<Event>,
    /// Events in the queue that the driver has to answer before more is read.
    question_count: usize,
    /// What is being read lies there.
    chunk: Option<Rc<[u8]>>,
    /// Room for the header block that is being written.
    block: Vec<u8>,
    /// Memory of exchanges that are over.
    buffers: Vec<Vec<u8>>,
    /// Upstream connections from which on idle ones are not kept for long.
    crowd: usize,
    /// No later than the first deadline of an exchange that waits.
    next_expiry: Option<Instant>,
    now: Instant,
}

impl Switch {
    /// A switch without connections.
    pub fn new(now: Instant) -> Self {
        Self {
            connections: Connections::default(),
            exchanges: SlotMap::with_key(),
            endpoints: FxHashMap::default(),
            translator: Translator::new(),
            events: VecDeque::new(),
            question_count: 0,
            chunk: None,
            block: Vec::new(),
            buffers: Vec::new(),
            crowd: settings::UPSTREAM_CROWD,
            next_expiry: None,
            now,
        }
    }

    /// The same with another [`UPSTREAM_CROWD`](settings::UPSTREAM_CROWD).
    #[must_use]
    pub fn with_crowd(self, crowd: usize) -> Self {
        Self { crowd, ..self }
    }

    /// Takes a client's connection, of which nothing has been read: its preface goes through
    /// [`Switch::receive`] as everything else. `extended_connect` offers RFC 8441 to it.
    pub fn open_downstream(&mut self, extended_connect: bool, now: Instant) -> ConnectionKey {
        self.now = now;
        self.open(Role::Downstream { extended_connect })
    }

    fn open(&mut self, role: Role) -> ConnectionKey {
        let key = self.connections.insert(Connection::new(role, self.now));
        if let Some(connection) = self.connections.writer(key) {
            connection.greet();
        }
        key
    }

    /// Gives up memory that is kept for what comes next: it is short.
    pub fn give_back(&mut self) {
        self.connections.give_back();
        self.buffers = Vec::new();
    }

    /// The next thing the driver has to do. Call until there is none after each call of any other
    /// method that takes the switch mutably; answer what asks before asking for the next.
    pub fn next_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if event.is_question() {
            self.question_count -= 1;
        }
        Some(event)
    }

    fn tell(&mut self, event: Event) {
        if event.is_question() {
            self.question_count += 1;
        }
        self.events.push_back(event);
    }

    /// The next connection that has output, or of which [`Switch::over`] or
    /// [`Switch::wants_input`] may have changed.
    pub fn next_dirty(&mut self) -> Option<ConnectionKey> {
        self.connections.next_dirty()
    }

    /// What is to be written to the connection's socket, in order; no piece is empty.
    pub fn output(&self, key: ConnectionKey) -> impl Iterator<Item = &[u8]> {
        self.connections.get(key).into_iter().flat_map(|connection| connection.output.pieces())
    }

    /// How many octets that is.
    pub fn output_octets(&self, key: ConnectionKey) -> usize {
        self.connections.get(key).map_or(0, |connection| connection.output.len())
    }

    /// Copies what the connection's output has of chunks, so that they are free again.
    pub fn keep(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(key) {
            connection.output.keep();
        }
    }

    /// So many octets of [`Switch::output`] were written.
    pub fn written(&mut self, key: ConnectionKey, octets: usize, now: Instant) {
        self.now = now;
        self.connections.written(key, octets);
        self.pump(key);
    }

    /// The connection should be read from: it is not over, and its peer takes what it is sent.
    pub fn wants_input(&self, key: ConnectionKey) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            !connection.is_over() && connection.output.len() < limits::OUTPUT_PAUSE_OCTETS
        })
    }

    /// Why the connection is over, if it is: the socket may be closed when there is no output.
    pub fn over(&self, key: ConnectionKey) -> Option<Over> {
        match self.connections.get(key)?.stage {
            Stage::Over(over) => Some(over),
            Stage::Open | Stage::Announced(_) | Stage::Retired => None,
        }
    }

    /// Streams that a client has opened on its connection since the beginning.
    pub fn stream_count(&self, key: ConnectionKey) -> u64 {
        self.connections.get(key).map_or(0, |connection| connection.stream_count)
    }
}

impl Event {
    fn is_question(&self) -> bool {
        match self {
            Self::Pick { .. }
            | Self::Unreachable { .. }
            | Self::Replayed { .. }
            | Self::Unwritten { .. }
            | Self::Lost { .. } => true,
            Self::Dial { .. } | Self::Sent { .. } | Self::Responds { .. } | Self::Ended { .. } => {
                false
            }
        }
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch")
            .field("connection_count", &self.connections.len())
            .field("exchange_count", &self.exchanges.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Failed(code) => write!(f, "peer broke the protocol, {code}"),
            Self::TooSlow(code) => write!(f, "peer was too slow, {code}"),
        }
    }
}
