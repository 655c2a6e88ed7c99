//! What was sent to an endpoint that may turn out not to have acted on it.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;

/// Octets of a request body that are kept for another endpoint. Calls whose body is larger when
/// the endpoint refuses them are not replayed.
const LIMIT_OCTETS: usize = 64 * 1024;

/// A request body as far as it has been read, kept until the response begins.
///
/// The chunks are the received buffers themselves, so that keeping them copies nothing.
#[derive(Debug, Default)]
pub(super) struct Replay {
    chunks: VecDeque<Bytes>,
    octets: usize,
    /// The request has ended, with these trailers.
    end: Option<Option<HeaderMap>>,
    abandoned: bool,
}

impl Replay {
    pub(super) fn keep(&mut self, chunk: &Bytes) {
        if self.abandoned {
            return;
        }
        self.octets += chunk.len();
        if self.octets > LIMIT_OCTETS {
            self.abandon();
        } else {
            self.chunks.push_back(chunk.clone());
        }
    }

    pub(super) fn keep_end(&mut self, trailers: Option<&HeaderMap>) {
        if !self.abandoned {
            self.end = Some(trailers.cloned());
        }
    }

    /// The response has begun, or too much was sent: keep no more.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.chunks = VecDeque::new();
        self.end = None;
    }

    /// Everything read so far is at hand.
    pub(super) fn possible(&self) -> bool {
        !self.abandoned
    }

    /// The chunks in order, and whether and how the request has ended.
    pub(super) fn contents(&self) -> (VecDeque<Bytes>, Option<Option<HeaderMap>>) {
        (self.chunks.clone(), self.end.clone())
    }
}

#[cfg(test)]
mod tests {
    //! Aim: a replay is whole or impossible, never partial.

    use bytes::Bytes;

    use super::{LIMIT_OCTETS, Replay};

    #[test]
    fn body_up_to_the_limit_is_kept_whole() {
        let mut replay = Replay::default();
        replay.keep(&Bytes::from(vec![1; LIMIT_OCTETS - 1]));
        replay.keep(&Bytes::from_static(b"x"));
        replay.keep_end(None);
        assert!(replay.possible());
        let (chunks, end) = replay.contents();
        assert_eq!(chunks.iter().map(Bytes::len).sum::<usize>(), LIMIT_OCTETS);
        assert_eq!(end, Some(None));
    }

    #[test]
    fn body_beyond_the_limit_is_not_replayed() {
        let mut replay = Replay::default();
        replay.keep(&Bytes::from(vec![1; LIMIT_OCTETS]));
        replay.keep(&Bytes::from_static(b"x"));
        replay.keep_end(None);
        assert!(!replay.possible());
        assert!(replay.contents().0.is_empty(), "nothing is held for it");
    }
}
