//! Which ready endpoints a node prefers, from the hints the control plane gave.
//!
//! The Service's own field (`trafficDistribution`) is not looked at: since KEP-4444 the hints
//! alone decide. Evaluated over ready endpoints only; see [`Topology::of`].

use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointHints;
use streamvs_table::TopologyOutcome;

use crate::names::Names;

/// What an endpoint's `hints` say, as far as this node may ever care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) node: NodeHint,
    /// `forZones`, empty where there are none. Kept whole, as this node's zone may change.
    pub(crate) zones: Box<[Arc<str>]>,
}

/// What `forNodes` says. This node's name never changes, so one of three is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeHint {
    /// There is none.
    None,
    /// It names this node.
    This,
    /// It names other nodes only.
    Other,
}

impl Hints {
    pub(crate) fn read(
        written: Option<&EndpointHints>,
        node_name: &str,
        names: &mut Names,
    ) -> Self {
        let nodes = written.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
        let zones = written.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
        let node = if nodes.is_empty() {
            NodeHint::None
        } else if nodes.iter().any(|node| node.name == node_name) {
            NodeHint::This
        } else {
            NodeHint::Other
        };
        Self { node, zones: zones.iter().map(|zone| names.intern(&zone.name)).collect() }
    }

    pub(crate) fn names_zone(&self, zone: Option<&str>) -> bool {
        zone.is_some_and(|zone| self.zones.iter().any(|hinted| &**hinted == zone))
    }
}

/// The choice for one family of one ServicePort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topology {
    /// All ready endpoints.
    Everywhere,
    /// Ready endpoints whose hint names this node (KEP-3015, PreferSameNode).
    SameNode,
    /// Ready endpoints whose hint names this node's zone (KEP-2433, KEP-4444, PreferSameZone).
    SameZone,
}

impl Topology {
    /// Decides over the hints of the ready endpoints, in this order:
    ///
    /// 1. each has a node hint, and one names this node: `SameNode`;
    /// 2. each has a zone hint, and one names this node's zone: `SameZone`;
    /// 3. `Everywhere`.
    ///
    /// So one endpoint without a hint turns its level off for all, which lets the control plane
    /// roll hints out slice by slice; and a choice other than `Everywhere` always leaves at least
    /// one endpoint.
    pub(crate) fn of<'a>(ready: impl Iterator<Item = &'a Hints>, zone: Option<&str>) -> Self {
        let (mut all_hint_nodes, mut this_node) = (true, false);
        let (mut all_hint_zones, mut this_zone) = (true, false);
        for hints in ready {
            all_hint_nodes &= hints.node != NodeHint::None;
            this_node |= hints.node == NodeHint::This;
            all_hint_zones &= !hints.zones.is_empty();
            this_zone |= hints.names_zone(zone);
            if !all_hint_nodes && !all_hint_zones {
                return Self::Everywhere;
            }
        }
        if all_hint_nodes && this_node {
            Self::SameNode
        } else if all_hint_zones && this_zone {
            Self::SameZone
        } else {
            Self::Everywhere
        }
    }
}

/// Why [`Topology::of`] said `Everywhere` of these ready endpoints. The level that most of them
/// have hints for is the one that is missed.
pub(crate) fn why_everywhere<'a>(
    ready: impl Iterator<Item = (SocketAddr, &'a Hints)>,
    zone: Option<&str>,
) -> TopologyOutcome {
    let (mut hint_nodes, mut hint_zones) = (0, 0);
    let (mut without_node, mut without_zone) = (None, None);
    for (address, hints) in ready {
        match hints.node {
            NodeHint::None => without_node = without_node.or(Some(address)),
            NodeHint::This | NodeHint::Other => hint_nodes += 1,
        }
        if hints.zones.is_empty() {
            without_zone = without_zone.or(Some(address));
        } else {
            hint_zones += 1;
        }
    }
    let (count, without) = if hint_zones >= hint_nodes {
        (hint_zones, without_zone)
    } else {
        (hint_nodes, without_node)
    };
    match without {
        _ if count == 0 => TopologyOutcome::NoHints,
        Some(without_hint) => TopologyOutcome::Incomplete { without_hint },
        None if hint_zones > 0 && zone.is_none() => TopologyOutcome::NodeWithoutZone,
        None => TopologyOutcome::NoneForThisNode,
    }
}
