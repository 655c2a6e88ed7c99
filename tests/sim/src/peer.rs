//! One end of an HTTP/2 connection to the switch. It keeps the rules of RFC 9113 and panics when
//! the switch does not.

use std::collections::{BTreeMap, VecDeque};

use streamvs_relay::h2::switch::hpack::{DEFAULT_TABLE_OCTETS, Encoder, Field, Indexing};

use crate::frame::{self, Frame, Parser};
use crate::trace;

/// A header list.
pub(crate) type Fields = Vec<(String, String)>;

const DEFAULT_WINDOW: i64 = 65_535;
const MAX_WINDOW: i64 = (1 << 31) - 1;

/// What came from the switch.
#[derive(Debug)]
pub(crate) enum Heard {
    Head { stream: u32, fields: Fields, end: bool },
    Data { stream: u32, octets: Vec<u8>, end: bool },
    Reset { stream: u32, code: u32 },
    GoAway { last: u32, code: u32 },
}

/// A stream as this end sees it.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What we may send.
    pub(crate) send_window: i64,
    /// What the switch may send, as far as it can know.
    recv_window: i64,
    /// What it has sent and was not granted again.
    pub(crate) ungranted: u32,
    /// END_STREAM was sent or came.
    pub(crate) sent_end: bool,
    pub(crate) heard_end: bool,
    /// It was reset by us, or by the switch.
    pub(crate) we_reset: bool,
    pub(crate) heard_reset: bool,
}

impl Stream {
    pub(crate) fn can_send(&self) -> bool {
        !self.sent_end && !self.we_reset && !self.heard_reset
    }

    pub(crate) fn is_over(&self) -> bool {
        self.we_reset || self.heard_reset || (self.sent_end && self.heard_end)
    }
}

/// One end.
pub(crate) struct Peer {
    /// For the trace.
    name: String,
    is_client: bool,
    parser: Parser,
    decoder: fluke_hpack::Decoder<'static>,
    encoder: Encoder,
    /// What the switch has yet to read.
    pub(crate) out: Vec<u8>,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) last_stream: u32,
    /// What we may send on all streams, and on a new one.
    pub(crate) send_window: i64,
    initial_send_window: i64,
    /// The same for the switch.
    recv_window: i64,
    pub(crate) ungranted: u32,
    initial_recv_window: i64,
    /// Our SETTINGS without an ACK yet: the initial window and the table they say, if any.
    unacknowledged: VecDeque<(Option<i64>, Option<u32>)>,
    unanswered_pings: usize,
    /// A header block without its end.
    block: Option<(u32, bool, Vec<u8>)>,
    heard_settings: bool,
    /// No stream above this was acted on.
    pub(crate) we_left_at: Option<u32>,
    pub(crate) heard_go_away: bool,
}

impl Peer {
    pub(crate) fn new(is_client: bool, name: String) -> Self {
        let mut out = Vec::new();
        if is_client {
            out.extend_from_slice(frame::PREFACE);
        }
        Self {
            name,
            is_client,
            parser: Parser::new(!is_client),
            decoder: fluke_hpack::Decoder::new(),
            encoder: Encoder::new(),
            out,
            streams: BTreeMap::new(),
            last_stream: 0,
            send_window: DEFAULT_WINDOW,
            initial_send_window: DEFAULT_WINDOW,
            recv_window: DEFAULT_WINDOW,
            ungranted: 0,
            initial_recv_window: DEFAULT_WINDOW,
            unacknowledged: VecDeque::new(),
            unanswered_pings: 0,
            block: None,
            heard_settings: false,
            we_left_at: None,
            heard_go_away: false,
        }
    }

    fn open(&mut self, stream: u32) {
        let opened = Stream {
            send_window: self.initial_send_window,
            // The switch may not have read our SETTINGS: what counts is what it has acknowledged.
            recv_window: self.initial_recv_window,
            ungranted: 0,
            sent_end: false,
            heard_end: false,
            we_reset: false,
            heard_reset: false,
        };
        assert!(self.streams.insert(stream, opened).is_none(), "stream {stream} opened twice");
        self.last_stream = stream;
    }

    // Writing.

    fn put(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        frame::put(&mut self.out, kind, flags, stream, payload);
        let frame = Frame { kind, flags, stream, payload: payload.to_vec() };
        trace::line(format_args!("{} says {frame}", self.name));
    }

    /// Opens the client's next stream.
    pub(crate) fn next_stream(&mut self) -> u32 {
        let stream = if self.last_stream == 0 { 1 } else { self.last_stream + 2 };
        self.open(stream);
        stream
    }

    /// SETTINGS with what is given.
    pub(crate) fn settings(
        &mut self,
        initial_window: Option<u32>,
        table: Option<u32>,
        max_streams: Option<u32>,
    ) {
        let mut payload = Vec::new();
        for (name, value) in [(4u16, initial_window), (1, table), (3, max_streams)] {
            if let Some(value) = value {
                payload.extend_from_slice(&name.to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
        }
        self.put(frame::SETTINGS, 0, 0, &payload);
        self.unacknowledged.push_back((initial_window.map(i64::from), table));
    }

    pub(crate) fn ping(&mut self) {
        self.put(frame::PING, 0, 0, &[7; 8]);
        self.unanswered_pings += 1;
    }

    /// Frames that mean nothing.
    pub(crate) fn noise(&mut self, rng: &mut fastrand::Rng) {
        if rng.bool() {
            self.put(frame::PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
        } else {
            let payload = vec![1; rng.usize(..40)];
            self.put(rng.u8(0x20..), rng.u8(..), rng.u32(..9), &payload);
        }
    }

    /// A header block on an open stream, in one frame or several.
    pub(crate) fn head(
        &mut self,
        stream: u32,
        fields: &Fields,
        end: bool,
        rng: &mut fastrand::Rng,
    ) {
        let mut block = Vec::new();
        let mut writer = self.encoder.begin(&mut block);
        for (name, value) in fields {
            let indexing = match rng.u8(..8) {
                0 => Indexing::Never,
                1 => Indexing::Without,
                _ => Indexing::Incremental,
            };
            writer.field(&Field::new(name.as_bytes(), value.as_bytes(), indexing));
        }
        let whole = block.len().clamp(1, frame::MAX_PAYLOAD);
        let first = if rng.u8(..8) == 0 { rng.usize(..=whole) } else { whole };
        let (first, rest) = block.split_at(first.min(block.len()));
        let mut pieces = vec![first];
        pieces.extend(rest.chunks(frame::MAX_PAYLOAD));
        let count = pieces.len();
        for (index, piece) in pieces.into_iter().enumerate() {
            let last = if index + 1 == count { frame::END_HEADERS } else { 0 };
            if index == 0 {
                let end = if end { frame::END_STREAM } else { 0 };
                self.put(frame::HEADERS, last | end, stream, piece);
            } else {
                self.put(frame::CONTINUATION, last, stream, piece);
            }
        }
        self.stream(stream).sent_end |= end;
    }

    /// How much DATA may be sent on the stream now.
    pub(crate) fn credit(&self, stream: u32) -> usize {
        let credit = self.streams[&stream].send_window.min(self.send_window);
        (credit.max(0) as usize).min(frame::MAX_PAYLOAD)
    }

    /// DATA, for which there is credit, with so much padding as that leaves room for.
    pub(crate) fn data(&mut self, stream: u32, octets: &[u8], end: bool, padding: u8) {
        let room = self.credit(stream) - octets.len();
        let mut payload = Vec::new();
        let mut flags = if end { frame::END_STREAM } else { 0 };
        if padding > 0 && room > usize::from(padding) {
            flags |= frame::PADDED;
            payload.push(padding);
            payload.extend_from_slice(octets);
            payload.resize(payload.len() + usize::from(padding), 0);
        } else {
            payload.extend_from_slice(octets);
        }
        let spent = payload.len() as i64;
        self.put(frame::DATA, flags, stream, &payload);
        self.send_window -= spent;
        let entry = self.stream(stream);
        entry.send_window -= spent;
        entry.sent_end |= end;
    }

    pub(crate) fn reset(&mut self, stream: u32, code: u32) {
        self.put(frame::RST_STREAM, 0, stream, &code.to_be_bytes());
        self.stream(stream).we_reset = true;
    }

    pub(crate) fn go_away(&mut self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        self.put(frame::GOAWAY, 0, 0, &payload);
        self.we_left_at = Some(last);
    }

    /// Grants the switch again what it has sent, on the stream or (0) the connection.
    pub(crate) fn grant(&mut self, stream: u32, octets: u32) {
        assert_ne!(octets, 0);
        self.put(frame::WINDOW_UPDATE, 0, stream, &octets.to_be_bytes());
        if stream == 0 {
            self.ungranted -= octets;
            self.recv_window += i64::from(octets);
        } else {
            let stream = self.stream(stream);
            stream.ungranted -= octets;
            stream.recv_window += i64::from(octets);
        }
    }

    fn stream(&mut self, stream: u32) -> &mut Stream {
        self.streams.get_mut(&stream).expect("the stream was opened")
    }

    // Reading.

    /// Takes octets from the switch.
    pub(crate) fn hear(&mut self, octets: &[u8]) -> Vec<Heard> {
        self.parser.feed(octets);
        let mut heard = Vec::new();
        while let Some(frame) = self.parser.next() {
            heard.extend(self.frame(frame));
        }
        heard
    }

    fn frame(&mut self, frame: Frame) -> Option<Heard> {
        trace::line(format_args!("{} hears {frame}", self.name));
        assert!(
            self.heard_settings || frame.kind == frame::SETTINGS,
            "RFC 9113 section 3.4: SETTINGS come first"
        );
        if self.block.is_some() {
            assert_eq!(frame.kind, frame::CONTINUATION, "RFC 9113 section 6.10");
        }
        match frame.kind {
            frame::DATA => self.heard_data(&frame),
            frame::HEADERS => {
                assert_eq!(frame.flags & !(frame::END_STREAM | frame::END_HEADERS), 0);
                let end = frame.flags & frame::END_STREAM != 0;
                self.block = Some((frame.stream, end, frame.payload));
                self.heard_block(frame.flags)
            }
            frame::CONTINUATION => {
                let (stream, _, block) = self.block.as_mut().expect("follows HEADERS");
                assert_eq!(*stream, frame.stream);
                block.extend_from_slice(&frame.payload);
                self.heard_block(frame.flags)
            }
            frame::RST_STREAM => {
                let code = number(&frame);
                let stream = self.stream(frame.stream);
                assert!(!stream.heard_reset, "reset twice");
                stream.heard_reset = true;
                Some(Heard::Reset { stream: frame.stream, code })
            }
            frame::SETTINGS => {
                self.take_settings(&frame);
                None
            }
            frame::PING => {
                if frame.flags & frame::ACK == 0 {
                    self.put(frame::PING, frame::ACK, 0, &frame.payload);
                } else {
                    self.unanswered_pings =
                        self.unanswered_pings.checked_sub(1).expect("answers a PING");
                }
                None
            }
            frame::GOAWAY => {
                let last = number(&frame);
                let code = frame.payload[4..8].try_into().map(u32::from_be_bytes);
                self.heard_go_away = true;
                Some(Heard::GoAway { last, code: code.expect("is four octets") })
            }
            frame::WINDOW_UPDATE => {
                let octets = i64::from(number(&frame));
                assert_ne!(octets, 0, "RFC 9113 section 6.9");
                let window = match frame.stream {
                    0 => &mut self.send_window,
                    stream => &mut self.stream(stream).send_window,
                };
                *window += octets;
                assert!(*window <= MAX_WINDOW, "RFC 9113 section 6.9.1");
                None
            }
            kind => panic!("a frame of type {kind} has no business here"),
        }
    }

    fn take_settings(&mut self, frame: &Frame) {
        assert_eq!(frame.stream, 0);
        if frame.flags & frame::ACK != 0 {
            let (window, table) = self.unacknowledged.pop_front().expect("acknowledges SETTINGS");
            if let Some(table) = table {
                // RFC 7541 section 4.2: the next block says so itself. If it does not, its
                // references to what is evicted now fail.
                self.decoder.set_max_table_size(table.min(DEFAULT_TABLE_OCTETS) as usize);
            }
            if let Some(initial) = window {
                let change = initial - self.initial_recv_window;
                self.initial_recv_window = initial;
                self.streams.values_mut().for_each(|stream| stream.recv_window += change);
            }
            return;
        }
        self.heard_settings = true;
        for setting in frame.payload.chunks(6) {
            let name = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            if name == 4 {
                let change = i64::from(value) - self.initial_send_window;
                self.initial_send_window += change;
                self.streams.values_mut().for_each(|stream| stream.send_window += change);
            }
        }
        self.put(frame::SETTINGS, frame::ACK, 0, &[]);
    }

    fn heard_data(&mut self, frame: &Frame) -> Option<Heard> {
        let octets = frame.payload.len() as i64;
        self.recv_window -= octets;
        self.ungranted += octets as u32;
        assert!(self.recv_window >= 0, "more than the connection's credit was sent");
        assert_eq!(frame.flags & !frame::END_STREAM, 0, "we never see padding");
        let stream = self.stream(frame.stream);
        assert!(!stream.heard_end && !stream.heard_reset, "DATA after the end");
        stream.recv_window -= octets;
        stream.ungranted += octets as u32;
        assert!(stream.recv_window >= 0 || octets == 0, "more than the stream's credit was sent");
        let end = frame.flags & frame::END_STREAM != 0;
        stream.heard_end |= end;
        let ignored = stream.we_reset;
        (!ignored).then(|| Heard::Data { stream: frame.stream, octets: frame.payload.clone(), end })
    }

    fn heard_block(&mut self, flags: u8) -> Option<Heard> {
        if flags & frame::END_HEADERS == 0 {
            return None;
        }
        let (stream, end, block) = self.block.take().expect("was just put there");
        let fields = self.decoder.decode(&block).expect("the switch's block can be decoded");
        let text = |octets| String::from_utf8(octets).expect("we sent text");
        let fields = fields.into_iter().map(|(name, value)| (text(name), text(value))).collect();
        if !self.streams.contains_key(&stream) {
            assert!(!self.is_client, "a response without a request");
            assert!(stream % 2 == 1 && stream > self.last_stream, "RFC 9113 section 5.1.1");
            self.open(stream);
        }
        let entry = self.stream(stream);
        assert!(!entry.heard_end && !entry.heard_reset, "HEADERS after the end");
        entry.heard_end |= end;
        let ignored = entry.we_reset;
        (!ignored).then_some(Heard::Head { stream, fields, end })
    }

    /// New streams of the switch have, or will have, credit for anything there is.
    pub(crate) fn has_large_window(&self) -> bool {
        let last = self.unacknowledged.iter().rev().find_map(|it| it.0);
        last.unwrap_or(self.initial_recv_window) >= 1 << 20
    }

    pub(crate) fn heard_settings(&self) -> bool {
        self.heard_settings
    }

    /// The switch has answered all SETTINGS and PINGs.
    pub(crate) fn is_answered(&self) -> bool {
        self.unacknowledged.is_empty() && self.unanswered_pings == 0
    }
}

fn number(frame: &Frame) -> u32 {
    let octets = frame.payload.first_chunk().expect("is four octets");
    u32::from_be_bytes(*octets)
}
