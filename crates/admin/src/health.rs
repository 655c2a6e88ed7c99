//! Is what we apply fresh, and may this node get traffic: what `/healthz` and `/livez` answer.
//!
//! Comes in: when a change was queued and when it was applied, for each IP family, and what is
//! known of the Node object. Goes out: a status code and a body. Reads no clock: the time enters
//! as a [`Moment`].
//!
//! Errs to the healthy side: a family which was never applied (start-up) is healthy, and so is one
//! with nothing queued, however long ago it was applied.
//!
//! Source: kube-proxy's health server as of Kubernetes 1.34, KEP-3836.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use streamvs_table::{Family, PerFamily};

/// How long a change may wait before it makes a family unhealthy: twice kube-proxy's default
/// `syncPeriod` of 30 s.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The taint by which the cluster autoscaler announces that a node is about to go.
pub const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What Go prints for a time that was never set, so that clients of kube-proxy's body parse ours.
const NEVER: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// A point in time on two clocks: the steady one is measured with, the wall clock is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Never jumps.
    pub monotonic: Instant,
    /// As people and `date` see it.
    pub wall: Timestamp,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: Timestamp::now() }
    }
}

/// What is known of this node's Node object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// There is no source of Nodes to ask, as with manifests that hold none: eligible.
    Untracked,
    /// The API has not told us of it yet, or says that it is gone: not eligible.
    Absent,
    /// The Node as last seen. A cordon (`spec.unschedulable`) does not count.
    Known {
        /// `metadata.deletionTimestamp` is set.
        deleting: bool,
        /// A taint has the key [`TO_BE_DELETED_TAINT`].
        to_be_deleted: bool,
    },
}

impl NodeState {
    /// Makes the state out of a Node's `metadata.deletionTimestamp` and its taints' keys.
    pub fn known<'a>(deleting: bool, taint_keys: impl IntoIterator<Item = &'a str>) -> Self {
        let to_be_deleted = taint_keys.into_iter().any(|key| key == TO_BE_DELETED_TAINT);
        Self::Known { deleting, to_be_deleted }
    }

    /// Load balancers may send traffic here.
    pub fn eligible(self) -> bool {
        match self {
            Self::Untracked => true,
            Self::Absent => false,
            Self::Known { deleting, to_be_deleted } => !deleting && !to_be_deleted,
        }
    }
}

/// Where the knowledge in the table is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableSource {
    /// Files.
    Manifests,
    /// The API server.
    Api,
    /// The state file, as the API server did not answer yet.
    State,
}

impl TableSource {
    /// All, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Manifests, Self::Api, Self::State];

    /// As the label `source` and the field `tableSource` show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Api => "api",
            Self::State => "state",
        }
    }
}

/// Which of the two questions is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`: fresh, and the node is eligible. For load balancers.
    Healthz,
    /// `/livez`: fresh. For the kubelet, which would else restart us on each scale-down.
    Livez,
}

/// The answer to a [`Probe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// One line of JSON without a line end.
    pub body: String,
}

/// How often each answer was given, as kube-proxy counts it.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    ok: AtomicU64,
    unavailable: AtomicU64,
    /// What the last answer was.
    well: AtomicBool,
}

impl Answers {
    fn count(&self, well: bool) {
        if well { &self.ok } else { &self.unavailable }.fetch_add(1, Relaxed);
        self.well.store(well, Relaxed);
    }

    /// The last answer was 200. None before the first.
    pub(crate) fn last_was_well(&self) -> Option<bool> {
        let any = self.read().iter().any(|(_, count)| *count > 0);
        any.then(|| self.well.load(Relaxed))
    }

    /// Pairs of status code and count.
    pub(crate) fn read(&self) -> [(&'static str, u64); 2] {
        [("200", self.ok.load(Relaxed)), ("503", self.unavailable.load(Relaxed))]
    }
}

/// When a family's last change was queued and applied; none before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The newest queued change.
    pub queued: Option<Timestamp>,
    /// The newest applied change.
    pub applied: Option<Timestamp>,
}

#[derive(Clone, Copy, Default)]
struct Freshness {
    /// The oldest queued change which is not applied. None when nothing waits.
    oldest_pending: Option<Instant>,
    times: Times,
}

struct State {
    families: PerFamily<Freshness>,
    node: NodeState,
    source: Option<TableSource>,
}

/// Freshness of both families and the node's eligibility. Shared by reference; each call takes a
/// lock for some nanoseconds.
pub struct Health {
    timeout: Duration,
    state: Mutex<State>,
    pub(crate) healthz: Answers,
    pub(crate) livez: Answers,
}

impl Health {
    /// Everything healthy, nothing queued. `timeout` is usually [`DEFAULT_TIMEOUT`]; `node` is
    /// what holds until the first [`Health::set_node`].
    pub fn new(timeout: Duration, node: NodeState) -> Self {
        Self {
            timeout,
            state: Mutex::new(State { families: PerFamily::default(), node, source: None }),
            healthz: Answers::default(),
            livez: Answers::default(),
        }
    }

    /// A change that concerns `family` was learnt and is not applied yet.
    pub fn queued(&self, family: Family, now: Moment) {
        let mut state = self.state();
        let freshness = state.families.get_mut(family);
        freshness.oldest_pending.get_or_insert(now.monotonic);
        freshness.times.queued = Some(now.wall);
    }

    /// Everything learnt of `family` so far is applied.
    pub fn applied(&self, family: Family, now: Moment) {
        let mut state = self.state();
        let freshness = state.families.get_mut(family);
        freshness.oldest_pending = None;
        freshness.times.applied = Some(now.wall);
    }

    /// The Node changed. Not to be called when the API server is merely out of reach: the last
    /// known state stays.
    pub fn set_node(&self, node: NodeState) {
        self.state().node = node;
    }

    /// A table from there is in use now.
    pub fn set_table_source(&self, source: TableSource) {
        self.state().source = Some(source);
    }

    /// Where the table in use is from; none before the first.
    pub fn table_source(&self) -> Option<TableSource> {
        self.state().source
    }

    /// When the family's last changes were queued and applied.
    pub fn times(&self, family: Family) -> Times {
        self.state().families.get(family).times
    }

    /// What `/livez` would say, without an answer to count.
    pub(crate) fn is_fresh(&self, now: Moment) -> bool {
        self.body(now).0.healthy
    }

    /// Answers a probe and counts the answer.
    pub fn answer(&self, probe: Probe, now: Moment) -> Answer {
        let (body, node) = self.body(now);
        let (healthy, node_eligible, answers) = match probe {
            Probe::Healthz => {
                let eligible = node.eligible();
                (body.healthy && eligible, Some(eligible), &self.healthz)
            }
            Probe::Livez => (body.healthy, None, &self.livez),
        };
        let body = Body {
            node_eligible,
            // Clients of older kube-proxies took the age of `lastUpdated` for the age of the last
            // resync, whether or not there was a change: so it is recent whenever all is well.
            last_updated: if healthy { now.wall } else { body.last_updated },
            ..body
        };
        answers.count(healthy);
        let status = if healthy { 200 } else { 503 };
        let body = serde_json::to_string(&body).expect("a body of times and booleans is JSON");
        Answer { status, body }
    }

    fn body(&self, now: Moment) -> (Body, NodeState) {
        let state = self.state();
        let mut body = Body {
            last_updated: NEVER,
            current_time: now.wall,
            node_eligible: None,
            healthy: true,
            status: BTreeMap::new(),
            table_source: state.source.map(TableSource::as_str),
        };
        for family in Family::BOTH {
            let freshness = state.families.get(family);
            let Some(applied) = freshness.times.applied else {
                continue;
            };
            let healthy = freshness
                .oldest_pending
                .is_none_or(|since| now.monotonic.saturating_duration_since(since) < self.timeout);
            body.last_updated = body.last_updated.max(applied);
            body.healthy &= healthy;
            body.status.insert(family.as_str(), FamilyBody { last_updated: applied, healthy });
        }
        (body, state.node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while the lock is held, and the state would be whole if it did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// kube-proxy's body: names and order are its. `tableSource` is ours, and last.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_source: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyBody {
    last_updated: Timestamp,
    healthy: bool,
}

#[cfg(test)]
mod tests;
