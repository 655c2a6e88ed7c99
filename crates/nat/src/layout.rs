//! The parts of our table that no Service changes, and those that all with as many endpoints
//! share, as text for `nft`. Pure.

use std::fmt::Write as _;

use streamvs_table::Family;

use crate::order::{Order, Turn};
use crate::sticky::hash;

/// The name of our nftables table in the families `ip` and `ip6`.
pub const TABLE: &str = "streamvs-nat";

/// Behind iptables and kube-proxy's nftables mode, which are at -100, and behind capture.
const PRIORITY: i32 = -95;

/// Chains with a hook, and how many rules each has.
pub(crate) const HOOKS: [(&str, usize); 3] = [("prerouting", 1), ("output", 1), ("postrouting", 2)];

/// The family's word in nft.
pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The expression for the client's address.
pub(crate) fn source(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip saddr",
        Family::V6 => "ip6 saddr",
    }
}

/// The type of an address.
pub(crate) fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

/// The expression that is looked up in maps of service addresses.
fn dialled(family: Family) -> String {
    format!("meta l4proto . {} daddr . th dport", word(family))
}

/// The table with its hooks, and without Services. Ends with an empty chain whose name tells which
/// layout this is.
pub(crate) fn base(family: Family) -> String {
    let text = without_version(family);
    let version = version(family);
    let family = word(family);
    format!("{text}add chain {family} {TABLE} {version}\n")
}

/// The name of the chain that tells the layout.
pub(crate) fn version(family: Family) -> String {
    format!("version-{:016x}", hash(&probe(family)))
}

fn without_version(family: Family) -> String {
    let (table, address) = (format!("{} {TABLE}", word(family)), address_type(family));
    let (dialled, word) = (dialled(family), word(family));
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1",
    };
    format!(
        "add table {table}\n\
         add map {table} services {{ type inet_proto . {address} . inet_service : verdict; }}\n\
         add set {table} hairpin {{ type {address} . {address}; }}\n\
         add chain {table} prerouting {{ type nat hook prerouting priority {PRIORITY}; }}\n\
         add rule {table} prerouting {dialled} vmap @services\n\
         add chain {table} output {{ type nat hook output priority {PRIORITY}; }}\n\
         add rule {table} output {dialled} vmap @services\n\
         add chain {table} postrouting {{ type nat hook postrouting priority 100; }}\n\
         add rule {table} postrouting ct status dnat {word} saddr . {word} daddr @hairpin \
         masquerade\n\
         add rule {table} postrouting ct status dnat {word} saddr {loopback} oifname != \"lo\" \
         masquerade\n"
    )
}

/// One of everything a layout can have: what the kernel must be able to do. Its hash is the
/// version.
pub(crate) fn probe(family: Family) -> String {
    let mut text = without_version(family);
    text.push_str(&pick(family, 0));
    text.push_str(&pick(family, 1));
    for order in [Order::Rotation, Order::Chance, Order::Source] {
        text.push_str(&turn(family, Turn::new(order, 2, 0)));
    }
    text.push_str(&clients(family, "client-0", 1));
    text
}

/// The map and the chain of a place among endpoints.
pub(crate) fn pick(family: Family, place: u16) -> String {
    let (table, address) = (format!("{} {TABLE}", word(family)), address_type(family));
    let (dialled, word) = (dialled(family), word(family));
    format!(
        "add map {table} endpoint-{place} {{ type inet_proto . {address} . inet_service : \
         {address} . inet_service; }}\n\
         add chain {table} pick-{place}\n\
         add rule {table} pick-{place} dnat {word} to {dialled} map @endpoint-{place}\n"
    )
}

/// The chain that picks a place. The chains of its places must be there.
pub(crate) fn turn(family: Family, turn: Turn) -> String {
    let table = format!("{} {TABLE}", word(family));
    let mut text = format!("add chain {table} {turn}\n");
    write!(text, "add rule {table} {turn} ").expect("a String takes every write");
    if turn.count == 1 {
        text.push_str("goto pick-0\n");
        return text;
    }
    let places: Vec<String> =
        (0..turn.count).map(|place| format!("{place} : goto pick-{place}")).collect();
    let number = turn.number(source(family));
    writeln!(text, "{number} vmap {{ {} }}", places.join(", "))
        .expect("a String takes every write");
    text
}

/// A set of clients.
///
/// As many entries as the kernel gives a set that says nothing; a client that finds it full is
/// balanced as if there was no affinity.
pub(crate) fn clients(family: Family, name: &str, seconds: u64) -> String {
    let (word, address) = (word(family), address_type(family));
    format!(
        "add set {word} {TABLE} {name} {{ type {address}; size 65535; flags dynamic,timeout; \
         timeout {seconds}s; }}\n"
    )
}
