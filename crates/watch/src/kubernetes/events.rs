//! Events for people who ask the API server what a node did (`kubectl get events`). Best effort:
//! nothing waits for them, and what fails is not tried again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use streamvs_table::ServiceName;
use tokio::time::timeout;

use super::KubernetesConfig;
use super::failure::Failure;
use super::server::Server;

/// As kube-proxy's is `kube-proxy`.
const CONTROLLER: &str = "streamvs";
/// Events of objects without a namespace are kept there.
const NAMESPACE: &str = "default";
/// The reason of the event on a Service.
const SERVICE_HEALTH_PORT: &str = "FailedToStartServiceHealthcheck";
const DEADLINE: Duration = Duration::from_secs(10);

/// What is told of this node's agent: kube-proxy's events on the Node, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// `Starting`: it serves.
    Starting,
    /// `FailedToStartProxierHealthcheck`: the health port cannot be bound, and it ends.
    HealthPort(String),
    /// `FailedToStartMetricServer`: the metrics port cannot be bound, and it ends.
    MetricsPort(String),
}

impl NodeEvent {
    fn reason(&self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::HealthPort(_) => "FailedToStartProxierHealthcheck",
            Self::MetricsPort(_) => "FailedToStartMetricServer",
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Starting => "Normal",
            Self::HealthPort(_) | Self::MetricsPort(_) => "Warning",
        }
    }

    fn note(&self) -> &str {
        match self {
            Self::Starting => concat!("streamvs ", env!("CARGO_PKG_VERSION"), " serves"),
            Self::HealthPort(why) | Self::MetricsPort(why) => why,
        }
    }
}

/// Tells of an agent that ends before it has begun to watch. Waits at most 10 s.
pub async fn report(config: &KubernetesConfig, event: NodeEvent) {
    match Server::new(config.access.clone()).await {
        Ok(server) => record(Arc::new(server), Arc::clone(&config.resolver.node_name), event).await,
        Err(error) => tracing::info!(%error, reason = event.reason(), "event is not recorded"),
    }
}

/// Records an event on this node's Node.
pub(crate) async fn record(server: Arc<Server>, node: Arc<str>, event: NodeEvent) {
    let event = about_node(&node, &event, Timestamp::now());
    send(&server, &event).await;
}

/// Records `FailedToStartServiceHealthcheck` on a Service: its health check node port cannot be
/// had, for which `note` gives the reason. Waits at most 10 s.
pub async fn report_service_health(config: &KubernetesConfig, service: &ServiceName, note: String) {
    let event = about_service(&config.resolver.node_name, service, note, Timestamp::now());
    match Server::new(config.access.clone()).await {
        Ok(server) => send(&server, &event).await,
        Err(error) => {
            tracing::info!(%error, reason = SERVICE_HEALTH_PORT, "event is not recorded");
        }
    }
}

async fn send(server: &Server, event: &Event) {
    let reason = event.reason.as_deref().unwrap_or_default();
    match timeout(DEADLINE, post(server, event)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::info!(%failure, reason, "event is not recorded"),
        Err(_) => tracing::info!(reason, "event is not recorded in time"),
    }
}

async fn post(server: &Server, event: &Event) -> Result<(), Failure> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or(NAMESPACE);
    let api: Api<Event> = Api::namespaced(server.client().await?, namespace);
    api.create(&PostParams::default(), event).await?;
    Ok(())
}

fn about_node(node: &str, event: &NodeEvent, now: Timestamp) -> Event {
    let regarding = ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(node.to_owned()),
        // `kubectl describe node` looks for the name here, as kubelet and kube-proxy put it.
        uid: Some(node.to_owned()),
        ..ObjectReference::default()
    };
    Event {
        type_: Some(event.kind().to_owned()),
        reason: Some(event.reason().to_owned()),
        // kube-proxy's word, as the reasons are.
        action: Some("StartKubeProxy".to_owned()),
        note: Some(event.note().to_owned()),
        ..of_node(node, regarding, now)
    }
}

/// kube-proxy's event on a Service whose health check node port cannot be served.
fn about_service(node: &str, service: &ServiceName, note: String, now: Timestamp) -> Event {
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Service".to_owned()),
        namespace: Some(service.namespace.to_string()),
        name: Some(service.name.to_string()),
        ..ObjectReference::default()
    };
    Event {
        type_: Some("Warning".to_owned()),
        reason: Some(SERVICE_HEALTH_PORT.to_owned()),
        action: Some("Listen".to_owned()),
        note: Some(note),
        ..of_node(node, regarding, now)
    }
}

/// An event of this node's agent, in the namespace of what it is about.
fn of_node(node: &str, regarding: ObjectReference, now: Timestamp) -> Event {
    let name = regarding.name.as_deref().unwrap_or(node);
    let namespace = regarding.namespace.as_deref().unwrap_or(NAMESPACE);
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique for an object and a time.
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(format!("{CONTROLLER}-{node}")),
        ..Event::default()
    }
}
