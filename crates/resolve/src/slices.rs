//! EndpointSlices: their compact form, and how those of one Service are joined.
//!
//! The control plane spreads the endpoints of a Service over slices and moves them as it likes,
//! and a node may see the slice that gained an endpoint before or after the one that lost it.
//! Hence slices are kept apart, by name, and joined anew on each change: between the two events
//! the endpoint stands in both slices, or in none, and the result is right for what is known.
//!
//! The same address may stand in two slices, while it moves or when a new pod got the address of
//! one that still terminates. One entry wins ([`join`]).

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use streamvs_table::{Family, PerFamily, Protocol, ServiceName};

use crate::conditions::Conditions;
use crate::names::Names;
use crate::notice::{Notice, ObjectName, PortFault, excerpt};
use crate::service;
use crate::topology::Hints;

/// Names the Service a slice belongs to (KEP-752).
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Marks slices of headless Services, which no proxy needs.
const HEADLESS: &str = "service.kubernetes.io/headless";
const WEIGHT: &str = "streamvs.io/weight";

/// `namespace/name` of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The slice's `metadata.name`.
    pub name: Arc<str>,
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The compact form of a slice that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    pub(crate) service: ServiceName,
    weight: u16,
    ports: Vec<SlicePort>,
    endpoints: Vec<EndpointFacts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SlicePort {
    name: Arc<str>,
    protocol: Protocol,
    port: u16,
}

/// One endpoint of it, for all of the slice's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointFacts {
    ip: IpAddr,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) conditions: Conditions,
    /// Runs on this node.
    pub(crate) local: bool,
    pub(crate) hints: Hints,
}

/// An endpoint of one ServicePort, before it is decided whether it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) weight: u16,
    pub(crate) facts: &'a EndpointFacts,
}

/// Reads a slice. None: it is of no use, as it names no Service, is for a headless one, or holds
/// names instead of addresses.
pub(crate) fn read(
    name: &SliceName,
    slice: &EndpointSlice,
    node_name: &str,
    names: &mut Names,
    notices: &mut Vec<Notice>,
) -> Option<SliceFacts> {
    let label = |key| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    if label(HEADLESS).is_some() {
        return None;
    }
    let Some(service) = label(SERVICE_NAME).filter(|service| !service.is_empty()) else {
        notices.push(Notice::Unattached { slice: name.clone() });
        return None;
    };
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => {
            let value = excerpt(other);
            notices.push(Notice::UnusedAddressType { slice: name.clone(), value });
            return None;
        }
    };
    Some(SliceFacts {
        service: ServiceName::new(Arc::clone(&name.namespace), names.intern(service)),
        weight: weight(name, slice, notices),
        ports: ports(name, slice, names, notices),
        endpoints: endpoints(name, slice, family, node_name, names, notices),
    })
}

fn weight(name: &SliceName, slice: &EndpointSlice, notices: &mut Vec<Notice>) -> u16 {
    let annotations = slice.metadata.annotations.as_ref();
    let Some(value) = annotations.and_then(|annotations| annotations.get(WEIGHT)) else {
        return 1;
    };
    value.parse().unwrap_or_else(|_| {
        notices.push(Notice::BadAnnotation {
            object: ObjectName::Slice(name.clone()),
            annotation: WEIGHT,
            value: excerpt(value),
            accepted: "a number within 0..=65535",
        });
        1
    })
}

fn ports(
    name: &SliceName,
    slice: &EndpointSlice,
    names: &mut Names,
    notices: &mut Vec<Notice>,
) -> Vec<SlicePort> {
    let written = slice.ports.as_deref().unwrap_or_default();
    let mut ports = Vec::with_capacity(written.len());
    let mut skipped = 0;
    let mut first = None;
    for port in written {
        match slice_port(port, names) {
            Ok(port) => ports.push(port),
            Err(fault) => {
                skipped += 1;
                first.get_or_insert((port.name.as_deref().map(excerpt), fault));
            }
        }
    }
    if let Some((first, fault)) = first {
        let slice = name.clone();
        notices.push(Notice::SkippedSlicePorts { slice, count: skipped, first, fault });
    }
    ports
}

/// A port without a name is skipped as kube-proxy does; the API server writes an empty name for
/// it, so that one that has none did not come from there. One without a number means "all ports"
/// and serves no Service.
fn slice_port(written: &EndpointPort, names: &mut Names) -> Result<SlicePort, PortFault> {
    let name = written.name.as_deref().ok_or(PortFault::NoName)?;
    let port = written.port.ok_or(PortFault::BadNumber).and_then(service::port_number)?;
    let protocol = service::protocol(written.protocol.as_deref())?;
    Ok(SlicePort { name: names.intern(name), protocol, port })
}

fn endpoints(
    name: &SliceName,
    slice: &EndpointSlice,
    family: Family,
    node_name: &str,
    names: &mut Names,
    notices: &mut Vec<Notice>,
) -> Vec<EndpointFacts> {
    let written = slice.endpoints.as_deref().unwrap_or_default();
    let mut endpoints = Vec::with_capacity(written.len());
    let mut skipped = 0;
    let mut first = None;
    for endpoint in written {
        match address(endpoint, family) {
            Some(ip) => endpoints.push(endpoint_facts(ip, endpoint, node_name, names)),
            None => {
                skipped += 1;
                first.get_or_insert_with(|| {
                    excerpt(endpoint.addresses.first().map_or("", String::as_str))
                });
            }
        }
    }
    if let Some(first) = first {
        let slice = name.clone();
        notices.push(Notice::SkippedEndpoints { slice, count: skipped, first, family });
    }
    endpoints
}

/// The first address; the others are not used, by the field's own definition.
fn address(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let ip = ip.to_canonical();
    (Family::of(ip) == family && service::is_unicast(ip)).then_some(ip)
}

fn endpoint_facts(
    ip: IpAddr,
    endpoint: &Endpoint,
    node_name: &str,
    names: &mut Names,
) -> EndpointFacts {
    let mut shared = |name: &Option<String>| {
        name.as_deref().filter(|name| !name.is_empty()).map(|name| names.intern(name))
    };
    let node = shared(&endpoint.node_name);
    let zone = shared(&endpoint.zone);
    EndpointFacts {
        ip,
        local: node.as_deref() == Some(node_name),
        node,
        zone,
        conditions: Conditions::read(endpoint.conditions.as_ref()),
        hints: Hints::read(endpoint.hints.as_ref(), node_name, names),
    }
}

/// The endpoints of a port over all slices of its Service, sorted by address, each address once.
///
/// Ports match by name and protocol; the number is the slice's, so that a named target port may
/// differ from pod to pod. Of two entries for one address wins the local one, then the ready one,
/// then the serving one, then the one that does not terminate, then the one whose slice comes
/// first. `slices` must come in the order of their names.
pub(crate) fn join<'a>(
    slices: impl Iterator<Item = &'a SliceFacts>,
    port_name: &str,
    protocol: Protocol,
    families: PerFamily<bool>,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices {
        let matching = |port: &&SlicePort| &*port.name == port_name && port.protocol == protocol;
        for port in slice.ports.iter().filter(matching) {
            let wanted = |facts: &&EndpointFacts| *families.get(Family::of(facts.ip));
            candidates.extend(slice.endpoints.iter().filter(wanted).map(|facts| Candidate {
                address: SocketAddr::new(facts.ip, port.port),
                weight: slice.weight,
                facts,
            }));
        }
    }
    // Stable, so that equals stay in the order of their slices.
    candidates.sort_by(|a, b| a.address.cmp(&b.address).then_with(|| preference(a, b)));
    candidates.dedup_by_key(|candidate| candidate.address);
    candidates
}

/// Less: preferred.
fn preference(a: &Candidate<'_>, b: &Candidate<'_>) -> Ordering {
    let rank = |candidate: &Candidate<'_>| {
        let Conditions { ready, serving, terminating } = candidate.facts.conditions;
        (!candidate.facts.local, !ready, !serving, terminating)
    };
    rank(a).cmp(&rank(b))
}
