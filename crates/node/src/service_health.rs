//! Serves the health check node ports of Services, and tells of those that cannot be had.

use std::sync::Arc;

use streamvs_admin::{Health, service_health};
use streamvs_table::{ServiceName, Snapshot};
use streamvs_watch::KubernetesConfig;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::reach::Reach;
use crate::workers;

/// Failures that wait to be recorded as events, one after the other. More than that are a node
/// where something is wrong for all Services; the log has each.
const WAITING_FAILURES: usize = 64;

/// Begins to serve. What is served ends when the result is dropped. `config`: where events go.
pub(crate) fn start(
    tables: watch::Receiver<Arc<Snapshot>>,
    health: Arc<Health>,
    reach: Reach,
    config: Option<KubernetesConfig>,
) -> JoinSet<()> {
    let (failures, failed) = mpsc::channel(WAITING_FAILURES);
    let on_failure = move |service: &ServiceName, why: String| {
        tracing::warn!(%service, "{why}, trying again");
        // Best effort, as all events are.
        let _ = failures.try_send((service.clone(), why));
    };
    let mut tasks = JoinSet::new();
    let most = workers::most_health_check_sockets();
    let addresses = move |node: &_| reach.health_addresses(node);
    tasks.spawn(service_health::serve(tables, health, addresses, most, on_failure));
    if let Some(config) = config {
        tasks.spawn(record(config, failed));
    }
    tasks
}

async fn record(config: KubernetesConfig, mut failed: mpsc::Receiver<(ServiceName, String)>) {
    while let Some((service, why)) = failed.recv().await {
        let note = format!("node {}: {why}", config.resolver.node_name);
        streamvs_watch::report_service_health(&config, &service, note).await;
    }
}
