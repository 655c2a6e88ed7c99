//! How long to wait after a failure. Pure: chance is an argument.

use std::time::Duration;

/// After the first failure: a server that restarts is back soon, and one lost connection is none.
const FIRST: Duration = Duration::from_millis(200);
/// However long the server is away. A cluster of 5,000 nodes then tries four times 500 to 1,000
/// times a second, which costs it about a core; and a server that is back is noticed within 10 s.
const MAX: Duration = Duration::from_secs(10);

/// Doubles with each failure in a row, up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// One more failure. Returns how long to wait: between half of the step and all of it, as
    /// `chance` goes from 0 to 1, so that nodes that failed together do not come back together.
    pub(crate) fn fail(&mut self, chance: f64) -> Duration {
        // 2^6 x 200 ms is past the bound.
        let step = (FIRST * 2_u32.pow(self.failures.min(6))).min(MAX);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// It worked.
    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.fail(1.0).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        backoff.succeed();
        assert_eq!(backoff.fail(1.0), FIRST);
    }

    #[test]
    fn chance_spreads_a_wait_over_its_upper_half() {
        let wait = |chance| Backoff::default().fail(chance).as_millis();
        assert_eq!([wait(0.0), wait(0.5), wait(1.0), wait(7.0)], [100, 150, 200, 200]);
    }

    #[test]
    fn any_number_of_failures_stays_within_the_bound() {
        let mut backoff = Backoff { failures: u32::MAX - 1 };
        assert_eq!(backoff.fail(1.0), MAX);
        assert_eq!(backoff.fail(1.0), MAX);
    }
}
