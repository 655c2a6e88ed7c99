//! Aim: what looks at kube-proxy's pages finds the same on ours.
//! Method: the real kube-proxy and the agent, one after the other on one node with the same
//! Services; names, labels, types and bounds of their metrics, fields of their health pages and
//! their event are compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use streamvs_support::agent::{HEALTH_PORT, METRICS_PORT, PATIENCE};
use streamvs_support::manifest::Service;
use streamvs_support::process::Process;
use streamvs_support::wait::eventually_some;
use streamvs_support::{Family, http};

use crate::programs;
use crate::scene::{PODS, Scene, grpc_service, needs_node};

/// kube-proxy's metrics of its own rules, which have no counterpart (docs/metrics.md).
const OF_ITS_RULES: [&str; 2] = ["kubeproxy_iptables_", "kubeproxy_nftables_"];
const OF_ITS_SYNCS: [&str; 2] =
    ["kubeproxy_sync_proxy_rules_iptables_", "kubeproxy_sync_proxy_rules_nftables_"];

fn page(scene: &Scene, port: u16, path: &str) -> Option<http::Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    http::get(scene.lab.node().netns(), address, path).ok()
}

/// What a proxy shows, once it has programmed the node and a change of endpoints.
struct Face {
    metrics: String,
    health: BTreeMap<&'static str, http::Answer>,
    /// Type, reason and action of its event on the Node.
    event: [Value; 3],
}

impl Face {
    #[track_caller]
    fn of(scene: &Scene, service: &Service, component: &str) -> Self {
        let mut pods = [&PODS[..2], &PODS[..]].into_iter().cycle();
        let health = ["/healthz", "/livez"].map(|path| {
            let fresh = || page(scene, HEALTH_PORT, path).filter(|answer| answer.status == 200);
            (path, eventually_some("health is served", PATIENCE, fresh))
        });
        let metrics = eventually_some("a change of endpoints is programmed", PATIENCE, || {
            let page = page(scene, METRICS_PORT, "/metrics")?.body;
            let count =
                "\nkubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} ";
            let (_, counted) = page.split_once(count).unwrap_or_default();
            if !counted.is_empty() && !counted.starts_with("0\n") {
                return Some(page);
            }
            // Times before the proxy's start do not count, so there has to be another change.
            let now = jiff::Timestamp::now().to_string();
            let mut slices = service.slices(&scene.ready(service, pods.next()?));
            for slice in &mut slices {
                slice["metadata"]["annotations"] =
                    json!({ "endpoints.kubernetes.io/last-change-trigger-time": now });
            }
            scene.cluster.apply(&slices);
            std::thread::sleep(Duration::from_millis(500));
            None
        });
        let event = eventually_some("its start is recorded", PATIENCE, || {
            let printed = scene.cluster.kubectl(&["get", "events", "-o", "json"], "");
            let printed: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
            let events = printed["items"].as_array().expect("a list");
            let by_it = |event: &&Value| {
                event["reportingComponent"] == component
                    && event["involvedObject"]["kind"] == "Node"
            };
            let event = events.iter().find(by_it)?;
            Some(["type", "reason", "action"].map(|field| event[field].clone()))
        });
        Self { metrics, health: health.into(), event }
    }

    /// The samples of kube-proxy's metrics, with the keys of their labels.
    fn samples(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let lines = self.metrics.lines().filter(|line| line.starts_with("kubeproxy_"));
        let samples = lines.filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (name, labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect())
        });
        samples.collect()
    }

    /// Upper bounds of a histogram's buckets.
    fn bounds(&self, bucket: &str) -> Vec<f64> {
        let of_it = self.metrics.lines().filter(|line| line.starts_with(&format!("{bucket}{{")));
        let bounds = of_it.filter_map(|line| line.split_once("le=\"")?.1.split_once('"'));
        let mut bounds: Vec<f64> =
            bounds.filter_map(|(bound, _)| bound.replace("+Inf", "inf").parse().ok()).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds
    }

    /// Types of the metrics, by names as OpenMetrics has them: without `_total`.
    fn types(&self) -> BTreeMap<&str, &str> {
        let lines = self.metrics.lines().filter_map(|line| line.strip_prefix("# TYPE kubeproxy_"));
        let types = lines.filter_map(|line| line.split_once(' '));
        types.map(|(name, kind)| (name.strip_suffix("_total").unwrap_or(name), kind)).collect()
    }
}

#[test]
fn what_reads_kube_proxys_pages_reads_ours() {
    needs_node!();
    streamvs_support::needs!("nft", "conntrack");
    let scene = Scene::new();
    let service = grpc_service(&[Family::V4]);
    scene.publish(&service, &PODS);
    // For the metrics of conntrack.
    let dns = Service::new("dns", &[Family::V4], 53).port("dns", 53, 5353).protocol("UDP");
    scene.publish(&dns, &PODS);
    scene.cluster.set_node_addresses("node", &[scene.lab.node().ip(Family::V4)]);

    let kubeconfig = scene.cluster.admin_kubeconfig();
    let mut command = programs::kube_proxy(scene.lab.node(), "nftables", &kubeconfig);
    command.arg("--cluster-cidr=10.244.0.0/16");
    let kube_proxy = Process::start(command, &scene.folder.path().join("kube-proxy.log"));
    let theirs = Face::of(&scene, &service, "kube-proxy");
    drop(kube_proxy);
    let _agent = scene.agent(&["--kube-proxy-replacement"]);
    let ours = Face::of(&scene, &service, "streamvs");
    assert_eq!(ours.event, theirs.event);

    let (samples, types) = (ours.samples(), ours.types());
    let mut compared = 0;
    for (name, labels) in theirs.samples() {
        if OF_ITS_RULES.iter().chain(&OF_ITS_SYNCS).any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        assert_eq!(samples.get(name), Some(&labels), "labels of {name}");
        if name.ends_with("_bucket") {
            assert_eq!(ours.bounds(name), theirs.bounds(name), "bounds of {name}");
        }
        compared += 1;
    }
    assert!(compared >= 20, "only {compared} samples are there to compare:\n{}", theirs.metrics);
    for (name, kind) in theirs.types() {
        if let Some(ours) = types.get(name) {
            assert_eq!(*ours, kind, "type of {name}");
        }
    }

    for (path, theirs) in &theirs.health {
        let ours = &ours.health[path];
        let fields = |answer: &http::Answer| -> BTreeSet<String> {
            let body: Value = serde_json::from_str(&answer.body).expect("health is JSON");
            body.as_object().expect("an object").keys().cloned().collect()
        };
        let missing: Vec<_> = fields(theirs).difference(&fields(ours)).cloned().collect();
        assert!(missing.is_empty(), "{path}: {missing:?} of {theirs:?} are not in {ours:?}");
        let header = |answer: &http::Answer, name: &str| {
            let lines = answer.headers.lines().filter_map(|line| line.split_once(": "));
            let mut values = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            values.next().map(|(_, value)| value.to_owned())
        };
        for name in ["content-type", "x-content-type-options"] {
            assert_eq!(header(ours, name), header(theirs, name), "{path}: {name}");
        }
    }
}
