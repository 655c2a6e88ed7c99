//! Streams that ended by RST_STREAM, whose peer may not know yet (RFC 9113 section 5.4.2).

use std::collections::VecDeque;

use super::limits;

/// The last reset streams, at most [`limits::REMEMBERED_RESETS`] of them. Frames that arrive on
/// one are dropped; on a stream that has ended otherwise they are an error.
#[derive(Debug, Default)]
pub(super) struct Resets {
    streams: VecDeque<u32>,
    /// The largest id that was forgotten: what arrives there gets the benefit of the doubt.
    forgotten: u32,
}

impl Resets {
    pub(super) fn remember(&mut self, stream: u32) {
        if self.streams.len() == limits::REMEMBERED_RESETS
            && let Some(oldest) = self.streams.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.streams.push_back(stream);
    }

    /// The stream was reset, as far as is known.
    pub(super) fn contains(&self, stream: u32) -> bool {
        stream <= self.forgotten || self.streams.contains(&stream)
    }
}
