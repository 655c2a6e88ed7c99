//! The log of endpoints that are ejected and that return.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamvs_balance::{EjectionChange, EjectionEvent, OnEjection};

/// Lines in each [`PERIOD`]: enough to tell a few Services' trouble whole. When a network fails,
/// each endpoint of each Service in use is ejected, and the metrics tell that better.
const MOST_LINES: u64 = 20;

const PERIOD: Duration = Duration::from_secs(10);

/// Writes it, in bounded time and size: see [`Bound`].
pub(crate) fn told() -> OnEjection {
    let (bound, started) = (Bound::default(), Instant::now());
    Arc::new(move |event| {
        if let Some(left_out) = bound.admit(started.elapsed()) {
            log(event, left_out);
        }
    })
}

fn log(event: EjectionEvent<'_>, left_out: u64) {
    let EjectionEvent { service, endpoint, change } = event;
    if left_out > 0 {
        tracing::warn!(count = left_out, "ejections and returns of endpoints were not logged");
    }
    match change {
        EjectionChange::Ejected { time, fault } => tracing::warn!(
            %service,
            %endpoint,
            seconds = time.as_secs_f64(),
            last_fault = fault.as_str(),
            "endpoint has failed in a row and is passed over for a while"
        ),
        EjectionChange::Returned => {
            tracing::info!(%service, %endpoint, "endpoint is used again");
        }
        EjectionChange::Recalled => {
            tracing::info!(%service, %endpoint, "endpoint is used again, as others have left");
        }
    }
}

/// Lets through at most [`MOST_LINES`] in each [`PERIOD`]. Threads that meet at a period's border
/// may get a few more through.
#[derive(Debug, Default)]
struct Bound {
    period: AtomicU64,
    count: AtomicU64,
}

impl Bound {
    /// Some: it may be logged, and so many before it were not. `now` is the time since the start.
    fn admit(&self, now: Duration) -> Option<u64> {
        let period = now.as_secs() / PERIOD.as_secs();
        let before = if self.period.swap(period, Ordering::Relaxed) == period {
            None
        } else {
            Some(self.count.swap(0, Ordering::Relaxed))
        };
        let admitted = self.count.fetch_add(1, Ordering::Relaxed) < MOST_LINES;
        admitted.then(|| before.map_or(0, |before| before.saturating_sub(MOST_LINES)))
    }
}

#[cfg(test)]
mod tests {
    //! Aim: a storm costs a bounded number of lines, and none is left out silently.

    use super::*;

    #[test]
    fn a_storm_is_bounded_and_what_was_left_out_is_said_later() {
        let bound = Bound::default();
        let at = |seconds| bound.admit(Duration::from_secs(seconds));
        let first: Vec<_> = (0..100).filter_map(|number| at(30 + number / 20)).collect();
        assert_eq!(first, [0; MOST_LINES as usize]);
        assert_eq!(at(40), Some(100 - MOST_LINES));
        assert_eq!(at(49), Some(0));
        assert_eq!(at(50), Some(0), "nothing was left out");
    }
}
