//! One endpoint's faults, and what they have brought it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::{EjectionPolicy, Fault, nanoseconds};

/// What is remembered of an endpoint's health, over all generations. Times are [`Age`]s.
///
/// Memory order: relaxed, as of all that a target counts. Faults and answers come from all workers.
/// What changes an ejection ([`Health::eject`], [`Health::readmit`]) is called under the lock of
/// the [`Roster`](super::Roster) only.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Since the last answer.
    faults: AtomicU32,
    /// The last fault's index, and its time plus one.
    last: AtomicU8,
    last_at: AtomicU64,
    /// When the first of `faults` was.
    first_at: AtomicU64,
    /// Ejections in a row, of which the next one is the longer.
    repeats: AtomicU8,
    /// When it returns, plus one; [`NEVER`] while it is in use.
    ejected_until: AtomicU64,
    /// When it returned last, plus one; [`NEVER`] before the first time.
    returned_at: AtomicU64,
}

/// Nanoseconds since the address was first seen.
pub(crate) type Age = u64;

const NEVER: u64 = 0;

/// Doublings beyond which every time is the longest one.
const MOST_REPEATS: u8 = 32;

impl Health {
    /// Counts a fault and says how many there are now without an answer between them.
    ///
    /// Faults of the same instant are one: the streams that waited for one dial, or were on one
    /// connection, fail together. While it is ejected none counts.
    pub(crate) fn fault(&self, fault: Fault, at: Age) -> u32 {
        let stamp = at.saturating_add(1);
        // One that comes late, after another worker's, was counted or is as good as.
        let known = self.last_at.fetch_max(stamp, Ordering::Relaxed) >= stamp;
        if known || self.is_ejected() {
            return 0;
        }
        self.last.store(fault.index() as u8, Ordering::Relaxed);
        let before = self.faults.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.first_at.store(at, Ordering::Relaxed);
        }
        before.saturating_add(1)
    }

    /// The endpoint has answered. Almost always there is nothing to forget, and nothing is written.
    pub(crate) fn answered(&self) {
        if self.faults.load(Ordering::Relaxed) != 0 {
            self.forget_faults();
        }
    }

    /// Counts from 0 again.
    pub(crate) fn forget_faults(&self) {
        self.faults.store(0, Ordering::Relaxed);
    }

    /// Since the last answer.
    pub(crate) fn faults(&self) -> u32 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) != NEVER
    }

    /// When it returns, and the fault that ejected it. None: it is in use.
    pub(crate) fn ejected_until(&self) -> Option<(Age, Fault)> {
        let until = self.ejected_until.load(Ordering::Relaxed).checked_sub(1)?;
        Some((until, self.last_fault()))
    }

    fn last_fault(&self) -> Fault {
        let index = usize::from(self.last.load(Ordering::Relaxed));
        Fault::ALL.get(index).copied().unwrap_or(Fault::DialFailed)
    }

    /// Ejects it, and says for how long and because of what.
    pub(crate) fn eject(&self, policy: &EjectionPolicy, at: Age) -> (Duration, Fault) {
        let max = nanoseconds(policy.max_time);
        // It was in use and without a fault from its return until the first of these faults.
        let in_use = match self.returned_at.load(Ordering::Relaxed) {
            NEVER => u64::MAX,
            returned => self.first_at.load(Ordering::Relaxed).saturating_sub(returned - 1),
        };
        let repeats = if in_use >= max { 0 } else { self.repeats.load(Ordering::Relaxed) };
        self.repeats.store(repeats.saturating_add(1).min(MOST_REPEATS), Ordering::Relaxed);
        let time = nanoseconds(policy.base_time).saturating_mul(1 << repeats).min(max);
        let until = at.saturating_add(time).saturating_add(1);
        self.ejected_until.store(until, Ordering::Relaxed);
        self.forget_faults();
        (Duration::from_nanos(time), self.last_fault())
    }

    /// Uses it again. What it did before it was ejected counts no more, but how often it was.
    pub(crate) fn readmit(&self, at: Age) {
        self.forget_faults();
        self.returned_at.store(at.saturating_add(1), Ordering::Relaxed);
        self.ejected_until.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
