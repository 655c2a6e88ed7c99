//! From what our table holds to what it shall hold, as one script. Pure, and the same script for
//! the same change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use streamvs_table::Family;

use crate::contents::Contents;
use crate::elements::{Hairpin, Mapped};
use crate::key::List;
use crate::layout::{self, RANGES, TABLE};
use crate::ranges::RangeSets;
use crate::script::Script;

/// The shared chains that exist. They are few, and stay until the table is made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// The main list's `pick-0` to one before this.
    pub(crate) place_count: u16,
    /// The same of the local list.
    pub(crate) local_place_count: u16,
    /// Names of the others.
    pub(crate) chains: BTreeSet<String>,
}

impl Shared {
    pub(crate) fn place_count(&mut self, list: List) -> &mut u16 {
        match list {
            List::Main => &mut self.place_count,
            List::Local => &mut self.local_place_count,
        }
    }
}

/// The table made anew, without Services.
pub(crate) fn renew(script: &mut Script, family: Family, mark: u32, exists: bool) {
    if exists {
        script.line(format_args!("delete table {} {TABLE}", layout::word(family)));
    }
    script.lines(&layout::base(family, mark));
}

/// Brings elements, chains and sets from `old` to `new`; `shared` learns which shared chains are
/// added. Hairpins are [`hairpins`]'.
pub(crate) fn contents(
    script: &mut Script,
    family: Family,
    old: &Contents,
    new: &Contents,
    shared: &mut Shared,
) {
    let table = format!("{} {TABLE}", layout::word(family));

    let (gone, added) = differ(&old.elements, &new.elements);
    for keys in gone.chunk_by(|(one, _), (other, _)| one == other) {
        script.delete(family, keys[0].0, keys.iter().map(|(_, key)| key));
    }

    for chain in &new.shared {
        if shared.chains.contains(&chain.to_string()) {
            continue;
        }
        let place_count = shared.place_count(chain.turn.list);
        while *place_count < chain.turn.count {
            script.lines(&layout::pick(family, chain.turn.list, *place_count));
            *place_count += 1;
        }
        script.lines(&layout::shared(family, *chain));
        shared.chains.insert(chain.to_string());
    }

    let (clients_gone, clients_new) = differ(&old.clients, &new.clients);
    let (chains_gone, chains_new) = differ(&old.chains, &new.chains);
    for (name, seconds) in clients_new {
        script.lines(&layout::clients(family, name, *seconds));
    }
    // All chains before the first rule, since rules lead from one to another.
    for (name, _) in &chains_new {
        script.line(format_args!("add chain {table} {name}"));
    }
    for (name, rules) in &chains_new {
        for rule in *rules {
            script.line(format_args!("add rule {table} {name} {rule}"));
        }
    }

    for elements in added.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
        let mapped = elements.iter().map(|((_, key), value)| Mapped(key, value));
        script.add(family, elements[0].0.0, mapped);
    }

    for name in &chains_gone {
        script.line(format_args!("flush chain {table} {name}"));
    }
    for name in chains_gone {
        script.line(format_args!("delete chain {table} {name}"));
    }
    for name in clients_gone {
        script.line(format_args!("delete set {table} {name}"));
    }
}

/// Brings the set of hairpins from `old` to `new`.
pub(crate) fn hairpins<V>(
    script: &mut Script,
    family: Family,
    old: &BTreeSet<IpAddr>,
    new: &BTreeMap<IpAddr, V>,
) {
    let gone = old.iter().filter(|ip| !new.contains_key(ip));
    script.delete(family, "hairpin", gone.map(|ip| Hairpin(*ip)));
    let added = new.keys().filter(|ip| !old.contains(ip));
    script.add(family, "hairpin", added.map(|ip| Hairpin(*ip)));
}

/// Brings the sets of ranges from `old` to `new`.
pub(crate) fn ranges(script: &mut Script, family: Family, old: &RangeSets, new: &RangeSets) {
    let table = format!("{} {TABLE}", layout::word(family));
    let none = BTreeSet::new();
    for set in RANGES {
        let [old, new] = [old, new].map(|sets| sets.get(set).unwrap_or(&none));
        for (verb, ranges) in [("delete", old.difference(new)), ("add", new.difference(old))] {
            let ranges: Vec<String> = ranges.map(ToString::to_string).collect();
            if !ranges.is_empty() {
                let ranges = ranges.join(", ");
                script.line(format_args!("{verb} element {table} {set} {{ {ranges} }}"));
            }
        }
    }
}

/// The keys that are gone or have another value, and those that are new or have another value.
fn differ<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> (Vec<&'a K>, Vec<(&'a K, &'a V)>) {
    let gone = old.iter().filter(|(key, value)| new.get(key) != Some(value));
    let added = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    (gone.map(|(key, _)| key).collect(), added.collect())
}

#[cfg(test)]
mod tests;
