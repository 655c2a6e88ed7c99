//! Puts the kernel path into the kernel and keeps it true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_table::{Family, PerFamily, Protocol, ServicePort, Snapshot};

use crate::Error;
use crate::change::{self, Shared};
use crate::conntrack::{self, Flow, NodePorts};
use crate::contents::{Common, Contents};
use crate::layout;
use crate::listing::Listing;
use crate::netlink;
use crate::nft::Nft;
use crate::order::Order;
use crate::ranges::Ranges;
use crate::script::Script;

/// How the kernel path works on this node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler of Services that ask for none, by its name. The kernel takes turns for `rr`,
    /// hashes the client for `sh`, and picks by chance where a scheduler looks at load.
    pub scheduler: String,
    /// Endpoints see the node's address, whoever the client is.
    pub masquerade_all: bool,
    /// Mark bits of packets whose source is to become the node's, while they are on their way
    /// through the node. Not 0.
    pub masquerade_mark: u32,
    /// The addresses of this node's interfaces, as they are when it is called.
    pub own_addresses: fn() -> BTreeSet<IpAddr>,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Octets of the script given to `nft`, or of the messages to the kernel; 0 where the kernel held
    /// everything already.
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
    order: Order,
    masquerade_all: bool,
    mark: u32,
    own_addresses: fn() -> BTreeSet<IpAddr>,
    /// What the kernel holds, unless `doubtful`.
    snapshot: Arc<Snapshot>,
    /// The same.
    ranges: Ranges,
    shared: PerFamily<Shared>,
    hairpins: PerFamily<BTreeMap<IpAddr, u32>>,
    /// A change failed, so that the kernel is to be read before the next one.
    doubtful: bool,
}

impl KernelPath {
    /// Brings the kernel to `snapshot` and `ranges`, in one transaction. What a predecessor left is adopted:
    /// only the difference is written, and nothing where there is none.
    ///
    /// # Errors
    /// `nft` is missing or fails, or the kernel cannot do it. IPv6 alone may be missing, with a
    /// warning.
    pub async fn install(
        config: Config,
        snapshot: Arc<Snapshot>,
        ranges: Ranges,
    ) -> Result<(Self, Applied), Error> {
        let nft = Nft::locate()?;
        let mark = config.masquerade_mark;
        nft.probe(Family::V4, mark).await?;
        let mut families = vec![Family::V4];
        match nft.probe(Family::V6, mark).await {
            Ok(()) => families.push(Family::V6),
            Err(error) => tracing::warn!(%error, "the kernel balances no ipv6 services"),
        }
        let mut path = Self {
            nft,
            families,
            order: Order::of(&config.scheduler),
            masquerade_all: config.masquerade_all,
            mark,
            own_addresses: config.own_addresses,
            snapshot: Arc::default(),
            ranges: Ranges::default(),
            shared: PerFamily::default(),
            hairpins: PerFamily::default(),
            doubtful: true,
        };
        let script_bytes = path.settle(&snapshot, &ranges).await?;
        (path.snapshot, path.ranges) = (snapshot, ranges);
        let flows = path.forget_flows(&path.families, &Snapshot::default()).await;
        Ok((path, Applied { script_bytes, flows }))
    }

    /// Brings the kernel from the last snapshot and ranges to these. Costs nothing where there is no
    /// difference; a few messages where it is of elements alone, as a change of endpoints nearly
    /// always is; else one run of `nft`. Then the UDP flows of removed endpoints go. `scheduler` is
    /// that of [`Config`], and may have changed.
    ///
    /// # Errors
    /// `nft` failed, also after the kernel was read. The next `update` or [`KernelPath::audit`]
    /// tries again.
    pub async fn update(
        &mut self,
        snapshot: Arc<Snapshot>,
        ranges: Ranges,
        scheduler: &str,
    ) -> Result<Applied, Error> {
        let order = std::mem::replace(&mut self.order, Order::of(scheduler));
        let stepped = self.step(&snapshot, &ranges, order).await;
        let script_bytes = match stepped {
            Some(script_bytes) => script_bytes,
            None => self.settle(&snapshot, &ranges).await?,
        };
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        let elsewhere = std::mem::replace(&mut self.ranges, ranges) != self.ranges;
        let mut concerned = self.families.clone();
        // Nobody knows where new flows went before the kernel was read.
        let every = stepped.is_none() || elsewhere;
        concerned.retain(|family| every || udp_differs(&before, &self.snapshot, *family));
        let flows = self.forget_flows(&concerned, &before).await;
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
            let wanted = Contents::with_own_chains(&self.snapshot, self.common(family));
            let text = self.nft.list(family, false).await?;
            let listing = text.as_deref().and_then(Listing::parse);
            let version = layout::version(family, self.mark);
            let whole = listing.is_some_and(|listing| {
                let shared = listing.shared(&version, &wanted);
                shared.as_ref() == Some(self.shared.get(family)) && listing.has_chains_of(&wanted)
            });
            if !whole || self.doubtful {
                let (snapshot, ranges) = (Arc::clone(&self.snapshot), self.ranges.clone());
                let script_bytes = self.settle(&snapshot, &ranges).await?;
                let mut flows = PerFamily::default();
                if script_bytes > 0 {
                    flows = self.forget_flows(&self.families, &snapshot).await;
                }
                return Ok(Applied { script_bytes, flows });
            }
        }
        Ok(Applied::default())
    }

    fn common(&self, family: Family) -> Common {
        Common { family, order: self.order, masquerade_all: self.masquerade_all }
    }

    /// Writes the difference between two snapshots, from which only what differs is computed unless
    /// the order was another one. None: that cannot be done, or failed; the kernel is to be read.
    async fn step(&mut self, snapshot: &Snapshot, ranges: &Ranges, order: Order) -> Option<usize> {
        if self.doubtful {
            return None;
        }
        let before = Arc::clone(&self.snapshot);
        let (left, joined) = if order == self.order {
            difference(&before, snapshot)
        } else {
            (all(&before), all(snapshot))
        };
        let mut script = Script::new();
        for family in self.families.clone() {
            let (mut old, mut new) = (Contents::default(), Contents::default());
            let common = self.common(family);
            for port in left.iter().copied() {
                old.add(port, &before, Common { order, ..common });
            }
            for port in joined.iter().copied() {
                new.add(port, snapshot, common);
            }
            let [from, to] = [&self.ranges, ranges].map(|ranges| ranges.sets(family));
            change::ranges(&mut script, family, &from, &to);
            change::contents(&mut script, family, &old, &new, self.shared.get_mut(family));
            let hairpins = self.hairpins.get_mut(family);
            let present: BTreeSet<IpAddr> = hairpins.keys().copied().collect();
            add_up(hairpins, &old.hairpins, &new.hairpins);
            change::hairpins(&mut script, family, &present, hairpins);
        }
        match self.commit(script).await {
            Ok(octets) => Some(octets),
            Err(error) => {
                self.doubtful = true;
                tracing::warn!(%error, "the kernel path is not as we left it, reading it anew");
                None
            }
        }
    }

    /// Does a transaction; an empty one costs nothing. Returns how many octets it was.
    async fn commit(&self, script: Script) -> Result<usize, Error> {
        if script.is_empty() {
            return Ok(0);
        }
        match script.messages() {
            Some(messages) => {
                let octets = messages.len();
                netlink::commit(messages).await.map_err(Error::Elements)?;
                Ok(octets)
            }
            None => {
                self.nft.commit(script.text()).await?;
                Ok(script.text().len())
            }
        }
    }

    /// Reads what the kernel holds and writes what differs from a snapshot.
    async fn settle(&mut self, snapshot: &Snapshot, ranges: &Ranges) -> Result<usize, Error> {
        self.doubtful = true;
        let mut script = Script::new();
        for family in self.families.clone() {
            let wanted = Contents::of(snapshot, self.common(family));
            let text = self.nft.list(family, true).await?;
            let listing = text.as_deref().and_then(Listing::parse);
            let version = layout::version(family, self.mark);
            let adopted = listing.and_then(|listing| {
                let shared = listing.shared(&version, &wanted)?;
                Some((listing, shared))
            });
            let (listing, mut shared) = adopted.unwrap_or_else(|| {
                change::renew(&mut script, family, self.mark, text.is_some());
                Default::default()
            });
            change::ranges(&mut script, family, listing.ranges(), &ranges.sets(family));
            let found = listing.contents(&wanted);
            change::contents(&mut script, family, &found, &wanted, &mut shared);
            change::hairpins(&mut script, family, listing.hairpins(), &wanted.hairpins);
            *self.shared.get_mut(family) = shared;
            *self.hairpins.get_mut(family) = wanted.hairpins;
        }
        // By `nft`, which says best what is wrong.
        self.nft.commit(script.text()).await?;
        self.doubtful = false;
        Ok(script.text().len())
    }

    /// Deletes the UDP flows that lead to what is no endpoint any more. A failure is logged: the
    /// flows end by themselves when they are silent for long enough.
    ///
    /// To list the flows of a family costs a walk over the kernel's whole hash table, however few
    /// they are, so only families that may have stale ones are listed.
    async fn forget_flows(
        &self,
        families: &[Family],
        before: &Snapshot,
    ) -> PerFamily<Option<Reconciled>> {
        let mut reconciled = PerFamily::default();
        if families.is_empty() {
            return reconciled;
        }
        let own = (self.own_addresses)();
        let node_ports = NodePorts { ranges: &self.ranges, own: &own };
        let is_stale = |flow: &Flow| conntrack::is_stale(flow, before, &self.snapshot, node_ports);
        for family in families.iter().copied() {
            let started = Instant::now();
            match conntrack::forget(family, is_stale).await.map_err(Error::Conntrack) {
                Ok(deleted) => {
                    let took = started.elapsed();
                    *reconciled.get_mut(family) = Some(Reconciled { deleted, took });
                }
                Err(error) => tracing::error!(%error, "clients may go on to removed endpoints"),
            }
        }
        reconciled
    }
}

/// The ServicePorts that are gone or changed, and those that are new or changed. Costs as
/// [`Snapshot::changes_since`]; but where it changed who claims the same address as another all
/// count as both, since an address may have changed hands, and where the node's addresses changed,
/// since loadBalancerSourceRanges may name them.
fn difference<'a>(
    before: &'a Snapshot,
    after: &'a Snapshot,
) -> (Vec<&'a ServicePort>, Vec<&'a ServicePort>) {
    if !after.disputes_as(before) || before.node().addresses != after.node().addresses {
        return (all(before), all(after));
    }
    let (mut left, mut joined) = (Vec::new(), Vec::new());
    for change in after.changes_since(before) {
        left.extend(missing_from(change.after, change.before));
        joined.extend(missing_from(change.before, change.after));
    }
    (left, joined)
}

fn all(snapshot: &Snapshot) -> Vec<&ServicePort> {
    snapshot.services().map(Arc::as_ref).collect()
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

/// True where a UDP ServicePort with a ClusterIP of a family differs. None has another address
/// without one.
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
