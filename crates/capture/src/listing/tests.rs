//! Aim: each damage to our rules is found and named, and rules of others are not taken for it.
//! Method: what iptables printed right after a commitment, then edited as others would.

use streamvs_table::Family;

use super::*;
use crate::created::Made;
use crate::render;
use crate::ruleset::Hook;

fn ruleset() -> Ruleset {
    Ruleset { family: Family::V4, listen_port: 15001, mark: 1, gate: None, aliases: Vec::new() }
}

/// What `iptables -S` prints after a commitment: the lines of the text, as appended rules.
fn committed(table: Table) -> String {
    let text = render::commit(&ruleset(), table, &[], &Made::default());
    let printed = text.lines().filter_map(|line| {
        if let Some(chain) = line.strip_prefix(':') {
            return Some(format!("-N {}\n", chain.split(' ').next()?));
        }
        match line.get(..2)? {
            "-I" => Some(format!("-A{}\n", line[2..].replacen(" 1 ", " ", 1))),
            "-A" => Some(format!("{line}\n")),
            _ => None,
        }
    });
    printed.collect()
}

fn listings(edit: impl Fn(Table, String) -> String) -> BTreeMap<Table, Listing> {
    Table::ALL.map(|table| (table, Listing::parse(&edit(table, committed(table))))).into()
}

fn printed() -> Printed {
    learn(&ruleset(), &listings(|_, text| text)).expect("all is there")
}

#[track_caller]
fn check(claim: &str, table: Table, edit: impl Fn(String) -> String, expected: &[RuleDamage]) {
    let found = listings(|of, text| if of == table { edit(text) } else { text });
    assert_eq!(compare(&printed(), &found), expected, "{claim}");
}

const PREROUTING: Jump = Jump { hook: Hook::Prerouting, chain: Chain::Capture };
const PREROUTING_RULE: &str = "-A PREROUTING -m comment --comment streamvs -j STREAMVS-CAPTURE\n";

#[test]
fn what_was_committed_is_sound() {
    check("untouched", Table::Nat, |text| text, &[]);
    check(
        "rules of others behind",
        Table::Nat,
        |text| text + "-A PREROUTING -j KUBE-SERVICES\n",
        &[],
    );
    let before = |text: String| format!("-A PREROUTING -j cali-PREROUTING\n{text}");
    check("a chain of others in front", Table::Nat, before, &[]);
}

#[test]
fn each_damage_has_its_name() {
    use JumpDamage::{Altered, Late, Missing, Repeated};
    let jump = |damage| [RuleDamage::Jump(PREROUTING, damage)];
    let without = |text: String| text.replace(PREROUTING_RULE, "");
    check("deleted", Table::Nat, without, &jump(Missing));
    check("twice", Table::Nat, |text| text + PREROUTING_RULE, &jump(Repeated));
    let altered = |text: String| text.replace("PREROUTING -m", "PREROUTING -s 192.0.2.0/24 -m");
    check("another condition", Table::Nat, altered, &jump(Altered));
    for rule in ["-j KUBE-SERVICES", "-p tcp -j ACCEPT", "-d 192.0.2.1/32 -j DNAT --to 192.0.2.2"] {
        let late = |text: String| format!("-A PREROUTING {rule}\n{text}");
        check(rule, Table::Nat, late, &jump(Late));
    }
    let kube_first = |text: String| format!("-A INPUT -j KUBE-FIREWALL\n{text}");
    check("in filter kube-proxy may come first", Table::Filter, kube_first, &[]);
    let accepting = |text: String| format!("-A INPUT -j ACCEPT\n{text}");
    let input = Jump { hook: Hook::Input, chain: Chain::Input };
    check("accepted before", Table::Filter, accepting, &[RuleDamage::Jump(input, Late)]);
}

fn without(text: &str, taken: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| !taken(line)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_chain_that_lost_or_won_a_rule_is_damaged() {
    let chain = [RuleDamage::Chain(Chain::Capture)];
    let more = |text: String| text + "-A STREAMVS-CAPTURE -j RETURN\n";
    check("one more", Table::Nat, more, &chain);
    let flushed = |text: String| without(&text, |line| line.starts_with("-A STREAMVS-CAPTURE"));
    check("flushed", Table::Nat, flushed, &chain);
    let gone = |text: String| without(&text, |line| line.contains("STREAMVS-CAPTURE"));
    let output = Jump { hook: Hook::Output, chain: Chain::Capture };
    let damage = [
        RuleDamage::Chain(Chain::Capture),
        RuleDamage::Jump(PREROUTING, JumpDamage::Missing),
        RuleDamage::Jump(output, JumpDamage::Missing),
    ];
    check("deleted", Table::Nat, gone, &damage);
}

#[test]
fn rules_that_are_not_all_there_are_not_learnt() {
    let incomplete = listings(|_, text| text.replace(PREROUTING_RULE, ""));
    assert_eq!(learn(&ruleset(), &incomplete), Err(Chain::Capture));
}

#[test]
fn the_target_is_found_whatever_a_comment_says() {
    for (rule, expected) in [
        ("-A INPUT -j ACCEPT", Some("ACCEPT")),
        ("-A INPUT -g SOMEWHERE", Some("SOMEWHERE")),
        ("-A INPUT -m comment --comment \"see -j DROP\" -j ACCEPT", Some("ACCEPT")),
        ("-A INPUT -m comment --comment \"a \\\" -j DROP\" -j ACCEPT", Some("ACCEPT")),
        ("-A INPUT -m comment --comment \"unclosed -j DROP", None),
        ("-A INPUT -p tcp", None),
        ("-A INPUT -j", None),
        ("", None),
    ] {
        assert_eq!(target(rule), expected, "{rule}");
    }
}
