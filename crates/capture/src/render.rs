//! Typed rules into the text that `iptables-restore --noflush` reads.
//!
//! Pure and stable: the same rules give the same text, in the form and order in which iptables
//! prints them back. One text holds both tables, `filter` first; each table is one transaction.

use std::fmt::Write as _;

use ipnet::IpNet;
use streamvs_table::Family;

use crate::created::{self, Made};
use crate::listing::Listing;
use crate::ruleset::{Chain, Condition, Jump, Rule, Ruleset, Table, Verdict};
use crate::sets::Purpose;

/// Puts our chains into a table, whatever was in them before, and each jump to them exactly once
/// at the first place.
///
/// `present` are the jumps found there (`-A ...`): they are deleted by their own text in the same
/// transaction, so that no packet sees two or none, and a jump that vanished meanwhile makes the
/// transaction fail rather than hit a rule of someone else.
pub(crate) fn commit(ruleset: &Ruleset, table: Table, present: &[&str], made: &Made) -> String {
    let mut text = header(table);
    if !made.is_empty() {
        declare(&mut text, created::CHAIN);
    }
    for chain in table.chains() {
        declare(&mut text, chain.as_str());
    }
    for jump in present {
        delete(&mut text, jump);
    }
    for jump in table.jumps() {
        line(&mut text, &format!("-I {}", written_jump(jump).replacen(' ', " 1 ", 1)));
    }
    for thing in made.words() {
        let chain = created::CHAIN;
        line(&mut text, &format!("-A {chain} -m comment --comment {thing}"));
    }
    for chain in table.chains() {
        for rule in ruleset.rules(chain) {
            line(&mut text, &format!("-A {}", written(ruleset, chain, &rule)));
        }
    }
    line(&mut text, "COMMIT");
    text
}

/// Empties our chains in a table, so that they name no set.
pub(crate) fn release(table: Table, listing: &Listing) -> String {
    let mut text = header(table);
    for chain in listing.our_chains().filter(|name| *name != created::CHAIN) {
        declare(&mut text, chain);
    }
    line(&mut text, "COMMIT");
    text
}

/// Takes everything of ours out of a table.
pub(crate) fn remove(table: Table, listing: &Listing) -> String {
    let jumps: Vec<&str> = listing.our_jumps().collect();
    let chains: Vec<&str> = listing.our_chains().collect();
    take_away(table.as_str(), &jumps, &chains)
}

/// Takes jumps (`-A ...`) and chains out of a table.
pub(crate) fn take_away(table: &str, jumps: &[&str], chains: &[&str]) -> String {
    let mut text = format!("*{table}\n");
    for jump in jumps {
        delete(&mut text, jump);
    }
    for chain in chains {
        line(&mut text, &format!("-F {chain}"));
    }
    for chain in chains {
        line(&mut text, &format!("-X {chain}"));
    }
    line(&mut text, "COMMIT");
    text
}

fn header(table: Table) -> String {
    format!("*{}\n", table.as_str())
}

/// Creates a chain, or empties it where it exists.
fn declare(text: &mut String, chain: &str) {
    line(text, &format!(":{chain} - [0:0]"));
}

fn delete(text: &mut String, printed: &str) {
    line(text, &format!("-D{}", printed.strip_prefix("-A").unwrap_or(printed)));
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes every write");
}

/// `INPUT -m comment --comment streamvs -j STREAMVS-INPUT`
fn written_jump(jump: Jump) -> String {
    let (hook, chain) = (jump.hook.as_str(), jump.chain.as_str());
    let condition = if jump.only_new() { " -m conntrack --ctstate NEW" } else { "" };
    format!("{hook}{condition} -m comment --comment streamvs -j {chain}")
}

fn written(ruleset: &Ruleset, chain: Chain, rule: &Rule) -> String {
    let mut text = chain.as_str().to_owned();
    let mut push = |words: &str| {
        text.push(' ');
        text.push_str(words);
    };
    let mut in_tcp = false;
    for condition in &rule.when {
        let is_tcp = matches!(condition, Condition::Port(_) | Condition::Opening);
        if is_tcp && !in_tcp {
            push("-m tcp");
        }
        in_tcp = is_tcp;
        match condition {
            Condition::Source(network) => push(&format!("-s {network}")),
            Condition::Destination(address) => push(&format!("-d {}", IpNet::from(*address))),
            Condition::LeavesByLoopback => push("-o lo"),
            Condition::Tcp => push("-p tcp"),
            Condition::Port(port) => push(&format!("--dport {port}")),
            Condition::Opening => push("--tcp-flags FIN,SYN,RST,ACK SYN"),
            Condition::WithoutMark(mark) => push(&format!("-m mark ! --mark {mark:#x}/{mark:#x}")),
            Condition::WithMark(mark) => push(&format!("-m mark --mark {mark:#x}/{mark:#x}")),
            Condition::New => push("-m conntrack --ctstate NEW"),
            Condition::Translated => push("-m conntrack --ctstate DNAT"),
            Condition::In(purpose) => {
                push(&format!("-m set --match-set {}", looked_up(ruleset, *purpose)));
            }
            Condition::NotIn(purpose) => {
                push(&format!("-m set ! --match-set {}", looked_up(ruleset, *purpose)));
            }
            Condition::ToNode => push("-m addrtype --dst-type LOCAL"),
            Condition::FromNode => push("-m addrtype --src-type LOCAL"),
        }
    }
    push(&format!("-m comment --comment \"{}\"", rule.comment));
    match rule.verdict {
        Verdict::Redirect(to) => push(&format!("-j DNAT --to-destination {to}")),
        Verdict::From(network) => push(&format!("-j NETMAP --to {network}")),
        Verdict::Accept => push("-j ACCEPT"),
        Verdict::Reset => push("-j REJECT --reject-with tcp-reset"),
        Verdict::PortUnreachable => push(match ruleset.family {
            Family::V4 => "-j REJECT --reject-with icmp-port-unreachable",
            Family::V6 => "-j REJECT --reject-with icmp6-port-unreachable",
        }),
        Verdict::NoRoute => push(match ruleset.family {
            Family::V4 => "-j REJECT --reject-with icmp-net-unreachable",
            Family::V6 => "-j REJECT --reject-with icmp6-no-route",
        }),
        Verdict::Drop => push("-j DROP"),
        Verdict::Call(chain) => push(&format!("-j {}", chain.as_str())),
        Verdict::Return => push("-j RETURN"),
        Verdict::Unmark(bit) => push(&format!("-j MARK --set-xmark 0x0/{bit:#x}")),
    }
    text
}

/// `streamvs4 dst,dst`
fn looked_up(ruleset: &Ruleset, purpose: Purpose) -> String {
    format!("{} {}", ruleset.set(purpose).as_str(), purpose.shape().of_packet())
}

#[cfg(test)]
mod tests;
