//! Aim: no peer makes us keep or do more than its share, whatever it sends (RFC 9113 section
//! 10.5). Method: one flood a test, as its CVE describes it, until the connection is over.

use std::time::Duration;

use super::lab::{CALL, Frame, Lab, OK, Peer, data, frame, reset, settings, window};
use crate::h2::settings as ours;
use crate::h2::switch::frame::{Code, HEAD_OCTETS, flag, kind};
use crate::h2::switch::{Over, limits};

/// Sends what `say` says until the connection is over, and returns how often that was.
fn flood(lab: &mut Lab, peer: &mut Peer, mut say: impl FnMut(&mut Peer, u32) -> Vec<u8>) -> u32 {
    for count in 0..1_000_000 {
        if lab.over(peer).is_some() {
            lab.assert_failed(peer, Code::ENHANCE_YOUR_CALM);
            return count;
        }
        let octets = say(peer, count);
        lab.send(peer, &octets);
        if count % 64 == 0 {
            // A peer that reads, or else it would only be paused.
            let octets = lab.switch.output_octets(peer.key);
            lab.switch.written(peer.key, octets, lab.now);
        }
    }
    panic!("a million went unpunished");
}

#[test]
fn cve_2023_44487_rapid_reset_ends_the_connection() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    let count = flood(&mut lab, &mut client, |client, count| {
        let stream = 2 * count + 3;
        [client.headers(stream, &CALL, true), reset(stream, Code::CANCEL)].concat()
    });
    assert!((1000..1100).contains(&count), "{count}: all streams once, no more");
    assert!(lab.ended.len() <= 1100);
    assert_eq!(lab.over(&endpoint), None, "the endpoint's connection, which others share, lives");
    assert!(lab.heard(&mut endpoint).len() <= 2200);
}

#[test]
fn cve_2025_8671_resets_that_we_are_made_to_send_end_the_connection() {
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(true);
    let count = flood(&mut lab, &mut client, |client, count| {
        let stream = 2 * count + 3;
        [client.headers(stream, &CALL, false), window(stream, 0)].concat()
    });
    assert!(count < 1100, "{count}");
}

#[test]
fn cancelling_all_streams_at_once_is_no_attack() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let mut streams: Vec<u32> = Vec::new();
    for number in 0..1000 {
        let stream = 2 * number + 1;
        let head = client.headers(stream, &CALL, true);
        lab.send(&client, &head);
        streams.push(stream);
    }
    for stream in streams {
        lab.send(&client, &reset(stream, Code::CANCEL));
    }
    assert_eq!(lab.over(&client), None);
}

#[test]
fn cve_2024_27316_continuation_flood_ends_the_connection() {
    for size in [0, 1, 16_384] {
        let mut lab = Lab::new(1);
        let (mut client, _endpoint) = lab.call(true);
        lab.send(&client, &frame(kind::HEADERS, 0, 3, b"\x82"));
        let piece = frame(kind::CONTINUATION, 0, 3, &vec![0x82; size]);
        let count = flood(&mut lab, &mut client, |_, _| piece.clone());
        assert!(count <= limits::CONTINUATION_COUNT, "{count} of {size} octets");
    }
}

#[test]
fn a_header_block_that_does_not_end_is_given_up() {
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(true);
    lab.send(&client, &frame(kind::HEADERS, 0, 3, b"\x82"));
    lab.wait(limits::BLOCK_TIMEOUT);
    lab.assert_too_slow(&mut client, Code::ENHANCE_YOUR_CALM);
}

/// What the driver's clock does.
fn ticks(lab: &mut Lab, count: u32) {
    for _ in 0..count {
        lab.wait(TICK);
    }
}

const TICK: Duration = Duration::from_millis(500);

/// Ticks until something is given up.
const PATIENCE: u32 = (limits::BLOCK_TIMEOUT.as_millis() / TICK.as_millis()) as u32 + 1;

#[test]
fn a_frame_that_does_not_come_whole_is_given_up() {
    for piece in [
        &frame(kind::HEADERS, flag::END_HEADERS, 3, &[0x82; 100])[..50],
        &frame(kind::SETTINGS, 0, 0, &[0; 60])[..20],
        &frame(kind::PING, 0, 0, &[0; 8])[..1],
        &frame(kind::DATA, flag::PADDED, 1, &[9; 20])[..9],
    ] {
        let mut lab = Lab::new(1);
        let (mut client, _endpoint) = lab.call(false);
        lab.send(&client, piece);
        ticks(&mut lab, PATIENCE - 2);
        assert_eq!(lab.over(&client), None, "it has time");
        ticks(&mut lab, 2);
        lab.assert_too_slow(&mut client, Code::ENHANCE_YOUR_CALM);
    }
}

#[test]
fn a_sender_that_is_always_in_the_middle_of_a_frame_is_not_slow() {
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(false);
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    lab.send(&client, &ping[..10]);
    for _ in 0..3 * PATIENCE {
        lab.wait(TICK);
        lab.send(&client, &[&ping[10..], &ping[..10]].concat());
        lab.heard(&mut client);
    }
    assert_eq!(lab.over(&client), None);
}

#[test]
fn data_that_pauses_in_the_middle_of_a_frame_is_waited_for() {
    let mut lab = Lab::new(1);
    let (client, mut endpoint) = lab.call(false);
    let frame = data(1, b"half and half", true);
    lab.send(&client, &frame[..HEAD_OCTETS + 4]);
    ticks(&mut lab, 3 * PATIENCE);
    lab.send(&client, &frame[HEAD_OCTETS + 4..]);
    let heard = lab.heard(&mut endpoint);
    let octets: Vec<u8> = heard
        .iter()
        .filter_map(|frame| match frame {
            Frame::Data { octets, .. } => Some(&octets[..]),
            _ => None,
        })
        .collect::<Vec<_>>()
        .concat();
    assert_eq!(octets, b"half and half");
}

#[test]
fn what_we_do_not_read_is_not_its_senders_delay() {
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(false);
    let ping = frame(kind::PING, 0, 0, &[7; 8]);
    // It takes none of the answers, so that nothing more is read from it.
    let calm = Duration::from_millis(20);
    while lab.switch.wants_input(client.key) {
        lab.send(&client, &ping.repeat(8));
        lab.now += calm;
    }
    lab.send(&client, &ping[..10]);
    ticks(&mut lab, 3 * PATIENCE);
    assert_eq!(lab.over(&client), None);
    lab.heard(&mut client);
    ticks(&mut lab, 2);
    lab.send(&client, &ping[10..]);
    assert!(matches!(lab.heard(&mut client)[..], [Frame::PingAck(_)]));
}

#[test]
fn hpack_bomb_costs_its_stream_and_no_memory() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    // 4000 octets go into the table once, and each octet of the block names them again.
    let large = "x".repeat(3900);
    let mut block = client.block(&[&CALL[..], &[("large", large.as_str())]].concat());
    block.extend([0x80 | 62; 4000]);
    lab.send(&client, &frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block));
    assert_eq!(lab.heard(&mut client), [Frame::Reset(1, Code::ENHANCE_YOUR_CALM)]);
    assert!(lab.events.is_empty());
    // The decoder still agrees with its encoder.
    let head = client.headers(3, &[&CALL[..], &[("large", large.as_str())]].concat(), true);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    assert!(matches!(lab.heard(&mut endpoint)[3], Frame::Headers { .. }));
}

#[test]
fn floods_of_cheap_frames_end_the_connection() {
    type Say = fn() -> Vec<u8>;
    let cases: [(&str, Say); 8] = [
        ("SETTINGS", || settings(&[(4, 65_535)])),
        ("SETTINGS ACK", || frame(kind::SETTINGS, flag::ACK, 0, b"")),
        ("PING", || frame(kind::PING, 0, 0, &[0; 8])),
        ("PING ACK", || frame(kind::PING, flag::ACK, 0, &[0; 8])),
        ("empty DATA", || data(1, b"", false)),
        ("WINDOW_UPDATE", || window(1, 1)),
        ("PRIORITY", || frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9])),
        ("unknown frames", || frame(0xfe, 0, 0, b"")),
    ];
    for (name, say) in cases {
        let mut lab = Lab::new(1);
        let (mut client, _endpoint) = lab.call(false);
        let count = flood(&mut lab, &mut client, |_, _| say());
        assert!((1000..17_000).contains(&count), "{name}: {count}");
    }
}

#[test]
fn endpoints_have_the_same_limits() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    flood(&mut lab, &mut endpoint, |_, _| settings(&[]));
    assert!(matches!(lab.heard(&mut client)[..], [Frame::Headers { end: true, .. }]));
}

#[test]
fn a_thousand_pings_a_second_go_on() {
    let mut lab = Lab::new(1);
    let (mut client, _endpoint) = lab.call(false);
    for _ in 0..100 {
        for _ in 0..500 {
            lab.send(&client, &frame(kind::PING, 0, 0, &[0; 8]));
        }
        lab.heard(&mut client);
        lab.wait(Duration::from_secs(1));
    }
    assert_eq!(lab.over(&client), None);
}

#[test]
fn more_streams_than_advertised_are_refused_one_by_one() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    for number in 0..ours::DOWNSTREAM_STREAMS + 10 {
        let head = client.headers(2 * number + 1, &CALL, true);
        lab.send(&client, &head);
    }
    let refused: Vec<_> = lab.heard(&mut client);
    assert_eq!(refused.len(), 10);
    assert!(refused.iter().all(|frame| matches!(frame, Frame::Reset(_, Code::REFUSED_STREAM))));
    assert_eq!(lab.over(&client), None);
}

#[test]
fn a_slow_reader_holds_its_own_window_and_no_more() {
    let mut lab = Lab::new(1);
    let mut client = lab.client_with(&[(4, 0x7fff_ffff)]);
    lab.send(&client, &window(0, 0x7fff_ffff - 65_535));
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    let head = endpoint.headers(1, &OK, false);
    lab.send(&endpoint, &head);
    // The client grants 2 GiB and reads nothing.
    let chunk = data(1, &vec![7; 16_384], false);
    let mut sent = 0;
    let mut credit = ours::STREAM_WINDOW_OCTETS as usize;
    while credit >= 16_384 {
        lab.send(&endpoint, &chunk);
        sent += 16_384;
        credit -= 16_384;
        for frame in lab.heard(&mut endpoint) {
            if let Frame::Window(1, octets) = frame {
                credit += octets as usize;
            }
        }
    }
    let most = limits::OUTPUT_OCTETS + ours::STREAM_WINDOW_OCTETS as usize + 2 * 16_384;
    assert!(sent <= most, "{sent} octets are with us");
    assert!(lab.heard(&mut client).len() > 10);
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_from() {
    let mut lab = Lab::new(0);
    let mut client = lab.client();
    let mut stream = 1;
    while lab.switch.wants_input(client.key) {
        let head = client.headers(stream, &CALL, true);
        lab.send(&client, &head);
        stream += 2;
        assert!(stream < 1_000_000);
    }
    assert!(lab.switch.output_octets(client.key) < limits::OUTPUT_PAUSE_OCTETS + 1024);
    lab.heard(&mut client);
    assert!(lab.switch.wants_input(client.key), "and again when it does");
}

#[test]
fn a_preface_without_settings_is_given_up() {
    let mut lab = Lab::new(1);
    let key = lab.switch.open_downstream(false, lab.now);
    lab.switch.receive(key, crate::h2::switch::frame::PREFACE, lab.now);
    lab.wait(ours::HANDSHAKE_TIMEOUT);
    assert_eq!(lab.switch.over(key), Some(Over::TooSlow(Code::SETTINGS_TIMEOUT)));
}
