//! `/metrics/slis`: how often the agent was found well, for those who keep a service level.
//!
//! Source: KEP-3466 (component health SLIs). kube-proxy counts there that its metrics port answers
//! (`ping`); what is asked here are the probes themselves.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

use super::{begin, catalogue};
use crate::Health;

/// The only check there is, by name.
const CHECK: &str = "streamvs";

/// Writes it down as OpenMetrics 1.0 text. Empty of samples before the first probe.
pub fn slis(health: Arc<Health>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Slis { health }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing to a String does not fail, nor does a collector of ours");
    text
}

#[derive(Debug)]
struct Slis {
    health: Arc<Health>,
}

impl Collector for Slis {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let probes = [("healthz", &self.health.healthz), ("livez", &self.health.livez)];
        let mut last = begin(encoder, &catalogue::HEALTHCHECK)?;
        for (probe, answers) in probes {
            if let Some(well) = answers.last_was_well() {
                last.at(&[("name", CHECK), ("type", probe)])?.gauge(u64::from(well))?;
            }
        }
        let mut all = begin(encoder, &catalogue::HEALTHCHECKS)?;
        for (probe, answers) in probes {
            for ((_, count), status) in answers.read().into_iter().zip(["success", "error"]) {
                if count > 0 {
                    let labels = [("name", CHECK), ("type", probe), ("status", status)];
                    all.at(&labels)?.counter(count)?;
                }
            }
        }
        Ok(())
    }
}
