//! How packets to a service address come to the chain that picks an endpoint.
//!
//! ```text
//!  ClusterIP                                   -> enter-rr-3-07
//!                                                   from a pod                   goto rr-3-07
//!                                                   else                         goto masquerade-rr-3-07
//!  other addresses, externalTrafficPolicy
//!    Cluster                                   -> masquerade-rr-3-07: mark it,   goto rr-3-07
//!    Local                                     -> split-rr-3-07
//!                                                   from a pod                   goto rr-3-07
//!                                                   from the node                goto masquerade-rr-3-07
//!                                                   from outside                 vmap @local-services
//! ```
//!
//! A route to the ClusterIPs may lead from outside the cluster to any node, which then sends packets
//! on to an endpoint elsewhere; only what is masqueraded comes back the same way. Where nobody knows
//! where pods are, everybody counts as one.
//!
//! Source: kube-proxy's nftables mode: the external chains (`external-...`), and "masquerade
//! clusterIP traffic from outside cluster" in the chain `services`.

use std::fmt;

use streamvs_table::Family;

use crate::layout;
use crate::order::Turn;

/// What happens before an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// Nothing.
    Straight,
    /// The endpoint is to see the node's address.
    Masquerade,
    /// The same, unless the client is a pod.
    Enter,
    /// Clients outside get the other list of endpoints.
    Split,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Straight, Self::Masquerade, Self::Enter, Self::Split];

    /// This way and those that it needs, which come first.
    pub(crate) fn with_needed(self) -> &'static [Self] {
        match self {
            Self::Straight => &[Self::Straight],
            Self::Masquerade => &[Self::Straight, Self::Masquerade],
            Self::Enter => &[Self::Straight, Self::Masquerade, Self::Enter],
            Self::Split => &[Self::Straight, Self::Masquerade, Self::Split],
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Straight => "",
            Self::Masquerade => "masquerade-",
            Self::Enter => "enter-",
            Self::Split => "split-",
        }
    }

    /// The name of the chain that leads to another one by this way.
    pub(crate) fn chain(self, to: &str) -> String {
        format!("{}{to}", self.prefix())
    }

    /// The way of a chain's name, and the chain to which it leads.
    pub(crate) fn of(name: &str) -> (Self, &str) {
        let by = |way: &Self| name.strip_prefix(way.prefix()).map(|to| (*way, to));
        // Every name begins with the empty prefix of the first.
        Self::ALL.iter().rev().find_map(by).unwrap_or((Self::Straight, name))
    }

    /// How many [`Way::rules`] there are. A chain that picks has one.
    pub(crate) fn rule_count(self) -> usize {
        match self {
            Self::Straight => 1,
            Self::Masquerade | Self::Enter => 2,
            Self::Split => 4,
        }
    }

    /// The rules of the chain that leads to another one by this way; none where it is that chain.
    pub(crate) fn rules(self, family: Family, to: &str) -> Vec<String> {
        let source = layout::source(family);
        match self {
            Self::Straight => vec![],
            Self::Masquerade => vec![format!("jump {}", layout::MARK), format!("goto {to}")],
            Self::Enter => vec![
                format!("{source} @{} goto {to}", layout::KEPT),
                format!("goto {}", Self::Masquerade.chain(to)),
            ],
            Self::Split => vec![
                format!("{source} @{} goto {to}", layout::PODS),
                format!("fib saddr type local goto {}", Self::Masquerade.chain(to)),
                format!("{} vmap @local-services", layout::dialled(family, false)),
                format!("{} vmap @local-node-ports", layout::dialled(family, true)),
            ],
        }
    }
}

/// A chain that all Services share which come to as many endpoints by the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SharedChain {
    pub(crate) way: Way,
    pub(crate) turn: Turn,
}

/// Its name.
impl fmt::Display for SharedChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.way.prefix(), self.turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chains_name_tells_its_way() {
        for way in Way::ALL {
            assert_eq!(Way::of(&way.chain("rr-3-07")), (way, "rr-3-07"));
            let rules = way.rules(Family::V4, "rr-3-07").len();
            assert_eq!(rules.max(1), way.rule_count(), "{way:?}");
        }
    }
}
