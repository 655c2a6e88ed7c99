//! Which iptables, and whether our rules come first.

use streamvs_table::Family;

use super::Finding;
use crate::listing::{JumpDamage, jump_damage};
use crate::ruleset::{Hook, Table};
use crate::tools::{Flavour, Iptables};

/// Which iptables the agent uses here.
pub(super) async fn flavour(iptables: &Iptables) -> Finding {
    let subject = "iptables";
    let chosen = iptables.flavour();
    let other = if chosen == Flavour::Nft { Flavour::Legacy } else { Flavour::Nft };
    let others = match Iptables::find(other).await {
        Ok(found) if found.flavour() == other => found.count_rules().await.unwrap_or(0),
        _ => 0,
    };
    if others > 0 {
        let found = format!("{chosen} is used, and {other} has {others} rules too");
        let advice = "let all programs of the node use the same iptables: the kernel asks both, one \
                      after the other; --iptables-backend chooses";
        return Finding::warning(subject, found, advice);
    }
    Finding::fit(subject, format!("{chosen} is used"))
}

/// Whether our rules are asked before those of others.
pub(super) async fn order(iptables: &Iptables) -> Finding {
    let subject = "rule order";
    let mut present = false;
    for family in Family::BOTH {
        let Ok(listing) = iptables.read(family, Table::Nat).await else { continue };
        if listing.our_chains().next().is_none() {
            continue;
        }
        present = true;
        for jump in Table::Nat.jumps().filter(|jump| jump.hook != Hook::Postrouting) {
            let hook = jump.hook.as_str();
            let found = match jump_damage(Table::Nat, &listing, jump) {
                None => continue,
                Some(JumpDamage::Late) => format!("others are asked before us in {family} {hook}"),
                Some(_) => format!("our rule in {family} {hook} is not as it should be"),
            };
            let advice = "the agent mends this within --iptables-sync-period, while it runs";
            return Finding::unfit(subject, found, advice);
        }
    }
    if present {
        Finding::fit(subject, "our rules are asked first")
    } else {
        Finding::fit(subject, "there are no rules of ours yet")
    }
}
