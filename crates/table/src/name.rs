//! Names: of a Service, of one of its ports, of a transport protocol and of an IP family.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// `namespace/name` of a Service. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceName {
    /// The namespace, never empty.
    pub namespace: Arc<str>,
    /// The Service's `metadata.name`, never empty.
    pub name: Arc<str>,
}

impl ServiceName {
    /// Makes a name out of its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One port of a Service: the unit that is balanced, as kube-proxy's `ServicePortName`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePortName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name; empty where the Service's only port has none.
    pub port: Arc<str>,
    /// The port's protocol: a Service may have `53/TCP` and `53/UDP`.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() {
            write!(f, "{}", self.service)
        } else {
            write!(f, "{}:{}", self.service, self.port)
        }
    }
}

impl fmt::Debug for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/{}", self.protocol)
    }
}

/// A Service port's transport protocol (`spec.ports[].protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Carried by `accept` and `relay`.
    Tcp,
    /// Never in user space.
    Udp,
    /// Never in user space.
    Sctp,
}

impl Protocol {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An IP family. A ServicePort's two families are balanced apart, as kube-proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address. An IPv4-mapped IPv6 address counts as IPv6: unmap it first.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `IPv4` or `IPv6`, as kube-proxy's `ip_family` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(service: &str, port: &str, protocol: Protocol) -> ServicePortName {
        ServicePortName { service: ServiceName::new("shop", service), port: port.into(), protocol }
    }

    #[test]
    fn names_are_shown_as_kube_proxy_shows_them() {
        assert_eq!(name("web", "http", Protocol::Tcp).to_string(), "shop/web:http");
        assert_eq!(name("web", "", Protocol::Tcp).to_string(), "shop/web");
        assert_eq!(format!("{:?}", name("dns", "dns", Protocol::Udp)), "shop/dns:dns/UDP");
    }

    #[test]
    fn ports_of_a_service_stand_together_in_order() {
        let mut names = [
            name("b", "a", Protocol::Tcp),
            name("a", "z", Protocol::Tcp),
            name("ab", "a", Protocol::Tcp),
            name("a", "b", Protocol::Udp),
            name("a", "b", Protocol::Tcp),
        ];
        names.sort();
        let shown: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        assert_eq!(
            shown,
            ["shop/a:b/TCP", "shop/a:b/UDP", "shop/a:z/TCP", "shop/ab:a/TCP", "shop/b:a/TCP"]
        );
    }

    #[test]
    fn a_mapped_address_counts_as_the_family_it_is_written_in() {
        for (address, family) in [
            ("192.0.2.1", Family::V4),
            ("2001:db8::1", Family::V6),
            ("::ffff:192.0.2.1", Family::V6),
        ] {
            assert_eq!(Family::of(address.parse().expect("an address")), family);
        }
    }
}
