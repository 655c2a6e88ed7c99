//! One Service's ServicePorts out of its facts and its slices.

use std::collections::BTreeMap;
use std::sync::Arc;

use streamvs_table::{
    Disposition, Endpoint, Family, PerFamily, PerPolicy, Reasons, ServiceName, ServicePort,
    ServicePortName, TopologyOutcome, TrafficPolicy,
};

use crate::service::{PortFacts, ServiceFacts};
use crate::slices::{self, Candidate, SliceFacts};
use crate::usability::{Decision, disposition};

/// Builds the ServicePorts of a Service, sorted by name. Those that are as in `previous` (sorted
/// too) are the same `Arc`.
///
/// Endpoints of a family in which the Service has no ClusterIP are left out: nothing could reach
/// them.
pub(crate) fn service_ports(
    name: &ServiceName,
    facts: &ServiceFacts,
    slices: &BTreeMap<Arc<str>, SliceFacts>,
    zone: Option<&str>,
    previous: &[Arc<ServicePort>],
) -> Vec<Arc<ServicePort>> {
    facts
        .ports
        .iter()
        .map(|port| {
            let built = service_port(name, facts, port, slices, zone);
            let known = previous.binary_search_by(|known| known.name.cmp(&built.name));
            match known.map(|index| &previous[index]) {
                Ok(known) if **known == built => Arc::clone(known),
                _ => Arc::new(built),
            }
        })
        .collect()
}

fn service_port(
    name: &ServiceName,
    facts: &ServiceFacts,
    port: &PortFacts,
    slices: &BTreeMap<Arc<str>, SliceFacts>,
    zone: Option<&str>,
) -> ServicePort {
    let families = PerFamily::from_fn(|family| {
        facts.cluster_ips.iter().any(|cluster_ip| Family::of(*cluster_ip) == family)
    });
    let candidates = slices::join(slices.values(), &port.name, port.protocol, families);
    // Sorted by address, so IPv4 comes first.
    let ipv6_from = candidates.partition_point(|candidate| candidate.address.is_ipv4());
    let (v4, v6) = candidates.split_at(ipv6_from);
    let mut endpoints = Vec::with_capacity(candidates.len());
    let mut reasons = Reasons { protocol_hint: port.hint_source, topology: PerFamily::default() };
    let by_family = PerFamily::from_fn(|family| {
        let candidates = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let (by_family, topology) = decide(candidates, zone, &mut endpoints);
        *reasons.topology.get_mut(family) = topology;
        by_family
    });
    let mut service = ServicePort {
        name: ServicePortName {
            service: name.clone(),
            port: Arc::clone(&port.name),
            protocol: port.protocol,
        },
        port: port.port,
        node_port: port.node_port,
        cluster_ips: facts.cluster_ips.clone(),
        load_balancer_ips: facts.load_balancer_ips.clone(),
        external_ips: facts.external_ips.clone(),
        source_ranges: facts.source_ranges.clone(),
        health_check_node_port: facts.health_check_node_port,
        app_protocol: port.app_protocol.clone(),
        protocol_hint: port.hint,
        scheduler: facts.scheduler.clone(),
        max_age: facts.max_age,
        affinity: facts.affinity,
        internal_policy: facts.internal_policy,
        external_policy: facts.external_policy,
        endpoints,
        disposition: PerPolicy::from_fn(|policy| {
            PerFamily::from_fn(|family| *by_family.get(family).get(policy))
        }),
        reasons,
    };
    if !service.uses(TrafficPolicy::Cluster) {
        // Hints are not asked for.
        service.reasons.topology = PerFamily::default();
    }
    service
}

/// Decides over one family by each policy, appends its endpoints and says what its hints came to.
fn decide(
    candidates: &[Candidate<'_>],
    zone: Option<&str>,
    endpoints: &mut Vec<Endpoint>,
) -> (PerPolicy<Disposition>, TopologyOutcome) {
    let decision = PerPolicy::from_fn(|policy| Decision::new(candidates, policy, zone));
    let mut any_usable = PerPolicy::both(false);
    for candidate in candidates {
        let usability = PerPolicy::from_fn(|policy| {
            let usability = decision.get(policy).of(candidate);
            *any_usable.get_mut(policy) |= usability.usable();
            usability
        });
        endpoints.push(Endpoint {
            address: candidate.address,
            node: candidate.facts.node.clone(),
            zone: candidate.facts.zone.clone(),
            ready: candidate.facts.conditions.ready,
            serving: candidate.facts.conditions.serving,
            terminating: candidate.facts.conditions.terminating,
            local: candidate.facts.local,
            weight: candidate.weight,
            usability,
        });
    }
    (disposition(any_usable), decision.cluster.topology_outcome(candidates))
}
