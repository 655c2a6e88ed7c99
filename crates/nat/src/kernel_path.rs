//! Puts the kernel path into the kernel and keeps it true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_table::{Family, PerFamily, Protocol, ServicePort, Snapshot};

use crate::change::{self, Shared};
use crate::contents::Contents;
use crate::listing::Listing;
use crate::nft::Nft;
use crate::order::Order;
use crate::{Error, conntrack};

/// How the kernel path works on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler of Services that ask for none, by its name. The kernel takes turns for `rr`,
    /// hashes the client for `sh`, and picks by chance where a scheduler looks at load.
    pub scheduler: String,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Octets of the script given to `nft`; 0 where the kernel held everything already.
    pub script_bytes: usize,
    /// What became of the UDP flows of a family, if they were looked at.
    pub flows: PerFamily<Option<Reconciled>>,
}

/// A look at the UDP flows of a family, to forget those that lead to what is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconciled {
    /// Flows forgotten.
    pub deleted: usize,
    /// How long that took.
    pub took: Duration,
}

/// The kernel path of this network namespace. Dropping it changes nothing: the kernel goes on
/// balancing by what it was told last.
///
/// All methods run programs and need a tokio runtime with time and I/O enabled; they act on the
/// network namespace of the calling thread.
#[derive(Debug)]
pub struct KernelPath {
    nft: Nft,
    families: Vec<Family>,
    default: Order,
    /// What the kernel holds, unless `doubtful`.
    snapshot: Arc<Snapshot>,
    shared: PerFamily<Shared>,
    hairpins: PerFamily<BTreeMap<IpAddr, u32>>,
    /// A change failed, so that the kernel is to be read before the next one.
    doubtful: bool,
}

impl KernelPath {
    /// Brings the kernel to `snapshot`, in one transaction. What a predecessor left is adopted:
    /// only the difference is written, and nothing where there is none.
    ///
    /// # Errors
    /// `nft` is missing or fails, or the kernel cannot do it. IPv6 alone may be missing, with a
    /// warning.
    pub async fn install(
        config: Config,
        snapshot: Arc<Snapshot>,
    ) -> Result<(Self, Applied), Error> {
        let nft = Nft::locate()?;
        nft.probe(Family::V4).await?;
        let mut families = vec![Family::V4];
        match nft.probe(Family::V6).await {
            Ok(()) => families.push(Family::V6),
            Err(error) => tracing::warn!(%error, "the kernel balances no ipv6 services"),
        }
        let mut path = Self {
            nft,
            families,
            default: Order::of(&config.scheduler),
            snapshot: Arc::default(),
            shared: PerFamily::default(),
            hairpins: PerFamily::default(),
            doubtful: true,
        };
        let script_bytes = path.settle(&snapshot).await?;
        let flows = forget_flows(&path.families, &Snapshot::default(), &snapshot).await;
        path.snapshot = snapshot;
        Ok((path, Applied { script_bytes, flows }))
    }

    /// Brings the kernel from the last snapshot to this one. Costs one run of `nft` with the
    /// difference, and nothing where there is none; then the UDP flows of removed endpoints go.
    ///
    /// # Errors
    /// `nft` failed, also after the kernel was read. The next `update` or [`KernelPath::audit`]
    /// tries again.
    pub async fn update(&mut self, snapshot: Arc<Snapshot>) -> Result<Applied, Error> {
        let stepped = self.step(&snapshot).await;
        let script_bytes = match stepped {
            Some(script_bytes) => script_bytes,
            None => self.settle(&snapshot).await?,
        };
        let before = std::mem::replace(&mut self.snapshot, Arc::clone(&snapshot));
        let mut concerned = self.families.clone();
        // Nobody knows where new flows went before the kernel was read.
        concerned.retain(|family| stepped.is_none() || udp_differs(&before, &snapshot, *family));
        let flows = forget_flows(&concerned, &before, &snapshot).await;
        Ok(Applied { script_bytes, flows })
    }

    /// Looks whether our chains and sets are there with all their rules, and mends what is not.
    /// Where something was, the UDP flows of meanwhile go: they were not translated, and a client
    /// that goes on sending would keep its flow like that for ever.
    ///
    /// # Errors
    /// `nft` failed.
    pub async fn audit(&mut self) -> Result<Applied, Error> {
        for family in self.families.clone() {
            let wanted = self.chains(family);
            let text = self.nft.list(family, false).await?;
            let listing = text.as_deref().and_then(Listing::parse);
            let whole = listing.is_some_and(|listing| {
                let shared = listing.shared(family, &wanted);
                shared.as_ref() == Some(self.shared.get(family)) && listing.has_chains_of(&wanted)
            });
            if !whole || self.doubtful {
                let snapshot = Arc::clone(&self.snapshot);
                let script_bytes = self.settle(&snapshot).await?;
                let mut flows = PerFamily::default();
                if script_bytes > 0 {
                    flows = forget_flows(&self.families, &snapshot, &snapshot).await;
                }
                return Ok(Applied { script_bytes, flows });
            }
        }
        Ok(Applied::default())
    }

    /// The chains and sets of single Services.
    fn chains(&self, family: Family) -> Contents {
        let mut contents = Contents::default();
        for port in self.snapshot.services().filter(|port| port.affinity.is_some()) {
            contents.add(port, &self.snapshot, family, self.default);
        }
        contents
    }

    /// Writes the difference between two snapshots, from which only what differs is computed.
    /// None: that cannot be done, or failed; the kernel is to be read.
    async fn step(&mut self, snapshot: &Snapshot) -> Option<usize> {
        if self.doubtful {
            return None;
        }
        let before = Arc::clone(&self.snapshot);
        let (left, joined) = difference(&before, snapshot);
        let mut script = String::new();
        for family in self.families.clone() {
            let (mut old, mut new) = (Contents::default(), Contents::default());
            for port in left.iter().copied() {
                old.add(port, &before, family, self.default);
            }
            for port in joined.iter().copied() {
                new.add(port, snapshot, family, self.default);
            }
            script += &change::script(family, &old, &new, self.shared.get_mut(family));
            let hairpins = self.hairpins.get_mut(family);
            let present: BTreeSet<IpAddr> = hairpins.keys().copied().collect();
            add_up(hairpins, &old.hairpins, &new.hairpins);
            script += &change::hairpins(family, &present, hairpins);
        }
        match self.nft.commit(&script).await {
            Ok(()) => Some(script.len()),
            Err(error) => {
                self.doubtful = true;
                tracing::warn!(%error, "the kernel path is not as we left it, reading it anew");
                None
            }
        }
    }

    /// Reads what the kernel holds and writes what differs from a snapshot.
    async fn settle(&mut self, snapshot: &Snapshot) -> Result<usize, Error> {
        self.doubtful = true;
        let mut script = String::new();
        for family in self.families.clone() {
            let wanted = Contents::of(snapshot, family, self.default);
            let text = self.nft.list(family, true).await?;
            let listing = text.as_deref().and_then(Listing::parse);
            let adopted = listing.and_then(|listing| {
                let shared = listing.shared(family, &wanted)?;
                Some((listing, shared))
            });
            let (found, hairpins, mut shared) = match adopted {
                Some((listing, shared)) => {
                    (listing.contents(&wanted), listing.hairpins().clone(), shared)
                }
                None => {
                    script += &change::renew(family, text.is_some());
                    Default::default()
                }
            };
            script += &change::script(family, &found, &wanted, &mut shared);
            script += &change::hairpins(family, &hairpins, &wanted.hairpins);
            *self.shared.get_mut(family) = shared;
            *self.hairpins.get_mut(family) = wanted.hairpins;
        }
        self.nft.commit(&script).await?;
        self.doubtful = false;
        Ok(script.len())
    }
}

/// Deletes the UDP flows that lead to what is no endpoint any more. A failure is logged: the
/// flows end by themselves when they are silent for long enough.
///
/// To list the flows of a family costs a walk over the kernel's whole hash table, however few
/// they are, so only families that may have stale ones are listed.
async fn forget_flows(
    families: &[Family],
    before: &Snapshot,
    after: &Snapshot,
) -> PerFamily<Option<Reconciled>> {
    let mut reconciled = PerFamily::default();
    for family in families.iter().copied() {
        let started = Instant::now();
        let forgotten = conntrack::forget(family, |flow| conntrack::is_stale(flow, before, after));
        match forgotten.await.map_err(Error::Conntrack) {
            Ok(deleted) => {
                let took = started.elapsed();
                *reconciled.get_mut(family) = Some(Reconciled { deleted, took });
            }
            Err(error) => tracing::error!(%error, "clients may go on to removed endpoints"),
        }
    }
    reconciled
}

/// The ServicePorts that are gone or changed, and those that are new or changed. Costs as
/// [`Snapshot::changes_since`]; but where ServicePorts claim the same address all count as both,
/// since an address may have changed hands.
fn difference<'a>(
    before: &'a Snapshot,
    after: &'a Snapshot,
) -> (Vec<&'a ServicePort>, Vec<&'a ServicePort>) {
    if before.conflicts().chain(after.conflicts()).next().is_some() {
        let all = |snapshot: &'a Snapshot| snapshot.services().map(Arc::as_ref).collect();
        return (all(before), all(after));
    }
    let (mut left, mut joined) = (Vec::new(), Vec::new());
    for change in after.changes_since(before) {
        left.extend(missing_from(change.after, change.before));
        joined.extend(missing_from(change.before, change.after));
    }
    (left, joined)
}

/// Those of `these` that are not the same object in `others`.
fn missing_from<'a>(
    others: &'a [Arc<ServicePort>],
    these: &'a [Arc<ServicePort>],
) -> impl Iterator<Item = &'a ServicePort> {
    let missing =
        move |port: &&Arc<ServicePort>| !others.iter().any(|other| Arc::ptr_eq(other, port));
    these.iter().filter(missing).map(Arc::as_ref)
}

/// True where a UDP ServicePort with a ClusterIP of a family differs.
fn udp_differs(before: &Snapshot, after: &Snapshot, family: Family) -> bool {
    let (left, joined) = difference(before, after);
    let concerned = |port: &&ServicePort| {
        port.name.protocol == Protocol::Udp && port.cluster_ip(family).is_some()
    };
    left.iter().chain(&joined).any(concerned)
}

/// `total - old + new`, without what comes to nothing.
fn add_up(
    total: &mut BTreeMap<IpAddr, u32>,
    old: &BTreeMap<IpAddr, u32>,
    new: &BTreeMap<IpAddr, u32>,
) {
    for (ip, count) in new {
        *total.entry(*ip).or_default() += count;
    }
    for (ip, count) in old {
        if let Some(left) = total.get_mut(ip) {
            *left = left.saturating_sub(*count);
        }
    }
    total.retain(|_, count| *count > 0);
}

#[cfg(test)]
mod tests;
