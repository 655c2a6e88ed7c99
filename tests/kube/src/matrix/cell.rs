//! The cells: who asks for which Service by which address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use streamvs_support::Family;
use streamvs_support::lab::{Host, Lab};

use super::services;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// A pod of this node.
    Pod,
    /// A process of this node.
    Host,
    /// The pod that is the Service's endpoint on this node.
    Hairpin,
    /// A pod of another node.
    Far,
    /// A host outside the cluster, with routes by this node.
    Outside,
}

/// By which of the Service's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    ClusterIp,
    /// The node port at the node's address.
    NodePort,
    /// The node port at 127.0.0.1 or `::1`.
    Loopback,
    /// The load balancer's address.
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// Where the Service's ready endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoints {
    Here,
    Elsewhere,
    Both,
    None,
}

/// A Service, of TCP and UDP in both families, with all kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) internal: Policy,
    pub(crate) external: Policy,
    pub(crate) endpoints: Endpoints,
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) kind: Kind,
    pub(crate) client: Client,
    pub(crate) target: Target,
    pub(crate) protocol: Protocol,
    pub(crate) family: Family,
}

/// Which of the two endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    /// That of this node.
    Here,
    /// That of the other node.
    There,
}

/// Whom an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// The client, which is not the node.
    Client,
    /// The node, by whichever of its addresses.
    Node,
    /// Nobody that has to do with it.
    Stranger,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// An answer.
    Served(By, Seen),
    /// A reset or "port unreachable" at once: to a program both are ECONNREFUSED.
    Refused,
    /// Another "unreachable" by ICMP.
    Unreachable,
    /// A connection that ends without an answer.
    Broken,
    /// Nothing at all.
    Silence,
}

impl Kind {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for internal in [Policy::Cluster, Policy::Local] {
            for external in [Policy::Cluster, Policy::Local] {
                for endpoints in
                    [Endpoints::Here, Endpoints::Elsewhere, Endpoints::Both, Endpoints::None]
                {
                    all.push(Self { internal, external, endpoints });
                }
            }
        }
        all
    }

    /// The policy for an address of the Service, but for exceptions.
    pub(crate) fn policy(self, target: Target) -> Policy {
        match target {
            Target::ClusterIp => self.internal,
            Target::NodePort | Target::Loopback | Target::LoadBalancer => self.external,
        }
    }
}

impl Cell {
    /// Every one that has a meaning.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in Kind::all() {
            for (client, target) in pairs(kind.endpoints) {
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    all.extend(Family::BOTH.map(|family| Self {
                        kind,
                        client,
                        target,
                        protocol,
                        family,
                    }));
                }
            }
        }
        all
    }

    /// Where the client is.
    pub(crate) fn host<'a>(&self, lab: &'a Lab) -> &'a Host {
        match self.client {
            Client::Pod => lab.pod("client"),
            Client::Host => lab.node(),
            Client::Hairpin => lab.pod(services::HERE),
            Client::Far => lab.pod("far"),
            Client::Outside => lab.outside(),
        }
    }

    /// Whom it asks.
    pub(crate) fn address(&self, lab: &Lab) -> SocketAddr {
        let service = services::PORT;
        match self.target {
            Target::ClusterIp => SocketAddr::new(services::of(self.kind).ip(self.family), service),
            Target::LoadBalancer => {
                SocketAddr::new(services::load_balancer(self.kind, self.family), service)
            }
            Target::NodePort => lab.node().at(self.family, services::node_port(self.kind)),
            Target::Loopback => {
                let loopback: IpAddr = match self.family {
                    Family::V4 => Ipv4Addr::LOCALHOST.into(),
                    Family::V6 => Ipv6Addr::LOCALHOST.into(),
                };
                SocketAddr::new(loopback, services::node_port(self.kind))
            }
        }
    }
}

/// Clients and the addresses they may ask by. Left out: loopback of others than the node, which is
/// their own; what a pod of another node has from its own node's proxy; and the hairpin where the
/// pod is no endpoint, and so a pod like any other.
fn pairs(endpoints: Endpoints) -> Vec<(Client, Target)> {
    use Target::{ClusterIp, LoadBalancer, Loopback, NodePort};
    let everywhere = [ClusterIp, NodePort, LoadBalancer];
    let mut pairs: Vec<(Client, Target)> = Vec::new();
    for client in [Client::Pod, Client::Host, Client::Hairpin, Client::Outside] {
        let is_endpoint = matches!(endpoints, Endpoints::Here | Endpoints::Both);
        if client != Client::Hairpin || is_endpoint {
            pairs.extend(everywhere.map(|target| (client, target)));
        }
    }
    pairs.extend([(Client::Host, Loopback), (Client::Far, NodePort)]);
    pairs
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, client, target, protocol, family } = self;
        let Kind { internal, external, endpoints } = kind;
        write!(
            f,
            "{protocol:?} {} {client:?} -> {target:?}, endpoints {endpoints:?}, \
             internal {internal:?}, external {external:?}",
            family.as_str(),
        )
    }
}

/// Outcomes in words, for people.
pub(crate) fn in_words(outcomes: &BTreeSet<Outcome>) -> String {
    outcomes.iter().map(|outcome| format!("{outcome:?}")).collect::<Vec<_>>().join(" or ")
}
