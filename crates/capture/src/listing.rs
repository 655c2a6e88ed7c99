//! What iptables prints of its chains, and what is wrong with ours there.
//!
//! Pure. `iptables -S` and `iptables-save` print the same lines; a listing may hold some chains
//! of a table or all of them.

use std::collections::BTreeMap;

use crate::ruleset::{CHAIN_PREFIX, Chain, Jump, Ruleset, Table};

/// The rules of some chains of one table, each as the kernel's tool printed it (`-A CHAIN ...`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    chains: BTreeMap<String, Vec<String>>,
}

impl Listing {
    /// Reads one table's lines. Lines that say nothing of chains or rules are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut listing = Self::default();
        listing.read(text);
        listing
    }

    /// Reads further lines of the same table.
    pub(crate) fn read(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("-A"), Some(chain)) => {
                    self.chains.entry(chain.to_owned()).or_default().push(line.to_owned());
                }
                (Some("-N" | "-P"), Some(chain)) => {
                    self.chains.entry(chain.to_owned()).or_default();
                }
                (Some(word), _) => {
                    if let Some(chain) = word.strip_prefix(':') {
                        self.chains.entry(chain.to_owned()).or_default();
                    }
                }
                (None, _) => {}
            }
        }
    }

    /// A chain's rules; none where it does not exist.
    pub(crate) fn rules(&self, chain: &str) -> Option<&[String]> {
        self.chains.get(chain).map(Vec::as_slice)
    }

    /// All chains.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// The chains that are ours by name.
    pub(crate) fn our_chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str).filter(|name| name.starts_with(CHAIN_PREFIX))
    }

    /// The rules outside our chains that lead into them.
    pub(crate) fn our_jumps(&self) -> impl Iterator<Item = &str> {
        self.chains
            .iter()
            .filter(|(name, _)| !name.starts_with(CHAIN_PREFIX))
            .flat_map(|(_, rules)| rules)
            .map(String::as_str)
            .filter(|rule| target(rule).is_some_and(|name| name.starts_with(CHAIN_PREFIX)))
    }
}

/// Where a printed rule leads (`-j` or `-g`). Comments may contain anything, within quotes.
pub(crate) fn target(rule: &str) -> Option<&str> {
    let mut rest = rule;
    let mut leads = false;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let end = if rest.starts_with('"') { quoted_end(rest) } else { rest.find(' ') };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        if leads {
            return Some(word);
        }
        leads = word == "-j" || word == "-g";
        rest = after;
    }
}

/// The index behind the closing quote; a backslash takes the next character as it is.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| {
        let closes = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        closes.then_some(at + 1)
    })
}

/// How the kernel's tool printed our rules right after we committed them: what an audit expects
/// to see again, whatever the tool's version makes of the text we gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    chains: BTreeMap<Chain, Vec<String>>,
    jumps: BTreeMap<Jump, String>,
}

/// What was wrong with a jump from a chain of the kernel to one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JumpDamage {
    /// It was not there.
    Missing,
    /// It was there more than once.
    Repeated,
    /// It was there, and not as we wrote it.
    Altered,
    /// A rule stood before it that may take the packet away first.
    Late,
}

/// What is wrong with one family's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleDamage {
    /// The chain does not exist, or its rules are others.
    Chain(Chain),
    /// The jump is not as it should be.
    Jump(Jump, JumpDamage),
}

/// Learns how our rules are printed. None where they are not all there: as many as we wrote, each
/// jump once and in time.
pub(crate) fn learn(
    ruleset: &Ruleset,
    listings: &BTreeMap<Table, Listing>,
) -> Result<Printed, Chain> {
    let mut printed = Printed { chains: BTreeMap::new(), jumps: BTreeMap::new() };
    for (table, listing) in listings {
        for chain in table.chains() {
            match listing.rules(chain.as_str()) {
                Some(rules) if rules.len() == ruleset.rules(chain).len() => {
                    printed.chains.insert(chain, rules.to_vec());
                }
                _ => return Err(chain),
            }
        }
        for jump in table.jumps() {
            let rules = listing.rules(jump.hook.as_str()).unwrap_or_default();
            match find(rules, jump).as_slice() {
                [at] if !is_late(*table, &rules[..*at]) => {
                    printed.jumps.insert(jump, rules[*at].clone());
                }
                _ => return Err(jump.chain),
            }
        }
    }
    Ok(printed)
}

/// Compares what is there with what was there right after the commitment.
pub(crate) fn compare(printed: &Printed, listings: &BTreeMap<Table, Listing>) -> Vec<RuleDamage> {
    let mut damage = Vec::new();
    for (table, listing) in listings {
        for chain in table.chains() {
            let expected = printed.chains.get(&chain).map(Vec::as_slice);
            if listing.rules(chain.as_str()) != expected {
                damage.push(RuleDamage::Chain(chain));
            }
        }
        for jump in table.jumps() {
            let rules = listing.rules(jump.hook.as_str()).unwrap_or_default();
            let wrong = match find(rules, jump).as_slice() {
                [] => JumpDamage::Missing,
                [at] if printed.jumps.get(&jump) != Some(&rules[*at]) => JumpDamage::Altered,
                [at] if is_late(*table, &rules[..*at]) => JumpDamage::Late,
                [_] => continue,
                _ => JumpDamage::Repeated,
            };
            damage.push(RuleDamage::Jump(jump, wrong));
        }
    }
    damage
}

/// What is wrong with a jump, as far as that shows without knowing how it was written.
pub(crate) fn jump_damage(table: Table, listing: &Listing, jump: Jump) -> Option<JumpDamage> {
    let rules = listing.rules(jump.hook.as_str()).unwrap_or_default();
    match find(rules, jump).as_slice() {
        [] => Some(JumpDamage::Missing),
        [at] => is_late(table, &rules[..*at]).then_some(JumpDamage::Late),
        _ => Some(JumpDamage::Repeated),
    }
}

fn find(rules: &[String], jump: Jump) -> Vec<usize> {
    let leads = |rule: &String| target(rule) == Some(jump.chain.as_str());
    rules.iter().enumerate().filter(|(_, rule)| leads(rule)).map(|(at, _)| at).collect()
}

/// Whether a rule before our jump may decide about our packets: a verdict of its own, or in the
/// nat table kube-proxy's chains, which translate the same addresses.
///
/// Jumps to the chains of others are let stand before ours: some (Calico's, kube-router's) insist
/// on the first place, and two programs that both do would move their rules for ever.
fn is_late(table: Table, before: &[String]) -> bool {
    before.iter().filter_map(|rule| target(rule)).any(|target| match target {
        "ACCEPT" | "DROP" | "REJECT" | "RETURN" | "DNAT" | "REDIRECT" | "NETMAP" | "MASQUERADE"
        | "SNAT" | "QUEUE" | "NFQUEUE" => true,
        chain => table == Table::Nat && chain.starts_with("KUBE-"),
    })
}

#[cfg(test)]
mod tests;
