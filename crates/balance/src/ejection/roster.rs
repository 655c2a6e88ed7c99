//! Who of a ServicePort's endpoints is ejected, and who may be.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use streamvs_table::{PerPolicy, ServicePortName, TrafficPolicy};

use super::{Ejecting, EjectionChange, EjectionEvent, nanoseconds};
use crate::Target;

/// The endpoints that take new units under one policy, in the newest generation. Empty where the
/// policy is not in use.
pub(crate) type List = Arc<[Arc<Target>]>;

/// The ejections of one virtual server, over all its generations.
///
/// Invariants, whenever nobody holds the lock: of each list at most half are ejected; `ejected` is
/// 0 only if none is, and `next_return` no later than the first return.
///
/// Locking: what ejects or returns holds the lock, for one look at each endpoint. Workers only
/// ever try it, and leave it to the next fault or pick where somebody else has it.
#[derive(Debug)]
pub(crate) struct Roster {
    /// Ejected endpoints, one that is in both lists twice.
    ejected: AtomicU32,
    /// When the first of them returns, in nanoseconds from `born`.
    next_return: AtomicU64,
    /// Until then, counted alike, nobody else is ejected: see [`PAUSE`].
    refused_until: AtomicU64,
    born: Instant,
    lists: Mutex<PerPolicy<List>>,
}

/// After an ejection that would have been one too many, how long there is no look whether another
/// may be, for each endpoint: so that looking takes a few hundredths of the time at most, however
/// many there are and however fast they fail.
const PAUSE: Duration = Duration::from_micros(1);

impl Roster {
    pub(crate) fn new(born: Instant) -> Self {
        Self {
            ejected: AtomicU32::new(0),
            next_return: AtomicU64::new(u64::MAX),
            refused_until: AtomicU64::new(0),
            born,
            lists: Mutex::new(PerPolicy::from_fn(|_| List::from([]))),
        }
    }

    /// Nobody is ejected: all that a pick looks at while all goes well.
    pub(crate) fn is_clear(&self) -> bool {
        self.ejected.load(Ordering::Relaxed) == 0
    }

    /// The next generation's endpoints. Ejections of those that stay go on, as far as enough
    /// others do.
    pub(crate) fn renew(
        &self,
        ejecting: &Ejecting,
        service: &ServicePortName,
        lists: PerPolicy<List>,
        now: Instant,
    ) {
        let mut held = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        *held = lists;
        self.review(&held, ejecting, service, now);
    }

    /// Lets those return whose time is up. To be called before a pick that would pass over them.
    pub(crate) fn let_return(&self, ejecting: &Ejecting, service: &ServicePortName, now: Instant) {
        if self.age(now) < self.next_return.load(Ordering::Relaxed) {
            return;
        }
        if let Some(lists) = self.try_lock() {
            self.review(&lists, ejecting, service, now);
        }
    }

    /// Ejects an endpoint that has had its faults, if enough others stay in use.
    pub(crate) fn eject(
        &self,
        target: &Target,
        ejecting: &Ejecting,
        service: &ServicePortName,
        now: Instant,
    ) {
        if self.age(now) < self.refused_until.load(Ordering::Relaxed) {
            return target.health().forget_faults();
        }
        let Some(lists) = self.try_lock() else {
            return;
        };
        self.review(&lists, ejecting, service, now);
        // Another worker may have been faster.
        if target.health().faults() < ejecting.policy.consecutive_faults {
            return;
        }
        let mut of_it = both(&lists).filter(|list| stands_in(list, target.address())).peekable();
        let may = of_it.peek().is_some()
            && of_it.all(|list| ejected_of(list).count() < most_ejected(list));
        if !may {
            // Looked at again after as many faults more.
            let pause =
                nanoseconds(PAUSE) * both(&lists).map(|list| list.len() as u64).sum::<u64>();
            self.refused_until.store(self.age(now).saturating_add(pause), Ordering::Relaxed);
            return target.health().forget_faults();
        }
        let (time, fault) = target.health().eject(&ejecting.policy, target.age(now));
        target.stats().ejections.inc();
        self.count(&lists);
        let change = EjectionChange::Ejected { time, fault };
        (ejecting.tell)(EjectionEvent { service, endpoint: target.address(), change });
    }

    /// Lets return whose time is up, and whoever is one too many.
    fn review(
        &self,
        lists: &PerPolicy<List>,
        ejecting: &Ejecting,
        service: &ServicePortName,
        now: Instant,
    ) {
        let readmit = |target: &Target, change| {
            target.readmit(now);
            (ejecting.tell)(EjectionEvent { service, endpoint: target.address(), change });
        };
        for list in both(lists) {
            for target in ejected_of(list).filter(|target| target.ejection(now).is_none()) {
                readmit(target, EjectionChange::Returned);
            }
            while ejected_of(list).count() > most_ejected(list) {
                let first = ejected_of(list).min_by_key(|target| target.returns_at());
                let Some(first) = first else { break };
                readmit(first, EjectionChange::Recalled);
            }
        }
        self.count(lists);
    }

    /// Brings what picks look at up to date.
    fn count(&self, lists: &PerPolicy<List>) {
        let ejected = || both(lists).flat_map(ejected_of);
        let first = ejected().filter_map(|target| target.returns_at()).min();
        let next_return = first.map_or(u64::MAX, |first| self.age(first));
        self.next_return.store(next_return, Ordering::Relaxed);
        let count = u32::try_from(ejected().count()).unwrap_or(u32::MAX);
        self.ejected.store(count, Ordering::Relaxed);
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, PerPolicy<List>>> {
        match self.lists.try_lock() {
            Ok(lists) => Some(lists),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn age(&self, at: Instant) -> u64 {
        nanoseconds(at.saturating_duration_since(self.born))
    }
}

/// Of so many endpoints at most half may be ejected, which leaves the last one in use.
fn most_ejected(list: &List) -> usize {
    list.len() / 2
}

fn both(lists: &PerPolicy<List>) -> impl Iterator<Item = &List> {
    TrafficPolicy::BOTH.into_iter().map(|policy| lists.get(policy))
}

fn ejected_of(list: &List) -> impl Iterator<Item = &Arc<Target>> {
    list.iter().filter(|target| target.is_ejected())
}

fn stands_in(list: &List, address: SocketAddr) -> bool {
    list.iter().any(|target| target.address() == address)
}
