//! Capture by nftables: the same rules in tables of our own.
//!
//! For nodes where kube-proxy runs in nftables mode: its chains and those of iptables' nat table
//! have the same priority, so that the order in which they were loaded would decide. Ours come
//! before both, whenever they are loaded.
//!
//! ```text
//!  gate (-110) -> ip, ip6 streamvs-capture nat (-105) -> iptables nat, kube-proxy (-100)
//! ```
//!
//! On the way out as well (95, theirs 100): what leaves from an alias is translated by us, before
//! anybody masquerades it.
//!
//! A difference to iptables: a base chain that accepts a packet does not keep other base chains
//! from dropping it. A node whose firewall drops what it does not know must let through what is
//! addressed to the listener ([`LISTENER_V4`](crate::LISTENER_V4),
//! [`LISTENER_V6`](crate::LISTENER_V6)).

mod listing;
pub(crate) mod render;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use streamvs_table::{Alias, Aliases, Family, PerFamily};

use crate::alias::{Judged, Narrow, Obstacle};
use crate::capture::ipv6_is_off;
use crate::command::{find, run};
use crate::ruleset::Ruleset;
use crate::sets::{self, Contents, SetDamage};
use crate::{Config, Desired, Error, Removed, Repair, link};
use listing::Listing;

/// How often rules are committed before someone else is blamed for changing them.
const ATTEMPTS: u32 = 3;

/// The program `nft`.
#[derive(Clone, Debug)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds it.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) fn locate() -> Result<Self, Error> {
        match find("nft") {
            Some(program) => Ok(Self { program }),
            None => Err(Error::ToolMissing { program: "nft".to_owned(), package: "nftables" }),
        }
    }

    /// Gives it a script; each is one transaction.
    pub(crate) async fn commit(&self, script: &str) -> Result<(), Error> {
        if script.is_empty() {
            return Ok(());
        }
        run(&self.program, &["-f", "-"], script).await?.success().map(drop)
    }

    /// The tables of all families, as in `table ip nat`.
    async fn tables(&self) -> Result<BTreeSet<String>, Error> {
        list_tables(&self.program, &[]).await
    }

    /// Whether a table of this name exists in either family of addresses.
    pub(crate) async fn has_table(&self, name: &str) -> Result<bool, Error> {
        let tables = self.tables().await?;
        let of = |family| format!("table {} {name}", render::word(family));
        Ok(Family::BOTH.into_iter().any(|family| tables.contains(&of(family))))
    }

    /// Takes the tables of this name away, and tells which there were.
    ///
    /// # Errors
    /// `nft` failed.
    pub(crate) async fn remove_tables(&self, name: &'static str) -> Result<Vec<Removed>, Error> {
        let tables = match self.tables().await {
            // A kernel without nf_tables has none.
            Err(Error::Failed { .. }) => return Ok(Vec::new()),
            tables => tables?,
        };
        let mut removed = Vec::new();
        for family in Family::BOTH {
            let table = format!("table {} {name}", render::word(family));
            if tables.contains(&table) {
                self.commit(&format!("delete {table}\n")).await?;
                removed.push(Removed::NftTable { family, table: name });
            }
        }
        Ok(removed)
    }

    async fn read(&self, family: Family) -> Result<Option<Listing>, Error> {
        let printed = self.print(family, render::TABLE).await?;
        Ok(printed.map(|printed| listing::parse(family, &printed)))
    }

    /// A table as the kernel shows it; none where there is none.
    pub(crate) async fn print(&self, family: Family, table: &str) -> Result<Option<String>, Error> {
        let arguments = ["-n", "-s", "list", "table", render::word(family), table];
        run(&self.program, &arguments, "").await?.success_or_absent(1)
    }
}

/// The tables of a family, or of all, as in `table ip nat`.
///
/// They are listed with their chains, and so without their elements: to `list tables` nft 1.0 reads
/// all elements too, which takes half a second with the 60,000 of 10,000 Services.
///
/// # Errors
/// `nft` failed.
pub(crate) async fn list_tables(nft: &Path, of: &[&str]) -> Result<BTreeSet<String>, Error> {
    let listed = run(nft, &[&["list", "chains"], of].concat(), "").await?.success()?;
    let tables = listed.lines().filter(|line| line.starts_with("table "));
    Ok(tables.map(|line| line.trim_end_matches(" {").to_owned()).collect())
}

/// The capture of this node's service connections by nftables.
#[derive(Debug)]
pub(crate) struct Capture {
    config: Config,
    nft: Nft,
    families: Vec<Family>,
    /// The rules committed last, and how the kernel shows our tables without elements; none until
    /// they are committed.
    printed: PerFamily<Option<(Ruleset, String)>>,
    desired: Desired,
    /// What the sets hold, unless someone else changed them.
    contents: Contents,
    gate_open: bool,
    aliases: Judged,
}

impl Capture {
    /// See [`Capture::install`](crate::Capture::install).
    pub(crate) async fn install(config: Config, desired: &Desired) -> Result<Self, Error> {
        config.check()?;
        let nft = Nft::locate()?;
        let mut families = vec![Family::V4];
        if ipv6_is_off() {
            tracing::warn!("this node has no ipv6, its services are not captured");
        } else {
            families.push(Family::V6);
        }
        let mut capture = Self {
            config,
            nft,
            families,
            printed: PerFamily::default(),
            desired: desired.clone(),
            contents: Contents::new(),
            gate_open: true,
            aliases: Judged::new("the translation of prefixes by nft"),
        };
        capture.settle(&|_| {}).await?;
        Ok(capture)
    }

    /// See [`Capture::aliases`](crate::Capture::aliases).
    pub(crate) fn aliases(&self) -> Aliases {
        self.aliases.in_force(&self.families)
    }

    /// See [`Capture::obstacles`](crate::Capture::obstacles).
    pub(crate) fn obstacles(&self) -> Vec<(Alias, Obstacle)> {
        self.aliases.obstacles()
    }

    /// See [`Capture::update`](crate::Capture::update).
    pub(crate) async fn update(&mut self, desired: &Desired) -> Result<(), Error> {
        let routed = (self.addresses(), self.ranges());
        if self.desired.aliases != desired.aliases {
            self.desired = desired.clone();
            self.aliases.try_again();
            return self.settle(&|_| {}).await.map(drop);
        }
        self.desired = desired.clone();
        if (self.addresses(), self.ranges()) != routed {
            self.settle_routes().await?;
        }
        let want = self.wanted();
        if self.nft.commit(&render::change(&self.contents, &want)).await.is_ok() {
            self.contents = want;
            return Ok(());
        }
        // Someone else took the table or an element away.
        self.settle(&|_| {}).await.map(drop)
    }

    /// See [`Capture::audit`](crate::Capture::audit).
    pub(crate) async fn audit(&mut self, narrow: Narrow<'_>) -> Result<Vec<Repair>, Error> {
        if self.families.contains(&Family::V6) && ipv6_is_off() {
            tracing::warn!("ipv6 was switched off on this node, its services are not captured");
            self.families.retain(|family| *family != Family::V6);
        }
        self.settle(narrow).await
    }

    /// See [`Capture::close_gate`](crate::Capture::close_gate).
    pub(crate) async fn close_gate(&mut self) -> Result<(), Error> {
        self.gate_open = false;
        let want = self.wanted();
        let capture = want.keys().filter(|name| name.purpose.captures());
        let script: String = capture
            .map(|name| {
                let (ip, set) = (render::word(name.family), render::set(*name));
                format!("flush set {ip} {} {set}\n", render::TABLE)
            })
            .collect();
        if self.nft.commit(&script).await.is_ok() {
            self.contents = want;
            return Ok(());
        }
        self.settle(&|_| {}).await.map(drop)
    }

    /// See [`Capture::remove`](crate::Capture::remove).
    pub(crate) async fn remove(self) -> Result<(), Error> {
        self.nft.remove_tables(render::TABLE).await?;
        link::remove().await.map(drop)
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.families.iter().flat_map(|family| self.desired.addresses(*family)).collect()
    }

    fn ranges(&self) -> BTreeSet<IpNet> {
        self.config.service_cidrs.iter().chain(&self.desired.ranges).copied().collect()
    }

    fn wanted(&self) -> Contents {
        sets::wanted(&self.desired, &self.families, self.gate_open)
    }

    async fn settle_routes(&self) -> Result<Vec<IpNet>, Error> {
        link::settle(&link::Wanted {
            families: &self.families,
            ranges: self.ranges(),
            addresses: self.addresses(),
            aliases: self.aliases().iter().map(Alias::aliases).collect(),
            yielded: self.aliases.yielded(),
        })
        .await
    }

    /// Looks everything over and mends it: routes before tables, so that nothing is captured
    /// before there is a way to the listener. `narrow` is told of the aliases that stay, before the
    /// others go.
    async fn settle(&mut self, narrow: Narrow<'_>) -> Result<Vec<Repair>, Error> {
        self.aliases.examine(&self.desired.aliases).await?;
        narrow(&self.aliases());
        let routes = self.settle_routes().await?;
        let mut repairs: Vec<Repair> =
            routes.into_iter().map(|network| Repair::Route { network }).collect();
        let want = self.wanted();
        for family in self.families.clone() {
            self.settle_table(family, &want, &mut repairs).await?;
        }
        self.contents = want;
        Ok(repairs)
    }

    /// Puts a family's table in place; without aliases where it takes that.
    async fn settle_table(
        &mut self,
        family: Family,
        want: &Contents,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Error> {
        let refused = match self.commit_table(family, want, repairs).await {
            Err(Error::Failed { stderr, .. })
                if self.aliases().iter().any(|alias| alias.family() == family) =>
            {
                stderr
            }
            done => return done,
        };
        self.aliases.refuse(family, Some(&refused));
        if let Err(error) = self.commit_table(family, want, repairs).await {
            // It was not because of the aliases.
            self.aliases.refuse(family, None);
            return Err(error);
        }
        self.settle_routes().await.map(drop)
    }

    async fn commit_table(
        &mut self,
        family: Family,
        want: &Contents,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Error> {
        let ruleset = self.config.ruleset(family, &self.aliases());
        for attempt in 1..=ATTEMPTS {
            let found = self.nft.read(family).await?;
            if let Some((committed, printed)) = self.printed.get(family)
                && *committed == ruleset
            {
                let damage = damage(family, printed, found.as_ref(), want);
                if damage.is_empty() {
                    return Ok(());
                }
                if attempt == 1 {
                    repairs.extend(damage);
                }
            }
            self.nft.commit(&render::replace(&ruleset, want)).await?;
            let committed = self.nft.read(family).await?;
            if let Some(committed) = committed
                && holds(family, &committed, want)
            {
                *self.printed.get_mut(family) = Some((ruleset, committed.skeleton));
                return Ok(());
            }
        }
        Err(Error::RulesNotKept { family, chain: render::TABLE, attempts: ATTEMPTS })
    }
}

/// The sets hold what is wanted and nothing else.
fn holds(family: Family, found: &Listing, want: &Contents) -> bool {
    found.foreign_count == 0
        && sets::SetName::of(family).all(|name| found.contents.get(&name) == want.get(&name))
}

/// What differs from what was printed after the commitment, and from what is wanted in the sets.
fn damage(family: Family, printed: &str, found: Option<&Listing>, want: &Contents) -> Vec<Repair> {
    let Some(found) = found.filter(|found| found.skeleton == printed) else {
        return vec![Repair::Table { family, table: render::TABLE }];
    };
    let none = BTreeSet::new();
    let mut damage = Vec::new();
    for name in sets::SetName::of(family) {
        let have = found.contents.get(&name).unwrap_or(&none);
        let want = want.get(&name).unwrap_or(&none);
        let (absent, foreign) = (want.difference(have).count(), have.difference(want).count());
        if absent + foreign > 0 {
            let damage_of_set = SetDamage::Altered { absent, foreign };
            damage.push(Repair::Set { set: name.as_str(), damage: damage_of_set });
        }
    }
    damage
}
