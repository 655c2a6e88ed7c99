//! Which connection to its endpoint a stream gets.
//!
//! Connections are shared by all streams of the worker that agree in their [`Leg`]: those of all
//! clients whose endpoint sees the node, or those of one client. A stream never waits for a full
//! connection while another has room, or may be opened. At most one dial a leg is under way. A new
//! connection takes streams when the endpoint's SETTINGS have come, as gRPC's own libraries have
//! it: one that ends before is a failed dial, so that nothing was ever sent to who only accepts.

use std::collections::VecDeque;
use std::time::Instant;

use streamvs_balance::ConnectFailure;

use super::connection::{Connection, Role, Stage};
use super::exchange::{End, Exchange, Phase, Side, Toward};
use super::flow::Window;
use super::state::State;
use super::{ConnectionKey, Event, ExchangeKey, Switch};
use crate::Leg;
use crate::h2::settings;

/// The largest stream id.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// What there is of one leg.
#[derive(Debug, Default)]
pub(super) struct Endpoint {
    /// Those that take new streams, at most [`settings::UPSTREAM_CONNECTIONS`].
    pub(super) connections: Vec<ConnectionKey>,
    pub(super) dialling: bool,
    /// Streams that found no room, in order. Some may be gone.
    pub(super) waiting: VecDeque<ExchangeKey>,
    /// The endpoint offers extended CONNECT, as far as is known.
    pub(super) extended_connect: bool,
}

/// What there is for one more stream.
enum Found {
    Connection(ConnectionKey),
    /// There will be something, or nothing can be done.
    Wait,
    /// A dial is needed.
    Dial,
}

impl Switch {
    /// Answers an event: the stream goes to this endpoint, unless its client does not wait for it
    /// any more.
    pub fn assign(&mut self, key: ExchangeKey, leg: impl Into<Leg>, now: Instant) {
        self.now = now;
        let exchange = self.exchanges.get_mut(key);
        if let Some(exchange) = exchange.filter(|exchange| exchange.phase == Phase::Picking) {
            exchange.attempts = 0;
            self.wait_for(key, leg.into());
        }
    }

    /// Answers [`Event::Unwritten`]: the stream goes to the same endpoint again.
    pub fn retry(&mut self, key: ExchangeKey, now: Instant) {
        self.now = now;
        let picking = |exchange: &&Exchange| exchange.phase == Phase::Picking;
        if let Some(leg) = self.exchanges.get(key).filter(picking).and_then(|it| it.leg) {
            self.wait_for(key, leg);
        }
    }

    /// Takes streams that wait for a connection to their endpoint from it, if `removed` says so of
    /// them. Call [`Switch::assign`] or [`Switch::answer`] for each.
    pub fn withdraw(&mut self, removed: impl Fn(ExchangeKey) -> bool) -> Vec<ExchangeKey> {
        let mut withdrawn = Vec::new();
        for (&leg, endpoint) in &mut self.endpoints {
            endpoint.waiting.retain(|&key| {
                let Some(exchange) = self.exchanges.get_mut(key) else { return false };
                let withdraws = exchange.waits_for(leg) && removed(key);
                if withdraws {
                    exchange.phase = Phase::Picking;
                    withdrawn.push(key);
                }
                !withdraws
            });
        }
        withdrawn
    }

    /// True where a stream on `leg` would need a dial.
    pub fn wants(&self, leg: impl Into<Leg>) -> bool {
        matches!(self.find(leg.into()), Found::Dial)
    }

    /// A dial of `leg` is under way that was begun before a stream needed it.
    pub fn dial_begun(&mut self, leg: impl Into<Leg>) {
        self.endpoints.entry(leg.into()).or_default().dialling = true;
    }

    /// The dial of `leg` has failed: streams that wait for it are given back.
    pub fn dial_failed(&mut self, leg: impl Into<Leg>, failure: ConnectFailure, now: Instant) {
        self.now = now;
        let leg = leg.into();
        if let Some(endpoint) = self.endpoints.get_mut(&leg) {
            endpoint.dialling = false;
            self.unreachable(leg, failure);
        }
    }

    /// Gives back the streams that wait on `leg`.
    pub(super) fn unreachable(&mut self, leg: Leg, failure: ConnectFailure) {
        let Some(endpoint) = self.endpoints.get_mut(&leg) else {
            return;
        };
        for exchange_key in std::mem::take(&mut endpoint.waiting) {
            if let Some(exchange) = self.waiting_exchange(exchange_key, leg) {
                exchange.phase = Phase::Picking;
                self.tell(Event::Unreachable { exchange: exchange_key, failure, at: self.now });
            }
        }
    }

    /// A connection on `leg` has been made; nothing has been sent or read on it.
    pub fn open_upstream(&mut self, leg: impl Into<Leg>, now: Instant) -> ConnectionKey {
        self.now = now;
        let leg = leg.into();
        let key = self.open(Role::Upstream { leg });
        let endpoint = self.endpoints.entry(leg).or_default();
        endpoint.dialling = false;
        endpoint.connections.push(key);
        self.serve_waiting(leg);
        key
    }

    /// The endpoints of all of these legs offer extended CONNECT, as far as is known by them.
    pub fn offer_extended_connect(&self, legs: impl IntoIterator<Item = Leg>) -> bool {
        let mut legs = legs.into_iter().peekable();
        legs.peek().is_some()
            && legs.all(|leg| {
                self.endpoints.get(&leg).is_some_and(|endpoint| endpoint.extended_connect)
            })
    }

    pub(super) fn endpoint_known(&mut self, leg: Leg, extended_connect: bool) {
        if let Some(endpoint) = self.endpoints.get_mut(&leg) {
            endpoint.extended_connect = extended_connect;
        }
    }

    /// Puts a stream on a connection `leg`, now or when there is one.
    pub(super) fn wait_for(&mut self, key: ExchangeKey, leg: Leg) {
        let now = self.now;
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        if exchange.is_late(now) {
            return self.answer_late(key);
        }
        exchange.phase = Phase::Waiting;
        exchange.leg = Some(leg);
        let deadline = exchange.deadline;
        match self.find(leg) {
            Found::Connection(connection) => self.send_request(key, connection),
            found => {
                self.expects_by(deadline);
                let endpoint = self.endpoints.entry(leg).or_default();
                endpoint.waiting.push_back(key);
                self.dial_if(leg, &found);
            }
        }
    }

    fn dial_if(&mut self, leg: Leg, found: &Found) {
        if let (Found::Dial, Some(endpoint)) = (found, self.endpoints.get_mut(&leg)) {
            endpoint.dialling = true;
            self.tell(Event::Dial { leg });
        }
    }

    /// Gives what room there is to the streams that wait for it.
    pub(super) fn serve_waiting(&mut self, leg: Leg) {
        loop {
            let Some(endpoint) = self.endpoints.get_mut(&leg) else {
                return;
            };
            let Some(&key) = endpoint.waiting.front() else {
                return;
            };
            let is_waiting = self.waiting_exchange(key, leg).is_some();
            let found = if is_waiting { self.find(leg) } else { Found::Wait };
            if is_waiting && !matches!(found, Found::Connection(_)) {
                return self.dial_if(leg, &found);
            }
            if let Some(endpoint) = self.endpoints.get_mut(&leg) {
                endpoint.waiting.pop_front();
            }
            if let Found::Connection(connection) = found {
                self.send_request(key, connection);
            }
        }
    }

    fn waiting_exchange(&mut self, key: ExchangeKey, leg: Leg) -> Option<&mut Exchange> {
        self.exchanges.get_mut(key).filter(|exchange| exchange.waits_for(leg))
    }

    /// The least loaded connection with room; when there may be no more connections, none until
    /// one has room.
    fn find(&self, leg: Leg) -> Found {
        let Some(endpoint) = self.endpoints.get(&leg) else {
            return Found::Dial;
        };
        let mut awaiting = false;
        let connections = endpoint.connections.iter().filter_map(|&key| {
            let connection = self.connections.get(key)?;
            awaiting |= connection.awaits_settings();
            connection.has_room().then_some((connection.streams.len(), key))
        });
        let best = connections.min_by_key(|(open_count, _)| *open_count);
        match best {
            Some((_, key)) => Found::Connection(key),
            None if awaiting || endpoint.dialling => Found::Wait,
            None if endpoint.connections.len() >= settings::UPSTREAM_CONNECTIONS => Found::Wait,
            None => Found::Dial,
        }
    }

    /// Opens the exchange's stream on an upstream connection that has room.
    fn send_request(&mut self, key: ExchangeKey, connection_key: ConnectionKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(connection) = self.connections.writer(connection_key) else {
            return;
        };
        if exchange.head.facts().extended
            && connection.peer.known
            && !connection.peer.extended_connect
        {
            return self.answer(key, 501, "endpoint does not offer extended CONNECT", self.now);
        }
        let stream = if connection.last_stream == 0 { 1 } else { connection.last_stream + 2 };
        connection.last_stream = stream;
        connection.streams.insert(stream, key);
        let exhausted = stream >= LAST_STREAM - 1;
        exchange.phase = Phase::Sent;
        exchange.head_at = connection.written + connection.output.len() as u64;
        exchange.up = Some(Side {
            connection: connection_key,
            stream,
            state: State::Open,
            send_window: Window::new(connection.peer.initial_window),
            receive_window: Window::new(settings::STREAM_WINDOW_OCTETS),
        });
        exchange.response.source = Some(connection_key);
        let end = exchange.request.queue.is_empty() && matches!(exchange.request.end, End::Data);
        let head = exchange.head.clone();
        self.send_head(key, Toward::Upstream, &head, end);
        if !end {
            let trailers_only = self.exchanges.get(key).is_some_and(|exchange| {
                exchange.request.queue.is_empty() && exchange.request.ended()
            });
            if trailers_only {
                self.send_trailers(key, Toward::Upstream);
            }
            self.enqueue(key, Toward::Upstream);
            self.pump(connection_key);
            self.grant(key, Toward::Upstream);
        }
        if exhausted {
            self.retire(connection_key);
        }
        self.tell(Event::Sent { exchange: key });
    }
}

impl Connection {
    /// It is not known whether anybody is there who speaks HTTP/2.
    pub(super) fn awaits_settings(&self) -> bool {
        !self.peer.known && !self.assumed_streams
    }

    /// One more stream may be opened to the endpoint.
    fn has_room(&self) -> bool {
        let limit = match (self.peer.known, self.stage) {
            (_, Stage::Announced(_) | Stage::Retired | Stage::Over(_)) => 0,
            (true, Stage::Open) => (self.peer.max_streams as usize).min(settings::UPSTREAM_STREAMS),
            (false, Stage::Open) if self.assumed_streams => settings::UPSTREAM_STREAMS_AT_START,
            (false, Stage::Open) => 0,
        };
        self.streams.len() < limit
    }
}
