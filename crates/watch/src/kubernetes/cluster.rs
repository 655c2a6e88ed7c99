//! What is known of the cluster, how well, and when a table may be made of it. No I/O.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use streamvs_resolve::{Change, Changes, Config, Resolver};
use streamvs_table::{ServiceName, Snapshot};

use super::failure::Failure;
use super::informer::Event;
use super::known::{Key, Known};
use super::object::{Kind, Message, Object};
use super::pace::Pace;
use super::{NodeStatus, Update};
use crate::notices;
use crate::state::State;

/// A list that takes longer than this no longer holds tables back: other kinds' changes matter
/// more than that what it takes away goes at once.
const MAX_HOLD: Duration = Duration::from_secs(2);
/// A failure that goes on is told of again after this time.
const REMINDER: Duration = Duration::from_secs(60);

/// The one writer of the table, and how complete its knowledge is.
#[derive(Debug)]
pub(crate) struct Cluster {
    resolver: Resolver,
    node_name: Arc<str>,
    server: String,
    progress: [Progress; Kind::ALL.len()],
    node: NodeStatus,
    service_cidrs: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// Something was told to the resolver since the last table, or there was no table yet.
    stale: bool,
    /// The last table of the server's own.
    table: Option<Snapshot>,
    /// What is to be kept on disk changed since it was last asked for.
    unsaved: bool,
    pace: Pace,
}

/// How far one kind is.
#[derive(Debug, Default)]
struct Progress {
    known: Known,
    /// It was listed once, or the agent goes without it.
    synced: bool,
    /// A list is under way, since then.
    listing: Option<Instant>,
    broken: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    told_at: Instant,
}

impl Cluster {
    pub(crate) fn new(resolver: Config, server: String, now: Instant) -> Self {
        Self {
            node_name: Arc::clone(&resolver.node_name),
            resolver: Resolver::new(resolver),
            server,
            progress: Default::default(),
            node: NodeStatus::Absent,
            service_cidrs: BTreeMap::new(),
            stale: true,
            table: None,
            unsaved: false,
            pace: Pace::new(now),
        }
    }

    /// Goes on from a table made before, until the server's own.
    pub(crate) fn follow(&mut self, state: &State) {
        self.resolver.follow(state.snapshot.clone());
        self.node = state.node.clone();
    }

    /// Every kind was listed once.
    pub(crate) fn synced(&self) -> bool {
        self.progress.iter().all(|progress| progress.synced)
    }

    /// A kind that is needed does not arrive.
    pub(crate) fn any_broken(&self) -> bool {
        self.progress.iter().any(|progress| !progress.synced && progress.broken.is_some())
    }

    /// When the next table shall be made. None: nothing is new, or not all is known.
    pub(crate) fn due(&self) -> Option<Instant> {
        if !self.stale || !self.synced() {
            return None;
        }
        let lists = self.progress.iter().filter_map(|progress| progress.listing);
        Some(lists.map(|since| since + MAX_HOLD).fold(self.pace.next_at(), Instant::max))
    }

    /// Makes the next table, if anything visible changed, and says what came in for it.
    pub(crate) fn make(&mut self) -> Option<(Snapshot, Changes)> {
        self.stale = false;
        let (snapshot, notices) = self.resolver.resolve()?;
        notices::tell(notices);
        self.table = Some(snapshot.clone());
        self.unsaved = true;
        Some((snapshot, self.resolver.take_changes()))
    }

    /// A table was begun at `started`, and has been shown by now.
    pub(crate) fn made(&mut self, started: Instant) {
        let now = Instant::now();
        self.pace.made(now, now - started);
    }

    /// What is to be kept on disk, if it changed since the last call: with a new table, or without
    /// one as a taint does. None before the first table.
    pub(crate) fn unsaved(&mut self) -> Option<State> {
        let snapshot = self.table.as_ref().filter(|_| self.unsaved)?.clone();
        self.unsaved = false;
        Some(State { snapshot, node: self.node.clone(), service_cidrs: self.service_cidrs() })
    }

    /// Takes in what an informer tells.
    pub(crate) fn take(&mut self, message: Message, now: Instant, tell: &mut impl FnMut(Update)) {
        let Message { kind, event } = message;
        match event {
            Event::Listing => {
                let progress = self.progress(kind);
                progress.known.begin_list();
                progress.listing = Some(now);
            }
            Event::Applied(object) => {
                self.progress(kind).known.insert(object.key());
                self.apply(object, tell);
            }
            Event::Deleted(object) => {
                let key = object.key();
                self.progress(kind).known.remove(&key);
                self.withdraw(kind, key, tell);
            }
            Event::Listed => {
                for key in self.progress(kind).known.end_list() {
                    self.withdraw(kind, key, tell);
                }
                self.listed(kind, tell);
            }
            Event::Watching => self.watching(kind, now, tell),
            Event::Broken(failure) => self.broken(kind, &failure, now, tell),
        }
    }

    fn progress(&mut self, kind: Kind) -> &mut Progress {
        &mut self.progress[kind as usize]
    }

    fn apply(&mut self, object: Object, tell: &mut impl FnMut(Update)) {
        let change = match object {
            Object::Service(service) => Change::Service(service),
            Object::Slice(slice) => Change::Slice(slice),
            Object::Node(node) => {
                self.set_node(status(&node), tell);
                Change::Node(node)
            }
            Object::ServiceCidr(cidr) => {
                let (_, name) = Object::key_of(&cidr.metadata);
                return self.set_service_cidr(name, Some(ranges(&cidr)), tell);
            }
        };
        notices::tell(self.resolver.apply(change));
        self.stale = true;
    }

    fn withdraw(&mut self, kind: Kind, (namespace, name): Key, tell: &mut impl FnMut(Update)) {
        let change = match kind {
            Kind::Services => Change::DeleteService(ServiceName { namespace, name }),
            Kind::EndpointSlices => Change::DeleteSlice { namespace, name },
            Kind::Nodes => {
                self.set_node(NodeStatus::Absent, tell);
                Change::DeleteNode(name)
            }
            Kind::ServiceCidrs => return self.set_service_cidr(name, None, tell),
        };
        notices::tell(self.resolver.apply(change));
        self.stale = true;
    }

    fn listed(&mut self, kind: Kind, tell: &mut impl FnMut(Update)) {
        let progress = self.progress(kind);
        let first = !progress.synced;
        progress.synced = true;
        progress.listing = None;
        let count = progress.known.len();
        tracing::info!(%kind, count, "listed");
        match kind {
            Kind::Nodes if count == 0 => {
                tracing::warn!(
                    node = %self.node_name,
                    "there is no Node of this name, set --hostname-override or NODE_NAME"
                );
                tell(Update::Node(NodeStatus::Absent));
            }
            Kind::ServiceCidrs if first => tell(Update::ServiceCidrs(self.service_cidrs())),
            _ => {}
        }
    }

    fn watching(&mut self, kind: Kind, now: Instant, tell: &mut impl FnMut(Update)) {
        if let Some(outage) = self.progress(kind).broken.take() {
            let outage = now.saturating_duration_since(outage.since);
            tracing::info!(%kind, ?outage, server = self.server, "watch works again");
        }
        tell(Update::Watching(kind));
    }

    fn broken(
        &mut self,
        kind: Kind,
        failure: &Failure,
        now: Instant,
        tell: &mut impl FnMut(Update),
    ) {
        let optional = kind.optional() && (failure.is_not_served() || failure.is_forbidden());
        let server = self.server.clone();
        let progress = self.progress(kind);
        progress.listing = None;
        let outage = progress.broken.get_or_insert(Outage { since: now, told_at: now });
        let new = outage.since == now;
        if optional {
            if new {
                tracing::info!(%kind, %failure, server, "the agent goes without this kind");
            }
            progress.synced = true;
        } else if new || now.saturating_duration_since(outage.told_at) >= REMINDER {
            outage.told_at = now;
            let verdict = if failure.is_forbidden() {
                "the api server does not allow to list and watch this kind, see RBAC"
            } else if progress.synced {
                "watch is broken, what is known stays in force"
            } else {
                "the api server does not answer, trying again"
            };
            tracing::warn!(%kind, %failure, server, "{verdict}");
        } else {
            tracing::debug!(%kind, %failure, server, "watch is still broken");
        }
        tell(Update::Broken(kind));
    }

    fn set_node(&mut self, node: NodeStatus, tell: &mut impl FnMut(Update)) {
        if self.node != node {
            self.node = node.clone();
            self.unsaved = true;
            tell(Update::Node(node));
        }
    }

    fn set_service_cidr(
        &mut self,
        name: Arc<str>,
        ranges: Option<Vec<IpNet>>,
        tell: &mut impl FnMut(Update),
    ) {
        let before = self.service_cidrs();
        match ranges {
            Some(ranges) => self.service_cidrs.insert(name, ranges),
            None => self.service_cidrs.remove(&name),
        };
        let after = self.service_cidrs();
        // The first list is told of when it is whole.
        if before != after && self.progress(Kind::ServiceCidrs).synced {
            self.unsaved = true;
            tell(Update::ServiceCidrs(after));
        }
    }

    fn service_cidrs(&self) -> Vec<IpNet> {
        let mut ranges: Vec<IpNet> = self.service_cidrs.values().flatten().copied().collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges
    }
}

fn status(node: &Node) -> NodeStatus {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    NodeStatus::Present {
        deleting: node.metadata.deletion_timestamp.is_some(),
        taints: taints.iter().map(|taint| taint.key.clone()).collect(),
    }
}

/// The ranges of a ServiceCIDR, without those that are none.
fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let written = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    written.iter().filter_map(|range| range.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
