//! Aim: credit is never overrun, never lost, and passes from end to end; a stalled stream stops
//! nobody else (RFC 9113 sections 5.2 and 6.9).

use super::lab::{CALL, Frame, Lab, OK, Peer, data, settings, window};
use crate::h2::settings as ours;
use crate::h2::switch::frame::Code;
use crate::h2::switch::{Over, limits};

/// Octets of DATA among the frames.
fn octets(frames: &[Frame], stream: u32) -> usize {
    frames
        .iter()
        .map(|frame| match frame {
            Frame::Data { stream: of, octets, .. } if *of == stream => octets.len(),
            _ => 0,
        })
        .sum()
}

fn granted(frames: &[Frame], stream: u32) -> usize {
    frames
        .iter()
        .map(|frame| match frame {
            Frame::Window(of, octets) if *of == stream => *octets as usize,
            _ => 0,
        })
        .sum()
}

/// `total` octets in frames of 16 KiB.
fn body(stream: u32, total: usize) -> Vec<u8> {
    let chunk = vec![7; 16_384];
    (0..total)
        .step_by(chunk.len())
        .flat_map(|at| data(stream, &chunk[..chunk.len().min(total - at)], false))
        .collect()
}

#[test]
fn rfc9113_6_9_no_more_is_sent_than_the_receiver_has_granted() {
    let mut lab = Lab::new(1);
    let (client, mut endpoint) = lab.call(false);
    lab.send(&client, &body(1, 200_000));
    let heard = lab.heard(&mut endpoint);
    assert_eq!(octets(&heard, 1), 65_535, "the default window");

    lab.send(&endpoint, &window(1, 10));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 0, "the connection's window is empty too");
    lab.send(&endpoint, &window(0, 100_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 10);
    lab.send(&endpoint, &window(1, 1_000_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 99_990);
    lab.send(&endpoint, &window(0, 1_000_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 200_000 - 65_535 - 100_000);
}

#[test]
fn rfc9113_6_9_2_window_shrinks_below_zero_and_grows_again() {
    let mut lab = Lab::new(1);
    let (client, mut endpoint) = lab.call(false);
    lab.send(&endpoint, &window(0, 1_000_000));
    lab.send(&client, &body(1, 60_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 60_000);
    lab.send(&endpoint, &settings(&[(4, 10_000)]));
    lab.send(&client, &body(1, 40_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 0, "50,000 below zero");
    lab.send(&endpoint, &window(1, 50_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 0);
    lab.send(&endpoint, &settings(&[(4, 20_000)]));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 10_000);
    lab.send(&endpoint, &window(1, 100_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 30_000);
}

#[test]
fn rfc9113_6_9_2_window_of_an_open_stream_cannot_grow_above_2_31() {
    let mut lab = Lab::new(1);
    let (_client, mut endpoint) = lab.call(false);
    lab.send(&endpoint, &window(1, 0x7fff_0000 - 65_535));
    lab.send(&endpoint, &settings(&[(4, 0x7fff_ffff)]));
    lab.assert_failed(&mut endpoint, Code::FLOW_CONTROL_ERROR);
}

#[test]
fn rfc9113_6_9_1_a_sender_beyond_its_credit_is_stopped() {
    // One stream's.
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(false);
    let window = ours::STREAM_WINDOW_OCTETS as usize;
    lab.send(&client, &body(1, window));
    assert!(!lab.heard(&mut client).iter().any(|frame| matches!(frame, Frame::Reset(..))));
    lab.send(&client, &data(1, b"x", false));
    let heard = lab.heard(&mut client);
    assert_eq!(heard, [Frame::Reset(1, Code::FLOW_CONTROL_ERROR)]);

    // The connection's, by many streams whose endpoint takes nothing.
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let streams = ours::CONNECTION_WINDOW_OCTETS / ours::STREAM_WINDOW_OCTETS;
    for number in 0..=streams {
        let head = client.headers(2 * number + 1, &CALL, false);
        lab.send(&client, &head);
    }
    for number in 0..streams {
        lab.send(&client, &body(2 * number + 1, window));
    }
    assert_eq!(lab.over(&client), None);
    lab.send(&client, &data(2 * streams + 1, b"x", false));
    assert_eq!(lab.over(&client), Some(Over::Failed(Code::FLOW_CONTROL_ERROR)));
}

#[test]
fn credit_passes_from_end_to_end_in_both_directions() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    let head = endpoint.headers(1, &OK, false);
    lab.send(&endpoint, &head);
    lab.heard(&mut client);
    let total = 1_000_000;
    // Each side has 256 KiB from us and gives 64 KiB; the rest has to be granted as the receiver
    // grants it.
    check_end_to_end(&mut lab, &mut client, &mut endpoint, total);
    check_end_to_end(&mut lab, &mut endpoint, &mut client, total);
}

fn check_end_to_end(lab: &mut Lab, source: &mut Peer, sink: &mut Peer, total: usize) {
    let (mut sent, mut arrived) = (0, 0);
    let mut credit = ours::STREAM_WINDOW_OCTETS as usize;
    for _ in 0..1000 {
        if arrived == total {
            return;
        }
        let some = credit.min(total - sent).min(30_000);
        lab.send(source, &body(1, some));
        (sent, credit) = (sent + some, credit - some);
        let heard = lab.heard(sink);
        let received = octets(&heard, 1);
        arrived += received;
        if received > 0 {
            let update = received as u32;
            lab.send(sink, &[window(0, update), window(1, update)].concat());
        }
        credit += granted(&lab.heard(source), 1);
    }
    panic!("stalled at {arrived} of {total} octets");
}

#[test]
fn a_sender_is_not_granted_what_its_receiver_does_not_take() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    lab.send(&client, &body(1, ours::STREAM_WINDOW_OCTETS as usize));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 65_535);
    assert_eq!(granted(&lab.heard(&mut client), 1), 0, "what waits with us has to go first");
}

#[test]
fn a_stream_without_credit_stops_nobody_else() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    for stream in [1, 3] {
        let head = client.headers(stream, &CALL, false);
        lab.send(&client, &head);
    }
    let mut endpoint = lab.endpoint();
    lab.send(&endpoint, &window(0, 1_000_000));
    lab.send(&client, &body(1, 200_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 65_535);
    lab.send(&client, &data(3, b"sibling", true));
    assert_eq!(octets(&lab.heard(&mut endpoint), 3), 7);
}

#[test]
fn streams_share_a_congested_connection_frame_by_frame() {
    let mut lab = Lab::new(1);
    let mut greedy = lab.client();
    let mut modest = lab.client();
    let head = greedy.headers(1, &CALL, false);
    lab.send(&greedy, &head);
    let mut endpoint = lab.endpoint_with(&[(4, 1_000_000)]);
    let head = modest.headers(1, &CALL, false);
    lab.send(&modest, &head);
    lab.heard(&mut endpoint);
    // The endpoint's connection has no credit left, then some.
    lab.send(&greedy, &body(1, 240_000));
    assert_eq!(octets(&lab.heard(&mut endpoint), 1), 65_535);
    lab.send(&modest, &body(1, 30_000));
    lab.send(&endpoint, &window(0, 66_000));
    let heard = lab.heard(&mut endpoint);
    assert_eq!(octets(&heard, 3), 30_000, "the modest one is through");
    assert_eq!(octets(&heard, 1), 36_000);
}

#[test]
fn connection_credit_comes_back_for_what_is_dropped() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let most = ours::CONNECTION_WINDOW_OCTETS as usize;
    let mut returned = 0;
    let mut stream = 1;
    // Each of these streams is reset with its data unsent, or sends to nobody.
    for _ in 0..2 * most / ours::STREAM_WINDOW_OCTETS as usize {
        let head = client.headers(stream, &CALL, false);
        lab.send(&client, &head);
        lab.send(&client, &body(stream, ours::STREAM_WINDOW_OCTETS as usize));
        lab.send(&client, &super::lab::reset(stream, Code::CANCEL));
        assert_eq!(lab.over(&client), None);
        returned += granted(&lab.heard(&mut client), 0);
        stream += 2;
    }
    assert!(returned >= 2 * most - limits::CONNECTION_UPDATE_OCTETS as usize, "{returned}");
}

#[test]
fn clients_share_an_upstream_connection_alike_however_many_streams_each_has() {
    const STREAMS: u32 = 40;
    let mut lab = Lab::new(1);
    let (greedy, mut endpoint) = lab.call(false);
    lab.send(&endpoint, &settings(&[(4, 1_000_000)]));
    let mut greedy = greedy;
    for stream in 1..STREAMS {
        let head = greedy.headers(1 + 2 * stream, &CALL, false);
        lab.send(&greedy, &head);
    }
    let mut modest = lab.client();
    let head = modest.headers(1, &CALL, false);
    lab.send(&modest, &head);
    lab.heard(&mut endpoint);
    for stream in 0..STREAMS {
        lab.send(&greedy, &body(1 + 2 * stream, 65_536));
    }
    lab.send(&modest, &body(1, 163_840));
    // The connection's first window, which the greedy one has used before the other came.
    lab.heard(&mut endpoint);
    lab.send(&endpoint, &window(0, 327_680));
    let heard = lab.heard(&mut endpoint);
    let of_modest = octets(&heard, 2 * STREAMS + 1);
    let of_greedy: usize = (0..STREAMS).map(|stream| octets(&heard, 1 + 2 * stream)).sum();
    assert_eq!(of_modest + of_greedy, 327_680);
    assert!(of_modest.abs_diff(of_greedy) <= 2 * 16_384, "{of_modest} and {of_greedy} octets");
}
