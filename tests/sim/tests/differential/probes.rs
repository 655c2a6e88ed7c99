//! Rules of RFC 9113 and 7541, each broken once, and what is seen of it.

use std::net::SocketAddr;

use crate::client::{
    CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
};

/// What became of the connection, or of the stream that was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The connection was closed, with a GOAWAY of this code.
    Closed(Option<u32>),
    /// The stream was reset with this code.
    Reset(u32),
    /// The stream was answered with this status.
    Answered(u16),
    /// Neither; the next call was answered.
    Nothing,
}

/// What a client does that it must not, or that must be ignored.
pub(crate) struct Probe {
    pub(crate) name: &'static str,
    /// The frames. Stream 1 is complete, 3 is open and has sent its head, 5 is the next one.
    frames: fn(&mut Client) -> Vec<u8>,
    /// The stream whose end is looked at.
    stream: u32,
    /// What is seen directly, behind `h2` and behind the switch where that is not all one, and why.
    pub(crate) differs: Option<([Effect; 3], &'static str)>,
}

const fn same(name: &'static str, stream: u32, frames: fn(&mut Client) -> Vec<u8>) -> Probe {
    Probe { name, frames, stream, differs: None }
}

const fn differs(
    name: &'static str,
    stream: u32,
    seen: [Effect; 3],
    why: &'static str,
    frames: fn(&mut Client) -> Vec<u8>,
) -> Probe {
    Probe { name, frames, stream, differs: Some((seen, why)) }
}

/// The `h2` crate has one code for whatever it cannot parse; the switch has the RFC's.
const CODE: &str = "the crate says PROTOCOL_ERROR for all that it cannot parse";
const fn code(code: u32) -> [Effect; 3] {
    [Effect::Closed(Some(1)), Effect::Closed(Some(1)), Effect::Closed(Some(code))]
}

/// The crate ends the connection where the RFC asks for the stream.
const STREAM: &str = "the crate ends the connection, where a stream error will do";
const STREAM_ALONE: [Effect; 3] =
    [Effect::Closed(Some(1)), Effect::Closed(Some(1)), Effect::Reset(1)];

const HEAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Any"), (":authority", "echo")];

/// A request on stream 5 with these fields after the usual ones.
fn with(client: &mut Client, fields: &[(&str, &str)]) -> Vec<u8> {
    request(client, &[&HEAD, fields].concat())
}

/// A request on stream 5 with these fields alone.
fn request(client: &mut Client, fields: &[(&str, &str)]) -> Vec<u8> {
    let block = client.encode(fields);
    frame(HEADERS, END_STREAM | END_HEADERS, 5, &block)
}

pub(crate) const PROBES: &[Probe] = &[
    // What must be ignored, or is allowed.
    same("unknown frame type", 5, |_| frame(0x42, 0xff, 3, &[1, 2, 3])),
    same("unknown setting", 5, |_| frame(SETTINGS, 0, 0, &[0x42, 0x42, 0, 0, 0, 1])),
    same("PRIORITY on an idle stream", 5, |_| frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1])),
    same("WINDOW_UPDATE on a closed stream", 5, |_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    same("RST_STREAM on a closed stream", 5, |_| frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
    // Sections 4 and 6: shape.
    differs("PING of 7 octets", 5, code(6), CODE, |_| frame(PING, 0, 0, &[0; 7])),
    same("PING on a stream", 5, |_| frame(PING, 0, 3, &[0; 8])),
    differs("SETTINGS of 5 octets", 5, code(6), CODE, |_| frame(SETTINGS, 0, 0, &[0; 5])),
    same("SETTINGS on a stream", 5, |_| frame(SETTINGS, 0, 3, &[])),
    differs("SETTINGS ACK with a payload", 5, code(6), CODE, |_| frame(SETTINGS, 1, 0, &[0; 6])),
    same("ENABLE_PUSH of 2", 5, |_| frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2])),
    differs("INITIAL_WINDOW_SIZE of 2^31", 5, code(3), CODE, |_| {
        frame(SETTINGS, 0, 0, &[0, 4, 128, 0, 0, 0])
    }),
    same("MAX_FRAME_SIZE of 1", 5, |_| frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
    differs("RST_STREAM of 3 octets", 5, code(6), CODE, |_| frame(RST_STREAM, 0, 3, &[0; 3])),
    same("RST_STREAM on stream 0", 5, |_| frame(RST_STREAM, 0, 0, &[0; 4])),
    same("RST_STREAM on an idle stream", 5, |_| frame(RST_STREAM, 0, 9, &[0; 4])),
    same("WINDOW_UPDATE of 0 for the connection", 5, |_| frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
    differs("WINDOW_UPDATE of 0 for a stream", 3, STREAM_ALONE, STREAM, |_| {
        frame(WINDOW_UPDATE, 0, 3, &[0; 4])
    }),
    differs("WINDOW_UPDATE of 3 octets", 5, code(6), CODE, |_| frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
    same("WINDOW_UPDATE on an idle stream", 5, |_| frame(WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1])),
    same("connection window above 2^31 - 1", 5, |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])
    }),
    same("stream window above 2^31 - 1", 3, |_| frame(WINDOW_UPDATE, 0, 3, &[0x7f, 255, 255, 255])),
    same("DATA on stream 0", 5, |_| frame(DATA, 0, 0, &[1])),
    same("DATA on an idle stream", 5, |_| frame(DATA, 0, 9, &[1])),
    same("DATA with padding longer than itself", 5, |_| frame(DATA, PADDED, 3, &[9, 1, 2])),
    same("a frame of 16385 octets", 5, |_| frame(DATA, 0, 3, &[0; 16_385])),
    same("CONTINUATION out of nowhere", 5, |_| frame(CONTINUATION, END_HEADERS, 3, &[0x82])),
    same("a frame within a header block", 5, |client| {
        let block = client.encode(&HEAD);
        [frame(HEADERS, END_STREAM, 5, &block), frame(PING, 0, 0, &[0; 8])].concat()
    }),
    same("PUSH_PROMISE", 5, |_| frame(PUSH_PROMISE, END_HEADERS, 3, &[0, 0, 0, 2, 0x82])),
    same("HEADERS on stream 0", 5, |client| {
        let block = client.encode(&HEAD);
        frame(HEADERS, END_STREAM | END_HEADERS, 0, &block)
    }),
    same("HEADERS on an even stream", 5, |client| {
        let block = client.encode(&HEAD);
        frame(HEADERS, END_STREAM | END_HEADERS, 6, &block)
    }),
    // RFC 7541.
    differs("a block with an unknown index", 5, code(9), CODE, |_| {
        frame(HEADERS, END_STREAM | END_HEADERS, 5, &[0xff, 0x80, 0x01])
    }),
    differs("a block that is cut off", 5, code(9), CODE, |_| {
        frame(HEADERS, END_STREAM | END_HEADERS, 5, &[0x82, 0x86, 0x84, 0x41, 0x05, b'a'])
    }),
    differs("a table size above the limit", 5, code(9), CODE, |_| {
        frame(HEADERS, END_STREAM | END_HEADERS, 5, &[0x3f, 0xe1, 0xff, 0x03, 0x82, 0x86, 0x84])
    }),
    // Section 8: messages.
    differs("a name in upper case", 5, STREAM_ALONE, STREAM, |client| {
        with(client, &[("X-Any", "1")])
    }),
    same("connection: close", 5, |client| with(client, &[("connection", "close")])),
    same("te: gzip", 5, |client| with(client, &[("te", "gzip")])),
    same("no :path", 5, |client| request(client, &[HEAD[0], HEAD[1], HEAD[3]])),
    same("no :method", 5, |client| request(client, &HEAD[1..])),
    same("an empty :path", 5, |client| {
        request(client, &[HEAD[0], HEAD[1], (":path", ""), HEAD[3]])
    }),
    same(":method twice", 5, |client| request(client, &[&HEAD[..1], &HEAD].concat())),
    same("a pseudo-header after others", 5, |client| {
        request(client, &[HEAD[0], HEAD[1], ("x-any", "1"), HEAD[2], HEAD[3]])
    }),
    differs("an unknown pseudo-header", 5, STREAM_ALONE, STREAM, |client| {
        request(client, &[&HEAD[..], &[(":any", "1")]].concat())
    }),
    same(":status in a request", 5, |client| {
        request(client, &[&HEAD[..], &[(":status", "200")]].concat())
    }),
    same("less DATA than content-length", 5, |client| with(client, &[("content-length", "5")])),
    same("more DATA than content-length", 5, |client| {
        let block = client.encode(&[&HEAD[..], &[("content-length", "1")]].concat());
        [frame(HEADERS, END_HEADERS, 5, &block), frame(DATA, END_STREAM, 5, b"more")].concat()
    }),
    same("trailers without END_STREAM", 3, |client| {
        let block = client.encode(&[("x-last", "1")]);
        frame(HEADERS, END_HEADERS, 3, &block)
    }),
    differs(
        "a pseudo-header in trailers",
        3,
        [Effect::Answered(200), Effect::Answered(200), Effect::Reset(1)],
        "RFC 9113 section 8.1: malformed, and the crate does not look",
        |client| {
            let block = client.encode(&[(":path", "/")]);
            frame(HEADERS, END_STREAM | END_HEADERS, 3, &block)
        },
    ),
];

/// Does it on a new connection.
pub(crate) async fn effect(address: SocketAddr, probe: &Probe) -> Effect {
    let mut client = Client::connect(address).await;
    let block = client.encode(&HEAD);
    client.say(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block)).await;
    client.wait_for(&[1]).await;
    let block = client.encode(&HEAD);
    client.say(&frame(HEADERS, END_HEADERS, 3, &block)).await;
    let octets = (probe.frames)(&mut client);
    client.say(&octets).await;
    client.wait_for_effects().await;
    if client.closed || client.go_away.is_some_and(|code| code != 0) {
        return Effect::Closed(client.go_away);
    }
    let seen = client.seen.get(&probe.stream).cloned().unwrap_or_default();
    if let Some(code) = seen.reset {
        return Effect::Reset(code);
    }
    if let Some(head) = seen.head {
        let status = head.iter().find(|(name, _)| name == ":status").map(|it| it.1.parse());
        return Effect::Answered(status.and_then(Result::ok).unwrap_or(0));
    }
    let block = client.encode(&HEAD);
    client.say(&frame(HEADERS, END_STREAM | END_HEADERS, 11, &block)).await;
    client.wait_for(&[11]).await;
    assert!(client.seen.get(&11).is_some_and(|seen| seen.end), "{}: is dead", probe.name);
    Effect::Nothing
}
