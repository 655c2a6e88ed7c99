//! One port of a Service with everything the traffic path needs to know of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    AddressKind, Endpoint, Family, Origin, PerPolicy, Reasons, ServicePortName, TrafficPolicy,
};

/// One port of a Service, resolved for this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Namespace, Service, port name and protocol.
    pub name: ServicePortName,
    /// The Service's own port number (`spec.ports[].port`).
    pub port: u16,
    /// `spec.ports[].nodePort`, where one is allocated.
    pub node_port: Option<u16>,
    /// `spec.clusterIPs`: one or two, at most one of each family, primary first.
    pub cluster_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` VIP, of the families of the ClusterIPs
    /// (KEP-1860).
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.externalIPs`, those that the operator allows, of the families of the ClusterIPs.
    pub external_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`: who may reach [`load_balancer_ips`](Self::load_balancer_ips).
    /// In a family of which there is none, everybody, as with kube-proxy.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`, where the Service is of type LoadBalancer with
    /// externalTrafficPolicy Local.
    pub health_check_node_port: Option<u16>,
    /// `spec.ports[].appProtocol`, as written.
    pub app_protocol: Option<Arc<str>>,
    /// What annotation, appProtocol and port name say of the protocol.
    pub protocol_hint: ProtocolHint,
    /// The annotation `streamvs.io/scheduler`, as written: `balance` knows the names.
    pub scheduler: Option<Arc<str>>,
    /// How old its streams and connections may become.
    #[serde(default)]
    pub max_age: MaxAge,
    /// `sessionAffinity: ClientIP` with its timeout; none when affinity is off.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`; Cluster where nothing outside can reach the Service.
    pub external_policy: TrafficPolicy,
    /// All endpoints of both families, used or not, sorted by address, each address once.
    pub endpoints: Vec<Endpoint>,
    /// What the kernel shall do with a new connection for which the policy holds, for each family.
    pub disposition: PerPolicy<PerFamily<Disposition>>,
    /// What `streamvs explain` has to say beyond that.
    pub reasons: Reasons,
}

impl ServicePort {
    /// The ClusterIP of a family, where the Service has one.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// All addresses that are its own: ClusterIPs, then load balancers' addresses, then
    /// externalIPs. One may be listed as two kinds.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let external = self.load_balancer_ips.iter().chain(&self.external_ips);
        self.cluster_ips.iter().chain(external).copied()
    }

    /// What kind of its addresses this is. None: none of those that are its own; a node port's
    /// address is the node's.
    pub fn kind_of(&self, ip: IpAddr) -> Option<AddressKind> {
        if self.cluster_ips.contains(&ip) {
            Some(AddressKind::ClusterIp)
        } else if self.load_balancer_ips.contains(&ip) {
            Some(AddressKind::LoadBalancer)
        } else if self.external_ips.contains(&ip) {
            Some(AddressKind::ExternalIp)
        } else {
            None
        }
    }

    /// From where this address may be reached, as ranges that do not overlap; none: from
    /// everywhere. `node` are the node's own addresses: where the ranges have one of them, its
    /// processes may come with the address itself, which is on the node then.
    ///
    /// Source: kube-proxy's firewall chains, for load balancers' addresses only.
    pub fn sources(&self, ip: IpAddr, node: &[IpAddr]) -> Option<Vec<IpNet>> {
        if self.kind_of(ip) != Some(AddressKind::LoadBalancer) {
            return None;
        }
        let of_family = |range: &&IpNet| Family::of(range.addr()) == Family::of(ip);
        let mut ranges: Vec<IpNet> = self.source_ranges.iter().filter(of_family).copied().collect();
        if node.iter().any(|node| ranges.iter().any(|range| range.contains(node))) {
            ranges.push(ip.into());
        }
        (!ranges.is_empty()).then(|| IpNet::aggregate(&ranges))
    }

    /// It has an address besides its ClusterIPs.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some()
            || !self.load_balancer_ips.is_empty()
            || !self.external_ips.is_empty()
    }

    /// The policy for a connection.
    pub fn policy(&self, kind: AddressKind, origin: Origin) -> TrafficPolicy {
        match (kind, origin) {
            (AddressKind::ClusterIp, _) => self.internal_policy,
            (_, Origin::Outside) => self.external_policy,
            (_, Origin::Inside) => TrafficPolicy::Cluster,
        }
    }

    /// Some connection may come for which the policy holds. Cluster holds for some of a Service
    /// that can be reached from outside, whatever its own policies.
    pub fn uses(&self, policy: TrafficPolicy) -> bool {
        self.internal_policy == policy
            || self.is_external()
                && (policy == TrafficPolicy::Cluster || self.external_policy == policy)
    }

    /// What happens to a new connection to the ClusterIP of the family.
    pub fn internal_disposition(&self, family: Family) -> Disposition {
        self.disposition_by(self.internal_policy, family)
    }

    /// What happens to a new connection for which the policy holds.
    pub fn disposition_by(&self, policy: TrafficPolicy, family: Family) -> Disposition {
        *self.disposition.get(policy).get(family)
    }

    /// New connections or streams may go to the endpoint, under a policy in use.
    pub fn may_use(&self, endpoint: &Endpoint) -> bool {
        TrafficPolicy::BOTH.into_iter().any(|policy| endpoint.usable(policy) && self.uses(policy))
    }

    /// The endpoints of one family.
    pub fn endpoints(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| Family::of(endpoint.address.ip()) == family)
    }
}

/// How old something of a Service may become before it is ended, so that long streams are spread
/// anew. None: nobody says. Zero: as old as it likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaxAge {
    /// An HTTP/2 stream.
    pub stream: Option<Duration>,
    /// A client's HTTP/2 connection.
    pub connection: Option<Duration>,
}

impl MaxAge {
    /// The same, with `default` where nobody says, and no zeros.
    pub fn or(self, default: Self) -> Self {
        let limit = |asked: Option<Duration>, default: Option<Duration>| {
            asked.or(default).filter(|limit| !limit.is_zero())
        };
        Self {
            stream: limit(self.stream, default.stream),
            connection: limit(self.connection, default.connection),
        }
    }
}

/// What was said about the protocol spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProtocolHint {
    /// Nothing: detect it, dialling at once.
    #[default]
    Auto,
    /// HTTP/2 with prior knowledge: still detected, but no early dial is spent on it.
    H2c,
    /// Not to be balanced by stream, whatever the bytes look like.
    Tcp,
}

/// What happens to a new connection to a ServicePort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Disposition {
    /// At least one endpoint is usable: capture it.
    Balance,
    /// No endpoint anywhere: refuse it at once (reset for TCP).
    #[default]
    Reject,
    /// The policy is Local and only other nodes have endpoints: drop it silently, as kube-proxy.
    Drop,
}

/// A value for each IP family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PerFamily<T> {
    /// For IPv4.
    pub v4: T,
    /// For IPv6.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// Makes each family's value with `make`.
    pub fn from_fn(mut make: impl FnMut(Family) -> T) -> Self {
        Self { v4: make(Family::V4), v6: make(Family::V6) }
    }

    /// The family's value.
    pub fn get(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The family's value, to be changed.
    pub fn get_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}
