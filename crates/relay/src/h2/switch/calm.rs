//! What a peer may do that costs it nothing and us something.
//!
//! One allowance for each connection. Frames without use take from it; time and traffic give back.
//! A peer that has used it up is told ENHANCE_YOUR_CALM and closed (RFC 9113 section 10.5).

use std::time::Instant;

/// Allowance of a new connection, and the most there can be: 1024 streams, each cancelled and each
/// having had its windows opened, twice over.
const MOST: u32 = 16_384;

/// Given back for each second. A peer may keep this up forever: a thousand small frames a second
/// cost about a thousandth of a core.
const PER_SECOND: u32 = 1024;

/// Given back for each frame with a header block or with data that we have sent to the peer: each
/// may be answered by two WINDOW_UPDATEs and one PING, which is what gRPC clients do at worst.
const PER_FRAME: u32 = 4;

/// What a frame costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// WINDOW_UPDATE, PRIORITY, or of an unknown type.
    Small = 1,
    /// PING, which we answer.
    Ping = 2,
    /// SETTINGS, which we answer and which may touch every stream, DATA without data, and
    /// CONTINUATION without octets.
    Empty = 8,
    /// A stream that a client has reset before its answer was whole, or that we had to refuse or
    /// reset: a request was decoded, an endpoint picked and told twice (CVE-2023-44487,
    /// CVE-2025-8671). 1024 streams may be cancelled at once, and 64 a second from then on.
    Reset = 16,
}

/// What is left of a peer's allowance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calm {
    left: u32,
    since: Instant,
}

impl Calm {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// Takes from the allowance. False: there is nothing left.
    #[must_use]
    pub(super) fn take(&mut self, cost: Cost, now: Instant) -> bool {
        let cost = cost as u32;
        if self.left < cost {
            self.refill(now);
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// The peer was sent something worth answering.
    pub(super) fn earn(&mut self) {
        self.left = (self.left + PER_FRAME).min(MOST);
    }

    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let earned = (seconds * f64::from(PER_SECOND)).min(f64::from(MOST)) as u32;
        if earned > 0 {
            self.left = (self.left + earned).min(MOST);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    //! Aim: what legitimate peers do at worst passes, and a flood ends.

    use std::time::{Duration, Instant};

    use super::{Calm, Cost, MOST};

    #[test]
    fn every_stream_may_be_cancelled_at_once_but_not_again_and_again() {
        let now = Instant::now();
        let mut calm = Calm::new(now);
        assert!((0..1024).all(|_| calm.take(Cost::Reset, now)));
        assert!(!calm.take(Cost::Reset, now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1024).filter(|_| calm.take(Cost::Reset, later)).count(), 64);
    }

    #[test]
    fn updates_for_what_was_sent_go_on_forever() {
        let now = Instant::now();
        let mut calm = Calm::new(now);
        for _ in 0..10 * MOST {
            calm.earn();
            let frames = [Cost::Small, Cost::Small, Cost::Ping];
            assert!(frames.into_iter().all(|cost| calm.take(cost, now)));
        }
    }

    #[test]
    fn a_pause_gives_back_no_more_than_the_most() {
        let now = Instant::now();
        let mut calm = Calm::new(now);
        while calm.take(Cost::Empty, now) {}
        let later = now + Duration::from_secs(1_000_000);
        assert_eq!((0..MOST).filter(|_| calm.take(Cost::Empty, later)).count() as u32, MOST / 8);
    }
}
