//! What clients send: heads, trailers, and resets of their streams.

use std::collections::VecDeque;

use super::calm::Cost;
use super::connection::{Role, Stage};
use super::exchange::{End, Exchange, Flow, Phase, Replay, Side, Toward};
use super::facts::{Block, BlockKind, facts};
use super::flow::Window;
use super::frame::Code;
use super::hpack;
use super::state::State;
use super::{ConnectionKey, Ended, Event, ExchangeKey, Switch};
use crate::h2::settings;

impl Switch {
    /// Decodes a header block. None: it is larger than we take.
    ///
    /// # Errors
    /// The connection must end: its decoder no longer agrees with the peer's encoder.
    pub(super) fn decode(
        &mut self,
        key: ConnectionKey,
        kind: BlockKind,
        block: &[u8],
    ) -> Result<Option<Block>, Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(None);
        };
        let limit = settings::HEADER_LIST_OCTETS as usize;
        let read =
            self.translator.read(&mut connection.decoder, block, limit, kind as u8, |fields| {
                facts(kind, fields)
            });
        match read {
            Ok(block) => Ok(Some(block)),
            Err(hpack::Error::ListTooLarge) => Ok(None),
            Err(_) => Err(Code::COMPRESSION_ERROR),
        }
    }

    /// A header block of a client.
    pub(super) fn client_block(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        end: bool,
        self_dependent: bool,
        block: &[u8],
    ) -> Result<(), Code> {
        let Some(connection) = self.connections.get(key) else {
            return Ok(());
        };
        if let Some(&exchange) = connection.streams.get(&stream) {
            let block = self.decode(key, BlockKind::Trailers, block)?;
            return self.request_trailers(key, stream, exchange, end, block);
        }
        if stream.is_multiple_of(2) {
            // RFC 9113 section 5.1.1: even ids are a server's.
            return Err(Code::PROTOCOL_ERROR);
        }
        if !connection.is_idle(stream) {
            let known = connection.resets.contains(stream);
            self.decode(key, BlockKind::Trailers, block)?;
            // RFC 9113 section 5.1: what comes after a reset may have been under way.
            return if known { Ok(()) } else { Err(Code::STREAM_CLOSED) };
        }
        let block = self.decode(key, BlockKind::Request, block)?;
        self.request_begins(key, stream, end, self_dependent, block)
    }

    fn request_begins(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        end: bool,
        self_dependent: bool,
        block: Option<Block>,
    ) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        connection.last_stream = stream;
        // RFC 9113 section 6.8: a stream above the last id of our GOAWAY.
        let late = matches!(connection.stage, Stage::Retired);
        if late || connection.streams.len() >= settings::DOWNSTREAM_STREAMS as usize {
            return self.stream_error(key, stream, Code::REFUSED_STREAM);
        }
        let Some(head) = block else {
            // The list is larger than our SETTINGS_MAX_HEADER_LIST_SIZE allows.
            return self.stream_error(key, stream, Code::ENHANCE_YOUR_CALM);
        };
        let facts = *head.facts();
        let offered = matches!(connection.role, Role::Downstream { extended_connect: true });
        let length = facts.request_length();
        if facts.malformed
            || self_dependent
            || (facts.extended && !offered)
            || (end && length.is_some_and(|length| length > 0))
        {
            return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
        }
        let flow = |expected, end| Flow {
            queue: VecDeque::new(),
            end,
            source: Some(key),
            expected,
            ..Flow::default()
        };
        let exchange = self.exchanges.insert(Exchange {
            down: Side {
                connection: key,
                stream,
                state: if end { State::HalfClosedRemote } else { State::Open },
                send_window: Window::new(connection.peer.initial_window),
                receive_window: Window::new(settings::STREAM_WINDOW_OCTETS),
            },
            up: None,
            request: flow(length, if end { End::Data } else { End::Open }),
            response: Flow::default(),
            replay: Replay { octets: self.buffers.pop().unwrap_or_default(), abandoned: false },
            phase: Phase::Picking,
            leg: None,
            head_at: 0,
            attempts: 0,
            method: facts.method,
            grpc: facts.grpc,
            grpc_status: None,
            // A time beyond the clock's end is never.
            deadline: facts
                .grpc_timeout
                .filter(|_| facts.grpc)
                .and_then(|timeout| self.now.checked_add(timeout)),
            response_begun: false,
            broken: false,
            expires: false,
            messages: None,
            head,
        });
        connection.streams.insert(stream, exchange);
        connection.stream_count += 1;
        self.tell(Event::Pick { exchange, connection: key });
        Ok(())
    }

    fn request_trailers(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        exchange_key: ExchangeKey,
        end: bool,
        block: Option<Block>,
    ) -> Result<(), Code> {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Ok(());
        };
        if !exchange.down.state.can_receive() {
            return self.stream_error(key, stream, Code::STREAM_CLOSED);
        }
        let Some(block) = block else {
            return self.stream_error(key, stream, Code::ENHANCE_YOUR_CALM);
        };
        // RFC 9113 section 8.1: trailers end the stream.
        let legal = end && !block.facts().malformed;
        if !legal || !self.expects(exchange_key, Toward::Upstream, 0, true) {
            return self.stream_error(key, stream, Code::PROTOCOL_ERROR);
        }
        self.source_ended(exchange_key, Toward::Upstream);
        self.carry_trailers(exchange_key, Toward::Upstream, End::Trailers(block));
        Ok(())
    }

    /// A client does not want its stream any more.
    pub(super) fn client_reset(
        &mut self,
        key: ConnectionKey,
        exchange_key: ExchangeKey,
        code: Code,
    ) -> Result<(), Code> {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Ok(());
        };
        exchange.down.state = State::Closed;
        self.finish(exchange_key, Ended::Cancelled, code);
        self.charge(key, Cost::Reset)
    }
}
