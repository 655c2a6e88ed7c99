//! `streamvs list`: what the agent shows of its ServicePorts and endpoints, how a client gets it
//! over the unix socket, and how it is put on a terminal.
//!
//! The JSON is a contract: fields are added, never renamed or left out; what is not known is
//! `null`. Totals count since the agent started and the ServicePort, or the endpoint's address in
//! it, was first seen.

mod text;
mod top;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use streamvs_balance::{
    Counter, Histogram, Plan, ServiceStats, Target, TargetStats, Verdict, VirtualServer,
};
use streamvs_table::{Endpoint, Family, ServicePort};

pub use crate::client::fetch;
pub use text::{Columns, render_text};
pub use top::{Room, render_top};

/// One ServicePort, both families together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The port's name; empty where it has none.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port's number.
    pub service_port: u16,
    /// One or two, primary first.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    /// Where one is allocated.
    pub node_port: Option<u16>,
    /// Those of load balancers that this node serves.
    #[serde(rename = "loadBalancerIPs", default)]
    pub load_balancer_ips: Vec<IpAddr>,
    /// Those that the operator allows.
    #[serde(rename = "externalIPs", default)]
    pub external_ips: Vec<IpAddr>,
    /// The scheduler in use; none where the kernel balances (UDP, SCTP).
    pub scheduler: Option<String>,
    /// As the Service has it.
    pub app_protocol: Option<String>,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u64>,
    /// Captured connections since start, by what they carried.
    pub connections: ConnectionsView,
    /// Captured connections open now.
    pub active_connections: u64,
    /// Streams and connections moved to another endpoint.
    pub replays: u64,
    /// Connections and streams for which no endpoint was left.
    pub no_endpoint: u64,
    /// Payload bytes from clients to endpoints.
    pub bytes_to_upstream: u64,
    /// Payload bytes from endpoints to clients.
    pub bytes_to_downstream: u64,
    /// IPv4 first, each family by address.
    pub endpoints: Vec<EndpointView>,
}

/// Connections by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsView {
    /// HTTP/2 with prior knowledge.
    pub http2: u64,
    /// Anything else.
    pub tcp: u64,
    /// TLS.
    pub tls: u64,
}

/// One endpoint of a ServicePort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Its IP address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The node it runs on, where known.
    pub node: Option<String>,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// The EndpointSlice's condition.
    pub ready: bool,
    /// The EndpointSlice's condition.
    pub serving: bool,
    /// The EndpointSlice's condition.
    pub terminating: bool,
    /// New connections and streams to the ClusterIP may go there from this node.
    pub usable: bool,
    /// Why it is usable, or is not.
    pub reason: String,
    /// The same of connections from outside; none where outside cannot reach the Service.
    pub usable_from_outside: Option<bool>,
    /// Share of new traffic.
    pub weight: u16,
    /// TCP connections balanced as a whole and open there now.
    pub active_connections: u32,
    /// Streams open there now.
    pub active_streams: u32,
    /// TCP connections given to it since start.
    pub connections: u64,
    /// Streams given to it since start.
    pub streams: u64,
    /// Dials to it that failed since start.
    pub failures: u64,
    /// While it is passed over for faults in a row: for how long yet, if the time is not cut short.
    #[serde(default)]
    pub ejected_seconds: Option<f64>,
    /// Times that it was ejected since start.
    #[serde(default)]
    pub ejections: u64,
    /// gRPC streams that ended with a `grpc-status` since start.
    pub grpc_responses: u64,
    /// Those of them whose status was not 0.
    pub grpc_errors: u64,
    /// Half of the streams were shorter. None before the first ended.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 streams were shorter. None before the first ended.
    pub p99_seconds: Option<f64>,
}

/// Everything in the plan, sorted by namespace, name, port name and protocol.
pub fn views(plan: &Plan) -> Vec<ServiceView> {
    let now = Instant::now();
    plan.snapshot().services().map(|service| service_view(plan, service, now)).collect()
}

fn service_view(plan: &Plan, service: &ServicePort, now: Instant) -> ServiceView {
    let servers = Family::BOTH.map(|family| plan.get(&service.name, family));
    let total = |of: &dyn Fn(&ServiceStats) -> u64| -> u64 {
        servers.iter().flatten().map(|server| of(server.stats())).sum()
    };
    let connections = |verdict: Verdict| total(&|stats| stats.connections[verdict.index()].get());
    let scheduler = servers.iter().flatten().next().map(|server| server.scheduler().to_string());
    let endpoints = Family::BOTH
        .into_iter()
        .zip(servers)
        .flat_map(|(family, server)| endpoint_views(service, family, server, now));
    ServiceView {
        namespace: service.name.service.namespace.to_string(),
        name: service.name.service.name.to_string(),
        port: service.name.port.to_string(),
        protocol: service.name.protocol.to_string(),
        service_port: service.port,
        cluster_ips: service.cluster_ips.clone(),
        node_port: service.node_port,
        load_balancer_ips: service.load_balancer_ips.clone(),
        external_ips: service.external_ips.clone(),
        scheduler,
        app_protocol: service.app_protocol.as_deref().map(str::to_owned),
        affinity_seconds: service.affinity.map(|timeout| timeout.as_secs()),
        connections: ConnectionsView {
            http2: connections(Verdict::Http2),
            tcp: connections(Verdict::Tcp),
            tls: connections(Verdict::Tls),
        },
        active_connections: total(&|stats| stats.active_connections.get()),
        replays: total(&|stats| sum(&stats.replays)),
        no_endpoint: total(&|stats| stats.no_endpoint.get()),
        bytes_to_upstream: total(&|stats| stats.bytes_to_upstream.get()),
        bytes_to_downstream: total(&|stats| stats.bytes_to_downstream.get()),
        endpoints: endpoints.collect(),
    }
}

/// The endpoints of a family: with their load where there is a virtual server, else without.
fn endpoint_views(
    service: &ServicePort,
    family: Family,
    server: Option<&Arc<VirtualServer>>,
    now: Instant,
) -> Vec<EndpointView> {
    match server {
        Some(server) => server
            .targets()
            .iter()
            .map(|target| endpoint_view(service, target.endpoint(), Some(target), now))
            .collect(),
        None => {
            let view = |endpoint| endpoint_view(service, endpoint, None, now);
            service.endpoints(family).map(view).collect()
        }
    }
}

fn endpoint_view(
    service: &ServicePort,
    endpoint: &Endpoint,
    target: Option<&Target>,
    now: Instant,
) -> EndpointView {
    let stats = target.and_then(Target::recorded_stats);
    let total = |of: &dyn Fn(&TargetStats) -> u64| stats.map_or(0, of);
    // The last counter is of streams that ended without a status we know: no response to speak of.
    let statuses = |stats: &TargetStats, from| {
        sum(&stats.grpc_responses[from..stats.grpc_responses.len() - 1])
    };
    let quantile = |q| stats.and_then(|stats| quantile(&stats.stream_duration, q));
    EndpointView {
        address: endpoint.address.ip(),
        port: endpoint.address.port(),
        node: endpoint.node.as_deref().map(str::to_owned),
        zone: endpoint.zone.as_deref().map(str::to_owned),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        usable: endpoint.usable(service.internal_policy),
        reason: endpoint.usability.get(service.internal_policy).to_string(),
        usable_from_outside: service
            .is_external()
            .then(|| endpoint.usable(service.external_policy)),
        weight: endpoint.weight,
        active_connections: target.map_or(0, Target::active_connections),
        active_streams: target.map_or(0, Target::active_streams),
        connections: total(&|stats| stats.connections.get()),
        streams: total(&|stats| stats.streams.get()),
        failures: total(&|stats| sum(&stats.failures)),
        ejected_seconds: target
            .and_then(|target| target.ejection(now))
            .map(|ejected| ejected.remaining.as_secs_f64()),
        ejections: total(&|stats| stats.ejections.get()),
        grpc_responses: total(&|stats| statuses(stats, 0)),
        grpc_errors: total(&|stats| statuses(stats, 1)),
        p50_seconds: quantile(0.5),
        p99_seconds: quantile(0.99),
    }
}

fn sum(counters: &[Counter]) -> u64 {
    counters.iter().map(Counter::get).sum()
}

/// The duration below which the share `q` of all lies, by linear interpolation within its bucket
/// as Prometheus' `histogram_quantile`: off by at most the width of the bucket. What lies in the
/// last, unbounded bucket counts as its lower bound.
fn quantile(histogram: &Histogram, q: f64) -> Option<f64> {
    let snapshot = histogram.snapshot();
    if snapshot.count == 0 {
        return None;
    }
    let rank = q * snapshot.count as f64;
    let (mut lower, mut below) = (0.0, 0.0);
    for (upper, count) in snapshot.buckets {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            let share = (rank - below) / count;
            return Some(if upper.is_finite() { lower + (upper - lower) * share } else { lower });
        }
        below += count;
        lower = upper;
    }
    None
}

#[cfg(test)]
mod tests;
