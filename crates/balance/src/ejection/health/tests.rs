//! Aim: the state machine by a given clock, row by row.

use super::*;

const SECOND: u64 = 1_000_000_000;

const POLICY: EjectionPolicy = EjectionPolicy {
    consecutive_faults: 3,
    base_time: Duration::from_secs(30),
    max_time: Duration::from_secs(100),
};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A fault, and the count after it.
    Fault(u32),
    Answer,
    /// An ejection, and its seconds.
    Eject(u64),
    Readmit,
}
use Step::{Answer, Eject, Fault as Bad, Readmit};

/// Plays steps at their seconds.
#[track_caller]
fn check(steps: &[(u64, Step)]) {
    let health = Health::default();
    for &(second, step) in steps {
        let at = second * SECOND;
        match step {
            Bad(count) => assert_eq!(health.fault(Fault::DialFailed, at), count, "at {second} s"),
            Answer => health.answered(),
            Eject(seconds) => {
                let (time, _) = health.eject(&POLICY, at);
                assert_eq!(time, Duration::from_secs(seconds), "at {second} s");
                let until = health.ejected_until().map(|(until, _)| until);
                assert_eq!(until, Some((second + seconds) * SECOND));
            }
            Readmit => health.readmit(at),
        }
        let ejected = matches!(step, Eject(_)) || (health.is_ejected() && !matches!(step, Readmit));
        assert_eq!(health.is_ejected(), ejected, "at {second} s");
    }
}

#[test]
fn faults_count_until_an_answer() {
    check(&[(0, Bad(1)), (1, Bad(2)), (2, Answer), (3, Bad(1)), (4, Answer), (5, Answer)]);
}

#[test]
fn faults_of_one_instant_are_one() {
    check(&[(0, Bad(1)), (0, Bad(0)), (0, Bad(0)), (1, Bad(2)), (1, Bad(0))]);
    // Two workers tell in turn of a connection each.
    check(&[(0, Bad(1)), (1, Bad(2)), (0, Bad(0)), (1, Bad(0)), (0, Bad(0)), (2, Bad(3))]);
    // Even at the first instant there is, and over an answer.
    check(&[(0, Bad(1)), (0, Answer), (0, Bad(0)), (1, Bad(1))]);
}

#[test]
fn nothing_counts_while_it_is_ejected_and_the_count_begins_at_zero_after() {
    check(&[
        (0, Bad(1)),
        (1, Bad(2)),
        (1, Eject(30)),
        (2, Bad(0)),
        (3, Answer),
        (31, Readmit),
        (32, Bad(1)),
        (33, Bad(2)),
    ]);
}

#[test]
fn each_ejection_is_twice_as_long_as_the_one_before_up_to_the_longest() {
    check(&[
        (0, Bad(1)),
        (0, Eject(30)),
        (30, Readmit),
        (31, Bad(1)),
        (31, Eject(60)),
        (91, Readmit),
        (92, Bad(1)),
        (92, Eject(100)),
        (192, Readmit),
        (193, Bad(1)),
        (193, Eject(100)),
    ]);
}

#[test]
fn health_for_as_long_as_the_longest_ejection_forgets_the_ones_before() {
    let before = [(0, Bad(1)), (0, Eject(30)), (30, Readmit), (31, Bad(1)), (31, Eject(60))];
    let again =
        |at, seconds| [&before[..], &[(91, Readmit), (at, Bad(1)), (at, Eject(seconds))]].concat();
    check(&again(190, 100));
    check(&again(191, 30));
    // What counts is the first of the faults that eject it: the last may come late.
    let late = [(91, Readmit), (100, Bad(1)), (300, Bad(2)), (300, Eject(100))];
    check(&[&before[..], &late].concat());
    // And after an answer it is the first one behind that.
    let healthy = [(91, Readmit), (100, Bad(1)), (101, Answer), (300, Bad(1)), (300, Eject(30))];
    check(&[&before[..], &healthy].concat());
}

#[test]
fn hundreds_of_ejections_in_a_row_do_not_overflow() {
    let health = Health::default();
    for round in 0..300 {
        let at = round * 1000;
        health.fault(Fault::Unavailable, at);
        let (time, fault) = health.eject(&POLICY, at);
        assert_eq!(fault, Fault::Unavailable);
        assert!(time <= POLICY.max_time);
        health.readmit(at + 1);
    }
    let endless = EjectionPolicy { max_time: Duration::MAX, base_time: Duration::MAX, ..POLICY };
    health.eject(&endless, u64::MAX);
    assert!(health.is_ejected());
}
