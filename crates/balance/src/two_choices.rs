//! `twos`: the better of two drawn by chance.

use std::sync::Arc;

use crate::Target;
use crate::choice::Search;
use crate::least::{Cost, compare};
use crate::shares::Shares;

/// Draws two different candidates by weight and takes the one with less outstanding for its
/// weight; the first where they are even.
///
/// Nearly as even as looking at all (Mitzenmacher 2001: the fullest of n is O(log log n) above the
/// mean), at two looks whatever the size, and without the herd: nodes that see the same idle
/// endpoint do not all run there. The kernel may draw the same server twice; then, of two servers,
/// the busier one still gets a quarter. Here it gets none.
#[derive(Debug)]
pub(crate) struct TwoChoices {
    shares: Shares,
}

impl TwoChoices {
    pub(crate) fn new(candidates: &[Arc<Target>]) -> Self {
        Self { shares: Shares::new(candidates) }
    }

    pub(crate) fn pick(
        &self,
        candidates: &[Arc<Target>],
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let (first, second) = if search.may_use_all() {
            let first = self.shares.draw(rng);
            let second = (candidates.len() > 1).then(|| self.shares.draw_other(first, rng));
            (first, second)
        } else {
            let first = self.shares.draw_allowed(candidates, None, search, rng)?;
            (first, self.shares.draw_allowed(candidates, Some(first), search, rng))
        };
        let cost = |index: usize| Cost::PerWeight.for_search(&candidates[index], search);
        match second {
            Some(second) if compare(cost(second), cost(first)).is_lt() => Some(second),
            _ => Some(first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Unit;
    use crate::testing::{hold, search, targets};

    fn counts(weights: &[u16], outstanding: &[usize], picks: usize) -> Vec<usize> {
        let candidates = targets(weights);
        let _held: Vec<_> = candidates
            .iter()
            .zip(outstanding)
            .map(|(target, count)| hold(target, *count, Unit::Stream))
            .collect();
        let scheduler = TwoChoices::new(&candidates);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            let index = scheduler.pick(&candidates, &search(&[]), &mut rng);
            counts[index.expect("there are candidates")] += 1;
        }
        counts
    }

    #[test]
    fn the_busiest_gets_nothing() {
        let counts = counts(&[1, 1, 1, 1], &[0, 3, 1, 2], 1000);
        assert_eq!(counts[1], 0);
        assert!(counts[0] > counts[2] && counts[2] > counts[3] && counts[3] > 0, "{counts:?}");
    }

    #[test]
    fn of_two_the_busier_gets_nothing() {
        assert_eq!(counts(&[1, 1], &[2, 1], 100), [0, 100]);
    }

    #[test]
    fn load_counts_for_its_weight() {
        assert_eq!(counts(&[10, 1], &[9, 1], 100), [100, 0]);
        assert_eq!(counts(&[10, 1], &[11, 1], 100), [0, 100]);
    }

    #[test]
    fn idle_candidates_share_by_weight() {
        // The first drawn wins: 3 of 5, within 4 sigma of 1000 draws (15.5).
        let counts = counts(&[3, 1, 1], &[0, 0, 0], 1000);
        assert!(counts[0].abs_diff(600) <= 62, "{counts:?}");
    }

    #[test]
    fn a_second_try_avoids_the_first() {
        let candidates = targets(&[1, 1, 1]);
        let scheduler = TwoChoices::new(&candidates);
        let mut rng = fastrand::Rng::with_seed(7);
        let tried = [candidates[0].address(), candidates[2].address()];
        for _ in 0..50 {
            assert_eq!(scheduler.pick(&candidates, &search(&tried), &mut rng), Some(1));
        }
        let all: Vec<_> = candidates.iter().map(|target| target.address()).collect();
        assert_eq!(scheduler.pick(&candidates, &search(&all), &mut rng), None);
    }
}
