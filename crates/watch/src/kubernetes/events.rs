//! Events for people who ask the API server what a node did (`kubectl get events`). Best effort:
//! nothing waits for them, and what fails is not tried again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::time::timeout;

use super::failure::Failure;
use super::server::Server;

/// As kube-proxy's is `kube-proxy`.
const CONTROLLER: &str = "streamvs";
/// Events of objects without a namespace are kept there.
const NAMESPACE: &str = "default";
const DEADLINE: Duration = Duration::from_secs(10);

/// Tells that the agent of this node has started: kube-proxy's event `Starting` on the Node.
pub(crate) async fn starting(server: Arc<Server>, node: Arc<str>) {
    let event = about_node(&node, Timestamp::now());
    match timeout(DEADLINE, post(&server, &event)).await {
        Ok(Ok(())) => {}
        Ok(Err(failure)) => tracing::info!(%failure, "the event Starting is not recorded"),
        Err(_) => tracing::info!("the event Starting is not recorded in time"),
    }
}

async fn post(server: &Server, event: &Event) -> Result<(), Failure> {
    let api: Api<Event> = Api::namespaced(server.client().await?, NAMESPACE);
    api.create(&PostParams::default(), event).await?;
    Ok(())
}

fn about_node(node: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            // As client-go names them: unique for an object and a time.
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Normal".to_owned()),
        reason: Some("Starting".to_owned()),
        action: Some("StartStreamvs".to_owned()),
        note: Some(concat!("streamvs ", env!("CARGO_PKG_VERSION"), " serves").to_owned()),
        regarding: Some(ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            // `kubectl describe node` looks for the name here, as kubelet and kube-proxy put it.
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(format!("{CONTROLLER}-{node}")),
        ..Event::default()
    }
}
