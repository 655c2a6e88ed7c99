//! Aim: each rule of RFC 9113 that a peer can break, or that changes what is passed on. Method:
//! transcripts, named by section.

use super::lab::{CALL, Frame, Lab, OK, TRAILERS, data, frame, go_away, reset, settings, window};
use crate::h2::switch::frame::{Code, flag, kind};
use crate::h2::switch::{Ended, Over};

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn unary_call_passes_head_data_and_trailers_both_ways() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let request = [client.headers(1, &CALL, false), data(1, b"question", true)].concat();
    lab.send(&client, &request);
    let mut endpoint = lab.endpoint();
    let heard = lab.heard(&mut endpoint);
    let head = Frame::Headers { stream: 1, fields: fields(&CALL), end: false };
    let body = Frame::Data { stream: 1, octets: b"question".to_vec(), end: true };
    assert_eq!(heard[3..5], [head, body], "after SETTINGS, WINDOW_UPDATE and ACK");

    let response = [
        endpoint.headers(1, &OK, false),
        data(1, b"answer", false),
        endpoint.headers(1, &TRAILERS, true),
    ];
    lab.send(&endpoint, &response.concat());
    let expected = [
        Frame::Headers { stream: 1, fields: fields(&OK), end: false },
        Frame::Data { stream: 1, octets: b"answer".to_vec(), end: false },
        Frame::Headers { stream: 1, fields: fields(&TRAILERS), end: true },
    ];
    assert_eq!(lab.heard(&mut client), expected);
    let report = lab.ended[0].1;
    assert_eq!((report.end, report.grpc, report.grpc_status), (Ended::Complete, true, Some(0)));
    assert_eq!((report.octets_to_upstream, report.octets_to_downstream), (8, 6));
}

#[test]
fn any_cut_of_the_octets_gives_the_same() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    let padded = frame(kind::DATA, flag::PADDED, 1, b"\x03quest\0\0\0");
    lab.trickle(&client, &[padded, data(1, b"ion", true)].concat());
    let octets: Vec<u8> = lab
        .heard(&mut endpoint)
        .into_iter()
        .flat_map(|frame| match frame {
            Frame::Data { octets, .. } => octets,
            _ => Vec::new(),
        })
        .collect();
    assert_eq!(octets, b"question");

    // A block in HEADERS and two CONTINUATIONs, with padding and priority.
    let block = endpoint.block(&OK);
    let (first, rest) = block.split_at(1);
    let head = [&[2, 0, 0, 0, 0, 7][..], first, &[0, 0]].concat();
    let response = [
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 1, &head),
        frame(kind::CONTINUATION, 0, 1, b""),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, rest),
    ];
    lab.trickle(&endpoint, &response.concat());
    let expected = Frame::Headers { stream: 1, fields: fields(&OK), end: false };
    assert_eq!(lab.heard(&mut client), [expected]);
}

#[test]
fn rfc9113_3_4_preface_and_settings_come_first() {
    for words in [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec(), {
        let preface = crate::h2::switch::frame::PREFACE.to_vec();
        [preface, frame(kind::PING, 0, 0, &[0; 8])].concat()
    }] {
        let mut lab = Lab::new(1);
        let key = lab.switch.open_downstream(false, lab.now);
        lab.switch.receive(key, &words, lab.now);
        assert_eq!(lab.switch.over(key), Some(Over::Failed(Code::PROTOCOL_ERROR)));
    }
}

/// What a client says after its first words, and what it costs the connection.
#[test]
fn rfc9113_5_4_1_connection_errors() {
    let huge = frame(kind::DATA, 0, 1, &vec![0; 16_385]);
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("4.2 frame above SETTINGS_MAX_FRAME_SIZE", huge, Code::FRAME_SIZE_ERROR),
        ("5.1 DATA on an idle stream", data(3, b"x", false), Code::PROTOCOL_ERROR),
        ("5.1 RST_STREAM on an idle stream", reset(3, Code::CANCEL), Code::PROTOCOL_ERROR),
        ("5.1 WINDOW_UPDATE on an idle stream", window(3, 1), Code::PROTOCOL_ERROR),
        ("6.1 DATA on stream 0", data(0, b"x", false), Code::PROTOCOL_ERROR),
        ("6.1 padding as long as the frame", frame(0, 8, 1, b"\x05abc"), Code::PROTOCOL_ERROR),
        ("6.2 HEADERS on stream 0", frame(1, 4, 0, b"\x82"), Code::PROTOCOL_ERROR),
        ("6.3 PRIORITY on stream 0", frame(2, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR),
        ("6.4 RST_STREAM of three octets", frame(3, 0, 1, &[0; 3]), Code::FRAME_SIZE_ERROR),
        ("6.5 SETTINGS on a stream", frame(4, 0, 1, b""), Code::PROTOCOL_ERROR),
        ("6.5 ACK with octets", frame(4, 1, 0, &[0; 6]), Code::FRAME_SIZE_ERROR),
        ("6.5 SETTINGS of five octets", frame(4, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR),
        ("6.5.2 ENABLE_PUSH 2", settings(&[(2, 2)]), Code::PROTOCOL_ERROR),
        ("6.5.2 window 2^31", settings(&[(4, 1 << 31)]), Code::FLOW_CONTROL_ERROR),
        ("6.5.2 MAX_FRAME_SIZE 16383", settings(&[(5, 16_383)]), Code::PROTOCOL_ERROR),
        ("6.6 PUSH_PROMISE", frame(5, 4, 1, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR),
        ("6.7 PING of seven octets", frame(6, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR),
        ("6.7 PING on a stream", frame(6, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("6.8 GOAWAY on a stream", frame(7, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR),
        ("6.9 increment 0", window(0, 0), Code::PROTOCOL_ERROR),
        ("6.9.1 window above 2^31-1", window(0, 0x7fff_ffff), Code::FLOW_CONTROL_ERROR),
        ("6.10 CONTINUATION alone", frame(9, 4, 1, b""), Code::PROTOCOL_ERROR),
        (
            "6.10 another frame within a block",
            [frame(1, 0, 3, b"\x82"), frame(6, 0, 0, &[0; 8])].concat(),
            Code::PROTOCOL_ERROR,
        ),
        ("5.1.1 an even stream", frame(1, 5, 2, b"\x82"), Code::PROTOCOL_ERROR),
        ("4.3 a block that cannot be decoded", frame(1, 5, 3, b"\xff"), Code::COMPRESSION_ERROR),
    ];
    for (name, octets, code) in cases {
        let mut lab = Lab::new(1);
        let (mut client, mut endpoint) = lab.call(false);
        lab.send(&client, &octets);
        assert_eq!(lab.over(&client), Some(Over::Failed(code)), "{name}");
        lab.assert_failed(&mut client, code);
        assert_eq!(
            lab.heard(&mut endpoint),
            [Frame::Reset(1, Code::CANCEL)],
            "{name}: the endpoint is told that nobody waits"
        );
        assert_eq!(lab.ended.len(), 1, "{name}");
    }
}

/// What a client says of one stream, and what it costs that stream alone.
#[test]
fn rfc9113_5_4_2_stream_errors() {
    type Say = fn(&mut super::lab::Peer) -> Vec<u8>;
    let cases: &[(&str, Say, Code)] = &[
        ("6.3 PRIORITY of four octets", |_| frame(2, 0, 1, &[0; 4]), Code::FRAME_SIZE_ERROR),
        ("6.9 increment 0", |_| window(1, 0), Code::PROTOCOL_ERROR),
        ("6.9.1 window above 2^31-1", |_| window(1, 0x7fff_ffff), Code::FLOW_CONTROL_ERROR),
        (
            "8.1 trailers that do not end",
            |client| client.headers(1, &TRAILERS, false),
            Code::PROTOCOL_ERROR,
        ),
        (
            "8.1 trailers with :path",
            |client| client.headers(1, &[(":path", "/")], true),
            Code::PROTOCOL_ERROR,
        ),
        (
            "5.1 DATA after the end",
            |_| [data(1, b"x", true), data(1, b"y", false)].concat(),
            Code::STREAM_CLOSED,
        ),
    ];
    for (name, say, code) in cases {
        let mut lab = Lab::new(1);
        let (mut client, mut endpoint) = lab.call(false);
        let octets = say(&mut client);
        lab.send(&client, &octets);
        assert_eq!(lab.heard(&mut client), [Frame::Reset(1, *code)], "{name}");
        let told = lab.heard(&mut endpoint).pop();
        assert_eq!(told, Some(Frame::Reset(1, Code::CANCEL)), "{name}");
        // The connection goes on.
        let next = client.headers(3, &CALL, true);
        lab.send(&client, &next);
        assert_eq!(lab.heard(&mut endpoint).len(), 1, "{name}");
    }
}

#[test]
fn rfc9113_8_1_1_malformed_requests_are_not_passed_on() {
    let without = |name: &str| -> Vec<_> {
        CALL.iter().copied().filter(|(other, _)| *other != name).collect()
    };
    let with = |field: (&'static str, &'static str)| [&CALL[..], &[field]].concat();
    let cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("8.2.1 upper case", with(("X-Upper", "1"))),
        ("8.2.1 a space in a name", with(("x y", "1"))),
        ("8.2.1 LF in a value", with(("x", "a\nb"))),
        ("8.2.1 a space around a value", with(("x", " a"))),
        ("8.2.2 connection", with(("connection", "close"))),
        ("8.2.2 transfer-encoding", with(("transfer-encoding", "chunked"))),
        ("8.2.2 te: gzip", [&without("te")[..], &[("te", "gzip")]].concat()),
        ("8.3 pseudo after regular", with((":authority", "again"))),
        ("8.3 unknown pseudo", [&[(":who", "me")][..], &CALL].concat()),
        ("8.3 :status in a request", [&[(":status", "200")][..], &CALL].concat()),
        ("8.3 twice", [&[(":path", "/")][..], &CALL].concat()),
        ("8.3.1 no :method", without(":method")),
        ("8.3.1 no :scheme", without(":scheme")),
        ("8.3.1 no :path", without(":path")),
        ("8.3.1 empty :path", [&without(":path")[..3], &[(":path", "")]].concat()),
        ("8441 4 :protocol without an offer", [&[(":protocol", "x")][..], &CALL].concat()),
        ("8.1.1 content-length that is none", with(("content-length", "x"))),
        (
            "8.1.1 two content-lengths",
            [&with(("content-length", "1"))[..], &[("content-length", "2")]].concat(),
        ),
    ];
    for (name, head) in cases {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let octets = client.headers(1, &head, false);
        lab.send(&client, &octets);
        assert_eq!(lab.heard(&mut client), [Frame::Reset(1, Code::PROTOCOL_ERROR)], "{name}");
        assert!(lab.events.is_empty(), "{name}: nobody is asked for an endpoint");
    }
}

#[test]
fn rfc9113_8_1_1_content_length_is_held_against_data() {
    for (length, body, end) in [("3", &b"four"[..], false), ("5", b"four", true)] {
        let mut lab = Lab::new(1);
        let mut client = lab.client();
        let head = [&CALL[..], &[("content-length", length)]].concat();
        let octets = [client.headers(1, &head, false), data(1, body, end)].concat();
        lab.send(&client, &octets);
        assert_eq!(lab.heard(&mut client), [Frame::Reset(1, Code::PROTOCOL_ERROR)], "{length}");
    }
    // The answer to HEAD says how long a body would be.
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let mut head = CALL;
    head[0] = (":method", "HEAD");
    let octets = client.headers(1, &head, true);
    lab.send(&client, &octets);
    let mut endpoint = lab.endpoint();
    let octets = endpoint.headers(1, &[(":status", "200"), ("content-length", "7")], true);
    lab.send(&endpoint, &octets);
    assert!(matches!(lab.heard(&mut client)[..], [Frame::Headers { end: true, .. }]));
}

#[test]
fn rfc9113_8_1_1_of_a_frame_that_is_too_long_no_more_is_looked_at() {
    let mut lab = Lab::new(1);
    let mut client = lab.client_with(&[(4, 0)]);
    let head = client.headers(1, &CALL, true);
    lab.send(&client, &head);
    let mut endpoint = lab.endpoint();
    lab.heard(&mut endpoint);
    let head = [&OK[..], &[("content-length", "5")]].concat();
    let octets = [endpoint.headers(1, &head, false), data(1, b"111222233", true)].concat();
    // Read in pieces: the first fits, the second does not, the third would fit after the first.
    let (first, rest) = octets.split_at(octets.len() - 6);
    let (second, third) = rest.split_at(4);
    [first, second, third].iter().for_each(|piece| lab.send(&endpoint, piece));
    assert_eq!(lab.heard(&mut endpoint), [Frame::Reset(1, Code::PROTOCOL_ERROR)]);
    lab.heard(&mut client);
    lab.send(&client, &window(1, 100));
    let heard = lab.heard(&mut client);
    let [Frame::Data { octets, end: false, .. }, Frame::Headers { fields, end: true, .. }] =
        &heard[..]
    else {
        panic!("{heard:?}");
    };
    assert_eq!(octets, b"111");
    assert_eq!(fields[0], ("grpc-status".to_owned(), "14".to_owned()));
}

#[test]
fn rfc9113_8_5_connect_passes_as_a_tunnel() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let head = [(":method", "CONNECT"), (":authority", "db:1234")];
    let octets = [client.headers(1, &head, false), data(1, b"hello", false)].concat();
    lab.send(&client, &octets);
    let mut endpoint = lab.endpoint();
    let heard = lab.heard(&mut endpoint);
    assert_eq!(heard[3], Frame::Headers { stream: 1, fields: fields(&head), end: false });
    let octets =
        [endpoint.headers(1, &[(":status", "200")], false), data(1, b"hi", false)].concat();
    lab.send(&endpoint, &octets);
    assert_eq!(lab.heard(&mut client).len(), 2);
}

#[test]
fn rfc8441_extended_connect_needs_the_endpoints_offer() {
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "echo"),
    ];
    let mut lab = Lab::new(1);
    assert!(!lab.switch.offer_extended_connect([super::lab::address(1).into()]));
    let (_client, _endpoint) = {
        let mut client = lab.client();
        let octets = client.headers(1, &CALL, true);
        lab.send(&client, &octets);
        let endpoint = lab.endpoint_with(&[(8, 1)]);
        (client, endpoint)
    };
    assert!(lab.switch.offer_extended_connect([super::lab::address(1).into()]));
    assert!(!lab.switch.offer_extended_connect([]), "nobody offers nothing");

    let key = lab.switch.open_downstream(true, lab.now);
    let mut client = super::lab::Peer::new(key);
    lab.send(&client, crate::h2::switch::frame::PREFACE);
    lab.send(&client, &settings(&[]));
    let first = lab.heard(&mut client);
    assert!(matches!(&first[0], Frame::Settings(said) if said.contains(&(8, 1))));
    let octets = client.headers(1, &extended, false);
    lab.send(&client, &octets);
    assert!(lab.heard(&mut client).is_empty(), "it is on its way");
}

#[test]
fn rfc9110_15_2_informational_responses_pass_before_the_final_one() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    let hint = [(":status", "103"), ("link", "x")];
    let octets = [
        endpoint.headers(1, &hint, false),
        endpoint.headers(1, &hint, false),
        endpoint.headers(1, &OK, false),
        endpoint.headers(1, &TRAILERS, true),
    ];
    lab.send(&endpoint, &octets.concat());
    let ends: Vec<_> = lab
        .heard(&mut client)
        .into_iter()
        .map(|frame| matches!(frame, Frame::Headers { end: true, .. }))
        .collect();
    assert_eq!(ends, [false, false, false, true]);
}

#[test]
fn rfc9113_8_1_malformed_responses_are_answered_for() {
    let bad: [&[(&str, &str)]; 4] = [
        &[(":status", "2x")],
        &[("x", "y")],
        &[(":status", "200"), ("Upper", "x")],
        &[(":status", "101")],
    ];
    for head in bad {
        let mut lab = Lab::new(1);
        let (mut client, mut endpoint) = lab.call(true);
        let octets = endpoint.headers(1, head, false);
        lab.send(&endpoint, &octets);
        let told = lab.heard(&mut endpoint);
        assert_eq!(told, [Frame::Reset(1, Code::PROTOCOL_ERROR)], "{head:?}");
        let heard = lab.heard(&mut client);
        assert!(
            matches!(&heard[..], [Frame::Headers { fields, end: true, .. }]
            if fields.contains(&("grpc-status".to_owned(), "14".to_owned()))),
            "{heard:?}"
        );
    }
}

#[test]
fn rfc9113_5_5_unknown_frames_and_settings_are_ignored() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    let octets = [
        frame(0xfe, 0xff, 1, b"whatever"),
        frame(0xfe, 0, 0, b""),
        frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 9]),
        settings(&[(0x99, 7)]),
        data(1, b"x", true),
    ];
    lab.trickle(&client, &octets.concat());
    assert_eq!(lab.heard(&mut client), [Frame::SettingsAck]);
    assert!(matches!(lab.heard(&mut endpoint)[..], [Frame::Data { end: true, .. }]));
}

#[test]
fn rfc9113_6_7_ping_is_answered_in_kind() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(false);
    for peer in [&mut client, &mut endpoint] {
        lab.send(peer, &frame(kind::PING, 0, 0, b"opaque!!"));
        assert_eq!(lab.heard(peer), [Frame::PingAck(*b"opaque!!")]);
    }
}

#[test]
fn rfc9113_4_3_large_blocks_are_cut_and_joined() {
    let long = "x".repeat(40_000);
    let head = [&CALL[..], &[("x-long", long.as_str())]].concat();
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let block = client.block(&head);
    let mut pieces = block.chunks(16_000).peekable();
    let mut octets = frame(kind::HEADERS, flag::END_STREAM, 1, pieces.next().unwrap_or_default());
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
        octets.extend(frame(kind::CONTINUATION, flags, 1, piece));
    }
    lab.send(&client, &octets);
    let mut endpoint = lab.endpoint();
    let heard = lab.heard(&mut endpoint);
    let expected = Frame::Headers { stream: 1, fields: fields(&head), end: true };
    assert!(heard[3] == expected, "all 40,000 octets of it");
}

#[test]
fn rfc9113_6_8_a_clients_goaway_changes_nothing_for_its_streams() {
    let mut lab = Lab::new(1);
    let (mut client, mut endpoint) = lab.call(true);
    lab.send(&client, &go_away(0, Code::NO_ERROR));
    let octets = [endpoint.headers(1, &OK, false), endpoint.headers(1, &TRAILERS, true)].concat();
    lab.send(&endpoint, &octets);
    assert_eq!(lab.heard(&mut client).len(), 2);
}

#[test]
fn rfc7541_4_2_table_of_size_0_is_obeyed() {
    let mut lab = Lab::new(1);
    let mut client = lab.client();
    let octets = client.headers(1, &CALL, true);
    lab.send(&client, &octets);
    let mut endpoint = lab.endpoint_with(&[(1, 0)]);
    lab.heard(&mut endpoint);
    // The peer's decoder would fail on an entry that it has thrown out.
    for stream in [3, 5] {
        let octets = client.headers(stream, &CALL, true);
        lab.send(&client, &octets);
        let expected = Frame::Headers { stream, fields: fields(&CALL), end: true };
        assert_eq!(lab.heard(&mut endpoint), [expected]);
    }
}
