//! Spread, disruption and agreement, counted over entries and over clients.

use proptest::prelude::*;

use super::*;
use crate::SchedulerName;
use crate::scheduler::arrange;
use crate::testing::{client, search_of, targets};

const CLIENTS: u32 = 20_000;

/// Where each client goes.
fn homes(candidates: &[Arc<Target>]) -> Vec<std::net::SocketAddr> {
    let table = Maglev::new(candidates);
    let home = |number| {
        let index = table.pick(candidates, &search_of(client(number), &[]));
        candidates[index.expect("there are candidates")].address()
    };
    (0..CLIENTS).map(home).collect()
}

fn entries_of(table: &Maglev, candidates: usize) -> Vec<usize> {
    let mut counts = vec![0; candidates];
    for &index in &table.entries {
        counts[usize::from(index)] += 1;
    }
    counts
}

#[test]
fn removing_one_endpoint_moves_few_clients_of_the_others() {
    // Never from one table size to another: that moves all, as documented.
    for count in [2, 3, 5, 10, 12, 40, 100, 102, 300, 1000] {
        let bound =
            if count <= 300 { CLIENTS as usize * 2 / count } else { CLIENTS as usize * 3 / 100 };
        let all = targets(&vec![1; count]);
        let before = homes(&all);
        for removed in [0, count / 2, count - 1] {
            let mut rest = all.clone();
            let gone = rest.remove(removed).address();
            let after = homes(&rest);
            let kept = before.iter().zip(&after).filter(|(before, _)| **before != gone);
            let moved = kept.filter(|(before, after)| before != after).count();
            assert!(moved < bound, "{moved} of {CLIENTS} clients moved, {count} endpoints");
            assert!(!after.contains(&gone));
        }
    }
}

#[test]
fn equal_endpoints_hold_equal_shares_of_the_table() {
    for count in [1, 2, 3, 7, 10, 11, 100, 101, 1000] {
        let table = Maglev::new(&targets(&vec![1; count]));
        let entries = entries_of(&table, count);
        let (least, most) = (entries.iter().min(), entries.iter().max());
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{entries:?}");
    }
}

#[test]
fn clients_spread_over_equal_endpoints() {
    let candidates = targets(&[1; 8]);
    let homes = homes(&candidates);
    for target in &candidates {
        let clients = homes.iter().filter(|home| **home == target.address()).count();
        // 4 sigma of 20000 clients with a chance of 1/8 are 187; the table is off by 1 in 127.
        assert!(clients.abs_diff(2500) <= 187 + 20, "{clients}");
    }
}

#[test]
fn the_table_is_the_kernel_primes_and_small_for_small_services() {
    for (count, size) in [(1, 1021), (10, 1021), (11, 16381), (100, 16381), (101, 131071)] {
        assert_eq!(Maglev::new(&targets(&vec![1; count])).entries.len(), size);
    }
    for (_, size) in SIZES {
        let divisor = (2..size).take_while(|n| n * n <= size).find(|n| size % n == 0);
        assert_eq!(divisor, None, "{size} is not prime");
    }
}

/// During a roll-out old and new nodes must agree: another result here moves every client.
#[test]
fn known_clients_keep_their_endpoint() {
    let candidates = targets(&[1; 5]);
    let table = Maglev::new(&candidates);
    let home = |number| table.pick(&candidates, &search_of(client(number), &[]));
    let homes: Vec<_> = (0..12).filter_map(home).collect();
    assert_eq!(homes, [1, 2, 3, 4, 4, 2, 1, 4, 1, 4, 2, 4]);
}

#[test]
fn clients_of_a_failed_endpoint_go_to_several_others() {
    let candidates = targets(&[1; 6]);
    let table = Maglev::new(&candidates);
    let tried = [candidates[2].address()];
    let mut gained = [0; 6];
    for number in 0..CLIENTS {
        let home = table.pick(&candidates, &search_of(client(number), &[]));
        let next = table.pick(&candidates, &search_of(client(number), &tried));
        if home == Some(2) {
            gained[next.expect("five are left")] += 1;
        } else {
            assert_eq!(home, next);
        }
    }
    assert_eq!(gained[2], 0);
    assert!([0, 1, 3, 4, 5].iter().all(|&index| gained[index] > 300), "{gained:?}");
}

#[test]
fn the_last_untried_endpoint_is_found() {
    let candidates = targets(&[1; 300]);
    let tried: Vec<_> = candidates[1..].iter().map(|target| target.address()).collect();
    let table = Maglev::new(&candidates);
    for number in 0..50 {
        assert_eq!(table.pick(&candidates, &search_of(client(number), &tried)), Some(0));
    }
    let all: Vec<_> = candidates.iter().map(|target| target.address()).collect();
    assert_eq!(table.pick(&candidates, &search_of(client(0), &all)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn entries_are_held_by_weight(weights in prop::collection::vec(1u16..30, 1..10)) {
        let table = Maglev::new(&targets(&weights));
        let entries = entries_of(&table, weights.len());
        let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        for (held, weight) in entries.iter().zip(&weights) {
            // Rounding, half a round cut off, and its part of what all were rounded by.
            let weight = usize::from(*weight);
            let difference = (held * total).abs_diff(table.entries.len() * weight);
            let bound = 3 * total + weights.len() * weight;
            prop_assert!(2 * difference <= bound, "{entries:?} {weights:?}");
        }
    }

    #[test]
    fn nodes_agree_whatever_the_order_in_which_they_learned_of_endpoints(
        order in Just((0..20).collect::<Vec<usize>>()).prop_shuffle(),
        seed: u64,
    ) {
        let sorted = targets(&[1, 2, 3, 4, 5].repeat(4));
        let mut here: Vec<_> = order.iter().map(|&index| Arc::clone(&sorted[index])).collect();
        arrange(&mut here, SchedulerName::Mh, seed);
        prop_assert_eq!(homes(&here), homes(&sorted));
    }
}
