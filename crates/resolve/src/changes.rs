//! What came in between two tables: counts and times for the metrics.

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use streamvs_table::Family;

/// The EndpointSlice controller writes here when the change of a pod or Service happened that made
/// it write the slice. RFC 3339 with nanoseconds.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Most times kept between two tables. A node that learns a cluster of 250,000 endpoints in slices
/// of 100 is below it by far; more than that at once says nothing new to a histogram.
const MAX_TRIGGERS: usize = 16_384;

/// What changed the facts since the table before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Service objects that came, changed or went.
    pub services: u64,
    /// EndpointSlices that did.
    pub slices: u64,
    /// Of the slices that came or changed, when what made them change happened, as far as they
    /// say it. At most 16,384.
    pub triggers: Vec<Trigger>,
}

/// When something happened that a slice tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The slice's family.
    pub family: Family,
    /// By the control plane's clock.
    pub at: Timestamp,
}

impl Changes {
    /// Notes a slice that came or changed.
    pub(crate) fn slice(&mut self, slice: &EndpointSlice) {
        self.slices += 1;
        if self.triggers.len() < MAX_TRIGGERS {
            self.triggers.extend(trigger(slice));
        }
    }
}

fn trigger(slice: &EndpointSlice) -> Option<Trigger> {
    let at = slice.metadata.annotations.as_ref()?.get(TRIGGER)?.parse().ok()?;
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    Some(Trigger { family, at })
}
