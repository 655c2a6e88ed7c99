//! The parts of our table that no Service changes, and those that all with as many endpoints
//! share, as text for `nft`. Pure.

use std::fmt::Write as _;

use streamvs_table::Family;

use crate::key::{List, Map};
use crate::order::{Order, Turn};
use crate::sticky::hash;
use crate::way::{SharedChain, Way};

/// The name of our nftables table in the families `ip` and `ip6`.
pub const TABLE: &str = "streamvs-nat";

/// Behind iptables and kube-proxy's nftables mode, which are at -100, and behind capture.
const PRIORITY: i32 = -95;

/// The chain that marks packets whose source is to become the node's.
pub(crate) const MARK: &str = "to-masquerade";

/// The sets of ranges.
pub(crate) const RANGES: [&str; 3] = [NODE, PODS, KEPT];

/// The set of where pods are.
pub(crate) const PODS: &str = "pods";

/// The set of those who keep their address when they ask a ClusterIP.
pub(crate) const KEPT: &str = "unmasqueraded";

/// The set of addresses at which node ports are served.
pub(crate) const NODE: &str = "node-addresses";

/// Chains that are always there, and how many rules each has.
pub(crate) const FIXED: [(&str, usize); 5] =
    [("dispatch", 2), ("prerouting", 1), ("output", 1), (MARK, 1), ("postrouting", 3)];

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

/// The expression that is looked up in maps of service addresses, or of node ports.
pub(crate) fn dialled(family: Family, at_node: bool) -> String {
    if at_node {
        return "meta l4proto . th dport".to_owned();
    }
    format!("meta l4proto . {} daddr . th dport", word(family))
}

/// The type of the keys of those maps.
fn key_type(family: Family, at_node: bool) -> String {
    if at_node {
        return "inet_proto . inet_service".to_owned();
    }
    format!("inet_proto . {} . inet_service", address_type(family))
}

/// The table with its hooks, and without Services; `mark` are the bits of [`MARK`]. Ends with an
/// empty chain whose name tells which layout this is.
pub(crate) fn base(family: Family, mark: u32) -> String {
    let text = without_version(family, mark);
    let version = version(family, mark);
    let family = word(family);
    format!("{text}add chain {family} {TABLE} {version}\n")
}

/// The name of the chain that tells the layout.
pub(crate) fn version(family: Family, mark: u32) -> String {
    format!("version-{:016x}", hash(&probe(family, mark)))
}

fn without_version(family: Family, mark: u32) -> String {
    let (table, address) = (format!("{} {TABLE}", word(family)), address_type(family));
    let (dialled, at_node, word) = (dialled(family, false), dialled(family, true), word(family));
    let unmarked = !mark;
    let loopback = match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1",
    };
    let mut text = format!("add table {table}\n");
    for map in Map::VERDICTS {
        let key = key_type(family, map.at_node);
        writeln!(text, "add map {table} {map} {{ type {key} : verdict; }}")
            .expect("a String takes every write");
    }
    for set in RANGES {
        writeln!(text, "add set {table} {set} {{ type {address}; flags interval; }}")
            .expect("a String takes every write");
    }
    text + &format!(
        "add set {table} hairpin {{ type {address} . {address}; }}\n\
         add chain {table} dispatch\n\
         add rule {table} dispatch {dialled} vmap @services\n\
         add rule {table} dispatch {word} daddr @{NODE} {word} daddr != {loopback} \
         fib daddr type local {at_node} vmap @node-ports\n\
         add chain {table} prerouting {{ type nat hook prerouting priority {PRIORITY}; }}\n\
         add rule {table} prerouting goto dispatch\n\
         add chain {table} output {{ type nat hook output priority {PRIORITY}; }}\n\
         add rule {table} output goto dispatch\n\
         add chain {table} {MARK}\n\
         add rule {table} {MARK} meta mark set meta mark | {mark:#x}\n\
         add chain {table} postrouting {{ type nat hook postrouting priority 100; }}\n\
         add rule {table} postrouting meta mark & {mark:#x} == {mark:#x} \
         meta mark set meta mark & {unmarked:#x} ct status dnat masquerade fully-random\n\
         add rule {table} postrouting ct status dnat {word} saddr . {word} daddr @hairpin \
         masquerade\n\
         add rule {table} postrouting ct status dnat {word} saddr {loopback} oifname != \"lo\" \
         masquerade\n"
    )
}

/// One of everything a layout can have: what the kernel must be able to do. Its hash is the
/// version.
pub(crate) fn probe(family: Family, mark: u32) -> String {
    let mut text = without_version(family, mark);
    for list in [List::Main, List::Local] {
        text.push_str(&pick(family, list, 0));
        text.push_str(&pick(family, list, 1));
        for order in [Order::Rotation, Order::Chance, Order::Source] {
            let turn = Turn::new(list, order, 2, 0);
            for way in Way::ALL {
                text.push_str(&shared(family, SharedChain { way, turn }));
            }
        }
    }
    text.push_str(&clients(family, "client-0", 1));
    text
}

/// The maps and the chain of a place among the endpoints of a list. A packet to a node port is in
/// no map of addresses.
pub(crate) fn pick(family: Family, list: List, place: u16) -> String {
    let (table, address) = (format!("{} {TABLE}", word(family)), address_type(family));
    let chain = format!("{}pick-{place}", list.prefix());
    let maps = [false, true].map(|at_node| Map { list, at_node, place: Some(place) });
    let mut text = String::new();
    for map in maps {
        let key = key_type(family, map.at_node);
        writeln!(text, "add map {table} {map} {{ type {key} : {address} . inet_service; }}")
            .expect("a String takes every write");
    }
    writeln!(text, "add chain {table} {chain}").expect("a String takes every write");
    for map in maps {
        let (dialled, word) = (dialled(family, map.at_node), word(family));
        writeln!(text, "add rule {table} {chain} dnat {word} to {dialled} map @{map}")
            .expect("a String takes every write");
    }
    text
}

/// A chain that Services share. The chains that it needs must be there.
pub(crate) fn shared(family: Family, chain: SharedChain) -> String {
    let table = format!("{} {TABLE}", word(family));
    let mut text = format!("add chain {table} {chain}\n");
    let rules = match chain.way {
        Way::Straight => vec![turn(family, chain.turn)],
        Way::Masquerade | Way::Enter | Way::Split => {
            chain.way.rules(family, &chain.turn.to_string())
        }
    };
    for rule in rules {
        writeln!(text, "add rule {table} {chain} {rule}").expect("a String takes every write");
    }
    text
}

/// The rule that picks a place.
fn turn(family: Family, turn: Turn) -> String {
    let pick = format!("goto {}pick", turn.list.prefix());
    if turn.count == 1 {
        return format!("{pick}-0");
    }
    let places: Vec<String> =
        (0..turn.count).map(|place| format!("{place} : {pick}-{place}")).collect();
    format!("{} vmap {{ {} }}", turn.number(source(family)), places.join(", "))
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
