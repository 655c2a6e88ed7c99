//! What is counted of the node as a whole, and its exposition together with [`Health`]'s.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::histogram::{self, exponential_buckets};
use streamvs_balance::{Counter, Histogram, HistogramSnapshot};
use streamvs_table::{Family, PerFamily};

use super::{begin, catalogue};
use crate::Health;

/// Why an accepted connection was closed before anything was read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It was made to the listener itself and not captured on its way elsewhere.
    NotCaptured,
    /// The kernel could not tell where it was going.
    NoOriginalDestination,
    /// It was going to an address that is no ServicePort (any more).
    UnknownService,
    /// As many connections are open as are allowed.
    Limit,
}

impl Refusal {
    /// All, in the order of declaration.
    pub const ALL: [Self; 4] =
        [Self::NotCaptured, Self::NoOriginalDestination, Self::UnknownService, Self::Limit];

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotCaptured => "not_captured",
            Self::NoOriginalDestination => "no_original_destination",
            Self::UnknownService => "unknown_service",
            Self::Limit => "limit",
        }
    }
}

/// Counters of what belongs to no ServicePort. All methods may be called from any thread.
#[derive(Debug)]
pub struct NodeMetrics {
    table_swap: Histogram,
    capture_repairs: Counter,
    refused: [Counter; Refusal::ALL.len()],
    sync_duration: PerFamily<histogram::Histogram>,
}

impl NodeMetrics {
    /// A new table is in use, this long after the change was learnt.
    pub fn table_swapped(&self, since_learnt: Duration) {
        self.table_swap.observe(since_learnt);
    }

    /// So many kernel rules of ours had to be put back.
    pub fn capture_repaired(&self, rules: u64) {
        self.capture_repairs.add(rules);
    }

    /// An accepted connection was closed at once.
    pub fn refused(&self, reason: Refusal) {
        self.refused[reason as usize].inc();
    }

    /// The kernel's rules of a family were brought up to date.
    pub fn rules_synced(&self, family: Family, took: Duration) {
        self.sync_duration.get(family).observe(took.as_secs_f64());
    }
}

impl Default for NodeMetrics {
    fn default() -> Self {
        // kube-proxy's bounds: 1 ms, doubled 14 times.
        let sync = || histogram::Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            table_swap: Histogram::default(),
            capture_repairs: Counter::default(),
            refused: Default::default(),
            sync_duration: PerFamily::from_fn(|_| sync()),
        }
    }
}

/// Writes down what is known of the node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) generation: u64,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<NodeMetrics>,
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let Self { generation, health, metrics } = self;

        begin(encoder, &catalogue::TABLE_GENERATION)?.only().gauge(*generation)?;
        let HistogramSnapshot { sum_seconds, count, buckets } = metrics.table_swap.snapshot();
        let swap = begin(encoder, &catalogue::TABLE_SWAP)?;
        swap.only().histogram(sum_seconds, count, &buckets)?;
        let repairs = metrics.capture_repairs.get();
        begin(encoder, &catalogue::CAPTURE_REPAIRS)?.only().counter(repairs)?;

        let mut refused = begin(encoder, &catalogue::REFUSED_CONNECTIONS)?;
        for (reason, count) in Refusal::ALL.into_iter().zip(&metrics.refused) {
            refused.at(&[("reason", reason.as_str())])?.counter(count.get())?;
        }
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        begin(encoder, &catalogue::BUILD)?.only().info(&version)?;

        let mut sync = begin(encoder, &catalogue::SYNC_DURATION)?;
        for family in Family::BOTH {
            let labels = [("ip_family", family.as_str())];
            metrics.sync_duration.get(family).encode(sync.at(&labels)?.0)?;
        }
        let times = Family::BOTH.map(|family| (family, health.times(family)));
        let mut applied = begin(encoder, &catalogue::SYNC_LAST)?;
        for (family, time) in times.iter().filter_map(|(f, t)| Some((f, t.applied?))) {
            applied.at(&[("ip_family", family.as_str())])?.gauge(seconds(time))?;
        }
        let mut queued = begin(encoder, &catalogue::SYNC_LAST_QUEUED)?;
        for (family, time) in times.iter().filter_map(|(f, t)| Some((f, t.queued?))) {
            queued.at(&[("ip_family", family.as_str())])?.gauge(seconds(time))?;
        }
        for (metric, answers) in
            [(catalogue::HEALTHZ, &health.healthz), (catalogue::LIVEZ, &health.livez)]
        {
            let mut samples = begin(encoder, &metric)?;
            for (code, count) in answers.read() {
                samples.at(&[("code", code)])?.counter(count)?;
            }
        }
        Ok(())
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}
