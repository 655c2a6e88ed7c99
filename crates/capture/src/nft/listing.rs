//! What `nft -n -s list table` prints of our table.
//!
//! Pure. The elements of our sets are taken out and read; the rest is kept as it was printed, to be
//! compared with what was printed right after we committed it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::{Family, Protocol};

use crate::sets::{Contents, Element, SetName, Shape};

use super::render;

/// Our table as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Everything but elements, as printed.
    pub(super) skeleton: String,
    /// What our sets hold.
    pub(super) contents: Contents,
    /// Elements that nobody of us can have written.
    pub(super) foreign_count: usize,
}

pub(super) fn parse(family: Family, printed: &str) -> Listing {
    let mut listing = Listing::default();
    for name in SetName::of(family) {
        listing.contents.insert(name, BTreeSet::new());
    }
    let mut set: Option<SetName> = None;
    let mut lines = printed.lines();
    while let Some(line) = lines.next() {
        let words = line.trim();
        if let Some(rest) = words.strip_prefix("set ") {
            let called = rest.trim_end_matches('{').trim_end();
            set = SetName::of(family).find(|name| render::set(*name) == called);
        }
        let Some(first) = words.strip_prefix("elements = {") else {
            listing.skeleton.push_str(line);
            listing.skeleton.push('\n');
            continue;
        };
        let mut text = first.to_owned();
        while !text.contains('}') {
            let Some(more) = lines.next() else { break };
            text.push_str(more);
        }
        let text = text.split('}').next().unwrap_or_default();
        for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            let element = set.and_then(|name| parse_element(name.purpose.shape(), element));
            let known = set.and_then(|name| listing.contents.get_mut(&name));
            match (known, element) {
                (Some(known), Some(element)) => {
                    known.insert(element);
                }
                _ => listing.foreign_count += 1,
            }
        }
    }
    listing
}

/// `10.96.0.1 . 6 . 80`
fn parse_element(shape: Shape, text: &str) -> Option<Element> {
    let parts: Vec<&str> = text.split(" . ").map(str::trim).collect();
    Some(match (shape, parts.as_slice()) {
        (Shape::Address, [ip, protocol, port]) => {
            Element::Address(ip.parse().ok()?, port.parse().ok()?, parse_protocol(protocol)?)
        }
        (Shape::Source, [ip, protocol, port, range]) => {
            let (ip, port) = (ip.parse().ok()?, port.parse().ok()?);
            Element::Source(ip, port, parse_protocol(protocol)?, parse_range(range)?)
        }
        (Shape::Range, [range, protocol, port]) => {
            let port = port.parse().ok()?;
            Element::Range(parse_range(range)?, port, parse_protocol(protocol)?)
        }
        (Shape::Net, [range]) => Element::Net(parse_range(range)?),
        _ => return None,
    })
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "sctp" | "132" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// A range of one address is printed as the address.
fn parse_range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    //! Aim: elements are read however `nft` breaks its lines, and nothing else is lost.

    use super::*;
    use crate::sets::Purpose;

    #[test]
    fn elements_are_taken_out_of_what_is_compared() {
        let printed = "table ip streamvs-capture {\n\
                       \tset streamvs4 {\n\
                       \t\ttype ipv4_addr . inet_proto . inet_service\n\
                       \t\telements = { 10.96.0.1 . 6 . 80,\n\
                       \t\t\t     10.96.0.2 . tcp . 443 }\n\
                       \t}\n\
                       \tset others {\n\
                       \t\telements = { 1.2.3.4 }\n\
                       \t}\n\
                       }\n";
        let listing = parse(Family::V4, printed);
        let name = SetName { purpose: Purpose::Capture, family: Family::V4 };
        let element =
            |ip: &str, port| Element::Address(ip.parse().expect("an address"), port, Protocol::Tcp);
        let wanted = [element("10.96.0.1", 80), element("10.96.0.2", 443)];
        assert_eq!(listing.contents[&name], BTreeSet::from(wanted));
        assert_eq!(listing.foreign_count, 1);
        assert!(listing.skeleton.contains("\tset streamvs4 {\n"), "{}", listing.skeleton);
        assert!(!listing.skeleton.contains("10.96"), "{}", listing.skeleton);
    }

    #[test]
    fn a_listing_cut_anywhere_is_read_without_panic() {
        let printed = "table ip x {\n\tset streamvs4 {\n\t\telements = { ::1 . 6 . 80, }\n}\n}\n";
        for length in 0..printed.len() {
            let _ = parse(Family::V4, &printed[..length]);
        }
    }
}
