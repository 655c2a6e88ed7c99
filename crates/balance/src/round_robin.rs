//! `rr` and `wrr`: by turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Target;
use crate::choice::Search;
use crate::least::LOOKS;
use crate::sequence::Sequence;
use crate::shares::next_untried;

/// Gives turns in the order of a [`Sequence`].
///
/// The count of turns is shared by all workers and outlives the generation; each pick takes one.
/// `fetch_add` hands out every number once, in whatever memory order, so any N turns taken one
/// after the other are N neighbours in the sequence: over k equal candidates their counts differ
/// by at most 1, no matter which threads took them.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    sequence: Sequence,
    /// What is added to the count of turns: random at first, so that nodes do not start at the
    /// same endpoint; then such that the next generation goes on where the last one stood.
    offset: u64,
}

/// How the generation before took its turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predecessor<'a> {
    pub(crate) scheduler: &'a RoundRobin,
    pub(crate) candidates: &'a [Arc<Target>],
}

/// How many endpoints may vanish at once, next in turn one after the other, before the rotation
/// starts at a new random place in place of going on. Bounds the search; that many vanish when a
/// Service is replaced as a whole, and then there is no order to go on with.
const VANISHED_LIMIT: u64 = 16;

impl RoundRobin {
    /// `start` is any number; it decides where a rotation without predecessor begins.
    pub(crate) fn new(
        sequence: Sequence,
        candidates: &[Arc<Target>],
        turns: &AtomicU64,
        predecessor: Option<Predecessor<'_>>,
        start: u64,
    ) -> Self {
        let len = sequence.len().max(1);
        let turn = turns.load(Ordering::Relaxed);
        let resumed = predecessor
            .and_then(|predecessor| predecessor.next_that_stays(turn, candidates))
            .and_then(|candidate| sequence.turn_of(candidate));
        // Chosen such that (turn + offset) modulo the length is the place to go on at.
        let offset = resumed.unwrap_or(start % len) + (len - turn % len);
        Self { sequence, offset }
    }

    pub(crate) fn pick(
        &self,
        candidates: &[Arc<Target>],
        turns: &AtomicU64,
        search: &Search<'_>,
    ) -> Option<usize> {
        // A turn that falls to an endpoint tried already, or an ejected one, is spent and the next
        // one taken: the others keep their order. Alone, a thread meets each tried one at most once
        // in a plain rotation; where weights or other threads let it meet more, the neighbour steps
        // in. Of ejected and of new ones there may be many in a row.
        let others = if search.passes_over() { LOOKS } else { 0 };
        let mut index = 0;
        for _ in 0..=search.tried.len().min(candidates.len()) + others {
            let turn = turns.fetch_add(1, Ordering::Relaxed);
            index = self.sequence.at(turn.wrapping_add(self.offset));
            if search.may_use(&candidates[index]) {
                return Some(index);
            }
        }
        next_untried(candidates, index, search)
    }
}

impl Predecessor<'_> {
    /// The first endpoint in the old order, from the next turn on, that is among the new ones.
    fn next_that_stays(&self, turn: u64, candidates: &[Arc<Target>]) -> Option<usize> {
        let Self { scheduler, candidates: old } = *self;
        if old.is_empty() {
            return None;
        }
        (0..scheduler.sequence.len().min(VANISHED_LIMIT)).find_map(|ahead| {
            let turn = turn.wrapping_add(ahead).wrapping_add(scheduler.offset);
            let address = old[scheduler.sequence.at(turn)].address();
            candidates.iter().position(|candidate| candidate.address() == address)
        })
    }
}

#[cfg(test)]
mod tests;
