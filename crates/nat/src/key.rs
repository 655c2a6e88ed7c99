//! Service addresses, and the maps of our table in which they stand.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use streamvs_table::Protocol;

/// A service address: what clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A Service's own address and port.
    Address { protocol: Protocol, ip: IpAddr, port: u16 },
    /// A node port, at whatever address of the node.
    Node { protocol: Protocol, port: u16 },
}

impl Key {
    /// Reads what `nft -n` prints: `17 . 10.96.0.53 . 53` or `17 . 30053`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(" . ");
        let protocol = match parts.next()? {
            "6" => Protocol::Tcp,
            "17" => Protocol::Udp,
            "132" => Protocol::Sctp,
            _ => return None,
        };
        match (parts.next()?, parts.next(), parts.next()) {
            (port, None, _) => Some(Self::Node { protocol, port: port.parse().ok()? }),
            (ip, Some(port), None) => {
                Some(Self::Address { protocol, ip: ip.parse().ok()?, port: port.parse().ok()? })
            }
            _ => None,
        }
    }

    fn at_node(self) -> bool {
        matches!(self, Self::Node { .. })
    }
}

/// As nft reads it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { protocol, ip, port } => {
                write!(f, "{} . {ip} . {port}", word(*protocol))
            }
            Self::Node { protocol, port } => write!(f, "{} . {port}", word(*protocol)),
        }
    }
}

/// The protocol as nft calls it.
pub(crate) fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// One of the two lists of endpoints that a service address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    /// Of a ClusterIP, what its policy allows; of any other address, those of the whole cluster.
    Main,
    /// What clients outside get under externalTrafficPolicy Local.
    Local,
}

impl List {
    /// What the names of its maps and chains begin with.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Local => "local-",
        }
    }

    /// The list of a name, and the rest of the name.
    pub(crate) fn of(name: &str) -> (Self, &str) {
        match name.strip_prefix(Self::Local.prefix()) {
            Some(rest) => (Self::Local, rest),
            None => (Self::Main, name),
        }
    }
}

/// A map of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Map {
    pub(crate) list: List,
    /// Its keys are node ports.
    pub(crate) at_node: bool,
    /// It holds the endpoint of this place; none: it holds what becomes of packets.
    pub(crate) place: Option<u16>,
}

impl Map {
    /// The map in which a key stands.
    pub(crate) fn of(list: List, place: Option<u16>, key: Key) -> Self {
        Self { list, at_node: key.at_node(), place }
    }

    /// Those that are always there.
    pub(crate) const VERDICTS: [Self; 4] = [
        Self { list: List::Main, at_node: false, place: None },
        Self { list: List::Main, at_node: true, place: None },
        Self { list: List::Local, at_node: false, place: None },
        Self { list: List::Local, at_node: true, place: None },
    ];

    /// Of its name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (list, rest) = List::of(name);
        let (at_node, place) = match rest {
            "services" => (false, None),
            "node-ports" => (true, None),
            _ => {
                let (at_node, rest) = match rest.strip_prefix("node-") {
                    Some(rest) => (true, rest),
                    None => (false, rest),
                };
                (at_node, Some(rest.strip_prefix("endpoint-")?.parse().ok()?))
            }
        };
        Some(Self { list, at_node, place })
    }
}

/// Its name.
impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.list.prefix())?;
        match (self.at_node, self.place) {
            (false, None) => f.write_str("services"),
            (true, None) => f.write_str("node-ports"),
            (false, Some(place)) => write!(f, "endpoint-{place}"),
            (true, Some(place)) => write!(f, "node-endpoint-{place}"),
        }
    }
}

/// To what a map leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// To a chain.
    Goto(String),
    /// Nowhere: the packet keeps its destination.
    Accept,
    /// To an endpoint.
    Endpoint(SocketAddr),
}

impl Value {
    /// Reads what nft prints: `goto random-1`, `accept` or `10.244.1.10 . 53`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(chain) = text.strip_prefix("goto ") {
            return Some(Self::Goto(chain.to_owned()));
        }
        if text == "accept" {
            return Some(Self::Accept);
        }
        let (ip, port) = text.split_once(" . ")?;
        Some(Self::Endpoint(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?)))
    }
}

/// As nft reads it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Accept => f.write_str("accept"),
            Self::Endpoint(to) => write!(f, "{} . {}", to.ip(), to.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_maps_are_read_as_written() {
        let places = [Some(0), Some(12)]
            .into_iter()
            .flat_map(|place| Map::VERDICTS.map(|map| Map { place, ..map }));
        for map in Map::VERDICTS.into_iter().chain(places) {
            assert_eq!(Map::parse(&map.to_string()), Some(map), "{map}");
        }
        for name in ["endpoint-", "local-", "hairpin", "node-services", "endpoint-70000"] {
            assert_eq!(Map::parse(name), None, "{name}");
        }
    }
}
