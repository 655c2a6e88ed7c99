//! The table, in Markdown, row by row.

use std::fmt;
use std::time::Duration;

use crate::proxy::Kind;

/// What stands above the rows.
pub(crate) const HEAD: &str = "\
Latencies in ms: p50 / p99 / worst.

| Services / endpoints | proxy | start to first call | write to event | write to first call \
| event to first call | failed calls | CPU at start | CPU per change | RSS |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// A proxy among so many Services.
pub(crate) struct Row {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) kind: Kind,
    /// From the start of the process to the first call that was answered. None: nobody waited so
    /// long.
    pub(crate) start: Option<Duration>,
    /// Or what did not come in time.
    pub(crate) latency: Result<Latency, String>,
    /// Processor time until it had nothing to do any more after its start, or until nobody waited
    /// any more.
    pub(crate) start_cpu: Duration,
    /// Processor time of a change, without calls.
    pub(crate) per_change: Option<Duration>,
    /// Memory at the end.
    pub(crate) resident: u64,
}

/// How soon changes are in use.
pub(crate) struct Latency {
    /// From the write to a watcher's event.
    pub(crate) to_event: Quantiles,
    /// From the write to the first call on the new endpoint.
    pub(crate) to_call: Quantiles,
    /// From the watcher's event to that call.
    pub(crate) event_to_call: Quantiles,
    /// Calls that failed while endpoints changed.
    pub(crate) failed: u64,
}

/// The middle, the 99th of a hundred, and the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantiles {
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Quantiles {
    /// # Panics
    /// Of none.
    pub(crate) fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |share: f64| durations[((durations.len() - 1) as f64 * share).round() as usize];
        Self { p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(f, "{:.1} / {:.1} / {:.1}", ms(self.p50), ms(self.p99), ms(self.max))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} / {} | {} ", self.services, self.endpoints, self.kind)?;
        let start = |start: Duration| format!("{:.2} s", start.as_secs_f64());
        write!(f, "| {} ", self.start.map_or_else(|| "-".to_owned(), start))?;
        match &self.latency {
            Ok(Latency { to_event, to_call, event_to_call, failed }) => {
                write!(f, "| {to_event} | {to_call} | {event_to_call} | {failed} ")?;
            }
            Err(what) => write!(f, "| {what} | - | - | - ")?,
        }
        let per_change = |change: Duration| format!("{:.1} ms", change.as_secs_f64() * 1000.0);
        write!(
            f,
            "| {:.2} s | {} | {:.0} MiB |",
            self.start_cpu.as_secs_f64(),
            self.per_change.map_or_else(|| "-".to_owned(), per_change),
            self.resident as f64 / (1 << 20) as f64,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Quantiles;

    #[test]
    fn quantiles_are_of_the_sorted() {
        let durations = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(Quantiles::of(durations).to_string(), "51.0 / 100.0 / 101.0");
    }
}
