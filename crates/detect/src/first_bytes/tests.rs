//! Aim: a verdict falls at the first octet that settles it, whatever the pieces.
//! Method: byte strings of real protocols, fed whole and octet by octet.

use proptest::prelude::*;

use super::{FirstBytes, Protocol};
use crate::PREFACE;

/// Feeds `octets` one at a time; the verdict and how many octets it took.
fn client_verdict(octets: &[u8]) -> (Option<Protocol>, usize) {
    let mut first = FirstBytes::default();
    for (index, octet) in octets.iter().enumerate() {
        if let Some(protocol) = first.client(&[*octet]) {
            return (Some(protocol), index + 1);
        }
    }
    (None, octets.len())
}

fn endpoint_verdict(octets: &[u8]) -> (Option<Protocol>, usize) {
    let mut first = FirstBytes::default();
    for (index, octet) in octets.iter().enumerate() {
        if let Some(protocol) = first.endpoint(&[*octet]) {
            return (Some(protocol), index + 1);
        }
    }
    (None, octets.len())
}

#[test]
fn whole_preface_is_http2_at_its_last_octet() {
    assert_eq!(client_verdict(PREFACE), (Some(Protocol::Http2), 24));
}

#[test]
fn first_octet_that_differs_is_tcp() {
    for (name, octets, after) in [
        ("HTTP/1.1 GET", &b"GET / HTTP/1.1\r\n"[..], 1),
        ("HTTP/1.1 POST shares a letter", b"POST / HTTP/1.1\r\n", 2),
        ("PRI with another version", b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", 14),
        ("TLS ClientHello", b"\x16\x03\x01\x02\x00", 1),
        ("Redis", b"*1\r\n$4\r\nPING\r\n", 1),
        ("last octet of the preface differs", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", 24),
    ] {
        assert_eq!(client_verdict(octets), (Some(Protocol::Tcp), after), "{name}");
    }
}

#[test]
fn endpoint_that_sends_settings_first_decides_nothing() {
    for (name, octets) in [
        ("empty SETTINGS", &[0, 0, 0, 4, 0, 0, 0, 0, 0][..]),
        (
            "grpc-go: one setting, then WINDOW_UPDATE",
            &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 64, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 15, 0, 1],
        ),
    ] {
        assert_eq!(endpoint_verdict(octets), (None, octets.len()), "{name}");
        let mut first = FirstBytes::default();
        assert_eq!(first.endpoint(octets), None);
        assert!(first.endpoint_settled());
        assert_eq!(first.client(PREFACE), Some(Protocol::Http2), "{name}: client decides");
    }
}

#[test]
fn endpoint_that_speaks_first_is_tcp() {
    for (name, octets, after) in [
        ("MariaDB greeting", &[0x5b, 0, 0, 0, 0x0a, b'5'][..], 1),
        ("SMTP", b"220 mx.example ESMTP\r\n", 1),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n", 1),
        ("a frame that is not SETTINGS", &[0, 0, 8, 6, 0, 0, 0, 0, 0], 3),
        ("SETTINGS length not a multiple of six", &[0, 0, 7, 4, 0, 0, 0, 0, 0], 3),
        ("SETTINGS acknowledgement", &[0, 0, 0, 4, 1, 0, 0, 0, 0], 5),
        ("SETTINGS on a stream", &[0, 0, 0, 4, 0, 0, 0, 0, 1], 9),
        ("too long for a first frame", &[0, 0x40, 2, 4, 0, 0, 0, 0, 0], 3),
    ] {
        assert_eq!(endpoint_verdict(octets), (Some(Protocol::Tcp), after), "{name}");
    }
}

proptest! {
    #[test]
    fn pieces_do_not_change_the_verdict(
        octets in prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..64),
            (0usize..=24, proptest::collection::vec(any::<u8>(), 0..8)).prop_map(|(cut, tail)| {
                let mut octets = PREFACE[..cut].to_vec();
                octets.extend(tail);
                octets
            }).prop_filter("not empty", |octets| !octets.is_empty()),
        ],
        cuts in proptest::collection::vec(1usize..16, 1..16),
    ) {
        let mut whole = FirstBytes::default();
        let expected = whole.client(&octets);
        let mut pieces = FirstBytes::default();
        let mut rest = &octets[..];
        let mut got = None;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() || got.is_some() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            got = pieces.client(piece);
            rest = after;
        }
        prop_assert_eq!(got, expected);
        let is_http2 = octets.len() >= 24 && octets[..24] == PREFACE[..];
        prop_assert_eq!(expected == Some(Protocol::Http2), is_http2);
    }
}
