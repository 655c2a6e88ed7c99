//! Waiting for a condition, bounded.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is looked at: small against every deadline used, large against its cost.
const PERIOD: Duration = Duration::from_millis(5);

/// Looks at `condition` until it holds, at most for `deadline`.
///
/// # Panics
/// When it never held, naming `what` and the time waited.
#[track_caller]
pub fn eventually(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, deadline, || condition().then_some(()));
}

/// Asks `attempt` until it gives a value, at most for `deadline`, and returns that value.
///
/// # Panics
/// When it never gave one, naming `what` and the time waited.
#[track_caller]
pub fn eventually_some<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        std::thread::sleep(PERIOD);
    }
}

/// As [`eventually`] for an equality, so that the failure shows what was there instead.
///
/// # Panics
/// When `actual` never equalled `wanted`, with both.
#[track_caller]
pub fn eventually_equals<T: PartialEq + Debug>(
    what: &str,
    deadline: Duration,
    wanted: &T,
    mut actual: impl FnMut() -> T,
) {
    let start = Instant::now();
    loop {
        let value = actual();
        if value == *wanted {
            return;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {what}\n  wanted {wanted:?}\n  found  {value:?}"
        );
        std::thread::sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_awaited() {
        let mut looks = 0;
        eventually("three looks", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        });
        assert_eq!(looks, 3);
    }

    #[test]
    #[should_panic(expected = "not within 20ms: the moon is cheese")]
    fn a_condition_that_never_holds_fails_by_name() {
        eventually("the moon is cheese", Duration::from_millis(20), || false);
    }

    #[test]
    #[should_panic(expected = "found  2")]
    fn an_equality_that_never_holds_shows_what_was_there() {
        eventually_equals("one", Duration::from_millis(20), &1, || 2);
    }
}
