//! What was counted of ServicePorts and endpoints, read from the current [`Plan`].
//!
//! A node knows every ServicePort and endpoint of its cluster and carries traffic of few: what was
//! never used is not listed, and what stands for an event (a status, a reason) is listed from the
//! first such event on.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};
use streamvs_balance::{
    ConnectFailure, ConnectionLimit, Counter, Fault, Histogram, HistogramSnapshot, Plan,
    ReplayReason, ServiceStats, StreamLimit, TargetStats, Verdict, VirtualServer,
};
use streamvs_table::ServicePort;

use super::{Samples, begin, catalogue};

/// The traffic counters of one Plan.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) plan: Arc<Plan>,
}

/// A ServicePort that saw traffic, both families together, with its endpoints that did.
struct Used<'p> {
    labels: ServiceLabels<'p>,
    stats: Vec<&'p ServiceStats>,
    targets: Vec<UsedTarget<'p>>,
}

struct UsedTarget<'p> {
    address: String,
    active_connections: u32,
    active_streams: u32,
    is_ejected: bool,
    stats: &'p TargetStats,
}

/// `namespace`, `service` and `port`.
#[derive(Clone, Copy)]
struct ServiceLabels<'p> {
    namespace: &'p str,
    service: &'p str,
    port: Port<'p>,
}

/// A port's name, or its number where it has none. No two ports of a Service share it: a port
/// without a name is the only one.
#[derive(Clone, Copy)]
enum Port<'p> {
    Name(&'p str),
    Number(u16),
}

/// Those of a ServicePort and `endpoint`.
type EndpointLabels<'p> = (ServiceLabels<'p>, [(&'static str, &'p str); 1]);

impl<'p> ServiceLabels<'p> {
    fn of(service: &'p ServicePort) -> Self {
        let name = &service.name;
        let port =
            if name.port.is_empty() { Port::Number(service.port) } else { Port::Name(&name.port) };
        Self { namespace: &name.service.namespace, service: &name.service.name, port }
    }
}

impl EncodeLabelSet for ServiceLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("namespace", self.namespace), ("service", self.service)].encode(encoder)?;
        [("port", self.port)].encode(encoder)
    }
}

impl EncodeLabelValue for Port<'_> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.encode(encoder),
            Self::Number(number) => number.encode(encoder),
        }
    }
}

impl Used<'_> {
    fn total(&self, of: impl Fn(&ServiceStats) -> u64) -> u64 {
        self.stats.iter().map(|stats| of(stats)).sum()
    }

    fn histogram(&self, of: impl Fn(&ServiceStats) -> &Histogram) -> HistogramSnapshot {
        let mut snapshots = self.stats.iter().map(|stats| of(stats).snapshot());
        let mut total = snapshots.next().expect("a used ServicePort has at least one family");
        for other in snapshots {
            total.sum_seconds += other.sum_seconds;
            total.count += other.count;
            for (bucket, more) in total.buckets.iter_mut().zip(other.buckets) {
                bucket.1 += more.1;
            }
        }
        total
    }
}

/// The used ServicePorts in name order.
fn used(plan: &Plan) -> Vec<Used<'_>> {
    let now = Instant::now();
    let mut all: Vec<Used<'_>> = Vec::new();
    let mut last = None;
    for server in plan.virtual_servers() {
        let Some(targets) = used_targets(server, now) else {
            continue;
        };
        let name = &server.service().name;
        // Both families of a ServicePort follow each other.
        if last != Some(name) {
            last = Some(name);
            let labels = ServiceLabels::of(server.service());
            all.push(Used { labels, stats: Vec::new(), targets: Vec::new() });
        }
        let group = all.last_mut().expect("one was just pushed");
        group.stats.push(server.stats());
        group.targets.extend(targets);
    }
    all
}

/// The targets with traffic of a ServicePort with traffic; none of one without.
fn used_targets(server: &VirtualServer, now: Instant) -> Option<Vec<UsedTarget<'_>>> {
    let stats = server.stats();
    let targets: Vec<_> = server
        .targets()
        .iter()
        .filter_map(|target| {
            Some(UsedTarget {
                stats: target.recorded_stats()?,
                address: target.address().to_string(),
                active_connections: target.active_connections(),
                active_streams: target.active_streams(),
                is_ejected: target.ejection(now).is_some(),
            })
        })
        .collect();
    let any = |counters: &[Counter]| counters.iter().any(|c| c.get() > 0);
    let counted = any(&stats.connections)
        || any(&stats.replays)
        || stats.active_connections.get() > 0
        || stats.no_endpoint.get() > 0;
    (counted || !targets.is_empty()).then_some(targets)
}

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let used = used(&self.plan);
        services(encoder, &used)?;
        endpoints(encoder, &used)
    }
}

fn services(encoder: &mut DescriptorEncoder<'_>, used: &[Used<'_>]) -> fmt::Result {
    let mut samples = begin(encoder, &catalogue::CONNECTIONS)?;
    for of in used {
        for verdict in Verdict::ALL {
            let count = of.total(|stats| stats.connections[verdict.index()].get());
            counter_if_any(&mut samples, of, ("protocol", verdict.as_str()), count)?;
        }
    }
    let mut samples = begin(encoder, &catalogue::ACTIVE_CONNECTIONS)?;
    for of in used {
        let count = of.total(|stats| stats.active_connections.get());
        samples.at(&of.labels)?.gauge(count)?;
    }
    let mut samples = begin(encoder, &catalogue::EJECTED_ENDPOINTS)?;
    for of in used {
        let count = of.targets.iter().filter(|target| target.is_ejected).count();
        samples.at(&of.labels)?.gauge(count as u64)?;
    }
    let mut samples = begin(encoder, &catalogue::REPLAYS)?;
    for of in used {
        for reason in ReplayReason::ALL {
            let count = of.total(|stats| stats.replays[reason.index()].get());
            counter_if_any(&mut samples, of, ("reason", reason.as_str()), count)?;
        }
    }
    let mut samples = begin(encoder, &catalogue::REPLAY_BUDGET_EXHAUSTED)?;
    for of in used {
        samples.at(&of.labels)?.counter(of.total(|stats| stats.replays_refused.get()))?;
    }
    let mut samples = begin(encoder, &catalogue::DETECT)?;
    for of in used {
        for verdict in Verdict::ALL {
            let snapshot = of.histogram(|stats| &stats.detect[verdict.index()]);
            let labels = (of.labels, [("verdict", verdict.as_str())]);
            histogram_if_any(&mut samples, &labels, &snapshot)?;
        }
    }
    let mut samples = begin(encoder, &catalogue::BYTES)?;
    for of in used {
        let up = of.total(|stats| stats.bytes_to_upstream.get());
        let down = of.total(|stats| stats.bytes_to_downstream.get());
        counter_if_any(&mut samples, of, ("direction", "to_upstream"), up)?;
        counter_if_any(&mut samples, of, ("direction", "to_downstream"), down)?;
    }
    let mut samples = begin(encoder, &catalogue::NO_ENDPOINT)?;
    for of in used {
        samples.at(&of.labels)?.counter(of.total(|stats| stats.no_endpoint.get()))?;
    }
    let mut samples = begin(encoder, &catalogue::TLS_H2)?;
    for of in used {
        samples.at(&of.labels)?.counter(of.total(|stats| stats.tls_h2.get()))?;
    }
    let mut samples = begin(encoder, &catalogue::LIMITED_STREAMS)?;
    for of in used {
        for reason in StreamLimit::ALL {
            let count = of.total(|stats| stats.limited_streams[reason.index()].get());
            counter_if_any(&mut samples, of, ("reason", reason.as_str()), count)?;
        }
    }
    let mut samples = begin(encoder, &catalogue::LIMITED_CONNECTIONS)?;
    for of in used {
        for reason in ConnectionLimit::ALL {
            let count = of.total(|stats| stats.limited_connections[reason.index()].get());
            counter_if_any(&mut samples, of, ("reason", reason.as_str()), count)?;
        }
    }
    let mut samples = begin(encoder, &catalogue::LAST_STREAM_AFTER_REMOVAL)?;
    for of in used {
        let snapshot = of.histogram(|stats| &stats.last_stream_after_removal);
        histogram_if_any(&mut samples, &of.labels, &snapshot)?;
    }
    Ok(())
}

fn endpoints(encoder: &mut DescriptorEncoder<'_>, used: &[Used<'_>]) -> fmt::Result {
    /// Writes one metric of every used endpoint.
    fn each(
        mut samples: Samples<'_>,
        used: &[Used<'_>],
        mut write: impl FnMut(&mut Samples<'_>, &EndpointLabels<'_>, &UsedTarget<'_>) -> fmt::Result,
    ) -> fmt::Result {
        for of in used {
            for target in &of.targets {
                let labels = (of.labels, [("endpoint", target.address.as_str())]);
                write(&mut samples, &labels, target)?;
            }
        }
        Ok(())
    }

    each(begin(encoder, &catalogue::STREAMS)?, used, |samples, labels, target| {
        samples.at(labels)?.counter(target.stats.streams.get())
    })?;
    each(begin(encoder, &catalogue::ACTIVE_STREAMS)?, used, |samples, labels, target| {
        samples.at(labels)?.gauge(target.active_streams)
    })?;
    each(begin(encoder, &catalogue::OLD_STREAMS)?, used, |samples, labels, target| {
        samples.at(labels)?.gauge(target.stats.old_streams.get())
    })?;
    each(begin(encoder, &catalogue::ENDPOINT_CONNECTIONS)?, used, |samples, labels, target| {
        samples.at(labels)?.counter(target.stats.connections.get())
    })?;
    let active = begin(encoder, &catalogue::ENDPOINT_ACTIVE_CONNECTIONS)?;
    each(active, used, |samples, labels, target| {
        samples.at(labels)?.gauge(target.active_connections)
    })?;
    each(begin(encoder, &catalogue::GRPC_RESPONSES)?, used, |samples, labels, target| {
        let responses = &target.stats.grpc_responses;
        for (status, count) in responses.iter().enumerate().filter(|(_, count)| count.get() > 0) {
            let last = status == responses.len() - 1;
            let status = if last { "other".to_owned() } else { status.to_string() };
            let labels = (*labels, [("grpc_status", status)]);
            samples.at(&labels)?.counter(count.get())?;
        }
        Ok(())
    })?;
    each(begin(encoder, &catalogue::STREAM_DURATION)?, used, |samples, labels, target| {
        histogram_if_any(samples, labels, &target.stats.stream_duration.snapshot())
    })?;
    each(begin(encoder, &catalogue::CONNECT_FAILURES)?, used, |samples, labels, target| {
        let reasons = ConnectFailure::ALL.map(ConnectFailure::as_str);
        by_reason(samples, labels, &reasons, &target.stats.failures)
    })?;
    each(begin(encoder, &catalogue::ENDPOINT_FAULTS)?, used, |samples, labels, target| {
        let reasons = Fault::ALL.map(Fault::as_str);
        by_reason(samples, labels, &reasons, &target.stats.faults)
    })?;
    each(begin(encoder, &catalogue::ENDPOINT_EJECTIONS)?, used, |samples, labels, target| {
        match target.stats.ejections.get() {
            0 => Ok(()),
            count => samples.at(labels)?.counter(count),
        }
    })
}

/// Those of an endpoint's counters that are above 0, each under its reason.
fn by_reason(
    samples: &mut Samples<'_>,
    labels: &EndpointLabels<'_>,
    reasons: &[&'static str],
    counters: &[Counter],
) -> fmt::Result {
    for (reason, count) in reasons.iter().zip(counters).filter(|(_, count)| count.get() > 0) {
        samples.at(&(*labels, [("reason", *reason)]))?.counter(count.get())?;
    }
    Ok(())
}

fn counter_if_any(
    samples: &mut Samples<'_>,
    of: &Used<'_>,
    label: (&'static str, &'static str),
    count: u64,
) -> fmt::Result {
    if count == 0 { Ok(()) } else { samples.at(&(of.labels, [label]))?.counter(count) }
}

fn histogram_if_any(
    samples: &mut Samples<'_>,
    labels: &impl EncodeLabelSet,
    snapshot: &HistogramSnapshot,
) -> fmt::Result {
    let HistogramSnapshot { sum_seconds, count, buckets } = snapshot;
    if *count == 0 { Ok(()) } else { samples.at(labels)?.histogram(*sum_seconds, *count, buckets) }
}
