//! HTTP/2 with prior knowledge (RFC 9113), just enough to answer gRPC-shaped unary calls: HEADERS,
//! DATA with one message, trailers with `grpc-status: 0`.
//!
//! Header blocks of requests are not decoded, since no answer depends on them; everything else of
//! the framing is checked. Answers keep to the windows.

mod response;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;

use rustc_hash::FxBuildHasher;

use self::response::HeaderTable;
use super::counters::Counters;
use super::{Step, flush};
use crate::socket::receive;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// Flags.
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// The largest frame anybody may send us, and the largest we send.
const FRAME_MAX: usize = 16_384;

/// Our windows, for each stream and for the connection.
const WINDOW: u32 = 1 << 20;

/// Before a peer says otherwise.
const WINDOW_DEFAULT: i64 = 65_535;
const WINDOW_MAX: i64 = 0x7fff_ffff;

/// Answers held in memory before more are made; at twice that reading stops.
const PENDING_MAX: usize = 512 * 1024;

/// What is read at once.
const READ: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Http2 {
    /// What every request is answered with.
    message: Rc<Vec<u8>>,
    /// The preface has come.
    opened: bool,
    /// Octets of a frame that has not come to its end.
    partial: Vec<u8>,
    pending: Vec<u8>,
    sent: usize,
    streams: HashMap<u32, Stream, FxBuildHasher>,
    /// Streams whose answer waits for credit or room, oldest first.
    waiting: VecDeque<u32>,
    /// The peer's windows.
    initial_window: i64,
    window: i64,
    /// Received, and not given back yet.
    unreturned: u32,
    /// The stream whose header block goes on, and whether it ends with it.
    continued: Option<(u32, bool)>,
    table: HeaderTable,
}

#[derive(Debug)]
struct Stream {
    received: u32,
    prefix: [u8; 5],
    ended: bool,
    window: i64,
    /// Octets of the message still to be sent.
    left: usize,
    headers_sent: bool,
}

/// What a peer did wrong.
type Violation = String;

impl Http2 {
    pub(super) fn new(message: Rc<Vec<u8>>) -> Self {
        let mut pending = Vec::new();
        // SETTINGS_INITIAL_WINDOW_SIZE, and the same for the connection.
        frame(&mut pending, SETTINGS, 0, 0, &[&[0, 4][..], &WINDOW.to_be_bytes()].concat());
        let more = WINDOW - WINDOW_DEFAULT as u32;
        frame(&mut pending, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Self {
            message,
            opened: false,
            partial: Vec::new(),
            pending,
            sent: 0,
            streams: HashMap::default(),
            waiting: VecDeque::new(),
            initial_window: WINDOW_DEFAULT,
            window: WINDOW_DEFAULT,
            unreturned: 0,
            continued: None,
            table: HeaderTable::default(),
        }
    }

    /// Reads once. False at the end.
    pub(super) fn read(
        &mut self,
        socket: &TcpStream,
        buffer: &mut [u8],
        counters: &mut Counters,
    ) -> io::Result<bool> {
        if self.unsent() > 2 * PENDING_MAX {
            return Ok(true);
        }
        let done = match receive(socket, &mut buffer[..READ])? {
            None => Ok(true),
            Some(0) if self.streams.is_empty() => Ok(false),
            Some(0) => Err(format!("an end with {} open streams", self.streams.len())),
            Some(count) => self.input(&buffer[..count], counters).map(|()| true),
        };
        Ok(done.unwrap_or_else(|violation| {
            counters.violation(&violation);
            false
        }))
    }

    pub(super) fn write(
        &mut self,
        socket: &TcpStream,
        counters: &mut Counters,
    ) -> io::Result<Step> {
        loop {
            if !flush(socket, &mut self.pending, &mut self.sent)? {
                return Ok(Step::Full);
            }
            self.resume(counters);
            if self.pending.is_empty() {
                return Ok(Step::Idle);
            }
        }
    }

    fn unsent(&self) -> usize {
        self.pending.len() - self.sent
    }

    fn input(&mut self, octets: &[u8], counters: &mut Counters) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.frames(octets, counters)?;
            self.partial.extend_from_slice(&octets[used..]);
            return Ok(());
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(octets);
        let used = self.frames(&partial, counters)?;
        partial.drain(..used);
        self.partial = partial;
        Ok(())
    }

    /// Takes whole frames and gives the octets they had.
    fn frames(&mut self, octets: &[u8], counters: &mut Counters) -> Result<usize, Violation> {
        let mut rest = octets;
        if !self.opened {
            if rest.len() < PREFACE.len() {
                return Ok(0);
            }
            rest = rest.strip_prefix(PREFACE).ok_or("no preface")?;
            self.opened = true;
        }
        while let Some((head, more)) = rest.split_first_chunk::<9>() {
            let [high, middle, low, kind, flags, id @ ..] = *head;
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if length > FRAME_MAX {
                return Err(format!("a frame of {length} octets"));
            }
            let Some((payload, more)) = more.split_at_checked(length) else { break };
            let stream = u32::from_be_bytes(id) & 0x7fff_ffff;
            self.frame(kind, flags, stream, payload, counters)?;
            rest = more;
        }
        Ok(octets.len() - rest.len())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        counters: &mut Counters,
    ) -> Result<(), Violation> {
        if self.continued.is_some() && kind != CONTINUATION {
            return Err(format!("a frame of type {kind} within a header block"));
        }
        match kind {
            DATA => self.data(flags, stream, payload, counters)?,
            HEADERS if stream.is_multiple_of(2) || self.streams.contains_key(&stream) => {
                return Err(format!("HEADERS on stream {stream}"));
            }
            HEADERS if flags & END_HEADERS == 0 => {
                self.continued = Some((stream, flags & END_STREAM != 0));
            }
            HEADERS => self.request(stream, flags & END_STREAM != 0)?,
            CONTINUATION => match self.continued {
                Some((of, ended)) if of == stream => {
                    if flags & END_HEADERS != 0 {
                        self.continued = None;
                        self.request(stream, ended)?;
                    }
                }
                _ => return Err(format!("CONTINUATION on stream {stream}")),
            },
            RST_STREAM => {
                self.streams.remove(&stream);
            }
            SETTINGS if flags & ACK == 0 => self.settings(payload)?,
            PING if flags & ACK == 0 => frame(&mut self.pending, PING, ACK, 0, payload),
            WINDOW_UPDATE => self.credit(stream, payload, counters)?,
            _ => {}
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Violation> {
        let (settings, []) = payload.as_chunks::<6>() else {
            return Err("SETTINGS of a wrong length".to_owned());
        };
        for [_, name, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match name {
                1 => self.table.limit(value),
                4 => {
                    let more = i64::from(value) - self.initial_window;
                    self.initial_window += more;
                    self.streams.values_mut().for_each(|stream| stream.window += more);
                }
                _ => {}
            }
        }
        frame(&mut self.pending, SETTINGS, ACK, 0, &[]);
        Ok(())
    }

    fn credit(
        &mut self,
        stream: u32,
        payload: &[u8],
        counters: &mut Counters,
    ) -> Result<(), Violation> {
        let octets = payload.try_into().map_err(|_| "WINDOW_UPDATE of a wrong length")?;
        let more = i64::from(u32::from_be_bytes(octets) & 0x7fff_ffff);
        if stream == 0 {
            self.window += more;
            if self.window > WINDOW_MAX {
                return Err("more credit than a window can have".to_owned());
            }
        } else if let Some(stream) = self.streams.get_mut(&stream) {
            stream.window += more;
        }
        self.resume(counters);
        Ok(())
    }

    fn request(&mut self, id: u32, ended: bool) -> Result<(), Violation> {
        if ended {
            return Err(format!("stream {id} has no message"));
        }
        let stream = Stream {
            received: 0,
            prefix: [0; 5],
            ended: false,
            window: self.initial_window,
            left: self.message.len(),
            headers_sent: false,
        };
        self.streams.insert(id, stream);
        Ok(())
    }

    fn data(
        &mut self,
        flags: u8,
        id: u32,
        payload: &[u8],
        counters: &mut Counters,
    ) -> Result<(), Violation> {
        let length = payload.len() as u32;
        self.unreturned += length;
        if self.unreturned >= WINDOW / 2 {
            frame(&mut self.pending, WINDOW_UPDATE, 0, 0, &self.unreturned.to_be_bytes());
            self.unreturned = 0;
        }
        let octets = if flags & PADDED == 0 { payload } else { unpadded(payload)? };
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(()); // It was reset.
        };
        if stream.ended {
            return Err(format!("DATA after the end of stream {id}"));
        }
        let seen = stream.prefix.len().min(stream.received as usize);
        let take = octets.len().min(stream.prefix.len() - seen);
        stream.prefix[seen..seen + take].copy_from_slice(&octets[..take]);
        stream.received += octets.len() as u32;
        if flags & END_STREAM == 0 {
            if length > 0 {
                frame(&mut self.pending, WINDOW_UPDATE, 0, id, &length.to_be_bytes());
            }
            return Ok(());
        }
        stream.ended = true;
        let [compressed, said @ ..] = stream.prefix;
        let said = u64::from(u32::from_be_bytes(said)) + 5;
        if compressed != 0 || said != u64::from(stream.received) {
            return Err(format!("stream {id}: {} octets of {said}", stream.received));
        }
        if !self.respond(id, counters) {
            self.waiting.push_back(id);
        }
        Ok(())
    }
}

fn unpadded(payload: &[u8]) -> Result<&[u8], Violation> {
    let (padding, octets) = payload.split_first().ok_or("no padding length")?;
    let length = octets.len().checked_sub(usize::from(*padding)).ok_or("too much padding")?;
    Ok(&octets[..length])
}

fn frame(pending: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    pending.extend_from_slice(&length);
    pending.extend_from_slice(&[kind, flags]);
    pending.extend_from_slice(&stream.to_be_bytes());
    pending.extend_from_slice(payload);
}
