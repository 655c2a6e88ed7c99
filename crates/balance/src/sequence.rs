//! In which order turns go round the candidates.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::Target;
use crate::shares::Shares;

/// An endless sequence of candidates that repeats after [`Sequence::len`] turns and in each such
/// cycle gives every candidate exactly its weight (reduced by their greatest common divisor).
///
/// It is a pure function of the turn, so that all workers share one atomic counter and nothing
/// else: exact over threads and O(1).
#[derive(Debug)]
pub(crate) enum Sequence {
    /// Equal weights: one after the other.
    Plain(u64),
    /// The cycle, written out: no candidate is ever a whole turn behind or ahead of its share.
    Cycle(Box<[u16]>),
    /// Cycles too long to write out: turn `t` takes slot `t * step` of [`Shares`]. `step` has no
    /// common divisor with the length, so a cycle hits each slot once; it lies near the golden
    /// section of the length, which spreads any run of turns evenly: a candidate is a few turns
    /// behind or ahead of its share at most.
    Stride {
        /// Reduced weights.
        shares: Shares,
        /// See above.
        step: u64,
    },
}

/// The longest cycle that is written out: 8 KiB. Weights such as 100 : 50 : 10 make cycles of
/// tens of turns; only weights without a common divisor get here.
const LONGEST_CYCLE: u64 = 4096;

impl Sequence {
    /// Of candidates with equal rights, whatever their weights.
    pub(crate) fn plain(candidates: &[Arc<Target>]) -> Self {
        Self::Plain(candidates.len() as u64)
    }

    /// Of candidates by weight.
    pub(crate) fn weighted(candidates: &[Arc<Target>]) -> Self {
        let weights: Vec<u64> = candidates.iter().map(|target| target.share()).collect();
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
        if weights.iter().all(|weight| *weight == divisor) {
            return Self::plain(candidates);
        }
        let weights: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
        let total = weights.iter().sum();
        if total <= LONGEST_CYCLE {
            return Self::Cycle(even_cycle(&weights, total));
        }
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += weight;
            end
        });
        Self::Stride { shares: Shares::Weighted(ends.collect()), step: golden_step(total) }
    }

    /// Turns in a cycle.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Plain(len) => *len,
            Self::Cycle(cycle) => cycle.len() as u64,
            Self::Stride { shares, .. } => shares.total(),
        }
    }

    /// Whose turn it is. There must be a candidate.
    pub(crate) fn at(&self, turn: u64) -> usize {
        match self {
            Self::Plain(len) => (turn % len) as usize,
            Self::Cycle(cycle) => usize::from(cycle[(turn % cycle.len() as u64) as usize]),
            Self::Stride { shares, step } => {
                let total = u128::from(shares.total());
                let slot = u128::from(turn) % total * u128::from(*step) % total;
                shares.owner(slot as u64)
            }
        }
    }

    /// A turn of the candidate within the first cycle; none where it would have to be searched.
    pub(crate) fn turn_of(&self, candidate: usize) -> Option<u64> {
        match self {
            Self::Plain(_) => Some(candidate as u64),
            Self::Cycle(cycle) => {
                let turn = cycle.iter().position(|index| usize::from(*index) == candidate)?;
                Some(turn as u64)
            }
            Self::Stride { .. } => None,
        }
    }
}

/// Spreads the turns of each candidate so evenly over the cycle that after any number of turns `n`
/// it had more than `n * weight / total - 1` and less than `n * weight / total + 1` of them.
///
/// The `j`-th turn of a candidate may start at `(j - 1) * total / weight` and must be over by
/// `j * total / weight`, rounded down and up. Serving the earliest end first keeps all of these
/// windows: proportionate fairness on one processor (Baruah, Cohen, Plaxton, Varvel 1996; before
/// as Tijdeman's chairman assignment). O(total * log candidates).
fn even_cycle(weights: &[u64], total: u64) -> Box<[u16]> {
    let start = |index: usize, served: u64| served * total / weights[index];
    let end = |index: usize, served: u64| ((served + 1) * total).div_ceil(weights[index]);
    let mut served = vec![0; weights.len()];
    let mut waiting: BinaryHeap<_> = (0..weights.len()).map(|i| Reverse((0, i))).collect();
    let mut ready = BinaryHeap::with_capacity(weights.len());
    let next = |turn| {
        while let Some(&Reverse((from, index))) = waiting.peek()
            && from <= turn
        {
            waiting.pop();
            ready.push(Reverse((end(index, served[index]), index)));
        }
        let Reverse((_, index)) = ready.pop().expect("turns + 1 windows have started by now");
        served[index] += 1;
        if served[index] < weights[index] {
            waiting.push(Reverse((start(index, served[index]), index)));
        }
        u16::try_from(index).expect("no more candidates than turns in the cycle")
    };
    (0..total).map(next).collect()
}

/// The best step near the golden section of `total`: no common divisor with it, so that every slot
/// is hit, and small partial quotients in the continued fraction of `step / total`, which is what
/// makes multiples of a number spread evenly (the golden section itself has nothing but ones).
fn golden_step(total: u64) -> u64 {
    let golden = (total as f64 * 0.618_033_988_749_894_9) as u64;
    (golden.max(1)..total)
        .take(STEPS_WEIGHED)
        .filter_map(|step| Some((largest_quotient(total, step)?, step)))
        .min()
        .map_or(1, |(_, step)| step)
}

/// Of so many neighbours the best had no quotient above 11 in some ten thousand totals tried.
const STEPS_WEIGHED: usize = 256;

/// The largest of Euclid's quotients of two numbers; none if they have a common divisor.
fn largest_quotient(mut a: u64, mut b: u64) -> Option<u64> {
    let mut largest = 0;
    while b > 0 {
        largest = largest.max(a / b);
        (a, b) = (b, a % b);
    }
    (a == 1).then_some(largest)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests;
