//! Clients and endpoints send any frames in any order, while dials succeed and fail, sockets fill,
//! connections close and time passes.
//!
//! Claims: nothing panics; what the switch says are whole frames; no peer is sent more DATA than it
//! has ever granted; each stream that was picked for ends once, also when everything is closed; and
//! nothing is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use streamvs_balance::ConnectFailure;
use streamvs_relay::h2::switch::{ConnectionKey, Event, ExchangeKey, Switch};

use crate::script::Script;
use crate::wire::{PREFACE, frames, put};

const CONNECTIONS: usize = 8;
const DEFAULT_WINDOW: u64 = 65_535;

struct Connection {
    key: ConnectionKey,
    is_client: bool,
    /// What was written to its socket, beginning with a whole frame.
    output: Vec<u8>,
    /// Credit that was granted at most: to all streams, to each by SETTINGS, to each by itself.
    /// None: something was sent that is not known to be a frame, so it cannot be told.
    granted: Option<Granted>,
    /// Octets of DATA that were sent to it: on all streams, and on each.
    sent: u64,
    sent_on: BTreeMap<u32, u64>,
    next_stream: u32,
}

#[derive(Default)]
struct Granted {
    connection: u64,
    initial: u64,
    streams: BTreeMap<u32, u64>,
}

struct World<'a> {
    script: Script<'a>,
    switch: Switch,
    now: Instant,
    connections: Vec<Connection>,
    dials: Vec<SocketAddr>,
    exchanges: BTreeSet<ExchangeKey>,
}

/// Runs one script.
pub fn check(octets: &[u8]) {
    let now = Instant::now();
    let mut world = World {
        script: Script::new(octets),
        switch: Switch::new(now),
        now,
        connections: Vec::new(),
        dials: Vec::new(),
        exchanges: BTreeSet::new(),
    };
    world.open_client();
    while !world.script.is_over() {
        world.act();
        world.switch.check_invariants();
    }
    while !world.connections.is_empty() {
        world.write(0, usize::MAX);
        world.close(0);
    }
    assert!(world.exchanges.is_empty(), "streams without an end");
    let left = format!("{:?}", world.switch);
    assert!(left.contains("connection_count: 0") && left.contains("exchange_count: 0"), "{left}");
}

impl World<'_> {
    fn act(&mut self) {
        let act = self.script.octet();
        if self.connections.is_empty() {
            return self.open_client();
        }
        let place = usize::from(act >> 4) % self.connections.len();
        match act & 0x0f {
            0 if self.connections.len() < CONNECTIONS => self.open_client(),
            0..=4 => self.frame(place),
            5 => {
                self.connections[place].granted = None;
                let octets = self.script.octets().to_vec();
                self.receive(place, &octets);
            }
            6 | 7 => self.request_or_response(place),
            8 => self.data(place),
            9 => {
                let octets = usize::from(self.script.octet()) * 10;
                self.write(place, octets);
            }
            10 | 11 => self.write(place, usize::MAX),
            12 => self.dialled(true),
            13 => self.dialled(false),
            14 => {
                self.now += Duration::from_millis(u64::from(self.script.octet()).pow(2) * 10);
                self.switch.tick(self.now);
                self.follow();
            }
            _ if self.connections[place].is_client && self.script.octet() & 1 == 0 => {
                self.switch.drain(self.connections[place].key, self.now);
                self.follow();
            }
            _ => self.close(place),
        }
    }

    fn open_client(&mut self) {
        let key = self.switch.open_downstream(false, self.now);
        let mut octets = PREFACE.to_vec();
        put(&mut octets, 4, 0, 0, &[]);
        self.add(key, true);
        self.receive(self.connections.len() - 1, &octets);
    }

    fn add(&mut self, key: ConnectionKey, is_client: bool) {
        let granted = Granted {
            connection: DEFAULT_WINDOW,
            initial: DEFAULT_WINDOW,
            streams: BTreeMap::new(),
        };
        self.connections.push(Connection {
            key,
            is_client,
            output: Vec::new(),
            granted: Some(granted),
            sent: 0,
            sent_on: BTreeMap::new(),
            next_stream: 1,
        });
        self.follow();
    }

    /// Any frame, in good shape or not.
    fn frame(&mut self, place: usize) {
        let kind = self.script.octet() % 12;
        let flags = self.script.octet();
        let stream = u32::from(self.script.octet() % 12);
        let mut payload = self.script.octets().to_vec();
        match kind {
            // Numbers that are large in most scripts are of little use.
            8 => payload = u32::from(self.script.octet()).pow(3).to_be_bytes().to_vec(),
            2 => payload.resize(5, 0),
            3 => payload.resize(4, 0),
            4 => payload.truncate(payload.len() / 6 * 6),
            6 => payload.resize(8, 0),
            _ => {}
        }
        if let Some(granted) = &mut self.connections[place].granted {
            match kind {
                4 if flags & 1 == 0 => {
                    for setting in payload.chunks_exact(6).filter(|it| it[..2] == [0, 4]) {
                        let initial = u32::from_be_bytes(*setting[2..].first_chunk().expect("4"));
                        granted.initial = granted.initial.max(u64::from(initial));
                    }
                }
                8 => {
                    let octets = payload.first_chunk().map(|it| u32::from_be_bytes(*it));
                    let octets = u64::from(octets.expect("is four octets long"));
                    match stream {
                        0 => granted.connection += octets,
                        _ => *granted.streams.entry(stream).or_default() += octets,
                    }
                }
                _ => {}
            }
        }
        let mut octets = Vec::new();
        put(&mut octets, kind, flags, stream, &payload);
        self.receive(place, &octets);
    }

    /// Header blocks that are valid: on a client's next stream, or on any of an endpoint's.
    fn request_or_response(&mut self, place: usize) {
        let choice = self.script.octet();
        let end = choice & 1;
        let connection = &mut self.connections[place];
        let mut octets = Vec::new();
        if connection.is_client {
            let stream = connection.next_stream;
            connection.next_stream += 2;
            let get: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
            let post: &[u8] = &[0x83, 0x86, 0x84, 0x5f, 0x10];
            let mut block = if choice & 2 == 0 { get.to_vec() } else { post.to_vec() };
            if choice & 2 != 0 {
                block.extend_from_slice(b"application/grpc");
            }
            put(&mut octets, 1, 4 | end, stream, &block);
        } else {
            let stream = 2 * u32::from(choice >> 4) + 1;
            let block: &[u8] = match choice >> 2 & 3 {
                0 => &[0x88],
                1 => &[0x08, 0x03, b'1', b'0', b'3'],
                2 => &[0x00, 0x01, b'x', 0x01, b'y'],
                _ => &[0x88, 0x0f, 0x0d, 0x01, b'5'],
            };
            put(&mut octets, 1, 4 | end, stream, block);
        }
        self.receive(place, &octets);
    }

    /// DATA of some length.
    fn data(&mut self, place: usize) {
        let stream = 2 * u32::from(self.script.octet() % 8) + 1;
        let length = usize::from(self.script.octet()).pow(2) % 16_385;
        let end = self.script.octet() & 1;
        let mut octets = Vec::new();
        put(&mut octets, 0, end, stream, &vec![b'd'; length]);
        self.receive(place, &octets);
    }

    fn receive(&mut self, place: usize, octets: &[u8]) {
        let key = self.connections[place].key;
        let (chunk, mut start) = (Rc::<[u8]>::from(octets), 0);
        while start < chunk.len() && self.switch.wants_input(key) {
            let taken = self.switch.receive_chunk(key, &chunk, start..chunk.len(), self.now);
            assert!(taken > 0 && start + taken <= chunk.len());
            start += taken;
            self.follow();
        }
        if start < chunk.len() {
            // Part of a frame was lost with what was not wanted.
            self.connections[place].granted = None;
        }
    }

    fn write(&mut self, place: usize, most: usize) {
        let connection = &mut self.connections[place];
        if most.is_multiple_of(2) {
            self.switch.keep(connection.key);
        }
        let before = connection.output.len();
        connection.output.extend(self.switch.output(connection.key).flatten().take(most));
        let octets = connection.output.len() - before;
        self.switch.written(connection.key, octets, self.now);
        self.follow();
    }

    /// Reads what was written to a connection's socket.
    fn read_output(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let mut octets = std::mem::take(&mut connection.output);
        octets.extend(self.switch.output(connection.key).flatten());
        if !connection.is_client {
            octets = octets.strip_prefix(PREFACE).expect("said first").to_vec();
        }
        for frame in frames(&octets).iter().filter(|frame| frame.kind == 0) {
            let octets = frame.payload.len() as u64;
            connection.sent += octets;
            *connection.sent_on.entry(frame.stream).or_default() += octets;
        }
        let Some(granted) = &connection.granted else { return };
        assert!(connection.sent <= granted.connection);
        for (stream, sent) in &connection.sent_on {
            let own = granted.streams.get(stream).copied().unwrap_or(0);
            assert!(*sent <= granted.initial + own, "too much on stream {stream}");
        }
    }

    fn dialled(&mut self, accepted: bool) {
        let Some(address) = self.dials.pop() else { return };
        if accepted && self.connections.len() < CONNECTIONS {
            let key = self.switch.open_upstream(address, self.now);
            self.add(key, false);
            let mut octets = Vec::new();
            put(&mut octets, 4, 0, 0, &[]);
            if self.script.octet() & 1 == 0 {
                self.receive(self.connections.len() - 1, &octets);
            }
        } else {
            self.switch.dial_failed(address, ConnectFailure::Refused, self.now);
            self.follow();
        }
    }

    fn close(&mut self, place: usize) {
        self.read_output(place);
        let connection = self.connections.swap_remove(place);
        self.switch.closed(connection.key, self.now);
        self.follow();
    }

    fn follow(&mut self) {
        while let Some(event) = self.switch.next_event() {
            match event {
                Event::Pick { exchange, .. } => {
                    assert!(self.exchanges.insert(exchange), "picked twice");
                    self.pick(exchange);
                }
                Event::Unreachable { exchange, .. } | Event::Replayed { exchange, .. } => {
                    assert!(self.exchanges.contains(&exchange));
                    self.pick(exchange);
                }
                Event::Unwritten { exchange } => {
                    assert!(self.exchanges.contains(&exchange));
                    self.switch.retry(exchange, self.now);
                }
                Event::Lost { exchange, .. } => {
                    assert!(self.exchanges.contains(&exchange));
                    self.switch.answer(exchange, 502, "lost", self.now);
                }
                Event::Dial { leg } => {
                    assert!(!self.dials.contains(&leg.endpoint()), "two dials to one endpoint");
                    self.dials.push(leg.endpoint());
                }
                Event::Sent { exchange } | Event::Responds { exchange, .. } => {
                    assert!(self.exchanges.contains(&exchange));
                }
                Event::Ended { exchange, .. } => {
                    assert!(self.exchanges.remove(&exchange), "ended twice");
                }
            }
        }
        while self.switch.next_dirty().is_some() {}
    }

    fn pick(&mut self, exchange: ExchangeKey) {
        // Nothing at the script's end, so that a stream does not go round for ever.
        let octet = self.script.octet();
        match octet % 4 {
            0 if octet >= 0x80 => self.switch.refuse(exchange, self.now),
            0 => self.switch.answer(exchange, 503, "nobody", self.now),
            host => {
                let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, host), 1));
                self.switch.assign(exchange, address, self.now);
            }
        }
    }
}
