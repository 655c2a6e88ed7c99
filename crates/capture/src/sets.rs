//! The ipsets: their names, what belongs into them, the text `ipset` reads and writes.
//!
//! Pure. What comes in is [`Desired`] and what `ipset save` printed; what goes out is text for
//! `ipset restore` that turns one into the other. Rules name the sets and never change with
//! Services, so that a change costs its own elements and no more.
//!
//! Shape: `hash:ip,port`, one set for each family and purpose, at most [`MAX_ELEMENTS`] elements.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use streamvs_table::{Family, Protocol};

use crate::Desired;

/// Bound of each set: 30,000 Services with 30 ports each fit. The kernel grows a set with its
/// content; past the bound `ipset` fails and says so.
const MAX_ELEMENTS: u32 = 1 << 20;

/// Every set of ours begins so. `cleanup` takes whatever does, older versions' sets too.
pub(crate) const PREFIX: &str = "streamvs";

/// One of our sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetName {
    pub(crate) purpose: Purpose,
    pub(crate) family: Family,
}

/// What becomes of a new connection whose destination is in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Capture,
    Reject,
    Drop,
}

impl SetName {
    /// The sets of one family.
    pub(crate) fn of(family: Family) -> [Self; 3] {
        [Purpose::Capture, Purpose::Reject, Purpose::Drop].map(|purpose| Self { purpose, family })
    }

    /// The name in the kernel.
    pub(crate) fn as_str(self) -> &'static str {
        match (self.purpose, self.family) {
            (Purpose::Capture, Family::V4) => "streamvs4",
            (Purpose::Capture, Family::V6) => "streamvs6",
            (Purpose::Reject, Family::V4) => "streamvs-reject4",
            (Purpose::Reject, Family::V6) => "streamvs-reject6",
            (Purpose::Drop, Family::V4) => "streamvs-drop4",
            (Purpose::Drop, Family::V6) => "streamvs-drop6",
        }
    }

    /// The set that is filled aside before it takes this one's place.
    fn next(self) -> String {
        format!("{}-next", self.as_str())
    }

    fn header(self) -> &'static str {
        match self.family {
            Family::V4 => "hash:ip,port family inet",
            Family::V6 => "hash:ip,port family inet6",
        }
    }
}

/// One element: (address, port, protocol).
pub(crate) type Element = (IpAddr, u16, Protocol);

/// What each set holds, or shall hold.
pub(crate) type Contents = BTreeMap<SetName, BTreeSet<Element>>;

/// The sets of `families` as `desired` asks for; the capture sets empty where the gate is closed.
pub(crate) fn wanted(desired: &Desired, families: &[Family], gate_open: bool) -> Contents {
    let mut contents = Contents::new();
    for &family in families {
        let of_family = |(ip, ..): &Element| Family::of(*ip) == family;
        for name in SetName::of(family) {
            let elements = match name.purpose {
                Purpose::Capture if !gate_open => BTreeSet::new(),
                Purpose::Capture => desired
                    .capture
                    .iter()
                    .map(|&(ip, port)| (ip, port, Protocol::Tcp))
                    .filter(of_family)
                    .collect(),
                Purpose::Reject => desired.reject.iter().copied().filter(of_family).collect(),
                Purpose::Drop => desired.drop.iter().copied().filter(of_family).collect(),
            };
            contents.insert(name, elements);
        }
    }
    contents
}

/// A set as the kernel has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Of our making: its elements, and those that are none of ours as `ipset` wrote them.
    Usable { elements: BTreeSet<Element>, foreign: Vec<String> },
    /// Right type, other options (an older version's size, a timeout): to be swapped.
    Outdated,
    /// Another type, which cannot be swapped: our rules must let go of it, so that it can be
    /// destroyed.
    Alien,
}

/// Reads what `ipset save NAME` printed.
pub(crate) fn parse(name: SetName, saved: &str) -> Found {
    let mut elements = BTreeSet::new();
    let mut foreign = Vec::new();
    for line in saved.lines() {
        if let Some(created) = line.strip_prefix("create ") {
            let definition = created.split_once(' ').map_or("", |(_, definition)| definition);
            let Some(options) = definition
                .strip_prefix(name.header())
                .filter(|options| options.is_empty() || options.starts_with(' '))
            else {
                return Found::Alien;
            };
            let size = format!(" maxelem {MAX_ELEMENTS} ");
            let options = format!("{options} ");
            if !options.contains(&size) || options.contains(" timeout ") {
                return Found::Outdated;
            }
        } else if let Some(added) = line.strip_prefix("add ") {
            let element = added.split_once(' ').map_or("", |(_, element)| element);
            match parse_element(element) {
                Some(element) => {
                    elements.insert(element);
                }
                None => foreign.push(element.to_owned()),
            }
        }
    }
    Found::Usable { elements, foreign }
}

fn parse_element(text: &str) -> Option<Element> {
    let (ip, rest) = text.split_once(',')?;
    let (protocol, port) = rest.split_once(':')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((ip.parse().ok()?, port.parse().ok()?, protocol))
}

/// What was wrong with a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetDamage {
    /// It did not exist.
    Missing,
    /// It had other options or another type.
    Redefined,
    /// It had other elements.
    Altered {
        /// How many were absent.
        absent: usize,
        /// How many did not belong there.
        foreign: usize,
    },
}

/// Text for `ipset -exist restore`, and what it mends.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) text: String,
    pub(crate) mends: Vec<(SetName, SetDamage)>,
}

/// Makes the kernel's sets the wanted ones. Additions come before deletions over all sets, so
/// that an address that moves from one set to another is at no instant in none.
///
/// `exists` are the names of all sets; `found` what those of ours hold.
pub(crate) fn mend(
    exists: &BTreeSet<String>,
    found: &BTreeMap<SetName, Found>,
    want: &Contents,
) -> Script {
    let mut script = Script::default();
    let mut deletions = String::new();
    for (&name, elements) in want {
        let damage = match found.get(&name) {
            None => {
                // No rule can name a set that does not exist: filling it in place shows nothing
                // half done.
                create(&mut script.text, name, name.as_str());
                add(&mut script.text, name.as_str(), elements);
                SetDamage::Missing
            }
            Some(Found::Alien) => {
                line(&mut script.text, format_args!("destroy {}", name.as_str()));
                create(&mut script.text, name, name.as_str());
                add(&mut script.text, name.as_str(), elements);
                SetDamage::Redefined
            }
            Some(Found::Outdated) => {
                let next = name.next();
                if exists.contains(&next) {
                    line(&mut script.text, format_args!("destroy {next}"));
                }
                create(&mut script.text, name, &next);
                add(&mut script.text, &next, elements);
                line(&mut script.text, format_args!("swap {next} {}", name.as_str()));
                line(&mut script.text, format_args!("destroy {next}"));
                SetDamage::Redefined
            }
            Some(Found::Usable { elements: have, foreign }) => {
                let absent: Vec<_> = elements.difference(have).collect();
                let stale: Vec<_> = have.difference(elements).collect();
                add(&mut script.text, name.as_str(), absent.iter().copied());
                delete(&mut deletions, name.as_str(), stale.iter().copied());
                for element in foreign {
                    line(&mut deletions, format_args!("del {} {element}", name.as_str()));
                }
                SetDamage::Altered { absent: absent.len(), foreign: stale.len() + foreign.len() }
            }
        };
        if damage != (SetDamage::Altered { absent: 0, foreign: 0 }) {
            script.mends.push((name, damage));
        }
    }
    script.text.push_str(&deletions);
    script
}

/// Text for `ipset -exist restore` that turns what the sets held into what they shall hold.
/// Empty where nothing changes.
pub(crate) fn change(have: &Contents, want: &Contents) -> String {
    let none = BTreeSet::new();
    let mut text = String::new();
    let mut deletions = String::new();
    for (name, elements) in want {
        let before = have.get(name).unwrap_or(&none);
        add(&mut text, name.as_str(), elements.difference(before));
        delete(&mut deletions, name.as_str(), before.difference(elements));
    }
    text.push_str(&deletions);
    text
}

fn create(text: &mut String, name: SetName, called: &str) {
    let header = name.header();
    line(text, format_args!("create {called} {header} maxelem {MAX_ELEMENTS}"));
}

fn add<'a>(text: &mut String, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
    for element in elements {
        line(text, format_args!("add {set} {}", Written(element)));
    }
}

fn delete<'a>(text: &mut String, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
    for element in elements {
        line(text, format_args!("del {set} {}", Written(element)));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes every write");
}

/// An element as `ipset` writes it: `10.96.0.1,tcp:80`.
struct Written<'a>(&'a Element);

impl std::fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ip, port, protocol) = self.0;
        let protocol = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{ip},{protocol}:{port}")
    }
}

#[cfg(test)]
mod tests;
