//! A switch, and peers that speak frames.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use streamvs_balance::ConnectFailure;

use crate::h2::switch::frame::{HEAD_OCTETS, Head, PREFACE, flag, kind};
use crate::h2::switch::hpack::{Decoder, Encoder, Field, Indexing};
use crate::h2::switch::{Code, ConnectionKey, Event, ExchangeKey, Expiry, Over, Report, Switch};

/// A frame as a test wants to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Headers { stream: u32, fields: Vec<(String, String)>, end: bool },
    Data { stream: u32, octets: Vec<u8>, end: bool },
    Reset(u32, Code),
    Settings(Vec<(u16, u32)>),
    SettingsAck,
    Ping([u8; 8]),
    PingAck([u8; 8]),
    GoAway(u32, Code),
    Window(u32, u32),
}

/// One end of a connection of the switch.
pub(super) struct Peer {
    pub(super) key: ConnectionKey,
    encoder: Encoder,
    decoder: Decoder,
    unread: Vec<u8>,
    /// A header block under way, and whether it ends its stream.
    block: Vec<u8>,
    block_end: bool,
}

impl Peer {
    /// The other end of a connection that a test has opened itself.
    pub(super) fn new(key: ConnectionKey) -> Self {
        Self {
            key,
            encoder: Encoder::new(),
            decoder: Decoder::new(4096),
            unread: Vec::new(),
            block: Vec::new(),
            block_end: false,
        }
    }

    /// A header block for the switch.
    pub(super) fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let mut writer = self.encoder.begin(&mut block);
        for (name, value) in fields {
            let (name, value) = (name.as_bytes(), value.as_bytes());
            writer.field(&Field::new(name, value, Indexing::Incremental));
        }
        block
    }

    pub(super) fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
        let block = self.block(fields);
        let end = if end { flag::END_STREAM } else { 0 };
        frame(kind::HEADERS, flag::END_HEADERS | end, stream, &block)
    }

    fn parse(&mut self, octets: &[u8], from_client: bool) -> Vec<Frame> {
        self.unread.extend_from_slice(octets);
        if from_client && self.unread.starts_with(PREFACE) {
            self.unread.drain(..PREFACE.len());
        }
        let mut frames = Vec::new();
        while let Some(octets) = self.unread.first_chunk::<HEAD_OCTETS>() {
            let head = Head::parse(octets);
            let length = HEAD_OCTETS + head.length;
            if self.unread.len() < length {
                break;
            }
            let payload: Vec<u8> = self.unread[HEAD_OCTETS..length].to_vec();
            self.unread.drain(..length);
            frames.extend(self.frame(head, &payload));
        }
        frames
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Option<Frame> {
        let number =
            |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four octets"));
        let end = head.has(flag::END_STREAM);
        Some(match head.kind {
            kind::DATA => Frame::Data { stream: head.stream, octets: payload.to_vec(), end },
            kind::HEADERS | kind::CONTINUATION => {
                if head.kind == kind::HEADERS {
                    self.block_end = end;
                }
                self.block.extend_from_slice(payload);
                if !head.has(flag::END_HEADERS) {
                    return None;
                }
                let block = std::mem::take(&mut self.block);
                let mut fields = Vec::new();
                let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
                self.decoder
                    .decode(&block, usize::MAX, &mut Vec::new(), |field| {
                        fields.push((text(field.name), text(field.value)));
                    })
                    .expect("the switch writes legal blocks");
                Frame::Headers { stream: head.stream, fields, end: self.block_end }
            }
            kind::RST_STREAM => Frame::Reset(head.stream, Code(number(0))),
            kind::SETTINGS if head.has(flag::ACK) => Frame::SettingsAck,
            kind::SETTINGS => Frame::Settings(
                payload
                    .chunks(6)
                    .map(|setting| {
                        let value = setting[2..].try_into().expect("four octets");
                        (u16::from_be_bytes([setting[0], setting[1]]), u32::from_be_bytes(value))
                    })
                    .collect(),
            ),
            kind::PING => {
                let opaque = payload.try_into().expect("eight octets");
                if head.has(flag::ACK) { Frame::PingAck(opaque) } else { Frame::Ping(opaque) }
            }
            kind::GOAWAY => Frame::GoAway(number(0), Code(number(4))),
            kind::WINDOW_UPDATE => Frame::Window(head.stream, number(0)),
            unknown => panic!("a frame of type {unknown} from the switch"),
        })
    }
}

/// The octets of a frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let head = Head { length: payload.len(), kind, flags, stream };
    [&head.octets()[..], payload].concat()
}

pub(super) fn data(stream: u32, octets: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, if end { flag::END_STREAM } else { 0 }, stream, octets)
}

pub(super) fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

pub(super) fn reset(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

pub(super) fn window(stream: u32, octets: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &octets.to_be_bytes())
}

pub(super) fn go_away(last: u32, code: Code) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.0.to_be_bytes()].concat();
    frame(kind::GOAWAY, 0, 0, &payload)
}

/// The head of a gRPC call.
pub(super) const CALL: [(&str, &str); 6] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Unary"),
    (":authority", "echo.default"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
];

/// The head of its response, and its trailers.
pub(super) const OK: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
pub(super) const TRAILERS: [(&str, &str); 1] = [("grpc-status", "0")];

/// A switch with its driver.
pub(super) struct Lab {
    pub(super) switch: Switch,
    pub(super) now: Instant,
    /// Streams go to these in turn.
    pub(super) addresses: VecDeque<SocketAddr>,
    /// There is no room for new streams.
    pub(super) refuses: bool,
    /// Streams may be ended for their age.
    pub(super) watches: bool,
    /// Dials that were asked for and not answered.
    pub(super) dials: Vec<SocketAddr>,
    pub(super) ended: Vec<(ExchangeKey, Report)>,
    pub(super) events: Vec<Event>,
}

/// An endpoint's address.
pub(super) fn address(number: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, number), 8080))
}

impl Lab {
    /// With this many endpoints.
    pub(super) fn new(endpoints: u8) -> Self {
        let now = Instant::now();
        Self {
            switch: Switch::new(now),
            now,
            addresses: (1..=endpoints).map(address).collect(),
            refuses: false,
            watches: false,
            dials: Vec::new(),
            ended: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A client that has said its first words and was told ours.
    pub(super) fn client(&mut self) -> Peer {
        self.client_with(&[])
    }

    pub(super) fn client_with(&mut self, said: &[(u16, u32)]) -> Peer {
        let mut client = Peer::new(self.switch.open_downstream(false, self.now));
        self.send(&client, PREFACE);
        self.send(&client, &settings(said));
        let first = self.heard(&mut client);
        assert!(matches!(first[..], [Frame::Settings(_), Frame::Window(0, _), Frame::SettingsAck]));
        client
    }

    /// The endpoint that the last dial was for, which has said nothing yet.
    pub(super) fn silent_endpoint(&mut self) -> Peer {
        let address = self.dials.pop().expect("a dial was asked for");
        let endpoint = Peer::new(self.switch.open_upstream(address, self.now));
        self.follow();
        endpoint
    }

    /// The same, with SETTINGS exchanged.
    pub(super) fn endpoint(&mut self) -> Peer {
        self.endpoint_with(&[])
    }

    pub(super) fn endpoint_with(&mut self, said: &[(u16, u32)]) -> Peer {
        let endpoint = self.silent_endpoint();
        self.send(&endpoint, &settings(said));
        endpoint
    }

    /// A client and an endpoint with one call under way, of stream 1 on both sides. What was said
    /// until then has been heard.
    pub(super) fn call(&mut self, end: bool) -> (Peer, Peer) {
        let mut client = self.client();
        let head = client.headers(1, &CALL, end);
        self.send(&client, &head);
        let mut endpoint = self.endpoint();
        assert!(self.heard(&mut endpoint).len() >= 4, "SETTINGS, window, ACK, HEADERS");
        (client, endpoint)
    }

    /// The switch reads `octets` from the peer.
    pub(super) fn send(&mut self, peer: &Peer, octets: &[u8]) {
        let chunk: Rc<[u8]> = octets.into();
        let mut start = 0;
        while start < chunk.len() {
            start += self.switch.receive_chunk(peer.key, &chunk, start..chunk.len(), self.now);
            self.follow();
        }
        self.check();
    }

    /// The same, octet by octet.
    pub(super) fn trickle(&mut self, peer: &Peer, octets: &[u8]) {
        for octet in octets {
            self.send(peer, &[*octet]);
        }
    }

    /// All that the switch has to say to the peer.
    pub(super) fn heard(&mut self, peer: &mut Peer) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let octets: Vec<u8> = self.switch.output(peer.key).flatten().copied().collect();
            if octets.is_empty() {
                return frames;
            }
            self.switch.written(peer.key, octets.len(), self.now);
            self.follow();
            frames.extend(peer.parse(&octets, true));
        }
    }

    pub(super) fn follow(&mut self) {
        while let Some(event) = self.switch.next_event() {
            self.events.push(event.clone());
            match event {
                Event::Pick { exchange, .. } if self.refuses => {
                    self.switch.refuse(exchange, self.now);
                }
                Event::Pick { exchange, .. }
                | Event::Unreachable { exchange, .. }
                | Event::Replayed { exchange, .. } => self.assign(exchange),
                Event::Unwritten { exchange } => self.switch.retry(exchange, self.now),
                Event::Lost { exchange, .. } => {
                    self.switch.answer(exchange, 502, "lost", self.now);
                }
                Event::Dial { leg } => self.dials.push(leg.endpoint()),
                Event::Sent { .. } | Event::Responds { .. } => {}
                Event::Ended { exchange, report } => self.ended.push((exchange, report)),
            }
        }
    }

    fn assign(&mut self, exchange: ExchangeKey) {
        match self.addresses.pop_front() {
            Some(address) => {
                self.addresses.push_back(address);
                if self.watches {
                    self.switch.watch_messages(exchange);
                }
                self.switch.assign(exchange, address, self.now);
            }
            None => self.switch.answer(exchange, 503, "nobody left", self.now),
        }
    }

    /// The last stream that asked for an endpoint has lived long enough.
    pub(super) fn expire(&mut self, expiry: Expiry) {
        let picked = self.events.iter().rev().find_map(|event| match event {
            Event::Pick { exchange, .. } => Some(*exchange),
            _ => None,
        });
        self.switch.expire(picked.expect("there was one"), expiry, self.now);
        self.follow();
        self.check();
    }

    pub(super) fn dial_failed(&mut self) {
        let address = self.dials.pop().expect("a dial was asked for");
        self.addresses.retain(|other| *other != address);
        self.switch.dial_failed(address, ConnectFailure::Refused, self.now);
        self.follow();
    }

    pub(super) fn closed(&mut self, peer: &Peer) {
        self.switch.closed(peer.key, self.now);
        self.follow();
        self.check();
    }

    /// Time passes.
    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.switch.tick(self.now);
        self.follow();
        self.check();
    }

    pub(super) fn over(&self, peer: &Peer) -> Option<Over> {
        self.switch.over(peer.key)
    }

    /// The peer was told GOAWAY with this code, and its connection is over.
    pub(super) fn assert_failed(&mut self, peer: &mut Peer, code: Code) {
        assert_eq!(self.over(peer), Some(Over::Failed(code)));
        self.assert_told(peer, code);
    }

    /// The same, as it took too long.
    pub(super) fn assert_too_slow(&mut self, peer: &mut Peer, code: Code) {
        assert_eq!(self.over(peer), Some(Over::TooSlow(code)));
        self.assert_told(peer, code);
    }

    fn assert_told(&mut self, peer: &mut Peer, code: Code) {
        let last = self.heard(peer).pop();
        assert!(matches!(last, Some(Frame::GoAway(_, said)) if said == code), "{last:?}");
    }

    fn check(&self) {
        self.switch.check_invariants();
    }
}
