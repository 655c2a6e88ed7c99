//! A short sweep of random worlds. The first seed differs from run to run and is printed:
//!
//! ```sh
//! STREAMVS_SIM_SEED=123 STREAMVS_SIM_RUNS=1 cargo test -p streamvs-test-sim   # again
//! STREAMVS_SIM_RUNS=100000 cargo test --release -p streamvs-test-sim          # for hours
//! ```

use streamvs_test_sim::{Climate, Counts, run};

const STEPS: usize = 4000;

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {value:?}")))
}

#[test]
fn the_switch_keeps_every_promise_in_random_worlds() {
    let runs = from_env("STREAMVS_SIM_RUNS").unwrap_or(40);
    let first = from_env("STREAMVS_SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let mut total = Counts::default();
    for seed in first..first + runs {
        println!("STREAMVS_SIM_SEED={seed} STREAMVS_SIM_RUNS=1");
        let counts = run(Climate::Rough, seed, STEPS);
        total.calls += counts.calls;
        total.responses += counts.responses;
        total.answers += counts.answers;
        total.resets += counts.resets;
        total.replays += counts.replays;
        total.body_octets += counts.body_octets;
    }
    println!("{total:?}");
    // Each kind of thing happened, or else the above says little.
    if runs >= 10 {
        assert!(total.responses > total.calls / 3, "{total:?}");
        assert!(total.answers > 0 && total.resets > 0 && total.replays > 0, "{total:?}");
    }
}

#[test]
fn a_seed_gives_the_same_world_again() {
    let once = || format!("{:?}", run(Climate::Rough, 1, 1000));
    assert_eq!(once(), once());
}

#[test]
fn no_credit_is_lost_over_a_long_time() {
    let seed = from_env("STREAMVS_SIM_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("STREAMVS_SIM_SEED={seed}");
    let counts = run(Climate::Steady, seed, 60_000);
    println!("{counts:?}");
    assert!(counts.body_octets > 3 * 16 * 1024 * 1024, "less than three windows: {counts:?}");
}
