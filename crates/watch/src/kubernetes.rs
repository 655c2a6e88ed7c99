//! The API server as the source of objects.
//!
//! ```text
//!  API server --list, watch--> [informer] x 4 --> [cluster] --> resolver --> publish
//!       ^                       Services           known,          |
//!       |                       EndpointSlices     who is          +--> [state file] --+
//!    [server]                   this Node          synced                              |
//!    address, TLS, mark         ServiceCIDRs                  at a start without server
//! ```
//!
//! Nothing is published before all kinds were listed once, and nothing in the middle of a later
//! list, so that a list replaces what was there in one step. Objects are not kept: each goes
//! straight into the resolver, and of each only its name is remembered, to find what a list does
//! not have any more. When the server is away, what is known stays in force, and each kind tries
//! on its own, for ever.
//!
//! An agent that starts while the server is away publishes the table of the state file
//! ([`crate::state`]) as soon as that is clear: when the first request fails, or after
//! [`PATIENCE`]. The first table of the server's own then replaces it as any other would.

mod backoff;
mod cluster;
mod events;
mod failure;
mod informer;
mod known;
mod object;
mod pace;
mod server;

use std::convert::Infallible;
use std::future::pending;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use streamvs_resolve::{Changes, Config};
use streamvs_table::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinSet};
use tokio::time::sleep_until;

use crate::Error;
use crate::state::{self, LoadError, Loaded, Place, SaveError, Saver, State};
use cluster::Cluster;
pub use events::{NodeEvent, report, report_service_health};
use informer::{Informer, Selection};
pub use object::Kind;
use object::{Message, service, service_cidr, slice, this_node};
use server::Server;
pub use server::{Access, AccessError};

/// A server that answers within this time is waited for, so that an old table is not used for
/// nothing. The whole start still takes well under a second without it.
const PATIENCE: Duration = Duration::from_millis(250);

/// Objects between the informers and the resolver: a slice of 1,000 endpoints is about half a
/// megabyte.
const QUEUE: usize = 64;

/// Hands a Service to the proxy of that name (KEP-2447).
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Marks slices of headless Services, which no proxy needs.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// Which server to ask, and for whom.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// How to reach the server.
    pub access: Access,
    /// What the resolver must know.
    pub resolver: Config,
    /// Where the last good table is kept. None: nowhere.
    pub state_file: Option<PathBuf>,
}

/// Something the rest of the agent should know.
#[derive(Debug)]
pub enum Update {
    /// A new table.
    Table {
        /// The table.
        snapshot: Snapshot,
        /// What came in for it.
        changes: Changes,
        /// Where its knowledge is from.
        origin: Origin,
    },
    /// This node's Node object changed.
    Node(NodeStatus),
    /// The cluster's service ranges changed. Empty where the server does not tell them.
    ServiceCidrs(Vec<IpNet>),
    /// Changes of a kind arrive (again).
    Watching(Kind),
    /// Changes of a kind do not arrive: a request failed, and is tried again.
    Broken(Kind),
    /// The state was written to disk, or could not be.
    Saved(Result<(), SaveError>),
}

/// Where a table is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server.
    Server,
    /// The state file.
    State,
}

/// What the API server says of this node's Node object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum NodeStatus {
    /// There is none.
    Absent,
    /// It is there.
    Present {
        /// `metadata.deletionTimestamp` is set.
        deleting: bool,
        /// The keys of its taints.
        taints: Vec<String>,
    },
}

/// Watches the API server for ever, and tells of each change. When `succeeded` turns true, the
/// state file is another agent's, and nothing is saved any more.
///
/// # Errors
/// It is not said how to reach the server, or wrongly, at the start. A server that is away, refuses
/// or misbehaves is no error: it is logged, told of and tried again.
///
/// Cancel safety: dropping the future ends all requests, and saves the newest table.
pub async fn kubernetes(
    config: KubernetesConfig,
    mut succeeded: watch::Receiver<bool>,
    mut tell: impl FnMut(Update),
) -> Result<Infallible, Error> {
    let KubernetesConfig { access, resolver, state_file } = config;
    let server = Arc::new(Server::new(access).await?);
    tracing::info!(server = %server.url(), "asking the api server");
    let place = Place {
        cluster: server.identity().to_owned(),
        node: Arc::clone(&resolver.node_name),
        service_proxy_name: resolver.service_proxy_name.clone(),
    };

    let (reports, mut reported) = mpsc::channel(QUEUE);
    let mut saver = state_file.clone().map(|path| {
        // A report that finds the queue full, or nobody there, is not worth waiting for.
        Saver::start(path, place.clone(), move |report| drop(reports.try_send(report)))
    });
    let started = Instant::now();
    let (sender, mut messages) = mpsc::channel(QUEUE);
    let mut tasks = inform(&server, &resolver, &sender);
    let node = Arc::clone(&resolver.node_name);
    let mut greeted = false;
    let mut cluster = Cluster::new(resolver, server.url().to_string(), started);
    // The informers are asking meanwhile.
    let mut restored = match state_file {
        Some(path) => restore(path, place).await,
        None => None,
    };
    let mut succeeded = pin!(async {
        if succeeded.wait_for(|succeeded| *succeeded).await.is_err() {
            pending().await
        }
    });
    loop {
        let now = Instant::now();
        let restore_at = started + PATIENCE;
        if cluster.synced() {
            restored = None;
            if !std::mem::replace(&mut greeted, true) {
                let (server, node) = (Arc::clone(&server), Arc::clone(&node));
                tasks.spawn(events::record(server, node, NodeEvent::Starting));
            }
        }
        if let Some(state) = restored.take_if(|_| cluster.any_broken() || restore_at <= now) {
            cluster.follow(&state);
            tracing::warn!("serving the table of the state file until the api server answers");
            tell(Update::Node(state.node));
            tell(Update::ServiceCidrs(state.service_cidrs));
            let (snapshot, changes) = (state.snapshot, Changes::default());
            tell(Update::Table { snapshot, changes, origin: Origin::State });
            continue;
        }
        let due = cluster.due();
        if due.is_some_and(|due| due <= now) {
            if let Some((snapshot, changes)) = cluster.make() {
                tell(Update::Table { snapshot, changes, origin: Origin::Server });
            }
            cluster.made(now);
            continue;
        }
        if let (Some(saver), Some(state)) = (&saver, cluster.unsaved()) {
            saver.offer(state);
        }
        let wake = [due, restored.as_ref().map(|_| restore_at)].into_iter().flatten().min();
        tokio::select! {
            message = messages.recv() => {
                let message = message.expect("`sender` lives as long");
                cluster.take(message, Instant::now(), &mut tell);
            }
            () = &mut succeeded, if saver.is_some() => {
                if let Some(saver) = saver.take() {
                    saver.forget();
                }
            }
            Some(report) = reported.recv() => tell(Update::Saved(report)),
            () = sleep_until(wake.unwrap_or(now).into()), if wake.is_some() => {}
        }
    }
}

/// Starts an informer for each kind. They end with the set.
fn inform(server: &Arc<Server>, resolver: &Config, events: &mpsc::Sender<Message>) -> JoinSet<()> {
    let mut informers = JoinSet::new();
    let services = Selection {
        labels: Some(match &resolver.service_proxy_name {
            None => format!("!{SERVICE_PROXY_NAME}"),
            Some(name) => format!("{SERVICE_PROXY_NAME}={name}"),
        }),
        // Headless Services are nothing to us.
        optional_fields: Some("spec.clusterIP!=None".to_owned()),
        ..Selection::default()
    };
    let slices = Selection { labels: Some(format!("!{HEADLESS}")), ..Selection::default() };
    let node = Selection {
        fields: Some(format!("metadata.name={}", resolver.node_name)),
        ..Selection::default()
    };
    let cidrs = Selection::default();
    informers.spawn(Informer::new(Arc::clone(server), services, service, events.clone()).run());
    informers.spawn(Informer::new(Arc::clone(server), slices, slice, events.clone()).run());
    informers.spawn(Informer::new(Arc::clone(server), node, this_node, events.clone()).run());
    informers.spawn(Informer::new(Arc::clone(server), cidrs, service_cidr, events.clone()).run());
    informers
}

/// Reads the state file, if there is one that can be used.
async fn restore(path: PathBuf, place: Place) -> Option<State> {
    let shown = path.display().to_string();
    let loading = task::spawn_blocking(move || state::load(&path, &place));
    // Not loaded: the runtime is shutting down.
    match loading.await.ok()? {
        Ok(Loaded { state, saved_at, left_out_bytes }) => {
            if left_out_bytes > 0 {
                tracing::warn!(
                    file = shown,
                    left_out_bytes,
                    "the end of the state file is damaged"
                );
            }
            tracing::info!(
                file = shown,
                %saved_at,
                service_port_count = state.snapshot.service_port_count(),
                "state file read"
            );
            Some(state)
        }
        Err(LoadError::Absent) => None,
        Err(error) => {
            tracing::warn!(file = shown, %error, "state file is not used");
            None
        }
    }
}

#[cfg(test)]
mod tests;
