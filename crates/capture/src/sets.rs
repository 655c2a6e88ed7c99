//! The ipsets: their names, what belongs into them, the text `ipset` reads and writes.
//!
//! Pure. What comes in is [`Desired`] and what `ipset save` printed; what goes out is text for
//! `ipset restore` that turns one into the other. Rules name the sets and never change with
//! Services, so that a change costs its own elements and no more.
//!
//! There is one set for each family and purpose, of the shape the purpose needs ([`Shape`]), with
//! at most [`MAX_ELEMENTS`] elements.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::{Family, Protocol};

use crate::Desired;

mod element;

pub(crate) use element::{Element, Shape, halves};

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

/// What is to be known of a new connection. Sets are filled in this order and emptied in the
/// reverse one, so that who may reach a guarded address is known before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// From a pod.
    Pods,
    /// To a load balancer's address, from a source that it lets in.
    Allowed,
    /// To a load balancer's address that does not let everybody in.
    Guarded,
    /// To an address of a Service that is balanced.
    Capture,
    /// To one that is balanced for clients inside, and not for those outside.
    Inner,
    /// To a node port that is balanced.
    NodeCapture,
    /// To one that is balanced for clients inside, and not for those outside.
    NodeInner,
    /// To an address of a Service without endpoints.
    Reject,
    /// To one without endpoints that the policy allows.
    Drop,
    /// To a node port without endpoints.
    NodeReject,
    /// To one without endpoints that the policy allows.
    NodeDrop,
    /// To a health check port.
    Health,
}

impl Purpose {
    const ALL: [Self; 12] = [
        Self::Pods,
        Self::Allowed,
        Self::Guarded,
        Self::Capture,
        Self::Inner,
        Self::NodeCapture,
        Self::NodeInner,
        Self::Reject,
        Self::Drop,
        Self::NodeReject,
        Self::NodeDrop,
        Self::Health,
    ];

    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Capture | Self::Inner | Self::Guarded | Self::Reject | Self::Drop => {
                Shape::Address
            }
            Self::NodeCapture
            | Self::NodeInner
            | Self::NodeReject
            | Self::NodeDrop
            | Self::Health => Shape::Range,
            Self::Allowed => Shape::Source,
            Self::Pods => Shape::Net,
        }
    }

    /// Connections in it are sent to the listener.
    pub(crate) fn captures(self) -> bool {
        matches!(self, Self::Capture | Self::Inner | Self::NodeCapture | Self::NodeInner)
    }
}

impl SetName {
    /// The sets of one family.
    pub(crate) fn of(family: Family) -> impl Iterator<Item = Self> {
        Purpose::ALL.into_iter().map(move |purpose| Self { purpose, family })
    }

    /// The name in the kernel.
    pub(crate) fn as_str(self) -> &'static str {
        let (v4, v6) = match self.purpose {
            Purpose::Pods => ("streamvs-pods4", "streamvs-pods6"),
            Purpose::Allowed => ("streamvs-allowed4", "streamvs-allowed6"),
            Purpose::Guarded => ("streamvs-guarded4", "streamvs-guarded6"),
            Purpose::Capture => ("streamvs4", "streamvs6"),
            Purpose::Inner => ("streamvs-inner4", "streamvs-inner6"),
            Purpose::NodeCapture => ("streamvs-node4", "streamvs-node6"),
            Purpose::NodeInner => ("streamvs-node-inner4", "streamvs-node-inner6"),
            Purpose::Reject => ("streamvs-reject4", "streamvs-reject6"),
            Purpose::Drop => ("streamvs-drop4", "streamvs-drop6"),
            Purpose::NodeReject => ("streamvs-node-reject4", "streamvs-node-reject6"),
            Purpose::NodeDrop => ("streamvs-node-drop4", "streamvs-node-drop6"),
            Purpose::Health => ("streamvs-health4", "streamvs-health6"),
        };
        match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The set that is filled aside before it takes this one's place.
    fn next(self) -> String {
        format!("{}-next", self.as_str())
    }

    fn header(self) -> String {
        let family = match self.family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        format!("{} family {family}", self.purpose.shape().as_str())
    }
}

/// What each set holds, or shall hold.
pub(crate) type Contents = BTreeMap<SetName, BTreeSet<Element>>;

/// The sets of `families` as `desired` asks for; those that capture empty where the gate is closed.
pub(crate) fn wanted(desired: &Desired, families: &[Family], gate_open: bool) -> Contents {
    let mut contents = Contents::new();
    for &family in families {
        for name in SetName::of(family) {
            let elements = if name.purpose.captures() && !gate_open {
                BTreeSet::new()
            } else {
                let of_purpose = elements(desired, name.purpose).into_iter();
                of_purpose.filter(|element| element.family() == family).collect()
            };
            contents.insert(name, elements);
        }
    }
    contents
}

/// What a purpose's sets hold, of both families.
fn elements(desired: &Desired, purpose: Purpose) -> Vec<Element> {
    let tcp = |addresses: &BTreeSet<(IpAddr, u16)>| {
        addresses.iter().map(|&(ip, port)| Element::Address(ip, port, Protocol::Tcp)).collect()
    };
    let every = |addresses: &BTreeSet<(IpAddr, u16, Protocol)>| {
        let element = |&(ip, port, protocol): &_| Element::Address(ip, port, protocol);
        addresses.iter().map(element).collect()
    };
    let at_node = |ports: &BTreeSet<(Family, u16, Protocol)>| {
        let ranges = |family| {
            let of_family = move |range: &&IpNet| Family::of(range.addr()) == family;
            desired.node_ranges.iter().filter(of_family).flat_map(|range| halves(*range))
        };
        let at = |&(family, port, protocol): &(Family, u16, Protocol)| {
            ranges(family).map(move |range| Element::Range(range, port, protocol))
        };
        ports.iter().flat_map(at).collect()
    };
    match purpose {
        Purpose::Pods => {
            let ranges = desired.pod_ranges.iter().flat_map(|range| halves(*range));
            ranges.map(Element::Net).collect()
        }
        Purpose::Allowed => {
            let sources = |&(ip, port, protocol, range): &(_, _, _, IpNet)| {
                halves(range)
                    .into_iter()
                    .map(move |range| Element::Source(ip, port, protocol, range))
            };
            desired.allowed.iter().flat_map(sources).collect()
        }
        Purpose::Guarded => every(&desired.guarded),
        Purpose::Capture => tcp(&desired.capture),
        Purpose::Inner => tcp(&desired.inner),
        Purpose::Reject => every(&desired.reject),
        Purpose::Drop => every(&desired.drop),
        Purpose::NodeCapture => at_node(&desired.node_capture),
        Purpose::NodeInner => at_node(&desired.node_inner),
        Purpose::NodeReject => at_node(&desired.node_reject),
        Purpose::NodeDrop => {
            let all: Vec<Element> = at_node(&desired.node_drop);
            // Who asks at loopback is the node itself, which is not outside.
            all.into_iter().filter(|element| !element.is_at_loopback()).collect()
        }
        Purpose::Health => at_node(&desired.health),
    }
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
                .strip_prefix(&name.header())
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
            match Element::parse(name.purpose.shape(), element) {
                Some(element) => {
                    elements.insert(element);
                }
                None => foreign.push(element.to_owned()),
            }
        }
    }
    Found::Usable { elements, foreign }
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
    let mut all_deletions = Vec::new();
    for (&name, elements) in want {
        let mut deletions = String::new();
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
        all_deletions.push(deletions);
    }
    script.text.extend(all_deletions.into_iter().rev());
    script
}

/// Text for `ipset -exist restore` that turns what the sets held into what they shall hold.
/// Empty where nothing changes.
pub(crate) fn change(have: &Contents, want: &Contents) -> String {
    let none = BTreeSet::new();
    let mut text = String::new();
    let mut all_deletions = Vec::new();
    for (name, elements) in want {
        let before = have.get(name).unwrap_or(&none);
        add(&mut text, name.as_str(), elements.difference(before));
        let mut deletions = String::new();
        delete(&mut deletions, name.as_str(), before.difference(elements));
        all_deletions.push(deletions);
    }
    text.extend(all_deletions.into_iter().rev());
    text
}

fn create(text: &mut String, name: SetName, called: &str) {
    let header = name.header();
    line(text, format_args!("create {called} {header} maxelem {MAX_ELEMENTS}"));
}

fn add<'a>(text: &mut String, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
    for element in elements {
        line(text, format_args!("add {set} {}", element));
    }
}

fn delete<'a>(text: &mut String, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
    for element in elements {
        line(text, format_args!("del {set} {}", element));
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes every write");
}

#[cfg(test)]
mod tests;
