//! An endpoint with what is going on there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use streamvs_table::Endpoint;

use crate::ejection::{Ejected, Health, nanoseconds};
use crate::{TargetStats, Unit};

/// An endpoint of one ServicePort with its load and statistics, shared by all workers.
///
/// The endpoint's facts belong to a generation; the load and the statistics belong to the address
/// and go on for as long as the ServicePort lists it, under whatever facts. A pod behind two
/// ServicePorts is two targets.
#[derive(Debug)]
pub struct Target {
    endpoint: Endpoint,
    ledger: Arc<Ledger>,
}

impl Target {
    /// A target of an address not seen in the generation before.
    pub(crate) fn new(endpoint: Endpoint, now: Instant) -> Self {
        Self { endpoint, ledger: Arc::new(Ledger::new(now)) }
    }

    /// The same address with new facts.
    pub(crate) fn continued(&self, endpoint: Endpoint) -> Self {
        debug_assert_eq!(self.address(), endpoint.address, "a ledger belongs to one address");
        Self { endpoint, ledger: Arc::clone(&self.ledger) }
    }

    /// The facts of the generation this target came from.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// TCP connections picked and not yet ended.
    pub fn active_connections(&self) -> u32 {
        (self.ledger.units.load(Ordering::Relaxed) >> CONNECTION_SHIFT) as u32
    }

    /// Streams picked and not yet ended.
    pub fn active_streams(&self) -> u32 {
        self.ledger.units.load(Ordering::Relaxed) as u32
    }

    /// Connections and streams together: what `lc` and its relatives compare.
    pub fn outstanding(&self) -> u32 {
        let units = self.ledger.units.load(Ordering::Relaxed);
        ((units >> CONNECTION_SHIFT) as u32).saturating_add(units as u32)
    }

    /// The totals, to be counted into. The first call for an address allocates them, with its
    /// health (296 bytes): most of the endpoints a node knows never get traffic from it.
    pub fn stats(&self) -> &TargetStats {
        &self.record().stats
    }

    /// The totals if anything was ever counted, to be read without allocating.
    pub fn recorded_stats(&self) -> Option<&TargetStats> {
        self.ledger.record.get().map(|record| &record.stats)
    }

    /// The endpoint has answered: the faults before count no more. A load, unless there were any.
    pub fn answered(&self) {
        if let Some(record) = self.ledger.record.get() {
            record.health.answered();
        }
    }

    /// Picks pass over it, as far as there are others.
    pub fn is_ejected(&self) -> bool {
        self.ledger.record.get().is_some_and(|record| record.health.is_ejected())
    }

    /// How it is ejected at `now`. None: it is in use, or is from the next pick on.
    pub fn ejection(&self, now: Instant) -> Option<Ejected> {
        let (until, fault) = self.ledger.record.get()?.health.ejected_until()?;
        let remaining = until.checked_sub(self.age(now)).filter(|remaining| *remaining > 0)?;
        Some(Ejected { remaining: Duration::from_nanos(remaining), fault })
    }

    /// Its faults since its last answer.
    pub fn consecutive_faults(&self) -> u32 {
        self.ledger.record.get().map_or(0, |record| record.health.faults())
    }

    /// When the address left the usable set; none while it is in it, or never was. Says so on old
    /// targets too, since it is kept with the load: a stream that starts with this set came late.
    pub fn retired_at(&self) -> Option<Instant> {
        self.ledger.retired_at()
    }

    /// The share of new traffic. Zero stands only among candidates when every usable endpoint has
    /// it; they are equal then.
    pub(crate) fn share(&self) -> u64 {
        u64::from(self.endpoint.weight.max(1))
    }

    pub(crate) fn begin(&self, unit: Unit) {
        self.ledger.units.fetch_add(one(unit), Ordering::Relaxed);
    }

    pub(crate) fn end(&self, unit: Unit) {
        self.ledger.units.fetch_sub(one(unit), Ordering::Relaxed);
    }

    pub(crate) fn exchange(&self, from: Unit, to: Unit) {
        self.ledger.units.fetch_add(one(to).wrapping_sub(one(from)), Ordering::Relaxed);
    }

    pub(crate) fn retire(&self, now: Instant) {
        self.ledger.retire(now);
    }

    /// It is usable again. That is news of it: what was held against it before counts no more.
    pub(crate) fn reinstate(&self, now: Instant) {
        self.ledger.retired.store(NOT_RETIRED, Ordering::Relaxed);
        if self.is_ejected() {
            self.readmit(now);
        } else if let Some(record) = self.ledger.record.get() {
            record.health.forget_faults();
        }
    }

    /// Its ejection ends.
    pub(crate) fn readmit(&self, now: Instant) {
        self.health().readmit(self.age(now));
    }

    /// When its ejection ends, if it is ejected.
    pub(crate) fn returns_at(&self) -> Option<Instant> {
        let (until, _) = self.ledger.record.get()?.health.ejected_until()?;
        // A time beyond the clock's end is never.
        self.ledger.born.checked_add(Duration::from_nanos(until))
    }

    /// Allocates as [`Target::stats`] does.
    pub(crate) fn health(&self) -> &Health {
        &self.record().health
    }

    /// Nanoseconds since the address was first seen.
    pub(crate) fn age(&self, at: Instant) -> u64 {
        nanoseconds(at.saturating_duration_since(self.ledger.born))
    }

    fn record(&self) -> &Record {
        self.ledger.record.get_or_init(Box::default)
    }

    /// Both count in the same ledger.
    #[cfg(test)]
    pub(crate) fn continues(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.ledger, &other.ledger)
    }
}

/// Streams are counted in the low half of [`Ledger::units`], connections in the high half.
const CONNECTION_SHIFT: u32 = 32;

fn one(unit: Unit) -> u64 {
    match unit {
        Unit::Connection => 1 << CONNECTION_SHIFT,
        Unit::Stream => 1,
    }
}

const NOT_RETIRED: u64 = 0;

/// What is written down about an address over all generations. One cache line with its `Arc`.
///
/// Memory order: all of it is relaxed. Each atomic stands for itself, no other memory is published
/// through one, and read-modify-write on a single atomic neither loses nor doubles a unit whatever
/// the order. A scheduler may read a load that is some nanoseconds old; no order could prevent
/// that, since another worker may pick between its look and its pick anyway.
#[derive(Debug)]
struct Ledger {
    /// Connections and streams in one word, so that a reader sees their sum at one time and a
    /// connection that becomes a stream is never counted twice or not at all. Each guard adds and
    /// takes away its own one; 2^32 of either cannot be open, so the halves do not touch.
    units: AtomicU64,
    /// What `retired` counts from.
    born: Instant,
    /// Nanoseconds from `born` to the retirement, plus one; [`NOT_RETIRED`] for none.
    retired: AtomicU64,
    record: OnceLock<Box<Record>>,
}

/// What is written down about an address from its first use on.
#[derive(Debug, Default)]
struct Record {
    stats: TargetStats,
    health: Health,
}

impl Ledger {
    fn new(now: Instant) -> Self {
        Self {
            units: AtomicU64::new(0),
            born: now,
            retired: AtomicU64::new(NOT_RETIRED),
            record: OnceLock::new(),
        }
    }

    fn retire(&self, now: Instant) {
        let age = nanoseconds(now.saturating_duration_since(self.born));
        self.retired.store(age.saturating_add(1), Ordering::Relaxed);
    }

    fn retired_at(&self) -> Option<Instant> {
        let age = self.retired.load(Ordering::Relaxed).checked_sub(1)?;
        self.born.checked_add(Duration::from_nanos(age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{endpoint, start};

    #[test]
    fn connections_and_streams_are_counted_apart_and_together() {
        let target = Target::new(endpoint(1), start());
        for _ in 0..3 {
            target.begin(Unit::Connection);
        }
        for _ in 0..5 {
            target.begin(Unit::Stream);
        }
        assert_eq!((target.active_connections(), target.active_streams()), (3, 5));
        assert_eq!(target.outstanding(), 8);

        target.exchange(Unit::Connection, Unit::Stream);
        assert_eq!((target.active_connections(), target.active_streams()), (2, 6));
        target.exchange(Unit::Stream, Unit::Connection);
        target.exchange(Unit::Stream, Unit::Stream);
        assert_eq!((target.active_connections(), target.active_streams()), (3, 5));

        for _ in 0..3 {
            target.end(Unit::Connection);
        }
        for _ in 0..5 {
            target.end(Unit::Stream);
        }
        assert_eq!(target.outstanding(), 0);
    }

    #[test]
    fn retirement_is_kept_to_the_nanosecond_and_can_be_taken_back() {
        let target = Target::new(endpoint(1), start());
        assert_eq!(target.retired_at(), None);
        for after in [0, 1, 1_234_567_891] {
            let now = start() + Duration::from_nanos(after);
            target.retire(now);
            assert_eq!(target.retired_at(), Some(now));
        }
        target.reinstate(start());
        assert_eq!(target.retired_at(), None);
    }

    #[test]
    fn statistics_exist_from_the_first_use() {
        let target = Target::new(endpoint(1), start());
        assert!(target.recorded_stats().is_none());
        target.stats().streams.inc();
        assert_eq!(target.recorded_stats().map(|stats| stats.streams.get()), Some(1));
    }

    #[test]
    fn sizes_are_as_documented() {
        // Two counts stand before the value in an Arc.
        let counts = 2 * size_of::<usize>();
        assert!(size_of::<Ledger>() + counts <= 64, "{}", size_of::<Ledger>());
        assert!(size_of::<Record>() <= 296, "{}", size_of::<Record>());
        assert!(size_of::<Target>() + counts <= 112, "{}", size_of::<Target>());
    }
}
