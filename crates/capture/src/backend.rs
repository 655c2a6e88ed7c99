//! Capture by whichever of the two: rules of iptables with ipsets, or tables of nftables.

use std::fmt;

use streamvs_table::{Alias, Aliases, Family};

use crate::capture::{self, Extent};
use crate::cleanup::{remove_flavour, remove_sets};
use crate::ipset::Ipset;
use crate::nft::{self, Nft};
use crate::reply::{self, Replies};
use crate::tools::{Flavour, Iptables};
use crate::{Config, Desired, Error, Obstacle, Repair};

/// Which of the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// nftables where kube-proxy runs in nftables mode, or where there is no iptables; else
    /// iptables. Looked at again by each audit.
    #[default]
    Auto,
    /// iptables and ipset.
    Iptables,
    /// nftables.
    Nftables,
}

/// The table that kube-proxy has in its nftables mode, in both families.
///
/// Source: kubernetes pkg/proxy/nftables.
pub(crate) const KUBE_PROXY_TABLE: &str = "kube-proxy";

/// The capture of this node's service connections. There is one in each network namespace.
///
/// Dropping it leaves everything in the kernel, as a crash does: end with [`Capture::remove`], or
/// let the next [`Capture::install`] adopt it. All methods run programs and need a tokio runtime
/// with time and I/O enabled; they act on the network namespace of the calling thread.
#[derive(Debug)]
pub struct Capture {
    config: Config,
    desired: Desired,
    by: By,
    replies: Replies,
}

#[derive(Debug)]
enum By {
    Iptables(Box<capture::Capture>),
    Nftables(Box<nft::Capture>),
}

impl Capture {
    /// Puts sets, routes and rules in place so that nothing is captured before everything is
    /// there. IPv6 is left out with a warning where the node has none.
    ///
    /// What a predecessor left (a crash, an older version, the other backend, the other iptables)
    /// is adopted or replaced in one transaction for each table, so that established and new
    /// connections go on meanwhile.
    ///
    /// # Errors
    /// The configuration is wrong, a program is missing or failed, a route could not be added.
    /// What was done by then stays: [`crate::cleanup()`] removes it.
    pub async fn install(config: Config, desired: &Desired) -> Result<Self, Error> {
        let by = match choose(config.backend).await? {
            Backend::Nftables => {
                let by = nft::Capture::install(config.clone(), desired).await?;
                leave_iptables().await?;
                By::Nftables(Box::new(by))
            }
            Backend::Iptables | Backend::Auto => {
                let by = capture::Capture::install(config.clone(), desired).await?;
                if let Ok(nft) = Nft::locate() {
                    nft.remove_tables(nft::render::TABLE).await?;
                }
                By::Iptables(Box::new(by))
            }
        };
        reply::remove_other_rules(config.mark).await?;
        let mut replies = Replies::default();
        replies.settle(config.mark, &desired.transparent).await;
        Ok(Self { config, desired: desired.clone(), by, replies })
    }

    /// By what it captures: `iptables-nft`, `iptables-legacy` or `nftables`.
    pub fn method(&self) -> Method {
        match &self.by {
            By::Iptables(by) => Method::Iptables(by.flavour()),
            By::Nftables(_) => Method::Nftables,
        }
    }

    /// The aliases in force: dialling from them shows the client to the endpoint. With them those
    /// of [`Desired::transparent`] that may be dialled from any address.
    pub fn aliases(&self) -> Aliases {
        let aliases = match &self.by {
            By::Iptables(by) => by.aliases(),
            By::Nftables(by) => by.aliases(),
        };
        aliases.with_transparent(self.replies.in_force())
    }

    /// The aliases asked for that are not in force, and why.
    pub fn obstacles(&self) -> Vec<(Alias, Obstacle)> {
        match &self.by {
            By::Iptables(by) => by.obstacles(),
            By::Nftables(by) => by.obstacles(),
        }
    }

    /// Changes the sets to what is desired now. Costs one run of a program with the difference, and
    /// nothing where there is none; rules stay as they are.
    ///
    /// # Errors
    /// A program failed or a route could not be added, also after everything was looked over and
    /// mended once. The next `update` or [`Capture::audit`] tries again.
    pub async fn update(&mut self, desired: &Desired) -> Result<(), Error> {
        let updated = match &mut self.by {
            By::Iptables(by) => by.update(desired).await,
            By::Nftables(by) => by.update(desired).await,
        };
        // Whom pods see waits for what is captured, and not the other way round.
        if self.desired.transparent != desired.transparent {
            self.replies.settle(self.config.mark, &desired.transparent).await;
        }
        self.desired = desired.clone();
        updated
    }

    /// Compares the kernel with what it should hold and mends what differs. Returns what it
    /// mended; empty where all was well. `narrow` is told of the aliases that stay in force before
    /// others cease to be, so that nobody dials from those any more. Routes of such stay until
    /// [`Capture::remove`], for the connections that use them.
    ///
    /// # Errors
    /// A program failed, a route could not be added, or someone else changes the rules as fast as
    /// they are committed. What could be mended before is.
    pub async fn audit(
        &mut self,
        narrow: &(dyn Fn(&Aliases) + Sync),
    ) -> Result<Vec<Repair>, Error> {
        if self.config.backend == Backend::Auto {
            let chosen = choose(Backend::Auto).await?;
            if chosen != self.backend() {
                narrow(&Aliases::default());
                // The new rules stand beside the old ones before those go.
                *self = Self::install(self.config.clone(), &self.desired).await?;
                tracing::info!(by = %self.method(), "kube-proxy has changed, captured by others");
                return Ok(Vec::new());
            }
        }
        let mut repairs = match &mut self.by {
            By::Iptables(by) => by.audit(narrow).await,
            By::Nftables(by) => by.audit(narrow).await,
        }?;
        repairs.extend(self.replies.settle(self.config.mark, &self.desired.transparent).await);
        Ok(repairs)
    }

    /// Lets new connections pass uncaptured, to whoever else handles them, from the return on.
    /// Established ones go on: the rules stay, and with them the translation of what they
    /// captured. Final: later updates and audits keep the gate closed.
    ///
    /// # Errors
    /// A program failed; the gate may be open still, and the next audit closes it.
    pub async fn close_gate(&mut self) -> Result<(), Error> {
        match &mut self.by {
            By::Iptables(by) => by.close_gate().await,
            By::Nftables(by) => by.close_gate().await,
        }
    }

    /// Takes everything of ours out of the kernel. Captured connections that still run are cut
    /// off: drain first.
    ///
    /// # Errors
    /// A program failed or a route could not be deleted; [`crate::cleanup()`] finishes.
    pub async fn remove(self) -> Result<(), Error> {
        let removed = match self.by {
            By::Iptables(by) => by.remove().await,
            By::Nftables(by) => by.remove().await,
        };
        if let Ok(nft) = Nft::locate() {
            nft.remove_tables(reply::TABLE).await?;
        }
        removed
    }

    fn backend(&self) -> Backend {
        match &self.by {
            By::Iptables(_) => Backend::Iptables,
            By::Nftables(_) => Backend::Nftables,
        }
    }
}

/// By what connections are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Rules of one of the two iptables, and ipsets.
    Iptables(Flavour),
    /// Tables of nftables.
    Nftables,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iptables(flavour) => flavour.fmt(f),
            Self::Nftables => f.write_str("nftables"),
        }
    }
}

async fn choose(backend: Backend) -> Result<Backend, Error> {
    if backend != Backend::Auto {
        return Ok(backend);
    }
    let Ok(nft) = Nft::locate() else { return Ok(Backend::Iptables) };
    let beside_nftables = match nft.has_table(KUBE_PROXY_TABLE).await {
        Ok(found) => found,
        // A kernel without nf_tables.
        Err(Error::Failed { .. }) => return Ok(Backend::Iptables),
        Err(error) => return Err(error),
    };
    let mut has_iptables = false;
    for flavour in Flavour::BOTH {
        has_iptables |= Iptables::find(flavour).await.is_ok();
    }
    let by_nftables = beside_nftables || !has_iptables;
    Ok(if by_nftables { Backend::Nftables } else { Backend::Iptables })
}

/// Takes away the rules and sets that a predecessor left in iptables. Ours are in place.
async fn leave_iptables() -> Result<(), Error> {
    for flavour in Flavour::BOTH {
        let Ok(iptables) = Iptables::find(flavour).await else { continue };
        for family in Family::BOTH {
            remove_flavour(&iptables, family, Extent::Known).await?;
        }
    }
    match Ipset::locate() {
        Ok(ipset) => remove_sets(&ipset).await.map(drop),
        Err(_) => Ok(()),
    }
}
