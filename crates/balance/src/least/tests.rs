//! Each formula against a plain reading of it, on random weights and loads.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::Unit;
use crate::testing::{hold, search, targets};

/// The formulas as they are documented, in fractions the machine cannot round: the weights used
/// here all divide 5040.
fn documented(cost: Cost, outstanding: usize, weight: u16) -> usize {
    let per_weight = |out: usize| out * 5040 / usize::from(weight);
    match cost {
        Cost::Outstanding => outstanding,
        Cost::PerWeight => per_weight(outstanding),
        Cost::ExpectedDelay => per_weight(outstanding + 1),
        Cost::IdleFirst if outstanding == 0 => 0,
        Cost::IdleFirst => per_weight(outstanding + 1),
    }
}

fn any_cost() -> impl Strategy<Value = Cost> {
    prop::sample::select(vec![
        Cost::Outstanding,
        Cost::PerWeight,
        Cost::ExpectedDelay,
        Cost::IdleFirst,
    ])
}

/// (weight, connections, streams)
fn any_load() -> impl Strategy<Value = (u16, usize, usize)> {
    (1u16..=10, 0usize..4, 0usize..4)
}

proptest! {
    #[test]
    fn picks_are_the_cheapest_by_the_documented_formula(
        cost in any_cost(),
        loads in prop::collection::vec(any_load(), 1..=LOOKS),
        tried in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        seed: u64,
    ) {
        let weights: Vec<_> = loads.iter().map(|load| load.0).collect();
        let candidates = targets(&weights);
        let _held: Vec<_> = candidates
            .iter()
            .zip(&loads)
            .map(|(target, &(_, connections, streams))| {
                (hold(target, connections, Unit::Connection), hold(target, streams, Unit::Stream))
            })
            .collect();
        let tried: Vec<_> = tried.iter().map(|index| index.get(&candidates).address()).collect();

        let eligible = (0..loads.len()).filter(|&i| !tried.contains(&candidates[i].address()));
        let price = |i: usize| documented(cost, loads[i].1 + loads[i].2, loads[i].0);
        let lowest = eligible.clone().map(price).min();
        let cheapest: BTreeSet<_> = eligible.filter(|&i| Some(price(i)) == lowest).collect();

        let scheduler = Least::new(cost, &candidates);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..10 {
            match scheduler.pick(&candidates, &search(&tried), &mut rng) {
                Some(index) => prop_assert!(cheapest.contains(&index), "{index} of {cheapest:?}"),
                None => prop_assert!(cheapest.is_empty()),
            }
        }
    }
}

#[test]
fn ties_break_by_chance_and_evenly() {
    let candidates = targets(&[1; 5]);
    let _busy = hold(&candidates[1], 1, Unit::Stream);
    let mut rng = fastrand::Rng::with_seed(3);
    for cost in [Cost::Outstanding, Cost::PerWeight, Cost::ExpectedDelay, Cost::IdleFirst] {
        let scheduler = Least::new(cost, &candidates);
        let mut counts = [0usize; 5];
        for _ in 0..4000 {
            let picked = scheduler.pick(&candidates, &search(&[]), &mut rng);
            counts[picked.expect("there are candidates")] += 1;
        }
        assert_eq!(counts[1], 0, "{cost:?}");
        // 4 sigma of 4000 picks with a chance of 1/4.
        for index in [0, 2, 3, 4] {
            assert!(counts[index].abs_diff(1000) <= 110, "{cost:?}: {counts:?}");
        }
    }
}

#[test]
fn an_idle_one_of_any_weight_comes_first_under_nq_only() {
    let candidates = targets(&[10, 1]);
    let _busy = hold(&candidates[0], 1, Unit::Stream);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut pick = |cost| Least::new(cost, &candidates).pick(&candidates, &search(&[]), &mut rng);
    assert_eq!(pick(Cost::IdleFirst), Some(1));
    assert_eq!(pick(Cost::ExpectedDelay), Some(0));
    assert_eq!(pick(Cost::PerWeight), Some(1));
    assert_eq!(pick(Cost::Outstanding), Some(1));
}

#[test]
fn of_many_candidates_the_pick_is_among_the_least_loaded() {
    let candidates = targets(&[1; 500]);
    let _held: Vec<_> = candidates
        .iter()
        .enumerate()
        .map(|(load, target)| hold(target, load, Unit::Stream))
        .collect();
    let scheduler = Least::new(Cost::Outstanding, &candidates);
    let mut rng = fastrand::Rng::with_seed(3);
    let picks = 2000;
    let low = (0..picks)
        .filter_map(|_| scheduler.pick(&candidates, &search(&[]), &mut rng))
        .filter(|&index| index < 30)
        .count();
    // 30 of 500 are 6 %: 98.1 % of picks, with 4 sigma of 2000 to either side.
    assert!(low >= 1962 - 25, "{low} of {picks}");
}

#[test]
fn of_many_candidates_the_only_untried_one_is_found() {
    let candidates = targets(&[1; 200]);
    let tried: Vec<_> = candidates[1..].iter().map(|target| target.address()).collect();
    let mut rng = fastrand::Rng::with_seed(3);
    for cost in [Cost::Outstanding, Cost::IdleFirst] {
        let scheduler = Least::new(cost, &candidates);
        assert_eq!(scheduler.pick(&candidates, &search(&tried), &mut rng), Some(0));
    }
}
