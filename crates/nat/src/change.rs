//! From what our table holds to what it shall hold, as one script for `nft`. Pure, and the same
//! text for the same change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::net::{IpAddr, SocketAddr};

use streamvs_table::Family;

use crate::contents::Contents;
use crate::layout::{self, TABLE};

/// Elements in one statement: nft parses each whole, and wants memory for it.
const ELEMENTS: usize = 5_000;

/// The shared chains that exist. They are few, and stay until the table is made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// `pick-0` to one before this.
    pub(crate) place_count: u16,
    /// Names of the chains that pick a place.
    pub(crate) turns: BTreeSet<String>,
}

/// The table made anew, without Services.
pub(crate) fn renew(family: Family, exists: bool) -> String {
    let word = layout::word(family);
    let delete = if exists { format!("delete table {word} {TABLE}\n") } else { String::new() };
    delete + &layout::base(family)
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

    let (services_gone, services_new) = differ(&old.services, &new.services);
    let (endpoints_gone, endpoints_new) = differ(&old.endpoints, &new.endpoints);
    delete(&mut text, &table, "services", services_gone);
    for (place, keys) in by_place(endpoints_gone.into_iter().copied()) {
        delete(&mut text, &table, &format!("endpoint-{place}"), keys);
    }

    for turn in &new.turns {
        if shared.turns.contains(&turn.to_string()) {
            continue;
        }
        while shared.place_count < turn.count {
            text.push_str(&layout::pick(family, shared.place_count));
            shared.place_count += 1;
        }
        text.push_str(&layout::turn(family, *turn));
        shared.turns.insert(turn.to_string());
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

    let endpoints_new = endpoints_new.into_iter().map(|((place, key), to)| (*place, (key, *to)));
    for (place, elements) in by_place(endpoints_new) {
        let elements = elements.into_iter().map(|(key, to)| format!("{key} : {}", Pair(to)));
        add(&mut text, &table, &format!("endpoint-{place}"), elements);
    }
    let services_new = services_new.into_iter().map(|(key, chain)| format!("{key} : goto {chain}"));
    add(&mut text, &table, "services", services_new);

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

/// The keys that are gone or have another value, and those that are new or have another value.
fn differ<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> (Vec<&'a K>, Vec<(&'a K, &'a V)>) {
    let gone = old.iter().filter(|(key, value)| new.get(key) != Some(value));
    let added = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    (gone.map(|(key, _)| key).collect(), added.collect())
}

fn by_place<T>(elements: impl Iterator<Item = (u16, T)>) -> BTreeMap<u16, Vec<T>> {
    let mut by_place = BTreeMap::<u16, Vec<T>>::new();
    for (place, element) in elements {
        by_place.entry(place).or_default().push(element);
    }
    by_place
}

fn delete<T: Display>(
    text: &mut String,
    table: &str,
    set: &str,
    keys: impl IntoIterator<Item = T>,
) {
    statements(text, &format!("delete element {table} {set}"), keys);
}

fn add<T: Display>(
    text: &mut String,
    table: &str,
    set: &str,
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

/// `10.244.1.10 . 53`
struct Pair(SocketAddr);

impl Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} . {}", self.0.ip(), self.0.port())
    }
}

#[cfg(test)]
mod tests;
