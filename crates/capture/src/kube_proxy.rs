//! Takes away what a removed kube-proxy has left: only on request.
//!
//! kube-proxy's rules stay when it goes. Beside a later one of ours they do no harm, but Services
//! that are gone since are still translated by them. Its own `--cleanup` needs its image; this
//! does the same for the modes iptables and nftables. Connection tracking is left alone: what is
//! established goes on.
//!
//! The kubelet keeps chains under the same prefix, and so do network policy engines; only names
//! that kube-proxy makes are taken, and of those not one that a rule of others still leads to.
//!
//! Source: kubernetes pkg/proxy/iptables, pkg/proxy/ipvs and pkg/proxy/nftables, the constants with
//! names of chains and tables.

use std::collections::BTreeSet;

use streamvs_table::Family;

use crate::backend::KUBE_PROXY_TABLE;
use crate::listing::{Listing, target};
use crate::nft::Nft;
use crate::tools::{Flavour, Iptables};
use crate::{Error, Removed, render};

/// The tables in which kube-proxy has chains, in the order in which they are taken: first no new
/// connection is translated.
const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// The kernel's own chains, from which kube-proxy jumps.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Marks a packet, and masquerades what is marked.
const MARK_MASQ: &str = "KUBE-MARK-MASQ";
const POSTROUTING: &str = "KUBE-POSTROUTING";

/// Chains of which there is one in a table.
const CHAINS: [&str; 14] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    POSTROUTING,
    MARK_MASQ,
    "KUBE-MARK-DROP",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-NODE-PORT",
    "KUBE-LOAD-BALANCER",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
];

/// Chains of which there is one for each Service or endpoint.
const PREFIXES: [&str; 6] =
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-", "KUBE-XLB-"];

/// Removes kube-proxy's chains from both iptables and its tables from nftables, and returns what it
/// removed. Not while kube-proxy runs: it would make them again.
///
/// # Errors
/// A program failed. Each table is one transaction: what was removed before stays removed.
pub async fn cleanup_kube_proxy() -> Result<Vec<Removed>, Error> {
    let mut removed = Vec::new();
    if let Ok(nft) = Nft::locate() {
        removed.extend(nft.remove_tables(KUBE_PROXY_TABLE).await?);
    }
    for flavour in Flavour::BOTH {
        let Ok(iptables) = Iptables::find(flavour).await else { continue };
        for family in Family::BOTH {
            if !iptables.may_have_rules(family).await? {
                continue;
            }
            for table in TABLES {
                let listing = iptables.read_named(family, table).await?;
                let (jumps, chains) = leftovers(&listing);
                if chains.is_empty() {
                    continue;
                }
                let text = render::take_away(table, &jumps, &chains);
                iptables.restore(family, &text).await?;
                removed.extend(jumps.into_iter().map(|rule| Removed::Jump {
                    flavour,
                    family,
                    table,
                    rule: rule.to_owned(),
                }));
                removed.extend(chains.into_iter().map(|chain| Removed::Chain {
                    flavour,
                    family,
                    table,
                    chain: chain.to_owned(),
                }));
            }
        }
    }
    Ok(removed)
}

/// kube-proxy's chains in a table, and the jumps to them from the kernel's own.
fn leftovers(listing: &Listing) -> (Vec<&str>, Vec<&str>) {
    let mut chains: BTreeSet<&str> =
        listing.chains().filter(|chain| is_kube_proxys(chain)).collect();
    // What others still lead to stays, and what that leads to.
    let had_mark = chains.contains(MARK_MASQ);
    loop {
        let needed: Vec<&str> = listing
            .chains()
            .filter(|from| !chains.contains(from) && !HOOKS.contains(from))
            .flat_map(|from| listing.rules(from).unwrap_or_default())
            .filter_map(|rule| target(rule))
            .filter(|to| chains.contains(to))
            .collect();
        if needed.is_empty() {
            break;
        }
        for chain in needed {
            chains.remove(chain);
        }
    }
    // A mark that others still set would mean nothing without the chain that masquerades by it.
    if had_mark && !chains.contains(MARK_MASQ) {
        chains.remove(POSTROUTING);
    }
    let jumps = HOOKS
        .into_iter()
        .flat_map(|hook| listing.rules(hook).unwrap_or_default())
        .map(String::as_str)
        .filter(|rule| target(rule).is_some_and(|to| chains.contains(to)))
        .collect();
    (jumps, chains.into_iter().collect())
}

fn is_kube_proxys(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    //! Aim: kube-proxy's and nobody else's.

    use super::*;

    #[test]
    fn chains_of_kubelet_and_policy_engines_stay_and_so_does_what_they_need() {
        let listing = Listing::parse(
            ":PREROUTING ACCEPT [0:0]\n\
             :KUBE-SERVICES - [0:0]\n\
             :KUBE-SVC-ABC - [0:0]\n\
             :KUBE-SEP-ABC - [0:0]\n\
             :KUBE-MARK-MASQ - [0:0]\n\
             :KUBE-KUBELET-CANARY - [0:0]\n\
             :KUBE-FIREWALL - [0:0]\n\
             :KUBE-ROUTER-INPUT - [0:0]\n\
             :KUBE-POD-FW-ABC - [0:0]\n\
             -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A PREROUTING -j KUBE-ROUTER-INPUT\n\
             -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC\n\
             -A KUBE-SVC-ABC -j KUBE-SEP-ABC\n\
             -A KUBE-SEP-ABC -s 10.244.1.10/32 -j KUBE-MARK-MASQ\n\
             :POSTROUTING ACCEPT [0:0]\n\
             :KUBE-POSTROUTING - [0:0]\n\
             -A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-POD-FW-ABC -j KUBE-MARK-MASQ\n",
        );
        let (jumps, chains) = leftovers(&listing);
        assert_eq!(chains, ["KUBE-SEP-ABC", "KUBE-SERVICES", "KUBE-SVC-ABC"]);
        assert_eq!(
            jumps,
            ["-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES"]
        );
    }

    #[test]
    fn a_table_without_kube_proxy_has_nothing_to_remove() {
        let listing = Listing::parse(":INPUT ACCEPT [0:0]\n-A INPUT -j KUBE-ROUTER-INPUT\n");
        assert_eq!(leftovers(&listing), (vec![], vec![]));
    }
}
