//! Durations, 128 steps for each power of two: an error below 0.8 %, and no allocation per value.

use std::time::Duration;

use serde_json::{Value, json};

const STEPS: usize = 128;
const POWERS: usize = 40;

/// Counts of durations from 128 ns up to two minutes; shorter and longer ones count as these.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    count: u64,
    sum: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; STEPS * POWERS], count: 0, sum: Duration::ZERO }
    }

    pub(crate) fn add(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(STEPS as u64);
        let power = nanoseconds.ilog2() - STEPS.ilog2();
        let step = (nanoseconds >> power) as usize - STEPS;
        let place = power as usize * STEPS + step;
        let last = self.counts.len() - 1;
        self.counts[place.min(last)] += 1;
        self.count += 1;
        self.sum += duration;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A quantile in microseconds; 0 when there is no value.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return (((STEPS + place % STEPS) as u64) << (place / STEPS)) as f64 / 1e3;
            }
        }
        0.0
    }

    /// Median, 99th percentile and mean in microseconds, with `more` fields before them.
    pub(crate) fn report(&self, more: Value) -> Value {
        let mut report = more;
        let mean = self.sum.as_secs_f64() * 1e6 / self.count.max(1) as f64;
        report["p50_us"] = json!(self.quantile(0.50));
        report["p99_us"] = json!(self.quantile(0.99));
        report["mean_us"] = json!(mean);
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_step() {
        let mut histogram = Histogram::new();
        for microseconds in 1..=1000 {
            histogram.add(Duration::from_micros(microseconds));
        }
        let report = histogram.report(json!({ "n": histogram.count() }));
        let near = |field: &str, wanted: f64| {
            let found = report[field].as_f64().expect("is a number");
            assert!((found - wanted).abs() <= wanted / 100.0, "{field}: {found}");
        };
        near("p50_us", 500.0);
        near("p99_us", 990.0);
        near("mean_us", 500.5);
        assert_eq!(report["n"], 1000);
    }

    #[test]
    fn extremes_are_counted_at_the_ends() {
        let mut histogram = Histogram::new();
        histogram.add(Duration::ZERO);
        histogram.add(Duration::MAX / 2);
        assert_eq!(histogram.count(), 2);
        assert!(histogram.quantile(0.5) < 0.2);
        assert!(histogram.quantile(1.0) > 1e8);
    }
}
