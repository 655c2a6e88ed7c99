//! From octets to frames (RFC 9113 section 4).

use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use super::calm::Cost;
use super::frame::{Code, Head, MAX_PAYLOAD_OCTETS, PREFACE, flag, kind, number, unpadded};
use super::inbound::{Partial, Stage};
use super::{ConnectionKey, Switch};

impl Switch {
    /// Octets have come from a connection's socket. Says how many of them were taken: all, unless
    /// there is an event that asks something; then come back with the rest.
    pub fn receive(&mut self, key: ConnectionKey, octets: &[u8], now: Instant) -> usize {
        self.now = now;
        let mut rest = octets;
        if let Some(connection) = self.connections.get_mut(key) {
            connection.received = now;
        }
        while !rest.is_empty() && self.question_count == 0 {
            if self.connections.get(key).is_none_or(|connection| connection.is_over()) {
                return octets.len();
            }
            match self.step(key, rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(code) => {
                    self.fail(key, code);
                    return octets.len();
                }
            }
        }
        octets.len() - rest.len()
    }

    /// The same for octets that lie in a chunk: large pieces of DATA stay there, until they are
    /// written or [`Switch::keep`] is called. Nobody may change a chunk that others hold.
    ///
    /// # Panics
    /// The chunk is shorter than the range's end.
    pub fn receive_chunk(
        &mut self,
        key: ConnectionKey,
        chunk: &Rc<[u8]>,
        range: Range<usize>,
        now: Instant,
    ) -> usize {
        self.chunk = Some(Rc::clone(chunk));
        let taken = self.receive(key, &chunk[range], now);
        self.chunk = None;
        taken
    }

    /// Takes at least one octet of `octets`, which is not empty.
    ///
    /// # Errors
    /// The connection must end with this code.
    fn step(&mut self, key: ConnectionKey, octets: &[u8]) -> Result<usize, Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(octets.len());
        };
        let inbound = &mut connection.inbound;
        match inbound.stage {
            Stage::Preface(seen) => {
                let taken = octets.len().min(PREFACE.len() - seen);
                if octets[..taken] != PREFACE[seen..seen + taken] {
                    return Err(Code::PROTOCOL_ERROR);
                }
                let seen = seen + taken;
                inbound.stage =
                    if seen == PREFACE.len() { Stage::Head } else { Stage::Preface(seen) };
                Ok(taken)
            }
            Stage::Head => {
                let (taken, head) = inbound.take_head(octets);
                let Some(head) = head else {
                    return Ok(taken);
                };
                self.frame_begins(key, head)?;
                // Mostly the payload is there as well, and is read where it lies.
                let Some(connection) = self.connections.get_mut(key) else {
                    return Ok(taken);
                };
                match (connection.inbound.stage, octets[taken..].get(..head.length)) {
                    (Stage::Payload(head), Some(payload)) => {
                        connection.inbound.stage = Stage::Head;
                        self.frame(key, head, payload)?;
                        Ok(taken + head.length)
                    }
                    _ => Ok(taken),
                }
            }
            Stage::Payload(head) => {
                let taken = octets.len().min(head.length - inbound.held.len());
                inbound.held.extend_from_slice(&octets[..taken]);
                if inbound.held.len() == head.length {
                    inbound.stage = Stage::Head;
                    let mut held = std::mem::take(&mut inbound.held);
                    self.frame(key, head, &held)?;
                    held.clear();
                    if let Some(connection) = self.connections.get_mut(key) {
                        connection.inbound.held = held;
                    }
                }
                Ok(taken)
            }
            Stage::PadLength(data, left) => self.pad_length(key, data, left, octets[0]),
            Stage::Data(data) => self.data(key, data, octets),
            Stage::Skip(left) => {
                let taken = octets.len().min(left);
                inbound.stage = if taken == left { Stage::Head } else { Stage::Skip(left - taken) };
                Ok(taken)
            }
        }
    }

    /// Looks at a frame's head and says what its payload is.
    fn frame_begins(&mut self, key: ConnectionKey, head: Head) -> Result<(), Code> {
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        if head.length > MAX_PAYLOAD_OCTETS {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        // RFC 9113 section 6.10: nothing may come between the frames of a header block.
        let continued = connection.inbound.partial.as_ref().map(|partial| partial.stream);
        let continues = (head.kind == kind::CONTINUATION).then_some(head.stream);
        if continued != continues {
            return Err(Code::PROTOCOL_ERROR);
        }
        // RFC 9113 section 3.4: SETTINGS come first.
        if !connection.peer.known && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Code::PROTOCOL_ERROR);
        }
        match head.kind {
            kind::DATA => return self.data_begins(key, head),
            kind::HEADERS..=kind::CONTINUATION => connection.inbound.stage = Stage::Payload(head),
            // RFC 9113 section 5.5: of types that we do not know nothing is looked at.
            _ => {
                connection.inbound.stage =
                    if head.length == 0 { Stage::Head } else { Stage::Skip(head.length) };
                self.charge(key, Cost::Small)?;
            }
        }
        Ok(())
    }

    /// A whole frame other than DATA.
    fn frame(&mut self, key: ConnectionKey, head: Head, payload: &[u8]) -> Result<(), Code> {
        match head.kind {
            kind::HEADERS => self.headers(key, head, payload),
            kind::CONTINUATION => self.continuation(key, head, payload),
            kind::PRIORITY => self.priority(key, head, payload),
            kind::RST_STREAM => self.rst_stream(key, head, payload),
            kind::SETTINGS => self.settings(key, head, payload),
            kind::PING => self.ping(key, head, payload),
            kind::GOAWAY => self.go_away(key, head, payload),
            kind::WINDOW_UPDATE => self.window_update(key, head, payload),
            // PUSH_PROMISE: we forbid it to endpoints, and clients never may (section 8.4).
            _ => Err(Code::PROTOCOL_ERROR),
        }
    }

    fn headers(&mut self, key: ConnectionKey, head: Head, payload: &[u8]) -> Result<(), Code> {
        if head.stream == 0 {
            return Err(Code::PROTOCOL_ERROR);
        }
        let mut fragment = unpadded(head, payload)?;
        let mut self_dependent = false;
        if head.has(flag::PRIORITY) {
            // Five octets of priority that nobody uses any more (RFC 9113 section 5.3.2).
            let (priority, rest) =
                fragment.split_first_chunk::<5>().ok_or(Code::FRAME_SIZE_ERROR)?;
            self_dependent =
                number(priority).is_some_and(|number| number & 0x7fff_ffff == head.stream);
            fragment = rest;
        }
        let end = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.block(key, head.stream, end, self_dependent, fragment);
        }
        let mut partial = Partial {
            stream: head.stream,
            end,
            self_dependent,
            octets: Vec::new(),
            frame_count: 0,
            since: self.now,
        };
        if !partial.add(fragment) {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.inbound.partial = Some(Box::new(partial));
        }
        Ok(())
    }

    fn continuation(&mut self, key: ConnectionKey, head: Head, payload: &[u8]) -> Result<(), Code> {
        if payload.is_empty() {
            self.charge(key, Cost::Empty)?;
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return Ok(());
        };
        let Some(mut partial) = connection.inbound.partial.take() else {
            return Err(Code::PROTOCOL_ERROR);
        };
        if !partial.add(payload) {
            return Err(Code::ENHANCE_YOUR_CALM);
        }
        if !head.has(flag::END_HEADERS) {
            connection.inbound.partial = Some(partial);
            return Ok(());
        }
        let Partial { stream, end, self_dependent, octets, .. } = *partial;
        self.block(key, stream, end, self_dependent, &octets)
    }

    /// A whole header block.
    fn block(
        &mut self,
        key: ConnectionKey,
        stream: u32,
        end: bool,
        self_dependent: bool,
        block: &[u8],
    ) -> Result<(), Code> {
        if block.is_empty() {
            self.charge(key, Cost::Empty)?;
        }
        match self.connections.get(key).map(|connection| connection.is_downstream()) {
            Some(true) => self.client_block(key, stream, end, self_dependent, block),
            Some(false) => self.endpoint_block(key, stream, end, block),
            None => Ok(()),
        }
    }

    /// Takes from a peer's allowance.
    ///
    /// # Errors
    /// It is used up.
    pub(super) fn charge(&mut self, key: ConnectionKey, cost: Cost) -> Result<(), Code> {
        let now = self.now;
        let connection = self.connections.get_mut(key);
        match connection.is_none_or(|connection| connection.calm.take(cost, now)) {
            true => Ok(()),
            false => Err(Code::ENHANCE_YOUR_CALM),
        }
    }
}
