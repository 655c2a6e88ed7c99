//! What is sent, and what must come of it.

use crate::peer::Fields;

/// A message: head, body, trailers.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) head: Fields,
    pub(crate) body_octets: usize,
    pub(crate) trailers: Option<Fields>,
}

impl Message {
    /// Nothing follows the head.
    pub(crate) fn is_head_alone(&self) -> bool {
        self.body_octets == 0 && self.trailers.is_none()
    }
}

/// How far a message has got, at its sender or at its receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) informational: usize,
    pub(crate) head: bool,
    pub(crate) body_octets: usize,
    pub(crate) end: bool,
}

/// How an endpoint treats a request.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) informational: usize,
    pub(crate) response: Message,
    /// It answers only when it has the whole request.
    pub(crate) patient: bool,
    /// It resets the stream with this code after so many octets of the response's body; with
    /// REFUSED_STREAM before it says anything.
    pub(crate) reset: Option<(u32, usize)>,
}

/// A request on an endpoint.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) connection: usize,
    pub(crate) stream: u32,
    pub(crate) heard: Progress,
    pub(crate) plan: Plan,
    pub(crate) sent: Progress,
    /// The endpoint has said that it did not act on it: it may be sent to another one.
    pub(crate) declined: bool,
    /// The endpoint reset it with this code.
    pub(crate) reset: Option<u32>,
    /// The endpoint's connection was closed; what it said last may never have been read.
    pub(crate) lost: bool,
}

/// How a call ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// A whole response, of an endpoint or of the switch.
    Response {
        own: bool,
    },
    Reset(u32),
    /// The endpoint was lost on the way, and trailers said so.
    Broken,
    /// The client did not wait.
    Abandoned,
    /// The connection was closed, or is draining and did not take it.
    Untaken,
}

/// A request and all that came of it.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) connection: usize,
    pub(crate) stream: u32,
    pub(crate) request: Message,
    pub(crate) sent: Progress,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) heard: Progress,
    /// The response that is coming was made by the switch.
    pub(crate) own: bool,
    /// The switch had no room for it.
    pub(crate) refused: bool,
    /// It had lived long enough.
    pub(crate) expired: bool,
    pub(crate) done: Option<Done>,
}

impl Call {
    /// The one whose endpoint has not declined it, or else the last one.
    pub(crate) fn attempt(&self) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|it| !it.declined).or(self.attempts.last())
    }
}

impl Attempt {
    /// It will not come to a good end on this endpoint.
    pub(crate) fn is_broken(&self) -> bool {
        self.declined || self.reset.is_some() || self.lost
    }
}

/// The octet at this place of a body.
pub(crate) fn octet(call: usize, response: bool, place: usize) -> u8 {
    (call * 31 + usize::from(response) * 101 + place + place / 251) as u8
}

/// A piece of a body.
pub(crate) fn body(call: usize, response: bool, from: usize, octets: usize) -> Vec<u8> {
    (from..from + octets).map(|place| octet(call, response, place)).collect()
}

/// A head or trailers with a number in it by which they are known.
pub(crate) fn fields(
    base: &[(&str, &str)],
    call: usize,
    rng: &mut fastrand::Rng,
    may_be_large: bool,
) -> Fields {
    let mut fields: Fields =
        base.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    fields.push(("x-call".to_owned(), call.to_string()));
    for _ in 0..rng.usize(..4) {
        let length = match rng.u8(..50) {
            0 if may_be_large => rng.usize(..20_000),
            1..=9 => rng.usize(..400),
            _ => rng.usize(..12),
        };
        let value = (0..length).map(|_| rng.alphanumeric()).collect();
        fields.push((format!("x-{}", rng.u8(..20)), value));
    }
    fields
}

/// The call that a header list belongs to. None: the switch wrote it.
pub(crate) fn number(fields: &Fields) -> Option<usize> {
    let (_, value) = fields.iter().find(|(name, _)| name == "x-call")?;
    value.parse().ok()
}
