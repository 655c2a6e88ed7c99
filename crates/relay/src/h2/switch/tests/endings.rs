//! Aim: every stream ends once and both sides know how; what an endpoint cannot have acted on goes
//! to another, and nothing else does (RFC 9113 sections 5.4, 6.8 and 8.7).

use std::time::Duration;

use streamvs_balance::{ConnectFailure, ReplayReason};

use super::lab::{
    CALL, Frame, Lab, OK, Peer, TRAILERS, address, data, frame, go_away, reset,
    settings as settings_frame,
};
use crate::h2::settings;
use crate::h2::switch::frame::{Code, flag, kind};
use crate::h2::switch::{Ended, Event, Over, limits};

fn replays(lab: &Lab) -> Vec<ReplayReason> {
    let reason = |event: &Event| match event {
        Event::Replayed { reason, .. } => Some(*reason),
        _ => None,
    };
    lab.events.iter().filter_map(reason).collect()
}

#[test]
fn a_clients_reset_reaches_the_endpoint_with_its_code() {
    let mut lab = Lab::new(1);
    let (client, mut endpoint) = lab.call(false);
    lab.send(&client, &reset(1, Code(0x1234)));
    assert_eq!(lab.heard(&mut endpoint), [Frame::Reset(1, Code(0x1234))]);
    assert_eq!(lab.ended[0].1.end, Ended::Cancelled);
    // Its late answer is dropped without a word, and without losing the decoder.
    let late = [endpoint.headers(1, &OK, false), data(1, b"late", true)].concat();
    lab.send(&endpoint, &late);
    assert!(lab.heard(&mut endpoint).is_empty());
    assert_eq!(lab.over(&endpoint), None);
}

#[test]
fn a_client_that_goes_away_cancels_its_streams() {
    let mut lab = Lab::new(1);
    let (client, mut endpoint) = lab.call(false);
    lab.closed(&client);
    assert_eq!(lab.heard(&mut endpoint), [Frame::Reset(1, Code::CANCEL)]);
    assert_eq!(lab.ended[0].1.end, Ended::Cancelled);
}

#[test]
fn an_endpoints_reset_reaches_the_client_with_its_code() {
    for begun in [false, true] {
        let mut lab = Lab::new(1);
        let (mut client, mut endpoint) = lab.call(false);
        if begun {
            let head = endpoint.headers(1, &OK, false);
            lab.send(&endpoint, &head);
        }
        lab.send(&endpoint, &reset(1, Code::INTERNAL_ERROR));
        let last = lab.heard(&mut client).pop();
        assert_eq!(last, Some(Frame::Reset(1, Code::INTERNAL_ERROR)));
        assert_eq!(lab.ended[0].1.end, Ended::Reset(Code::INTERNAL_ERROR));
        assert!(replays(&lab).is_empty());
    }
}

#[test]
fn rfc9113_8_1_early_response_then_no_error_is_no_error() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    let early = [
        endpoint.headers(1, &OK, false),
        endpoint.headers(1, &TRAILERS, true),
        reset(1, Code::NO_ERROR),
    ];
    lab.send(&endpoint, &early.concat());
    let heard = lab.heard(&mut client);
    assert!(matches!(
        heard[..],
        [
            Frame::Headers { end: false, .. },
            Frame::Headers { end: true, .. },
            Frame::Reset(1, Code::NO_ERROR)
        ]
    ));
    assert_eq!(lab.ended[0].1.end, Ended::Complete);
    // What the client had under way is dropped.
    lab.send(&client, &data(1, b"late", true));
    assert_eq!(lab.over(&client), None);
    assert!(lab.heard(&mut endpoint).is_empty());
}

#[test]
fn a_client_may_go_on_after_the_whole_response() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    let response = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)];
    lab.send(&endpoint, &response.concat());
    assert_eq!(lab.heard(&mut client).len(), 2);
    assert!(lab.ended.is_empty());
    lab.send(&client, &data(1, b"the rest", true));
    let heard = lab.heard(&mut endpoint);
    assert!(matches!(&heard[..], [Frame::Data { end: true, .. }]));
    assert_eq!(lab.ended[0].1.end, Ended::Complete);
}

#[test]
fn rfc9113_8_7_streams_without_room_are_refused_and_cost_their_client_nothing() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    lab.refuses = true;
    // Many more than a client could afford to have reset.
    let last = 2 * 5000 - 1;
    for stream in (1..=last).step_by(2) {
        let call = [client.headers(stream, &CALL, false), data(stream, b"body", true)].concat();
        lab.send(&client, &call);
        assert_eq!(lab.heard(&mut client), [Frame::Reset(stream, Code::REFUSED_STREAM)]);
    }
    assert!(lab.dials.is_empty(), "no endpoint has heard of them");
    let refused = Ended::Reset(Code::REFUSED_STREAM);
    assert!(lab.ended.len() == 5000 && lab.ended.iter().all(|(_, it)| it.end == refused));
    lab.refuses = false;
    let call = client.headers(last + 2, &CALL, true);
    lab.send(&client, &call);
    let mut endpoint = lab.endpoint();
    let heard = lab.heard(&mut endpoint);
    assert!(heard.iter().any(|frame| matches!(frame, Frame::Headers { end: true, .. })));
    let answer = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &answer);
    assert!(matches!(lab.heard(&mut client)[..], [_, Frame::Headers { end: true, .. }]));
    // What refused streams have sent is granted again, or the connection would run dry.
    let bodies = 5000 * 16_000;
    assert!(bodies > settings::CONNECTION_WINDOW_OCTETS);
    lab.refuses = true;
    for stream in (last + 4..last + 4 + 2 * 5000).step_by(2) {
        let body = [7; 16_000];
        let call = [client.headers(stream, &CALL, false), data(stream, &body, true)].concat();
        lab.send(&client, &call);
        lab.heard(&mut client);
    }
    assert_eq!(lab.over(&client), None);
}

#[test]
fn rfc9113_8_7_refused_stream_goes_to_another_endpoint_whole() {
    let mut lab = Lab::new(2);
    let mut client = lab.client();
    let request = [client.headers(1, &CALL, false), data(1, b"kept ", false)].concat();
    lab.send(&client, &request);
    let mut refusing = lab.endpoint();
    lab.heard(&mut refusing);
    lab.send(&client, &data(1, b"body", true));
    lab.send(&refusing, &reset(1, Code::REFUSED_STREAM));
    let mut other = lab.endpoint();
    let heard = lab.heard(&mut other);
    assert!(matches!(&heard[3], Frame::Headers { end: false, .. }));
    assert_eq!(heard[4], Frame::Data { stream: 1, octets: b"kept body".to_vec(), end: true });
    assert_eq!(replays(&lab), [ReplayReason::Refused]);
    assert!(lab.heard(&mut client).is_empty(), "the client notices nothing");
}

#[test]
fn a_body_above_the_limit_is_not_replayed() {
    let mut lab = Lab::new(2);
    let (mut client, endpoint) = lab.call(false);
    let chunk = vec![1; 16_384];
    for _ in 0..=limits::REPLAY_OCTETS / chunk.len() {
        lab.send(&client, &data(1, &chunk, false));
    }
    lab.send(&endpoint, &reset(1, Code::REFUSED_STREAM));
    let last = lab.heard(&mut client).pop();
    assert_eq!(last, Some(Frame::Reset(1, Code::REFUSED_STREAM)), "the client may try again");
}

#[test]
fn a_begun_response_is_not_replayed() {
    let mut lab = Lab::new(2);
    let (mut client, mut endpoint) = lab.call(true);
    let octets = [endpoint.headers(1, &OK, false), reset(1, Code::REFUSED_STREAM)].concat();
    lab.send(&endpoint, &octets);
    assert_eq!(lab.heard(&mut client).pop(), Some(Frame::Reset(1, Code::REFUSED_STREAM)));
    assert!(replays(&lab).is_empty());
}

#[test]
fn rfc9113_6_8_goaway_moves_streams_above_its_last_id_and_keeps_the_others() {
    let mut lab = Lab::new(2);
    lab.addresses.truncate(1);
    let mut client = lab.client();
    let heads = [client.headers(1, &CALL, true), client.headers(3, &CALL, true)].concat();
    lab.send(&client, &heads);
    let mut leaving = lab.endpoint();
    assert_eq!(lab.heard(&mut leaving).len(), 5);
    lab.addresses = [address(2)].into();
    lab.send(&leaving, &go_away(1, Code::NO_ERROR));
    assert_eq!(replays(&lab), [ReplayReason::GoAway]);
    let mut other = lab.endpoint();
    assert!(matches!(lab.heard(&mut other)[3], Frame::Headers { stream: 1, .. }));
    let response = [leaving.headers(1, &OK, false), leaving.headers(1, &TRAILERS, true)].concat();
    lab.send(&leaving, &response);
    assert_eq!(lab.heard(&mut client).len(), 2, "the first stream finishes where it was");
    assert_eq!(lab.over(&leaving), Some(Over::Closed), "and the connection with it");
}

#[test]
fn graceful_goaway_of_an_endpoint_takes_no_new_streams_there() {
    let mut lab = Lab::new(1);
    let (mut client, leaving) = lab.call(true);
    lab.send(&leaving, &go_away(0x7fff_ffff, Code::NO_ERROR));
    let head = client.headers(3, &CALL, true);
    lab.send(&client, &head);
    assert_eq!(lab.dials, [address(1)], "a new connection takes over");
    assert!(replays(&lab).is_empty());
}

#[test]
fn a_lost_endpoint_is_answered_for_and_not_replayed() {
    let mut lab = Lab::new(2);
    let (mut client, endpoint) = lab.call(true);
    lab.closed(&endpoint);
    let heard = lab.heard(&mut client);
    assert!(matches!(&heard[..], [Frame::Headers { end: true, fields, .. }]
        if fields.contains(&("grpc-status".to_owned(), "14".to_owned()))));
    assert_eq!(lab.ended[0].1.end, Ended::Answered);
    assert!(replays(&lab).is_empty());
}

#[test]
fn an_endpoint_lost_within_its_response_ends_it_by_trailers_or_reset() {
    for grpc in [true, false] {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let head = client.headers(1, &CALL[..if grpc { 6 } else { 4 }], true);
        lab.send(&client, &head);
        let mut endpoint = lab.endpoint();
        lab.heard(&mut endpoint);
        let octets = [endpoint.headers(1, &OK, false), data(1, b"part", false)].concat();
        lab.send(&endpoint, &octets);
        lab.closed(&endpoint);
        match lab.heard(&mut client).pop() {
            Some(Frame::Headers { end: true, .. }) => assert!(grpc),
            Some(Frame::Reset(1, Code::INTERNAL_ERROR)) => assert!(!grpc),
            other => panic!("{other:?}"),
        }
        assert_eq!(lab.ended[0].1.end, Ended::Broken);
    }
}

#[test]
fn what_was_never_written_is_replayed() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    for attempt in 1..limits::OPEN_ATTEMPTS {
        let endpoint = lab.endpoint();
        // Not an octet of it has been taken by the socket.
        lab.closed(&endpoint);
        assert_eq!(lab.dials, [address(1)], "the same endpoint again, attempt {attempt}");
    }
    let endpoint = lab.endpoint();
    lab.addresses.clear();
    lab.closed(&endpoint);
    assert_eq!(replays(&lab), [ReplayReason::Unwritten]);
    assert!(matches!(lab.heard(&mut client)[..], [Frame::Headers { end: true, .. }]));
}

#[test]
fn what_was_never_written_need_not_go_to_the_same_endpoint() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    let endpoint = lab.endpoint();
    lab.switch.closed(endpoint.key, lab.now);
    let mut events = std::iter::from_fn(|| lab.switch.next_event());
    let exchange = events.find_map(|event| match event {
        Event::Unwritten { exchange } => Some(exchange),
        _ => None,
    });
    lab.switch.assign(exchange.expect("the driver is asked"), address(2), lab.now);
    lab.follow();
    assert_eq!(lab.dials, [address(2)], "the first is not dialled again");
    let mut endpoint = lab.endpoint();
    assert_eq!(head_count(&mut lab, &mut endpoint), 1);
}

#[test]
fn what_waits_can_be_withdrawn_from_its_endpoint() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let heads: Vec<u8> = (0..4).flat_map(|n| client.headers(2 * n + 1, &CALL, true)).collect();
    lab.send(&client, &heads);
    let mut silent = lab.silent_endpoint();
    assert_eq!(head_count(&mut lab, &mut silent), 0, "all wait for SETTINGS");
    let picked = |event: &Event| match event {
        Event::Pick { exchange, .. } => Some(*exchange),
        _ => None,
    };
    let picked: Vec<_> = lab.events.iter().filter_map(picked).collect();
    let withdrawn = lab.switch.withdraw(|key| key != picked[2]);
    assert_eq!(withdrawn, [picked[0], picked[1], picked[3]], "not who may stay");
    for exchange in withdrawn {
        lab.switch.assign(exchange, address(2), lab.now);
    }
    lab.follow();
    assert_eq!(lab.dials, [address(2)], "one dial for all");
    lab.send(&silent, &settings_frame(&[]));
    assert_eq!(head_count(&mut lab, &mut silent), 1, "who may stay");
    let mut other = lab.endpoint();
    assert_eq!(head_count(&mut lab, &mut other), 3);
}

/// How many streams the endpoint has been sent since it was asked last.
fn head_count(lab: &mut Lab, endpoint: &mut Peer) -> usize {
    let frames = lab.heard(endpoint);
    frames.iter().filter(|frame| matches!(frame, Frame::Headers { .. })).count()
}

#[test]
fn a_failed_dial_gives_all_waiting_streams_back() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let heads = [client.headers(1, &CALL, true), client.headers(3, &CALL, true)].concat();
    lab.send(&client, &heads);
    assert_eq!(lab.dials, [address(1)], "one dial for both");
    lab.dial_failed();
    let unreachable = |event: &&Event| {
        matches!(event, Event::Unreachable { failure: ConnectFailure::Refused, .. })
    };
    assert_eq!(lab.events.iter().filter(unreachable).count(), 2);
    assert_eq!(lab.heard(&mut client).len(), 2, "both are answered");
    assert!(lab.ended.iter().all(|(_, report)| report.end == Ended::Answered));
}

#[test]
fn a_connection_that_ends_before_settings_is_a_failed_dial() {
    for breaks in [false, true] {
        let mut lab = Lab::new(2);
        let mut client = lab.client();
        let heads = [client.headers(1, &CALL, true), client.headers(3, &CALL, true)].concat();
        lab.addresses.pop_back();
        lab.send(&client, &heads);
        let mut accepting = lab.silent_endpoint();
        assert_eq!(head_count(&mut lab, &mut accepting), 0, "nothing that it could act on");
        lab.addresses = [address(2)].into();
        if breaks {
            lab.send(&accepting, b"HTTP/1.1 400 Bad Request\r\n\r\n");
            assert!(lab.over(&accepting).is_some());
            assert_eq!(lab.dials, [address(2)]);
        }
        lab.closed(&accepting);
        let unreachable = |event: &&Event| {
            matches!(event, Event::Unreachable { failure: ConnectFailure::Refused, .. })
        };
        assert_eq!(lab.events.iter().filter(unreachable).count(), 2);
        assert_eq!(lab.dials, [address(2)], "its own end gives nobody back who waits elsewhere");
        let mut other = lab.endpoint();
        assert_eq!(head_count(&mut lab, &mut other), 2);
        assert!(lab.heard(&mut client).is_empty(), "the client notices nothing");
    }
}

#[test]
fn no_stream_until_settings_and_as_many_as_they_say_then() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let heads: Vec<u8> =
        (0..5).flat_map(|number| client.headers(2 * number + 1, &CALL, true)).collect();
    lab.send(&client, &heads);
    let mut first = lab.silent_endpoint();
    let streams = |frames: &[Frame]| {
        frames.iter().filter(|frame| matches!(frame, Frame::Headers { .. })).count()
    };
    assert_eq!(streams(&lab.heard(&mut first)), 0);
    lab.send(&first, &super::lab::settings(&[(3, 2)]));
    assert_eq!(streams(&lab.heard(&mut first)), 2);
    let mut second = lab.endpoint_with(&[(3, 2)]);
    assert_eq!(streams(&lab.heard(&mut second)), 2, "the others on a second connection");
    let mut third = lab.endpoint();
    assert_eq!(streams(&lab.heard(&mut third)), 1);
    // An ended stream makes room, and no dial is needed.
    let done = [first.headers(1, &OK, false), first.headers(1, &TRAILERS, true)].concat();
    lab.send(&first, &done);
    let head = client.headers(11, &CALL, true);
    lab.send(&client, &head);
    assert!(lab.dials.is_empty());
}

#[test]
fn an_endpoint_without_settings_is_taken_to_allow_a_hundred() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let heads: Vec<u8> =
        (0..5).flat_map(|number| client.headers(2 * number + 1, &CALL, true)).collect();
    lab.send(&client, &heads);
    let mut endpoint = lab.silent_endpoint();
    assert_eq!(head_count(&mut lab, &mut endpoint), 0);
    lab.wait(settings::SETTINGS_TIMEOUT);
    assert_eq!(head_count(&mut lab, &mut endpoint), 5);
}

#[test]
fn idle_upstream_connections_are_closed_and_busy_ones_are_not() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    lab.wait(settings::UPSTREAM_IDLE);
    assert_eq!(lab.over(&endpoint), None);
    let done = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &done);
    lab.wait(settings::UPSTREAM_IDLE - Duration::from_millis(1));
    assert_eq!(lab.over(&endpoint), None);
    lab.wait(Duration::from_millis(1));
    assert_eq!(lab.over(&endpoint), Some(Over::Closed));
    assert_eq!(lab.heard(&mut endpoint).pop(), Some(Frame::GoAway(0, Code::NO_ERROR)));
    let head = client.headers(3, &CALL, true);
    lab.send(&client, &head);
    assert_eq!(lab.dials, [address(1)]);
}

#[test]
fn rfc9113_6_8_drain_goes_in_two_steps_and_finishes_open_streams() {
    for answers in [true, false] {
        let mut lab = Lab::new(1);
        let (mut client, mut endpoint) = lab.call(true);
        lab.switch.drain(client.key, lab.now);
        let heard = lab.heard(&mut client);
        let [Frame::GoAway(0x7fff_ffff, Code::NO_ERROR), Frame::Ping(opaque)] = heard[..] else {
            panic!("{heard:?}");
        };
        // A stream that the client had opened before it read this is still served.
        let head = client.headers(3, &CALL, true);
        lab.send(&client, &head);
        assert!(matches!(lab.heard(&mut endpoint)[..], [Frame::Headers { .. }]));
        if answers {
            lab.send(&client, &frame(kind::PING, flag::ACK, 0, &opaque));
        } else {
            lab.wait(limits::GOAWAY_TIMEOUT);
        }
        assert_eq!(lab.heard(&mut client), [Frame::GoAway(3, Code::NO_ERROR)]);
        let head = client.headers(5, &CALL, true);
        lab.send(&client, &head);
        assert_eq!(lab.heard(&mut client), [Frame::Reset(5, Code::REFUSED_STREAM)]);
        assert_eq!(lab.over(&client), None);
        for stream in [1, 3] {
            let done =
                [endpoint.headers(stream, &OK, false), endpoint.headers(stream, &TRAILERS, true)];
            lab.send(&endpoint, &done.concat());
        }
        assert_eq!(lab.over(&client), Some(Over::Closed));
        assert_eq!(lab.heard(&mut client).len(), 4);
    }
}

#[test]
fn a_silent_endpoint_is_asked_once_in_five_minutes_and_given_up() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    lab.wait(limits::KEEPALIVE_AFTER);
    assert!(matches!(lab.heard(&mut endpoint)[..], [Frame::Ping(_)]));
    lab.wait(limits::KEEPALIVE_TIMEOUT / 2);
    assert!(lab.heard(&mut endpoint).is_empty());
    lab.wait(limits::KEEPALIVE_TIMEOUT / 2);
    assert!(lab.over(&endpoint).is_some());
    assert!(matches!(lab.heard(&mut client)[..], [Frame::Headers { end: true, .. }]));
}
