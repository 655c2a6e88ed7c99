//! The time of a run, and how late this machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The clock of a run: times are since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// From the start to a moment.
    pub(crate) fn at(self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.0)
    }

    /// Since the start.
    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Watches how late this machine lets a thread run that is ready.
#[derive(Debug)]
pub(crate) struct Lateness {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Duration>,
}

impl Lateness {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        const REST: Duration = Duration::from_millis(10);
        let stop = Arc::new(AtomicBool::new(false));
        let also_stop = Arc::clone(&stop);
        let watcher = std::thread::spawn(move || {
            let mut most = Duration::ZERO;
            while !also_stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                std::thread::sleep(REST);
                most = most.max(start.elapsed().saturating_sub(REST));
            }
            most
        });
        Self { stop, watcher }
    }

    /// The longest so far.
    pub(crate) fn finish(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().expect("a watcher does not panic")
    }
}
