//! One port of a Service with everything the traffic path needs to know of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Endpoint, Family, Reasons, ServicePortName};

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
    /// `spec.ports[].appProtocol`, as written.
    pub app_protocol: Option<Arc<str>>,
    /// What annotation, appProtocol and port name say of the protocol.
    pub protocol_hint: ProtocolHint,
    /// The annotation `streamvs.io/scheduler`, as written: `balance` knows the names.
    pub scheduler: Option<Arc<str>>,
    /// `sessionAffinity: ClientIP` with its timeout; none when affinity is off.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// All endpoints of both families, used or not, sorted by address, each address once.
    pub endpoints: Vec<Endpoint>,
    /// What the kernel shall do with a new connection, for each family.
    pub disposition: PerFamily<Disposition>,
    /// What `streamvs explain` has to say beyond that.
    pub reasons: Reasons,
}

impl ServicePort {
    /// The ClusterIP of a family, where the Service has one.
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// The endpoints of one family.
    pub fn endpoints(&self, family: Family) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| Family::of(endpoint.address.ip()) == family)
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

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Endpoints on the client's node only.
    Local,
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
