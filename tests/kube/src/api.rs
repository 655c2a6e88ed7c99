//! The API server's HTTP interface with objects as JSON values.

use std::io;
use std::path::Path;

use futures_util::{AsyncBufReadExt, Stream};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Who writes, as `managedFields` will say.
const MANAGER: &str = "streamvs-test";

/// A connection to the API server as the user of a kubeconfig file.
///
/// Must be made and used inside one runtime and one namespace, for example in
/// [`Netns::block_on`](streamvs_support::lab::Netns::block_on).
#[derive(Clone)]
pub struct Api {
    client: Client,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Connects when first used.
    ///
    /// # Panics
    /// When the file is no kubeconfig.
    pub async fn new(kubeconfig: &Path) -> Self {
        let file = Kubeconfig::read_from(kubeconfig).expect("the file is a kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .expect("the kubeconfig names a server");
        Self { client: Client::try_from(config).expect("the kubeconfig's certificates are good") }
    }

    /// Makes an object or changes it to this, by server-side apply.
    ///
    /// # Errors
    /// What the server refused, or that it cannot be reached.
    pub async fn apply(&self, object: &Value) -> kube::Result<Value> {
        let path = format!("{}?fieldManager={MANAGER}&force=true", path_of(object));
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(object)).await
    }

    /// Changes the `status` of an object that is there to this one's.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn apply_status(&self, object: &Value) -> kube::Result<Value> {
        let path = format!("{}/status?fieldManager={MANAGER}&force=true", path_of(object));
        let of = |key: &str| object[key].clone();
        let status = json!({
            "apiVersion": of("apiVersion"),
            "kind": of("kind"),
            "metadata": { "name": object["metadata"]["name"] },
            "status": of("status"),
        });
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(&status)).await
    }

    /// Makes an object.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), also when it is there already.
    pub async fn create(&self, object: &Value) -> kube::Result<Value> {
        let path = path_of(object);
        let (collection, _) = path.rsplit_once('/').expect("a path has parts");
        self.send(Method::POST, collection, "application/json", Some(object)).await
    }

    /// Writes the whole of an object that is there, whatever its version.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn replace(&self, object: &Value) -> kube::Result<Value> {
        self.send(Method::PUT, &path_of(object), "application/json", Some(object)).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), also when there is none.
    pub async fn delete(&self, object: &Value) -> kube::Result<Value> {
        self.send(Method::DELETE, &path_of(object), "application/json", None).await
    }

    /// Posts to any path, for example to a subresource.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub async fn post(&self, path: &str, object: &Value) -> kube::Result<Value> {
        self.send(Method::POST, path, "application/json", Some(object)).await
    }

    /// What is at a path.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), also when nothing is.
    pub async fn get(&self, path: &str) -> kube::Result<Value> {
        self.send(Method::GET, path, "application/json", None).await
    }

    /// The text at a path, for pages that are no objects.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn text(&self, path: &str) -> kube::Result<String> {
        self.client.request_text(request(Method::GET, path, "text/plain", None)).await
    }

    /// The events of a watch, as they come, one JSON object each.
    ///
    /// # Errors
    /// As [`get`](Self::get); later, when the connection ends.
    pub async fn watch(
        &self,
        path: &str,
    ) -> kube::Result<impl Stream<Item = io::Result<String>> + Unpin + use<>> {
        let events = self.client.request_stream(request(Method::GET, path, "", None)).await?;
        Ok(Box::pin(events).lines())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        object: Option<&Value>,
    ) -> kube::Result<Value> {
        self.client.request(request(method, path, content, object)).await
    }
}

fn request(method: Method, path: &str, content: &str, object: Option<&Value>) -> Request<Vec<u8>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(object.map(|object| object.to_string().into_bytes()).unwrap_or_default())
        .expect("the request is well-formed")
}

/// Where an object lives: `/api/v1/namespaces/default/services/echo`.
///
/// # Panics
/// When its kind is not one that tests write.
fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let kind = text(&object["kind"]);
    let (plural, namespaced) = match kind.as_str() {
        "Service" => ("services", true),
        "EndpointSlice" => ("endpointslices", true),
        "ServiceAccount" => ("serviceaccounts", true),
        "Node" => ("nodes", false),
        "Namespace" => ("namespaces", false),
        "ClusterRole" => ("clusterroles", false),
        "ClusterRoleBinding" => ("clusterrolebindings", false),
        other => panic!("no test writes a {other}"),
    };
    let name = text(&object["metadata"]["name"]);
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let scope = if namespaced { format!("namespaces/{namespace}/") } else { String::new() };
    format!("/{root}/{version}/{scope}{plural}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_where_its_kind_lives() {
        for (object, path) in [
            (
                json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" } }),
                "/api/v1/namespaces/default/services/a",
            ),
            (
                json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": { "name": "a", "namespace": "b" },
                }),
                "/apis/discovery.k8s.io/v1/namespaces/b/endpointslices/a",
            ),
            (
                json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "a" } }),
                "/api/v1/nodes/a",
            ),
        ] {
            assert_eq!(path_of(&object), path);
        }
    }
}
