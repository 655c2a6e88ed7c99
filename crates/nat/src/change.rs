//! From what our table holds to what it shall hold, as one script for `nft`. Pure, and the same
//! text for the same change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::net::IpAddr;

use streamvs_table::Family;

use crate::contents::Contents;
use crate::key::List;
use crate::layout::{self, TABLE};
use crate::ranges::Ranges;

/// Elements in one statement: nft parses each whole, and wants memory for it.
const ELEMENTS: usize = 5_000;

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
pub(crate) fn renew(family: Family, mark: u32, exists: bool) -> String {
    let word = layout::word(family);
    let delete = if exists { format!("delete table {word} {TABLE}\n") } else { String::new() };
    delete + &layout::base(family, mark)
}

/// Brings elements, chains and sets from `old` to `new`; `shared` learns which shared chains are
/// added. Hairpins are [`hairpins`]'.
pub(crate) fn script(
    family: Family,
    old: &Contents,
    new: &Contents,
    shared: &mut Shared,
) -> String {
    let table = format!("{} {TABLE}", layout::word(family));
    let mut text = String::new();

    let (gone, added) = differ(&old.elements, &new.elements);
    for keys in gone.chunk_by(|(one, _), (other, _)| one == other) {
        delete(&mut text, &table, keys[0].0, keys.iter().map(|(_, key)| key));
    }

    for chain in &new.shared {
        if shared.chains.contains(&chain.to_string()) {
            continue;
        }
        let place_count = shared.place_count(chain.turn.list);
        while *place_count < chain.turn.count {
            text.push_str(&layout::pick(family, chain.turn.list, *place_count));
            *place_count += 1;
        }
        text.push_str(&layout::shared(family, *chain));
        shared.chains.insert(chain.to_string());
    }

    let (clients_gone, clients_new) = differ(&old.clients, &new.clients);
    let (chains_gone, chains_new) = differ(&old.chains, &new.chains);
    for (name, seconds) in clients_new {
        text.push_str(&layout::clients(family, name, *seconds));
    }
    // All chains before the first rule, since rules lead from one to another.
    for (name, _) in &chains_new {
        line(&mut text, format_args!("add chain {table} {name}"));
    }
    for (name, rules) in &chains_new {
        for rule in *rules {
            line(&mut text, format_args!("add rule {table} {name} {rule}"));
        }
    }

    for elements in added.chunk_by(|((one, _), _), ((other, _), _)| one == other) {
        let texts = elements.iter().map(|((_, key), value)| format!("{key} : {value}"));
        add(&mut text, &table, elements[0].0.0, texts);
    }

    for name in &chains_gone {
        line(&mut text, format_args!("flush chain {table} {name}"));
    }
    for name in chains_gone {
        line(&mut text, format_args!("delete chain {table} {name}"));
    }
    for name in clients_gone {
        line(&mut text, format_args!("delete set {table} {name}"));
    }
    text
}

/// Brings the set of hairpins from `old` to `new`.
pub(crate) fn hairpins<V>(
    family: Family,
    old: &BTreeSet<IpAddr>,
    new: &BTreeMap<IpAddr, V>,
) -> String {
    let table = format!("{} {TABLE}", layout::word(family));
    let mut text = String::new();
    let element = |ip: &IpAddr| format!("{ip} . {ip}");
    delete(
        &mut text,
        &table,
        "hairpin",
        old.iter().filter(|ip| !new.contains_key(ip)).map(element),
    );
    add(&mut text, &table, "hairpin", new.keys().filter(|ip| !old.contains(ip)).map(element));
    text
}

/// Brings the sets of ranges from `old` to `new`, both of the family.
pub(crate) fn ranges(family: Family, old: &Ranges, new: &Ranges) -> String {
    let table = format!("{} {TABLE}", layout::word(family));
    let mut text = String::new();
    for (set, old, new) in
        [(layout::NODE, &old.node, &new.node), (layout::PODS, &old.pods, &new.pods)]
    {
        delete(&mut text, &table, set, old.difference(new));
        add(&mut text, &table, set, new.difference(old));
    }
    text
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

fn delete<T: Display>(
    text: &mut String,
    table: &str,
    set: impl Display,
    keys: impl IntoIterator<Item = T>,
) {
    statements(text, &format!("delete element {table} {set}"), keys);
}

fn add<T: Display>(
    text: &mut String,
    table: &str,
    set: impl Display,
    elements: impl IntoIterator<Item = T>,
) {
    statements(text, &format!("add element {table} {set}"), elements);
}

fn statements<T: Display>(
    text: &mut String,
    statement: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let mut elements = elements.into_iter().peekable();
    while elements.peek().is_some() {
        write!(text, "{statement} {{ ").expect("a String takes every write");
        for (index, element) in elements.by_ref().take(ELEMENTS).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(text, "{comma}{element}").expect("a String takes every write");
        }
        text.push_str(" }\n");
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes every write");
}

#[cfg(test)]
mod tests;
