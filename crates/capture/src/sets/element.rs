//! One element of an ipset, and how `ipset` writes it.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::{Family, Protocol};

/// What the elements of a set are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `hash:ip,port`: a destination.
    Address,
    /// `hash:ip,port,net`: a destination and where its clients may be.
    Source,
    /// `hash:net,port`: destinations with the same port.
    Range,
    /// `hash:net`: where clients are.
    Net,
}

impl Shape {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Address => "hash:ip,port",
            Self::Source => "hash:ip,port,net",
            Self::Range => "hash:net,port",
            Self::Net => "hash:net",
        }
    }

    /// Which parts of a packet are looked up.
    pub(crate) fn of_packet(self) -> &'static str {
        match self {
            Self::Address | Self::Range => "dst,dst",
            Self::Source => "dst,dst,src",
            Self::Net => "src",
        }
    }
}

/// One element. Ranges are not of length 0, which `ipset` refuses: see [`halves`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    Address(IpAddr, u16, Protocol),
    Source(IpAddr, u16, Protocol, IpNet),
    Range(IpNet, u16, Protocol),
    Net(IpNet),
}

impl Element {
    pub(crate) fn family(&self) -> Family {
        Family::of(match self {
            Self::Address(ip, ..) | Self::Source(ip, ..) => *ip,
            Self::Range(range, ..) | Self::Net(range) => range.addr(),
        })
    }

    /// It is of a range within loopback.
    pub(crate) fn is_at_loopback(&self) -> bool {
        matches!(self, Self::Range(range, ..) if range.addr().is_loopback())
    }

    /// Reads what `ipset save` prints behind the set's name.
    pub(crate) fn parse(shape: Shape, text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split(',').collect();
        Some(match (shape, parts.as_slice()) {
            (Shape::Address, [ip, port]) => {
                let (protocol, port) = parse_port(port)?;
                Self::Address(ip.parse().ok()?, port, protocol)
            }
            (Shape::Source, [ip, port, range]) => {
                let (protocol, port) = parse_port(port)?;
                Self::Source(ip.parse().ok()?, port, protocol, parse_range(range)?)
            }
            (Shape::Range, [range, port]) => {
                let (protocol, port) = parse_port(port)?;
                Self::Range(parse_range(range)?, port, protocol)
            }
            (Shape::Net, [range]) => Self::Net(parse_range(range)?),
            _ => return None,
        })
    }
}

/// A range as `ipset` takes it: that of all addresses is written as its two halves.
pub(crate) fn halves(range: IpNet) -> Vec<IpNet> {
    let range = range.trunc();
    match range.subnets(1) {
        Ok(halves) if range.prefix_len() == 0 => halves.collect(),
        _ => vec![range],
    }
}

fn parse_port(text: &str) -> Option<(Protocol, u16)> {
    let (protocol, port) = text.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((protocol, port.parse().ok()?))
}

/// A range of one address is printed as the address.
fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// As `ipset` prints it: `10.96.0.1,tcp:80`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, port, protocol) => write!(f, "{ip},{}:{port}", name(*protocol)),
            Self::Source(ip, port, protocol, range) => {
                write!(f, "{ip},{}:{port},{}", name(*protocol), Written(*range))
            }
            Self::Range(range, port, protocol) => {
                write!(f, "{},{}:{port}", Written(*range), name(*protocol))
            }
            Self::Net(range) => Written(*range).fmt(f),
        }
    }
}

struct Written(IpNet);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_text_survives_the_way_there_and_back() {
        for (shape, text) in [
            (Shape::Address, "10.96.0.1,tcp:80"),
            (Shape::Address, "fd00:96::1,udp:53"),
            (Shape::Address, "10.96.0.1,sctp:36412"),
            (Shape::Source, "203.0.113.1,tcp:80,198.51.100.0/24"),
            (Shape::Source, "203.0.113.1,tcp:80,198.51.100.7"),
            (Shape::Range, "127.0.0.0/8,tcp:30080"),
            (Shape::Range, "2001:db8::1,tcp:30080"),
            (Shape::Net, "10.244.0.0/16"),
        ] {
            let element = Element::parse(shape, text).expect(text);
            assert_eq!(element.to_string(), text);
        }
        for text in ["", "10.96.0.1", "10.96.0.1,tcp", "10.96.0.1,icmp:8/0", "x,tcp:80", "::,tcp:x"]
        {
            assert_eq!(Element::parse(Shape::Address, text), None, "{text}");
        }
        assert_eq!(Element::parse(Shape::Source, "203.0.113.1,tcp:80"), None);
    }

    #[test]
    fn all_addresses_are_two_halves() {
        let shown = |range: &str| {
            let halves = halves(range.parse().expect("a range"));
            halves.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("0.0.0.0/0"), "0.0.0.0/1 128.0.0.0/1");
        assert_eq!(shown("::/0"), "::/1 8000::/1");
        assert_eq!(shown("192.0.2.7/24"), "192.0.2.0/24");
        assert_eq!(shown("192.0.2.7/32"), "192.0.2.7/32");
    }
}
