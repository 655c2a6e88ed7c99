//! `fo` and `ovf`: the first in order of preference that will do.

use std::sync::Arc;

use crate::Target;
use crate::choice::Search;
use crate::least::{Cost, Least};

/// `fo`: the candidate of highest weight, the next one only for a unit it failed.
///
/// Candidates stand in order of preference: weight falling, then by address, so that all nodes
/// mean the same endpoint by "first". With equal weights that is one endpoint for everything.
pub(crate) fn first(candidates: &[Arc<Target>], search: &Search<'_>) -> Option<usize> {
    candidates.iter().position(|target| search.may_use(target))
}

/// `ovf`: the candidate of highest weight that has fewer units outstanding than its weight.
///
/// Where the kernel refuses because all are full, the one with least for its weight is taken: a
/// weight is a share here, not a limit anyone asked to be enforced.
///
/// Looks at candidates in order until one has room, so a Service that is nearly full costs a look
/// at each.
#[derive(Debug)]
pub(crate) struct Overflow {
    when_full: Least,
}

impl Overflow {
    pub(crate) fn new(candidates: &[Arc<Target>]) -> Self {
        Self { when_full: Least::new(Cost::PerWeight, candidates) }
    }

    pub(crate) fn pick(
        &self,
        candidates: &[Arc<Target>],
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let has_room = |target: &Arc<Target>| {
            u64::from(target.outstanding()) < target.share() && search.may_use(target)
        };
        candidates
            .iter()
            .position(has_room)
            .or_else(|| self.when_full.pick(candidates, search, rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Choice;
    use crate::Unit;
    use crate::testing::{hold, search, targets};

    #[test]
    fn failover_takes_the_first_that_was_not_tried() {
        let candidates = targets(&[5, 3, 1]);
        let addresses: Vec<_> = candidates.iter().map(|target| target.address()).collect();
        let _busy = hold(&candidates[0], 100, Unit::Connection);
        for tried in 0..3 {
            assert_eq!(first(&candidates, &search(&addresses[..tried])), Some(tried));
        }
        assert_eq!(first(&candidates, &search(&addresses)), None);
    }

    #[test]
    fn overflow_fills_one_after_the_other_and_then_the_least_loaded() {
        let candidates = targets(&[4, 2, 1]);
        let scheduler = Overflow::new(&candidates);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut held = Vec::new();
        let mut order = Vec::new();
        for _ in 0..14 {
            let index = scheduler.pick(&candidates, &search(&[]), &mut rng).expect("never full");
            held.push(Choice::new(Arc::clone(&candidates[index]), Unit::Stream));
            order.push(index);
        }
        assert_eq!(order[..7], [0, 0, 0, 0, 1, 1, 2]);
        // From there on by outstanding for weight: 4 : 2 : 1 again.
        let more = |index| order[7..].iter().filter(|picked| **picked == index).count();
        assert_eq!([more(0), more(1), more(2)], [4, 2, 1]);

        held.remove(0);
        assert_eq!(scheduler.pick(&candidates, &search(&[]), &mut rng).map(|_| ()), Some(()));
    }

    #[test]
    fn overflow_returns_to_the_preferred_one_when_it_has_room() {
        let candidates = targets(&[2, 1]);
        let scheduler = Overflow::new(&candidates);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut held = hold(&candidates[0], 2, Unit::Stream);
        assert_eq!(scheduler.pick(&candidates, &search(&[]), &mut rng), Some(1));
        held.pop();
        assert_eq!(scheduler.pick(&candidates, &search(&[]), &mut rng), Some(0));
        let tried = [candidates[0].address()];
        assert_eq!(scheduler.pick(&candidates, &search(&tried), &mut rng), Some(1));
    }
}
