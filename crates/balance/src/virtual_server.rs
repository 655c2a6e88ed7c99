//! One family of one ServicePort, ready to be picked from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use streamvs_table::{Endpoint, Family, PerPolicy, ServicePort, TrafficPolicy};

use crate::affinity::Affinity;
use crate::choice::Search;
use crate::ejection::{self, Ejecting, Fault, Roster};
use crate::replay_budget::{Calls, ReplayBudget};
use crate::scheduler::{Scheduler, arrange};
use crate::slow_start::{Rest, SlowStart};
use crate::{Choice, ReplayReason, Request, SchedulerName, ServiceStats, Target, Unit};

/// The endpoints of one family of one ServicePort, with their load and a scheduler.
///
/// There are two lists of endpoints where both policies are in use, as where externalTrafficPolicy
/// is Local and pods are served by the whole cluster. Each has its own rotation; the load of an
/// endpoint is one for both, and so is a client's affinity.
///
/// Belongs to a generation and is immutable in what it lists; the loads, the rotation, the
/// affinity and the statistics in it are shared with the generations before and after. A
/// ServicePort that did not change has the same virtual server in the next [`Plan`](crate::Plan).
#[derive(Debug)]
pub struct VirtualServer {
    service: Arc<ServicePort>,
    family: Family,
    name: SchedulerName,
    /// By address, each once.
    targets: Box<[Arc<Target>]>,
    /// None under a policy that is not in use.
    lists: PerPolicy<Option<List>>,
    affinity: Option<(Arc<Affinity>, Duration)>,
    /// None: nobody is ejected.
    ejecting: Option<Arc<Ejecting>>,
    lasting: Arc<Lasting>,
}

/// What a virtual server shares with others, or with its other generations.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// Of the node's order of its endpoints.
    pub(crate) seed: u64,
    /// None: nobody is ejected.
    pub(crate) ejecting: Option<Arc<Ejecting>>,
    /// How long endpoints are new. None: they never are.
    pub(crate) slow_start: Option<Duration>,
}

/// The endpoints that are used under one policy.
#[derive(Debug)]
struct List {
    /// In the scheduler's order.
    usable: Arc<[Arc<Target>]>,
    /// The first so many of `usable` take new units.
    candidate_count: usize,
    /// Shared while the candidates stay the same.
    scheduler: Arc<Scheduler>,
    /// None: none of them is new.
    slow_start: Option<SlowStart>,
}

/// What a virtual server keeps over all generations and schedulers.
#[derive(Debug)]
struct Lasting {
    stats: ServiceStats,
    /// Turns taken by `rr` and `wrr`.
    turns: PerPolicy<AtomicU64>,
    roster: Roster,
    replays: ReplayBudget,
    /// Streams that endpoints had been given which are gone.
    departed_streams: AtomicU64,
}

impl VirtualServer {
    /// The virtual server of the next generation. `previous` is the same one's in this generation:
    /// its endpoints that are no longer usable retire now. What is
    /// `common` is the same in each generation.
    pub(crate) fn new(
        service: &Arc<ServicePort>,
        family: Family,
        name: SchedulerName,
        previous: Option<&Self>,
        common: &Common,
        now: Instant,
    ) -> Self {
        let lasting = match previous {
            Some(previous) => Arc::clone(&previous.lasting),
            None => Arc::new(Lasting::new(now)),
        };
        let targets = carry_over(previous, service, family, now, &lasting);
        let lists = PerPolicy::from_fn(|policy| {
            service.uses(policy).then(|| {
                let of_policy = |target: &&Arc<Target>| target.endpoint().usable(policy);
                let usable = targets.iter().filter(of_policy).cloned().collect();
                let previous = previous.and_then(|previous| {
                    let list = previous.lists.get(policy).as_ref()?;
                    Some((list, previous.name == name))
                });
                List::new(usable, name, previous, lasting.turns.get(policy), common, now)
            })
        });
        if let Some(ejecting) = &common.ejecting {
            let candidates = PerPolicy::from_fn(|policy| {
                lists.get(policy).as_ref().map_or_else(|| [].into(), List::share_candidates)
            });
            lasting.roster.renew(ejecting, &service.name, candidates, now);
        }
        let affinity = service.affinity.map(|timeout| {
            let carried = previous.and_then(|previous| previous.affinity.as_ref());
            let carried = carried.map(|(affinity, _)| Arc::clone(affinity));
            (carried.unwrap_or_else(|| Arc::new(Affinity::new())), timeout)
        });
        let ejecting = common.ejecting.clone();
        let service = Arc::clone(service);
        Self { service, family, name, targets, lists, affinity, ejecting, lasting }
    }

    /// The ServicePort, of the generation that last changed it.
    pub fn service(&self) -> &Arc<ServicePort> {
        &self.service
    }

    /// The family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The scheduler's name as asked for: a [degenerate](SchedulerName::degenerate) one runs `rr`.
    /// Where the annotation names none, the default.
    pub fn scheduler(&self) -> SchedulerName {
        self.name
    }

    /// All endpoints of the family, used or not, sorted by address.
    pub fn targets(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// The endpoints new connections and streams for which the policy holds may go to from this
    /// node, in the scheduler's order. Those of weight 0 come last; they get something only if all
    /// have weight 0. Empty where the policy is not in use.
    pub fn usable(&self, policy: TrafficPolicy) -> &[Arc<Target>] {
        self.lists.get(policy).as_ref().map_or(&[], |list| &list.usable)
    }

    /// Totals over all generations.
    pub fn stats(&self) -> &ServiceStats {
        &self.lasting.stats
    }

    /// Picks an endpoint for a connection or stream and counts it there from now on.
    ///
    /// None: no usable endpoint outside `request.tried` takes new units. Ejected ones are passed
    /// over while there are others.
    ///
    /// O(1), or bounded by 64 looks, while nothing was tried and few are ejected; linear in the
    /// endpoints for a unit that failed before. Nothing is allocated, but for the memory of a client not seen before
    /// under sessionAffinity.
    pub fn pick(&self, request: &Request<'_>, rng: &mut fastrand::Rng) -> Option<Choice> {
        let target = match self.passes_over_ejected(request.now) {
            false => self.find(request, false, rng)?,
            true => self.find(request, true, rng).or_else(|| self.find(request, false, rng))?,
        };
        Some(Choice::new(Arc::clone(target), request.unit))
    }

    /// Takes note of a fault of one of its endpoints, of this generation or an earlier one, at the
    /// time `at`: once as many came in a row as the policy says, the endpoint is ejected, if enough
    /// others stay in use. Faults of one instant count as one.
    ///
    /// Takes no lock but for an ejection, and waits for none.
    pub fn fault(&self, target: &Target, fault: Fault, at: Instant) {
        target.stats().faults[fault.index()].inc();
        let Some(ejecting) = &self.ejecting else {
            return;
        };
        let count = target.health().fault(fault, target.age(at));
        if count >= ejecting.policy.consecutive_faults {
            self.lasting.roster.eject(target, ejecting, &self.service.name, at);
        }
    }

    /// Counts a stream that is to be given to another endpoint for `reason`, as the first has not
    /// acted on it. False: it must not, since that would be more replays than there are calls; that
    /// is counted too.
    ///
    /// Linear in the endpoints where there are many replays.
    pub fn replay(&self, reason: ReplayReason, now: Instant) -> bool {
        let stats = self.stats();
        let may = self.lasting.replays.take(now, || self.calls());
        let count = if may { &stats.replays[reason.index()] } else { &stats.replays_refused };
        count.inc();
        may
    }

    fn calls(&self) -> Calls {
        let targets = || self.targets.iter();
        let streams = targets().filter_map(|target| target.recorded_stats());
        let streams: u64 = streams.map(|stats| stats.streams.get()).sum();
        let streams = streams + self.lasting.departed_streams.load(Ordering::Relaxed);
        // These were at an endpoint before, and are counted there as well.
        let again =
            ReplayReason::ALL.into_iter().filter(|reason| *reason != ReplayReason::DialFailed);
        let again: u64 = again.map(|reason| self.stats().replays[reason.index()].get()).sum();
        let active = targets().map(|target| u64::from(target.active_streams())).sum();
        Calls { total: streams.saturating_sub(again), active }
    }

    /// Some candidate may be ejected at `now`. Lets those return whose time is up.
    fn passes_over_ejected(&self, now: Instant) -> bool {
        let roster = &self.lasting.roster;
        if roster.is_clear() {
            return false;
        }
        if let Some(ejecting) = &self.ejecting {
            roster.let_return(ejecting, &self.service.name, now);
        }
        !roster.is_clear()
    }

    fn find(
        &self,
        request: &Request<'_>,
        skips_ejected: bool,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Target>> {
        let search = Search::new(request, skips_ejected);
        match &self.affinity {
            None => self.schedule(request, &search, rng),
            Some((affinity, timeout)) => self.find_bound(affinity, *timeout, request, &search, rng),
        }
    }

    /// Counts a unit that another process began at the endpoint with this address, whether or not
    /// the endpoint takes new ones. None: it is no endpoint of this generation.
    pub fn resume(&self, address: SocketAddr, unit: Unit) -> Option<Choice> {
        let index = self.targets.binary_search_by_key(&address, |target| target.address()).ok()?;
        Some(Choice::new(Arc::clone(&self.targets[index]), unit))
    }

    fn schedule(
        &self,
        request: &Request<'_>,
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Target>> {
        let list = self.lists.get(request.policy).as_ref()?;
        let candidates = list.candidates();
        if candidates.is_empty() {
            return None;
        }
        let turns = self.lasting.turns.get(request.policy);
        if let Some(rest) = list.rest(request.now, rng) {
            let search = Search { rest: Some(rest), ..*search };
            if let Some(index) = list.scheduler.pick(candidates, turns, &search, rng) {
                return Some(&candidates[index]);
            }
        }
        let index = list.scheduler.pick(candidates, turns, search, rng)?;
        Some(&candidates[index])
    }

    /// Streams are bound to their client's endpoint just as connections are. A client whose endpoint
    /// is ejected is bound to another one, and stays there, as if the endpoint had been removed.
    fn find_bound(
        &self,
        affinity: &Affinity,
        timeout: Duration,
        request: &Request<'_>,
        search: &Search<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Target>> {
        let Request { client, policy, now, .. } = *request;
        let usable =
            |address| self.candidate(address, policy).filter(|target| search.may_use(target));
        affinity.recall(client, now, timeout, usable).or_else(|| {
            let picked = self.schedule(request, search, rng)?;
            Some(affinity.bind(client, now, timeout, usable, (picked.address(), picked)))
        })
    }

    /// The candidate with this address.
    fn candidate(&self, address: SocketAddr, policy: TrafficPolicy) -> Option<&Arc<Target>> {
        let list = self.lists.get(policy).as_ref()?;
        let index = self.targets.binary_search_by_key(&address, |target| target.address()).ok()?;
        let target = &self.targets[index];
        let endpoint = target.endpoint();
        let takes_new = endpoint.weight > 0 || list.candidate_count == list.usable.len();
        (endpoint.usable(policy) && takes_new).then_some(target)
    }

    /// The ServicePort, or its family, is gone: all endpoints retire.
    pub(crate) fn retire(&self, now: Instant) {
        let used = self.targets.iter().filter(|target| self.service.may_use(target.endpoint()));
        used.for_each(|target| target.retire(now));
    }
}

impl Lasting {
    fn new(now: Instant) -> Self {
        Self {
            stats: ServiceStats::default(),
            turns: PerPolicy::default(),
            roster: Roster::new(now),
            replays: ReplayBudget::new(now),
            departed_streams: AtomicU64::new(0),
        }
    }
}

impl List {
    /// `previous` is the same policy's list of the generation before, and whether it was under the
    /// same scheduler.
    fn new(
        mut usable: Vec<Arc<Target>>,
        name: SchedulerName,
        previous: Option<(&Self, bool)>,
        turns: &AtomicU64,
        common: &Common,
        now: Instant,
    ) -> Self {
        let seed = common.seed;
        let candidate_count = arrange(&mut usable, name, seed);
        let candidates = &usable[..candidate_count];
        let before = previous.map(|(list, _)| (list.candidates(), list.slow_start.as_ref()));
        let slow_start = SlowStart::new(common.slow_start, candidates, before, now);
        let scheduler = match previous {
            Some((list, true)) if Scheduler::fits(list.candidates(), candidates) => {
                Arc::clone(&list.scheduler)
            }
            _ => {
                let predecessor = previous.map(|(list, _)| (&*list.scheduler, list.candidates()));
                Arc::new(Scheduler::new(name, candidates, turns, predecessor, seed))
            }
        };
        Self { usable: usable.into(), candidate_count, scheduler, slow_start }
    }

    /// Which new candidates a pick passes over, if there are any.
    fn rest(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<Rest<'_>> {
        let slow_start = self.slow_start.as_ref().filter(|_| self.scheduler.starts_slowly())?;
        slow_start.rest(now, rng)
    }

    /// The candidates, for who keeps them.
    fn share_candidates(&self) -> ejection::List {
        match self.candidate_count == self.usable.len() {
            true => Arc::clone(&self.usable),
            false => self.candidates().into(),
        }
    }

    /// The endpoints that take new units.
    fn candidates(&self) -> &[Arc<Target>] {
        &self.usable[..self.candidate_count]
    }
}

/// The targets of the next generation: for an address that stays, the load and the statistics go
/// on, and the target itself does if no fact changed. Retires those that are used no longer under
/// any policy, takes back those that returned, and keeps the count of streams of those that left.
fn carry_over(
    previous: Option<&VirtualServer>,
    service: &ServicePort,
    family: Family,
    now: Instant,
    lasting: &Lasting,
) -> Box<[Arc<Target>]> {
    let was_used =
        |target: &Target| previous.is_some_and(|old| old.service.may_use(target.endpoint()));
    let depart = |target: &Target| {
        if was_used(target) {
            target.retire(now);
        }
        let streams = target.recorded_stats().map_or(0, |stats| stats.streams.get());
        lasting.departed_streams.fetch_add(streams, Ordering::Relaxed);
    };
    // Both are sorted by address.
    let mut old = previous.map_or(&[][..], |previous| &previous.targets).iter().peekable();
    let targets = service
        .endpoints(family)
        .map(|endpoint: &Endpoint| {
            while let Some(gone) = old.next_if(|target| target.address() < endpoint.address) {
                depart(gone);
            }
            let Some(target) = old.next_if(|target| target.address() == endpoint.address) else {
                return Arc::new(Target::new(endpoint.clone(), now));
            };
            match (was_used(target), service.may_use(endpoint)) {
                (true, false) => target.retire(now),
                (false, true) => target.reinstate(now),
                (true, true) | (false, false) => {}
            }
            if target.endpoint() == endpoint {
                Arc::clone(target)
            } else {
                Arc::new(target.continued(endpoint.clone()))
            }
        })
        .collect();
    old.for_each(|gone| depart(gone));
    targets
}

#[cfg(test)]
mod tests;
