//! One scheduler, ready to pick.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::choice::Search;
use crate::hash::AddressHash;
use crate::least::{Cost, Least};
use crate::maglev::Maglev;
use crate::overflow::{self, Overflow};
use crate::round_robin::{Predecessor, RoundRobin};
use crate::sequence::Sequence;
use crate::shares::Shares;
use crate::source_hash::SourceHash;
use crate::two_choices::TwoChoices;
use crate::{SchedulerName, Target};

/// A scheduler with what it prepared for one set of candidates. It knows them by index, so it is
/// valid as long as their addresses, weights and order stay; see [`Scheduler::fits`].
#[derive(Debug)]
pub(crate) enum Scheduler {
    /// `rr` and `wrr`.
    RoundRobin(RoundRobin),
    /// `random`.
    Random(Shares),
    /// `lc`, `wlc`, `sed` and `nq`.
    Least(Least),
    /// `twos`.
    TwoChoices(TwoChoices),
    /// `sh`.
    SourceHash(SourceHash),
    /// `mh`.
    Maglev(Maglev),
    /// `fo`.
    Failover,
    /// `ovf`.
    Overflow(Overflow),
}

impl Scheduler {
    /// Prepares. `seed` decides where a rotation begins; `turns` is how far it is.
    pub(crate) fn new(
        name: SchedulerName,
        candidates: &[Arc<Target>],
        turns: &AtomicU64,
        predecessor: Option<(&Self, &[Arc<Target>])>,
        seed: u64,
    ) -> Self {
        let predecessor = predecessor.and_then(|(scheduler, candidates)| match scheduler {
            Self::RoundRobin(scheduler) => Some(Predecessor { scheduler, candidates }),
            _ => None,
        });
        let by_turns = |sequence| {
            Self::RoundRobin(RoundRobin::new(sequence, candidates, turns, predecessor, seed))
        };
        let least = |cost| Self::Least(Least::new(cost, candidates));
        match name {
            SchedulerName::Rr | SchedulerName::Dh | SchedulerName::Lblc | SchedulerName::Lblcr => {
                by_turns(Sequence::plain(candidates))
            }
            SchedulerName::Wrr => by_turns(Sequence::weighted(candidates)),
            SchedulerName::Random => Self::Random(Shares::new(candidates)),
            SchedulerName::Lc => least(Cost::Outstanding),
            SchedulerName::Wlc => least(Cost::PerWeight),
            SchedulerName::Sed => least(Cost::ExpectedDelay),
            SchedulerName::Nq => least(Cost::IdleFirst),
            SchedulerName::Twos => Self::TwoChoices(TwoChoices::new(candidates)),
            SchedulerName::Sh => Self::SourceHash(SourceHash::new(candidates)),
            SchedulerName::Mh => Self::Maglev(Maglev::new(candidates)),
            SchedulerName::Fo => Self::Failover,
            SchedulerName::Ovf => Self::Overflow(Overflow::new(candidates)),
        }
    }

    /// What was prepared for the old candidates serves the new ones, under the same name and seed.
    pub(crate) fn fits(old: &[Arc<Target>], new: &[Arc<Target>]) -> bool {
        let key = |target: &Arc<Target>| (target.address(), target.share());
        old.len() == new.len() && old.iter().map(key).eq(new.iter().map(key))
    }

    /// New candidates may be passed over: who is picked follows neither from the client nor from an
    /// order of preference.
    pub(crate) fn starts_slowly(&self) -> bool {
        match self {
            Self::RoundRobin(_) | Self::Random(_) | Self::Least(_) | Self::TwoChoices(_) => true,
            Self::SourceHash(_) | Self::Maglev(_) | Self::Failover | Self::Overflow(_) => false,
        }
    }

    /// The index of the candidate to use; none if all are passed over. There must be a candidate.
    pub(crate) fn pick(
        &self,
        candidates: &[Arc<Target>],
        turns: &AtomicU64,
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(scheduler) => scheduler.pick(candidates, turns, search),
            Self::Random(shares) if search.may_use_all() => Some(shares.draw(rng)),
            Self::Random(shares) => shares.draw_allowed(candidates, None, search, rng),
            Self::Least(scheduler) => scheduler.pick(candidates, search, rng),
            Self::TwoChoices(scheduler) => scheduler.pick(candidates, search, rng),
            Self::SourceHash(scheduler) => scheduler.pick(candidates, search),
            Self::Maglev(scheduler) => scheduler.pick(candidates, search),
            Self::Failover => overflow::first(candidates, search),
            Self::Overflow(scheduler) => scheduler.pick(candidates, search, rng),
        }
    }
}

/// Puts usable endpoints into the order the scheduler wants and says how many of them, from the
/// first on, are candidates.
///
/// - `sh`, `mh`: by address, so that nodes agree.
/// - `fo`, `ovf`: weight falling, then by address.
/// - all others: shuffled by `seed`, which is the node's own, so that after endpoint A not every
///   node goes to endpoint B. A new endpoint does not move the others against each other.
///
/// Endpoints of weight 0 come last and are no candidates, unless all have weight 0.
pub(crate) fn arrange(usable: &mut [Arc<Target>], name: SchedulerName, seed: u64) -> usize {
    let weight = |target: &Arc<Target>| target.endpoint().weight;
    let address = |target: &Arc<Target>| -> SocketAddr { target.address() };
    match name {
        SchedulerName::Sh | SchedulerName::Mh => {
            usable.sort_by_key(|target| (weight(target) == 0, address(target)));
        }
        SchedulerName::Fo | SchedulerName::Ovf => {
            usable.sort_by_key(|target| (std::cmp::Reverse(weight(target)), address(target)));
        }
        _ => {
            let shuffle = AddressHash::new(seed, SHUFFLE);
            usable.sort_by_cached_key(|target| {
                let address = address(target);
                (weight(target) == 0, shuffle.of(address.ip(), address.port()), address)
            });
        }
    }
    match usable.iter().take_while(|target| weight(target) > 0).count() {
        0 => usable.len(),
        weighted => weighted,
    }
}

/// Tells the shuffle's hash from others with the same seed.
const SHUFFLE: u64 = 0x7368_7566_666c_6500;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::targets;

    fn order(name: SchedulerName, weights: &[u16], seed: u64) -> (Vec<usize>, usize) {
        let sorted = targets(weights);
        let mut usable = sorted.clone();
        usable.rotate_left(weights.len() / 2);
        let candidates = arrange(&mut usable, name, seed);
        let index = |target: &Arc<Target>| {
            sorted.iter().position(|known| Arc::ptr_eq(known, target)).expect("one of them")
        };
        (usable.iter().map(index).collect(), candidates)
    }

    #[test]
    fn hashes_see_candidates_by_address() {
        for name in [SchedulerName::Sh, SchedulerName::Mh] {
            assert_eq!(order(name, &[1, 3, 2, 1], 5), (vec![0, 1, 2, 3], 4));
            assert_eq!(order(name, &[0, 3, 0, 1], 5), (vec![1, 3, 0, 2], 2));
        }
    }

    #[test]
    fn preference_is_by_weight_then_address() {
        for name in [SchedulerName::Fo, SchedulerName::Ovf] {
            assert_eq!(order(name, &[1, 3, 2, 3], 5), (vec![1, 3, 2, 0], 4));
            assert_eq!(order(name, &[0, 3, 0, 1], 5), (vec![1, 3, 0, 2], 2));
        }
    }

    #[test]
    fn others_see_an_order_of_the_node_own_that_stays() {
        let orders: BTreeSet<_> =
            (0..50).map(|seed| order(SchedulerName::Rr, &[1; 6], seed).0).collect();
        assert!(orders.len() > 40, "{}", orders.len());
        let seven = order(SchedulerName::Rr, &[1; 7], 9).0;
        let six: Vec<_> = seven.into_iter().filter(|index| *index != 6).collect();
        assert_eq!(order(SchedulerName::Rr, &[1; 6], 9).0, six);
    }

    #[test]
    fn weight_zero_is_no_candidate_unless_all_have_it() {
        for &name in SchedulerName::ALL {
            let (order_of, candidates) = order(name, &[0, 1, 0, 1, 1], 5);
            assert_eq!(candidates, 3, "{name}");
            assert_eq!(order_of[3..].iter().copied().collect::<BTreeSet<_>>(), [0, 2].into());
            assert_eq!(order(name, &[0, 0, 0], 5).1, 3, "{name}");
            assert_eq!(order(name, &[], 5).1, 0, "{name}");
        }
    }
}
