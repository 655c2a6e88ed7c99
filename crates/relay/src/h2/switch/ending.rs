//! How streams and connections end.

use std::time::Instant;

use streamvs_balance::ConnectFailure;

use super::calm::Cost;
use super::connection::{Over, Role, Stage};
use super::exchange::{End, Phase, Toward};
use super::frame::Code;
use super::response::Loss;
use super::state::State;
use super::{ConnectionKey, Ended, Event, ExchangeKey, Report, Switch, limits};

impl Switch {
    /// Looks whether an exchange has anything left to do, after something of it has ended.
    pub(super) fn settle(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        if exchange.up.is_some_and(|side| side.state == State::Closed) {
            self.leave_endpoint(key, None);
        }
        let Some(exchange) = self.exchanges.get(key) else {
            return;
        };
        // While the endpoint takes the request, the client may go on sending it, even after the
        // response (RFC 9113 section 8.1).
        if exchange.down.state.can_send() || exchange.up.is_some() {
            return;
        }
        let ended = match exchange.phase {
            _ if exchange.broken => Ended::Broken,
            _ if matches!(exchange.response.end, End::Expired) => Ended::Expired,
            Phase::Answering => Ended::Answered,
            Phase::Picking | Phase::Waiting | Phase::Sent => Ended::Complete,
        };
        self.finish(key, ended, Code::CANCEL);
    }

    /// Ends an exchange. Sides that are not closed are reset: the client with NO_ERROR, for it has
    /// its answer, the endpoint with `to_endpoint`.
    pub(super) fn finish(&mut self, key: ExchangeKey, ended: Ended, to_endpoint: Code) {
        self.leave_endpoint(key, Some(to_endpoint));
        let Some(mut exchange) = self.exchanges.remove(key) else {
            return;
        };
        for toward in [Toward::Upstream, Toward::Downstream] {
            let flow = &mut exchange[toward];
            let waiting = flow.drop_rest();
            if let Some(source) = flow.source {
                self.connections.returns(source, waiting);
            }
        }
        let side = exchange.down;
        if let Some(client) = self.connections.get_mut(side.connection) {
            client.streams.remove(&side.stream);
        }
        if side.state != State::Closed
            && let Some(client) = self.connections.writer(side.connection)
        {
            client.rst_stream(side.stream, Code::NO_ERROR);
        }
        let report = Report {
            end: ended,
            grpc: exchange.grpc,
            grpc_status: exchange.grpc_status,
            octets_to_upstream: exchange.request.octets,
            octets_to_downstream: exchange.response.octets,
        };
        let mut buffer = exchange.replay.octets;
        buffer.clear();
        self.keep_buffer(buffer);
        self.tell(Event::Ended { exchange: key, report });
        self.close_if_done(side.connection);
    }

    /// Takes an exchange off its endpoint, if it is on one, with a reset if the stream is not
    /// closed and `reset` says so.
    pub(super) fn leave_endpoint(&mut self, key: ExchangeKey, reset: Option<Code>) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(side) = exchange.up.take() else {
            return;
        };
        exchange.request.in_ready = false;
        if let (Some(code), true) = (reset, side.state != State::Closed)
            && let Some(endpoint) = self.connections.writer(side.connection)
        {
            endpoint.rst_stream(side.stream, code);
        }
        let now = self.now;
        let Some(endpoint) = self.connections.get_mut(side.connection) else {
            return;
        };
        endpoint.streams.remove(&side.stream);
        if endpoint.streams.is_empty() {
            endpoint.idle_since = now;
        }
        let role = endpoint.role;
        self.close_if_done(side.connection);
        if let Role::Upstream { leg } = role {
            self.serve_waiting(leg);
        }
    }

    /// No more of the request is wanted.
    pub(super) fn drop_request(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let waiting = exchange.request.drop_rest();
        if let Some(source) = exchange.request.source {
            self.connections.returns(source, waiting);
        }
    }

    /// A peer broke a rule that concerns one stream (RFC 9113 section 5.4.2).
    ///
    /// # Errors
    /// It did so too often.
    pub(super) fn stream_error(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        code: Code,
    ) -> Result<(), Code> {
        self.charge(key, Cost::Reset)?;
        let Some(connection) = self.connections.writer(key) else {
            return Ok(());
        };
        connection.rst_stream(stream, code);
        let downstream = connection.is_downstream();
        let Some(&exchange_key) = connection.streams.get(&stream) else {
            return Ok(());
        };
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Ok(());
        };
        if downstream {
            exchange.down.state = State::Closed;
            self.finish(exchange_key, Ended::Cancelled, Code::CANCEL);
        } else {
            self.leave_endpoint(exchange_key, None);
            self.lost(exchange_key, Loss::Stream);
        }
        Ok(())
    }

    /// A peer broke a rule that concerns the whole connection (RFC 9113 section 5.4.1).
    pub(super) fn fail(&mut self, key: ConnectionKey, code: Code) {
        self.end(key, Over::Failed(code), code);
    }

    /// Ends a connection for a reason that its peer is told.
    pub(super) fn end(&mut self, key: ConnectionKey, over: Over, code: Code) {
        let Some(connection) = self.connections.writer(key) else {
            return;
        };
        // To an endpoint: of its streams there were none.
        let last = if connection.is_downstream() { connection.last_stream } else { 0 };
        connection.go_away(last, code);
        connection.stage = Stage::Over(over);
        self.end_streams(key);
    }

    /// The connection's socket is gone: closed, reset, or by our own wish. Its key means nothing
    /// from now on.
    pub fn closed(&mut self, key: ConnectionKey, now: Instant) {
        self.now = now;
        self.end_streams(key);
        self.connections.remove(key);
    }

    /// Ends what is on a connection that is over, or waits for its first SETTINGS.
    fn end_streams(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get(key)
            && connection.awaits_settings()
            && let Role::Upstream { leg } = connection.role
            && self.endpoints.get(&leg).is_some_and(|endpoint| endpoint.connections.contains(&key))
        {
            // As if it had not been accepted: else it would be dialled for them again and again.
            self.unreachable(leg, ConnectFailure::Refused);
        }
        self.retire(key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let written = connection.written;
        let downstream = connection.is_downstream();
        let mut streams: Vec<_> = std::mem::take(&mut connection.streams).into_iter().collect();
        streams.sort_unstable_by_key(|(stream, _)| *stream);
        for (_, exchange_key) in streams {
            let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
                continue;
            };
            if downstream {
                exchange.down.state = State::Closed;
                self.finish(exchange_key, Ended::Cancelled, Code::CANCEL);
            } else {
                let unwritten = exchange.head_at >= written;
                self.leave_endpoint(exchange_key, None);
                self.lost(exchange_key, if unwritten { Loss::Unwritten } else { Loss::Connection });
            }
        }
    }

    /// The connection takes no new streams.
    pub(super) fn retire(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.is_over() {
            connection.stage = Stage::Retired;
        }
        if let Role::Upstream { leg } = connection.role {
            if let Some(endpoint) = self.endpoints.get_mut(&leg) {
                endpoint.connections.retain(|connection| *connection != key);
            }
            self.serve_waiting(leg);
        }
    }

    /// A connection that takes no new streams is over with the last one.
    pub(super) fn close_if_done(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.get(key)
            && matches!(connection.stage, Stage::Retired)
            && connection.streams.is_empty()
        {
            self.close(key);
        }
    }

    /// Ends a connection without streams in good order.
    pub(super) fn close(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.writer(key) else {
            return;
        };
        if !connection.is_downstream() {
            connection.go_away(0, Code::NO_ERROR);
        }
        connection.stage = Stage::Over(Over::Closed);
        self.retire(key);
    }

    /// Begins to end a client's connection: it is told to open no more streams, and is over when
    /// those that it has are (RFC 9113 section 6.8).
    pub fn drain(&mut self, key: ConnectionKey, now: Instant) {
        self.now = now;
        let Some(connection) = self.connections.writer(key) else {
            return;
        };
        if connection.is_downstream() && connection.stage == Stage::Open {
            // Streams under way are told apart from those the client opened after it had read
            // this by a round trip.
            connection.go_away(0x7fff_ffff, Code::NO_ERROR);
            connection.ping(now);
            connection.stage = Stage::Announced(now);
        }
    }

    /// The second step of [`Switch::drain`].
    pub(super) fn stop_streams(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connections.writer(key) {
            let last = connection.last_stream;
            connection.go_away(last, Code::NO_ERROR);
            connection.stage = Stage::Retired;
            self.close_if_done(key);
        }
    }

    /// Keeps the memory of a finished exchange for the next one.
    pub(super) fn keep_buffer(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() > 0 && self.buffers.len() < limits::SPARE_COUNT {
            self.buffers.push(buffer);
        }
    }
}
