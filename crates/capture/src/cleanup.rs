//! Finds everything of ours by name and protocol number, and takes it away.

use streamvs_table::Family;

use crate::capture::Extent;
use crate::created::{self, Made};
use crate::ipset::Ipset;
use crate::nft::{self, Nft};
use crate::ruleset::Table;
use crate::tools::{Flavour, Iptables};
use crate::{Error, Removed, command, gate, link, render, reply, sets};

/// Removes whatever any version of streamvs put into this network namespace, running or not, in
/// both iptables, in nftables and in both families: jumps, chains, sets, tables, routes, a gate
/// without owner, and the empty tables of iptables-nft that it had created. Nothing else is touched. Idempotent: a second run finds
/// nothing. Returns what it removed, in order.
///
/// What a missing program would have shown is passed over with a warning.
///
/// # Errors
/// A program failed or a route could not be deleted. What was removed before stays removed; the
/// next run finds the rest.
pub async fn cleanup() -> Result<Vec<Removed>, Error> {
    let mut removed = Vec::new();
    let mut any_iptables = false;
    for flavour in Flavour::BOTH {
        let Ok(iptables) = Iptables::find(flavour).await else { continue };
        any_iptables = true;
        for family in Family::BOTH {
            removed.extend(remove_flavour(&iptables, family, Extent::Everything).await?);
        }
    }
    if !any_iptables {
        tracing::warn!("iptables is not installed, no rules were looked for");
    }
    match Ipset::locate() {
        Ok(ipset) => removed.extend(remove_sets(&ipset).await?),
        Err(missing) => tracing::warn!(%missing, "no sets were looked for"),
    }
    match Nft::locate() {
        Ok(nft) => {
            for table in [nft::render::TABLE, reply::TABLE] {
                removed.extend(nft.remove_tables(table).await?);
            }
        }
        Err(missing) => tracing::warn!(%missing, "no nftables tables were looked for"),
    }
    removed.extend(link::remove().await?.into_iter().map(Removed::Route));
    match gate::remove_left_behind() {
        Ok(true) => removed.push(Removed::Gate),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "no gate was looked for"),
    }
    Ok(removed)
}

/// Takes our rules of one flavour and family away, capture before the rest.
pub(crate) async fn remove_flavour(
    iptables: &Iptables,
    family: Family,
    extent: Extent,
) -> Result<Vec<Removed>, Error> {
    let mut removed = Vec::new();
    let flavour = iptables.flavour();
    if !iptables.may_have_rules(family).await? {
        return Ok(removed);
    }
    for table in Table::ALL.into_iter().rev() {
        let listing = match extent {
            Extent::Known => iptables.read(family, table).await?,
            Extent::Everything => iptables.read_all(family, table).await?,
        };
        let name = table.as_str();
        if listing.our_chains().next().is_none() {
            continue;
        }
        let made = Made::parse(&listing).unwrap_or_default();
        iptables.restore(family, &render::remove(table, &listing)).await?;
        removed.extend(listing.our_jumps().map(|rule| Removed::Jump {
            flavour,
            family,
            table: name,
            rule: rule.to_owned(),
        }));
        removed.extend(listing.our_chains().map(|chain| Removed::Chain {
            flavour,
            family,
            table: name,
            chain: chain.to_owned(),
        }));
        if flavour == Flavour::Nft && !made.is_empty() {
            for hook in created::hooks(&made, table) {
                if iptables.erase_hook(family, table, hook).await? {
                    removed.push(Removed::Hook { family, table: name, hook: hook.to_owned() });
                }
            }
            if let Some(nft) = command::find("nft")
                && created::erase_table(&nft, family, table, &made).await?
            {
                removed.push(Removed::Table { family, table: name });
            }
        }
    }
    Ok(removed)
}

/// Destroys our sets. No rule may name them any more.
pub(crate) async fn remove_sets(ipset: &Ipset) -> Result<Vec<Removed>, Error> {
    let names = ipset.names().await?;
    let ours: Vec<String> =
        names.into_iter().filter(|name| name.starts_with(sets::PREFIX)).collect();
    let script: String = ours.iter().map(|name| format!("destroy {name}\n")).collect();
    ipset.restore(&script).await?;
    Ok(ours.into_iter().map(Removed::Set).collect())
}
