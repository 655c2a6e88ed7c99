//! One stream of a client, and the stream of an endpoint that answers it.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut, Not};
use std::time::Instant;

use super::ConnectionKey;
use super::age::Messages;
use super::facts::{Block, Method};
use super::flow::Window;
use super::limits;
use super::state::State;
use crate::Leg;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toward {
    /// The response's.
    Downstream,
    /// The request's.
    Upstream,
}

impl Not for Toward {
    type Output = Self;

    fn not(self) -> Self {
        match self {
            Self::Downstream => Self::Upstream,
            Self::Upstream => Self::Downstream,
        }
    }
}

/// The exchange's stream on one of its two connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub(super) connection: ConnectionKey,
    pub(super) stream: u32,
    pub(super) state: State,
    /// What we may send.
    pub(super) send_window: Window,
    /// What the peer may send.
    pub(super) receive_window: Window,
}

/// How a direction ends, when its source has ended it.
#[derive(Clone, Debug, Default)]
pub(super) enum End {
    /// It has not.
    #[default]
    Open,
    /// With its last octet.
    Data,
    /// With these trailers.
    Trailers(Block),
    /// With trailers of ours: the endpoint was lost.
    Lost,
    /// With trailers of ours: the stream had lived long enough.
    Expired,
}

/// One direction of an exchange.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// What has come and cannot go on yet. At most its sender's window, a
    /// frame, and `again`.
    pub(super) queue: VecDeque<u8>,
    /// So many octets at the front of the queue are sent a second time.
    pub(super) again: usize,
    /// Whose credit the octets have used.
    pub(super) source: Option<ConnectionKey>,
    pub(super) end: End,
    /// Nobody takes more of it: what comes is dropped.
    pub(super) dropped: bool,
    /// Stands in the sink connection's `ready`.
    pub(super) in_ready: bool,
    /// Octets that must still come, where `content-length` said so.
    pub(super) expected: Option<u64>,
    /// Octets that have gone on.
    pub(super) octets: u64,
}

impl Flow {
    pub(super) fn ended(&self) -> bool {
        !matches!(self.end, End::Open)
    }

    /// Nothing of it is wanted any more. Returns how many octets had waited for the first time.
    pub(super) fn drop_rest(&mut self) -> usize {
        self.dropped = true;
        let octets = self.queue.len() - self.again;
        self.again = 0;
        self.queue = VecDeque::new();
        octets
    }
}

/// What was sent to an endpoint that may turn out not to have acted on it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// The whole body so far, until the response begins.
    pub(super) octets: Vec<u8>,
    /// The response has begun, or the body is too large.
    pub(super) abandoned: bool,
}

impl Replay {
    pub(super) fn keep(&mut self, octets: &[u8]) {
        if self.abandoned {
            return;
        }
        if self.octets.len() + octets.len() > limits::REPLAY_OCTETS {
            self.octets = Vec::new();
            self.abandoned = true;
        } else {
            self.octets.extend_from_slice(octets);
        }
    }
}

/// Where an exchange is on its way to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The driver has been asked for an endpoint.
    Picking,
    /// It waits for a connection to the endpoint.
    Waiting,
    /// It is, or was, on an endpoint.
    Sent,
    /// The driver has been asked for an answer, or has given one.
    Answering,
}

pub(super) struct Exchange {
    pub(super) down: Side,
    /// None: not on an endpoint, not yet or not any more.
    pub(super) up: Option<Side>,
    pub(super) request: Flow,
    pub(super) response: Flow,
    /// The request's head, to be sent to whoever gets the exchange.
    pub(super) head: Block,
    pub(super) replay: Replay,
    pub(super) phase: Phase,
    /// The endpoint it was given to last.
    pub(super) leg: Option<Leg>,
    /// Where the request's head begins in all that its connection was ever to write.
    pub(super) head_at: u64,
    /// Times that it was sent to this endpoint and came back; mostly since a connection was gone
    /// before its stream was written.
    pub(super) attempts: u8,
    pub(super) method: Method,
    pub(super) grpc: bool,
    pub(super) grpc_status: Option<u32>,
    /// When the client stops waiting, where it said so.
    pub(super) deadline: Option<Instant>,
    /// The head of a final response was passed on.
    pub(super) response_begun: bool,
    /// The endpoint was lost in the middle of its response.
    pub(super) broken: bool,
    /// It ends with the message that is under way.
    pub(super) expires: bool,
    /// Of a response that may be ended before its endpoint ends it.
    pub(super) messages: Option<Box<Messages>>,
}

impl Exchange {
    pub(super) fn side(&mut self, toward: Toward) -> Option<&mut Side> {
        match toward {
            Toward::Downstream => Some(&mut self.down),
            Toward::Upstream => self.up.as_mut(),
        }
    }

    /// It waits for a connection on this leg.
    pub(super) fn waits_for(&self, leg: Leg) -> bool {
        self.phase == Phase::Waiting && self.leg == Some(leg)
    }

    /// The client's connection.
    pub(super) fn client(&self) -> ConnectionKey {
        self.down.connection
    }
}

impl Index<Toward> for Exchange {
    type Output = Flow;

    fn index(&self, toward: Toward) -> &Flow {
        match toward {
            Toward::Downstream => &self.response,
            Toward::Upstream => &self.request,
        }
    }
}

impl IndexMut<Toward> for Exchange {
    fn index_mut(&mut self, toward: Toward) -> &mut Flow {
        match toward {
            Toward::Downstream => &mut self.response,
            Toward::Upstream => &mut self.request,
        }
    }
}
