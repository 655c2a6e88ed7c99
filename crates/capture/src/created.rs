//! What iptables-nft creates around our rules, and takes no longer than they do.
//!
//! With iptables-nft a table (`ip nat`) and its hook chains (`PREROUTING`) begin to exist with the
//! first rule that needs them and stay for ever. A node that had none before must have none after
//! `cleanup`, and a node that had an empty one must keep it. So the first install looks which of
//! them exist and writes those it is about to create into the kernel, next to the rules: an
//! unreferenced chain of ours with one comment for each. A crash, an upgrade or a `cleanup` by
//! another binary finds the record there. Legacy tables belong to a kernel module, cannot be
//! deleted by anyone, and need no record.

use std::path::Path;

use streamvs_table::Family;

use crate::Error;
use crate::command::run;
use crate::listing::{Listing, target};
use crate::nft::list_tables;
use crate::ruleset::Table;

/// The chain that holds the record. No rule leads there.
pub(crate) const CHAIN: &str = "STREAMVS-CREATED";

const WHOLE_TABLE: &str = "table";

/// What an install created in one table of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// [`WHOLE_TABLE`], or the names of hook chains in a table that existed.
    words: Vec<String>,
}

impl Made {
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The record as words without blanks or quotes.
    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Reads the record; none where there is no such chain.
    pub(crate) fn parse(listing: &Listing) -> Option<Self> {
        let rules = listing.rules(CHAIN)?;
        let word = |rule: &String| {
            let word = rule.split_whitespace().last()?.trim_matches('"');
            (target(rule).is_none() && !word.is_empty()).then(|| word.to_owned())
        };
        Some(Self { words: rules.iter().filter_map(word).collect() })
    }
}

fn nft_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Looks which parts of a table an install is about to create.
///
/// # Errors
/// `nft` could not be run.
pub(crate) async fn probe(nft: &Path, family: Family, table: Table) -> Result<Made, Error> {
    let family = nft_family(family);
    let name = format!("table {family} {}", table.as_str());
    if !list_tables(nft, &[family]).await?.contains(&name) {
        return Ok(Made { words: vec![WHOLE_TABLE.to_owned()] });
    }
    let mut made = Made::default();
    for jump in table.jumps() {
        let chain = jump.hook.as_str();
        if !run(nft, &["list", "chain", family, table.as_str(), chain], "").await?.succeeded() {
            made.words.push(chain.to_owned());
        }
    }
    Ok(made)
}

/// The hook chains that may be deleted if they are empty.
pub(crate) fn hooks(made: &Made, table: Table) -> Vec<&str> {
    if made.words().any(|word| word == WHOLE_TABLE) {
        match table {
            Table::Filter => vec!["INPUT", "FORWARD", "OUTPUT"],
            Table::Nat => vec!["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
        }
    } else {
        made.words().collect()
    }
}

/// Deletes a table that we created, if nothing at all is left in it. True where it did.
///
/// # Errors
/// `nft` could not be run, or refused.
pub(crate) async fn erase_table(
    nft: &Path,
    family: Family,
    table: Table,
    made: &Made,
) -> Result<bool, Error> {
    let arguments = [nft_family(family), table.as_str()];
    let listed = run(nft, &["list", "table", arguments[0], arguments[1]], "").await?;
    if !made.words().any(|word| word == WHOLE_TABLE) || !listed.succeeded() {
        return Ok(false);
    }
    let listed = listed.success()?;
    let content = listed.lines().filter(|line| !line.trim_start().starts_with('#'));
    let bare = content.map(str::trim).filter(|line| !line.is_empty() && *line != "}").count() == 1;
    if bare {
        run(nft, &["delete", "table", arguments[0], arguments[1]], "").await?.success()?;
    }
    Ok(bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_back_as_written() {
        let printed = "-N STREAMVS-CREATED\n\
                       -A STREAMVS-CREATED -m comment --comment PREROUTING\n\
                       -A STREAMVS-CREATED -m comment --comment \"OUTPUT\"\n";
        let made = Made::parse(&Listing::parse(printed)).expect("there is a record");
        assert_eq!(made.words().collect::<Vec<_>>(), ["PREROUTING", "OUTPUT"]);
        assert_eq!(hooks(&made, Table::Nat), ["PREROUTING", "OUTPUT"]);
    }

    #[test]
    fn created_table_gives_up_every_hook_chain() {
        let printed = "-A STREAMVS-CREATED -m comment --comment table\n";
        let made = Made::parse(&Listing::parse(printed)).expect("there is a record");
        assert_eq!(hooks(&made, Table::Filter), ["INPUT", "FORWARD", "OUTPUT"]);
    }

    #[test]
    fn no_chain_is_no_record_and_empty_chain_is_an_empty_one() {
        assert_eq!(Made::parse(&Listing::parse("-P OUTPUT ACCEPT\n")), None);
        let made = Made::parse(&Listing::parse("-N STREAMVS-CREATED\n")).expect("a record");
        assert!(made.is_empty() && hooks(&made, Table::Nat).is_empty());
    }
}
