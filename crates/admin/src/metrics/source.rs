//! What is counted of the API server as source: whether its watches work, and the state file.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::DescriptorEncoder;
use streamvs_balance::Counter;

use super::{begin, catalogue};
use crate::{Health, TableSource};

/// Counters of the source. Empty where there is no API server. All methods may be called from any
/// thread.
#[derive(Debug, Default)]
pub struct SourceMetrics {
    /// By kind of objects, of which there are four.
    watches: Mutex<BTreeMap<&'static str, Watch>>,
    saved: Counter,
    not_saved: Counter,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    works: bool,
    failures: u64,
}

impl SourceMetrics {
    /// Changes of this kind of objects arrive.
    pub fn watch_works(&self, kind: &'static str) {
        self.watches().entry(kind).or_default().works = true;
    }

    /// A request for this kind of objects failed; it is tried again.
    pub fn watch_failed(&self, kind: &'static str) {
        let mut watches = self.watches();
        let watch = watches.entry(kind).or_default();
        watch.works = false;
        watch.failures += 1;
    }

    /// The state file was written, or could not be.
    pub fn state_saved(&self, well: bool) {
        if well { &self.saved } else { &self.not_saved }.inc();
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<&'static str, Watch>> {
        // Nothing panics while the lock is held.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn encode(
        &self,
        health: &Health,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let mut source = begin(encoder, &catalogue::TABLE_SOURCE)?;
        if let Some(in_use) = health.table_source() {
            for each in TableSource::ALL {
                let value = u64::from(each == in_use);
                source.at(&[("source", each.as_str())])?.gauge(value)?;
            }
        }
        let watches = self.watches().clone();
        let mut works = begin(encoder, &catalogue::WATCH_WORKS)?;
        for (kind, watch) in &watches {
            works.at(&[("kind", *kind)])?.gauge(u64::from(watch.works))?;
        }
        let mut failures = begin(encoder, &catalogue::WATCH_FAILURES)?;
        for (kind, watch) in &watches {
            failures.at(&[("kind", *kind)])?.counter(watch.failures)?;
        }
        let mut saves = begin(encoder, &catalogue::STATE_SAVES)?;
        for (result, count) in [("ok", self.saved.get()), ("failed", self.not_saved.get())] {
            if count > 0 {
                saves.at(&[("result", result)])?.counter(count)?;
            }
        }
        Ok(())
    }
}
