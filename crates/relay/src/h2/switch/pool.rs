//! Which connection to its endpoint a stream gets.
//!
//! Connections to an endpoint are shared by all clients of the worker. A stream never waits for a
//! full connection while another has room, or may be opened. At most one dial an endpoint is under
//! way. A new connection takes one stream at once and the others when the endpoint's SETTINGS have
//! told how many it allows.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use streamvs_balance::ConnectFailure;

use super::connection::{Connection, Role, Stage};
use super::exchange::{End, Phase, Side, Toward};
use super::flow::Window;
use super::state::State;
use super::{ConnectionKey, Event, ExchangeKey, Switch};
use crate::h2::settings;

/// The largest stream id.
const LAST_STREAM: u32 = 0x7fff_ffff;

/// What there is of one endpoint.
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
    /// Answers an event: the stream goes to this endpoint.
    pub fn assign(&mut self, key: ExchangeKey, address: SocketAddr, now: Instant) {
        self.now = now;
        if self.exchanges.get(key).is_some_and(|exchange| exchange.phase == Phase::Picking) {
            self.wait_for(key, address);
        }
    }

    /// True where a stream to `address` would need a dial.
    pub fn wants(&self, address: SocketAddr) -> bool {
        matches!(self.find(address), Found::Dial)
    }

    /// A dial to `address` is under way that was begun before a stream needed it.
    pub fn dial_begun(&mut self, address: SocketAddr) {
        self.endpoints.entry(address).or_default().dialling = true;
    }

    /// The dial to `address` has failed: streams that wait for it are given back.
    pub fn dial_failed(&mut self, address: SocketAddr, failure: ConnectFailure, now: Instant) {
        self.now = now;
        let Some(endpoint) = self.endpoints.get_mut(&address) else {
            return;
        };
        endpoint.dialling = false;
        for exchange_key in std::mem::take(&mut endpoint.waiting) {
            if let Some(exchange) = self.waiting_exchange(exchange_key, address) {
                exchange.phase = Phase::Picking;
                self.tell(Event::Unreachable { exchange: exchange_key, failure });
            }
        }
    }

    /// A connection to `address` has been made; nothing has been sent or read on it.
    pub fn open_upstream(&mut self, address: SocketAddr, now: Instant) -> ConnectionKey {
        self.now = now;
        let key = self.open(Role::Upstream { address });
        let endpoint = self.endpoints.entry(address).or_default();
        endpoint.dialling = false;
        endpoint.connections.push(key);
        self.serve_waiting(address);
        key
    }

    /// All of these endpoints offer extended CONNECT, as far as is known.
    pub fn offer_extended_connect(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> bool {
        let mut addresses = addresses.into_iter().peekable();
        addresses.peek().is_some()
            && addresses.all(|address| {
                self.endpoints.get(&address).is_some_and(|endpoint| endpoint.extended_connect)
            })
    }

    pub(super) fn endpoint_known(&mut self, address: SocketAddr, extended_connect: bool) {
        if let Some(endpoint) = self.endpoints.get_mut(&address) {
            endpoint.extended_connect = extended_connect;
        }
    }

    /// Puts a stream on a connection to `address`, now or when there is one.
    pub(super) fn wait_for(&mut self, key: ExchangeKey, address: SocketAddr) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        exchange.phase = Phase::Waiting;
        exchange.address = Some(address);
        match self.find(address) {
            Found::Connection(connection) => self.send_request(key, connection),
            found => {
                let endpoint = self.endpoints.entry(address).or_default();
                endpoint.waiting.push_back(key);
                self.dial_if(address, &found);
            }
        }
    }

    fn dial_if(&mut self, address: SocketAddr, found: &Found) {
        if let (Found::Dial, Some(endpoint)) = (found, self.endpoints.get_mut(&address)) {
            endpoint.dialling = true;
            self.tell(Event::Dial { address });
        }
    }

    /// Gives what room there is to the streams that wait for it.
    pub(super) fn serve_waiting(&mut self, address: SocketAddr) {
        loop {
            let Some(endpoint) = self.endpoints.get_mut(&address) else {
                return;
            };
            let Some(&key) = endpoint.waiting.front() else {
                return;
            };
            let is_waiting = self.waiting_exchange(key, address).is_some();
            let found = if is_waiting { self.find(address) } else { Found::Wait };
            if is_waiting && !matches!(found, Found::Connection(_)) {
                return self.dial_if(address, &found);
            }
            if let Some(endpoint) = self.endpoints.get_mut(&address) {
                endpoint.waiting.pop_front();
            }
            if let Found::Connection(connection) = found {
                self.send_request(key, connection);
            }
        }
    }

    fn waiting_exchange(
        &mut self,
        key: ExchangeKey,
        address: SocketAddr,
    ) -> Option<&mut super::exchange::Exchange> {
        self.exchanges.get_mut(key).filter(|exchange| {
            exchange.phase == Phase::Waiting && exchange.address == Some(address)
        })
    }

    /// The least loaded connection with room; when there may be no more connections, none until
    /// one has room.
    fn find(&self, address: SocketAddr) -> Found {
        let Some(endpoint) = self.endpoints.get(&address) else {
            return Found::Dial;
        };
        let mut awaiting = false;
        let connections = endpoint.connections.iter().filter_map(|&key| {
            let connection = self.connections.get(key)?;
            awaiting |= !connection.peer.known && !connection.assumed_streams;
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
    /// One more stream may be opened to the endpoint.
    fn has_room(&self) -> bool {
        let limit = match (self.peer.known, self.stage) {
            (_, Stage::Announced(_) | Stage::Retired | Stage::Over(_)) => 0,
            (true, Stage::Open) => (self.peer.max_streams as usize).min(settings::UPSTREAM_STREAMS),
            (false, Stage::Open) if self.assumed_streams => settings::UPSTREAM_STREAMS_AT_START,
            (false, Stage::Open) => 1,
        };
        self.streams.len() < limit
    }
}
