//! What clients and endpoints do.

use crate::Climate;
use crate::call::{Attempt, Call, Done, Message, Plan, Progress, body, fields};
use crate::frame::MAX_PAYLOAD;
use crate::peer::Peer;
use crate::world::{Connection, Whose, World};

const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;

const CLIENTS: usize = 4;
const STREAMS: usize = 30;

impl Connection {
    fn is_client(&self) -> bool {
        self.whose == Whose::Client
    }
}

impl World {
    // Clients.

    pub(crate) fn client_step(&mut self) {
        let clients = self.connections.iter().filter(|it| it.open && it.is_client()).count();
        let most = if self.climate == Climate::Rough { CLIENTS } else { 1 };
        if clients == 0 || (clients < most && self.rng.u8(..60) == 0) {
            return self.open_client();
        }
        let Some(place) = self.any_connection(Connection::is_client) else { return };
        if self.rng.u8(..4) == 0 {
            return self.open_stream(place);
        }
        let calls: Vec<_> = self.connections[place].calls.values().map(|it| it.0).collect();
        let unfinished = calls.into_iter().filter(|&call| self.calls[call].done.is_none());
        let unfinished: Vec<_> = unfinished.collect();
        if let Some(call) = self.rng.choice(unfinished) {
            if self.rng.u8(..60) == 0 {
                return self.abandon(call);
            }
            let most = self.some_octets();
            self.send_request(call, most);
        }
        self.grant_some(place);
    }

    fn open_stream(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let open = connection.peer.streams.values().filter(|stream| !stream.is_over()).count();
        if open >= STREAMS || connection.peer.heard_go_away {
            return;
        }
        let call = self.calls.len();
        let rng = &mut self.rng;
        let stream = connection.peer.next_stream();
        let body_octets = some_body(rng, self.climate);
        let base = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/sim.Sim/Call"),
            (":authority", "sim"),
            ("te", "trailers"),
        ];
        let mut head = fields(&base, call, rng, true);
        if rng.bool() {
            head.push(("content-type".to_owned(), "application/grpc".to_owned()));
        }
        if rng.u8(..4) == 0 {
            head.push(("content-length".to_owned(), body_octets.to_string()));
        }
        let trailers = (rng.u8(..8) == 0).then(|| fields(&[], call, rng, false));
        let request = Message { head, body_octets, trailers };
        let end = request.is_head_alone() && rng.u8(..8) > 0;
        connection.peer.head(stream, &request.head, end, rng);
        connection.calls.insert(stream, (call, 0));
        self.counts.calls += 1;
        self.calls.push(Call {
            connection: place,
            stream,
            request,
            sent: Progress { head: true, end, ..Progress::default() },
            attempts: Vec::new(),
            heard: Progress::default(),
            own: false,
            refused: false,
            expired: false,
            done: None,
        });
    }

    fn abandon(&mut self, number: usize) {
        let call = &mut self.calls[number];
        let code = if self.rng.bool() { CANCEL } else { INTERNAL_ERROR };
        self.connections[call.connection].peer.reset(call.stream, code);
        call.done = Some(Done::Abandoned);
    }

    /// Sends so much more of the request. True: something was sent.
    fn send_request(&mut self, number: usize, most: usize) -> bool {
        let call = &mut self.calls[number];
        let connection = &mut self.connections[call.connection];
        if !connection.open {
            return false;
        }
        let (peer, rng) = (&mut connection.peer, &mut self.rng);
        send(peer, call.stream, &call.request, &mut call.sent, (number, false), most, rng)
    }

    // Endpoints.

    pub(crate) fn endpoint_step(&mut self) {
        let Some(place) = self.any_connection(|it| !it.is_client()) else { return };
        let calls: Vec<_> = self.connections[place].calls.values().copied().collect();
        let unfinished = calls.into_iter().filter(|&(call, attempt)| {
            let attempt = &self.calls[call].attempts[attempt];
            !attempt.sent.end && !attempt.is_broken()
        });
        let unfinished: Vec<_> = unfinished.collect();
        if let Some((call, attempt)) = self.rng.choice(unfinished) {
            let most = self.some_octets();
            self.respond(call, attempt, most);
        }
        self.grant_some(place);
    }

    /// What an endpoint will do with a request that it has just read.
    pub(crate) fn plan(&mut self, call: usize) -> Plan {
        let rng = &mut self.rng;
        let body_octets = some_body(rng, self.climate);
        let mut head = fields(&[(":status", "200")], call, rng, true);
        if rng.bool() {
            head.push(("content-type".to_owned(), "application/grpc".to_owned()));
        }
        if rng.u8(..4) == 0 {
            head.push(("content-length".to_owned(), body_octets.to_string()));
        }
        let trailers = (rng.u8(..3) > 0).then(|| fields(&[("grpc-status", "0")], call, rng, false));
        let response = Message { head, body_octets, trailers };
        let reset = match rng.u8(..20) {
            _ if self.calm => None,
            0 => Some((REFUSED_STREAM, 0)),
            1 => Some((INTERNAL_ERROR, rng.usize(..=body_octets))),
            2 => Some((rng.u32(8..20), rng.usize(..=body_octets))),
            _ => None,
        };
        let informational = if rng.u8(..6) == 0 { rng.usize(..3) } else { 0 };
        Plan { informational, response, patient: rng.bool(), reset }
    }

    /// Sends so much more of the response. True: something was sent.
    fn respond(&mut self, number: usize, attempt: usize, most: usize) -> bool {
        let attempt = &mut self.calls[number].attempts[attempt];
        let connection = &mut self.connections[attempt.connection];
        let Attempt { plan, sent, stream, .. } = attempt;
        let stream = *stream;
        let (peer, rng) = (&mut connection.peer, &mut self.rng);
        if !connection.open || !peer.streams[&stream].can_send() {
            return false;
        }
        if attempt.declined || (plan.patient && !attempt.heard.end) {
            return false;
        }
        if let Some((code, after)) = plan.reset
            && (code == REFUSED_STREAM || sent.body_octets >= after)
        {
            peer.reset(stream, code);
            attempt.reset = Some(code);
            attempt.declined = code == REFUSED_STREAM;
            return true;
        }
        if !sent.head && sent.informational < plan.informational {
            sent.informational += 1;
            let hint = fields(&[(":status", "103")], number, rng, false);
            peer.head(stream, &hint, false, rng);
            return true;
        }
        if !sent.head {
            sent.head = true;
            let end = plan.response.is_head_alone() && rng.u8(..8) > 0;
            sent.end = end;
            peer.head(stream, &plan.response.head, end, rng);
        } else {
            let most = plan.reset.map_or(most, |(_, after)| most.min(after - sent.body_octets));
            if !send(peer, stream, &plan.response, sent, (number, true), most, rng) {
                return false;
            }
        }
        // Having said all, it may not care for the rest of the request (RFC 9113 section 8.1).
        if sent.end && !attempt.heard.end && rng.bool() {
            peer.reset(stream, NO_ERROR);
        }
        true
    }

    // Both.

    fn some_octets(&mut self) -> usize {
        match self.rng.u8(..3) {
            _ if self.climate == Climate::Steady => self.rng.usize(1..1000),
            0 => self.rng.usize(1..10),
            1 => self.rng.usize(1..2000),
            _ => MAX_PAYLOAD,
        }
    }

    /// Gives some credit back, on the connection or on a stream.
    fn grant_some(&mut self, place: usize) {
        let (peer, rng) = (&mut self.connections[place].peer, &mut self.rng);
        if peer.ungranted > 0 && rng.u8(..3) == 0 {
            let octets = if rng.bool() { peer.ungranted } else { rng.u32(1..=peer.ungranted) };
            peer.grant(0, octets);
        }
        let owed: Vec<_> = peer
            .streams
            .iter()
            .filter(|(_, it)| it.ungranted > 0 && !it.heard_end && !it.is_over())
            .map(|(&stream, it)| (stream, it.ungranted))
            .collect();
        if let Some((stream, octets)) = rng.choice(owed)
            && rng.u8(..3) == 0
        {
            let octets = if rng.bool() { octets } else { rng.u32(1..=octets) };
            peer.grant(stream, octets);
        }
    }

    /// Everybody sends what it can and grants all there is. True: something was sent.
    pub(crate) fn everybody_acts(&mut self) -> bool {
        let mut moved = false;
        for place in 0..self.connections.len() {
            if self.connections[place].open {
                moved |= self.act_for(place);
            }
        }
        moved
    }

    fn act_for(&mut self, place: usize) -> bool {
        let most = if self.climate == Climate::Rough { MAX_PAYLOAD } else { self.some_octets() };
        let peer = &mut self.connections[place].peer;
        let before = peer.out.len();
        if !peer.has_large_window() {
            peer.settings(Some(1 << 20), None, None);
        }
        if peer.ungranted > 0 {
            peer.grant(0, peer.ungranted);
        }
        let owed = |(&stream, it): (&u32, &crate::peer::Stream)| {
            let owed = it.ungranted > 0 && !it.heard_end && !it.is_over();
            owed.then_some((stream, it.ungranted))
        };
        let owed: Vec<_> = peer.streams.iter().filter_map(owed).collect();
        owed.into_iter().for_each(|(stream, octets)| peer.grant(stream, octets));
        let calls: Vec<_> = self.connections[place].calls.values().copied().collect();
        for (call, attempt) in calls {
            if self.connections[place].is_client() {
                if self.calls[call].done.is_none() {
                    while self.send_request(call, most) {}
                }
            } else {
                while self.respond(call, attempt, most) {}
            }
        }
        self.connections[place].peer.out.len() > before
    }

    // What disturbs.

    /// What any connection may see at any time.
    pub(crate) fn maintenance_step(&mut self) {
        let Some(place) = self.any_connection(|_| true) else { return };
        let (peer, rng) = (&mut self.connections[place].peer, &mut self.rng);
        match rng.u8(..4) {
            0 => peer.ping(),
            1 => peer.noise(rng),
            2 => {
                let window = [0, 1, 1000, 65_535, 300_000][rng.usize(..5)];
                peer.settings(Some(window), None, None);
            }
            _ => {
                let table = [0, 50, 200, 4096, 65_536][rng.usize(..5)];
                peer.settings(None, Some(table), None);
            }
        }
    }

    pub(crate) fn trouble_step(&mut self) {
        match self.rng.u8(..13) {
            0 => {
                if let Some(place) = self.any_connection(|it| it.is_client() && !it.draining) {
                    self.drain(place);
                }
            }
            1 => {
                if let Some(place) = self.any_connection(|_| true) {
                    self.close(place);
                }
            }
            2 => self.pause(),
            3..5 => {
                let stays = |it: &Connection| !it.is_client() && it.peer.we_left_at.is_none();
                if let Some(place) = self.any_connection(stays) {
                    self.go_away(place);
                }
            }
            5 => self.remove_endpoints(),
            6 => self.expire_some(),
            _ => {}
        }
    }

    /// An endpoint says that it acts on no stream above one that it has acted on already.
    fn go_away(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let mut last = connection.peer.last_stream;
        // Streams on which it has said nothing it may leave to others.
        let untouched = |&(call, attempt): &(usize, usize)| {
            let attempt: &Attempt = &self.calls[call].attempts[attempt];
            attempt.sent.informational == 0 && !attempt.sent.head && !attempt.is_broken()
        };
        let drops = self.rng.usize(..4);
        let dropped: Vec<_> = connection
            .calls
            .iter()
            .rev()
            .take_while(|(_, call)| untouched(call))
            .take(drops)
            .map(|(&stream, &call)| (stream, call))
            .collect();
        for (stream, (call, attempt)) in dropped {
            last = stream - 1;
            self.calls[call].attempts[attempt].declined = true;
        }
        self.connections[place].peer.go_away(last, NO_ERROR);
    }

    /// The connection's socket is gone, and with it what was on it.
    pub(crate) fn lost(&mut self, place: usize) {
        let calls: Vec<_> = self.connections[place].calls.values().copied().collect();
        for (call, attempt) in calls {
            let call = &mut self.calls[call];
            if self.connections[place].is_client() {
                call.done.get_or_insert(Done::Untaken);
            } else {
                call.attempts[attempt].lost = true;
            }
        }
    }
}

fn some_body(rng: &mut fastrand::Rng, climate: Climate) -> usize {
    match rng.u8(..20) {
        _ if climate == Climate::Steady => rng.usize(..200_000),
        0..=7 => 0,
        8..=15 => rng.usize(..100),
        16..=18 => rng.usize(..20_000),
        _ => rng.usize(..700_000),
    }
}

/// Sends the next piece of a message whose head was sent. True: something was sent.
fn send(
    peer: &mut Peer,
    stream: u32,
    message: &Message,
    sent: &mut Progress,
    (call, response): (usize, bool),
    most: usize,
    rng: &mut fastrand::Rng,
) -> bool {
    if sent.end || !peer.streams[&stream].can_send() {
        return false;
    }
    let left = message.body_octets - sent.body_octets;
    if left == 0
        && let Some(trailers) = &message.trailers
    {
        peer.head(stream, trailers, true, rng);
        sent.end = true;
        return true;
    }
    let octets = left.min(most).min(peer.credit(stream));
    if octets == 0 && left > 0 {
        return false;
    }
    // The end may stand on the last octets or come after them alone.
    let end = octets == left && message.trailers.is_none() && (left == 0 || rng.bool());
    let piece = body(call, response, sent.body_octets, octets);
    let padding = if rng.u8(..4) == 0 { rng.u8(..) } else { 0 };
    peer.data(stream, &piece, end, padding);
    sent.body_octets += octets;
    sent.end |= end;
    true
}
