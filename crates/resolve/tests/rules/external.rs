//! What comes from outside: addresses, policies, and both lists of endpoints (`features.md` A1, A4,
//! A6).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use streamvs_resolve::{Change, Config, Resolver};
use streamvs_table::{
    AddressKind, Disposition, Family, Origin, Protocol, ServicePort, Snapshot, TrafficPolicy,
};

use crate::given::{self, HERE, SERVICE, slice_of};

use Disposition::{Balance, Drop, Reject};

fn service_port(snapshot: &Snapshot) -> &ServicePort {
    assert_eq!(snapshot.service_port_count(), 1);
    snapshot.services().next().expect("one ServicePort")
}

/// The table of one Service in YAML, with what was said of it.
fn read(yaml: &str) -> (Snapshot, Vec<String>) {
    let mut resolver = Resolver::new(Config {
        node_name: HERE.into(),
        service_proxy_name: None,
        allow_external_ips: vec!["192.0.2.0/24".parse().expect("a range")],
    });
    let (snapshot, notices) = given::table_of(&mut resolver, [given::service(yaml)]);
    (snapshot, given::displayed(&notices))
}

fn shown(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn kep_1860_addresses_of_load_balancers_are_served_unless_their_mode_is_proxy() {
    for (rule, ingress, expect, notice_count) in [
        ("no mode is VIP", "{ip: 203.0.113.1}", "203.0.113.1", 0),
        ("VIP", "{ip: 203.0.113.1, ipMode: VIP}", "203.0.113.1", 0),
        ("Proxy", "{ip: 203.0.113.1, ipMode: Proxy}", "", 0),
        ("a name", "{hostname: lb.example}", "", 0),
        ("two", "{ip: 203.0.113.1}, {ip: 203.0.113.2}", "203.0.113.1 203.0.113.2", 0),
        ("twice", "{ip: 203.0.113.1}, {ip: 203.0.113.1}", "203.0.113.1", 0),
        ("no ClusterIP of the family", "{ip: '2001:db8::1'}", "", 0),
        ("no address", "{ip: nonsense}, {ip: 203.0.113.1}", "203.0.113.1", 1),
        ("multicast", "{ip: 224.0.0.1}", "", 1),
    ] {
        let (snapshot, notices) = read(&format!(
            "{{metadata: {{name: a}}, spec: {{type: LoadBalancer, clusterIP: 10.96.0.1, \
             ports: [{{port: 80}}]}}, status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}"
        ));
        assert_eq!(shown(&service_port(&snapshot).load_balancer_ips), expect, "{rule}");
        assert_eq!(notices.len(), notice_count, "{rule}: {notices:?}");
        for ip in &service_port(&snapshot).load_balancer_ips {
            assert!(snapshot.lookup(*ip, 80, Protocol::Tcp).is_some(), "{rule}");
        }
    }
}

#[test]
fn cve_2020_8554_external_ips_are_served_where_the_operator_allows_them() {
    let (snapshot, notices) = read(
        "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}], \
         externalIPs: [192.0.2.1, 198.51.100.1, 203.0.113.1]}}",
    );
    assert_eq!(shown(&service_port(&snapshot).external_ips), "192.0.2.1");
    assert_eq!(
        notices,
        ["2 address(es) of spec.externalIPs of Service default/a are not used, the first \
          (\"198.51.100.1\"): it is not within --allow-external-ips"]
    );
}

#[test]
fn source_ranges_are_trimmed_and_each_is_kept_once() {
    let (snapshot, notices) = read(
        "{metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1, \
         ports: [{port: 80}], loadBalancerSourceRanges: \
         [' 198.51.100.7/24', 198.51.100.0/24, '2001:db8::/32 ', nonsense]}}",
    );
    let ranges: Vec<_> =
        service_port(&snapshot).source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["198.51.100.0/24", "2001:db8::/32"]);
    assert_eq!(notices.len(), 1, "{notices:?}");
}

#[test]
fn external_policy_counts_where_something_outside_can_reach_the_service() {
    for (rule, spec, policy, health_check) in [
        (
            "a load balancer",
            "type: LoadBalancer, healthCheckNodePort: 31000",
            Some(()),
            Some(31000),
        ),
        ("a load balancer without the port", "type: LoadBalancer", Some(()), None),
        ("a node port", "type: NodePort, healthCheckNodePort: 31000", Some(()), None),
        ("an externalIP", "externalIPs: [192.0.2.1]", Some(()), None),
        ("nothing", "type: ClusterIP, healthCheckNodePort: 31000", None, None),
    ] {
        let (snapshot, _) = read(&format!(
            "{{metadata: {{name: a}}, spec: {{{spec}, externalTrafficPolicy: Local, \
             clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        ));
        let service = service_port(&snapshot);
        let expected = policy.map_or(TrafficPolicy::Cluster, |()| TrafficPolicy::Local);
        assert_eq!(service.external_policy, expected, "{rule}");
        assert_eq!(service.health_check_node_port, health_check, "{rule}");
        assert_eq!(service.internal_policy, TrafficPolicy::Cluster, "{rule}");
    }
}

#[test]
fn each_list_is_decided_for_itself_as_kep_1669_and_categorize_endpoints_say() {
    let ready_here = "10.1.0.1 on=here";
    let ready_there = "10.1.0.2 on=there";
    let leaving_here = "10.1.0.3 on=here ready=false serving=true terminating=true";
    let leaving_there = "10.1.0.4 on=there ready=false serving=true terminating=true";
    let down_here = "10.1.0.5 on=here ready=false serving=false";
    for (rule, endpoints, cluster, local, dispositions) in [
        ("here and there", &[ready_here, ready_there][..], "1 2", "1", (Balance, Balance)),
        ("only there", &[ready_there], "2", "", (Balance, Drop)),
        ("none", &[], "", "", (Reject, Reject)),
        ("none that is ready", &[down_here], "", "", (Reject, Reject)),
        (
            "the last one here leaves: still used for the local list, no longer for the other",
            &[ready_there, leaving_here],
            "2",
            "3",
            (Balance, Balance),
        ),
        ("all leave", &[leaving_here, leaving_there], "3 4", "3", (Balance, Balance)),
        ("the last one leaves, elsewhere", &[leaving_there], "4", "", (Balance, Drop)),
        ("leaving, and no longer serving", &[down_here, ready_there], "2", "", (Balance, Drop)),
    ] {
        let mut resolver = given::resolver();
        let yaml = format!("{SERVICE}  type: NodePort\n  externalTrafficPolicy: Local\n");
        let changes = [given::service(&yaml), given::apply_slice(slice_of("slice-1", endpoints))];
        let (snapshot, _) = given::table_of(&mut resolver, changes);
        let service = service_port(&snapshot);
        let used = |policy| {
            let used = service.endpoints.iter().filter(|endpoint| endpoint.usable(policy));
            let last = |ip: IpAddr| ip.to_string().rsplit('.').next().map(str::to_owned);
            used.filter_map(|endpoint| last(endpoint.address.ip())).collect::<Vec<_>>().join(" ")
        };
        let found = (used(TrafficPolicy::Cluster), used(TrafficPolicy::Local));
        assert_eq!(found, (cluster.to_owned(), local.to_owned()), "{rule}");
        let by = |policy| service.disposition_by(policy, Family::V4);
        assert_eq!((by(TrafficPolicy::Cluster), by(TrafficPolicy::Local)), dispositions, "{rule}");
    }
}

#[test]
fn hints_narrow_the_cluster_list_and_never_the_local_one() {
    let mut resolver = given::resolver();
    let yaml = format!("{SERVICE}  internalTrafficPolicy: Local\n");
    let endpoints = ["10.1.0.1 on=here zones=b", "10.1.0.2 on=there zones=a"];
    let changes = [
        given::this_node(Some("a")),
        given::service(&yaml),
        given::apply_slice(slice_of("slice-1", &endpoints)),
    ];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    let [here, there] = &*service_port(&snapshot).endpoints else { panic!("two endpoints") };
    assert!(here.usable(TrafficPolicy::Local) && !here.usable(TrafficPolicy::Cluster));
    assert!(!there.usable(TrafficPolicy::Local) && there.usable(TrafficPolicy::Cluster));
    let service = service_port(&snapshot);
    assert!(!service.uses(TrafficPolicy::Cluster), "no address but the ClusterIP");
    assert!(service.may_use(here) && !service.may_use(there));
}

#[test]
fn in_cluster_traffic_to_an_external_address_is_short_circuited() {
    let mut resolver = given::resolver();
    let yaml = format!("{SERVICE}  type: NodePort\n  externalTrafficPolicy: Local\n");
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(&yaml)]);
    let service = service_port(&snapshot);
    let external = [AddressKind::NodePort, AddressKind::LoadBalancer, AddressKind::ExternalIp];
    for kind in external {
        assert_eq!(service.policy(kind, Origin::Inside), TrafficPolicy::Cluster);
        assert_eq!(service.policy(kind, Origin::Outside), TrafficPolicy::Local);
    }
}

fn node(addresses: &[(&str, &str)], pod_cidrs: &[&str]) -> Change {
    let address = |(type_, address): &(&str, &str)| NodeAddress {
        type_: (*type_).into(),
        address: (*address).into(),
    };
    Change::Node(Box::new(Node {
        metadata: ObjectMeta { name: Some(HERE.into()), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidrs: Some(pod_cidrs.iter().map(|&range| range.into()).collect()),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses.iter().map(address).collect()),
            ..NodeStatus::default()
        }),
    }))
}

#[test]
fn the_nodes_primary_addresses_are_the_first_internal_one_of_each_family() {
    let (internal, external, name) = ("InternalIP", "ExternalIP", "Hostname");
    for (rule, addresses, expect) in [
        ("one", &[(name, "n1"), (internal, "192.0.2.1")][..], "192.0.2.1"),
        (
            "both families",
            &[(internal, "2001:db8::1"), (internal, "192.0.2.1")],
            "2001:db8::1 192.0.2.1",
        ),
        (
            "the second of a family",
            &[(internal, "192.0.2.1"), (internal, "192.0.2.2")],
            "192.0.2.1",
        ),
        (
            "internal before external",
            &[(external, "203.0.113.1"), (internal, "192.0.2.1")],
            "192.0.2.1",
        ),
        ("external where there is no other", &[(external, "203.0.113.1")], "203.0.113.1"),
        ("nonsense", &[(internal, "nonsense")], ""),
    ] {
        let mut resolver = given::resolver();
        let changes = [node(addresses, &["10.1.0.0/24", "nonsense", "2001:db8:1::/64"])];
        let (snapshot, _) = given::table_of(&mut resolver, changes);
        assert_eq!(shown(&snapshot.node().addresses), expect, "{rule}");
        let ranges: Vec<_> = snapshot.node().pod_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.1.0.0/24", "2001:db8:1::/64"], "{rule}");
    }
}

#[test]
fn a_change_of_the_node_makes_a_table_and_a_repetition_does_not() {
    let mut resolver = given::resolver();
    given::table_of(&mut resolver, [node(&[("InternalIP", "192.0.2.1")], &[])]);
    resolver.apply(node(&[("InternalIP", "192.0.2.1")], &[]));
    assert!(resolver.resolve().is_none(), "nothing changed");
    resolver.apply(node(&[("InternalIP", "192.0.2.2")], &[]));
    let (snapshot, _) = resolver.resolve().expect("an address changed");
    assert_eq!(shown(&snapshot.node().addresses), "192.0.2.2");
    resolver.apply(Change::DeleteNode(HERE.into()));
    let (snapshot, _) = resolver.resolve().expect("the node is gone");
    assert!(snapshot.node().addresses.is_empty());
}
