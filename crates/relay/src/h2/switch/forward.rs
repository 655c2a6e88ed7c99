//! Octets of a stream from one connection to another, as credit allows (RFC 9113 section 5.2).

use std::rc::Rc;

use super::connection::Connection;
use super::exchange::{End, Exchange, Flow, Side, Toward};
use super::facts::Block;
use super::hpack::{Field, Indexing};
use super::{ConnectionKey, ExchangeKey, Switch, limits};
use crate::h2::{answer, settings};

/// What became of a stream's turn.
enum Turn {
    /// It waits for nothing that its connection has.
    Done,
    /// It has more to send.
    Again,
    /// The connection has no credit.
    Blocked,
}

impl Switch {
    /// Octets have come from the source. With `end` they are the direction's last, and there may
    /// be none.
    pub(super) fn carry(&mut self, key: ExchangeKey, toward: Toward, octets: &[u8], end: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        if toward == Toward::Upstream {
            exchange.replay.keep(octets);
        }
        let (side, flow) = exchange.parts(toward);
        if end {
            flow.end = End::Data;
        }
        let source = flow.source;
        if flow.dropped {
            source.inspect(|&source| self.connections.returns(source, octets.len()));
            return self.settle(key);
        }
        let mut sent = 0;
        if flow.queue.is_empty()
            && let Some(side) = side
            && let Some(sink) = self.connections.writer(side.connection)
            && sink.ready.is_empty()
        {
            sent = send(sink, side, octets, self.chunk.as_ref(), end);
        }
        flow.octets += sent as u64;
        flow.queue.extend(&octets[sent..]);
        source.inspect(|&source| self.connections.returns(source, sent));
        if sent < octets.len() || end {
            self.enqueue(key, toward);
        }
        self.grant(key, toward);
        if end {
            self.settle(key);
        }
    }

    /// The direction ends with trailers, when what is in its queue has gone on.
    pub(super) fn carry_trailers(&mut self, key: ExchangeKey, toward: Toward, end: End) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let (side, flow) = exchange.parts(toward);
        flow.end = end;
        if flow.queue.is_empty() && side.is_some() && !flow.dropped {
            self.send_trailers(key, toward);
        }
        self.settle(key);
    }

    /// Sends a head. With `end` nothing follows it.
    pub(super) fn send_head(&mut self, key: ExchangeKey, toward: Toward, block: &Block, end: bool) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let Some(side) = exchange.side(toward).filter(|side| side.state.can_send()) else {
            return;
        };
        let Some(sink) = self.connections.writer(side.connection) else {
            return;
        };
        self.block.clear();
        self.translator.write(block, &mut sink.encoder, &mut self.block);
        sink.headers(side.stream, &self.block, end);
        if end {
            side.state.sent_end();
        }
    }

    pub(super) fn send_trailers(&mut self, key: ExchangeKey, toward: Toward) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let (side, flow) = exchange.parts(toward);
        let Some(side) = side.filter(|side| side.state.can_send()) else {
            return;
        };
        let Some(sink) = self.connections.writer(side.connection) else {
            return;
        };
        self.block.clear();
        match &flow.end {
            End::Trailers(block) => {
                self.translator.write(block, &mut sink.encoder, &mut self.block);
            }
            End::Lost | End::Expired => {
                let lost = matches!(flow.end, End::Lost);
                let message = if lost { answer::LOST } else { answer::EXPIRED };
                let mut writer = sink.encoder.begin(&mut self.block);
                for (name, value) in
                    [(&b"grpc-status"[..], answer::GRPC_UNAVAILABLE), (b"grpc-message", message)]
                {
                    writer.field(&Field::new(name, value.as_bytes(), Indexing::Without));
                }
            }
            End::Open | End::Data => return,
        }
        sink.headers(side.stream, &self.block, true);
        side.state.sent_end();
    }

    /// Puts a stream in line for its sink's connection, if there is something that it may send.
    pub(super) fn enqueue(&mut self, key: ExchangeKey, toward: Toward) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let client = exchange.client();
        let (side, flow) = exchange.parts(toward);
        let Some(side) = side.filter(|side| side.state.can_send()) else {
            return;
        };
        let may_send = match flow.queue.is_empty() {
            true => flow.ended(),
            false => side.send_window.available() > 0,
        };
        if !may_send || flow.in_ready {
            return;
        }
        if let Some(sink) = self.connections.get_mut(side.connection) {
            flow.in_ready = true;
            sink.ready.push_back(client, key);
        }
    }

    /// Sends what waits for this connection, a frame of each client in turn and for each client of
    /// each stream in turn, until its output is full or its credit is used up.
    pub(super) fn pump(&mut self, key: ConnectionKey) {
        loop {
            let Some(sink) = self.connections.get_mut(key) else {
                return;
            };
            if sink.ready.is_empty() || sink.output.len() >= limits::OUTPUT_OCTETS || sink.is_over()
            {
                return;
            }
            let toward = if sink.is_downstream() { Toward::Downstream } else { Toward::Upstream };
            let Some((client, exchange)) = sink.ready.pop_front() else {
                return;
            };
            match self.turn(key, exchange, toward) {
                Turn::Done => {}
                Turn::Again => {
                    if let Some(sink) = self.connections.get_mut(key) {
                        sink.ready.push_again(client, exchange);
                    }
                }
                Turn::Blocked => {
                    if let Some(sink) = self.connections.get_mut(key) {
                        sink.ready.push_front(client, exchange);
                    }
                    return;
                }
            }
        }
    }

    /// One frame of one stream.
    fn turn(&mut self, key: ConnectionKey, exchange_key: ExchangeKey, toward: Toward) -> Turn {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Turn::Done;
        };
        let (side, flow) = exchange.parts(toward);
        let Some(side) = side.filter(|side| side.connection == key) else {
            // It has left for another connection.
            return Turn::Done;
        };
        let credit = self.connections.get(key).map_or(0, |sink| sink.send_window.available());
        if !flow.queue.is_empty() && credit == 0 {
            return Turn::Blocked;
        }
        let Some(sink) = self.connections.writer(key).filter(|_| side.state.can_send()) else {
            flow.in_ready = false;
            return Turn::Done;
        };
        let (first, second) = flow.queue.as_slices();
        let piece = &first[..first.len().min(limits::DATA_OCTETS)];
        let end = matches!(flow.end, End::Data) && second.is_empty() && piece.len() == first.len();
        let sent = send(sink, side, piece, None, end);
        flow.queue.drain(..sent);
        flow.octets += sent as u64;
        // What was sent before to another endpoint has been granted again already.
        let again = flow.again.min(sent);
        flow.again -= again;
        let source = flow.source;
        let more = !flow.queue.is_empty();
        let window = side.send_window.available();
        let trailers = !more && matches!(flow.end, End::Trailers(_) | End::Lost | End::Expired);
        let turn = if more && window > 0 { Turn::Again } else { Turn::Done };
        flow.in_ready = matches!(turn, Turn::Again);
        source.inspect(|&source| self.connections.returns(source, sent - again));
        if trailers {
            self.send_trailers(exchange_key, toward);
        }
        self.grant(exchange_key, toward);
        if !more {
            self.settle(exchange_key);
        }
        turn
    }

    /// Grants the sender of a direction what its receiver grants, less what waits for it, and
    /// never more than our own window. Rarely: when the sender has used up half.
    pub(super) fn grant(&mut self, key: ExchangeKey, toward: Toward) {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        let waiting = exchange[toward].queue.len();
        let Some(sink) = exchange.side(toward).copied() else {
            return;
        };
        let Some(source) = exchange.side(!toward).filter(|source| source.state.can_receive())
        else {
            return;
        };
        let granted = sink.send_window.available().min(settings::STREAM_WINDOW_OCTETS as usize);
        let wanted = granted.saturating_sub(waiting);
        let has = source.receive_window.available();
        if wanted == 0 || 2 * has > wanted {
            return;
        }
        // Below our own window, so it fits.
        let octets = (wanted - has) as u32;
        if source.receive_window.grow(octets).is_ok()
            && let Some(connection) = self.connections.writer(source.connection)
        {
            connection.window_update(source.stream, octets);
        }
    }
}

/// Sends as much as there is credit and room for, of octets that may lie in `chunk`. With `end` the last frame ends the stream.
fn send(
    sink: &mut Connection,
    side: &mut Side,
    octets: &[u8],
    chunk: Option<&Rc<[u8]>>,
    end: bool,
) -> usize {
    let mut sent = 0;
    if !side.state.can_send() {
        return 0;
    }
    while sink.output.len() < limits::OUTPUT_OCTETS {
        let rest = &octets[sent..];
        let length = rest
            .len()
            .min(limits::DATA_OCTETS)
            .min(side.send_window.available())
            .min(sink.send_window.available());
        let last = length == rest.len();
        if length == 0 && !(last && end) {
            break;
        }
        // No more than what is there.
        let _ = side.send_window.spend(length);
        let _ = sink.send_window.spend(length);
        sink.data(side.stream, &rest[..length], chunk, last && end);
        sent += length;
        if last {
            if end {
                side.state.sent_end();
            }
            break;
        }
    }
    sent
}

impl Exchange {
    /// A direction with the side it goes to.
    fn parts(&mut self, toward: Toward) -> (Option<&mut Side>, &mut Flow) {
        match toward {
            Toward::Downstream => (Some(&mut self.down), &mut self.response),
            Toward::Upstream => (self.up.as_mut(), &mut self.request),
        }
    }
}
