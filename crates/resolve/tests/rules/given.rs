//! Short ways to write the objects a case starts from.

use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use streamvs_resolve::{Change, Config, Notice, Resolver};
use streamvs_table::{Protocol, ServiceName, ServicePortName, Snapshot};

/// This node.
pub(crate) const HERE: &str = "here";

pub(crate) fn resolver() -> Resolver {
    Resolver::new(Config {
        node_name: HERE.into(),
        service_proxy_name: None,
        allow_external_ips: Vec::new(),
    })
}

/// Service `default/svc` with one port, `80` without a name.
pub(crate) const SERVICE: &str = "
metadata: {name: svc, namespace: default}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, '2001:db8:96::1']
  ports: [{port: 80, protocol: TCP}]
";

#[derive(Deserialize)]
struct WrittenService {
    metadata: ObjectMeta,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSlice {
    metadata: ObjectMeta,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

/// A Service in YAML, without apiVersion and kind.
pub(crate) fn service(yaml: &str) -> Change {
    let WrittenService { metadata, spec, status } =
        serde_saphyr::from_str(yaml).expect("a Service");
    Change::Service(Box::new(Service { metadata, spec, status }))
}

/// An EndpointSlice in YAML, without apiVersion and kind.
pub(crate) fn slice(yaml: &str) -> Change {
    let WrittenSlice { metadata, address_type, endpoints, ports } =
        serde_saphyr::from_str(yaml).expect("an EndpointSlice");
    apply_slice(EndpointSlice { address_type, endpoints, metadata, ports })
}

/// The Node this is, in a zone or without one.
pub(crate) fn this_node(zone: Option<&str>) -> Change {
    node(HERE, zone)
}

pub(crate) fn node(name: &str, zone: Option<&str>) -> Change {
    let label = |zone: &str| ("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
    let metadata = ObjectMeta {
        name: Some(name.into()),
        labels: zone.map(|zone| [label(zone)].into()),
        ..ObjectMeta::default()
    };
    Change::Node(Box::new(Node { metadata, ..Node::default() }))
}

/// A slice of `default/svc`, port `8080` without a name, with endpoints as [`endpoint`] reads
/// them. The family is the first endpoint's.
pub(crate) fn slice_of(name: &str, endpoints: &[&str]) -> EndpointSlice {
    let is_v6 = endpoints.first().is_some_and(|line| line.contains(':'));
    EndpointSlice {
        address_type: if is_v6 { "IPv6" } else { "IPv4" }.into(),
        endpoints: Some(endpoints.iter().map(|line| endpoint(line)).collect()),
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            labels: Some([("kubernetes.io/service-name".into(), "svc".into())].into()),
            ..ObjectMeta::default()
        },
        ports: Some(vec![EndpointPort {
            name: Some(String::new()),
            port: Some(8080),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
    }
}

pub(crate) fn apply_slice(slice: EndpointSlice) -> Change {
    Change::Slice(Box::new(slice))
}

/// An endpoint in one line: the address, then any of `on=NODE`, `in=ZONE`, `ready=BOOL`,
/// `serving=BOOL`, `terminating=BOOL`, `nodes=A,B` and `zones=A,B` (hints). What is not said is
/// not in the object.
pub(crate) fn endpoint(line: &str) -> Endpoint {
    let mut words = line.split_whitespace();
    let address = words.next().expect("an address").to_owned();
    let mut endpoint = Endpoint { addresses: vec![address], ..Endpoint::default() };
    for word in words {
        let (key, value) = word.split_once('=').expect("KEY=VALUE");
        let conditions = || endpoint.conditions.clone().unwrap_or_default();
        let hints = || endpoint.hints.clone().unwrap_or_default();
        let flag = || Some(value.parse().expect("true or false"));
        match key {
            "on" => endpoint.node_name = Some(value.into()),
            "in" => endpoint.zone = Some(value.into()),
            "ready" => {
                endpoint.conditions = Some(EndpointConditions { ready: flag(), ..conditions() });
            }
            "serving" => {
                endpoint.conditions = Some(EndpointConditions { serving: flag(), ..conditions() });
            }
            "terminating" => {
                endpoint.conditions =
                    Some(EndpointConditions { terminating: flag(), ..conditions() });
            }
            "nodes" => {
                let nodes = value.split(',').map(|name| ForNode { name: name.into() }).collect();
                endpoint.hints = Some(EndpointHints { for_nodes: Some(nodes), ..hints() });
            }
            "zones" => {
                let zones = value.split(',').map(|name| ForZone { name: name.into() }).collect();
                endpoint.hints = Some(EndpointHints { for_zones: Some(zones), ..hints() });
            }
            other => panic!("unknown word {other}"),
        }
    }
    endpoint
}

pub(crate) fn port_name(service: &str, port: &str) -> ServicePortName {
    ServicePortName {
        service: ServiceName::new("default", service),
        port: port.into(),
        protocol: Protocol::Tcp,
    }
}

/// Applies all and returns the table with everything that was said on the way. The table's
/// invariants hold.
pub(crate) fn table_of(
    resolver: &mut Resolver,
    changes: impl IntoIterator<Item = Change>,
) -> (Snapshot, Vec<Notice>) {
    let mut notices = Vec::new();
    for change in changes {
        notices.extend(resolver.apply(change));
    }
    let (snapshot, more) = resolver.resolve().expect("a visible change");
    snapshot.check_invariants();
    notices.extend(more);
    (snapshot, notices)
}

/// The endpoints of a ServicePort, one line each: address and what became of it.
pub(crate) fn verdicts(snapshot: &Snapshot, name: &ServicePortName) -> Vec<String> {
    let service = snapshot.get(name).expect("the ServicePort is in the table");
    let line = |endpoint: &streamvs_table::Endpoint| {
        format!("{} {:?}", endpoint.address, endpoint.usability.get(service.internal_policy))
    };
    service.endpoints.iter().map(line).collect()
}

/// The addresses of the endpoints of a ServicePort.
pub(crate) fn addresses(snapshot: &Snapshot, name: &ServicePortName) -> Vec<String> {
    let service = snapshot.get(name).expect("the ServicePort is in the table");
    service.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

pub(crate) fn displayed(notices: &[Notice]) -> Vec<String> {
    notices.iter().map(ToString::to_string).collect()
}
