//! Aim: exactly the flows that lead astray are forgotten, in all three cases.

use streamvs_table::{Protocol, ServicePort, Usability};

use super::*;
use crate::testing::{port, snapshot};

fn dns(endpoints: &[&str]) -> ServicePort {
    port("dns", Protocol::Udp, &["10.96.0.10"], 53, endpoints)
}

#[track_caller]
fn check(answers_from: &str, before: Vec<ServicePort>, after: Vec<ServicePort>, stale: bool) {
    let flow = Flow {
        dialled: "10.96.0.10:53".parse().expect("an address"),
        answers_from: answers_from.parse().expect("an address"),
    };
    assert_eq!(is_stale(&flow, &snapshot(before), &snapshot(after)), stale);
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

#[test]
fn a_length_that_cannot_be_is_an_error() {
    let with = |length: u32, size: usize| {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        length_of(&bytes).ok()
    };
    assert_eq!(
        [with(20, 20), with(21, 20), with(0, 20), with(15, 40)],
        [Some(20), None, None, None]
    );
    assert!(length_of(&[1, 2]).is_err());
}
