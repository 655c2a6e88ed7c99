//! How far the current frame of a connection has been read.

use std::time::Instant;

use super::frame::{HEAD_OCTETS, Head};
use super::{ExchangeKey, limits};

/// What the next octets are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// The rest of the preface, after this many octets of it.
    Preface(usize),
    /// A frame's head; `held` has its first octets.
    Head,
    /// A payload that is looked at whole; `held` has its first octets.
    Payload(Head),
    /// The length of the padding of a DATA frame with this many octets after it.
    PadLength(Data, usize),
    /// Octets of DATA, which go on as they come.
    Data(Data),
    /// What nobody wants: padding and frames of unknown types.
    Skip(usize),
}

/// The rest of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// Whose. It may be gone by the time that the octets come. None: it was gone at the start.
    pub(super) exchange: Option<ExchangeKey>,
    pub(super) stream: u32,
    /// Octets of data to come.
    pub(super) left: usize,
    /// Octets of padding after them.
    pub(super) padding: usize,
    /// The last of them ends the stream.
    pub(super) end: bool,
}

/// A header block that has not come whole.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) stream: u32,
    pub(super) end: bool,
    pub(super) self_dependent: bool,
    pub(super) octets: Vec<u8>,
    pub(super) frame_count: u32,
    /// When it began.
    pub(super) since: Instant,
}

/// The receiving half of a connection between two reads.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) stage: Stage,
    /// Octets of a head or payload that has not come whole. At most one payload.
    pub(super) held: Vec<u8>,
    /// Only CONTINUATION may follow while this is there (RFC 9113 section 6.10).
    pub(super) partial: Option<Box<Partial>>,
    /// Frames whose heads have come, to tell one from the next. This, and the next two, are narrow
    /// as each idle connection has them.
    frame_count: u32,
    /// The one that was under way when somebody looked.
    under_way: u32,
    /// Since when it has been seen to be, in the unit of who looks. [`NOT_UNDER_WAY`]: none is.
    since: u32,
}

const NOT_UNDER_WAY: u32 = u32::MAX;

impl Inbound {
    pub(super) fn new(preface: bool) -> Self {
        Self {
            stage: if preface { Stage::Preface(0) } else { Stage::Head },
            held: Vec::new(),
            partial: None,
            frame_count: 0,
            under_way: 0,
            since: NOT_UNDER_WAY,
        }
    }

    /// Takes a frame's head from `bytes`, as far as it is there. Says how many octets it took.
    pub(super) fn take_head(&mut self, bytes: &[u8]) -> (usize, Option<Head>) {
        if self.held.is_empty()
            && let Some(octets) = bytes.first_chunk::<HEAD_OCTETS>()
        {
            self.frame_count = self.frame_count.wrapping_add(1);
            return (HEAD_OCTETS, Some(Head::parse(octets)));
        }
        let taken = bytes.len().min(HEAD_OCTETS - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        let head = self.held.first_chunk::<HEAD_OCTETS>().map(Head::parse);
        if head.is_some() {
            self.frame_count = self.frame_count.wrapping_add(1);
            self.held.clear();
        }
        (taken, head)
    }

    /// For how long the same frame has been seen to be under way that is kept until it is whole. DATA
    /// is not, for it goes on as it comes. To be asked again and again, with a time that counts up.
    pub(super) fn waits(&mut self, now: u32) -> u32 {
        let is_kept = match self.stage {
            Stage::Payload(_) | Stage::PadLength(..) => true,
            Stage::Head => !self.held.is_empty(),
            Stage::Preface(_) | Stage::Data(_) | Stage::Skip(_) => false,
        };
        if !is_kept {
            self.since = NOT_UNDER_WAY;
        } else if self.since == NOT_UNDER_WAY || self.under_way != self.frame_count {
            (self.under_way, self.since) = (self.frame_count, now);
        }
        now.saturating_sub(self.since)
    }

    /// What is under way waits for us, and not for its sender.
    pub(super) fn excuse(&mut self) {
        self.since = NOT_UNDER_WAY;
    }

    /// Gives up what is not needed between frames.
    pub(super) fn shrink(&mut self) {
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }
}

impl Partial {
    /// Adds what the next frame has. False: the block is longer, or cut into more frames, than
    /// anybody needs.
    #[must_use]
    pub(super) fn add(&mut self, fragment: &[u8]) -> bool {
        self.frame_count += 1;
        self.octets.extend_from_slice(fragment);
        self.octets.len() <= limits::BLOCK_OCTETS && self.frame_count <= limits::CONTINUATION_COUNT
    }
}
