//! Which endpoints of one family this node uses under a policy, and why.
//!
//! One pure function of the joined endpoints, the policy and this node's zone. Both policies are
//! decided for each ServicePort, apart from each other: the ClusterIP may be under one, and what
//! comes from outside under the other.
//!
//! | policy | first | only if that is empty | if both are |
//! | --- | --- | --- | --- |
//! | Cluster | ready, narrowed by topology | serving and terminating, topology ignored | reject |
//! | Local | ready and on this node | serving and terminating, on this node | drop if another node has a usable one, else reject |
//!
//! Source: KEP-1669, KEP-2086, kube-proxy's CategorizeEndpoints. Topology is never applied under
//! Local.

use streamvs_table::{Disposition, PerPolicy, TopologyOutcome, TrafficPolicy, Usability};

use crate::slices::Candidate;
use crate::topology::{self, NodeHint, Topology};

/// The decision for one family of one ServicePort; [`Decision::of`] says what it means for each
/// endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision<'a> {
    policy: TrafficPolicy,
    /// An endpoint the policy allows is ready.
    any_ready: bool,
    topology: Topology,
    zone: Option<&'a str>,
}

impl<'a> Decision<'a> {
    pub(crate) fn new(
        candidates: &[Candidate<'_>],
        policy: TrafficPolicy,
        zone: Option<&'a str>,
    ) -> Self {
        let ready = || candidates.iter().filter(|candidate| candidate.facts.conditions.ready);
        let (any_ready, topology) = match policy {
            TrafficPolicy::Cluster => (
                ready().next().is_some(),
                Topology::of(ready().map(|candidate| &candidate.facts.hints), zone),
            ),
            TrafficPolicy::Local => {
                (ready().any(|candidate| candidate.facts.local), Topology::Everywhere)
            }
        };
        Self { policy, any_ready, topology, zone }
    }

    /// Whether an endpoint of those decided over is used.
    pub(crate) fn of(&self, candidate: &Candidate<'_>) -> Usability {
        let facts = candidate.facts;
        if self.policy == TrafficPolicy::Local && !facts.local {
            return Usability::NotLocal;
        }
        if facts.conditions.ready {
            return match self.topology {
                Topology::Everywhere => Usability::Ready,
                Topology::SameNode if facts.hints.node == NodeHint::This => Usability::SameNode,
                Topology::SameNode => Usability::HintedToOtherNode,
                Topology::SameZone if facts.hints.names_zone(self.zone) => Usability::SameZone,
                Topology::SameZone => Usability::HintedToOtherZone,
            };
        }
        if self.any_ready && facts.conditions.terminating {
            Usability::Terminating
        } else if !self.any_ready && facts.conditions.is_fallback() {
            Usability::TerminatingFallback
        } else {
            Usability::NotReady
        }
    }

    /// What the hints came to among those decided over.
    pub(crate) fn topology_outcome(&self, candidates: &[Candidate<'_>]) -> TopologyOutcome {
        match (self.topology, self.policy) {
            (Topology::SameNode, _) => TopologyOutcome::SameNode,
            (Topology::SameZone, _) => TopologyOutcome::SameZone,
            (Topology::Everywhere, TrafficPolicy::Local) => TopologyOutcome::NoHints,
            (Topology::Everywhere, TrafficPolicy::Cluster) => {
                let ready = candidates.iter().filter(|each| each.facts.conditions.ready);
                let hints = ready.map(|each| (each.address, &each.facts.hints));
                topology::why_everywhere(hints, self.zone)
            }
        }
    }
}

/// What happens to a new connection under each policy, given whether any endpoint came out usable.
///
/// Cluster has a usable endpoint whenever any is ready, or serves while it terminates: hints always
/// leave one.
pub(crate) fn disposition(any_usable: PerPolicy<bool>) -> PerPolicy<Disposition> {
    let cluster = if any_usable.cluster { Disposition::Balance } else { Disposition::Reject };
    let local = match (any_usable.local, any_usable.cluster) {
        (true, _) => Disposition::Balance,
        (false, true) => Disposition::Drop,
        (false, false) => Disposition::Reject,
    };
    PerPolicy { cluster, local }
}
