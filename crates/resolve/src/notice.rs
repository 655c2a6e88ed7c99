//! What a person should know about an object that was not used as written.

use std::fmt;
use std::sync::Arc;

use streamvs_table::{Conflict, Family, ServiceName};

use crate::SliceName;

/// The longest piece of an object a notice repeats, in characters: enough to recognise it, too
/// little to flood a log.
const EXCERPT_LENGTH: usize = 64;

/// Something in an object is wrong or was ignored. For the log; nothing depends on it.
///
/// Each is given once, when its object first has it; again only after it was gone in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// An object came without `metadata.name` and was ignored.
    Unnamed {
        /// Its kind.
        kind: &'static str,
    },
    /// A Service is neither headless nor ExternalName and has no ClusterIP, so nothing can be
    /// sent to it. The API server allocates one; a file must say it.
    NoClusterIp {
        /// The Service.
        service: ServiceName,
    },
    /// One of a Service's ClusterIPs is not used.
    BadClusterIp {
        /// The Service.
        service: ServiceName,
        /// The address as written.
        value: Arc<str>,
        /// Why.
        fault: ClusterIpFault,
    },
    /// One of a Service's ports is not used.
    BadServicePort {
        /// The Service.
        service: ServiceName,
        /// The port's name, or its number where it has none.
        port: Arc<str>,
        /// Why.
        fault: PortFault,
    },
    /// A field of a Service has a value nobody knows; its default is used.
    UnknownValue {
        /// The Service.
        service: ServiceName,
        /// The field, as `spec.internalTrafficPolicy`.
        field: &'static str,
        /// The value as written.
        value: Arc<str>,
        /// What is used instead.
        used: &'static str,
    },
    /// An annotation of ours has a value it cannot have, and is ignored.
    BadAnnotation {
        /// Where it stands.
        object: ObjectName,
        /// Its key.
        annotation: &'static str,
        /// Its value.
        value: Arc<str>,
        /// What it may be.
        accepted: &'static str,
    },
    /// Addresses of a Service, by which it could be reached from outside, are not used.
    SkippedAddresses {
        /// The Service.
        service: ServiceName,
        /// The field, as `spec.externalIPs`.
        field: &'static str,
        /// How many.
        count: usize,
        /// The first of them.
        first: Arc<str>,
        /// What is wrong with the first of them.
        fault: AddressFault,
    },
    /// An EndpointSlice names no Service (label `kubernetes.io/service-name`) and is ignored.
    Unattached {
        /// The slice.
        slice: SliceName,
    },
    /// An EndpointSlice has an address type other than IPv4 and IPv6 and is ignored.
    UnusedAddressType {
        /// The slice.
        slice: SliceName,
        /// The address type.
        value: Arc<str>,
    },
    /// Ports of an EndpointSlice are not used.
    SkippedSlicePorts {
        /// The slice.
        slice: SliceName,
        /// How many.
        count: usize,
        /// The name of the first of them, where it has one.
        first: Option<Arc<str>>,
        /// What is wrong with the first of them.
        fault: PortFault,
    },
    /// Endpoints of an EndpointSlice are not used, as their first address is missing, is no
    /// address, or is not of the slice's family.
    SkippedEndpoints {
        /// The slice.
        slice: SliceName,
        /// How many.
        count: usize,
        /// The first address of the first of them.
        first: Arc<str>,
        /// The slice's family.
        family: Family,
    },
    /// Two ServicePorts claim one address.
    Conflict(Conflict),
}

/// Why a ClusterIP is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterIpFault {
    /// It is not an IP address.
    NotAnAddress,
    /// It is the unspecified address, a multicast group or a broadcast address.
    NotUnicast,
    /// An earlier ClusterIP has the same family.
    SecondOfFamily,
}

/// Why an address is not used by which a Service could be reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFault {
    /// It is not an IP address.
    NotAnAddress,
    /// It is the unspecified address, a multicast group or a broadcast address.
    NotUnicast,
    /// The operator does not allow it, see [`Config`](crate::Config).
    NotAllowed,
}

/// Why a port is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortFault {
    /// The number is missing, 0, negative or above 65535.
    BadNumber,
    /// The transport protocol is none of TCP, UDP and SCTP.
    UnknownProtocol,
    /// Another port of the Service has this name and protocol.
    NameTaken,
    /// A slice's port has no name, not even an empty one.
    NoName,
}

/// An object an annotation stands on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ObjectName {
    /// A Service.
    Service(ServiceName),
    /// An EndpointSlice.
    Slice(SliceName),
}

/// The beginning of a piece of an object, for a notice.
pub(crate) fn excerpt(text: &str) -> Arc<str> {
    match text.char_indices().nth(EXCERPT_LENGTH) {
        None => text.into(),
        Some((end, _)) => format!("{}...", &text[..end]).into(),
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed { kind } => write!(f, "{kind} without metadata.name is ignored"),
            Self::NoClusterIp { service } => {
                write!(f, "Service {service} has no ClusterIP and is not served")
            }
            Self::BadClusterIp { service, value, fault } => {
                write!(f, "ClusterIP {value:?} of Service {service} is not used: {fault}")
            }
            Self::BadServicePort { service, port, fault } => {
                write!(f, "port {port:?} of Service {service} is not served: {fault}")
            }
            Self::UnknownValue { service, field, value, used } => {
                write!(f, "{field} of Service {service} is {value:?}, unknown: {used} is used")
            }
            Self::BadAnnotation { object, annotation, value, accepted } => {
                write!(
                    f,
                    "annotation {annotation}: {value:?} of {object} is ignored: it must be "
                )?;
                f.write_str(accepted)
            }
            Self::SkippedAddresses { service, field, count, first, fault } => write!(
                f,
                "{count} address(es) of {field} of Service {service} are not used, the first \
                 ({first:?}): {fault}"
            ),
            Self::Unattached { slice } => {
                write!(
                    f,
                    "EndpointSlice {slice} has no label kubernetes.io/service-name and is ignored"
                )
            }
            Self::UnusedAddressType { slice, value } => {
                write!(f, "EndpointSlice {slice} is ignored: its addressType is {value:?}")
            }
            Self::SkippedSlicePorts { slice, count, first, fault } => {
                write!(f, "{count} port(s) of EndpointSlice {slice} are ignored, ")?;
                match first {
                    Some(name) => write!(f, "the first ({name:?}): {fault}"),
                    None => write!(f, "the first: {fault}"),
                }
            }
            Self::SkippedEndpoints { slice, count, first, family } => write!(
                f,
                "{count} endpoint(s) of EndpointSlice {slice} are ignored: {first:?} is no usable \
                 {family} address"
            ),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}

impl fmt::Display for ClusterIpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "it is not an IP address",
            Self::NotUnicast => "it is not a unicast address",
            Self::SecondOfFamily => "an earlier one has the same family",
        })
    }
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnAddress => "it is not an IP address",
            Self::NotUnicast => "it is not a unicast address",
            Self::NotAllowed => "it is not within --allow-external-ips",
        })
    }
}

impl fmt::Display for PortFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadNumber => "its number is not within 1..=65535",
            Self::UnknownProtocol => "its protocol is none of TCP, UDP and SCTP",
            Self::NameTaken => "another port has its name and protocol",
            Self::NoName => "it has no name, not even an empty one",
        })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(name) => write!(f, "EndpointSlice {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        assert_eq!(&*excerpt("short"), "short");
        let long = "é".repeat(EXCERPT_LENGTH + 1);
        assert_eq!(&*excerpt(&long), format!("{}...", "é".repeat(EXCERPT_LENGTH)));
        let full = "é".repeat(EXCERPT_LENGTH);
        assert_eq!(&*excerpt(&full), full);
    }
}
