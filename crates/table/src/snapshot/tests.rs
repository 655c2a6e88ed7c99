//! Who is found under which address, and who is refused one.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::{
    AddressKind, Endpoint, Origin, PerFamily, PerPolicy, ProtocolHint, ServiceName, Usability,
};

fn name(service: &str, port: &str, protocol: Protocol) -> ServicePortName {
    ServicePortName { service: ServiceName::new("shop", service), port: port.into(), protocol }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, last))
}

fn v6(last: u16) -> IpAddr {
    format!("2001:db8::{last:x}").parse().expect("an address")
}

fn endpoint(last: u8, usability: Usability) -> Endpoint {
    Endpoint {
        address: SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 8080)),
        node: None,
        zone: None,
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        weight: 1,
        usability: PerPolicy { cluster: usability, local: Usability::NotLocal },
    }
}

fn service(name: ServicePortName, port: u16, cluster_ips: Vec<IpAddr>) -> ServicePort {
    ServicePort {
        name,
        port,
        node_port: None,
        cluster_ips,
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        max_age: Default::default(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        endpoints: Vec::new(),
        disposition: PerPolicy::default(),
        reasons: Default::default(),
    }
}

/// All endpoints are IPv4 and elsewhere.
fn balanced() -> PerPolicy<PerFamily<Disposition>> {
    PerPolicy {
        cluster: PerFamily { v4: Disposition::Balance, v6: Disposition::Reject },
        local: PerFamily { v4: Disposition::Drop, v6: Disposition::Reject },
    }
}

fn service_at(service_name: &str, port: u16, cluster_ips: Vec<IpAddr>) -> ServicePort {
    service(name(service_name, "p", Protocol::Tcp), port, cluster_ips)
}

fn web() -> ServicePort {
    service(name("web", "http", Protocol::Tcp), 80, vec![ip(1), v6(1)])
}

fn build(services: Vec<ServicePort>) -> (Snapshot, Vec<Conflict>) {
    let (snapshot, conflicts) = Snapshot::new(3, services.into_iter().map(Arc::new).collect());
    snapshot.check_invariants();
    (snapshot, conflicts)
}

fn owner(snapshot: &Snapshot, ip: IpAddr, port: u16, protocol: Protocol) -> Option<String> {
    snapshot.lookup(ip, port, protocol).map(|service| service.name.to_string())
}

#[test]
fn the_table_before_the_first_is_empty() {
    let snapshot = Snapshot::default();
    snapshot.check_invariants();
    assert_eq!(snapshot.generation(), 0);
    assert_eq!(snapshot.service_port_count(), 0);
    assert!(snapshot.addresses().next().is_none());
    assert!(snapshot.lookup(ip(1), 80, Protocol::Tcp).is_none());
}

#[test]
fn a_service_port_is_found_under_each_of_its_cluster_ips_and_nowhere_else() {
    let (snapshot, conflicts) = build(vec![web()]);
    assert_eq!(conflicts, []);
    assert_eq!(snapshot.generation(), 3);
    for address in [ip(1), v6(1)] {
        assert_eq!(owner(&snapshot, address, 80, Protocol::Tcp).as_deref(), Some("shop/web:http"));
        assert_eq!(owner(&snapshot, address, 81, Protocol::Tcp), None);
        assert_eq!(owner(&snapshot, address, 80, Protocol::Udp), None);
    }
    assert_eq!(owner(&snapshot, ip(2), 80, Protocol::Tcp), None);
    assert_eq!(owner(&snapshot, v6(2), 80, Protocol::Tcp), None);
}

#[test]
fn ports_and_protocols_of_one_address_are_kept_apart() {
    let (snapshot, conflicts) = build(vec![
        service(name("dns", "dns", Protocol::Udp), 53, vec![ip(1)]),
        service(name("dns", "dns-tcp", Protocol::Tcp), 53, vec![ip(1)]),
        service(name("dns", "metrics", Protocol::Tcp), 9153, vec![ip(1)]),
    ]);
    assert_eq!(conflicts, []);
    for (port, protocol, expected) in [
        (53, Protocol::Udp, Some("shop/dns:dns")),
        (53, Protocol::Tcp, Some("shop/dns:dns-tcp")),
        (9153, Protocol::Tcp, Some("shop/dns:metrics")),
        (9153, Protocol::Udp, None),
        (53, Protocol::Sctp, None),
    ] {
        assert_eq!(owner(&snapshot, ip(1), port, protocol).as_deref(), expected, "{port}");
    }
    let mut listed: Vec<_> = snapshot
        .addresses()
        .map(|(ip, port, protocol, service)| (ip, port, protocol, service.name.to_string()))
        .collect();
    listed.sort();
    assert_eq!(
        listed,
        [
            (ip(1), 53, Protocol::Tcp, "shop/dns:dns-tcp".to_owned()),
            (ip(1), 53, Protocol::Udp, "shop/dns:dns".to_owned()),
            (ip(1), 9153, Protocol::Tcp, "shop/dns:metrics".to_owned()),
        ]
    );
}

#[test]
fn the_first_in_name_order_has_a_disputed_address_in_whatever_order_they_come() {
    let first = || service(name("a", "p", Protocol::Tcp), 80, vec![ip(1)]);
    let second = || service(name("b", "p", Protocol::Tcp), 80, vec![ip(1), v6(2)]);
    let third = || service(name("c", "p", Protocol::Tcp), 80, vec![ip(1)]);
    for services in [vec![first(), second(), third()], vec![third(), second(), first()]] {
        let (snapshot, conflicts) = build(services);
        assert_eq!(owner(&snapshot, ip(1), 80, Protocol::Tcp).as_deref(), Some("shop/a:p"));
        assert_eq!(
            owner(&snapshot, v6(2), 80, Protocol::Tcp).as_deref(),
            Some("shop/b:p"),
            "its other address is undisputed"
        );
        let refused: Vec<_> = conflicts.iter().map(|conflict| &conflict.refused).collect();
        assert_eq!(refused, [&second().name, &third().name]);
        for conflict in &conflicts {
            assert_eq!(conflict.owner, first().name);
            assert_eq!((conflict.address, conflict.port), (Some(ip(1)), 80));
        }
        assert_eq!(
            conflicts[0].to_string(),
            "shop/b:p claims 198.51.100.1 port 80, which shop/a:p has already"
        );
        assert_eq!(snapshot.service_port_count(), 3, "a refused one is listed all the same");
    }
}

#[test]
fn a_name_stands_once_and_the_first_given_is_kept() {
    let other = service(web().name, 81, vec![ip(2)]);
    let (snapshot, conflicts) = build(vec![web(), other]);
    assert_eq!(conflicts, []);
    assert_eq!(snapshot.service_port_count(), 1);
    assert_eq!(snapshot.services().next().map_or(0, |service| service.port), 80);
    assert_eq!(owner(&snapshot, ip(2), 81, Protocol::Tcp), None);
}

#[test]
fn service_ports_are_sorted_and_found_by_name() {
    let names = [
        name("b", "", Protocol::Tcp),
        name("a", "y", Protocol::Tcp),
        name("a", "x", Protocol::Udp),
        name("a", "x", Protocol::Tcp),
    ];
    let services = names.iter().zip(1..);
    let services = services.map(|(name, last)| service(name.clone(), 80, vec![ip(last)]));
    let (snapshot, _) = build(services.collect());
    let listed: Vec<_> = snapshot.services().map(|service| &service.name).collect();
    assert_eq!(listed, [&names[3], &names[2], &names[1], &names[0]]);
    for name in &names {
        assert_eq!(snapshot.get(name).map(|service| &service.name), Some(name));
    }
    assert!(snapshot.get(&name("a", "z", Protocol::Tcp)).is_none());
    assert!(snapshot.get(&name("a", "y", Protocol::Udp)).is_none());
}

#[test]
fn lookups_give_the_very_service_port_that_was_put_in() {
    let web = Arc::new(web());
    let (snapshot, _) = Snapshot::new(1, vec![Arc::clone(&web)]);
    let found = snapshot.lookup(ip(1), 80, Protocol::Tcp);
    assert!(found.is_some_and(|found| Arc::ptr_eq(found, &web)));
    assert!(snapshot.get(&web.name).is_some_and(|found| Arc::ptr_eq(found, &web)));
}

#[test]
fn endpoints_and_cluster_ips_are_told_apart_by_family() {
    let mut web = web();
    let six =
        Endpoint { address: SocketAddr::from((v6(9), 8080)), ..endpoint(1, Usability::Ready) };
    web.endpoints = vec![endpoint(1, Usability::Ready), endpoint(2, Usability::NotReady), six];
    assert_eq!(web.endpoints(Family::V4).count(), 2);
    assert_eq!(web.endpoints(Family::V6).count(), 1);
    assert_eq!(web.cluster_ip(Family::V4), Some(ip(1)));
    assert_eq!(web.cluster_ip(Family::V6), Some(v6(1)));
    web.cluster_ips.pop();
    assert_eq!(web.cluster_ip(Family::V6), None);
}

type Changes = Vec<(ServiceName, Vec<Arc<ServicePort>>)>;

fn gone(name: &str) -> (ServiceName, Vec<Arc<ServicePort>>) {
    (ServiceName::new("shop", name), Vec::new())
}

fn put(services: &[&Arc<ServicePort>]) -> (ServiceName, Vec<Arc<ServicePort>>) {
    let services: Vec<_> = services.iter().map(|&service| Arc::clone(service)).collect();
    (services[0].name.service.clone(), services)
}

/// Holds a table that was changed against one made at once of the same ServicePorts.
fn check_as_from_scratch(next: &Snapshot, why: &str) {
    let services = next.services().cloned().collect();
    let (scratch, conflicts) = Snapshot::new(next.generation(), services);
    next.check_invariants();
    scratch.check_invariants();
    let pointers = |table: &Snapshot| -> Vec<_> {
        let mut all: Vec<_> = table
            .addresses()
            .map(|(ip, port, protocol, owner)| (Some(ip), port, protocol, Arc::as_ptr(owner)))
            .collect();
        let node_ports = table.node_ports();
        all.extend(node_ports.map(|(port, of, owner)| (None, port, of, Arc::as_ptr(owner))));
        all.sort();
        all
    };
    assert_eq!(pointers(next), pointers(&scratch), "{why}");
    assert_eq!(next.service_port_count(), scratch.service_port_count(), "{why}");
    assert_eq!(next.conflicts().collect::<Vec<_>>(), conflicts, "{why}");
}

#[test]
fn the_next_table_is_the_one_built_from_scratch() {
    let p = |service: &str, port, last| {
        Arc::new(service_at(service, port, vec![ip(last), v6(last.into())]))
    };
    let (a, b, c) = (p("a", 80, 1), p("b", 80, 2), p("c", 80, 3));
    let grown = Arc::new(ServicePort {
        endpoints: vec![endpoint(1, Usability::Ready)],
        disposition: balanced(),
        ..service_at("b", 80, vec![ip(2), v6(2)])
    });
    let with_load_balancer = Arc::new(ServicePort {
        load_balancer_ips: vec![ip(8)],
        ..service_at("b", 80, vec![ip(2), v6(2)])
    });
    let with_node_port =
        Arc::new(ServicePort { node_port: Some(30080), ..service_at("b", 80, vec![ip(2), v6(2)]) });
    let (old, _) = Snapshot::new(7, vec![Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)]);
    let cases: [(_, Changes, _); 11] = [
        ("nothing changed", vec![], 3),
        ("an endpoint came", vec![put(&[&grown])], 3),
        ("one is gone", vec![gone("b")], 2),
        ("one is new", vec![put(&[&p("d", 80, 4)])], 4),
        ("a port changed", vec![put(&[&p("b", 81, 2)])], 3),
        ("a load balancer got an address", vec![put(&[&with_load_balancer])], 3),
        ("a node port was allocated", vec![put(&[&with_node_port])], 3),
        ("an address changed", vec![put(&[&p("b", 80, 9)])], 3),
        ("a name changed", vec![put(&[&p("bb", 80, 2)]), gone("b")], 3),
        ("an address is disputed now", vec![put(&[&p("b", 80, 1)])], 3),
        ("two changed places", vec![put(&[&p("a", 80, 2)]), put(&[&p("b", 80, 1)])], 3),
    ];
    for (why, changes, count) in cases {
        let next = old.next(&changes);
        assert_eq!(next.generation(), 8, "{why}");
        assert_eq!(next.service_port_count(), count, "{why}");
        check_as_from_scratch(&next, why);
        let changed: Vec<_> = next.changes_since(&old).map(|change| change.name.clone()).collect();
        let mut expected: Vec<_> = changes.into_iter().map(|(name, _)| name).collect();
        expected.sort();
        assert_eq!(changed, expected, "{why}");
    }
    assert_eq!((old.service_port_count(), old.generation()), (3, 7), "the old one is as it was");
    check_as_from_scratch(&old, "the old one is as it was");
}

proptest::proptest! {
    /// Few names and fewer addresses, so that most are disputed.
    #[test]
    fn any_order_of_changes_ends_in_the_table_built_from_scratch(
        steps in proptest::collection::vec(
            (
                0..6_u8,
                proptest::collection::vec(
                    (0..3_u8, 1..4_u8, 80..82_u16, (0..4_u8, 0..4_u8, 0..3_u16)), 0..3,
                ),
            ),
            1..40,
        ),
    ) {
        let mut table = Snapshot::default();
        for (service_name, ports) in steps {
            let name_of = |port: u8| {
                name(&service_name.to_string(), &port.to_string(), Protocol::Tcp)
            };
            let mut ports: Vec<_> = ports
                .into_iter()
                .map(|(port, last, number, (balancer, external, node_port))| {
                    let some = |last: u8| (last > 0).then(|| ip(last)).into_iter().collect();
                    Arc::new(ServicePort {
                        load_balancer_ips: some(balancer),
                        external_ips: some(external),
                        node_port: (node_port > 0).then_some(30000 + node_port),
                        ..service(name_of(port), number, vec![ip(last), v6(last.into())])
                    })
                })
                .collect();
            ports.sort_by(|a, b| a.name.cmp(&b.name));
            ports.dedup_by(|a, b| a.name == b.name);
            let before = table.clone();
            table = table.next(&[(name_of(0).service, ports)]);
            check_as_from_scratch(&table, "after a step");
            check_as_from_scratch(&before, "the one before");
        }
    }
}

// --- check_invariants finds what it is there to find --------------------------------------------

fn check(change: impl FnOnce(&mut ServicePort)) {
    let mut web = web();
    web.endpoints = vec![endpoint(1, Usability::Ready), endpoint(2, Usability::NotReady)];
    web.disposition = balanced();
    change(&mut web);
    Snapshot::new(1, vec![Arc::new(web)]).0.check_invariants();
}

#[test]
fn a_sound_table_passes() {
    check(|_| {});
}

#[test]
#[should_panic(expected = "endpoints of shop/web:http out of order")]
fn unsorted_endpoints_are_found() {
    check(|web| web.endpoints.reverse());
}

#[test]
#[should_panic(expected = "endpoints of shop/web:http out of order")]
fn an_endpoint_listed_twice_is_found() {
    check(|web| web.endpoints[1] = web.endpoints[0].clone());
}

#[test]
#[should_panic(expected = "disposition of shop/web:http IPv4")]
fn balancing_without_a_usable_endpoint_is_found() {
    check(|web| web.endpoints[0].usability = PerPolicy::both(Usability::NotLocal));
}

#[test]
#[should_panic(expected = "disposition of shop/web:http IPv4")]
fn refusing_with_a_usable_endpoint_is_found() {
    check(|web| web.disposition.cluster.v4 = Disposition::Reject);
}

#[test]
fn endpoints_alone_do_not_change_how_a_table_is_reached() {
    let balance = balanced();
    let with = |endpoints: &[u8], disposition, port| {
        let endpoints = endpoints.iter().map(|&last| endpoint(last, Usability::Ready)).collect();
        let at = service(name("a", "", Protocol::Tcp), port, vec![ip(1)]);
        Arc::new(ServicePort { endpoints, disposition, ..at })
    };
    let (table, _) = Snapshot::new(1, vec![with(&[1], balance, 80)]);
    for (what, next, alike) in [
        ("another endpoint", with(&[1, 2], balance, 80), true),
        ("the last endpoint went", with(&[], PerPolicy::default(), 80), false),
        ("another port", with(&[1], balance, 81), false),
    ] {
        let next = table.next(&[put(&[&next])]);
        assert_eq!(next.is_reached_as(&table), alike, "{what}");
    }
    assert!(!table.is_reached_as(&Snapshot::default()), "the first table is news");
}

// --- addresses other than ClusterIPs ------------------------------------------------------------

fn external(service_name: &str, cluster_ip: u8) -> ServicePort {
    ServicePort {
        node_port: Some(30080),
        load_balancer_ips: vec![ip(100)],
        external_ips: vec![ip(200)],
        ..service_at(service_name, 80, vec![ip(cluster_ip)])
    }
}

#[test]
fn a_service_port_is_found_under_its_external_addresses_and_its_node_port() {
    let (snapshot, conflicts) = build(vec![external("web", 1)]);
    assert_eq!(conflicts, []);
    for (address, kind) in [
        (ip(1), AddressKind::ClusterIp),
        (ip(100), AddressKind::LoadBalancer),
        (ip(200), AddressKind::ExternalIp),
    ] {
        let found = snapshot.lookup(address, 80, Protocol::Tcp).expect("it is there");
        assert_eq!(found.kind_of(address), Some(kind));
    }
    assert_eq!(snapshot.addresses().count(), 3);
    assert!(snapshot.node_port(30080, Protocol::Tcp).is_some());
    assert!(snapshot.node_port(30080, Protocol::Udp).is_none());
    assert!(snapshot.node_port(80, Protocol::Tcp).is_none());
    assert_eq!(snapshot.node_ports().count(), 1);
    assert!(snapshot.lookup(ip(1), 30080, Protocol::Tcp).is_none());
}

#[test]
fn cve_2020_8554_an_external_address_takes_no_cluster_ip_away() {
    let mut thief = external("a", 1);
    thief.load_balancer_ips = vec![ip(2)];
    thief.external_ips = vec![ip(2), ip(1)];
    let (snapshot, conflicts) = build(vec![thief, service_at("b", 80, vec![ip(2)])]);
    assert_eq!(owner(&snapshot, ip(2), 80, Protocol::Tcp).as_deref(), Some("shop/b:p"));
    let refused: Vec<_> = conflicts.iter().map(|conflict| conflict.address).collect();
    assert_eq!(refused, [Some(ip(2))], "its own ClusterIP is no conflict");
}

#[test]
fn the_first_in_name_order_has_a_disputed_node_port() {
    let (snapshot, conflicts) = build(vec![
        ServicePort { node_port: Some(30080), ..service_at("b", 80, vec![ip(2)]) },
        ServicePort { node_port: Some(30080), ..service_at("a", 80, vec![ip(1)]) },
    ]);
    let found = snapshot.node_port(30080, Protocol::Tcp).expect("it is there");
    assert_eq!(found.name.to_string(), "shop/a:p");
    let said: Vec<_> = conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["shop/b:p claims node port 30080, which shop/a:p has already"]);
}

#[test]
fn the_policy_is_that_of_the_address_and_of_where_the_client_is() {
    use AddressKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    use TrafficPolicy::{Cluster, Local};
    for (internal, external_policy, kinds, inside, outside) in [
        (Cluster, Cluster, &[ClusterIp, LoadBalancer, ExternalIp, NodePort][..], Cluster, Cluster),
        (Local, Cluster, &[ClusterIp], Local, Local),
        (Local, Cluster, &[LoadBalancer, ExternalIp, NodePort], Cluster, Cluster),
        (Cluster, Local, &[ClusterIp], Cluster, Cluster),
        (Cluster, Local, &[LoadBalancer, ExternalIp, NodePort], Cluster, Local),
    ] {
        let internal_policy = internal;
        let web = ServicePort { internal_policy, external_policy, ..external("web", 1) };
        for &kind in kinds {
            assert_eq!(web.policy(kind, Origin::Inside), inside, "{kind:?}");
            assert_eq!(web.policy(kind, Origin::Outside), outside, "{kind:?}");
        }
        assert!(web.uses(Cluster), "the short circuit needs it");
        assert_eq!(web.uses(Local), internal == Local || external_policy == Local);
    }
    let internal_policy = Local;
    let inner = ServicePort { internal_policy, ..service_at("inner", 80, vec![ip(1)]) };
    assert!(!inner.uses(Cluster) && inner.uses(Local));
}

#[test]
fn what_the_kernel_has_to_do_changes_how_a_table_is_reached() {
    let is_reached_as = |change: &dyn Fn(&mut ServicePort)| {
        let service = |change: &dyn Fn(&mut ServicePort)| {
            let mut service = external("web", 1);
            change(&mut service);
            Arc::new(service)
        };
        let (table, _) = Snapshot::new(1, vec![service(&|_| {})]);
        let next = table.next(&[put(&[&service(change)])]);
        next.is_reached_as(&table)
    };
    assert!(is_reached_as(&|_| {}));
    assert!(is_reached_as(&|web| web.scheduler = Some("lc".into())));
    assert!(!is_reached_as(&|web| web.external_policy = TrafficPolicy::Local));
    assert!(!is_reached_as(&|web| web.source_ranges = vec!["192.0.2.0/24".parse().unwrap()]));
    assert!(!is_reached_as(&|web| web.health_check_node_port = Some(31000)));
    assert!(!is_reached_as(&|web| web.disposition.cluster.v4 = Disposition::Balance));
    assert!(is_reached_as(&|web| web.disposition.local.v4 = Disposition::Drop), "not in use");

    let (table, _) = Snapshot::new(1, vec![Arc::new(external("web", 1))]);
    let node = NodeFacts { addresses: vec![ip(9)], ..NodeFacts::default() };
    assert!(!table.clone().with_node(Arc::new(node)).is_reached_as(&table), "another node");
}
