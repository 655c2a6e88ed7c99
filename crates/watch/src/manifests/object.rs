//! An object read from a file, in the form in which it is remembered.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Service, ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use streamvs_resolve::Change;
use streamvs_table::ServiceName;

/// Annotations that are ours; the others (`kubectl` leaves whole objects in one) are forgotten.
const OUR_ANNOTATIONS: &str = "streamvs.io/";

/// The kinds of objects that are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Service,
    EndpointSlice,
    Node,
}

/// Which object it is, over all files. `namespace` is empty for a Node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectKey {
    pub(crate) kind: Kind,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// What of an object is of use, as compact JSON: a third of the size of the typed object, easily
/// compared, and as good as the object when it must be applied again since another file that
/// defined it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body(Box<[u8]>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: ObjectKey,
    pub(crate) body: Body,
}

impl Object {
    /// `metadata` has a name, see [`key`]. Of the status, load balancers' addresses are of use.
    pub(crate) fn service(
        key: ObjectKey,
        metadata: ObjectMeta,
        spec: Option<ServiceSpec>,
        status: Option<ServiceStatus>,
    ) -> Self {
        let metadata = slim(metadata, &key);
        let load_balancer = status.and_then(|status| status.load_balancer);
        let status = load_balancer.map(|load_balancer| ServiceStatus {
            load_balancer: Some(load_balancer),
            ..ServiceStatus::default()
        });
        let body = Body::write(&Service { metadata, spec, status });
        Self { key, body }
    }

    /// Fills in what the API server fills in: a port without a name has the empty one, a port
    /// without a protocol is TCP. Drops what only people read.
    pub(crate) fn slice(
        key: ObjectKey,
        metadata: ObjectMeta,
        address_type: String,
        mut endpoints: Vec<Endpoint>,
        mut ports: Vec<EndpointPort>,
    ) -> Self {
        for endpoint in &mut endpoints {
            endpoint.deprecated_topology = None;
            endpoint.hostname = None;
            endpoint.target_ref = None;
        }
        for port in &mut ports {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        let metadata = slim(metadata, &key);
        let (endpoints, ports) = (Some(endpoints), Some(ports));
        let body = Body::write(&EndpointSlice { address_type, endpoints, metadata, ports });
        Self { key, body }
    }

    /// Of the specification nothing but the ranges of pods is of use, of the status, which changes
    /// with every heartbeat, nothing but the addresses.
    pub(crate) fn node(
        key: ObjectKey,
        metadata: ObjectMeta,
        spec: Option<NodeSpec>,
        status: Option<NodeStatus>,
    ) -> Self {
        let metadata = slim(metadata, &key);
        let spec = spec.map(|NodeSpec { pod_cidr, pod_cidrs, .. }| NodeSpec {
            pod_cidr,
            pod_cidrs,
            ..NodeSpec::default()
        });
        let addresses = status.and_then(|status| status.addresses);
        let status = addresses
            .map(|addresses| NodeStatus { addresses: Some(addresses), ..NodeStatus::default() });
        let body = Body::write(&Node { metadata, spec, status });
        Self { key, body }
    }
}

/// The key of an object. None: it has no name.
pub(crate) fn key(kind: Kind, metadata: &ObjectMeta) -> Option<ObjectKey> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    let namespace = match kind {
        Kind::Node => "",
        Kind::Service | Kind::EndpointSlice => metadata
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or("default"),
    };
    Some(ObjectKey { kind, namespace: namespace.into(), name: name.into() })
}

/// The part of an object's metadata that is of use.
fn slim(metadata: ObjectMeta, key: &ObjectKey) -> ObjectMeta {
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| key.starts_with(OUR_ANNOTATIONS));
    ObjectMeta {
        name: Some(key.name.to_string()),
        namespace: (key.kind != Kind::Node).then(|| key.namespace.to_string()),
        labels: metadata.labels,
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    }
}

impl Body {
    fn write(object: &impl Serialize) -> Self {
        let json = serde_json::to_vec(object).expect("Kubernetes objects have a JSON form");
        Self(json.into())
    }

    fn read<T: DeserializeOwned>(&self) -> Box<T> {
        let object = serde_json::from_slice(&self.0);
        Box::new(object.expect("a body is what was written for its kind"))
    }
}

/// What to tell the resolver: the object as `body` has it, or that it is gone.
pub(crate) fn change(key: &ObjectKey, body: Option<&Body>) -> Change {
    let ObjectKey { kind, namespace, name } = key;
    let (namespace, name) = (Arc::clone(namespace), Arc::clone(name));
    match (kind, body) {
        (Kind::Service, Some(body)) => Change::Service(body.read()),
        (Kind::Service, None) => Change::DeleteService(ServiceName { namespace, name }),
        (Kind::EndpointSlice, Some(body)) => Change::Slice(body.read()),
        (Kind::EndpointSlice, None) => Change::DeleteSlice { namespace, name },
        (Kind::Node, Some(body)) => Change::Node(body.read()),
        (Kind::Node, None) => Change::DeleteNode(name),
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match kind {
            Kind::Node => write!(f, "{kind} {name}"),
            Kind::Service | Kind::EndpointSlice => write!(f, "{kind} {namespace}/{name}"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
        })
    }
}
