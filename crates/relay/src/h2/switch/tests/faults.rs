//! Aim: the driver is told what it takes to judge an endpoint: of each response once, at its head,
//! and of what failed together at one time.

use std::time::{Duration, Instant};

use super::lab::{CALL, Lab, OK, TRAILERS, data, frame};
use crate::h2::switch::frame::kind;
use crate::h2::switch::{Code, Event, limits};

/// What was told of responses: whether each is an UNAVAILABLE.
fn responses(lab: &Lab) -> Vec<bool> {
    let told = |event: &Event| match event {
        Event::Responds { is_unavailable, .. } => Some(*is_unavailable),
        _ => None,
    };
    lab.events.iter().filter_map(told).collect()
}

/// When things failed.
fn failures(lab: &Lab) -> Vec<Instant> {
    let told = |event: &Event| match event {
        Event::Unreachable { at, .. } | Event::Replayed { at, .. } | Event::Lost { at, .. } => {
            Some(*at)
        }
        _ => None,
    };
    lab.events.iter().filter_map(told).collect()
}

#[test]
fn a_response_is_told_of_once_at_its_head() {
    let mut lab = Lab::new(1);
    let (_client, mut endpoint) = lab.call(true);
    let hint = endpoint.headers(1, &[(":status", "103")], false);
    lab.send(&endpoint, &hint);
    assert_eq!(responses(&lab), [false; 0], "an informational response is none yet");
    let head = endpoint.headers(1, &OK, false);
    lab.send(&endpoint, &head);
    assert_eq!(responses(&lab), [false]);
    let rest = [data(1, b"body", false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &rest);
    assert_eq!(responses(&lab), [false]);
    assert_eq!(lab.ended.len(), 1);
}

#[test]
fn unavailable_is_told_apart_where_it_stands_for_a_reply() {
    let (ok, status): ([_; 1], [_; 2]) = ([(":status", "200")], ["14", "13"]);
    for (grpc, status, trailers_only, unavailable) in [
        (true, status[0], true, true),
        (true, status[1], true, false),
        (true, status[0], false, false),
        // Who does not speak gRPC may use the name for something else.
        (false, status[0], true, false),
    ] {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let head = client.headers(1, &CALL[..if grpc { CALL.len() } else { 4 }], true);
        lab.send(&client, &head);
        let mut endpoint = lab.endpoint();
        lab.heard(&mut endpoint);
        let status = [("grpc-status", status)];
        let octets = if trailers_only {
            endpoint.headers(1, &[&ok[..], &status[..]].concat(), true)
        } else {
            [endpoint.headers(1, &ok, false), endpoint.headers(1, &status, true)].concat()
        };
        lab.send(&endpoint, &octets);
        assert_eq!(responses(&lab), [unavailable], "{grpc} {status:?} {trailers_only}");
    }
}

#[test]
fn streams_that_fail_together_fail_at_one_time() {
    for course in 0..3 {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let heads: Vec<u8> = (0..3).flat_map(|n| client.headers(2 * n + 1, &CALL, true)).collect();
        lab.send(&client, &heads);
        lab.wait(Duration::from_millis(1));
        match course {
            0 => lab.dial_failed(),
            1 => {
                let mut endpoint = lab.endpoint();
                lab.heard(&mut endpoint);
                lab.wait(Duration::from_millis(1));
                lab.closed(&endpoint);
            }
            _ => {
                let mut endpoint = lab.endpoint();
                lab.heard(&mut endpoint);
                // RFC 9113 section 6.7: the whole connection is broken.
                lab.send(&endpoint, &frame(kind::PING, 0, 0, b"short"));
                assert!(lab.over(&endpoint).is_some(), "{}", Code::FRAME_SIZE_ERROR);
            }
        }
        let failures = failures(&lab);
        assert_eq!(failures, [lab.now; 3], "course {course}");
    }
}

#[test]
fn each_endpoint_has_all_its_attempts_before_it_is_told_to_have_closed_them() {
    let mut lab = Lab::new(2);
    let mut client = lab.client();
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    for told in [0, 1] {
        for _ in 0..limits::OPEN_ATTEMPTS {
            assert_eq!(failures(&lab).len(), told);
            let endpoint = lab.endpoint();
            lab.closed(&endpoint);
        }
    }
    assert_eq!(failures(&lab).len(), 2);
}
