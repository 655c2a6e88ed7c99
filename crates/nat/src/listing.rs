//! What our table holds, read from how `nft -n list table` prints it. Pure.
//!
//! Text that is not understood makes the table another's: it is made anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use streamvs_table::{Family, Protocol};

use crate::change::Shared;
use crate::contents::{Contents, Key};
use crate::layout::{self, HOOKS};

/// Our table as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// The rules of each chain, counted.
    chains: BTreeMap<String, usize>,
    /// The sets of clients and how many seconds an entry lasts.
    clients: BTreeMap<String, u64>,
    services: BTreeMap<Key, String>,
    endpoints: BTreeMap<(u16, Key), SocketAddr>,
    hairpins: BTreeSet<IpAddr>,
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

    /// The shared chains of this layout, where it is this layout and no rule of it, nor of the
    /// chains in `wanted` that are there, is missing.
    pub(crate) fn shared(&self, family: Family, wanted: &Contents) -> Option<Shared> {
        let rules_of = |name: &str| self.chains.get(name).copied();
        let hooks = HOOKS.iter().all(|(name, count)| rules_of(name) == Some(*count));
        if !hooks || rules_of(&layout::version(family)) != Some(0) {
            return None;
        }
        let mut shared = Shared::default();
        let mut place_count = 0;
        for (name, &rule_count) in &self.chains {
            let is_whole = match name.split('-').next().unwrap_or_default() {
                "pick" => {
                    place_count += 1;
                    rule_count == 1
                }
                "rr" | "random" | "hash" => {
                    shared.turns.insert(name.clone());
                    rule_count == 1
                }
                _ => wanted.chains.get(name).is_none_or(|rules| rules.len() == rule_count),
            };
            if !is_whole {
                return None;
            }
        }
        shared.place_count = place_count;
        (0..place_count).all(|place| rules_of(&format!("pick-{place}")).is_some()).then_some(shared)
    }

    /// What it holds, given the rules that chains of these names have.
    pub(crate) fn contents(&self, wanted: &Contents) -> Contents {
        let rules = |name: &String| wanted.chains.get(name).cloned().unwrap_or_default();
        let own = self
            .chains
            .keys()
            .filter(|name| name.starts_with("sticky-") || name.starts_with("pin-"));
        Contents {
            services: self.services.clone(),
            endpoints: self.endpoints.clone(),
            chains: own.map(|name| (name.clone(), rules(name))).collect(),
            clients: self.clients.clone(),
            ..Contents::default()
        }
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
            Block::Services | Block::Endpoints(_) | Block::Hairpin => {}
            Block::None => return None,
        }
        Some(())
    }

    fn elements(&mut self, block: &Block, text: &str) -> Option<()> {
        for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            match block {
                Block::Services => {
                    let (key, chain) = element.split_once(" : goto ")?;
                    self.services.insert(key_of(key)?, chain.to_owned());
                }
                Block::Endpoints(place) => {
                    let (key, to) = element.split_once(" : ")?;
                    let (ip, port) = to.split_once(" . ")?;
                    let to = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
                    self.endpoints.insert((*place, key_of(key)?), to);
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
    Services,
    /// The map of a place.
    Endpoints(u16),
    Hairpin,
    Clients(String),
    Chain(String),
}

impl Block {
    fn parse(opening: &str) -> Option<Self> {
        let mut words = opening.split_whitespace();
        match (words.next()?, words.next()?) {
            ("table", _) => Some(Self::None),
            ("chain", name) => Some(Self::Chain(name.to_owned())),
            ("map", "services") => Some(Self::Services),
            ("set", "hairpin") => Some(Self::Hairpin),
            ("map", name) => {
                let place = name.strip_prefix("endpoint-")?.parse().ok()?;
                Some(Self::Endpoints(place))
            }
            ("set", name) if name.starts_with("client-") => Some(Self::Clients(name.to_owned())),
            _ => None,
        }
    }
}

/// `17 . 10.96.0.53 . 53`
fn key_of(text: &str) -> Option<Key> {
    let mut parts = text.split(" . ");
    let protocol = match parts.next()? {
        "6" => Protocol::Tcp,
        "17" => Protocol::Udp,
        "132" => Protocol::Sctp,
        _ => return None,
    };
    let key = Key { protocol, ip: parts.next()?.parse().ok()?, port: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests;
