//! A histogram of durations that costs nothing until the first one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of all buckets but the last, which has none: dense where RPCs and dials are
/// (1 ms to 10 s), sparse where it is enough to know "at once" or "a long stream".
const BOUNDS: [Duration; 16] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(600),
];

/// How many durations fell between fixed bounds, with their sum. Relaxed atomics, no lock.
///
/// A node knows every endpoint of the cluster and talks to few of them, so the counts (144 bytes)
/// are allocated by the first [`Histogram::observe`].
#[derive(Debug, Default)]
pub struct Histogram {
    counts: OnceLock<Box<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// Wraps after 584 years of observed time.
    sum_nanoseconds: AtomicU64,
}

/// What a [`Histogram`] held at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSnapshot {
    /// All durations together, in seconds.
    pub sum_seconds: f64,
    /// How many there were: the sum of the buckets.
    pub count: u64,
    /// Upper bound in seconds, included, and how many durations fell between the bound before and
    /// this one (not cumulative). The last bound is infinite. Always the same 17 bounds.
    pub buckets: Vec<(f64, u64)>,
}

impl Histogram {
    /// Counts one duration. Allocates the first time.
    pub fn observe(&self, duration: Duration) {
        let counts = self.counts.get_or_init(Box::default);
        let bucket = BOUNDS.partition_point(|bound| *bound < duration);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        counts.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        counts.sum_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What was counted so far. While others observe, the sum may be ahead of or behind the
    /// buckets by what they do at that moment; the count is always that of the buckets.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let counts = self.counts.get();
        let count = |bucket: usize| {
            counts.map_or(0, |counts| counts.buckets[bucket].load(Ordering::Relaxed))
        };
        let bounds = BOUNDS.iter().map(Duration::as_secs_f64);
        let bounds = bounds.chain([f64::INFINITY]).enumerate();
        let buckets: Vec<_> = bounds.map(|(index, bound)| (bound, count(index))).collect();
        let sum = counts.map_or(0, |counts| counts.sum_nanoseconds.load(Ordering::Relaxed));
        HistogramSnapshot {
            sum_seconds: Duration::from_nanos(sum).as_secs_f64(),
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_one_has_all_bounds_and_no_counts() {
        let snapshot = Histogram::default().snapshot();
        assert_eq!(snapshot.count, 0);
        assert_eq!(snapshot.sum_seconds, 0.0);
        assert_eq!(snapshot.buckets.len(), BOUNDS.len() + 1);
        assert!(snapshot.buckets.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(snapshot.buckets.last(), Some(&(f64::INFINITY, 0)));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_reaches_it() {
        for (index, bound) in BOUNDS.iter().enumerate() {
            let histogram = Histogram::default();
            histogram.observe(*bound);
            histogram.observe(*bound + Duration::from_nanos(1));
            let counts: Vec<_> = histogram.snapshot().buckets.iter().map(|b| b.1).collect();
            let expected: Vec<_> =
                (0..=BOUNDS.len()).map(|at| u64::from(at == index || at == index + 1)).collect();
            assert_eq!(counts, expected, "{bound:?}");
        }
    }

    #[test]
    fn sum_and_count_cover_every_duration() {
        let histogram = Histogram::default();
        for duration in [Duration::ZERO, Duration::from_millis(1500), Duration::from_secs(7200)] {
            histogram.observe(duration);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count, 3);
        assert!((snapshot.sum_seconds - 7201.5).abs() < 1e-9, "{}", snapshot.sum_seconds);
        assert_eq!(snapshot.buckets[0].1, 1);
        assert_eq!(snapshot.buckets[BOUNDS.len()].1, 1);
    }
}
