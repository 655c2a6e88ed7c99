//! What clients and endpoints hear, held against what was sent.

use crate::acts::{CANCEL, REFUSED_STREAM};
use crate::call::{Attempt, Done, Progress, body, number as number_of};
use crate::peer::{Fields, Heard};
use crate::world::{Whose, World};

impl World {
    pub(crate) fn heard(&mut self, place: usize, heard: Heard) {
        match (self.connections[place].whose, heard) {
            (Whose::Endpoint(_), Heard::Head { stream, fields, end }) => {
                self.endpoint_heard_head(place, stream, fields, end);
            }
            (Whose::Endpoint(_), Heard::Data { stream, octets, end }) => {
                let (call, attempt) = self.connections[place].calls[&stream];
                let request = &self.calls[call].request.clone();
                let attempt = &mut self.calls[call].attempts[attempt];
                self.counts.body_octets += octets.len();
                hear_body(&mut attempt.heard, (call, false), &octets);
                if end {
                    assert!(request.trailers.is_none(), "the trailers are missing");
                    assert_eq!(attempt.heard.body_octets, request.body_octets);
                    attempt.heard.end = true;
                }
            }
            (Whose::Endpoint(_), Heard::Reset { stream, .. }) => {
                let (call, _) = self.connections[place].calls[&stream];
                assert!(self.may_cancel(call), "call {call} was cancelled by nobody");
            }
            (Whose::Endpoint(_), Heard::GoAway { code, .. }) => assert_eq!(code, 0),
            (Whose::Client, Heard::Head { stream, fields, end }) => {
                let (call, _) = self.connections[place].calls[&stream];
                self.client_heard_head(call, &fields, end);
            }
            (Whose::Client, Heard::Data { stream, octets, end }) => {
                let (number, _) = self.connections[place].calls[&stream];
                let call = &mut self.calls[number];
                assert!(call.heard.head, "DATA before a response");
                if !call.own {
                    self.counts.body_octets += octets.len();
                    hear_body(&mut call.heard, (number, true), &octets);
                }
                if end {
                    self.client_heard_end(number, None);
                }
            }
            (Whose::Client, Heard::Reset { stream, code }) => {
                let (call, _) = self.connections[place].calls[&stream];
                self.client_heard_reset(call, code);
            }
            (Whose::Client, Heard::GoAway { last, code }) => {
                assert_eq!(code, 0, "blames the client");
                let calls = &self.connections[place].calls;
                let above: Vec<_> =
                    calls.range(last.saturating_add(1)..).map(|(_, it)| it.0).collect();
                for call in above {
                    let call = &mut self.calls[call];
                    assert!(call.attempts.is_empty(), "it went on nevertheless");
                    call.done.get_or_insert(Done::Untaken);
                }
            }
        }
    }

    fn endpoint_heard_head(&mut self, place: usize, stream: u32, fields: Fields, end: bool) {
        if let Some(&(call, attempt)) = self.connections[place].calls.get(&stream) {
            // Trailers.
            assert!(end, "trailers end a request");
            let call = &mut self.calls[call];
            let attempt = &mut call.attempts[attempt];
            assert_eq!(Some(&fields), call.request.trailers.as_ref());
            assert_eq!(attempt.heard.body_octets, call.request.body_octets);
            attempt.heard.end = true;
            return;
        }
        let number = number_of(&fields).expect("each request has its number");
        let plan = self.plan(number);
        let call = &mut self.calls[number];
        assert_eq!(fields, call.request.head);
        if end {
            assert!(call.request.is_head_alone(), "the rest of the request is missing");
        }
        let left_at = self.connections[place].peer.we_left_at;
        let declined = left_at.is_some_and(|last| stream > last);
        // Exactly-safe replay: only what no endpoint can have acted on.
        assert!(
            declined || call.attempts.iter().all(|attempt| attempt.declined),
            "call {number} was sent to two endpoints: {place} {stream}, {:?}",
            call.attempts
        );
        // A stream that grew too old may have been answered by us while its head was on its way.
        assert!(
            declined || call.expired || (!call.heard.head && call.heard.informational == 0),
            "sent again after its response"
        );
        if !call.attempts.is_empty() {
            self.counts.replays += 1;
        }
        let attempt = Attempt {
            connection: place,
            stream,
            heard: Progress { head: true, end, ..Progress::default() },
            plan,
            sent: Progress::default(),
            declined,
            reset: None,
            lost: false,
        };
        self.connections[place].calls.insert(stream, (number, call.attempts.len()));
        call.attempts.push(attempt);
    }

    /// Somebody has a reason to end this call early.
    fn may_cancel(&self, call: usize) -> bool {
        let call = &self.calls[call];
        let reset_by_endpoint = call.attempts.iter().any(|it| it.is_broken());
        let answered_early = call.attempts.iter().any(|it| it.sent.end);
        call.done.is_some() || reset_by_endpoint || answered_early || call.own || call.expired
    }

    fn client_heard_head(&mut self, number: usize, fields: &Fields, end: bool) {
        let call = &mut self.calls[number];
        let status = fields.iter().find(|(name, _)| name == ":status").map(|it| it.1.as_str());
        if status == Some("103") {
            assert_eq!(number_of(fields), Some(number));
            assert!(!call.heard.head && !end);
            call.heard.informational += 1;
            return;
        }
        if call.heard.head {
            assert!(end, "trailers end a response");
            return self.client_heard_end(number, Some(fields));
        }
        call.heard.head = true;
        match number_of(fields) {
            Some(said) => {
                assert_eq!(said, number, "the response of another call");
                let attempt = call.attempt().expect("some endpoint answered");
                assert_eq!(*fields, attempt.plan.response.head);
                assert_eq!(call.heard.informational, attempt.plan.informational);
            }
            None => call.own = true,
        }
        if end {
            self.client_heard_end(number, None);
        }
    }

    fn client_heard_end(&mut self, number: usize, trailers: Option<&Fields>) {
        let call = &mut self.calls[number];
        if call.own {
            self.counts.answers += 1;
        } else {
            let attempt = call.attempt().expect("some endpoint answered");
            let cut = attempt.lost || call.expired;
            if cut && trailers.is_some_and(|it| number_of(it).is_none()) {
                // The endpoint was lost on the way, or the stream had lived long enough, and a gRPC
                // client is told so in trailers.
                self.counts.resets += 1;
                call.done = Some(Done::Broken);
                return;
            }
            let response = &attempt.plan.response;
            assert_eq!(trailers, response.trailers.as_ref());
            assert_eq!(call.heard.body_octets, response.body_octets, "part of the body is missing");
            self.counts.responses += 1;
        }
        call.heard.end = true;
        call.done = Some(Done::Response { own: call.own });
    }

    fn client_heard_reset(&mut self, number: usize, code: u32) {
        let call = &mut self.calls[number];
        if call.done.is_some() {
            // It has its answer, or did not want it.
            return;
        }
        if call.refused {
            assert_eq!((code, call.attempts.len()), (REFUSED_STREAM, 0), "call {number}");
            self.counts.resets += 1;
            call.done = Some(Done::Reset(code));
            return;
        }
        if call.expired && code == CANCEL {
            self.counts.resets += 1;
            call.done = Some(Done::Reset(code));
            return;
        }
        let attempt = call.attempt().expect("nobody had it, so nobody resets it");
        let by_endpoint = attempt.reset == Some(code);
        assert!(by_endpoint || attempt.lost, "call {number} was reset with {code}: {attempt:?}");
        self.counts.resets += 1;
        call.done = Some(Done::Reset(code));
    }
}

fn hear_body(heard: &mut Progress, (call, response): (usize, bool), octets: &[u8]) {
    let expected = body(call, response, heard.body_octets, octets.len());
    assert!(octets == expected, "octets are lost, doubled or out of order");
    heard.body_octets += octets.len();
}
