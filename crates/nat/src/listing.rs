//! What our table holds, read from how `nft -n list table` prints it. Pure.
//!
//! Text that is not understood makes the table another's: it is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::change::Shared;
use crate::contents::{Contents, is_own};
use crate::key::{Key, List, Map, Value};
use crate::layout::{FIXED, RANGES};
use crate::order;
use crate::ranges::RangeSets;
use crate::way::Way;

/// Our table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The rules of each chain, counted.
    chains: BTreeMap<String, usize>,
    /// The sets of clients and how many seconds an entry lasts.
    clients: BTreeMap<String, u64>,
    elements: BTreeMap<(Map, Key), Value>,
    hairpins: BTreeSet<IpAddr>,
    ranges: RangeSets,
}

impl Listing {
    /// Reads a table, with or without elements; none where it is not understood.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut listing = Self::default();
        let mut block = Block::None;
        let mut in_elements = false;
        for line in text.lines().map(str::trim) {
            if in_elements {
                in_elements = !line.ends_with('}');
                listing.elements(&block, line.trim_end_matches('}'))?;
            } else if let Some(elements) = line.strip_prefix("elements = {") {
                in_elements = !elements.ends_with('}');
                listing.elements(&block, elements.trim_end_matches('}'))?;
            } else if let Some(opening) = line.strip_suffix('{') {
                block = Block::parse(opening)?;
                if let Block::Chain(name) = &block {
                    listing.chains.insert(name.clone(), 0);
                }
            } else if line == "}" {
                block = Block::None;
            } else if !line.is_empty() {
                listing.statement(&block, line)?;
            }
        }
        Some(listing)
    }

    /// The shared chains of the layout of this version, where it is that one and no rule of it,
    /// nor of the chains in `wanted` that are there, is missing.
    pub(crate) fn shared(&self, version: &str, wanted: &Contents) -> Option<Shared> {
        let rules_of = |name: &str| self.chains.get(name).copied();
        let fixed = FIXED.iter().all(|(name, count)| rules_of(name) == Some(*count));
        if !fixed || rules_of(version) != Some(0) {
            return None;
        }
        let mut shared = Shared::default();
        for (name, &rule_count) in &self.chains {
            let (way, turn) = Way::of(name);
            let (list, of_list) = List::of(turn);
            let is_whole = if of_list.starts_with("pick-") {
                *shared.place_count(list) += 1;
                rule_count == 2
            } else if order::WORDS.iter().any(|word| of_list.starts_with(word)) {
                shared.chains.insert(name.clone());
                rule_count == way.rule_count()
            } else {
                wanted.chains.get(name).is_none_or(|rules| rules.len() == rule_count)
            };
            if !is_whole {
                return None;
            }
        }
        let has_all = |list: List| {
            let count = *shared.clone().place_count(list);
            (0..count).all(|place| rules_of(&format!("{}pick-{place}", list.prefix())).is_some())
        };
        (has_all(List::Main) && has_all(List::Local)).then_some(shared)
    }

    /// What it holds, given the rules that chains of these names have.
    pub(crate) fn contents(&self, wanted: &Contents) -> Contents {
        let rules = |name: &String| wanted.chains.get(name).cloned().unwrap_or_default();
        let own = self.chains.keys().filter(|name| is_own(name));
        Contents {
            elements: self.elements.clone(),
            chains: own.map(|name| (name.clone(), rules(name))).collect(),
            clients: self.clients.clone(),
            ..Contents::default()
        }
    }

    /// The elements of the sets of ranges.
    pub(crate) fn ranges(&self) -> &RangeSets {
        &self.ranges
    }

    /// The elements of the set of hairpins.
    pub(crate) fn hairpins(&self) -> &BTreeSet<IpAddr> {
        &self.hairpins
    }

    /// True where the chains and sets of `wanted` are all there.
    pub(crate) fn has_chains_of(&self, wanted: &Contents) -> bool {
        wanted.chains.keys().all(|name| self.chains.contains_key(name))
            && wanted.clients.keys().all(|name| self.clients.contains_key(name))
    }

    fn statement(&mut self, block: &Block, line: &str) -> Option<()> {
        match block {
            // The hook of a chain, which is no rule.
            Block::Chain(_) if line.starts_with("type ") => {}
            Block::Chain(name) => *self.chains.get_mut(name)? += 1,
            Block::Clients(name) => {
                if let Some(timeout) = line.strip_prefix("timeout ") {
                    let seconds = timeout.strip_suffix('s')?.parse().ok()?;
                    self.clients.insert(name.clone(), seconds);
                }
            }
            Block::Map(_) | Block::Hairpin | Block::Ranges(_) => {}
            Block::None => return None,
        }
        Some(())
    }

    fn elements(&mut self, block: &Block, text: &str) -> Option<()> {
        for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            match block {
                Block::Map(map) => {
                    let (key, value) = element.split_once(" : ")?;
                    let (key, value) = (Key::parse(key)?, Value::parse(value)?);
                    if *map != Map::of(map.list, map.place, key) {
                        return None;
                    }
                    self.elements.insert((*map, key), value);
                }
                Block::Ranges(set) => {
                    self.ranges.entry(*set).or_default().insert(range(element)?);
                }
                Block::Hairpin => {
                    let (ip, same) = element.split_once(" . ")?;
                    if ip != same {
                        return None;
                    }
                    self.hairpins.insert(ip.parse().ok()?);
                }
                // They come and go with traffic.
                Block::Clients(_) => {}
                Block::Chain(_) | Block::None => return None,
            }
        }
        Some(())
    }
}

/// Between which braces a line stands.
enum Block {
    None,
    Map(Map),
    Hairpin,
    Ranges(&'static str),
    Clients(String),
    Chain(String),
}

impl Block {
    fn parse(opening: &str) -> Option<Self> {
        let mut words = opening.split_whitespace();
        match (words.next()?, words.next()?) {
            ("table", _) => Some(Self::None),
            ("chain", name) => Some(Self::Chain(name.to_owned())),
            ("map", name) => Some(Self::Map(Map::parse(name)?)),
            ("set", "hairpin") => Some(Self::Hairpin),
            ("set", name) if name.starts_with("client-") => Some(Self::Clients(name.to_owned())),
            ("set", name) => RANGES.into_iter().find(|set| *set == name).map(Self::Ranges),
            _ => None,
        }
    }
}

/// `10.244.1.0/24` or `192.0.2.1`
fn range(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests;
