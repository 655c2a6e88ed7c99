//! What endpoints send: heads, trailers, resets, and their own end.

use streamvs_balance::ReplayReason;

use super::calm::Cost;
use super::exchange::{End, Phase, Toward};
use super::facts::{Block, BlockKind};
use super::frame::Code;
use super::state::State;
use super::{ConnectionKey, Ended, Event, ExchangeKey, Switch, limits};
use crate::h2::answer;

/// Why an endpoint will send no more of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its connection is gone.
    Connection,
    /// The same, before any of the stream was written to it.
    Unwritten,
    /// The stream is above the last one of its GOAWAY.
    GoAway,
    /// It broke a rule for the stream.
    Stream,
}

impl Loss {
    /// How it is known that the endpoint has not acted on the stream, if it is.
    fn untouched(self) -> Option<ReplayReason> {
        match self {
            Self::Unwritten => Some(ReplayReason::Unwritten),
            Self::GoAway => Some(ReplayReason::GoAway),
            Self::Connection | Self::Stream => None,
        }
    }
}

impl Switch {
    /// A header block of an endpoint.
    pub(super) fn endpoint_block(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        end: bool,
        block: &[u8],
    ) -> Result<(), Code> {
        let Some(connection) = self.connections.get(key) else {
            return Ok(());
        };
        if connection.is_idle(stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let reset = connection.resets.contains(stream);
        let exchange_key = connection.streams.get(&stream).copied();
        let begun = exchange_key
            .and_then(|key| self.exchanges.get(key))
            .is_some_and(|exchange| exchange.response_begun);
        let kind = if begun { BlockKind::Trailers } else { BlockKind::Response };
        let block = self.decode(key, kind, block)?;
        let Some(exchange_key) = exchange_key else {
            return if reset { Ok(()) } else { Err(Code::STREAM_CLOSED) };
        };
        let Some(exchange) = self.exchanges.get(exchange_key) else {
            return Ok(());
        };
        if !exchange.up.is_some_and(|side| side.state.can_receive()) {
            return self.stream_error(key, stream, Code::STREAM_CLOSED);
        }
        let Some(block) = block.filter(|block| !block.facts().malformed) else {
            return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
        };
        match kind {
            BlockKind::Trailers => self.response_trailers(key, stream, exchange_key, end, block),
            _ if block.facts().informational() => {
                if end {
                    return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
                }
                self.charge(key, Cost::Small)?;
                self.send_head(exchange_key, Toward::Downstream, &block, false);
                Ok(())
            }
            _ => self.response_begins(key, stream, exchange_key, end, &block),
        }
    }

    fn response_begins(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        exchange_key: ExchangeKey,
        end: bool,
        block: &Block,
    ) -> Result<(), Code> {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Ok(());
        };
        let length = block.facts().response_length(exchange.method);
        // A response to HEAD, and 304, say how long a body would be that does not come.
        let absent = block.facts().response_length(exchange.method) == Some(0);
        if end && !absent && length.is_some_and(|length| length > 0) {
            return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
        }
        exchange.response_begun = true;
        let mut kept = std::mem::take(&mut exchange.replay.octets);
        exchange.replay.abandoned = true;
        exchange.response.expected = length;
        if end {
            exchange.grpc_status = block.facts().grpc_status;
            exchange.response.end = End::Data;
        }
        let is_unavailable =
            end && exchange.grpc && exchange.grpc_status == Some(answer::UNAVAILABLE);
        kept.clear();
        self.keep_buffer(kept);
        self.tell(Event::Responds { exchange: exchange_key, is_unavailable });
        if end {
            self.source_ended(exchange_key, Toward::Downstream);
        }
        self.send_head(exchange_key, Toward::Downstream, block, end);
        if end {
            self.settle(exchange_key);
        }
        Ok(())
    }

    fn response_trailers(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        exchange_key: ExchangeKey,
        end: bool,
        block: Block,
    ) -> Result<(), Code> {
        if !end || !self.expects(exchange_key, Toward::Downstream, 0, true) {
            return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
        }
        if let Some(exchange) = self.exchanges.get_mut(exchange_key) {
            exchange.grpc_status = block.facts().grpc_status;
        }
        self.source_ended(exchange_key, Toward::Downstream);
        self.carry_trailers(exchange_key, Toward::Downstream, End::Trailers(block));
        Ok(())
    }

    /// The endpoint has reset its stream.
    pub(super) fn endpoint_reset(&mut self, exchange_key: ExchangeKey, code: Code) {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return;
        };
        let (ended, begun) = (exchange.response.ended(), exchange.response_begun);
        self.leave_endpoint(exchange_key, None);
        if ended {
            // The response is whole; the endpoint does not want the rest of the request
            // (RFC 9113 section 8.1).
            self.drop_request(exchange_key);
            self.settle(exchange_key);
        } else if begun || !self.replay(exchange_key, code) {
            self.reset_client(exchange_key, code);
        }
    }

    fn replay(&mut self, key: ExchangeKey, code: Code) -> bool {
        code == Code::REFUSED_STREAM && self.again(key, ReplayReason::Refused)
    }

    /// Resets the client's stream, and the endpoint's with CANCEL.
    pub(super) fn reset_client(&mut self, key: ExchangeKey, code: Code) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            let side = exchange.down;
            if side.state != State::Closed {
                exchange.down.state = State::Closed;
                if let Some(client) = self.connections.writer(side.connection) {
                    client.rst_stream(side.stream, code);
                }
            }
        }
        self.finish(key, Ended::Reset(code), Code::CANCEL);
    }

    /// The exchange's endpoint will send no more. The exchange has left the endpoint already.
    pub(super) fn lost(&mut self, key: ExchangeKey, loss: Loss) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        if exchange.response.ended() {
            self.drop_request(key);
            return self.settle(key);
        }
        if exchange.response_begun {
            exchange.broken = true;
            let grpc = exchange.grpc;
            self.drop_request(key);
            if grpc {
                return self.carry_trailers(key, Toward::Downstream, End::Lost);
            }
            if let Some(exchange) = self.exchanges.get_mut(key) {
                let side = exchange.down;
                exchange.down.state = State::Closed;
                if let Some(client) = self.connections.writer(side.connection) {
                    client.rst_stream(side.stream, Code::INTERNAL_ERROR);
                }
            }
            return self.finish(key, Ended::Broken, Code::CANCEL);
        }
        if loss.untouched().is_some_and(|reason| self.again(key, reason)) {
            return;
        }
        if let Some(exchange) = self.exchanges.get_mut(key) {
            exchange.phase = Phase::Answering;
            let is_fault = matches!(loss, Loss::Connection | Loss::Unwritten);
            self.tell(Event::Lost { exchange: key, is_fault, at: self.now });
        }
    }

    /// Sends the exchange on its way again, if all of the request is at hand.
    fn again(&mut self, key: ExchangeKey, reason: ReplayReason) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return false;
        };
        if exchange.replay.abandoned {
            return false;
        }
        exchange.attempts += 1;
        let flow = &mut exchange.request;
        let unreturned = flow.queue.len() - flow.again;
        flow.queue.clear();
        flow.queue.extend(&exchange.replay.octets);
        flow.again = flow.queue.len() - unreturned;
        flow.dropped = false;
        exchange.phase = Phase::Picking;
        let event = match reason {
            // Nothing has left us: the endpoint has done nothing that speaks against it.
            ReplayReason::Unwritten if exchange.attempts < limits::OPEN_ATTEMPTS => {
                Event::Unwritten { exchange: key }
            }
            _ => Event::Replayed { exchange: key, reason, at: self.now },
        };
        self.tell(event);
        true
    }
}
