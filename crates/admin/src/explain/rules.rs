//! The rules in words, each with the field and the KEP it comes from.

use streamvs_balance::{Ejected, Fault};
use streamvs_table::{
    Disposition, Endpoint, HintSource, ProtocolHint, ServicePort, TopologyOutcome, TrafficPolicy,
    Usability,
};

/// Where a connection comes from and goes to, which decides whose policy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the ClusterIP.
    Internal,
    /// From outside, to one of the other addresses.
    External,
}

impl Way {
    pub(super) fn policy(self, service: &ServicePort) -> TrafficPolicy {
        match self {
            Self::Internal => service.internal_policy,
            Self::External => service.external_policy,
        }
    }

    /// What says that only this node's endpoints count.
    fn local_rule(self) -> &'static str {
        match self {
            Self::Internal => "spec.internalTrafficPolicy, KEP-2086",
            Self::External => "spec.externalTrafficPolicy",
        }
    }

    /// Why new connections are dropped.
    pub(super) fn dropped(self) -> &'static str {
        match self {
            Self::Internal => {
                "internalTrafficPolicy is Local, and only other nodes have endpoints (KEP-2086)"
            }
            Self::External => "externalTrafficPolicy is Local, and only other nodes have endpoints",
        }
    }
}

/// Why an endpoint is used or not, and what says so.
pub(super) fn endpoint(
    service: &ServicePort,
    endpoint: &Endpoint,
    way: Way,
) -> (String, &'static str) {
    let policy = way.policy(service);
    if endpoint.usable(policy) && endpoint.weight == 0 {
        return ("its weight is 0".to_owned(), "annotation streamvs.io/weight");
    }
    let not_ready = || match (endpoint.terminating, endpoint.serving) {
        (true, false) => "terminating, and no longer serving".to_owned(),
        _ => "not ready".to_owned(),
    };
    match *endpoint.usability.get(policy) {
        Usability::NotReady => (not_ready(), "conditions.ready, KEP-1669"),
        usability => (usability.to_string(), source(usability, way)),
    }
}

/// Why an endpoint that might be used is passed over for a time, and what says so.
pub(super) fn ejected(ejected: Ejected) -> (String, &'static str) {
    let fault = match ejected.fault {
        Fault::DialFailed => "could not be reached",
        Fault::LostBeforeReply => "ended a connection before it had replied",
        Fault::Unavailable => "answered UNAVAILABLE",
    };
    let seconds = ejected.remaining.as_secs_f64();
    let reason = format!("ejected for {seconds:.0} s more, as it failed in a row; last it {fault}");
    (reason, "--outlier-detection")
}

fn source(usability: Usability, way: Way) -> &'static str {
    match usability {
        Usability::Ready => "conditions.ready, KEP-752",
        Usability::SameNode | Usability::HintedToOtherNode => "hints.forNodes, KEP-3015",
        Usability::SameZone | Usability::HintedToOtherZone => "hints.forZones, KEP-2433",
        Usability::TerminatingFallback => "conditions.serving and terminating, KEP-1669",
        Usability::NotReady | Usability::Terminating => "conditions.terminating, KEP-1669",
        Usability::NotLocal => way.local_rule(),
    }
}

pub(super) fn topology(outcome: TopologyOutcome) -> String {
    match outcome {
        TopologyOutcome::NoHints => "no ready endpoint has a hint that is asked for".to_owned(),
        TopologyOutcome::SameNode => "endpoints hinted to this node are used (KEP-3015)".to_owned(),
        TopologyOutcome::SameZone => {
            "endpoints hinted to this node's zone are used (KEP-2433)".to_owned()
        }
        TopologyOutcome::Incomplete { without_hint } => {
            format!("hints are ignored, as {without_hint} has none (KEP-2433)")
        }
        TopologyOutcome::NodeWithoutZone => {
            "hints are ignored, as this node has no label topology.kubernetes.io/zone".to_owned()
        }
        TopologyOutcome::NoneForThisNode => {
            "hints are ignored, as none names this node or its zone (KEP-2433)".to_owned()
        }
    }
}

pub(super) fn disposition_name(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Balance => "balance",
        Disposition::Reject => "reject",
        Disposition::Drop => "drop",
    }
}

pub(super) fn policy_name(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

pub(super) fn hint_name(hint: ProtocolHint) -> &'static str {
    match hint {
        ProtocolHint::Auto => "auto",
        ProtocolHint::H2c => "h2c",
        ProtocolHint::Tcp => "tcp",
    }
}

pub(super) fn hint_source(service: &ServicePort) -> String {
    match service.reasons.protocol_hint {
        HintSource::Nothing => "nothing says otherwise".to_owned(),
        HintSource::Annotation => "annotation streamvs.io/protocol".to_owned(),
        HintSource::AppProtocol => {
            format!(
                "appProtocol {} (KEP-3726)",
                service.app_protocol.as_deref().unwrap_or_default()
            )
        }
        HintSource::PortName => format!("the port's name {}", service.name.port),
    }
}
