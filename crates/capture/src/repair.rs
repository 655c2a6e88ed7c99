//! What an audit mended and what a cleanup took away, for logs and counters.

use std::fmt;

use ipnet::IpNet;
use streamvs_table::Family;

use crate::listing::JumpDamage;
use crate::sets::SetDamage;
use crate::tools::Flavour;

/// Something of ours in the kernel that was not as it should be, and is again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A chain did not exist, or had other rules.
    Chain {
        /// The family.
        family: Family,
        /// The chain.
        chain: &'static str,
    },
    /// A jump to one of our chains was not right.
    Jump {
        /// The family.
        family: Family,
        /// The iptables table.
        table: &'static str,
        /// The chain of the kernel that it jumps from.
        hook: &'static str,
        /// What was wrong.
        damage: JumpDamage,
    },
    /// A table of nftables was not there, or had other chains, rules or sets.
    Table {
        /// The family.
        family: Family,
        /// The table.
        table: &'static str,
    },
    /// A set did not hold what it should.
    Set {
        /// The set.
        set: &'static str,
        /// What was wrong.
        damage: SetDamage,
    },
    /// A route was not there.
    Route {
        /// Where it leads.
        network: IpNet,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain { family, chain } => {
                write!(f, "{family} chain {chain} was missing or altered")
            }
            Self::Jump { family, table, hook, damage } => {
                let damage = match damage {
                    JumpDamage::Missing => "was missing",
                    JumpDamage::Repeated => "was there more than once",
                    JumpDamage::Altered => "was altered",
                    JumpDamage::Late => "came after rules that decide before it",
                };
                write!(f, "{family} jump from {hook} in {table} {damage}")
            }
            Self::Table { family, table } => {
                write!(f, "nftables {family} table {table} was missing or altered")
            }
            Self::Set { set, damage: SetDamage::Missing } => write!(f, "set {set} was missing"),
            Self::Set { set, damage: SetDamage::Redefined } => {
                write!(f, "set {set} was of another type or size")
            }
            Self::Set { set, damage: SetDamage::Altered { absent, foreign } } => {
                write!(f, "set {set} lacked {absent} elements and had {foreign} too many")
            }
            Self::Route { network } => write!(f, "route to {network} was missing"),
        }
    }
}

/// Something of ours that was found in the kernel and is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A jump to one of our chains, as iptables printed it.
    Jump {
        /// Which iptables had it.
        flavour: Flavour,
        /// The family.
        family: Family,
        /// The iptables table.
        table: &'static str,
        /// The rule.
        rule: String,
    },
    /// A chain with all its rules.
    Chain {
        /// Which iptables had it.
        flavour: Flavour,
        /// The family.
        family: Family,
        /// The iptables table.
        table: &'static str,
        /// The chain.
        chain: String,
    },
    /// A hook chain of iptables-nft that we had created, empty.
    Hook {
        /// The family.
        family: Family,
        /// The iptables table.
        table: &'static str,
        /// The chain.
        hook: String,
    },
    /// A table of iptables-nft that we had created, empty.
    Table {
        /// The family.
        family: Family,
        /// The iptables table.
        table: &'static str,
    },
    /// A table of nftables with all that was in it.
    NftTable {
        /// The family.
        family: Family,
        /// The table.
        table: &'static str,
    },
    /// A set with all its elements.
    Set(String),
    /// A route.
    Route(IpNet),
    /// The table of a gate without owner.
    Gate,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump { flavour, family, table, rule } => {
                write!(f, "{flavour} {family} {table} rule {rule}")
            }
            Self::Chain { flavour, family, table, chain } => {
                write!(f, "{flavour} {family} {table} chain {chain}")
            }
            Self::Hook { family, table, hook } => {
                write!(f, "{} {family} {table} empty chain {hook}", Flavour::Nft)
            }
            Self::Table { family, table } => {
                write!(f, "{} {family} empty table {table}", Flavour::Nft)
            }
            Self::NftTable { family, table } => write!(f, "nftables {family} table {table}"),
            Self::Set(name) => write!(f, "set {name}"),
            Self::Gate => write!(f, "nft inet table {}", crate::gate::table::NAME),
            Self::Route(network) => write!(f, "route to {network}"),
        }
    }
}
