//! One family of one ServicePort, ready to be picked from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use streamvs_table::{Endpoint, Family, ServicePort};

use crate::affinity::Affinity;
use crate::scheduler::{Scheduler, arrange};
use crate::{Choice, Request, SchedulerName, ServiceStats, Target};

/// The endpoints of one family of one ServicePort, with their load and a scheduler.
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
    /// In the scheduler's order.
    usable: Box<[Arc<Target>]>,
    /// The first so many of `usable` take new units.
    candidate_count: usize,
    /// Shared while the candidates stay the same.
    scheduler: Arc<Scheduler>,
    affinity: Option<(Arc<Affinity>, Duration)>,
    lasting: Arc<Lasting>,
}

/// What a virtual server keeps over all generations and schedulers.
#[derive(Debug, Default)]
struct Lasting {
    stats: ServiceStats,
    /// Turns taken by `rr` and `wrr`.
    turns: AtomicU64,
}

impl VirtualServer {
    /// The virtual server of the next generation. `previous` is the same one's in this generation:
    /// its endpoints that are no longer usable retire now. `seed` is the same in each generation.
    pub(crate) fn new(
        service: &Arc<ServicePort>,
        family: Family,
        name: SchedulerName,
        previous: Option<&Self>,
        seed: u64,
        now: Instant,
    ) -> Self {
        let targets = carry_over(
            previous.map_or(&[], |previous| &*previous.targets),
            service.endpoints(family),
            now,
        );
        let mut usable: Box<[_]> =
            targets.iter().filter(|target| target.endpoint().usable()).cloned().collect();
        let candidate_count = arrange(&mut usable, name, seed);
        let candidates = &usable[..candidate_count];

        let lasting = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.lasting));
        let scheduler = match previous {
            Some(previous)
                if previous.name == name && Scheduler::fits(previous.candidates(), candidates) =>
            {
                Arc::clone(&previous.scheduler)
            }
            _ => {
                let predecessor =
                    previous.map(|previous| (&*previous.scheduler, previous.candidates()));
                Arc::new(Scheduler::new(name, candidates, &lasting.turns, predecessor, seed))
            }
        };
        let affinity = service.affinity.map(|timeout| {
            let carried = previous.and_then(|previous| previous.affinity.as_ref());
            let carried = carried.map(|(affinity, _)| Arc::clone(affinity));
            (carried.unwrap_or_else(|| Arc::new(Affinity::new())), timeout)
        });
        Self {
            service: Arc::clone(service),
            family,
            name,
            targets,
            usable,
            candidate_count,
            scheduler,
            affinity,
            lasting,
        }
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

    /// The endpoints new connections and streams may go to from this node, in the scheduler's
    /// order. Those of weight 0 come last; they get something only if all have weight 0.
    pub fn usable(&self) -> &[Arc<Target>] {
        &self.usable
    }

    /// Totals over all generations.
    pub fn stats(&self) -> &ServiceStats {
        &self.lasting.stats
    }

    /// Picks an endpoint for a connection or stream and counts it there from now on.
    ///
    /// None: no usable endpoint outside `request.tried` takes new units.
    ///
    /// O(1), or bounded by 64 looks, while nothing was tried; linear in the endpoints for a unit
    /// that failed before. Nothing is allocated, but for the memory of a client not seen before
    /// under sessionAffinity.
    pub fn pick(&self, request: &Request<'_>, rng: &mut fastrand::Rng) -> Option<Choice> {
        let target = match &self.affinity {
            None => self.schedule(request, rng)?,
            Some((affinity, timeout)) => self.pick_bound(affinity, *timeout, request, rng)?,
        };
        Some(Choice::new(Arc::clone(target), request.unit))
    }

    fn schedule(&self, request: &Request<'_>, rng: &mut fastrand::Rng) -> Option<&Arc<Target>> {
        let candidates = self.candidates();
        if candidates.is_empty() {
            return None;
        }
        let index = self.scheduler.pick(candidates, &self.lasting.turns, request, rng)?;
        Some(&candidates[index])
    }

    /// Streams are bound to their client's endpoint just as connections are.
    fn pick_bound(
        &self,
        affinity: &Affinity,
        timeout: Duration,
        request: &Request<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<&Arc<Target>> {
        let Request { client, now, .. } = *request;
        let usable = |address| self.candidate(address).filter(|target| request.may_use(target));
        affinity.recall(client, now, timeout, usable).or_else(|| {
            let picked = self.schedule(request, rng)?;
            Some(affinity.bind(client, now, timeout, usable, (picked.address(), picked)))
        })
    }

    /// The endpoints that take new units.
    fn candidates(&self) -> &[Arc<Target>] {
        &self.usable[..self.candidate_count]
    }

    /// The candidate with this address.
    fn candidate(&self, address: SocketAddr) -> Option<&Arc<Target>> {
        let index = self.targets.binary_search_by_key(&address, |target| target.address()).ok()?;
        let target = &self.targets[index];
        let endpoint = target.endpoint();
        let takes_new = endpoint.weight > 0 || self.candidate_count == self.usable.len();
        (endpoint.usable() && takes_new).then_some(target)
    }

    /// Where clients reach it; none if the Service has no ClusterIP of the family.
    pub(crate) fn cluster_address(&self) -> Option<(IpAddr, u16)> {
        Some((self.service.cluster_ip(self.family)?, self.service.port))
    }

    /// The ServicePort, or its family, is gone: all endpoints retire.
    pub(crate) fn retire(&self, now: Instant) {
        for target in &self.usable {
            target.retire(now);
        }
    }
}

/// The targets of the next generation: for an address that stays, the load and the statistics go
/// on, and the target itself does if no fact changed. Retires those that left the usable set and
/// takes back those that returned. Both inputs are sorted by address.
fn carry_over<'a>(
    old: &[Arc<Target>],
    endpoints: impl Iterator<Item = &'a Endpoint>,
    now: Instant,
) -> Box<[Arc<Target>]> {
    let retire_if_used = |target: &Target| {
        if target.endpoint().usable() {
            target.retire(now);
        }
    };
    let mut old = old.iter().peekable();
    let targets = endpoints
        .map(|endpoint| {
            while let Some(gone) = old.next_if(|target| target.address() < endpoint.address) {
                retire_if_used(gone);
            }
            let Some(target) = old.next_if(|target| target.address() == endpoint.address) else {
                return Arc::new(Target::new(endpoint.clone(), now));
            };
            match (target.endpoint().usable(), endpoint.usable()) {
                (true, false) => target.retire(now),
                (false, true) => target.reinstate(),
                (true, true) | (false, false) => {}
            }
            if target.endpoint() == endpoint {
                Arc::clone(target)
            } else {
                Arc::new(target.continued(endpoint.clone()))
            }
        })
        .collect();
    old.for_each(|gone| retire_if_used(gone));
    targets
}

#[cfg(test)]
mod tests;
