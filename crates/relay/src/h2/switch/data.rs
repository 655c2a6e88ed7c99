//! DATA as it comes (RFC 9113 section 6.1), with credit checked for the whole frame at its start.

use super::calm::Cost;
use super::exchange::Toward;
use super::frame::{Code, Head, flag};
use super::inbound::{Data, Stage};
use super::{ConnectionKey, ExchangeKey, Switch};

impl Switch {
    /// A DATA frame's head has come.
    pub(super) fn data_begins(&mut self, key: ConnectionKey, head: Head) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        if head.stream == 0 || connection.is_idle(head.stream) {
            return Err(Code::PROTOCOL_ERROR);
        }
        // RFC 9113 section 6.9.1: padding counts as well.
        connection.receive_window.spend(head.length).map_err(|_| Code::FLOW_CONTROL_ERROR)?;
        let end = head.has(flag::END_STREAM);
        if head.length == 0 && !end {
            self.charge(key, Cost::Empty)?;
        }
        let exchange = self.data_stream(key, head)?;
        let data = Data { exchange, stream: head.stream, left: head.length, padding: 0, end };
        let stage = match (head.has(flag::PADDED), head.length.checked_sub(1)) {
            (true, Some(left)) => Stage::PadLength(data, left),
            (true, None) => return Err(Code::FRAME_SIZE_ERROR),
            (false, _) => Stage::Data(data),
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        connection.inbound.stage = stage;
        if head.length == 0 {
            self.data(key, data, &[])?;
        }
        Ok(())
    }

    /// The exchange that the frame belongs to. None: its octets are dropped.
    fn data_stream(&mut self, key: ConnectionKey, head: Head) -> Result<Option<ExchangeKey>, Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(None);
        };
        let Some(&exchange_key) = connection.streams.get(&head.stream) else {
            if !connection.resets.contains(head.stream) {
                self.stream_error(key, head.stream, Code::STREAM_CLOSED)?;
            }
            return Ok(None);
        };
        let toward = if connection.is_downstream() { Toward::Upstream } else { Toward::Downstream };
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else {
            return Ok(None);
        };
        let early = toward == Toward::Downstream && !exchange.response_begun;
        let Some(source) = exchange.side(!toward) else {
            return Ok(None);
        };
        let fault = if !source.state.can_receive() {
            Some(Code::STREAM_CLOSED)
        } else if source.receive_window.spend(head.length).is_err() {
            Some(Code::FLOW_CONTROL_ERROR)
        } else if early {
            // RFC 9113 section 8.1: a response begins with its head.
            Some(Code::PROTOCOL_ERROR)
        } else {
            None
        };
        match fault {
            None => Ok(Some(exchange_key)),
            Some(code) => {
                self.stream_error(key, head.stream, code)?;
                Ok(None)
            }
        }
    }

    /// The length of a DATA frame's padding has come.
    pub(super) fn pad_length(
        &mut self,
        key: ConnectionKey,
        mut data: Data,
        left: usize,
        padding: u8,
    ) -> Result<usize, Code> {
        data.padding = usize::from(padding);
        data.left = left.checked_sub(data.padding).ok_or(Code::PROTOCOL_ERROR)?;
        // Padding, and the octet that tells its length, go nowhere.
        self.connections.returns(key, 1 + data.padding);
        if data.left == 0 {
            self.data(key, data, &[])?;
        } else if let Some(connection) = self.connections.get_mut(key) {
            connection.inbound.stage = Stage::Data(data);
        }
        Ok(1)
    }

    /// Octets of DATA have come. Says how many belonged to the frame.
    pub(super) fn data(
        &mut self,
        key: ConnectionKey,
        mut data: Data,
        octets: &[u8],
    ) -> Result<usize, Code> {
        let taken = octets.len().min(data.left);
        data.left -= taken;
        let whole = data.left == 0;
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(taken);
        };
        connection.inbound.stage = match (whole, data.padding) {
            (false, _) => Stage::Data(data),
            (true, 0) => Stage::Head,
            (true, padding) => Stage::Skip(padding),
        };
        let toward = if connection.is_downstream() { Toward::Upstream } else { Toward::Downstream };
        let end = whole && data.end;
        // An exchange may be gone by now, or have left this stream of its endpoint's.
        let exchange = data.exchange.filter(|exchange| {
            self.exchanges.get(*exchange).is_some_and(|exchange| {
                let side =
                    if toward == Toward::Upstream { Some(exchange.down) } else { exchange.up };
                side.is_some_and(|side| (side.connection, side.stream) == (key, data.stream))
            })
        });
        let Some(exchange) = exchange else {
            self.connections.returns(key, taken);
            return Ok(taken);
        };
        if !self.expects(exchange, toward, taken, end) {
            self.connections.returns(key, taken);
            if let Some(connection) = self.connections.get_mut(key)
                && let Stage::Data(rest) = &mut connection.inbound.stage
            {
                rest.exchange = None;
            }
            self.stream_error(key, data.stream, Code::PROTOCOL_ERROR)?;
            return Ok(taken);
        }
        if end {
            self.source_ended(exchange, toward);
        }
        if toward == Toward::Downstream
            && let Some(last) = self.before_expiry(exchange, &octets[..taken])
            && !end
        {
            self.carry(exchange, toward, &octets[..last], false);
            self.connections.returns(key, taken - last);
            self.end_expired(exchange);
            return Ok(taken);
        }
        self.carry(exchange, toward, &octets[..taken], end);
        Ok(taken)
    }

    /// Counts octets against `content-length` (RFC 9113 section 8.1.1). False: they differ.
    pub(super) fn expects(
        &mut self,
        key: ExchangeKey,
        toward: Toward,
        octets: usize,
        end: bool,
    ) -> bool {
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return true;
        };
        let flow = &mut exchange[toward];
        let Some(expected) = flow.expected else {
            return true;
        };
        match expected.checked_sub(octets as u64) {
            Some(left) => {
                flow.expected = Some(left);
                !end || left == 0
            }
            None => false,
        }
    }

    /// The side that this direction comes from has sent END_STREAM.
    pub(super) fn source_ended(&mut self, key: ExchangeKey, toward: Toward) {
        if let Some(exchange) = self.exchanges.get_mut(key)
            && let Some(source) = exchange.side(!toward)
        {
            source.state.received_end();
        }
    }
}
