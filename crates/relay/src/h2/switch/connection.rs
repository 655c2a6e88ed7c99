//! One connection as the switch sees it.

use std::rc::Rc;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::calm::Calm;
use super::flow::{DEFAULT_WINDOW, Window};
use super::frame::{Code, HEAD_OCTETS, Head, PREFACE, flag, kind};
use super::hpack::{Decoder, Encoder};
use super::inbound::Inbound;
use super::output::Output;
use super::resets::Resets;
use super::turns::Turns;
use super::{ExchangeKey, limits};
use crate::Leg;
use crate::h2::settings;

/// Which side of us the peer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The peer is a client.
    Downstream {
        /// Extended CONNECT was offered to it (RFC 8441).
        extended_connect: bool,
    },
    /// The peer is an endpoint.
    Upstream { leg: Leg },
}

/// What the peer's SETTINGS say (RFC 9113 section 6.5.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    /// They have come at all.
    pub(super) known: bool,
    pub(super) initial_window: u32,
    pub(super) max_frame: usize,
    pub(super) max_streams: u32,
    pub(super) extended_connect: bool,
}

/// How far a connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Takes new streams.
    Open,
    /// A GOAWAY with the largest id was sent, and a PING, at this time (RFC 9113 section 6.8).
    Announced(Instant),
    /// Takes no new streams: a GOAWAY was sent, or came from an endpoint.
    Retired,
    /// Nothing is read any more; what waits is still written.
    Over(Over),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing was wrong.
    Closed,
    /// The peer broke a rule, for which it got a GOAWAY with this code.
    Failed(Code),
    /// The peer took too long over something that must come whole, and was told so with this code.
    TooSlow(Code),
}

pub(super) struct Connection {
    pub(super) role: Role,
    pub(super) stage: Stage,
    pub(super) peer: PeerSettings,
    pub(super) opened: Instant,

    // Receiving.
    pub(super) inbound: Inbound,
    pub(super) decoder: Decoder,
    /// What the peer may still send on all streams together.
    pub(super) receive_window: Window,
    /// What it has sent and has not been granted again.
    pub(super) unreturned: u32,
    pub(super) calm: Calm,
    pub(super) received: Instant,

    // Streams. Each entry is one open stream; its exchange names this connection and this id.
    pub(super) streams: FxHashMap<u32, ExchangeKey>,
    /// The last stream id: the peer's for a client, ours for an endpoint.
    pub(super) last_stream: u32,
    /// The last stream id that a GOAWAY of ours has named.
    announced: u32,
    pub(super) resets: Resets,
    pub(super) stream_count: u64,
    pub(super) idle_since: Instant,
    /// An endpoint has sent no SETTINGS in time and is taken to allow
    /// [`settings::UPSTREAM_STREAMS_AT_START`].
    pub(super) assumed_streams: bool,

    // Sending.
    pub(super) encoder: Encoder,
    pub(super) send_window: Window,
    /// Streams with data and credit that wait for the connection.
    pub(super) ready: Turns,
    pub(super) output: Output,
    /// Octets that have left `output` for the socket, since the beginning.
    pub(super) written: u64,
    /// Stands in the list of connections that have something to write or to tell.
    pub(super) dirty: bool,
    /// A PING of ours, sent then.
    pub(super) pinged: Option<Instant>,
}

impl Connection {
    pub(super) fn new(role: Role, now: Instant) -> Self {
        let downstream = matches!(role, Role::Downstream { .. });
        Self {
            role,
            stage: Stage::Open,
            peer: PeerSettings {
                known: false,
                initial_window: DEFAULT_WINDOW,
                max_frame: limits::DATA_OCTETS,
                max_streams: u32::MAX,
                extended_connect: false,
            },
            opened: now,
            inbound: Inbound::new(downstream),
            decoder: Decoder::new(settings::HEADER_TABLE_OCTETS),
            receive_window: Window::new(settings::CONNECTION_WINDOW_OCTETS),
            unreturned: 0,
            calm: Calm::new(now),
            received: now,
            streams: FxHashMap::default(),
            last_stream: 0,
            announced: u32::MAX,
            resets: Resets::default(),
            stream_count: 0,
            idle_since: now,
            assumed_streams: false,
            encoder: Encoder::new(),
            send_window: Window::new(DEFAULT_WINDOW),
            ready: Turns::default(),
            output: Output::default(),
            written: 0,
            dirty: false,
            pinged: None,
        }
    }

    /// Says what every connection says first (RFC 9113 section 3.4).
    pub(super) fn greet(&mut self) {
        let mut said = [(0, 0); 4];
        said[0] = (setting::INITIAL_WINDOW_SIZE, settings::STREAM_WINDOW_OCTETS);
        said[1] = (setting::MAX_HEADER_LIST_SIZE, settings::HEADER_LIST_OCTETS);
        let count = match self.role {
            Role::Downstream { extended_connect } => {
                said[2] = (setting::MAX_CONCURRENT_STREAMS, settings::DOWNSTREAM_STREAMS);
                said[3] = (setting::ENABLE_CONNECT_PROTOCOL, 1);
                if extended_connect { 4 } else { 3 }
            }
            Role::Upstream { .. } => {
                self.output.extend(PREFACE);
                said[2] = (setting::ENABLE_PUSH, 0);
                3
            }
        };
        self.head(6 * count, kind::SETTINGS, 0, 0);
        for (name, value) in &said[..count] {
            self.output.extend(&u16::to_be_bytes(*name));
            self.output.extend(&value.to_be_bytes());
        }
        self.window_update(0, settings::CONNECTION_WINDOW_OCTETS - DEFAULT_WINDOW);
    }

    /// Appends a frame's head; its payload must follow.
    pub(super) fn head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        self.output.extend(&Head { length, kind, flags, stream }.octets());
    }

    pub(super) fn window_update(&mut self, stream: u32, octets: u32) {
        self.head(4, kind::WINDOW_UPDATE, 0, stream);
        self.output.extend(&octets.to_be_bytes());
    }

    pub(super) fn rst_stream(&mut self, stream: u32, code: Code) {
        self.head(4, kind::RST_STREAM, 0, stream);
        self.output.extend(&code.0.to_be_bytes());
        self.resets.remember(stream);
    }

    pub(super) fn go_away(&mut self, last_stream: u32, code: Code) {
        // RFC 9113 section 6.8: what was said before is not taken back.
        let last_stream = last_stream.min(self.announced);
        self.announced = last_stream;
        self.head(8, kind::GOAWAY, 0, 0);
        self.output.extend(&last_stream.to_be_bytes());
        self.output.extend(&code.0.to_be_bytes());
    }

    pub(super) fn ping(&mut self, now: Instant) {
        self.head(8, kind::PING, 0, 0);
        self.output.extend(&PING);
        self.pinged = Some(now);
    }

    /// Appends a DATA frame of at most [`limits::DATA_OCTETS`], for which there is credit. A large
    /// one of octets that lie in `chunk` stays there.
    pub(super) fn data(&mut self, stream: u32, octets: &[u8], chunk: Option<&Rc<[u8]>>, end: bool) {
        let flags = if end { flag::END_STREAM } else { 0 };
        self.head(octets.len(), kind::DATA, flags, stream);
        if !chunk.is_some_and(|chunk| self.output.lend(chunk, octets)) {
            self.output.extend(octets);
        }
        self.calm.earn();
    }

    /// Appends a header block, cut as the peer wants it.
    pub(super) fn headers(&mut self, stream: u32, block: &[u8], end: bool) {
        let end = if end { flag::END_STREAM } else { 0 };
        self.calm.earn();
        if block.len() <= self.peer.max_frame {
            self.output.reserve(HEAD_OCTETS + block.len());
            self.head(block.len(), kind::HEADERS, end | flag::END_HEADERS, stream);
            self.output.extend(block);
            return;
        }
        let mut pieces = block.chunks(self.peer.max_frame).peekable();
        let (mut kind, mut flags) = (kind::HEADERS, end);
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= flag::END_HEADERS;
            }
            self.head(piece.len(), kind, flags, stream);
            self.output.extend(piece);
            (kind, flags) = (kind::CONTINUATION, 0);
        }
    }

    /// Gives back credit of the whole connection for octets that have gone on, or nowhere.
    pub(super) fn returns(&mut self, octets: usize) {
        // At most the window is unreturned.
        self.unreturned += octets as u32;
    }

    /// Tells the peer of returned credit when it is worth a frame. True: there is one.
    pub(super) fn update_window(&mut self) -> bool {
        if self.unreturned < limits::CONNECTION_UPDATE_OCTETS {
            return false;
        }
        let octets = std::mem::take(&mut self.unreturned);
        // What was spent before is granted again, so it fits.
        if self.receive_window.grow(octets).is_ok() {
            self.window_update(0, octets);
        }
        true
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    pub(super) fn is_downstream(&self) -> bool {
        matches!(self.role, Role::Downstream { .. })
    }

    /// No frame of this stream can have been sent yet (RFC 9113 section 5.1.1).
    pub(super) fn is_idle(&self, stream: u32) -> bool {
        // Both kinds of peer use the client's, odd, ids: nobody pushes.
        stream.is_multiple_of(2) || stream > self.last_stream
    }

    /// Gives up what an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.streams.is_empty() {
            self.streams.shrink_to_fit();
            self.ready.shrink();
            self.inbound.shrink();
            self.decoder.shrink();
            self.encoder.shrink();
        }
    }
}

/// The opaque octets of our PINGs.
pub(super) const PING: [u8; 8] = *b"streamvs";

/// Names of settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
pub(super) mod setting {
    pub(in super::super) const HEADER_TABLE_SIZE: u16 = 0x1;
    pub(in super::super) const ENABLE_PUSH: u16 = 0x2;
    pub(in super::super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(in super::super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(in super::super) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(in super::super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    pub(in super::super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}
