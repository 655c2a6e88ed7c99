//! Service, EndpointSlice and Node as the API has them, and files of them for the agent.
//!
//! Each object has a file of its own, written beside its place and renamed into it, so that a
//! reader sees the old or the new one and never half.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Family;
use crate::lab::Host;

/// The folder `--manifests` names.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
}

/// A Service with its ports.
#[derive(Clone, Debug, Default)]
pub struct Service {
    name: String,
    cluster_ips: Vec<IpAddr>,
    ports: Vec<Port>,
    annotations: BTreeMap<String, String>,
    affinity_seconds: Option<u32>,
    internal_policy: Option<&'static str>,
}

/// One port: of the Service, and where its endpoints listen.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    port: u16,
    target: u16,
    protocol: &'static str,
    app_protocol: Option<String>,
}

/// An endpoint of a slice. Conditions not set are left out of the file.
#[derive(Clone, Debug)]
pub struct Endpoint {
    address: IpAddr,
    node: Option<String>,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

impl Service {
    /// A Service in the namespace `default` with one address of each of `families`, all ending in
    /// `number`.
    pub fn new(name: &str, families: &[Family], number: u8) -> Self {
        let cluster_ips = families
            .iter()
            .map(|family| crate::lab::Lab::service_address(*family, number))
            .collect();
        Self { name: name.to_owned(), cluster_ips, ..Self::default() }
    }

    /// Adds a TCP port whose endpoints listen on `target`.
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        let (name, protocol) = (name.to_owned(), "TCP");
        self.ports.push(Port { name, port, target, protocol, app_protocol: None });
        self
    }

    /// Sets the protocol of the port added last, as Kubernetes writes it.
    pub fn protocol(mut self, value: &'static str) -> Self {
        self.ports.last_mut().expect("a port was added").protocol = value;
        self
    }

    /// Sets `appProtocol` of the port added last.
    pub fn app_protocol(mut self, value: &str) -> Self {
        self.ports.last_mut().expect("a port was added").app_protocol = Some(value.to_owned());
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets `streamvs.io/scheduler`.
    pub fn scheduler(self, name: &str) -> Self {
        self.annotation("streamvs.io/scheduler", name)
    }

    /// Sets `sessionAffinity: ClientIP` with a time-out.
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.affinity_seconds = Some(seconds);
        self
    }

    /// Sets `internalTrafficPolicy: Local`.
    pub fn internal_local(mut self) -> Self {
        self.internal_policy = Some("Local");
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address of a family.
    ///
    /// # Panics
    /// When it has none of that family.
    pub fn ip(&self, family: Family) -> IpAddr {
        self.cluster_ips
            .iter()
            .copied()
            .find(|ip| Family::of(*ip) == family)
            .expect("the Service has an address of that family")
    }

    /// Every address.
    pub fn ips(&self) -> &[IpAddr] {
        &self.cluster_ips
    }

    /// Its ports: the Service's own and the one its endpoints listen on.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> {
        self.ports.iter().map(|port| (port.port, port.target))
    }

    /// The Service as the API has it.
    pub fn object(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut value = json!({
                    "name": port.name,
                    "port": port.port,
                    "targetPort": port.target,
                    "protocol": port.protocol,
                });
                if let Some(app_protocol) = &port.app_protocol {
                    value["appProtocol"] = json!(app_protocol);
                }
                value
            })
            .collect();
        let families: Vec<&str> =
            self.cluster_ips.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let mut spec = json!({
            "type": "ClusterIP",
            "clusterIP": self.cluster_ips.first(),
            "clusterIPs": self.cluster_ips,
            "ipFamilies": families,
            "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": ports,
        });
        if let Some(seconds) = self.affinity_seconds {
            spec["sessionAffinity"] = json!("ClientIP");
            spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        }
        if let Some(policy) = self.internal_policy {
            spec["internalTrafficPolicy"] = json!(policy);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": "default",
                "annotations": self.annotations,
            },
            "spec": spec,
        })
    }

    /// Its slices as the API has them, one for each family it has an address of.
    pub fn slices(&self, endpoints: &[Endpoint]) -> Vec<Value> {
        self.cluster_ips.iter().map(|ip| self.slice(Family::of(*ip), endpoints)).collect()
    }

    fn slice(&self, family: Family, endpoints: &[Endpoint]) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(
                |port| json!({ "name": port.name, "port": port.target, "protocol": port.protocol }),
            )
            .collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .filter(|endpoint| Family::of(endpoint.address) == family)
            .map(Endpoint::object)
            .collect();
        let (kind, suffix) = suffix(family);
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{suffix}", self.name),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": kind,
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}

impl Endpoint {
    /// A ready endpoint at a pod's address, on the node `node`.
    pub fn ready(host: &Host, family: Family) -> Self {
        Self::at(host.ip(family))
    }

    /// A ready endpoint at any address.
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            node: Some("node".to_owned()),
            ready: Some(true),
            serving: None,
            terminating: None,
        }
    }

    /// Puts it on another node.
    pub fn on_node(mut self, name: &str) -> Self {
        self.node = Some(name.to_owned());
        self
    }

    /// Makes it not ready, neither serving nor terminating.
    pub fn not_ready(mut self) -> Self {
        (self.ready, self.serving, self.terminating) = (Some(false), Some(false), Some(false));
        self
    }

    /// Makes it terminating: it serves until its end, or refuses to.
    pub fn terminating(mut self, serving: bool) -> Self {
        (self.ready, self.serving, self.terminating) = (Some(false), Some(serving), Some(true));
        self
    }

    fn object(&self) -> Value {
        let mut conditions = serde_json::Map::new();
        for (name, value) in
            [("ready", self.ready), ("serving", self.serving), ("terminating", self.terminating)]
        {
            if let Some(value) = value {
                conditions.insert(name.to_owned(), json!(value));
            }
        }
        let mut endpoint = json!({ "addresses": [self.address], "conditions": conditions });
        if let Some(node) = &self.node {
            endpoint["nodeName"] = json!(node);
        }
        endpoint
    }
}

impl Manifests {
    /// Writes into an existing folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes the Service.
    pub fn service(&self, service: &Service) {
        self.write(&format!("service-{}.json", service.name), &service.object());
    }

    /// Writes the slices of a Service, one for each family it has an address of.
    pub fn endpoints(&self, service: &Service, endpoints: &[Endpoint]) {
        for (ip, slice) in service.cluster_ips.iter().zip(service.slices(endpoints)) {
            let (_, suffix) = suffix(Family::of(*ip));
            self.write(&format!("slice-{}-{suffix}.json", service.name), &slice);
        }
    }

    /// Writes a Node with its zone label.
    pub fn node(&self, name: &str, zone: &str) {
        self.write(&format!("node-{name}.json"), &node(name, zone));
    }

    /// The same with the ranges that its pods have their addresses from.
    pub fn node_with_pods(&self, name: &str, zone: &str, pod_cidrs: &[&str]) {
        let mut node = node(name, zone);
        node["spec"] = json!({ "podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs });
        self.write(&format!("node-{name}.json"), &node);
    }

    /// Writes any text under a file name, right or wrong.
    ///
    /// # Panics
    /// When the folder cannot be written to.
    pub fn text(&self, name: &str, text: &str) {
        let beside = self.folder.join(format!(".{name}.new"));
        std::fs::write(&beside, text).expect("the folder can be written to");
        std::fs::rename(&beside, self.folder.join(name)).expect("a file can be renamed in place");
    }

    /// Deletes a file.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.join(name)).expect("the file is there");
    }

    fn write(&self, name: &str, object: &Value) {
        self.text(name, &format!("{object:#}\n"));
    }
}

/// A Node with its zone label, as the API has it.
pub fn node(name: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone } },
    })
}

fn suffix(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("IPv4", "v4"),
        Family::V6 => ("IPv6", "v6"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_holds_its_own_family_and_the_conditions_set() {
        let service = Service::new("echo", &[Family::V4, Family::V6], 10).port("grpc", 80, 9000);
        let endpoints = [
            Endpoint::at("192.0.2.1".parse().unwrap()).terminating(true),
            Endpoint::at("2001:db8::1".parse().unwrap()),
        ];
        let slice = service.slice(Family::V4, &endpoints);
        assert_eq!(
            slice["endpoints"],
            json!([{
                "addresses": ["192.0.2.1"],
                "conditions": { "ready": false, "serving": true, "terminating": true },
                "nodeName": "node",
            }])
        );
        assert_eq!(slice["addressType"], "IPv4");
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "echo");
        assert_eq!(service.object()["spec"]["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::10"]));
    }

    #[test]
    fn no_half_written_file_is_ever_seen() {
        let folder = tempfile::tempdir().unwrap();
        let manifests = Manifests::new(folder.path());
        manifests.text("a.yaml", "one");
        manifests.text("a.yaml", "two");
        assert_eq!(std::fs::read_to_string(folder.path().join("a.yaml")).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
