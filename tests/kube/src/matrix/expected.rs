//! What kube-proxy does, as rules: its iptables mode, which knows pods by this node's `podCIDRs`.
//!
//! Source: kubernetes 1.37, pkg/proxy/iptables (`KUBE-EXT-`, `KUBE-SVL-`, `KUBE-MARK-MASQ`),
//! KEP-2086 for `internalTrafficPolicy`.

use std::collections::BTreeSet;

use streamvs_support::Family;

use super::cell::{By, Cell, Client, Endpoints, Kind, Outcome, Policy, Seen, Target};

/// What a client may get: several outcomes where several endpoints take turns.
pub(crate) fn expected(cell: &Cell) -> BTreeSet<Outcome> {
    // It never works there, says kube-proxy's source, and so no rule of its nat table is for it.
    // Those that drop what comes from outside are, whoever asks.
    if cell.target == Target::Loopback && cell.family == Family::V6 {
        let Kind { external, endpoints, .. } = cell.kind;
        let is_dropped = external == Policy::Local && endpoints == Endpoints::Elsewhere;
        return [if is_dropped { Outcome::Silence } else { Outcome::Refused }].into();
    }
    let all: &[By] = match cell.kind.endpoints {
        Endpoints::Here => &[By::Here],
        Endpoints::Elsewhere => &[By::There],
        Endpoints::Both => &[By::Here, By::There],
        // `KUBE-EXTERNAL-SERVICES` is not asked in OUTPUT.
        Endpoints::None if cell.client == Client::Host && cell.target == Target::LoadBalancer => {
            return [Outcome::Silence].into();
        }
        Endpoints::None => return [Outcome::Refused].into(),
    };
    let policy = policy(cell);
    let usable = all.iter().filter(|by| policy == Policy::Cluster || **by == By::Here);
    let outcomes: BTreeSet<Outcome> =
        usable.map(|by| Outcome::Served(*by, seen(cell, *by))).collect();
    if outcomes.is_empty() { [Outcome::Silence].into() } else { outcomes }
}

/// The short circuit: who is on the node gets, by addresses of the outside, what it would get if
/// its packets went out and came back by another node.
fn policy(cell: &Cell) -> Policy {
    let is_external = cell.target != Target::ClusterIp;
    if is_external && is_inside(cell.client) {
        Policy::Cluster
    } else {
        cell.kind.policy(cell.target)
    }
}

fn is_inside(client: Client) -> bool {
    match client {
        Client::Pod | Client::Host | Client::Hairpin => true,
        Client::Far | Client::Outside => false,
    }
}

fn seen(cell: &Cell, by: By) -> Seen {
    let is_pod = matches!(cell.client, Client::Pod | Client::Hairpin);
    let is_itself = cell.client == Client::Hairpin && by == By::Here;
    let is_node = cell.client == Client::Host;
    let is_masqueraded = match cell.target {
        // What is no pod of this node should not come by one.
        Target::ClusterIp => !is_pod,
        _ => cell.kind.external == Policy::Cluster,
    };
    if is_masqueraded || is_itself || is_node { Seen::Node } else { Seen::Client }
}
