//! Drawing candidates by weight.

use std::sync::Arc;

use crate::Target;
use crate::choice::Search;
use crate::least::LOOKS;

/// The weights of the candidates, ready to be drawn from. Equal ones take no memory.
///
/// Think of `total` slots, of which each candidate owns as many as its weight, side by side.
#[derive(Debug)]
pub(crate) enum Shares {
    /// So many candidates with one slot each.
    Equal(usize),
    /// The first slot that is no longer the candidate's, for each candidate; ascending.
    Weighted(Box<[u64]>),
}

impl Shares {
    pub(crate) fn new(candidates: &[Arc<Target>]) -> Self {
        let equal = candidates.windows(2).all(|pair| pair[0].share() == pair[1].share());
        if equal {
            return Self::Equal(candidates.len());
        }
        let mut end = 0;
        let ends = candidates.iter().map(|target| {
            end += target.share();
            end
        });
        Self::Weighted(ends.collect())
    }

    /// At least 1 when there are candidates; below 2^48 for 2^32 of them.
    pub(crate) fn total(&self) -> u64 {
        match self {
            Self::Equal(count) => *count as u64,
            Self::Weighted(ends) => ends.last().copied().unwrap_or(0),
        }
    }

    /// The candidate that owns a slot below `total`.
    pub(crate) fn owner(&self, slot: u64) -> usize {
        match self {
            Self::Equal(_) => slot as usize,
            Self::Weighted(ends) => ends.partition_point(|end| *end <= slot),
        }
    }

    /// A candidate, each as likely as its share. There must be one.
    pub(crate) fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        self.owner(rng.u64(..self.total()))
    }

    /// The same among all but `first`. There must be two.
    pub(crate) fn draw_other(&self, first: usize, rng: &mut fastrand::Rng) -> usize {
        let slots = self.slots_of(first);
        let slot = rng.u64(..self.total() - (slots.end - slots.start));
        self.owner(if slot < slots.start { slot } else { slot + (slots.end - slots.start) })
    }

    /// A candidate that may be used and is not `except`, each as likely as its share. Of many it
    /// draws until one may be used, since mostly few may not; at most [`LOOKS`] times, and looks at
    /// all then.
    pub(crate) fn draw_allowed(
        &self,
        candidates: &[Arc<Target>],
        except: Option<usize>,
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        if candidates.len() > LOOKS {
            for _ in 0..LOOKS {
                let index = self.draw(rng);
                if Some(index) != except && search.may_use(&candidates[index]) {
                    return Some(index);
                }
            }
        }
        draw_untried(candidates, except, search, rng)
    }

    fn slots_of(&self, index: usize) -> std::ops::Range<u64> {
        match self {
            Self::Equal(_) => index as u64..index as u64 + 1,
            Self::Weighted(ends) => {
                let start = index.checked_sub(1).map_or(0, |before| ends[before]);
                start..ends[index]
            }
        }
    }
}

/// A candidate that may be used and is not `except`, each as likely as its share.
///
/// Linear in candidates and tries, which is right for what it is there for: few candidates, of
/// which some are passed over.
fn draw_untried(
    candidates: &[Arc<Target>],
    except: Option<usize>,
    search: &Search<'_>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let eligible = || {
        let all = candidates.iter().enumerate();
        all.filter(|(index, target)| Some(*index) != except && search.may_use(target))
    };
    let total: u64 = eligible().map(|(_, target)| target.share()).sum();
    if total == 0 {
        return None;
    }
    let mut slot = rng.u64(..total);
    for (index, target) in eligible() {
        match slot.checked_sub(target.share()) {
            None => return Some(index),
            Some(rest) => slot = rest,
        }
    }
    None
}

/// The first candidate from `start` on, around the end, that may be used.
pub(crate) fn next_untried(
    candidates: &[Arc<Target>],
    start: usize,
    search: &Search<'_>,
) -> Option<usize> {
    (start..candidates.len())
        .chain(0..start.min(candidates.len()))
        .find(|&index| search.may_use(&candidates[index]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{search, targets};

    proptest! {
        #[test]
        fn every_slot_has_its_owner(weights in prop::collection::vec(1u16..50, 1..20)) {
            let shares = Shares::new(&targets(&weights));
            let mut owned = vec![0u64; weights.len()];
            for slot in 0..shares.total() {
                owned[shares.owner(slot)] += 1;
            }
            // Equal weights are reduced to one slot each.
            let scale = u64::from(weights[0]) / owned[0];
            for (owned, weight) in owned.iter().zip(&weights) {
                prop_assert_eq!(owned * scale, u64::from(*weight));
            }
        }

        #[test]
        fn the_other_is_never_the_first(
            weights in prop::collection::vec(1u16..50, 2..20),
            seed: u64,
        ) {
            let shares = Shares::new(&targets(&weights));
            let mut rng = fastrand::Rng::with_seed(seed);
            for first in 0..weights.len() {
                for _ in 0..20 {
                    let other = shares.draw_other(first, &mut rng);
                    prop_assert!(other != first && other < weights.len());
                }
            }
        }

        #[test]
        fn an_untried_draw_avoids_the_tried_and_the_excepted(
            weights in prop::collection::vec(1u16..50, 1..10),
            tried in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            except: Option<prop::sample::Index>,
            seed: u64,
        ) {
            let candidates = targets(&weights);
            let tried: Vec<_> =
                tried.iter().map(|index| index.get(&candidates).address()).collect();
            let except = except.map(|index| index.index(candidates.len()));
            let mut rng = fastrand::Rng::with_seed(seed);
            let left = (0..candidates.len())
                .filter(|&i| Some(i) != except && !tried.contains(&candidates[i].address()))
                .count();
            match draw_untried(&candidates, except, &search(&tried), &mut rng) {
                None => prop_assert_eq!(left, 0),
                Some(index) => {
                    prop_assert!(Some(index) != except);
                    prop_assert!(!tried.contains(&candidates[index].address()));
                }
            }
        }
    }

    #[test]
    fn the_next_untried_wraps_around_the_end() {
        let candidates = targets(&[1, 1, 1]);
        let tried = [candidates[2].address(), candidates[0].address()];
        assert_eq!(next_untried(&candidates, 2, &search(&tried)), Some(1));
        assert_eq!(next_untried(&candidates, 2, &search(&tried[..1])), Some(0));
        assert_eq!(next_untried(&candidates[..1], 0, &search(&tried)), None);
    }
}
