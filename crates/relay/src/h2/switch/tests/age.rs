//! Aim: a stream that has lived long enough ends so that its client can tell, not in the middle of a
//! message if that can be helped, and its endpoint hears of it.

use super::lab::{CALL, Frame, Lab, OK, Peer, TRAILERS, data, frame};
use crate::h2::answer;
use crate::h2::switch::frame::{Code, HEAD_OCTETS, kind};
use crate::h2::switch::{Ended, Expiry};

/// A message with its length in front.
fn message(text: &[u8]) -> Vec<u8> {
    [&[0], &(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// A call whose endpoint has begun its response.
fn begun() -> (Lab, Peer, Peer) {
    let mut lab = Lab::new(1);
    lab.watches = true;
    let (mut client, mut endpoint) = lab.call(false);
    let head = endpoint.headers(1, &OK, false);
    lab.send(&endpoint, &head);
    assert_eq!(lab.heard(&mut client).len(), 1);
    (lab, client, endpoint)
}

/// The octets of DATA among what was heard, and what comes after them. The head is passed over.
fn split(heard: Vec<Frame>) -> (Vec<u8>, Vec<Frame>) {
    let mut octets = Vec::new();
    let mut rest = Vec::new();
    for frame in heard {
        match frame {
            Frame::Data { octets: more, .. } => {
                assert!(rest.is_empty(), "DATA behind the end");
                octets.extend(more);
            }
            Frame::Window(..) | Frame::Headers { end: false, .. } => {}
            frame => rest.push(frame),
        }
    }
    (octets, rest)
}

fn assert_told(rest: &[Frame]) {
    let [Frame::Headers { fields, end: true, .. }, Frame::Reset(1, Code::NO_ERROR)] = rest else {
        panic!("trailers, and no more of the request: {rest:?}")
    };
    let expected = [("grpc-status", "14"), ("grpc-message", answer::EXPIRED)];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields[..], expected);
}

fn assert_cancelled(lab: &mut Lab, endpoint: &mut Peer) {
    let heard = split(lab.heard(endpoint)).1;
    assert_eq!(heard, [Frame::Reset(1, Code::CANCEL)]);
}

#[test]
fn between_two_messages_a_stream_ends_at_once() {
    for messages in [0, 1, 3] {
        let (mut lab, mut client, mut endpoint) = begun();
        let sent = message(b"whole").repeat(messages);
        lab.send(&endpoint, &data(1, &sent, false));
        lab.expire(Expiry::AfterMessage);
        let (octets, rest) = split(lab.heard(&mut client));
        assert_eq!(octets, sent);
        assert_told(&rest);
        assert_cancelled(&mut lab, &mut endpoint);
        let report = lab.ended[0].1;
        assert_eq!((report.end, report.grpc_status), (Ended::Expired, None));
        // What the endpoint had under way is dropped, and so is what the client had.
        lab.send(&endpoint, &data(1, &message(b"late"), true));
        lab.send(&client, &data(1, b"late", true));
        assert!(split(lab.heard(&mut client)).1.is_empty());
        assert_eq!((lab.over(&client), lab.over(&endpoint)), (None, None));
    }
}

#[test]
fn the_message_that_is_under_way_is_passed_on_whole_and_none_after_it() {
    let (first, second) = (message(b"the first"), message(b"the second"));
    for cut in 1..first.len() {
        for together in [false, true] {
            let (mut lab, mut client, mut endpoint) = begun();
            lab.send(&endpoint, &data(1, &first[..cut], false));
            lab.expire(Expiry::AfterMessage);
            assert!(split(lab.heard(&mut client)).1.is_empty(), "it is waited for");
            assert!(lab.ended.is_empty());
            if together {
                lab.send(&endpoint, &data(1, &[&first[cut..], &second].concat(), false));
            } else {
                lab.send(&endpoint, &data(1, &first[cut..], false));
                lab.send(&endpoint, &data(1, &second, false));
            }
            let trailers = endpoint.headers(1, &TRAILERS, true);
            lab.send(&endpoint, &trailers);
            let (octets, rest) = split(lab.heard(&mut client));
            assert_eq!(octets, first[cut..], "the rest of the first, and nothing of the second");
            assert_told(&rest);
            assert_cancelled(&mut lab, &mut endpoint);
            assert_eq!(lab.ended[0].1.end, Ended::Expired);
        }
    }
}

#[test]
fn a_message_that_does_not_become_whole_is_cut_when_asked_again() {
    let (mut lab, mut client, mut endpoint) = begun();
    let half = &message(b"half")[..7];
    lab.send(&endpoint, &data(1, half, false));
    lab.expire(Expiry::AfterMessage);
    lab.expire(Expiry::AfterMessage);
    assert_eq!(split(lab.heard(&mut client)).1, []);
    lab.expire(Expiry::Now);
    assert_told(&split(lab.heard(&mut client)).1);
    assert_cancelled(&mut lab, &mut endpoint);
}

#[test]
fn a_frame_may_be_half_read_when_its_stream_ends() {
    let (mut lab, mut client, mut endpoint) = begun();
    let octets = data(1, &message(b"half and half"), false);
    lab.send(&endpoint, &octets[..HEAD_OCTETS + 8]);
    lab.expire(Expiry::Now);
    assert_told(&split(lab.heard(&mut client)).1);
    lab.send(&endpoint, &octets[HEAD_OCTETS + 8..]);
    assert_eq!(lab.heard(&mut client), []);
    assert_cancelled(&mut lab, &mut endpoint);
    // The connection goes on with the next frame.
    lab.send(&endpoint, &frame(kind::PING, 0, 0, &[7; 8]));
    assert_eq!(lab.heard(&mut endpoint), [Frame::PingAck([7; 8])]);
}

#[test]
fn what_waits_for_credit_goes_before_the_trailers() {
    let mut lab = Lab::new(1);
    lab.watches = true;
    let mut client = lab.client_with(&[(4, 3)]);
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    let sent = message(b"slowly");
    let response = [endpoint.headers(1, &OK, false), data(1, &sent, false)].concat();
    lab.send(&endpoint, &response);
    lab.expire(Expiry::AfterMessage);
    assert_eq!(split(lab.heard(&mut client)).0, sent[..3]);
    lab.send(&client, &super::lab::window(1, 100));
    let (octets, rest) = split(lab.heard(&mut client));
    assert_eq!(octets, sent[3..]);
    assert!(matches!(rest[..], [Frame::Headers { end: true, .. }]), "{rest:?}");
    assert_eq!(lab.ended[0].1.end, Ended::Expired);
}

#[test]
fn without_a_response_the_answer_is_ours() {
    for grpc in [true, false] {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let fields = if grpc { &CALL[..] } else { &CALL[..4] };
        let head = client.headers(1, fields, false);
        lab.send(&client, &head);
        let mut endpoint = lab.endpoint();
        lab.heard(&mut endpoint);
        lab.expire(Expiry::AfterMessage);
        let heard = lab.heard(&mut client);
        let Frame::Headers { fields, end, .. } = &heard[0] else { panic!("{heard:?}") };
        let status = if grpc { "200" } else { "504" };
        assert_eq!((fields[0].1.as_str(), *end), (status, grpc));
        assert_eq!(fields.iter().any(|(name, value)| name == "grpc-status" && value == "14"), grpc);
        assert_cancelled(&mut lab, &mut endpoint);
        assert_eq!(lab.ended[0].1.end, Ended::Answered);
    }
}

#[test]
fn a_response_that_is_no_grpc_is_reset_in_the_middle() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = client.headers(1, &CALL[..4], true);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    lab.heard(&mut endpoint);
    let response = [endpoint.headers(1, &OK[..1], false), data(1, b"part", false)].concat();
    lab.send(&endpoint, &response);
    lab.expire(Expiry::AfterMessage);
    let (octets, rest) = split(lab.heard(&mut client));
    assert_eq!((&octets[..], &rest[..]), (&b"part"[..], &[Frame::Reset(1, Code::CANCEL)][..]));
    assert_cancelled(&mut lab, &mut endpoint);
}

#[test]
fn a_stream_that_waits_for_its_endpoint_never_gets_there() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    lab.expire(Expiry::AfterMessage);
    assert!(matches!(lab.heard(&mut client)[..], [Frame::Headers { end: true, .. }]));
    let mut endpoint = lab.endpoint_with(&[]);
    let heard = lab.heard(&mut endpoint);
    assert!(!heard.iter().any(|frame| matches!(frame, Frame::Headers { .. })), "{heard:?}");
}

#[test]
fn a_whole_response_is_left_to_its_end() {
    let (mut lab, mut client, mut endpoint) = begun();
    let trailers = endpoint.headers(1, &TRAILERS, true);
    lab.send(&endpoint, &trailers);
    lab.expire(Expiry::Now);
    let heard = lab.heard(&mut client);
    assert!(matches!(&heard[..], [Frame::Headers { fields, end: true, .. }] if fields[0].1 == "0"));
    assert!(lab.ended.is_empty(), "its client still sends");
    lab.send(&client, &data(1, b"the rest", true));
    assert!(matches!(lab.heard(&mut endpoint)[..], [Frame::Data { end: true, .. }]));
    assert_eq!(lab.ended[0].1.end, Ended::Complete);
    // And what is over already is nobody's.
    lab.expire(Expiry::Now);
    assert_eq!(lab.ended.len(), 1);
}
