//! `streamvs explain`: why a Service is served as it is from this node, endpoint by endpoint, with
//! the rule that says so.
//!
//! Nothing is decided here: `resolve` decided and left its reasons in the table. The JSON is a
//! contract as `list`'s is: fields are added, never renamed or left out.

mod rules;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use streamvs_balance::{Ejected, Plan, SchedulerName, VirtualServer};
use streamvs_table::{Disposition, Endpoint, Family, Protocol, ServiceName, ServicePort};

pub use crate::client::explanation as fetch;
pub use text::render_text;

use rules::Way;

/// Most names suggested for one that is not there.
const MAX_NEAR: usize = 5;

/// How alike two names must be to be suggested, from 0 (nothing in common) to 1 (equal): one
/// letter wrong in a short name passes, another word does not.
const NEAR: f64 = 0.8;

/// What there is to say of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Explanation {
    /// This agent serves it.
    Served {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Sorted by name and protocol.
        ports: Vec<PortView>,
    },
    /// It is known and not served.
    Unserved {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// There is no such Service, as far as this agent can see.
    Unknown {
        /// The namespace asked for.
        namespace: String,
        /// The name asked for.
        name: String,
        /// `namespace/name` of Services with names like it, the most alike first.
        near: Vec<String>,
    },
}

/// One ServicePort.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    /// Its name; empty where it has none.
    pub port: String,
    /// Its number.
    pub service_port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The scheduler in force; none where the kernel balances.
    pub scheduler: Option<String>,
    /// What the annotation `streamvs.io/scheduler` asks for.
    pub asked_scheduler: Option<String>,
    /// `auto`, `h2c` or `tcp`.
    pub protocol_hint: String,
    /// Who said so.
    pub protocol_hint_source: String,
    /// `sessionAffinity: ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u64>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: String,
    /// Those in which it has a ClusterIP.
    pub families: Vec<FamilyView>,
    /// What outside it can be reached by; none where it has a ClusterIP only.
    pub external: Option<ExternalView>,
    /// What else somebody who wonders should know.
    pub notes: Vec<String>,
    /// IPv4 first, each family by address.
    pub endpoints: Vec<EndpointReason>,
}

/// What happens to new connections of a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyView {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The address.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: IpAddr,
    /// `balance`, `reject` or `drop`.
    pub disposition: String,
    /// Why.
    pub reason: String,
    /// What the endpoints' hints came to.
    pub topology: String,
}

/// What becomes of connections from outside, to other addresses than the ClusterIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalView {
    /// Where one is allocated.
    pub node_port: Option<u16>,
    /// Those of load balancers that this node serves.
    #[serde(rename = "loadBalancerIPs")]
    pub load_balancer_ips: Vec<IpAddr>,
    /// Those that the operator allows.
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
    /// Who may reach the load balancers' addresses, as CIDRs; empty where everybody may.
    pub load_balancer_source_ranges: Vec<String>,
    /// Where a load balancer asks whether this node has endpoints.
    pub health_check_node_port: Option<u16>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: String,
    /// Those of the ClusterIPs.
    pub families: Vec<ExternalFamilyView>,
}

/// What happens to new connections of a family from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalFamilyView {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `balance`, `reject` or `drop`.
    pub disposition: String,
    /// Why.
    pub reason: String,
}

/// One endpoint, and whether it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReason {
    /// Where it is.
    pub address: SocketAddr,
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
    /// Share of new traffic.
    pub weight: u16,
    /// New connections and streams to the ClusterIP go there from this node.
    pub used: bool,
    /// Why, or why not.
    pub reason: String,
    /// The field and the KEP that say so.
    pub rule: String,
    /// The same of connections from outside; none where outside cannot reach the Service.
    pub from_outside: Option<OutsideReason>,
}

/// Whether an endpoint is used for connections from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutsideReason {
    /// New connections and streams go there from this node.
    pub used: bool,
    /// Why, or why not.
    pub reason: String,
    /// The field and the KEP that say so.
    pub rule: String,
}

/// Explains a Service by the plan in force.
pub fn explain(plan: &Plan, namespace: &str, name: &str) -> Explanation {
    let wanted = ServiceName::new(namespace, name);
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let of_it = plan.snapshot().of_service(&wanted);
    let ports: Vec<_> = of_it.iter().map(|service| port_view(plan, service)).collect();
    if !ports.is_empty() {
        return Explanation::Served { namespace, name, ports };
    }
    match plan.snapshot().unserved().get(&wanted) {
        Some(reason) => Explanation::Unserved { namespace, name, reason: reason.to_string() },
        None => Explanation::Unknown { namespace, name, near: near(plan, &wanted) },
    }
}

/// A ServicePort's virtual servers by family.
type Servers<'p> = [Option<&'p VirtualServer>; 2];

fn port_view(plan: &Plan, service: &Arc<ServicePort>) -> PortView {
    let servers = Family::BOTH.map(|family| plan.get(&service.name, family).map(AsRef::as_ref));
    let scheduler = servers.iter().flatten().next().map(|server| server.scheduler());
    let in_family = |family| {
        let cluster_ip = service.cluster_ip(family)?;
        let disposition = service.internal_disposition(family);
        Some(FamilyView {
            family: family.to_string(),
            cluster_ip,
            disposition: rules::disposition_name(disposition).to_owned(),
            reason: disposition_reason(service, family, Way::Internal, &servers),
            topology: rules::topology(*service.reasons.topology.get(family)),
        })
    };
    PortView {
        port: service.name.port.to_string(),
        service_port: service.port,
        protocol: service.name.protocol.to_string(),
        scheduler: scheduler.map(|scheduler| scheduler.to_string()),
        asked_scheduler: service.scheduler.as_deref().map(str::to_owned),
        protocol_hint: rules::hint_name(service.protocol_hint).to_owned(),
        protocol_hint_source: rules::hint_source(service),
        affinity_seconds: service.affinity.map(|timeout| timeout.as_secs()),
        internal_traffic_policy: rules::policy_name(service.internal_policy).to_owned(),
        families: Family::BOTH.into_iter().filter_map(in_family).collect(),
        external: service.is_external().then(|| external_view(service, &servers)),
        notes: notes(plan, service, scheduler, servers),
        endpoints: service
            .endpoints
            .iter()
            .map(|each| endpoint_reason(service, each, ejection(&servers, each)))
            .collect(),
    }
}

fn external_view(service: &ServicePort, servers: &Servers<'_>) -> ExternalView {
    let in_family = |family| {
        service.cluster_ip(family)?;
        let disposition = service.disposition_by(service.external_policy, family);
        Some(ExternalFamilyView {
            family: family.to_string(),
            disposition: rules::disposition_name(disposition).to_owned(),
            reason: disposition_reason(service, family, Way::External, servers),
        })
    };
    ExternalView {
        node_port: service.node_port,
        load_balancer_ips: service.load_balancer_ips.clone(),
        external_ips: service.external_ips.clone(),
        load_balancer_source_ranges: service
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
        health_check_node_port: service.health_check_node_port,
        external_traffic_policy: rules::policy_name(service.external_policy).to_owned(),
        families: Family::BOTH.into_iter().filter_map(in_family).collect(),
    }
}

fn disposition_reason(
    service: &ServicePort,
    family: Family,
    way: Way,
    servers: &Servers<'_>,
) -> String {
    let policy = way.policy(service);
    let all = service.endpoints(family).count();
    let used = service.endpoints(family).filter(|endpoint| endpoint.usable(policy)).count();
    let ejected = service.endpoints(family).filter(|endpoint| takes_new(service, endpoint, way));
    let ejected = ejected.filter(|endpoint| ejection(servers, endpoint).is_some()).count();
    match service.disposition_by(policy, family) {
        Disposition::Balance if ejected > 0 => {
            format!("{used} of {all} endpoints are used, but for {ejected} that fail")
        }
        Disposition::Balance => format!("{used} of {all} endpoints are used"),
        Disposition::Reject if all == 0 => "there is no endpoint".to_owned(),
        Disposition::Reject => format!("none of {all} endpoints can take traffic"),
        Disposition::Drop => way.dropped().to_owned(),
    }
}

/// By what the table says, new connections and streams go there.
fn takes_new(service: &ServicePort, endpoint: &Endpoint, way: Way) -> bool {
    endpoint.usable(way.policy(service)) && endpoint.weight > 0
}

/// How an endpoint is ejected, if it is.
fn ejection(servers: &Servers<'_>, endpoint: &Endpoint) -> Option<Ejected> {
    let family = Family::of(endpoint.address.ip());
    let server = servers.iter().flatten().find(|server| server.family() == family)?;
    let by_address = server.targets();
    let index = by_address.binary_search_by_key(&endpoint.address, |target| target.address());
    by_address[index.ok()?].ejection(Instant::now())
}

fn endpoint_reason(
    service: &ServicePort,
    endpoint: &Endpoint,
    ejected: Option<Ejected>,
) -> EndpointReason {
    let judged = |way: Way| {
        let takes_new = takes_new(service, endpoint, way);
        let (reason, rule) = match ejected.filter(|_| takes_new) {
            Some(ejected) => rules::ejected(ejected),
            None => rules::endpoint(service, endpoint, way),
        };
        (takes_new && ejected.is_none(), reason, rule.to_owned())
    };
    let (used, reason, rule) = judged(Way::Internal);
    let from_outside = || {
        let (used, reason, rule) = judged(Way::External);
        OutsideReason { used, reason, rule }
    };
    EndpointReason {
        address: endpoint.address,
        node: endpoint.node.as_deref().map(str::to_owned),
        zone: endpoint.zone.as_deref().map(str::to_owned),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        weight: endpoint.weight,
        used,
        reason,
        rule,
        from_outside: service.is_external().then(from_outside),
    }
}

fn notes(
    plan: &Plan,
    service: &ServicePort,
    scheduler: Option<SchedulerName>,
    servers: Servers<'_>,
) -> Vec<String> {
    let mut notes = Vec::new();
    if service.name.protocol != Protocol::Tcp {
        notes.push(format!(
            "{} does not pass through here: the kernel balances it, by kube-proxy's rules or, in \
             its place, by ours",
            service.name.protocol
        ));
    }
    if let (Some(asked), Some(in_force)) = (service.scheduler.as_deref(), scheduler) {
        match asked.parse::<SchedulerName>() {
            Err(_) => notes.push(format!("no scheduler is called {asked:?}, {in_force} is used")),
            Ok(name) if name.degenerate() => notes.push(format!(
                "{name} chooses by the destination, of which a Service has one: rr is used"
            )),
            Ok(_) => {}
        }
    }
    if service.affinity.is_some() {
        notes.push(
            "sessionAffinity is ClientIP: all connections and streams of a client go to one \
             endpoint"
                .to_owned(),
        );
    }
    let tls_h2: u64 = servers.iter().flatten().map(|server| server.stats().tls_h2.get()).sum();
    if tls_h2 > 0 {
        notes.push(format!(
            "{tls_h2} TLS connections offered h2, probably gRPC: what is encrypted is balanced by \
             connection"
        ));
    }
    for &cluster_ip in &service.cluster_ips {
        let owner = plan.snapshot().lookup(cluster_ip, service.port, service.name.protocol);
        if let Some(owner) = owner.filter(|owner| owner.name != service.name) {
            let port = service.port;
            notes
                .push(format!("{cluster_ip} port {port} is {}'s, which claims it too", owner.name));
        }
    }
    notes
}

/// Services whose name is like the wanted one, or is the same in another namespace.
fn near(plan: &Plan, wanted: &ServiceName) -> Vec<String> {
    let names = plan.snapshot().service_names().chain(plan.snapshot().unserved().keys());
    let likeness = |name: &ServiceName| {
        let of_name = strsim::jaro_winkler(&name.name, &wanted.name);
        let of_namespace = strsim::jaro_winkler(&name.namespace, &wanted.namespace);
        // The name says more; the namespace decides between equals.
        (of_name >= NEAR).then_some(of_name + of_namespace / 10.0)
    };
    let mut near: Vec<_> = names.filter_map(|name| Some((likeness(name)?, name))).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    near.into_iter().take(MAX_NEAR).map(|(_, name)| name.to_string()).collect()
}

#[cfg(test)]
mod tests;
