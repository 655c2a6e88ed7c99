//! Which Services count, and what of them is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use streamvs_table::{
    Family, HintSource, MaxAge, PerFamily, Protocol, ProtocolHint, ServiceName, TrafficPolicy,
    Unserved,
};

use crate::app_protocol;
use crate::duration::go_duration;
use crate::external;
use crate::notice::{ClusterIpFault, Notice, ObjectName, PortFault, excerpt};

/// Hands a Service to the proxy of that name instead of kube-proxy (KEP-2447).
const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const SCHEDULER: &str = "streamvs.io/scheduler";
const PROTOCOL: &str = "streamvs.io/protocol";
const MAX_STREAM_AGE: &str = "streamvs.io/max-stream-age";
const MAX_CONNECTION_AGE: &str = "streamvs.io/max-connection-age";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not written: three hours.
const DEFAULT_AFFINITY: Duration = Duration::from_secs(10_800);
/// The API server accepts a day at most.
const MAX_AFFINITY_SECONDS: i32 = 86_400;

/// The least age at which anything is ended: they are looked at once a second.
pub const LEAST_AGE: Duration = Duration::from_secs(1);

/// The compact form of a Service that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    /// One or two, at most one of each family, in the order written.
    pub(crate) cluster_ips: Vec<IpAddr>,
    /// Of the families of the ClusterIPs, as all of these.
    pub(crate) load_balancer_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) source_ranges: Vec<IpNet>,
    pub(crate) health_check_node_port: Option<u16>,
    pub(crate) affinity: Option<Duration>,
    pub(crate) internal_policy: TrafficPolicy,
    pub(crate) external_policy: TrafficPolicy,
    pub(crate) scheduler: Option<Arc<str>>,
    pub(crate) max_age: MaxAge,
    /// Sorted by name and protocol, unique in both together.
    pub(crate) ports: Vec<PortFacts>,
}

/// One port of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFacts {
    /// Empty where the port has no name.
    pub(crate) name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) node_port: Option<u16>,
    pub(crate) app_protocol: Option<Arc<str>>,
    pub(crate) hint: ProtocolHint,
    pub(crate) hint_source: HintSource,
}

/// Reads a Service.
///
/// # Errors
/// Why it is not ours.
pub(crate) fn read(
    name: &ServiceName,
    service: &Service,
    proxy_name: Option<&str>,
    allow_external_ips: &[IpNet],
    notices: &mut Vec<Notice>,
) -> Result<ServiceFacts, Unserved> {
    let spec = service.spec.as_ref().ok_or(Unserved::NoClusterIp)?;
    let label = service.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_PROXY_NAME));
    if label.map(String::as_str) != proxy_name {
        return Err(match label {
            Some(label) => Unserved::OtherProxy { label: excerpt(label) },
            None => Unserved::NoProxyLabel,
        });
    }
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(Unserved::ExternalName);
    }
    let cluster_ips = cluster_ips(name, spec, notices)?;
    let annotations = service.metadata.annotations.as_ref();
    let hint = protocol_annotation(name, annotations, notices);
    let families = PerFamily::from_fn(|family| {
        cluster_ips.iter().any(|cluster_ip| Family::of(*cluster_ip) == family)
    });
    let external_policy = external_policy(name, spec, notices);
    Ok(ServiceFacts {
        cluster_ips,
        load_balancer_ips: external::load_balancer_ips(name, service, families, notices),
        external_ips: external::external_ips(name, spec, families, allow_external_ips, notices),
        source_ranges: external::source_ranges(name, spec, notices),
        health_check_node_port: external::health_check_node_port(spec, external_policy),
        affinity: affinity(name, spec, notices),
        internal_policy: internal_policy(name, spec, notices),
        external_policy,
        scheduler: annotations
            .and_then(|annotations| annotations.get(SCHEDULER))
            .map(|scheduler| scheduler.as_str().into()),
        max_age: MaxAge {
            stream: age_annotation(name, annotations, MAX_STREAM_AGE, notices),
            connection: age_annotation(name, annotations, MAX_CONNECTION_AGE, notices),
        },
        ports: ports(name, spec, hint, notices),
    })
}

/// `clusterIPs`, or `clusterIP` where the list is missing (dual stack: KEP-563).
///
/// # Errors
/// It is headless, or none can be used.
fn cluster_ips(
    name: &ServiceName,
    spec: &ServiceSpec,
    notices: &mut Vec<Notice>,
) -> Result<Vec<IpAddr>, Unserved> {
    let single = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let written: Vec<&str> = if listed.is_empty() {
        single.into_iter().collect()
    } else {
        listed.iter().map(String::as_str).filter(|ip| !ip.is_empty()).collect()
    };
    if single == Some("None") || written.first() == Some(&"None") {
        return Err(Unserved::Headless);
    }
    if written.is_empty() {
        notices.push(Notice::NoClusterIp { service: name.clone() });
        return Err(Unserved::NoClusterIp);
    }
    let mut cluster_ips = Vec::with_capacity(written.len().min(2));
    for value in written {
        match cluster_ip(value, &cluster_ips) {
            Ok(ip) => cluster_ips.push(ip),
            Err(fault) => notices.push(Notice::BadClusterIp {
                service: name.clone(),
                value: excerpt(value),
                fault,
            }),
        }
    }
    if cluster_ips.is_empty() { Err(Unserved::NoClusterIp) } else { Ok(cluster_ips) }
}

fn cluster_ip(value: &str, earlier: &[IpAddr]) -> Result<IpAddr, ClusterIpFault> {
    let ip: IpAddr = value.parse().map_err(|_| ClusterIpFault::NotAnAddress)?;
    let ip = ip.to_canonical();
    if !is_unicast(ip) {
        return Err(ClusterIpFault::NotUnicast);
    }
    if earlier.iter().any(|earlier| Family::of(*earlier) == Family::of(ip)) {
        return Err(ClusterIpFault::SecondOfFamily);
    }
    Ok(ip)
}

/// Something one can connect to. Loopback passes: files may say it, and labs do.
pub(crate) fn is_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

fn protocol_annotation(
    name: &ServiceName,
    annotations: Option<&BTreeMap<String, String>>,
    notices: &mut Vec<Notice>,
) -> Option<ProtocolHint> {
    let value = annotations?.get(PROTOCOL)?;
    let hint = app_protocol::from_annotation(value);
    if hint.is_none() {
        notices.push(Notice::BadAnnotation {
            object: ObjectName::Service(name.clone()),
            annotation: PROTOCOL,
            value: excerpt(value),
            accepted: "auto, h2c or tcp",
        });
    }
    hint
}

/// A duration, as flags have it.
fn age_annotation(
    name: &ServiceName,
    annotations: Option<&BTreeMap<String, String>>,
    annotation: &'static str,
    notices: &mut Vec<Notice>,
) -> Option<Duration> {
    let value = annotations?.get(annotation)?;
    let age = go_duration(value).filter(|age| age.is_zero() || *age >= LEAST_AGE);
    if age.is_none() {
        notices.push(Notice::BadAnnotation {
            object: ObjectName::Service(name.clone()),
            annotation,
            value: excerpt(value),
            accepted: "0s or a duration of at least 1s, as 10m",
        });
    }
    age
}

fn affinity(name: &ServiceName, spec: &ServiceSpec, notices: &mut Vec<Notice>) -> Option<Duration> {
    let mut unknown = |field, value: &str, used| {
        notices.push(Notice::UnknownValue {
            service: name.clone(),
            field,
            value: excerpt(value),
            used,
        });
    };
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            unknown("spec.sessionAffinity", other, "None");
            return None;
        }
    }
    let seconds = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds);
    match seconds {
        None => Some(DEFAULT_AFFINITY),
        Some(seconds @ 1..=MAX_AFFINITY_SECONDS) => {
            Some(Duration::from_secs(seconds.unsigned_abs().into()))
        }
        Some(other) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            unknown(field, &other.to_string(), "10800");
            Some(DEFAULT_AFFINITY)
        }
    }
}

fn internal_policy(
    name: &ServiceName,
    spec: &ServiceSpec,
    notices: &mut Vec<Notice>,
) -> TrafficPolicy {
    let value = spec.internal_traffic_policy.as_deref();
    policy(name, "spec.internalTrafficPolicy", value, notices)
}

/// Means something only where the Service can be reached from outside.
fn external_policy(
    name: &ServiceName,
    spec: &ServiceSpec,
    notices: &mut Vec<Notice>,
) -> TrafficPolicy {
    let value = spec.external_traffic_policy.as_deref();
    let policy = policy(name, "spec.externalTrafficPolicy", value, notices);
    if external::is_accessible(spec) { policy } else { TrafficPolicy::Cluster }
}

fn policy(
    name: &ServiceName,
    field: &'static str,
    value: Option<&str>,
    notices: &mut Vec<Notice>,
) -> TrafficPolicy {
    match value {
        None | Some("" | "Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            notices.push(Notice::UnknownValue {
                service: name.clone(),
                field,
                value: excerpt(other),
                used: "Cluster",
            });
            TrafficPolicy::Cluster
        }
    }
}

fn ports(
    name: &ServiceName,
    spec: &ServiceSpec,
    annotation: Option<ProtocolHint>,
    notices: &mut Vec<Notice>,
) -> Vec<PortFacts> {
    let mut ports: Vec<PortFacts> = Vec::new();
    for written in spec.ports.as_deref().unwrap_or_default() {
        match port(written, annotation, &ports) {
            Ok(port) => ports.push(port),
            Err(fault) => notices.push(Notice::BadServicePort {
                service: name.clone(),
                port: match written.name.as_deref() {
                    None | Some("") => written.port.to_string().into(),
                    Some(name) => excerpt(name),
                },
                fault,
            }),
        }
    }
    ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    ports
}

fn port(
    written: &ServicePort,
    annotation: Option<ProtocolHint>,
    earlier: &[PortFacts],
) -> Result<PortFacts, PortFault> {
    let name = written.name.as_deref().unwrap_or_default();
    let protocol = protocol(written.protocol.as_deref())?;
    let port = port_number(written.port)?;
    if earlier.iter().any(|port| &*port.name == name && port.protocol == protocol) {
        return Err(PortFault::NameTaken);
    }
    let node_port = match written.node_port {
        None | Some(0) => None,
        Some(number) => Some(port_number(number)?),
    };
    let app_protocol = written.app_protocol.as_deref().filter(|value| !value.is_empty());
    let (hint, hint_source) = match protocol {
        Protocol::Tcp => app_protocol::hint(annotation, app_protocol, name),
        Protocol::Udp | Protocol::Sctp => Default::default(),
    };
    Ok(PortFacts {
        name: name.into(),
        protocol,
        port,
        node_port,
        app_protocol: app_protocol.map(Arc::from),
        hint,
        hint_source,
    })
}

/// A transport protocol as Kubernetes writes it; TCP where it is not written.
pub(crate) fn protocol(written: Option<&str>) -> Result<Protocol, PortFault> {
    match written {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(_) => Err(PortFault::UnknownProtocol),
    }
}

pub(crate) fn port_number(number: i32) -> Result<u16, PortFault> {
    match u16::try_from(number) {
        Ok(0) | Err(_) => Err(PortFault::BadNumber),
        Ok(number) => Ok(number),
    }
}
