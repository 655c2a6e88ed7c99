//! What holds for every scheduler.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::testing::{
    client, endpoint, endpoint_v6, follow, plan_of, request, request_of, service, start, unready,
    weighted,
};
use crate::{Plan, Unit};

mod affinity;
mod ejection;
mod generations;

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(11)
}

fn counts(choices: &[Choice]) -> BTreeMap<SocketAddr, usize> {
    let mut counts = BTreeMap::new();
    for choice in choices {
        *counts.entry(choice.address()).or_default() += 1;
    }
    counts
}

#[test]
fn every_scheduler_uses_all_candidates_and_only_them() {
    for &name in SchedulerName::ALL {
        let endpoints = vec![endpoint(1), unready(2), weighted(3, 0), endpoint(4), endpoint(5)];
        let (_, server) = plan_of(name, endpoints);
        assert_eq!(server.scheduler(), name);
        assert_eq!(server.targets().len(), 5);
        assert_eq!(server.usable(TrafficPolicy::Cluster).len(), 4);
        let mut rng = rng();
        let choices: Vec<_> = (0..200)
            .map(|n| server.pick(&request_of(client(n), &[]), &mut rng).expect("one is usable"))
            .collect();
        let seen: BTreeSet<_> = counts(&choices).into_keys().collect();
        let all = [1, 4, 5].map(|n| endpoint(n).address);
        let expected = if name == SchedulerName::Fo { &all[..1] } else { &all[..] };
        assert_eq!(seen, expected.iter().copied().collect(), "{name}");
    }
}

#[test]
fn every_scheduler_goes_on_to_what_was_not_tried() {
    for &name in SchedulerName::ALL {
        let (_, server) = plan_of(name, (0..5).map(endpoint).collect());
        let mut rng = rng();
        for number in 0..20 {
            let mut tried = Vec::new();
            while let Some(choice) = server.pick(&request_of(client(number), &tried), &mut rng) {
                assert!(!tried.contains(&choice.address()), "{name} came back");
                tried.push(choice.address());
            }
            assert_eq!(tried.len(), 5, "{name} gave up early");
        }
        assert_eq!(server.targets().iter().map(|target| target.outstanding()).sum::<u32>(), 0);
    }
}

#[test]
fn every_scheduler_knows_no_answer_without_usable_endpoints() {
    for &name in SchedulerName::ALL {
        for endpoints in [vec![], vec![unready(1), unready(2)]] {
            let (_, server) = plan_of(name, endpoints);
            assert!(server.pick(&request(&[]), &mut rng()).is_none(), "{name}");
        }
    }
}

#[test]
fn every_scheduler_serves_a_single_endpoint() {
    for &name in SchedulerName::ALL {
        let (_, server) = plan_of(name, vec![endpoint(1)]);
        let held: Vec<_> = (0..10).filter_map(|_| server.pick(&request(&[]), &mut rng())).collect();
        assert_eq!(held.len(), 10, "{name}");
        assert_eq!(server.targets()[0].active_streams(), 10);
    }
}

#[test]
fn endpoints_that_all_have_weight_zero_share_as_equals() {
    for &name in SchedulerName::ALL {
        let (_, server) = plan_of(name, vec![weighted(1, 0), weighted(2, 0)]);
        let mut rng = rng();
        let choices: Vec<_> =
            (0..100).filter_map(|n| server.pick(&request_of(client(n), &[]), &mut rng)).collect();
        assert_eq!(choices.len(), 100, "{name}");
        let used = if name == SchedulerName::Fo { 1 } else { 2 };
        assert_eq!(counts(&choices).len(), used, "{name}");
    }
}

#[test]
fn a_weight_zero_endpoint_is_no_second_try() {
    for &name in SchedulerName::ALL {
        let (_, server) = plan_of(name, vec![endpoint(1), weighted(2, 0)]);
        let tried = [endpoint(1).address];
        assert!(server.pick(&request(&tried), &mut rng()).is_none(), "{name}");
    }
}

#[test]
fn degenerate_names_run_rr() {
    for name in [SchedulerName::Dh, SchedulerName::Lblc, SchedulerName::Lblcr] {
        let (_, server) = plan_of(name, (0..3).map(endpoint).collect());
        let choices: Vec<_> =
            (0..30).filter_map(|_| server.pick(&request(&[]), &mut rng())).collect();
        assert_eq!(counts(&choices).into_values().collect::<Vec<_>>(), [10; 3], "{name}");
    }
}

#[test]
fn random_keeps_within_four_sigma_of_the_weights() {
    let weights = [1u16, 1, 2, 4, 8];
    let endpoints = weights.iter().zip(0..).map(|(weight, n)| weighted(n, *weight)).collect();
    let (_, server) = plan_of(SchedulerName::Random, endpoints);
    let mut rng = rng();
    let picks = 16_000;
    let choices: Vec<_> = (0..picks).filter_map(|_| server.pick(&request(&[]), &mut rng)).collect();
    let counts = counts(&choices);
    for (number, weight) in (0..).zip(weights) {
        let chance = f64::from(weight) / 16.0;
        let sigma = (f64::from(picks) * chance * (1.0 - chance)).sqrt();
        let count = counts[&endpoint(number).address] as f64;
        let expected = f64::from(picks) * chance;
        assert!((count - expected).abs() <= 4.0 * sigma, "{weight}: {count} for {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn wrr_is_within_one_of_proportion_after_any_number_of_picks(
        weights in prop::collection::vec(1u16..20, 1..10),
        picks in 1usize..300,
    ) {
        let endpoints = weights.iter().zip(0..).map(|(weight, n)| weighted(n, *weight)).collect();
        let (_, server) = plan_of(SchedulerName::Wrr, endpoints);
        let choices: Vec<_> =
            (0..picks).filter_map(|_| server.pick(&request(&[]), &mut rng())).collect();
        let counts = counts(&choices);
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        for (number, weight) in (0..).zip(&weights) {
            let count = counts.get(&endpoint(number).address).copied().unwrap_or(0);
            // The rotation begins anywhere in its cycle: within 1 at both ends of the picks.
            let difference = (count * total).abs_diff(picks * usize::from(*weight));
            prop_assert!(difference < 2 * total, "{count} of {picks} for {weight}/{total}");
            prop_assert!(picks % total != 0 || difference == 0, "whole cycles are exact");
        }
    }
}

#[test]
fn rr_is_exact_over_threads_and_units() {
    let (_, server) = plan_of(SchedulerName::Rr, (0..7).map(endpoint).collect());
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, all) = (&server, &all);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                let unit = if thread % 2 == 0 { Unit::Stream } else { Unit::Connection };
                let request = Request { unit, ..request(&[]) };
                let mut mine: Vec<_> =
                    (0..2501).filter_map(|_| server.pick(&request, &mut rng)).collect();
                all.lock().expect("nobody panicked").append(&mut mine);
            });
        }
    });
    let choices = all.into_inner().expect("nobody panicked");
    assert_eq!(choices.len(), 10_004);
    let counts = counts(&choices);
    assert!(counts.values().all(|count| [1429, 1430].contains(count)), "{counts:?}");
    for target in server.targets() {
        assert_eq!(target.outstanding() as usize, counts[&target.address()]);
    }
    drop(choices);
    assert!(server.targets().iter().all(|target| target.outstanding() == 0));
}

#[test]
fn lc_goes_around_a_stuck_endpoint() {
    let (_, server) = plan_of(SchedulerName::Lc, (0..3).map(endpoint).collect());
    let mut rng = rng();
    let stuck = server.pick(&request(&[]), &mut rng).expect("three are idle");
    for _ in 0..100 {
        let choice = server.pick(&request(&[]), &mut rng).expect("two are idle");
        assert_ne!(choice.address(), stuck.address());
    }
}
