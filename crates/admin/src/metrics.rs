//! What `/metrics` shows, and how it is read together.
//!
//! Nothing is kept here: a scrape reads the counters of the current [`Plan`], of [`NodeMetrics`],
//! of [`Health`] and of `/proc/self` and writes them down, so that the traffic path pays for
//! atomics only. Every name is in [`catalogue`], and every name of the catalogue in
//! docs/metrics.md, with the bound on the number of series.

pub mod catalogue;
mod node;
mod process;
mod slis;
mod source;
mod traffic;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet,
};
use prometheus_client::registry::Registry;
use streamvs_balance::Plan;

use crate::Health;
use catalogue::Metric;
pub use node::{NodeMetrics, Refusal, Sync};
pub use process::anonymous_bytes;
pub use slis::slis;
pub use source::SourceMetrics;

/// The `Content-Type` of [`scrape`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes everything down as OpenMetrics 1.0 text. Takes time and memory in proportion to the
/// number of endpoints: keep it off threads that must answer soon.
pub fn scrape(plan: Arc<Plan>, health: Arc<Health>, node: Arc<NodeMetrics>) -> String {
    let mut registry = Registry::default();
    let generation = plan.generation();
    let no_local_endpoints = node::no_local_endpoints(&plan);
    registry.register_collector(Box::new(traffic::Traffic { plan }));
    registry.register_collector(Box::new(node::Node {
        generation,
        no_local_endpoints,
        health,
        metrics: node,
    }));
    registry.register_collector(Box::new(process::Process::read()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a String does not fail, nor does a collector of ours");
    text
}

/// Begins a metric: writes its HELP and TYPE lines.
fn begin<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    metric: &'e Metric,
) -> Result<Samples<'e>, fmt::Error> {
    Ok(Samples(encoder.encode_descriptor(metric.stem(), metric.help, None, metric.kind)?))
}

/// Writes the samples of one metric.
struct Samples<'e>(MetricEncoder<'e>);

impl<'e> Samples<'e> {
    /// The sample with these labels. Each set of labels may come once.
    fn at<'s>(&'s mut self, labels: &'s impl EncodeLabelSet) -> Result<Sample<'s>, fmt::Error> {
        Ok(Sample(self.0.encode_family(labels)?))
    }

    /// The only sample of a metric without labels.
    fn only(self) -> Sample<'e> {
        Sample(self.0)
    }
}

/// Writes one sample.
struct Sample<'s>(MetricEncoder<'s>);

impl Sample<'_> {
    fn counter(mut self, value: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauge(mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }

    /// The buckets are not cumulative, and the last is infinite.
    fn histogram(mut self, sum: f64, count: u64, buckets: &[(f64, u64)]) -> fmt::Result {
        self.0.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }

    fn info(mut self, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.0.encode_info(labels)
    }
}

#[cfg(test)]
mod tests;
