//! Each candidate's turns, counted over whole cycles and over every beginning of one.

use proptest::prelude::*;

use super::*;
use crate::testing::targets;

fn turns(sequence: &Sequence, range: std::ops::Range<u64>, candidates: usize) -> Vec<u64> {
    let mut turns = vec![0; candidates];
    for turn in range {
        turns[sequence.at(turn)] += 1;
    }
    turns
}

fn reduced(weights: &[u16]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |gcd, w| greatest_common_divisor(gcd, u64::from(*w)));
    weights.iter().map(|weight| u64::from(*weight) / divisor).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_cycle_gives_each_candidate_exactly_its_weight(
        weights in prop::collection::vec(1u16..200, 1..40),
        start in 0u64..10_000,
    ) {
        let sequence = Sequence::weighted(&targets(&weights));
        let reduced = reduced(&weights);
        prop_assert_eq!(sequence.len(), reduced.iter().sum::<u64>());
        let counted = turns(&sequence, start..start + sequence.len(), weights.len());
        prop_assert_eq!(counted, reduced);
    }

    #[test]
    fn a_written_cycle_is_within_one_turn_of_proportion_at_any_time(
        weights in prop::collection::vec(1u16..100, 2..30),
    ) {
        let sequence = Sequence::weighted(&targets(&weights));
        let reduced = reduced(&weights);
        let total = sequence.len();
        let mut counted = vec![0u64; weights.len()];
        for turn in 0..total * 2 {
            counted[sequence.at(turn)] += 1;
            for (&count, &weight) in counted.iter().zip(&reduced) {
                // |count - (turn + 1) * weight / total| < 1, without fractions.
                let difference = (count * total).abs_diff((turn + 1) * weight);
                prop_assert!(difference < total, "turn {turn}: {counted:?} of {reduced:?}");
            }
        }
    }

    /// Over 10000 other cases none was off by 5 turns.
    #[test]
    fn a_stride_is_exact_over_its_cycle_and_near_proportion_within(
        weights in prop::collection::vec(1u16..4000, 8..20),
    ) {
        let sequence = Sequence::weighted(&targets(&weights));
        prop_assume!(matches!(sequence, Sequence::Stride { .. }));
        let reduced = reduced(&weights);
        let total = sequence.len();
        let mut counted = vec![0u64; weights.len()];
        for turn in 0..total {
            counted[sequence.at(turn)] += 1;
            for (&count, &weight) in counted.iter().zip(&reduced) {
                let difference = (count * total).abs_diff((turn + 1) * weight);
                prop_assert!(difference < 6 * total, "turn {turn}: {counted:?} of {reduced:?}");
            }
        }
        prop_assert_eq!(counted, reduced);
    }

    #[test]
    fn turn_of_is_a_turn_of_the_candidate(weights in prop::collection::vec(1u16..9, 1..30)) {
        let sequence = Sequence::weighted(&targets(&weights));
        for candidate in 0..weights.len() {
            let turn = sequence.turn_of(candidate);
            prop_assert_eq!(turn.map(|turn| sequence.at(turn)), Some(candidate));
        }
    }
}

#[test]
fn equal_weights_make_a_plain_rotation() {
    for weights in [&[1, 1, 1][..], &[7, 7, 7], &[0, 0, 0], &[65535; 3]] {
        let sequence = Sequence::weighted(&targets(weights));
        assert!(matches!(sequence, Sequence::Plain(3)), "{sequence:?}");
        let order: Vec<_> = (0..6).map(|turn| sequence.at(turn)).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }
}

#[test]
fn a_heavy_candidate_does_not_get_its_turns_in_a_row() {
    let sequence = Sequence::weighted(&targets(&[5, 1, 1]));
    let order: Vec<_> = (0..7).map(|turn| sequence.at(turn)).collect();
    assert_eq!(order.iter().filter(|index| **index == 0).count(), 5);
    let longest = order.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
    assert!(longest <= Some(3), "{order:?}");
}

#[test]
fn the_largest_weights_neither_overflow_nor_take_memory() {
    let weights: Vec<u16> = (0..2000).map(|i| 65535 - i % 3).collect();
    let sequence = Sequence::weighted(&targets(&weights));
    assert!(matches!(sequence, Sequence::Stride { .. }));
    for turn in [0, 1, u64::MAX / 2, u64::MAX] {
        assert!(sequence.at(turn) < weights.len());
    }
    let counted = turns(&sequence, 0..200_000, weights.len());
    assert!(counted.iter().all(|count| (97..=103).contains(count)), "{counted:?}");
}
