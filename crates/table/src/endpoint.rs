//! One endpoint of a ServicePort, and whether this node uses it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{PerPolicy, TrafficPolicy};

/// One address and port behind a ServicePort, with the conditions its EndpointSlice gave it and
/// what `resolve` made of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Where to connect. The port is the slice's, so that named target ports may differ per pod.
    pub address: SocketAddr,
    /// The node it runs on, where the slice says so.
    pub node: Option<Arc<str>>,
    /// Its zone, where the slice says so.
    pub zone: Option<Arc<str>>,
    /// `conditions.ready`, true where the slice has none.
    pub ready: bool,
    /// `conditions.serving`, true where the slice has none.
    pub serving: bool,
    /// `conditions.terminating`, false where the slice has none.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Share of new traffic relative to the other endpoints: 1 as in kube-proxy, unless the
    /// EndpointSlice is annotated `streamvs.io/weight`. 0 takes nothing new.
    pub weight: u16,
    /// Whether new connections and streams may go here from this node, and why: by each policy, as
    /// the two lists are decided apart.
    pub usability: PerPolicy<Usability>,
}

impl Endpoint {
    /// New connections and streams for which the policy holds may go here.
    pub fn usable(&self, policy: TrafficPolicy) -> bool {
        self.usability.get(policy).usable()
    }
}

/// Why an endpoint is, or is not, used from this node under a policy.
///
/// Source: KEP-1669 (terminating endpoints), KEP-2086 (traffic policies), KEP-2433, 4444 and
/// 3015 (hints).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Usability {
    /// Used: it is ready.
    Ready,
    /// Used: ready, and its hint names this node.
    SameNode,
    /// Used: ready, and its hint names this node's zone.
    SameZone,
    /// Used: no ready endpoint is left, and this one still serves while it terminates.
    TerminatingFallback,
    /// Not used: not ready.
    NotReady,
    /// Not used: it terminates, and others are ready.
    Terminating,
    /// Not used: every endpoint has a node hint, and this one's names other nodes.
    HintedToOtherNode,
    /// Not used: every endpoint has a zone hint, and this one's names other zones.
    HintedToOtherZone,
    /// Not used: the policy is Local, and it runs on another node.
    NotLocal,
}

impl Usability {
    /// New connections and streams may go here.
    pub fn usable(self) -> bool {
        match self {
            Self::Ready | Self::SameNode | Self::SameZone | Self::TerminatingFallback => true,
            Self::NotReady
            | Self::Terminating
            | Self::HintedToOtherNode
            | Self::HintedToOtherZone
            | Self::NotLocal => false,
        }
    }

    /// A short reason for people, as `streamvs list` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::SameNode => "ready, hinted to this node",
            Self::SameZone => "ready, hinted to this zone",
            Self::TerminatingFallback => "terminating but serving, and no endpoint is ready",
            Self::NotReady => "not ready",
            Self::Terminating => "terminating",
            Self::HintedToOtherNode => "hinted to other nodes",
            Self::HintedToOtherZone => "hinted to other zones",
            Self::NotLocal => "the traffic policy is Local and it runs on another node",
        }
    }
}

impl fmt::Display for Usability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn used_and_unused_are_told_apart_and_each_has_its_own_reason() {
        let used = [
            Usability::Ready,
            Usability::SameNode,
            Usability::SameZone,
            Usability::TerminatingFallback,
        ];
        let unused = [
            Usability::NotReady,
            Usability::Terminating,
            Usability::HintedToOtherNode,
            Usability::HintedToOtherZone,
            Usability::NotLocal,
        ];
        assert!(used.iter().all(|usability| usability.usable()));
        assert!(!unused.iter().any(|usability| usability.usable()));
        let reasons: BTreeSet<_> = used.iter().chain(&unused).map(Usability::to_string).collect();
        assert_eq!(reasons.len(), used.len() + unused.len());
    }
}
