//! Clients, endpoints and the octets between them and the switch, one random step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use streamvs_balance::ConnectFailure;
use streamvs_relay::h2::switch::{
    ConnectionKey, Ended, Event, ExchangeKey, Expiry, Over, Report, Switch,
};

use crate::Climate;
use crate::call::Call;
use crate::peer::Peer;
use crate::trace;

/// Octets that may wait for one connection's socket: the switch's own bound, and what one read
/// may add to it.
const OUTPUT_OCTETS: usize = 1024 * 1024;

/// A request may be held in the switch up to its stream's window, and what of it went to an
/// endpoint that declined it.
const STREAM_OCTETS: usize = (256 + 64) * 1024;

/// What a connection may send when nothing is held: what the switch grants, less the quarter that
/// it may wait with.
const CONNECTION_OCTETS: i64 = 12 * 1024 * 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Client,
    Endpoint(SocketAddr),
}

pub(crate) struct Connection {
    pub(crate) key: ConnectionKey,
    pub(crate) whose: Whose,
    pub(crate) peer: Peer,
    /// The socket is open.
    pub(crate) open: bool,
    /// Calls by stream. At an endpoint: the call and its attempt.
    pub(crate) calls: BTreeMap<u32, (usize, usize)>,
    /// Streams for which the switch has asked for an endpoint.
    picked_count: u32,
    /// The switch was told to end it.
    pub(crate) draining: bool,
}

/// A stream as the driver knows it.
struct Exchange {
    call: usize,
    tries: usize,
    /// The endpoint's final response has begun.
    responds: bool,
}

/// Everything.
pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) climate: Climate,
    switch: Switch,
    pub(crate) now: Instant,
    pub(crate) connections: Vec<Connection>,
    pub(crate) calls: Vec<Call>,
    exchanges: BTreeMap<ExchangeKey, Exchange>,
    /// Dials under way.
    dials: Vec<SocketAddr>,
    /// Connections that the switch has announced and that have not been written empty since.
    announced: BTreeSet<ConnectionKey>,
    /// No more trouble: everybody does what is left to do.
    pub(crate) calm: bool,
    pub(crate) counts: Counts,
}

/// What a run saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Steps taken.
    pub steps: usize,
    /// Requests that clients sent.
    pub calls: usize,
    /// Whole responses of endpoints.
    pub responses: usize,
    /// Whole responses of the switch's own.
    pub answers: usize,
    /// Streams that clients saw reset.
    pub resets: usize,
    /// Times that a request was sent to one more endpoint.
    pub replays: usize,
    /// Octets of bodies that arrived, on both sides.
    pub body_octets: usize,
}

impl World {
    pub(crate) fn new(climate: Climate, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            rng: fastrand::Rng::with_seed(seed),
            climate,
            switch: Switch::new(now),
            now,
            connections: Vec::new(),
            calls: Vec::new(),
            exchanges: BTreeMap::new(),
            dials: Vec::new(),
            announced: BTreeSet::new(),
            calm: false,
            counts: Counts::default(),
        }
    }

    /// One of the endpoints there are.
    fn any_endpoint(&mut self) -> SocketAddr {
        let count = if self.climate == Climate::Rough { 3 } else { 1 };
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, self.rng.u8(1..=count)), 50051))
    }

    /// A connection for which `wanted` holds, by its place.
    pub(crate) fn any_connection(&mut self, wanted: impl Fn(&Connection) -> bool) -> Option<usize> {
        let places: Vec<_> = (0..self.connections.len())
            .filter(|&place| self.connections[place].open && wanted(&self.connections[place]))
            .collect();
        self.rng.choice(places)
    }

    // Steps.

    /// Something happens.
    pub(crate) fn step(&mut self) {
        self.counts.steps += 1;
        match self.rng.u8(..100) {
            0..=34 => self.deliver(),
            35..=64 => self.write(),
            65..=79 => self.client_step(),
            80..=93 => self.endpoint_step(),
            94..=96 => self.dial_step(),
            97 => self.pass_time(),
            98 => self.maintenance_step(),
            _ if self.climate == Climate::Rough => self.trouble_step(),
            // Everybody is quick now and then, so that much goes through in few steps.
            _ => {
                self.round();
            }
        }
        self.check();
    }

    /// Everybody does what is left until nothing changes.
    ///
    /// # Panics
    /// It never ends.
    pub(crate) fn settle(&mut self) {
        self.calm = true;
        for _ in 0..200 {
            let mut rounds = 0;
            while self.round() {
                rounds += 1;
                assert!(rounds < 100_000, "never quiet");
            }
            self.pass_time();
            if !self.round() && self.calls.iter().all(|call| call.done.is_some()) {
                return;
            }
        }
        let stuck: Vec<_> =
            self.calls.iter().enumerate().filter(|(_, call)| call.done.is_none()).collect();
        panic!("calls never ended: {stuck:#?}\n{:?}", self.switch);
    }

    /// One turn for everybody. True: something moved.
    fn round(&mut self) -> bool {
        let moved = self.carry();
        let acted = self.everybody_acts();
        self.check();
        moved || acted
    }

    /// Carries everything that is on its way to where it goes. True: there was something.
    fn carry(&mut self) -> bool {
        let mut moved = false;
        for place in 0..self.connections.len() {
            moved |= self.deliver_to(place, usize::MAX);
        }
        for place in 0..self.connections.len() {
            moved |= self.write_from(place, usize::MAX);
        }
        while !self.dials.is_empty() {
            moved = true;
            self.dial_step();
        }
        moved
    }

    /// Nobody has anything to say for a long time, but for what is answered at once.
    pub(crate) fn pause(&mut self) {
        while self.carry() {}
        self.now += Duration::from_secs(self.rng.u64(1..400));
        self.switch.tick(self.now);
        self.follow();
        while self.carry() {}
    }

    /// All connections end, and nothing is left.
    pub(crate) fn end(&mut self) {
        for place in 0..self.connections.len() {
            if self.connections[place].open {
                let peer = &self.connections[place].peer;
                assert!(peer.is_answered());
                let idle = !peer.heard_settings() || peer.send_window > CONNECTION_OCTETS;
                assert!(idle, "credit is lost: {}", peer.send_window);
                self.close(place);
            }
        }
        assert!(self.exchanges.is_empty(), "streams without an end");
        let left = format!("{:?}", self.switch);
        assert!(
            left.contains("connection_count: 0") && left.contains("exchange_count: 0"),
            "{left}"
        );
    }

    pub(crate) fn open_client(&mut self) {
        let key = self.switch.open_downstream(false, self.now);
        let mut peer = Peer::new(true, format!("client {}", self.connections.len()));
        self.greet(&mut peer);
        self.add(key, Whose::Client, peer);
    }

    fn greet(&mut self, peer: &mut Peer) {
        let rng = &mut self.rng;
        let window = rng.choice([None, Some(0), Some(1000), Some(65_535), Some(1 << 20)]).flatten();
        let table = rng.choice([None, Some(0), Some(100), Some(4096)]).flatten();
        peer.settings(window, table, None);
    }

    fn add(&mut self, key: ConnectionKey, whose: Whose, peer: Peer) {
        self.connections.push(Connection {
            key,
            whose,
            peer,
            open: true,
            calls: BTreeMap::new(),
            picked_count: 0,
            draining: false,
        });
        self.follow();
    }

    fn deliver(&mut self) {
        if let Some(place) = self.any_connection(|it| !it.peer.out.is_empty()) {
            let most = match self.rng.u8(..4) {
                0 => self.rng.usize(1..20),
                1 => self.rng.usize(1..1000),
                _ => self.rng.usize(1..100_000),
            };
            self.deliver_to(place, most);
        }
    }

    /// The switch reads from the connection. True: there was something.
    fn deliver_to(&mut self, place: usize, most: usize) -> bool {
        let connection = &mut self.connections[place];
        let key = connection.key;
        let octets = connection.peer.out.len().min(most);
        if !connection.open || octets == 0 || !self.switch.wants_input(key) {
            return false;
        }
        let chunk: Rc<[u8]> = connection.peer.out.drain(..octets).collect();
        let mut start = 0;
        while start < chunk.len() {
            let taken = self.switch.receive_chunk(key, &chunk, start..chunk.len(), self.now);
            assert!(taken > 0, "nothing taken, nothing asked");
            start += taken;
            self.follow();
        }
        true
    }

    fn write(&mut self) {
        let announced: Vec<_> = self.announced.iter().copied().collect();
        if let Some(key) = self.rng.choice(announced)
            && let Some(place) = self.place_of(key)
        {
            let most = match self.rng.u8(..4) {
                0 => self.rng.usize(1..20),
                1 => self.rng.usize(1..1000),
                _ => self.rng.usize(1..300_000),
            };
            self.write_from(place, most);
        }
    }

    fn place_of(&self, key: ConnectionKey) -> Option<usize> {
        self.connections.iter().position(|connection| connection.key == key)
    }

    /// The socket takes so much of what the switch has for it. True: there was something.
    fn write_from(&mut self, place: usize, most: usize) -> bool {
        let connection = &mut self.connections[place];
        let key = connection.key;
        if !connection.open || !self.announced.contains(&key) {
            return false;
        }
        if self.rng.u8(..4) == 0 {
            self.switch.keep(key);
        }
        let octets: Vec<u8> = self.switch.output(key).flatten().copied().take(most).collect();
        if !octets.is_empty() {
            self.switch.written(key, octets.len(), self.now);
            let heard = self.connections[place].peer.hear(&octets);
            heard.into_iter().for_each(|heard| self.heard(place, heard));
            self.follow();
        }
        if self.switch.output_octets(key) == 0 {
            self.announced.remove(&key);
            match self.switch.over(key) {
                Some(Over::Failed(code) | Over::TooSlow(code)) => {
                    panic!("blames {:?}: {code}", self.connections[place].whose)
                }
                Some(Over::Closed) => self.close(place),
                None => {}
            }
        }
        !octets.is_empty()
    }

    fn dial_step(&mut self) {
        if self.dials.is_empty() {
            return;
        }
        let place = self.rng.usize(..self.dials.len());
        let address = self.dials.swap_remove(place);
        if !self.calm && self.rng.u8(..6) == 0 {
            self.switch.dial_failed(address, ConnectFailure::Refused, self.now);
            return self.follow();
        }
        let key = self.switch.open_upstream(address, self.now);
        let mut peer = Peer::new(false, format!("endpoint {address} {}", self.connections.len()));
        self.greet(&mut peer);
        if self.rng.u8(..4) == 0 {
            peer.settings(None, None, Some(self.rng.u32(1..4)));
        }
        self.add(key, Whose::Endpoint(address), peer);
    }

    fn pass_time(&mut self) {
        let most = if self.calm { 2000 } else { 300 };
        self.now += Duration::from_millis(self.rng.u64(1..most));
        self.switch.tick(self.now);
        self.follow();
    }

    /// Some streams that wait lose their endpoint to a change of the table.
    pub(crate) fn remove_endpoints(&mut self) {
        let (rest, exchanges) = (self.rng.usize(..2), &self.exchanges);
        let withdrawn = self.switch.withdraw(|key| exchanges[&key].call % 2 == rest);
        withdrawn.into_iter().for_each(|key| self.pick(key));
        self.follow();
    }

    /// Some streams have lived long enough.
    pub(crate) fn expire_some(&mut self) {
        let expiry = if self.rng.bool() { Expiry::Now } else { Expiry::AfterMessage };
        let count = self.rng.usize(..3);
        let keys = self.rng.choose_multiple(self.exchanges.keys().copied(), count);
        for key in keys {
            if let Some(exchange) = self.exchanges.get(&key) {
                self.calls[exchange.call].expired = true;
                self.switch.expire(key, expiry, self.now);
                self.follow();
            }
        }
    }

    /// The socket is gone.
    pub(crate) fn close(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        connection.open = false;
        let key = connection.key;
        self.lost(place);
        self.switch.closed(key, self.now);
        self.follow();
    }

    pub(crate) fn drain(&mut self, place: usize) {
        self.connections[place].draining = true;
        self.switch.drain(self.connections[place].key, self.now);
        self.follow();
    }

    /// Does what the switch asks, as its driver does.
    fn follow(&mut self) {
        while let Some(event) = self.switch.next_event() {
            self.event(event);
        }
        while let Some(key) = self.switch.next_dirty() {
            self.announced.insert(key);
        }
    }

    fn event(&mut self, event: Event) {
        trace::line(format_args!("{event:?}"));
        match event {
            Event::Pick { exchange, connection } => {
                let place = self.place_of(connection).expect("the connection is there");
                let connection = &mut self.connections[place];
                // Streams are asked about in the order in which they were opened.
                let (call, _) = connection.calls[&(2 * connection.picked_count + 1)];
                connection.picked_count += 1;
                let before =
                    self.exchanges.insert(exchange, Exchange { call, tries: 0, responds: false });
                assert!(before.is_none(), "picked twice");
                if self.rng.u8(..40) == 0 {
                    self.calls[call].refused = true;
                    self.switch.refuse(exchange, self.now);
                } else {
                    self.pick(exchange);
                }
            }
            Event::Unreachable { exchange, .. } | Event::Replayed { exchange, .. } => {
                self.pick(exchange);
            }
            // The endpoint is still there, or has been removed.
            Event::Unwritten { exchange } => match self.rng.u8(..4) {
                0 => self.pick(exchange),
                _ => self.switch.retry(exchange, self.now),
            },
            Event::Lost { exchange, .. } => {
                assert!(!self.exchanges[&exchange].responds, "lost before its response");
                self.switch.answer(exchange, 502, "lost", self.now);
            }
            Event::Dial { leg } => {
                assert!(!self.dials.contains(&leg.endpoint()), "two dials to one endpoint");
                self.dials.push(leg.endpoint());
            }
            Event::Sent { exchange } => assert!(self.exchanges.contains_key(&exchange)),
            Event::Responds { exchange, .. } => {
                let exchange = self.exchanges.get_mut(&exchange).expect("the stream is there");
                assert!(!exchange.responds, "a response begins once");
                exchange.responds = true;
            }
            Event::Ended { exchange, report } => {
                let ended = self.exchanges.remove(&exchange).expect("it ended once");
                let of_endpoint =
                    matches!(report.end, Ended::Complete | Ended::Broken | Ended::Expired);
                assert!(!of_endpoint || ended.responds, "nobody was told of the response");
                self.check_report(ended.call, &report);
            }
        }
    }

    /// What is counted of a stream is what happened to it.
    fn check_report(&self, call: usize, report: &Report) {
        let call = &self.calls[call];
        if report.end == Ended::Complete {
            let response = &call.attempt().expect("an endpoint answered").plan.response;
            assert_eq!(report.octets_to_downstream, response.body_octets as u64);
            let status = response.trailers.as_ref().map(|_| 0);
            assert_eq!(report.grpc_status, status, "its trailers said otherwise");
        }
        let grpc = call.request.head.iter().any(|(name, _)| name == "content-type");
        assert_eq!(report.grpc, grpc);
    }

    fn pick(&mut self, key: ExchangeKey) {
        let exchange = self.exchanges.get_mut(&key).expect("the stream is there");
        assert!(!exchange.responds, "replayed after its response began");
        exchange.tries += 1;
        let enough = exchange.tries > 4;
        if enough || self.rng.u8(..40) == 0 {
            self.switch.answer(key, 503, "no endpoint", self.now);
        } else {
            let address = self.any_endpoint();
            if self.rng.bool() {
                self.switch.watch_messages(key);
            }
            self.switch.assign(key, address, self.now);
        }
    }

    /// What must hold after every step, besides what each peer checks of each frame.
    fn check(&self) {
        self.switch.check_invariants();
        for connection in self.connections.iter().filter(|connection| connection.open) {
            let octets = self.switch.output_octets(connection.key);
            assert!(octets <= OUTPUT_OCTETS, "{octets} octets wait for a socket");
            let announced = self.announced.contains(&connection.key);
            assert!(octets == 0 || announced, "output that nobody was told of");
            assert!(
                self.switch.over(connection.key).is_none() || announced,
                "an end that nobody was told of"
            );
        }
        for (number, call) in self.calls.iter().enumerate().filter(|(_, call)| call.done.is_none())
        {
            if let Some(attempt) = call.attempt()
                && !attempt.is_broken()
            {
                // What waits in front of the switch and behind it is not held by the stream.
                let ahead = call.sent.body_octets - attempt.heard.body_octets;
                let behind = self.switch.output_octets(self.connections[attempt.connection].key);
                let before = self.connections[call.connection].peer.out.len();
                let on_the_way = before + behind;
                assert!(ahead <= STREAM_OCTETS + on_the_way, "call {number} is held: {ahead}");
            }
        }
    }
}
