//! Who is found under which address, and who is refused one.

use std::net::{Ipv4Addr, SocketAddr};

use super::*;
use crate::{
    Disposition, Endpoint, PerFamily, ProtocolHint, ServiceName, TrafficPolicy, Usability,
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
        usability,
    }
}

fn service(name: ServicePortName, port: u16, cluster_ips: Vec<IpAddr>) -> ServicePort {
    ServicePort {
        name,
        port,
        node_port: None,
        cluster_ips,
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        endpoints: Vec::new(),
        disposition: PerFamily::default(),
        reasons: Default::default(),
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
    assert!(snapshot.services().is_empty());
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
            assert_eq!((conflict.address, conflict.port), (ip(1), 80));
        }
        assert_eq!(
            conflicts[0].to_string(),
            "shop/b:p claims 198.51.100.1 port 80, which shop/a:p has already"
        );
        assert_eq!(snapshot.services().len(), 3, "a refused one is listed all the same");
    }
}

#[test]
fn a_name_stands_once_and_the_first_given_is_kept() {
    let other = service(web().name, 81, vec![ip(2)]);
    let (snapshot, conflicts) = build(vec![web(), other]);
    assert_eq!(conflicts, []);
    assert_eq!(snapshot.services().len(), 1);
    assert_eq!(snapshot.services()[0].port, 80);
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
    let listed: Vec<_> = snapshot.services().iter().map(|service| &service.name).collect();
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

#[test]
fn the_next_table_is_the_one_built_from_scratch() {
    let p = |service: &str, port, last| {
        Arc::new(service_at(service, port, vec![ip(last), v6(last.into())]))
    };
    let (a, b, c) = (p("a", 80, 1), p("b", 80, 2), p("c", 80, 3));
    let grown = Arc::new(ServicePort {
        endpoints: vec![endpoint(1, Usability::Ready)],
        disposition: PerFamily { v4: Disposition::Balance, v6: Disposition::Reject },
        ..service_at("b", 80, vec![ip(2), v6(2)])
    });
    let (old, _) = Snapshot::new(7, vec![Arc::clone(&a), Arc::clone(&b), Arc::clone(&c)]);
    for (why, services, shares) in [
        ("nothing changed", vec![&a, &b, &c], true),
        ("an endpoint came", vec![&a, &grown, &c], true),
        ("one is gone", vec![&a, &c], false),
        ("one is new", vec![&a, &b, &c, &p("d", 80, 4)], false),
        ("a port changed", vec![&a, &p("b", 81, 2), &c], false),
        ("an address changed", vec![&a, &p("b", 80, 9), &c], false),
        ("a name changed", vec![&a, &p("bb", 80, 2), &c], false),
        ("an address is disputed now", vec![&a, &p("b", 80, 1), &c], false),
        ("two changed places", vec![&p("a", 80, 2), &p("b", 80, 1), &c], false),
        ("unsorted", vec![&c, &b, &a], false),
    ] {
        let services: Vec<_> = services.into_iter().map(Arc::clone).collect();
        let (next, conflicts) = old.next(services.clone());
        let (scratch, scratch_conflicts) = Snapshot::new(8, services);
        next.check_invariants();
        assert_eq!(next.generation(), 8, "{why}");
        assert_eq!(Arc::ptr_eq(&next.by_address, &old.by_address), shares, "{why}");
        assert_eq!(next.by_address, scratch.by_address, "{why}");
        assert!(next.services().iter().zip(scratch.services()).all(|(a, b)| Arc::ptr_eq(a, b)));
        assert_eq!(next.services().len(), scratch.services().len(), "{why}");
        assert_eq!(conflicts, (!shares).then_some(scratch_conflicts), "{why}");
    }
}

// --- check_invariants finds what it is there to find --------------------------------------------

fn check(change: impl FnOnce(&mut ServicePort)) {
    let mut web = web();
    web.endpoints = vec![endpoint(1, Usability::Ready), endpoint(2, Usability::NotReady)];
    web.disposition.v4 = Disposition::Balance;
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
    check(|web| web.endpoints[0].usability = Usability::NotLocal);
}

#[test]
#[should_panic(expected = "disposition of shop/web:http IPv4")]
fn refusing_with_a_usable_endpoint_is_found() {
    check(|web| web.disposition.v4 = Disposition::Drop);
}

#[test]
fn endpoints_alone_do_not_change_how_a_table_is_reached() {
    let balance = PerFamily { v4: Disposition::Balance, v6: Disposition::Reject };
    let with = |endpoints: &[u8], disposition, port| {
        let endpoints = endpoints.iter().map(|&last| endpoint(last, Usability::Ready)).collect();
        let at = service(name("a", "", Protocol::Tcp), port, vec![ip(1)]);
        Arc::new(ServicePort { endpoints, disposition, ..at })
    };
    let (table, _) = Snapshot::new(1, vec![with(&[1], balance, 80)]);
    for (what, next, alike) in [
        ("another endpoint", with(&[1, 2], balance, 80), true),
        ("the last endpoint went", with(&[], PerFamily::default(), 80), false),
        ("another port", with(&[1], balance, 81), false),
    ] {
        let (next, _) = table.next(vec![next]);
        assert_eq!(next.is_reached_as(&table), alike, "{what}");
    }
    assert!(!table.is_reached_as(&Snapshot::default()), "the first table is news");
}
