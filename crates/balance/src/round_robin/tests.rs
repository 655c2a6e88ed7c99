//! Exact turns: alone, over threads, around failures and over changes of the set.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;
use crate::testing::{search, targets};

struct Rotation {
    candidates: Vec<Arc<Target>>,
    turns: AtomicU64,
    scheduler: RoundRobin,
}

impl Rotation {
    fn new(weights: &[u16], start: u64) -> Self {
        let candidates = targets(weights);
        let turns = AtomicU64::new(start / 3);
        let sequence = Sequence::weighted(&candidates);
        let scheduler = RoundRobin::new(sequence, &candidates, &turns, None, start);
        Self { candidates, turns, scheduler }
    }

    fn pick(&self, tried: &[usize]) -> Option<usize> {
        let tried: Vec<_> = tried.iter().map(|&i| self.candidates[i].address()).collect();
        self.scheduler.pick(&self.candidates, &self.turns, &search(&tried))
    }

    /// The next generation, with the candidates of these old indexes, in this order.
    fn change(self, stay: &[usize]) -> Self {
        let candidates: Vec<_> = stay.iter().map(|&i| Arc::clone(&self.candidates[i])).collect();
        let predecessor = Predecessor { scheduler: &self.scheduler, candidates: &self.candidates };
        let sequence = Sequence::weighted(&candidates);
        let scheduler = RoundRobin::new(sequence, &candidates, &self.turns, Some(predecessor), 0);
        Self { candidates, turns: self.turns, scheduler }
    }
}

proptest! {
    #[test]
    fn any_number_of_picks_differ_by_at_most_one(
        candidates in 1usize..50,
        picks in 0usize..500,
        start: u64,
    ) {
        let rotation = Rotation::new(&vec![1; candidates], start);
        let mut counts = vec![0; candidates];
        for _ in 0..picks {
            counts[rotation.pick(&[]).expect("there are candidates")] += 1;
        }
        let (least, most) = (counts.iter().min(), counts.iter().max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn a_tried_endpoint_is_passed_over_and_the_others_keep_their_order(
        candidates in 2usize..20,
        tried in any::<prop::sample::Index>(),
        start: u64,
    ) {
        let rotation = Rotation::new(&vec![1; candidates], start);
        let tried = tried.index(candidates);
        let mut counts = vec![0; candidates];
        for _ in 0..candidates * 7 {
            counts[rotation.pick(&[tried]).expect("another one")] += 1;
        }
        prop_assert_eq!(counts.remove(tried), 0);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
    }

    #[test]
    fn any_untried_endpoint_is_found(
        weights in prop::collection::vec(1u16..20, 1..12),
        left in any::<prop::sample::Index>(),
        start: u64,
    ) {
        let rotation = Rotation::new(&weights, start);
        let left = left.index(weights.len());
        let tried: Vec<_> = (0..weights.len()).filter(|index| *index != left).collect();
        prop_assert_eq!(rotation.pick(&tried), Some(left));
        let all: Vec<_> = (0..weights.len()).collect();
        prop_assert_eq!(rotation.pick(&all), None);
    }

    #[test]
    fn the_rotation_goes_on_with_the_next_one_that_stays(
        candidates in 2usize..16,
        picks in 1usize..40,
        stays in prop::collection::vec(any::<bool>(), 16),
        start: u64,
    ) {
        let rotation = Rotation::new(&vec![1; candidates], start);
        let mut last = 0;
        for _ in 0..picks {
            last = rotation.pick(&[]).expect("there are candidates");
        }
        let stay: Vec<_> = (0..candidates).filter(|index| stays[*index]).collect();
        let after_last = (last + 1..candidates).chain(0..=last);
        let expected = after_last.into_iter().find(|index| stays[*index]);
        let next = rotation.change(&stay);
        let picked = (!stay.is_empty()).then(|| next.pick(&[])).flatten();
        prop_assert_eq!(picked.map(|index| stay[index]), expected);
    }
}

#[test]
fn turns_are_exact_over_threads() {
    for threads in [4, 8] {
        for (candidates, each) in [(3, 10_000), (7, 9_999), (64, 5_001)] {
            let rotation = Rotation::new(&vec![1; candidates], 12345);
            let counts: Vec<_> = (0..candidates).map(|_| AtomicUsize::new(0)).collect();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for _ in 0..each {
                            let index = rotation.pick(&[]).expect("there are candidates");
                            counts[index].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            let counts: Vec<_> = counts.into_iter().map(AtomicUsize::into_inner).collect();
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{counts:?}");
            assert_eq!(counts.iter().sum::<usize>(), threads * each);
        }
    }
}

#[test]
fn rotations_begin_at_different_places() {
    let firsts: std::collections::BTreeSet<_> =
        (0..100).filter_map(|start| Rotation::new(&[1; 5], start * 7919).pick(&[])).collect();
    assert_eq!(firsts.len(), 5);
}

#[test]
fn a_new_endpoint_takes_its_turn_where_it_stands() {
    let rotation = Rotation::new(&[1, 1, 1], 0).change(&[0, 1]);
    while rotation.pick(&[]) != Some(0) {}
    // 1 would be next. The new one stands behind it.
    let grown = {
        let mut candidates = rotation.candidates.clone();
        candidates.extend(targets(&[1; 9]).into_iter().skip(8));
        let predecessor =
            Predecessor { scheduler: &rotation.scheduler, candidates: &rotation.candidates };
        let sequence = Sequence::weighted(&candidates);
        let scheduler =
            RoundRobin::new(sequence, &candidates, &rotation.turns, Some(predecessor), 0);
        Rotation { candidates, turns: rotation.turns, scheduler }
    };
    let order: Vec<_> = (0..6).filter_map(|_| grown.pick(&[])).collect();
    assert_eq!(order, [1, 2, 0, 1, 2, 0]);
}
