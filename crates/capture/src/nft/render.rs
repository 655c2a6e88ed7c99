//! Typed rules and sets into the text that `nft -f` reads, one table for each family.
//!
//! Pure and stable. The rules are those that `render` writes for iptables; only what the kernel's
//! own chains are for those is here a base chain each, with the name of its place and a priority.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use streamvs_table::{Family, Protocol};

use crate::ruleset::{Chain, Condition, Hook, Jump, Rule, Ruleset, Table, Verdict};
use crate::sets::{Contents, Element, Purpose, SetName, Shape};

/// Our table's name, in the families `ip` and `ip6`. The kernel path of the crate `nat` has one of
/// its own.
pub(crate) const TABLE: &str = "streamvs-capture";

/// The family as nft calls it.
pub(crate) fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The table anew, whatever was in it, in one transaction. No packet meets half of it.
pub(crate) fn replace(ruleset: &Ruleset, contents: &Contents) -> String {
    let family = ruleset.family;
    let mut text = String::new();
    // So that there is one to delete.
    line(&mut text, format_args!("add table {} {TABLE}", word(family)));
    line(&mut text, format_args!("delete table {} {TABLE}", word(family)));
    line(&mut text, format_args!("table {} {TABLE} {{", word(family)));
    for name in SetName::of(family) {
        line(&mut text, format_args!("\tset {} {{", set(name)));
        let address = match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        };
        let destination = format!("{address} . inet_proto . inet_service");
        let of_type = match name.purpose.shape() {
            Shape::Address | Shape::Range => destination,
            Shape::Source => format!("{destination} . {address}"),
            Shape::Net => address.to_owned(),
        };
        line(&mut text, format_args!("\t\ttype {of_type}"));
        if name.purpose.shape() != Shape::Address {
            line(&mut text, format_args!("\t\tflags interval"));
        }
        line(&mut text, format_args!("\t}}"));
    }
    for chain in Chain::ALL {
        line(&mut text, format_args!("\tchain {} {{", chain_name(chain)));
        for rule in ruleset.rules(chain) {
            line(&mut text, format_args!("\t\t{}", written(ruleset, &rule)));
        }
        line(&mut text, format_args!("\t}}"));
    }
    for jump in Table::ALL.into_iter().flat_map(Table::jumps) {
        base_chain(&mut text, jump);
    }
    line(&mut text, format_args!("}}"));
    let none = BTreeSet::new();
    for name in SetName::of(family) {
        add(&mut text, name, contents.get(&name).unwrap_or(&none));
    }
    text
}

/// Turns what the sets held into what they shall hold, in one transaction. Empty where nothing
/// changes.
pub(crate) fn change(have: &Contents, want: &Contents) -> String {
    let none = BTreeSet::new();
    let mut text = String::new();
    for (&name, elements) in want {
        let before = have.get(&name).unwrap_or(&none);
        delete(&mut text, name, before.difference(elements));
        add(&mut text, name, elements.difference(before));
    }
    text
}

/// The name of a set within its table.
pub(crate) fn set(name: SetName) -> &'static str {
    name.as_str()
}

fn base_chain(text: &mut String, jump: Jump) {
    let (kind, priority) = match jump.chain.table() {
        // Before iptables' nat and kube-proxy's, both at 100.
        Table::Nat if jump.hook == Hook::Postrouting => ("nat", 95),
        // The same, both at -100, and after the gate at -110.
        Table::Nat => ("nat", -105),
        // Before whoever filters at the usual place, so that a refusal is answered.
        Table::Filter => ("filter", -5),
    };
    let hook = jump.hook.as_str().to_lowercase();
    line(text, format_args!("\tchain {kind}-{hook} {{"));
    line(text, format_args!("\t\ttype {kind} hook {hook} priority {priority}; policy accept;"));
    let only_new = if jump.only_new() { "ct state new " } else { "" };
    line(text, format_args!("\t\t{only_new}jump {}", chain_name(jump.chain)));
    line(text, format_args!("\t}}"));
}

fn chain_name(chain: Chain) -> &'static str {
    match chain {
        Chain::Input => "input",
        Chain::Forward => "forward",
        Chain::Refuse => "refuse",
        Chain::Capture => "capture",
        Chain::Alias => "alias",
        Chain::Services => "services",
    }
}

fn written(ruleset: &Ruleset, rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    let ip = word(ruleset.family);
    for condition in &rule.when {
        words.push(match condition {
            Condition::Source(network) => format!("{ip} saddr {network}"),
            Condition::Destination(address) => format!("{ip} daddr {address}"),
            Condition::LeavesByLoopback => "oifname \"lo\"".to_owned(),
            Condition::Tcp => "meta l4proto tcp".to_owned(),
            Condition::Port(port) => format!("tcp dport {port}"),
            Condition::Opening => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
            Condition::WithoutMark(mark) => format!("meta mark & {mark:#x} == 0"),
            Condition::WithMark(mark) => format!("meta mark & {mark:#x} == {mark:#x}"),
            Condition::New => "ct state new".to_owned(),
            Condition::Translated => "ct status dnat".to_owned(),
            Condition::In(purpose) => looked_up(ruleset, *purpose, ""),
            Condition::NotIn(purpose) => looked_up(ruleset, *purpose, "!= "),
            Condition::ToNode => "fib daddr type local".to_owned(),
            Condition::FromNode => "fib saddr type local".to_owned(),
        });
    }
    words.push(match rule.verdict {
        Verdict::Redirect(to) => format!("dnat to {to}"),
        Verdict::From(network) => format!("snat {ip} prefix to {network}"),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reset => "reject with tcp reset".to_owned(),
        Verdict::PortUnreachable => refusal(ruleset.family, "port-unreachable", "port-unreachable"),
        Verdict::NoRoute => refusal(ruleset.family, "net-unreachable", "no-route"),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Call(chain) => format!("jump {}", chain_name(chain)),
        Verdict::Return => "return".to_owned(),
        Verdict::Unmark(bit) => format!("meta mark set meta mark & {:#x}", !bit),
    });
    words.push(format!("comment \"{}\"", rule.comment));
    words.join(" ")
}

/// `ip daddr . meta l4proto . th dport @streamvs4`
fn looked_up(ruleset: &Ruleset, purpose: Purpose, negation: &str) -> String {
    let (ip, set) = (word(ruleset.family), set(ruleset.set(purpose)));
    let destination = format!("{ip} daddr . meta l4proto . th dport");
    let of_packet = match purpose.shape() {
        Shape::Address | Shape::Range => destination,
        Shape::Source => format!("{destination} . {ip} saddr"),
        Shape::Net => format!("{ip} saddr"),
    };
    format!("{of_packet} {negation}@{set}")
}

fn refusal(family: Family, v4: &str, v6: &str) -> String {
    match family {
        Family::V4 => format!("reject with icmp type {v4}"),
        Family::V6 => format!("reject with icmpv6 type {v6}"),
    }
}

/// Elements of one command. Long lines are slow to read for `nft`, and short ones too.
const AT_ONCE: usize = 1000;

fn add<'a>(text: &mut String, name: SetName, elements: impl IntoIterator<Item = &'a Element>) {
    each_batch(text, "add", name, elements);
}

fn delete<'a>(text: &mut String, name: SetName, elements: impl IntoIterator<Item = &'a Element>) {
    each_batch(text, "delete", name, elements);
}

fn each_batch<'a>(
    text: &mut String,
    verb: &str,
    name: SetName,
    elements: impl IntoIterator<Item = &'a Element>,
) {
    let elements: Vec<String> = elements.into_iter().map(element).collect();
    for batch in elements.chunks(AT_ONCE) {
        let (ip, set) = (word(name.family), set(name));
        line(text, format_args!("{verb} element {ip} {TABLE} {set} {{ {} }}", batch.join(", ")));
    }
}

/// `10.96.0.1 . tcp . 80`
fn element(element: &Element) -> String {
    match *element {
        Element::Address(ip, port, protocol) => format!("{ip} . {} . {port}", name_of(protocol)),
        Element::Source(ip, port, protocol, range) => {
            format!("{ip} . {} . {port} . {range}", name_of(protocol))
        }
        Element::Range(range, port, protocol) => {
            format!("{range} . {} . {port}", name_of(protocol))
        }
        Element::Net(range) => range.to_string(),
    }
}

fn name_of(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes every write");
}

#[cfg(test)]
mod tests;
