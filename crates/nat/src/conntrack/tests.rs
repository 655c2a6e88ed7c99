//! Aim: exactly the flows that lead astray are forgotten, in all three cases.

use streamvs_table::{Protocol, ServicePort, Usability};

use super::*;
use crate::testing::{balancer, port, ranges, snapshot};

fn dns(endpoints: &[&str]) -> ServicePort {
    port("dns", Protocol::Udp, &["10.96.0.10"], 53, endpoints)
}

fn flow(dialled: &str, answers_from: &str) -> Flow {
    let address = |text: &str| text.parse().expect("an address");
    Flow { dialled: address(dialled), answers_from: address(answers_from) }
}

/// On a node with this address and those that its Node object names.
fn is_stale_at(flow: &Flow, before: &Snapshot, after: &Snapshot, ranges: &Ranges) -> bool {
    let own = ["192.0.2.1", "10.244.1.1", "127.0.0.1"].map(|ip| ip.parse().expect("an address"));
    is_stale(flow, before, after, NodePorts { ranges, own: &own.into() })
}

#[track_caller]
fn check(answers_from: &str, before: Vec<ServicePort>, after: Vec<ServicePort>, stale: bool) {
    let flow = flow("10.96.0.10:53", answers_from);
    assert_eq!(is_stale_at(&flow, &snapshot(before), &snapshot(after), &ranges()), stale);
}

#[test]
fn flows_by_every_address_of_a_service_go_with_their_endpoint() {
    let table = |endpoints: &[&str]| snapshot(vec![balancer("dns", endpoints)]);
    let both = table(&["10.244.1.10:53", "10.244.1.11:53"]);
    let left = table(&["10.244.1.11:53"]);
    for dialled in ["10.96.0.10:53", "203.0.113.7:53", "192.0.2.1:30053"] {
        let [gone, stays, untranslated] = ["10.244.1.10:53", "10.244.1.11:53", dialled]
            .map(|answers_from| flow(dialled, answers_from));
        assert!(is_stale_at(&gone, &both, &left, &ranges()), "{dialled}");
        assert!(!is_stale_at(&stays, &both, &left, &ranges()), "{dialled}");
        assert!(is_stale_at(&stays, &both, &table(&[]), &ranges()), "{dialled}");
        assert!(is_stale_at(&untranslated, &snapshot(vec![]), &left, &ranges()), "{dialled}");
        assert!(!is_stale_at(&untranslated, &left, &snapshot(vec![]), &ranges()), "{dialled}");
    }
}

#[test]
fn flows_to_the_port_of_another_host_are_not_touched_and_those_to_the_nodes_are() {
    let table = snapshot(vec![balancer("dns", &["10.244.1.10:53"])]);
    let all = Ranges { node: ["0.0.0.0/0".parse().expect("a range")].into(), ..ranges() };
    let wide = Ranges { node: ["198.51.100.0/24".parse().expect("a range")].into(), ..ranges() };
    let to_others = flow("198.51.100.9:30053", "198.51.100.9:30053");
    // At an address that no Node object names.
    let to_node = flow("10.244.1.1:30053", "10.244.1.1:30053");
    let translated = flow("192.0.2.9:30053", "10.244.1.99:53");
    for (flow, ranges, stale) in [
        (to_others, ranges(), false),
        (to_others, all.clone(), false),
        (to_others, wide, false),
        (translated, ranges(), false),
        (translated, all.clone(), true),
        (to_node, all.clone(), true),
        (to_node, ranges(), false),
        (flow("127.0.0.1:30053", "127.0.0.1:30053"), all, false),
    ] {
        assert_eq!(is_stale_at(&flow, &table, &table, &ranges), stale, "{flow:?} {ranges:?}");
    }
}

#[test]
fn a_flow_from_outside_stays_at_an_endpoint_that_serves_elsewhere() {
    let mut port = balancer("dns", &["10.244.2.10:53"]);
    port.external_policy = TrafficPolicy::Local;
    port.disposition.local.v4 = Disposition::Drop;
    let table = snapshot(vec![port]);
    assert!(!is_stale_at(&flow("203.0.113.7:53", "10.244.2.10:53"), &table, &table, &ranges()));
}

#[test]
fn flows_to_a_removed_endpoint_go_and_others_stay() {
    let (both, left) = (["10.244.1.10:53", "10.244.1.11:53"], ["10.244.1.11:53"]);
    check("10.244.1.10:53", vec![dns(&both)], vec![dns(&left)], true);
    check("10.244.1.11:53", vec![dns(&both)], vec![dns(&left)], false);
    check("10.244.1.11:54", vec![dns(&both)], vec![dns(&left)], true);
}

#[test]
fn flows_from_before_the_first_endpoint_go() {
    check("10.96.0.10:53", vec![dns(&[])], vec![dns(&["10.244.1.10:53"])], true);
    check("10.96.0.10:53", vec![], vec![dns(&["10.244.1.10:53"])], true);
}

#[test]
fn flows_go_with_the_last_endpoint_and_with_the_service() {
    check("10.244.1.10:53", vec![dns(&["10.244.1.10:53"])], vec![dns(&[])], true);
    check("10.244.1.10:53", vec![dns(&["10.244.1.10:53"])], vec![], true);
    check("10.96.0.10:53", vec![dns(&[])], vec![], false);
}

#[test]
fn flows_stay_while_their_endpoint_serves_until_its_end() {
    let mut terminating = dns(&["10.244.1.10:53", "10.244.1.11:53"]);
    let endpoint = &mut terminating.endpoints[0];
    (endpoint.ready, endpoint.terminating) = (false, true);
    endpoint.usability.cluster = Usability::Terminating;
    check("10.244.1.10:53", vec![], vec![terminating.clone()], false);
    terminating.endpoints[0].serving = false;
    check("10.244.1.10:53", vec![], vec![terminating], true);
}

#[test]
fn flows_of_others_are_not_touched() {
    let other = port("dns", Protocol::Udp, &["10.96.0.10"], 54, &["10.244.1.10:53"]);
    let tcp = port("dns", Protocol::Tcp, &["10.96.0.10"], 53, &["10.244.1.10:53"]);
    check("10.244.9.9:53", vec![], vec![other, tcp], false);
}
