//! By which address endpoints see the clients: what is asked for, and what is in force.
//!
//! ```text
//! table (pod ranges of the Node) --[Wish]--> desired --> capture --[InForce]--> workers, log, metric
//! ```
//!
//! Errs towards the node's address: an alias is shown to the workers once the kernel translates it,
//! and hidden from them before it stops.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use streamvs_admin::NodeMetrics;
use streamvs_capture::{Capture, Obstacle};
use streamvs_table::publish::Publisher;
use streamvs_table::{Alias, Aliases, Family, ServicePort, Snapshot, TrafficPolicy};

use crate::origin::pod_ranges;

/// What is asked for.
pub(crate) struct Wish {
    /// Endpoints are to see the clients.
    pub(crate) keep: bool,
    /// The ranges of this node's pods. Empty: as its Node says.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// What aliases are taken from.
    pub(crate) reserve: Vec<IpNet>,
    told: RefCell<Vec<Unfit>>,
}

/// Why some pods have no alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// Nobody says which addresses pods have.
    Unknown,
    /// No reserved range has a part left that is as large as theirs, or it is the same.
    NoRange(IpNet),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "the ranges of this node's pods are not known: its Node has no spec.podCIDRs, and \
                 --pod-cidrs is not given",
            ),
            Self::NoRange(pods) => write!(
                f,
                "no part of --client-ip-ranges is left as large as the pods' {pods} and apart from it"
            ),
        }
    }
}

impl Wish {
    pub(crate) fn new(keep: bool, pod_cidrs: Vec<IpNet>, reserve: Vec<IpNet>) -> Self {
        Self { keep, pod_cidrs, reserve, told: RefCell::default() }
    }

    /// The aliases for a table. What stands in the way is told in the log when it is new.
    pub(crate) fn aliases(&self, snapshot: &Snapshot) -> BTreeSet<Alias> {
        if !self.keep {
            return BTreeSet::new();
        }
        let pods = pod_ranges(&self.pod_cidrs, snapshot.node());
        let mut unfit = Vec::new();
        if pods.is_empty() {
            unfit.push(Unfit::Unknown);
        }
        // In the order in which the ranges were given, so that one that is added moves no other.
        let mut aliases: Vec<Alias> = Vec::new();
        for &pods in pods {
            let parts = self.reserve.iter();
            match parts.copied().find_map(|reserve| Alias::beside(pods, reserve, &aliases)) {
                Some(alias) => aliases.push(alias),
                None => unfit.push(Unfit::NoRange(pods)),
            }
        }
        let told = self.told.replace(unfit.clone());
        for reason in unfit.iter().filter(|reason| !told.contains(reason)) {
            tracing::warn!(%reason, "endpoints see the node's address instead of the client's");
        }
        aliases.into_iter().collect()
    }

    /// The ranges of pods that are to see clients outside by their own address: this node's, where
    /// a Service says that no other node's serve those.
    pub(crate) fn transparent(&self, snapshot: &Snapshot) -> BTreeSet<IpNet> {
        let is_local = |service: &Arc<ServicePort>| {
            service.is_external() && service.external_policy == TrafficPolicy::Local
        };
        if !self.keep || !snapshot.services().any(is_local) {
            return BTreeSet::new();
        }
        pod_ranges(&self.pod_cidrs, snapshot.node()).iter().copied().collect()
    }
}

/// What is in force, and who is told of it.
pub(crate) struct InForce {
    publisher: Publisher<Aliases>,
    metrics: Arc<NodeMetrics>,
    obstacles: Vec<(Alias, Obstacle)>,
}

impl InForce {
    pub(crate) fn new(publisher: Publisher<Aliases>, metrics: Arc<NodeMetrics>) -> Self {
        Self { publisher, metrics, obstacles: Vec::new() }
    }

    /// Hides from the workers what the kernel is about to stop to translate: all that do not stay.
    pub(crate) fn hide_others(&self, stays: impl Fn(&Alias) -> bool) {
        let current = self.publisher.current();
        if !current.iter().all(&stays) {
            self.publisher.publish(Arc::new(current.keeping(stays)));
        }
    }

    /// Shows the workers what the kernel translates.
    pub(crate) fn show(&mut self, capture: &Capture) {
        let aliases = capture.aliases();
        for family in Family::BOTH {
            let kept = aliases.iter().any(|alias| alias.family() == family);
            self.metrics.client_ip_kept(family, kept);
        }
        let current = self.publisher.current();
        if *current != aliases {
            for alias in aliases.iter().filter(|alias| !current.iter().any(|old| old == *alias)) {
                let (pods, through) = (alias.clients(), alias.aliases());
                tracing::info!(%pods, %through, "endpoints see these pods' own addresses");
            }
            self.publisher.publish(Arc::new(aliases));
        }
        let obstacles = capture.obstacles();
        for (alias, reason) in obstacles.iter().filter(|told| !self.obstacles.contains(told)) {
            let pods = alias.clients();
            tracing::warn!(%pods, %reason, "endpoints see the node's address instead of the client's");
        }
        self.obstacles = obstacles;
    }
}

#[cfg(test)]
mod tests {
    //! Aim: aliases are taken from the Node or the flag, as large as the pods' ranges.

    use streamvs_table::NodeFacts;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn the_flag_wins_over_the_node_and_what_does_not_fit_is_left_out() {
        let reserve = vec![net("198.18.0.0/15"), net("fd00::/49")];
        let pod_cidrs = ["10.244.1.0/24", "2001:db8:1::/64", "10.0.0.0/8"].map(net).into();
        let node = NodeFacts { pod_cidrs, ..NodeFacts::default() };
        let snapshot = Snapshot::default().with_node(Arc::new(node));
        let of = |keep: bool, flag: &[IpNet], snapshot: &Snapshot| {
            let wish = Wish::new(keep, flag.to_vec(), reserve.clone());
            let aliases = wish.aliases(snapshot);
            aliases.iter().map(|alias| (alias.clients(), alias.aliases())).collect::<Vec<_>>()
        };
        assert_eq!(
            of(true, &[], &snapshot),
            [
                (net("10.244.1.0/24"), net("198.18.0.0/24")),
                (net("2001:db8:1::/64"), net("fd00::/64"))
            ]
        );
        let flag = [net("192.0.2.0/25")];
        assert_eq!(of(true, &flag, &snapshot), [(flag[0], net("198.18.0.0/25"))]);
        let two = [net("10.244.5.0/26"), net("10.244.9.64/26")];
        assert_eq!(
            of(true, &two, &snapshot),
            [(two[0], net("198.18.0.0/26")), (two[1], net("198.18.0.64/26"))],
            "no pod is taken for one of another range"
        );
        assert_eq!(of(false, &flag, &snapshot), []);
        assert_eq!(of(true, &[], &Snapshot::default()), []);
    }
}
