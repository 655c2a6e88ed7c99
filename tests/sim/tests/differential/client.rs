//! A client that says frames as it is told, right or wrong, and notes what it sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use streamvs_relay::h2::switch::hpack::{Encoder, Field, Indexing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// How long anything may take that is to happen.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long nothing must happen to be called nothing.
const QUIET: Duration = Duration::from_millis(150);

pub(crate) type Fields = Vec<(String, String)>;

/// What came on one stream. Fields are sorted: their order is nobody's promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) informational: Vec<Fields>,
    pub(crate) head: Option<Fields>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<Fields>,
    pub(crate) end: bool,
    pub(crate) reset: Option<u32>,
}

impl Seen {
    pub(crate) fn is_over(&self) -> bool {
        self.end || self.reset.is_some()
    }
}

pub(crate) struct Client {
    socket: TcpStream,
    held: Vec<u8>,
    decoder: fluke_hpack::Decoder<'static>,
    encoder: Encoder,
    pub(crate) seen: BTreeMap<u32, Seen>,
    block: Vec<u8>,
    pongs: usize,
    /// The code of a GOAWAY, and whether the socket is closed.
    pub(crate) go_away: Option<u32>,
    pub(crate) closed: bool,
}

impl Client {
    /// Connects, says the preface and grants more than anybody sends.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("is accepted");
        socket.set_nodelay(true).expect("is connected");
        let mut client = Self {
            socket,
            held: Vec::new(),
            decoder: fluke_hpack::Decoder::new(),
            encoder: Encoder::new(),
            seen: BTreeMap::new(),
            block: Vec::new(),
            pongs: 0,
            go_away: None,
            closed: false,
        };
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &[0, 4, 1, 0, 0, 0]));
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0]));
        client.say(&hello).await;
        client
    }

    /// Writes octets. Those that nobody reads any more are lost.
    pub(crate) async fn say(&mut self, octets: &[u8]) {
        if !self.closed {
            // Whatever was said to us before is still to be read.
            let _ = self.socket.write_all(octets).await;
        }
    }

    pub(crate) fn encode(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        let mut writer = self.encoder.begin(&mut block);
        for (name, value) in fields {
            let field = Field::new(name.as_bytes(), value.as_bytes(), Indexing::Incremental);
            writer.field(&field);
        }
        block
    }

    /// Reads until all of `streams` are over, or the connection is.
    pub(crate) async fn wait_for(&mut self, streams: &[u32]) {
        let over = |client: &Self| {
            streams.iter().all(|stream| client.seen.get(stream).is_some_and(Seen::is_over))
        };
        while !self.closed && !over(self) {
            assert!(self.read(DEADLINE).await, "nothing comes for {streams:?}: {:?}", self.seen);
        }
    }

    /// Reads until what was said before has been looked at and nothing more comes.
    pub(crate) async fn wait_for_effects(&mut self) {
        let pongs = self.pongs;
        self.say(&frame(PING, 0, 0, &[3; 8])).await;
        while !self.closed && self.pongs == pongs && self.read(DEADLINE).await {}
        while !self.closed && self.read(QUIET).await {}
    }

    /// Reads once. False: nothing came in time.
    async fn read(&mut self, patience: Duration) -> bool {
        let mut buffer = vec![0; 16_384];
        match timeout(patience, self.socket.read(&mut buffer)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => self.closed = true,
            Ok(Ok(octets)) => self.held.extend_from_slice(&buffer[..octets]),
        }
        let mut answers = Vec::new();
        while let Some(head) = self.held.first_chunk::<9>() {
            let [_, a, b, kind, flags, stream @ ..] = *head;
            let length = usize::from(head[0]) << 16 | usize::from(a) << 8 | usize::from(b);
            let Some(payload) = self.held.get(9..9 + length) else { break };
            let payload = payload.to_vec();
            self.held.drain(..9 + length);
            let stream = u32::from_be_bytes(stream);
            answers.extend(self.frame(kind, flags, stream, &payload));
        }
        self.say(&answers).await;
        true
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let number = payload.first_chunk().map(|octets| u32::from_be_bytes(*octets));
        match kind {
            DATA => {
                let seen = self.seen.entry(stream).or_default();
                seen.body.extend_from_slice(payload);
                seen.end |= flags & END_STREAM != 0;
            }
            HEADERS | CONTINUATION => {
                self.block.extend_from_slice(payload);
                let seen = self.seen.entry(stream).or_default();
                seen.end |= kind == HEADERS && flags & END_STREAM != 0;
                if flags & END_HEADERS != 0 {
                    let block = std::mem::take(&mut self.block);
                    let fields = self.decoder.decode(&block).expect("can be decoded");
                    let text = |octets: Vec<u8>| String::from_utf8(octets).expect("is text");
                    let mut fields: Fields =
                        fields.into_iter().map(|it| (text(it.0), text(it.1))).collect();
                    // Clocks differ.
                    fields.retain(|(name, _)| name != "date");
                    fields.sort();
                    if fields
                        .iter()
                        .any(|(name, value)| name == ":status" && value.starts_with('1'))
                    {
                        seen.informational.push(fields);
                    } else if seen.head.is_none() {
                        seen.head = Some(fields);
                    } else {
                        seen.trailers = Some(fields);
                    }
                }
            }
            RST_STREAM => self.seen.entry(stream).or_default().reset = number,
            SETTINGS if flags & 1 == 0 => return frame(SETTINGS, 1, 0, &[]),
            PING if flags & 1 == 0 => return frame(PING, 1, 0, payload),
            PING => self.pongs += 1,
            7 => {
                let code = payload[4..].first_chunk().map(|octets| u32::from_be_bytes(*octets));
                self.go_away = code;
            }
            _ => {}
        }
        Vec::new()
    }
}

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    octets.extend_from_slice(&[kind, flags]);
    octets.extend_from_slice(&stream.to_be_bytes());
    octets.extend_from_slice(payload);
    octets
}
