//! Aim: a change costs its own Services. What it does to a kernel is tested in namespaces.

use streamvs_table::Protocol;

use super::*;
use crate::testing::port;

fn names(ports: &[&ServicePort]) -> Vec<String> {
    ports.iter().map(|port| port.name.to_string()).collect()
}

fn named(name: &str, address: &str, endpoints: &[&str]) -> Arc<ServicePort> {
    Arc::new(port(name, Protocol::Udp, &[address], 53, endpoints))
}

#[test]
fn only_what_is_another_object_differs() {
    let (a, b, c) = (
        named("a", "10.96.0.1", &[]),
        named("b", "10.96.0.2", &[]),
        named("c", "10.96.0.3", &["10.244.1.1:1"]),
    );
    let before = Snapshot::new(1, vec![a.clone(), b.clone()]).0;
    let changed = named("b", "10.96.0.2", &["10.244.1.1:1"]);
    let after = Snapshot::new(2, vec![a, changed, c]).0;
    let (left, joined) = difference(&before, &after);
    assert_eq!(names(&left), ["shop/b"]);
    assert_eq!(names(&joined), ["shop/b", "shop/c"]);
    let (left, joined) = difference(&after, &before);
    assert_eq!(names(&left), ["shop/b", "shop/c"]);
    assert_eq!(names(&joined), ["shop/b"]);
    assert!(udp_differs(&before, &after, Family::V4) && !udp_differs(&after, &after, Family::V4));
    assert!(!udp_differs(&before, &after, Family::V6), "no ipv6 flow can be concerned");
}

#[test]
fn everything_differs_where_addresses_may_have_changed_hands() {
    let (a, b) = (named("a", "10.96.0.1", &[]), named("b", "10.96.0.1", &[]));
    let before = Snapshot::new(1, vec![a, b.clone()]).0;
    let after = Snapshot::new(2, vec![b]).0;
    let (left, joined) = difference(&before, &after);
    assert_eq!(names(&left), ["shop/a", "shop/b"]);
    assert_eq!(names(&joined), ["shop/b"], "it owns the address now");
}

#[test]
fn a_dispute_that_stays_as_it_is_costs_nothing() {
    let refused = named("refused", "10.96.0.1", &[]);
    let owner = named("owner", "10.96.0.1", &[]);
    let free = |endpoints| named("free", "10.96.0.3", endpoints);
    let (before, conflicts) = Snapshot::new(1, vec![owner.clone(), refused.clone(), free(&[])]);
    assert_eq!(conflicts.len(), 1);
    let change = |port: Arc<ServicePort>| (port.name.service.clone(), vec![port]);
    let after = before.next(&[change(free(&["10.244.1.1:1"]))]);
    let (left, joined) = difference(&before, &after);
    assert_eq!(
        (names(&left), names(&joined)),
        (vec!["shop/free".into()], vec!["shop/free".into()])
    );
    let after = before.next(&[change(port("free", Protocol::Tcp, &["10.96.0.3"], 53, &[]).into())]);
    let next = after
        .next(&[change(port("free", Protocol::Tcp, &["10.96.0.3"], 53, &["10.244.1.1:1"]).into())]);
    assert!(!udp_differs(&after, &next, Family::V4), "the dispute is about UDP, the change not");
    let after = before.next(&[(owner.name.service.clone(), vec![])]);
    let (left, joined) = difference(&before, &after);
    assert_eq!((left.len(), joined.len()), (3, 2), "the address changed hands");
}

#[test]
fn hairpins_are_counted_over_services() {
    let ip = |last: u8| IpAddr::from([10, 244, 1, last]);
    let mut total = BTreeMap::from([(ip(1), 2), (ip(2), 1)]);
    add_up(&mut total, &[(ip(1), 1), (ip(2), 1)].into(), &[(ip(3), 1)].into());
    assert_eq!(total, [(ip(1), 1), (ip(3), 1)].into());
}
