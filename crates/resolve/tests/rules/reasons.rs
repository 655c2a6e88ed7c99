//! Aim: the table says what `explain` shows: why hints were ignored, who said what the protocol
//! is, and why a Service is not served.
//! Method: objects in, the table's reasons out.

use streamvs_resolve::{Change, Config, Resolver};
use streamvs_table::{HintSource, ServiceName, TopologyOutcome, Unserved};

use crate::given::{self, HERE, SERVICE, apply_slice, port_name, slice_of, this_node};

fn topology(zone: Option<&str>, endpoints: &[&str]) -> TopologyOutcome {
    let mut resolver = given::resolver();
    let changes = [given::service(SERVICE), this_node(zone), apply_slice(slice_of("s", endpoints))];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    snapshot.get(&port_name("svc", "")).expect("is there").reasons.topology.v4
}

#[test]
fn hints_come_to_what_is_said() {
    let incomplete = |address: &str| TopologyOutcome::Incomplete {
        without_hint: address.parse().expect("an address"),
    };
    for (zone, endpoints, outcome) in [
        (Some("z1"), &["10.1.0.1", "10.1.0.2"][..], TopologyOutcome::NoHints),
        (Some("z1"), &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2"], TopologyOutcome::SameZone),
        (Some("z1"), &["10.1.0.1 nodes=here", "10.1.0.2 nodes=x"], TopologyOutcome::SameNode),
        (
            Some("z1"),
            &["10.1.0.1 zones=z1", "10.1.0.2", "10.1.0.3 zones=z1"],
            incomplete("10.1.0.2:8080"),
        ),
        // One that is not ready does not count.
        (
            Some("z1"),
            &["10.1.0.1 zones=z1", "10.1.0.2 ready=false", "10.1.0.3 zones=z1"],
            TopologyOutcome::SameZone,
        ),
        (Some("z3"), &["10.1.0.1 zones=z1"], TopologyOutcome::NoneForThisNode),
        (None, &["10.1.0.1 zones=z1"], TopologyOutcome::NodeWithoutZone),
        (None, &["10.1.0.1 nodes=x"], TopologyOutcome::NoneForThisNode),
        (None, &["10.1.0.1 nodes=here", "10.1.0.2"], incomplete("10.1.0.2:8080")),
    ] {
        assert_eq!(topology(zone, endpoints), outcome, "{zone:?} {endpoints:?}");
    }
}

#[test]
fn the_source_of_the_protocol_hint_is_known() {
    for (annotation, app_protocol, port, source) in [
        ("", "", "web", HintSource::Nothing),
        ("", "", "grpc-api", HintSource::PortName),
        ("", "grpc", "grpc-api", HintSource::AppProtocol),
        ("tcp", "grpc", "grpc-api", HintSource::Annotation),
    ] {
        let annotations = match annotation {
            "" => String::new(),
            value => format!("annotations: {{streamvs.io/protocol: {value}}}, "),
        };
        let yaml = format!(
            "{{metadata: {{{annotations}name: svc}}, spec: {{clusterIP: 10.96.0.1, \
             ports: [{{port: 80, name: {port}, appProtocol: '{app_protocol}'}}]}}}}"
        );
        let (snapshot, _) = given::table_of(&mut given::resolver(), [given::service(&yaml)]);
        assert_eq!(
            snapshot.services().next().expect("a ServicePort").reasons.protocol_hint,
            source,
            "{yaml}"
        );
    }
}

#[test]
fn services_that_are_not_served_are_known_with_the_reason() {
    let service = |label: &str, spec: &str| {
        let labels = match label {
            "" => String::new(),
            label => format!("labels: {{service.kubernetes.io/service-proxy-name: {label}}}, "),
        };
        given::service(&format!("{{metadata: {{{labels}name: svc}}, spec: {{{spec}}}}}"))
    };
    let other = || Unserved::OtherProxy { label: "cilium".into() };
    for (proxy_name, change, reason) in [
        (None, service("cilium", "clusterIP: 10.96.0.1"), other()),
        (Some("us"), service("cilium", "clusterIP: 10.96.0.1"), other()),
        (Some("us"), service("", "clusterIP: 10.96.0.1"), Unserved::NoProxyLabel),
        (None, service("", "clusterIP: None"), Unserved::Headless),
        (None, service("", "type: ExternalName"), Unserved::ExternalName),
        (None, service("", ""), Unserved::NoClusterIp),
        (None, service("", "clusterIP: here"), Unserved::NoClusterIp),
    ] {
        let config = Config {
            node_name: HERE.into(),
            service_proxy_name: proxy_name.map(Into::into),
            allow_external_ips: Vec::new(),
        };
        let mut resolver = Resolver::new(config);
        let (snapshot, _) = given::table_of(&mut resolver, [change]);
        let name = ServiceName::new("default", "svc");
        assert_eq!(snapshot.unserved().get(&name), Some(&reason));
        assert!(snapshot.services().next().is_none());

        let (snapshot, _) = given::table_of(&mut resolver, [Change::DeleteService(name)]);
        assert!(snapshot.unserved().is_empty());
    }
}

#[test]
fn a_service_that_is_served_again_is_no_longer_among_the_unserved() {
    let mut resolver = given::resolver();
    let headless = "{metadata: {name: svc, namespace: default}, spec: {clusterIP: None}}";
    let (before, _) = given::table_of(&mut resolver, [given::service(headless)]);
    let (after, _) = given::table_of(&mut resolver, [given::service(SERVICE)]);
    assert_eq!((before.unserved().len(), before.service_port_count()), (1, 0));
    assert_eq!((after.unserved().len(), after.service_port_count()), (0, 1));
}
