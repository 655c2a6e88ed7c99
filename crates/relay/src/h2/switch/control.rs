//! Frames about streams and connections: PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY,
//! WINDOW_UPDATE (RFC 9113 sections 6.3 to 6.9).

use super::calm::Cost;
use super::connection::{PING, Role, Stage, setting};
use super::exchange::Toward;
use super::flow::MAX_WINDOW;
use super::frame::{Code, Head, flag, kind, number};
use super::response::Loss;
use super::{ConnectionKey, ExchangeKey, Switch};

/// Octets of one setting.
const SETTING_OCTETS: usize = 6;

impl Switch {
    /// RFC 9113 section 6.3: deprecated, and of no use to us.
    pub(super) fn priority(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        if head.stream == 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        self.charge(key, Cost::Small)?;
        if payload.len() != 5 {
            return self.stream_error(key, head.stream, Code::FRAME_SIZE_ERROR);
        }
        if number(payload).is_some_and(|number| number & 0x7fff_ffff == head.stream) {
            return self.stream_error(key, head.stream, Code::PROTOCOL_ERROR);
        }
        Ok(())
    }

    pub(super) fn rst_stream(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        if head.stream == 0 || connection.is_idle(head.stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let code = whole_number(payload)?;
        let Some(&exchange) = connection.streams.get(&head.stream) else {
            return self.charge(key, Cost::Small);
        };
        if connection.is_downstream() {
            return self.client_reset(key, exchange, Code(code));
        }
        self.endpoint_reset(exchange, Code(code));
        Ok(())
    }

    pub(super) fn settings(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        self.charge(key, Cost::Empty)?;
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(Code::FRAME_SIZE_ERROR) };
        }
        let (settings, rest) = payload.as_chunks::<SETTING_OCTETS>();
        if !rest.is_empty() {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        for &[high, low, a, b, c, d] in settings {
            let name = u16::from_be_bytes([high, low]);
            self.setting(key, name, u32::from_be_bytes([a, b, c, d]))?;
        }
        let Some(connection) = self.connections.writer(key) else {
            return Ok(());
        };
        connection.head(0, kind::SETTINGS, flag::ACK, 0);
        let first = !std::mem::replace(&mut connection.peer.known, true);
        if let (true, Role::Upstream { leg }) = (first, connection.role) {
            let extended_connect = connection.peer.extended_connect;
            self.endpoint_known(leg, extended_connect);
        }
        self.pump(key);
        if let Some(Role::Upstream { leg }) = self.connections.get(key).map(|it| it.role) {
            self.serve_waiting(leg);
        }
        Ok(())
    }

    fn setting(&mut self, key: ConnectionKey, name: u16, value: u32) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        match name {
            setting::HEADER_TABLE_SIZE => connection.encoder.set_max_table(value),
            setting::ENABLE_PUSH if value > 1 || !connection.is_downstream() && value == 1 => {
                return Err(Code::PROTOCOL_ERROR);
            }
            setting::MAX_CONCURRENT_STREAMS => connection.peer.max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > MAX_WINDOW {
                    return Err(Code::FLOW_CONTROL_ERROR);
                }
                return self.initial_window(key, value);
            }
            setting::MAX_FRAME_SIZE => {
                if !(16_384..=16_777_215).contains(&value) {
                    return Err(Code::PROTOCOL_ERROR);
                }
                connection.peer.max_frame = value as usize;
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                if value > 1 {
                    return Err(Code::PROTOCOL_ERROR);
                }
                connection.peer.extended_connect = value == 1;
            }
            // RFC 9113 section 6.5.2: what we do not know is ignored. What a peer says of
            // MAX_HEADER_LIST_SIZE is advice, for which we have no other answer than its own.
            _ => {}
        }
        Ok(())
    }

    /// RFC 9113 section 6.9.2: every open stream's window moves by the difference.
    fn initial_window(&mut self, key: ConnectionKey, octets: u32) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut connection.peer.initial_window, octets);
        let difference = i64::from(octets) - i64::from(before);
        if difference == 0 {
            return Ok(());
        }
        let toward = if connection.is_downstream() { Toward::Downstream } else { Toward::Upstream };
        let exchanges: Vec<ExchangeKey> = connection.streams.values().copied().collect();
        for exchange_key in exchanges {
            let side =
                self.exchanges.get_mut(exchange_key).and_then(|exchange| exchange.side(toward));
            let Some(side) = side else { continue };
            side.send_window.shift(difference).map_err(|_| Code::FLOW_CONTROL_ERROR)?;
            self.enqueue(exchange_key, toward);
            self.grant(exchange_key, toward);
        }
        Ok(())
    }

    pub(super) fn ping(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        if payload.len() != PING.len() {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        self.charge(key, Cost::Ping)?;
        let Some(connection) = self.connections.writer(key) else {
            return Ok(());
        };
        if !head.has(flag::ACK) {
            connection.head(payload.len(), kind::PING, flag::ACK, 0);
            connection.output.extend(payload);
        } else if payload == PING {
            connection.pinged = None;
            if let Stage::Announced(_) = connection.stage {
                self.stop_streams(key);
            }
        }
        Ok(())
    }

    /// RFC 9113 section 6.8. A client's GOAWAY changes nothing: it opens no more streams.
    pub(super) fn go_away(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        if head.stream != 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        if payload.len() < 8 {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let last = number(payload).ok_or(Code::FRAME_SIZE_ERROR)? & 0x7fff_ffff;
        self.charge(key, Cost::Empty)?;
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        if connection.is_downstream() {
            return Ok(());
        }
        // The endpoint has not acted, and never will, on what is above its last id.
        let mut above: Vec<(u32, ExchangeKey)> = connection
            .streams
            .iter()
            .filter(|(stream, _)| **stream > last)
            .map(|(stream, exchange)| (*stream, *exchange))
            .collect();
        above.sort_unstable_by_key(|(stream, _)| *stream);
        self.retire(key);
        for (_, exchange) in above {
            self.leave_endpoint(exchange, None);
            self.lost(exchange, Loss::GoAway);
        }
        self.close_if_done(key);
        Ok(())
    }

    pub(super) fn window_update(
        &mut self,
        key: ConnectionKey,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Code> {
        let octets = whole_number(payload)? & 0x7fff_ffff;
        self.charge(key, Cost::Small)?;
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        if head.stream == 0 {
            if octets == 0 {
                return Err(Code::PROTOCOL_ERROR);
            }
            connection.send_window.grow(octets).map_err(|_| Code::FLOW_CONTROL_ERROR)?;
            self.pump(key);
            return Ok(());
        }
        if connection.is_idle(head.stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        let Some(&exchange_key) = connection.streams.get(&head.stream) else {
            // RFC 9113 section 5.1: it may have been under way when the stream ended.
            return Ok(());
        };
        if octets == 0 {
            return self.stream_error(key, head.stream, Code::PROTOCOL_ERROR);
        }
        let toward = if connection.is_downstream() { Toward::Downstream } else { Toward::Upstream };
        let side = self.exchanges.get_mut(exchange_key).and_then(|exchange| exchange.side(toward));
        if side.is_some_and(|side| side.send_window.grow(octets).is_err()) {
            return self.stream_error(key, head.stream, Code::FLOW_CONTROL_ERROR);
        }
        self.enqueue(exchange_key, toward);
        self.pump(key);
        self.grant(exchange_key, toward);
        Ok(())
    }
}

fn whole_number(payload: &[u8]) -> Result<u32, Code> {
    match payload.len() {
        4 => number(payload).ok_or(Code::FRAME_SIZE_ERROR),
        _ => Err(Code::FRAME_SIZE_ERROR),
    }
}
