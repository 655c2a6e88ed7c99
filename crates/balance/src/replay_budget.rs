//! How many streams of a ServicePort may be given to another endpoint.
//!
//! Each stream that is given on costs another endpoint a dial or a stream. Where all of a Service's
//! endpoints turn calls away, everybody's calls would go round all of them, and a Service in
//! trouble would get many times its load. So the replays of a time are bounded by the calls of that
//! time, however many endpoints there are: at worst they double the load.
//!
//! After Envoy's and Finagle's retry budgets, with a larger share, because what is counted here are
//! replays that are known to be safe and mostly cost nobody but us: while one of two endpoints is
//! dead and not yet ejected, half of the calls need one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Over which time calls and replays are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Replays in a window that are free, ten in a second: a Service with a few calls has no budget to
/// speak of.
const FREE: u64 = 100;

/// Shared by the workers. The lock is taken for a replay alone, and held for a sum over the
/// endpoints at most.
#[derive(Debug)]
pub(crate) struct ReplayBudget(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    /// Calls that had been given to endpoints by then.
    calls_before: u64,
    spent: u64,
}

/// The calls of a ServicePort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Calls {
    /// Given to endpoints so far, each once.
    pub(crate) total: u64,
    /// Under way, those that wait for a connection included.
    pub(crate) active: u64,
}

impl ReplayBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Window { began: now, calls_before: 0, spent: 0 }))
    }

    /// Takes one replay. False: there have been too many. `calls` is asked only where the free ones
    /// are used up, and once at the start of each window.
    pub(crate) fn take(&self, now: Instant, calls: impl Fn() -> Calls) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(window.began) >= WINDOW {
            *window = Window { began: now, calls_before: calls().total, spent: 0 };
        }
        let within = window.spent < FREE || {
            let Calls { total, active } = calls();
            window.spent < total.saturating_sub(window.calls_before).max(active)
        };
        window.spent += u64::from(within);
        within
    }
}

#[cfg(test)]
mod tests {
    //! Aim: never more than the free ones or one for each call; and then again in the next window.

    use super::*;
    use crate::testing::start;

    fn calls(total: u64, active: u64) -> impl Fn() -> Calls {
        move || Calls { total, active }
    }

    /// How many of `wanted` replays there may be.
    fn taken(budget: &ReplayBudget, now: Instant, wanted: u64, calls: impl Fn() -> Calls) -> u64 {
        (0..wanted).map(|_| u64::from(budget.take(now, &calls))).sum()
    }

    #[test]
    fn a_service_with_few_calls_has_the_free_ones() {
        let budget = ReplayBudget::new(start());
        assert_eq!(taken(&budget, start(), 1000, calls(3, 3)), FREE);
        assert_eq!(taken(&budget, start() + WINDOW / 2, 1000, calls(4, 4)), 0);
        assert_eq!(taken(&budget, start() + WINDOW, 1000, calls(5, 5)), FREE);
    }

    #[test]
    fn there_is_one_for_each_call_of_the_window_or_under_way() {
        for (total, active, most) in [(500, 0, 500), (0, 400, 400), (500, 400, 500)] {
            let budget = ReplayBudget::new(start());
            assert_eq!(taken(&budget, start(), 1000, calls(total, active)), most);
        }
        let budget = ReplayBudget::new(start());
        assert_eq!(taken(&budget, start(), 1000, calls(10_000, 0)), 1000);
        // Calls of the window before buy nothing.
        let next = start() + WINDOW;
        assert_eq!(taken(&budget, next, 1000, calls(10_000, 0)), FREE);
        assert_eq!(taken(&budget, next, 1000, calls(10_300, 0)), 300 - FREE);
    }

    #[test]
    fn calls_are_not_counted_while_the_free_ones_last() {
        let budget = ReplayBudget::new(start());
        let unasked = || -> Calls { panic!("is asked") };
        assert_eq!(taken(&budget, start(), FREE, unasked), FREE);
    }
}
