//! Which iptables: the node may have two, and rules in the wrong one come too late or too early.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use streamvs_table::Family;

use crate::Error;
use crate::command::{find, run};
use crate::created;
use crate::listing::Listing;
use crate::ruleset::{CHAIN_PREFIX, Table};

/// Which iptables to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tools {
    /// The one that the node's other programs use: where kubelet or kube-proxy left their marker
    /// chains, else where more rules are, else what plain `iptables` is.
    #[default]
    Auto,
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// One of the two iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavour {
    /// Rules live in nf_tables.
    Nft,
    /// Rules live in x_tables.
    Legacy,
}

impl Flavour {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        })
    }
}

/// Seconds that iptables waits for another program's lock. Longer than any healthy run of
/// kube-proxy holds it, and well within the deadline of one command.
const LOCK_WAIT: &str = "5";

/// Chains that kubelet and kube-proxy keep in the mangle table of the iptables they use.
///
/// Source: KEP-3178 and kubernetes-sigs/iptables-wrappers.
const MARKERS: [&str; 3] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-PROXY-CANARY"];

/// The programs of one flavour.
#[derive(Clone, Debug)]
pub(crate) struct Iptables {
    flavour: Flavour,
    v4: Binaries,
    v6: Option<Binaries>,
}

#[derive(Clone, Debug)]
struct Binaries {
    iptables: PathBuf,
    restore: PathBuf,
    save: PathBuf,
}

impl Binaries {
    fn find(family: Family, suffix: &str) -> Result<Self, Error> {
        let base = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let locate = |program: String| match find(&program) {
            Some(path) => Ok(path),
            None => Err(Error::ToolMissing { program, package: "iptables" }),
        };
        Ok(Self {
            iptables: locate(format!("{base}{suffix}"))?,
            restore: locate(format!("{base}{suffix}-restore"))?,
            save: locate(format!("{base}{suffix}-save"))?,
        })
    }
}

impl Iptables {
    /// Chooses as configured.
    ///
    /// # Errors
    /// The chosen programs are not installed, or do not run.
    pub(crate) async fn choose(tools: Tools) -> Result<Self, Error> {
        let flavour = match tools {
            Tools::Nft => Flavour::Nft,
            Tools::Legacy => Flavour::Legacy,
            Tools::Auto => prevailing().await?,
        };
        Self::find(flavour).await
    }

    /// The programs of a flavour, under their own names or as plain `iptables`.
    pub(crate) async fn find(flavour: Flavour) -> Result<Self, Error> {
        let v4 = Binaries::find(Family::V4, flavour.suffix());
        match v4 {
            Ok(v4) => {
                let v6 = Binaries::find(Family::V6, flavour.suffix()).ok();
                Ok(Self { flavour, v4, v6 })
            }
            Err(missing) => match plain().await {
                Ok(plain) if plain.flavour == flavour => Ok(plain),
                _ => Err(missing),
            },
        }
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    fn binaries(&self, family: Family) -> Result<&Binaries, Error> {
        match family {
            Family::V4 => Ok(&self.v4),
            Family::V6 => self.v6.as_ref().ok_or_else(|| Error::ToolMissing {
                program: "ip6tables".to_owned(),
                package: "iptables",
            }),
        }
    }

    /// Why this family's tables cannot be used; none where they can.
    pub(crate) async fn unusable(&self, family: Family) -> Result<Option<String>, Error> {
        let binaries = match self.binaries(family) {
            Ok(binaries) => binaries,
            Err(missing) => return Ok(Some(missing.to_string())),
        };
        for table in Table::ALL {
            let arguments = ["-w", LOCK_WAIT, "-t", table.as_str(), "-S", "OUTPUT"];
            let finished = run(&binaries.iptables, &arguments, "").await?;
            if !finished.succeeded() {
                return Ok(Some(finished.stderr().trim_end().to_owned()));
            }
        }
        Ok(None)
    }

    /// False where no rule of the family can exist: it has no programs, or nf_tables does not
    /// answer them. Legacy tables are not asked, since asking would load them for ever; reading
    /// skips those that are not loaded.
    pub(crate) async fn may_have_rules(&self, family: Family) -> Result<bool, Error> {
        match self.flavour {
            Flavour::Nft => Ok(self.unusable(family).await?.is_none()),
            Flavour::Legacy => Ok(self.binaries(family).is_ok()),
        }
    }

    /// Our chains in a table, and the chains of the kernel that lead to them.
    ///
    /// Costs no more where others have a hundred thousand rules: iptables-nft prints one chain in
    /// 3 ms, but takes 3 s for a table of 55,000 rules. iptables-legacy always reads the whole
    /// table, so there it is read once.
    pub(crate) async fn read(&self, family: Family, table: Table) -> Result<Listing, Error> {
        if self.flavour == Flavour::Legacy {
            return self.read_all(family, table).await;
        }
        let binaries = self.binaries(family)?;
        let mut listing = Listing::default();
        let ours = table.chains().map(|chain| chain.as_str());
        let hooks = table.jumps().map(|jump| jump.hook.as_str());
        for chain in ours.chain(hooks).chain([created::CHAIN]) {
            let arguments = ["-w", LOCK_WAIT, "-t", table.as_str(), "-S", chain];
            let printed = run(&binaries.iptables, &arguments, "").await?.success_or_absent(1)?;
            listing.read(&printed.unwrap_or_default());
        }
        Ok(listing)
    }

    /// All chains of a table of ours.
    pub(crate) async fn read_all(&self, family: Family, table: Table) -> Result<Listing, Error> {
        self.read_named(family, table.as_str()).await
    }

    /// All chains of any table.
    pub(crate) async fn read_named(&self, family: Family, table: &str) -> Result<Listing, Error> {
        if self.flavour == Flavour::Legacy && !legacy_table_is_loaded(family, table) {
            // Asking for it would load it, and it could never be unloaded.
            return Ok(Listing::default());
        }
        let binaries = self.binaries(family)?;
        let saved = run(&binaries.save, &["-t", table], "").await?.success()?;
        Ok(Listing::parse(&saved))
    }

    /// Our chains and the jumps to them in both tables.
    pub(crate) async fn read_both(
        &self,
        family: Family,
    ) -> Result<BTreeMap<Table, Listing>, Error> {
        let mut listings = BTreeMap::new();
        for table in Table::ALL {
            listings.insert(table, self.read(family, table).await?);
        }
        Ok(listings)
    }

    /// Gives `text` to `iptables-restore`; each table in it is one transaction.
    pub(crate) async fn restore(&self, family: Family, text: &str) -> Result<(), Error> {
        let binaries = self.binaries(family)?;
        let arguments = ["--noflush", "-w", LOCK_WAIT];
        run(&binaries.restore, &arguments, text).await?.success().map(drop)
    }

    /// Deletes a hook chain that holds nothing and accepts; one that does stays. True where it
    /// was deleted.
    pub(crate) async fn erase_hook(
        &self,
        family: Family,
        table: Table,
        hook: &str,
    ) -> Result<bool, Error> {
        let binaries = self.binaries(family)?;
        let arguments = ["-w", LOCK_WAIT, "-t", table.as_str(), "-X", hook];
        Ok(run(&binaries.iptables, &arguments, "").await?.succeeded())
    }

    /// Whether an IPv4 chain is there.
    pub(crate) async fn has_chain(&self, table: &str, chain: &str) -> bool {
        if self.flavour == Flavour::Legacy && !legacy_table_is_loaded(Family::V4, table) {
            return false;
        }
        let arguments = ["-w", LOCK_WAIT, "-t", table, "-S", chain];
        run(&self.v4.iptables, &arguments, "").await.is_ok_and(|run| run.succeeded())
    }

    async fn has_markers(&self) -> Result<bool, Error> {
        if self.flavour == Flavour::Legacy && !legacy_table_is_loaded(Family::V4, "mangle") {
            return Ok(false);
        }
        for marker in MARKERS {
            let arguments = ["-w", LOCK_WAIT, "-t", "mangle", "-S", marker];
            if run(&self.v4.iptables, &arguments, "").await?.succeeded() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many rules of others there are, over all tables of both families.
    pub(crate) async fn count_rules(&self) -> Result<usize, Error> {
        let mut count = 0;
        for family in Family::BOTH {
            let Ok(binaries) = self.binaries(family) else { continue };
            let any_table = ["raw", "mangle", "nat", "filter", "security"];
            let loaded = |table: &&str| legacy_table_is_loaded(family, table);
            if self.flavour == Flavour::Legacy && !any_table.iter().any(loaded) {
                continue;
            }
            let Ok(saved) = run(&binaries.save, &[], "").await?.success() else { continue };
            let foreign = |line: &&str| line.starts_with("-A ") && !line.contains(CHAIN_PREFIX);
            count += saved.lines().filter(foreign).count();
        }
        Ok(count)
    }
}

/// What plain `iptables` is.
async fn plain() -> Result<Iptables, Error> {
    let v4 = Binaries::find(Family::V4, "")?;
    let version = run(&v4.iptables, &["--version"], "").await?.success()?;
    let flavour = if version.contains("nf_tables") { Flavour::Nft } else { Flavour::Legacy };
    Ok(Iptables { flavour, v4, v6: Binaries::find(Family::V6, "").ok() })
}

/// The flavour that the node's other programs use.
async fn prevailing() -> Result<Flavour, Error> {
    let (nft, legacy) = (Iptables::find(Flavour::Nft).await, Iptables::find(Flavour::Legacy).await);
    let (nft, legacy) = match (nft, legacy) {
        (Ok(nft), Ok(legacy)) => (nft, legacy),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => return Ok(one.flavour),
        (Err(error), Err(_)) => return Err(error),
    };
    if nft.has_markers().await? {
        return Ok(Flavour::Nft);
    }
    if legacy.has_markers().await? {
        return Ok(Flavour::Legacy);
    }
    let (nft_rules, legacy_rules) = (nft.count_rules().await?, legacy.count_rules().await?);
    match nft_rules.cmp(&legacy_rules) {
        std::cmp::Ordering::Greater => Ok(Flavour::Nft),
        std::cmp::Ordering::Less => Ok(Flavour::Legacy),
        std::cmp::Ordering::Equal => Ok(plain().await.map_or(Flavour::Nft, |plain| plain.flavour)),
    }
}

/// Whether x_tables has a table in the calling thread's network namespace.
fn legacy_table_is_loaded(family: Family, table: &str) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    // No such file: the kernel has no x_tables, or has not loaded it.
    let names = std::fs::read_to_string(names).unwrap_or_default();
    names.lines().any(|name| name == table)
}
