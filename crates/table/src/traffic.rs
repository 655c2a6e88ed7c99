//! Which policy holds for a connection: by what address it was made to, and from where.
//!
//! | to | from a pod or this node | from outside |
//! | --- | --- | --- |
//! | ClusterIP | internalTrafficPolicy | internalTrafficPolicy |
//! | load balancer's address, externalIP, node port | Cluster, the short circuit | externalTrafficPolicy |
//!
//! Source: kube-proxy's `externalPolicyChain`; KEP-2086.

use serde::{Deserialize, Serialize};

/// A traffic policy of a Service, and the list of endpoints it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

impl TrafficPolicy {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Cluster, Self::Local];
}

/// Which kind of a Service's addresses a connection was made to. The lower has a disputed address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// An address of the node, at `spec.ports[].nodePort`.
    NodePort,
}

/// Where a connection is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A pod, or a process of this node.
    Inside,
    /// Anywhere else.
    Outside,
}

/// A value for each policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PerPolicy<T> {
    /// For Cluster.
    pub cluster: T,
    /// For Local.
    pub local: T,
}

impl<T> PerPolicy<T> {
    /// Makes each policy's value with `make`.
    pub fn from_fn(mut make: impl FnMut(TrafficPolicy) -> T) -> Self {
        Self { cluster: make(TrafficPolicy::Cluster), local: make(TrafficPolicy::Local) }
    }

    /// The policy's value.
    pub fn get(&self, policy: TrafficPolicy) -> &T {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// The policy's value, to be changed.
    pub fn get_mut(&mut self, policy: TrafficPolicy) -> &mut T {
        match policy {
            TrafficPolicy::Cluster => &mut self.cluster,
            TrafficPolicy::Local => &mut self.local,
        }
    }
}

impl<T: Clone> PerPolicy<T> {
    /// The same for both.
    pub fn both(value: T) -> Self {
        Self { cluster: value.clone(), local: value }
    }
}
