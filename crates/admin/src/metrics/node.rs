//! What is counted of the node as a whole, and its exposition together with [`Health`]'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::histogram::{self, exponential_buckets};
use streamvs_balance::{Counter, Histogram, HistogramSnapshot, Plan};
use streamvs_table::{Disposition, Family, PerFamily};

use super::source::SourceMetrics;
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
    /// Its client has as many open as a client may.
    ClientLimit,
    /// Memory is short.
    Memory,
    /// No descriptor is left.
    Descriptors,
}

impl Refusal {
    /// All, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::NotCaptured,
        Self::NoOriginalDestination,
        Self::UnknownService,
        Self::Limit,
        Self::ClientLimit,
        Self::Memory,
        Self::Descriptors,
    ];

    /// As the label `reason` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotCaptured => "not_captured",
            Self::NoOriginalDestination => "no_original_destination",
            Self::UnknownService => "unknown_service",
            Self::Limit => "limit",
            Self::ClientLimit => "client_limit",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
        }
    }
}

/// What is given up for want of memory, in this order.
const SHED: [&str; 3] = ["capture", "connections", "streams"];

/// The memory ceiling as it was measured last.
#[derive(Debug, Default)]
struct Memory {
    /// 0: there is none.
    limit_bytes: AtomicU64,
    counted_bytes: AtomicU64,
    /// How many of [`SHED`].
    shed: AtomicU64,
}

/// How much of the kernel's rules a sync looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sync {
    /// All of them.
    Full,
    /// Those that a change concerned.
    Partial,
}

/// Changes of one kind of object.
#[derive(Debug, Default)]
struct ChangeCounts {
    total: Counter,
    pending: AtomicU64,
}

impl ChangeCounts {
    fn learnt(&self, count: u64) {
        self.total.add(count);
        self.pending.fetch_add(count, Relaxed);
    }
}

/// Counters of what belongs to no ServicePort. All methods may be called from any thread.
#[derive(Debug)]
pub struct NodeMetrics {
    table_swap: Histogram,
    capture_repairs: Counter,
    client_ip_kept: PerFamily<AtomicBool>,
    system_calls_refused: AtomicBool,
    refused: [Counter; Refusal::ALL.len()],
    memory: Memory,
    sync_duration: PerFamily<histogram::Histogram>,
    sync_full: PerFamily<histogram::Histogram>,
    sync_partial: PerFamily<histogram::Histogram>,
    flows_deleted: PerFamily<Counter>,
    flows_reconciled: PerFamily<histogram::Histogram>,
    network_programming: PerFamily<histogram::Histogram>,
    service_changes: ChangeCounts,
    slice_changes: ChangeCounts,
    /// What belongs to the source of objects.
    pub source: SourceMetrics,
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

    /// Whether endpoints see this node's pods of a family as themselves.
    pub fn client_ip_kept(&self, family: Family, kept: bool) {
        self.client_ip_kept.get(family).store(kept, Relaxed);
    }

    /// Whether system calls that nobody here needs fail from now on.
    pub fn system_calls_refused(&self, refused: bool) {
        self.system_calls_refused.store(refused, Relaxed);
    }

    /// An accepted connection was closed at once.
    pub fn refused(&self, reason: Refusal) {
        self.refused[reason as usize].inc();
    }

    /// What counts against the memory ceiling, which there is, and how many steps of what can be
    /// given up are: new connections are not captured, are refused, new streams are refused.
    pub fn memory_measured(&self, limit_bytes: u64, counted_bytes: u64, shed: usize) {
        self.memory.limit_bytes.store(limit_bytes, Relaxed);
        self.memory.counted_bytes.store(counted_bytes, Relaxed);
        self.memory.shed.store(shed as u64, Relaxed);
    }

    /// The kernel's rules of a family were brought up to date.
    pub fn rules_synced(&self, family: Family, sync: Sync, took: Duration) {
        let of_kind = match sync {
            Sync::Full => &self.sync_full,
            Sync::Partial => &self.sync_partial,
        };
        for histogram in [&self.sync_duration, of_kind] {
            histogram.get(family).observe(took.as_secs_f64());
        }
    }

    /// The UDP flows of a family were looked at, and so many forgotten.
    pub fn flows_reconciled(&self, family: Family, deleted: u64, took: Duration) {
        self.flows_deleted.get(family).add(deleted);
        self.flows_reconciled.get(family).observe(took.as_secs_f64());
    }

    /// So many changes of Services and EndpointSlices were learnt.
    pub fn changes_learnt(&self, services: u64, slices: u64) {
        self.service_changes.learnt(services);
        self.slice_changes.learnt(slices);
    }

    /// All changes learnt so far are applied, in the table and in the kernel.
    pub fn changes_applied(&self) {
        self.service_changes.pending.store(0, Relaxed);
        self.slice_changes.pending.store(0, Relaxed);
    }

    /// A change of a slice of this family is applied, so long after what made it happened.
    pub fn network_programmed(&self, family: Family, since_trigger: Duration) {
        self.network_programming.get(family).observe(since_trigger.as_secs_f64());
    }
}

impl Default for NodeMetrics {
    fn default() -> Self {
        // kube-proxy's bounds: 1 ms, doubled 14 times.
        let sync = || {
            let new = |_| histogram::Histogram::new(exponential_buckets(0.001, 2.0, 15));
            PerFamily::from_fn(new)
        };
        Self {
            table_swap: Histogram::default(),
            capture_repairs: Counter::default(),
            client_ip_kept: PerFamily::default(),
            system_calls_refused: AtomicBool::default(),
            refused: Default::default(),
            memory: Memory::default(),
            sync_duration: sync(),
            sync_full: sync(),
            sync_partial: sync(),
            flows_deleted: PerFamily::default(),
            flows_reconciled: sync(),
            network_programming: PerFamily::from_fn(|_| {
                histogram::Histogram::new(network_programming_bounds())
            }),
            service_changes: ChangeCounts::default(),
            slice_changes: ChangeCounts::default(),
            source: SourceMetrics::default(),
        }
    }
}

/// kube-proxy's: 0, quarters to half a second, seconds to one minute, every 5 to two, every 30 to
/// five.
fn network_programming_bounds() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.0, 0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

/// ServicePorts of which clients are dropped for want of an endpoint on this node, by the policy
/// that wants one there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NoLocalEndpoints {
    /// internalTrafficPolicy: clients of the ClusterIP on this node.
    internal: PerFamily<u64>,
    /// externalTrafficPolicy: clients outside.
    external: PerFamily<u64>,
}

pub(super) fn no_local_endpoints(plan: &Plan) -> NoLocalEndpoints {
    let mut counts = NoLocalEndpoints::default();
    for service in plan.snapshot().services() {
        for family in Family::BOTH {
            let dropped = |policy| service.disposition_by(policy, family) == Disposition::Drop;
            if dropped(service.internal_policy) {
                *counts.internal.get_mut(family) += 1;
            }
            if service.is_external() && dropped(service.external_policy) {
                *counts.external.get_mut(family) += 1;
            }
        }
    }
    counts
}

/// Writes down what is known of the node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) generation: u64,
    pub(super) no_local_endpoints: NoLocalEndpoints,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<NodeMetrics>,
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let Self { generation, no_local_endpoints, health, metrics } = self;

        begin(encoder, &catalogue::TABLE_GENERATION)?.only().gauge(*generation)?;
        let HistogramSnapshot { sum_seconds, count, buckets } = metrics.table_swap.snapshot();
        let swap = begin(encoder, &catalogue::TABLE_SWAP)?;
        swap.only().histogram(sum_seconds, count, &buckets)?;
        metrics.source.encode(health, encoder)?;
        let repairs = metrics.capture_repairs.get();
        begin(encoder, &catalogue::CAPTURE_REPAIRS)?.only().counter(repairs)?;

        let mut kept = begin(encoder, &catalogue::CLIENT_IP_KEPT)?;
        for family in Family::BOTH {
            let value = metrics.client_ip_kept.get(family).load(Relaxed);
            kept.at(&[("ip_family", family.as_str())])?.gauge(u64::from(value))?;
        }
        let filtered = metrics.system_calls_refused.load(Relaxed);
        begin(encoder, &catalogue::SYSTEM_CALLS_REFUSED)?.only().gauge(u64::from(filtered))?;
        let mut refused = begin(encoder, &catalogue::REFUSED_CONNECTIONS)?;
        for (reason, count) in Refusal::ALL.into_iter().zip(&metrics.refused) {
            refused.at(&[("reason", reason.as_str())])?.counter(count.get())?;
        }
        let limit_bytes = metrics.memory.limit_bytes.load(Relaxed);
        if limit_bytes > 0 {
            begin(encoder, &catalogue::MEMORY_LIMIT)?.only().gauge(limit_bytes)?;
            let counted_bytes = metrics.memory.counted_bytes.load(Relaxed);
            begin(encoder, &catalogue::MEMORY_COUNTED)?.only().gauge(counted_bytes)?;
            let mut shed = begin(encoder, &catalogue::MEMORY_SHED)?;
            for (what, step) in SHED.into_iter().zip(1..) {
                let given_up = metrics.memory.shed.load(Relaxed) >= step;
                shed.at(&[("what", what)])?.gauge(u64::from(given_up))?;
            }
        }
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        begin(encoder, &catalogue::BUILD)?.only().info(&version)?;

        let mut deleted = begin(encoder, &catalogue::FLOWS_DELETED)?;
        for family in Family::BOTH {
            let count = metrics.flows_deleted.get(family).get();
            deleted.at(&[("ip_family", family.as_str())])?.counter(count)?;
        }
        for (metric, histograms) in [
            (catalogue::SYNC_DURATION, &metrics.sync_duration),
            (catalogue::SYNC_FULL, &metrics.sync_full),
            (catalogue::SYNC_PARTIAL, &metrics.sync_partial),
            (catalogue::FLOWS_RECONCILED, &metrics.flows_reconciled),
            (catalogue::NETWORK_PROGRAMMING, &metrics.network_programming),
        ] {
            let mut samples = begin(encoder, &metric)?;
            for family in Family::BOTH {
                let labels = [("ip_family", family.as_str())];
                histograms.get(family).encode(samples.at(&labels)?.0)?;
            }
        }
        for (pending, total, changes) in [
            (
                catalogue::ENDPOINT_CHANGES_PENDING,
                catalogue::ENDPOINT_CHANGES,
                &metrics.slice_changes,
            ),
            (
                catalogue::SERVICE_CHANGES_PENDING,
                catalogue::SERVICE_CHANGES,
                &metrics.service_changes,
            ),
        ] {
            begin(encoder, &pending)?.only().gauge(changes.pending.load(Relaxed))?;
            begin(encoder, &total)?.only().counter(changes.total.get())?;
        }
        let mut no_local = begin(encoder, &catalogue::NO_LOCAL_ENDPOINTS)?;
        let NoLocalEndpoints { internal, external } = no_local_endpoints;
        for (policy, counts) in [("internal", internal), ("external", external)] {
            for family in Family::BOTH {
                let labels = [("ip_family", family.as_str()), ("traffic_policy", policy)];
                no_local.at(&labels)?.gauge(*counts.get(family))?;
            }
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
