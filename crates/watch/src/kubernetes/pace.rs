//! When the next table may be made: at once after quiet, and in a burst every few milliseconds.
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// Between two tables, at least. Within it a burst becomes one table.
const GAP: Duration = Duration::from_millis(5);
/// Making tables takes at most one part in so many of this thread's time, which it shares with the
/// kernel's rules and the admin servers. A table that takes 10 ms is followed by 40 ms of others.
const SHARE: u32 = 5;

/// The earliest time of the next table.
#[derive(Debug)]
pub(crate) struct Pace {
    next_at: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { next_at: now }
    }

    /// When a change that is known now may be shown.
    pub(crate) fn next_at(&self) -> Instant {
        self.next_at
    }

    /// A table was made, and took this long.
    pub(crate) fn made(&mut self, now: Instant, took: Duration) {
        self.next_at = now + GAP.max(took * (SHARE - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_change_after_quiet_is_due_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.next_at() <= start);
        pace.made(start, MS);
        assert!(pace.next_at() <= start + GAP);
    }

    #[test]
    fn a_burst_makes_a_table_in_each_gap() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut tables = 0;
        // A change each 100 us for 100 ms; a table takes 200 us.
        for step in 0..1000 {
            let now = start + step * MS / 10;
            if pace.next_at() <= now {
                tables += 1;
                pace.made(now, MS / 5);
            }
        }
        assert_eq!(tables, 20);
    }

    #[test]
    fn tables_that_take_long_leave_time_for_others() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.made(start, 10 * MS);
        assert_eq!(pace.next_at(), start + 40 * MS);
    }
}
