//! How long after something happened in the cluster it has an effect on this node.
//!
//! From the publication of a table on, new connections and streams are sent by it, so that is when
//! a changed slice is "programmed"; unless the kernel has to be told too, as when a Service got its
//! first endpoint: then it is when the kernel agrees.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use streamvs_admin::NodeMetrics;
use streamvs_resolve::{Changes, Trigger};

/// Triggers that wait for the kernel. Beyond that, which takes a kernel that refuses rules for
/// long, the newest are not measured.
const MAX_WAITING: usize = 65_536;

/// Counts changes and measures network programming latency (SIG Scalability's SLI).
#[derive(Debug)]
pub(crate) struct Programming {
    metrics: Arc<NodeMetrics>,
    /// What happened before says nothing about this process.
    started: Timestamp,
    waiting: Mutex<Vec<Trigger>>,
}

impl Programming {
    pub(crate) fn new(metrics: Arc<NodeMetrics>) -> Self {
        Self { metrics, started: Timestamp::now(), waiting: Mutex::default() }
    }

    /// A table with these changes is in use. `kernel_follows`: not all of its effects are.
    pub(crate) fn published(&self, changes: &Changes, kernel_follows: bool) {
        if kernel_follows {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_WAITING.saturating_sub(waiting.len());
            waiting.extend(changes.triggers.iter().take(room));
        } else {
            self.observe(&changes.triggers, Timestamp::now());
        }
    }

    /// The kernel agrees with the newest table.
    pub(crate) fn applied(&self) {
        self.metrics.changes_applied();
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        self.observe(&waiting, Timestamp::now());
    }

    fn observe(&self, triggers: &[Trigger], now: Timestamp) {
        for trigger in triggers.iter().filter(|trigger| trigger.at >= self.started) {
            // Clocks of two machines: what seems to lie in the future took no time.
            let since = Duration::try_from(now.duration_since(trigger.at)).unwrap_or_default();
            self.metrics.network_programmed(trigger.family, since);
        }
    }
}
