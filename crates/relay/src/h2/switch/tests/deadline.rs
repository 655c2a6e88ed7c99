//! Aim: a call whose client waits no longer is answered so while it is with us, and is given to
//! nobody; where it is on an endpoint its deadline is the endpoint's affair.

use std::time::Duration;

use super::lab::{CALL, Frame, Lab, OK, Peer, TRAILERS, address, reset};
use crate::h2::switch::{Code, Ended, Event};

/// The head of a call whose client waits for 30 ms.
fn call(client: &mut Peer, stream: u32) -> Vec<u8> {
    client.headers(stream, &[&CALL[..], &[("grpc-timeout", "30m")]].concat(), true)
}

/// The streams that were told that their deadline has passed.
fn told(lab: &mut Lab, client: &mut Peer) -> Vec<u32> {
    let late = |frame: Frame| match frame {
        Frame::Headers { stream, fields, end: true }
            if fields.contains(&("grpc-status".to_owned(), "4".to_owned())) =>
        {
            Some(stream)
        }
        _ => None,
    };
    lab.heard(client).into_iter().filter_map(late).collect()
}

#[test]
fn what_waits_past_its_deadline_is_answered_then() {
    // For a dial, for SETTINGS, and for room or another connection.
    for course in 0..3 {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        if course == 2 {
            let first = client.headers(1, &CALL, true);
            lab.send(&client, &first);
            lab.endpoint_with(&[(3, 1)]);
        }
        let octets = call(&mut client, 3);
        lab.send(&client, &octets);
        if course == 1 {
            lab.silent_endpoint();
        }
        let due = lab.now + Duration::from_millis(30);
        assert_eq!(lab.switch.next_expiry(), Some(due), "course {course}");
        lab.switch.expire_waits(due - Duration::from_nanos(1));
        assert_eq!(told(&mut lab, &mut client), [0; 0], "course {course}");
        lab.now = due;
        lab.switch.expire_waits(due);
        lab.follow();
        assert_eq!(told(&mut lab, &mut client), [3], "course {course}");
        assert_eq!(lab.ended.last().map(|(_, report)| report.end), Some(Ended::Answered));
        assert_eq!(lab.switch.next_expiry(), None);
    }
}

#[test]
fn the_first_deadline_of_all_that_wait_is_the_next() {
    let mut lab = Lab::new(2);
    let mut client = lab.client();
    let start = lab.now;
    for (stream, timeout) in [(1, "50m"), (3, "20m"), (5, "70m"), (7, "1S")] {
        let head = [&CALL[..], &[("grpc-timeout", timeout)]].concat();
        let head = client.headers(stream, &head, true);
        lab.send(&client, &head);
    }
    for (due, stream) in [(20, 3), (50, 1), (70, 5)] {
        let due = start + Duration::from_millis(due);
        assert_eq!(lab.switch.next_expiry(), Some(due));
        lab.now = due;
        lab.switch.expire_waits(due);
        lab.follow();
        assert_eq!(told(&mut lab, &mut client), [stream]);
    }
    assert_eq!(lab.switch.next_expiry(), Some(start + Duration::from_secs(1)));
}

#[test]
fn nothing_is_replayed_past_its_deadline() {
    for late in [false, true] {
        let mut lab = Lab::new(2);
        let mut client = lab.client();
        let head = call(&mut client, 1);
        lab.send(&client, &head);
        let mut refusing = lab.endpoint();
        lab.heard(&mut refusing);
        lab.now += Duration::from_millis(if late { 30 } else { 29 });
        lab.send(&refusing, &reset(1, Code::REFUSED_STREAM));
        let replayed = lab.events.iter().any(|event| matches!(event, Event::Replayed { .. }));
        assert!(replayed, "the driver is asked, and may count it");
        assert_eq!(told(&mut lab, &mut client), if late { vec![1] } else { vec![] });
        assert_eq!(lab.dials, if late { vec![] } else { vec![address(2)] });
    }
}

#[test]
fn a_deadline_that_passes_on_the_endpoint_changes_nothing() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = call(&mut client, 1);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    lab.heard(&mut endpoint);
    lab.wait(Duration::from_secs(1));
    assert_eq!(lab.switch.next_expiry(), None);
    let answer = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &answer);
    assert_eq!(lab.heard(&mut client).len(), 2);
    assert_eq!(lab.ended[0].1.end, Ended::Complete);
}

#[test]
fn only_grpc_has_deadlines() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = [&CALL[..4], &[("grpc-timeout", "0m")]].concat();
    let head = client.headers(1, &head, true);
    lab.send(&client, &head);
    assert_eq!(lab.switch.next_expiry(), None);
    assert_eq!(lab.dials, [address(1)]);
    let head = client.headers(3, &[&CALL[..], &[("grpc-timeout", "0m")]].concat(), true);
    lab.send(&client, &head);
    assert_eq!(told(&mut lab, &mut client), [3], "nobody waits for this one");
}

#[test]
fn a_cancelled_stream_leaves_no_deadline_behind() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = call(&mut client, 1);
    lab.send(&client, &head);
    lab.send(&client, &reset(1, Code::CANCEL));
    let due = lab.now + Duration::from_millis(30);
    lab.switch.expire_waits(due);
    lab.follow();
    assert_eq!(lab.switch.next_expiry(), None);
    assert_eq!(lab.ended[0].1.end, Ended::Cancelled);
    assert_eq!(lab.ended.len(), 1);
}
