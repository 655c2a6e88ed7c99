//! What the informers of all kinds tell, in one form.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::informer::Event;
use super::known::Key;

/// The kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// v1 Service.
    Services,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlices,
    /// v1 Node, this one only.
    Nodes,
    /// networking.k8s.io/v1 ServiceCIDR, where the server has it (1.33 and later).
    ServiceCidrs,
}

impl Kind {
    /// All, in the order of declaration.
    pub const ALL: [Self; 4] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    /// As in a URL of the API, and in RBAC rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
        }
    }

    /// The agent goes without it where the server does not have it, or does not show it.
    pub(crate) fn optional(self) -> bool {
        match self {
            Self::Services | Self::EndpointSlices | Self::Nodes => false,
            Self::ServiceCidrs => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object of a watched kind.
#[derive(Debug)]
pub(crate) enum Object {
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Node(Box<Node>),
    ServiceCidr(Box<ServiceCIDR>),
}

impl Object {
    /// Its key. The API server gives no object without a name.
    pub(crate) fn key(&self) -> Key {
        let metadata: &ObjectMeta = match self {
            Self::Service(service) => &service.metadata,
            Self::Slice(slice) => &slice.metadata,
            Self::Node(node) => &node.metadata,
            Self::ServiceCidr(cidr) => &cidr.metadata,
        };
        Self::key_of(metadata)
    }

    pub(crate) fn key_of(metadata: &ObjectMeta) -> Key {
        let part = |part: &Option<String>| Arc::from(part.as_deref().unwrap_or_default());
        (part(&metadata.namespace), part(&metadata.name))
    }
}

/// What the informer of a kind tells.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) event: Event<Object>,
}

pub(crate) fn service(event: Event<Service>) -> Message {
    let object = |service| Object::Service(Box::new(service));
    Message { kind: Kind::Services, event: event.map(object) }
}

pub(crate) fn slice(event: Event<EndpointSlice>) -> Message {
    let object = |slice| Object::Slice(Box::new(slice));
    Message { kind: Kind::EndpointSlices, event: event.map(object) }
}

pub(crate) fn this_node(event: Event<Node>) -> Message {
    let object = |node| Object::Node(Box::new(node));
    Message { kind: Kind::Nodes, event: event.map(object) }
}

pub(crate) fn service_cidr(event: Event<ServiceCIDR>) -> Message {
    let object = |cidr| Object::ServiceCidr(Box::new(cidr));
    Message { kind: Kind::ServiceCidrs, event: event.map(object) }
}
