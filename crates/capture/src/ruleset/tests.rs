//! Aim: what the rules do with each kind of packet, in both families.
//! Method: packets are walked through the typed rules by [`trace`](super::trace).

use std::net::SocketAddr;

use streamvs_table::{Family, Protocol};

use super::trace::{Fate, From, Packet, Tracer, Way};
use super::*;
use crate::{Desired, sets};

const MARK: u32 = 0x1;
const GATE: u32 = 0x4;
const PORT: u16 = 15001;

fn ruleset(family: Family) -> Ruleset {
    let (clients, reserve) = match family {
        Family::V4 => ("10.244.1.0/24", "198.18.0.0/15"),
        Family::V6 => ("fd00:1::/64", "fd00:2::/49"),
    };
    let network = |text: &str| text.parse().expect("a network");
    let alias = Alias::new(network(clients), network(reserve)).expect("the one fits");
    Ruleset { family, listen_port: PORT, mark: MARK, gate: Some(GATE), aliases: vec![alias] }
}

/// Addresses of one family: a Service of each disposition, one that is none, and the node.
struct Given {
    ruleset: Ruleset,
    sets: sets::Contents,
    base: &'static str,
}

impl Given {
    fn new(family: Family) -> Self {
        let base = match family {
            Family::V4 => "192.0.2.",
            Family::V6 => "2001:db8::",
        };
        let ip = |last: u8| format!("{base}{last}").parse().expect("an address");
        let desired = Desired {
            capture: [(ip(1), 80)].into(),
            reject: [(ip(2), 80, Protocol::Tcp), (ip(2), 53, Protocol::Udp)].into(),
            drop: [(ip(3), 80, Protocol::Tcp), (ip(3), 53, Protocol::Udp)].into(),
            ..Desired::default()
        };
        let sets = sets::wanted(&desired, &[family], true);
        Self { ruleset: ruleset(family), sets, base }
    }

    fn at(&self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(format!("{}{last}", self.base).parse().expect("an address"), port)
    }

    fn fate(&self, packet: Packet, from: From, way: Way) -> Fate {
        Tracer { ruleset: &self.ruleset, sets: &self.sets }.walk(packet, from, way)
    }
}

fn syn(to: SocketAddr) -> Packet {
    Packet { protocol: Protocol::Tcp, to, mark: GATE, new: true }
}

fn datagram(to: SocketAddr) -> Packet {
    Packet { protocol: Protocol::Udp, ..syn(to) }
}

const EVERYWHERE: [From; 2] = [From::Outside, From::Node];

#[track_caller]
fn check(claim: &str, of: impl Fn(&Given) -> Packet, ways: &[Way], expected: Fate) {
    for family in Family::BOTH {
        let given = Given::new(family);
        for from in EVERYWHERE {
            for &way in ways {
                let fate = given.fate(of(&given), from, way);
                assert_eq!(fate, expected, "{claim}: {family} {from:?} {way:?}");
            }
        }
    }
}

const ANY_WAY: [Way; 3] = [Way::Local, Way::Onwards, Way::Loopback];

#[test]
fn a_new_connection_to_a_service_reaches_the_listener() {
    check("captured", |given| syn(given.at(1, 80)), &ANY_WAY, Fate::Listener);
}

#[test]
fn our_own_connections_are_never_captured() {
    for mark in [MARK, MARK | GATE, MARK | GATE | 0x4000] {
        let own = |given: &Given| Packet { mark, ..syn(given.at(1, 80)) };
        check("own", own, &[Way::Onwards], Fate::Onwards);
        check("own, to the node itself", own, &[Way::Local], Fate::Node);
    }
    // A mark of others is not ours.
    check(
        "of others",
        |given| Packet { mark: GATE | 0x4000, ..syn(given.at(1, 80)) },
        &ANY_WAY,
        Fate::Listener,
    );
}

#[test]
fn behind_a_shut_gate_nothing_is_captured_and_the_rest_is_as_ever() {
    let shut = |packet: Packet| Packet { mark: packet.mark & !GATE, ..packet };
    check("captured", |given| shut(syn(given.at(1, 80))), &[Way::Onwards], Fate::Onwards);
    let reset = Fate::Refused(Verdict::Reset);
    check("refused", |given| shut(syn(given.at(2, 80))), &ANY_WAY, reset);
}

#[test]
fn without_a_gate_no_mark_is_needed() {
    for family in Family::BOTH {
        let mut given = Given::new(family);
        given.ruleset.gate = None;
        let packet = Packet { mark: 0, ..syn(given.at(1, 80)) };
        assert_eq!(given.fate(packet, From::Outside, Way::Onwards), Fate::Listener, "{family}");
    }
}

#[test]
fn other_ports_and_protocols_of_a_service_address_are_left_alone() {
    check("another port", |given| syn(given.at(1, 81)), &[Way::Onwards], Fate::Onwards);
    check("another protocol", |given| datagram(given.at(1, 80)), &[Way::Onwards], Fate::Onwards);
    check("no service", |given| syn(given.at(9, 80)), &[Way::Onwards], Fate::Onwards);
}

#[test]
fn services_without_endpoints_are_refused_at_once_in_words_of_the_protocol() {
    let reset = Fate::Refused(Verdict::Reset);
    check("tcp", |given| syn(given.at(2, 80)), &ANY_WAY, reset);
    let unreachable = Fate::Refused(Verdict::PortUnreachable);
    check("udp", |given| datagram(given.at(2, 53)), &ANY_WAY, unreachable);
}

#[test]
fn services_without_local_endpoints_are_dropped() {
    let dropped = Fate::Refused(Verdict::Drop);
    check("tcp", |given| syn(given.at(3, 80)), &ANY_WAY, dropped);
    check("udp", |given| datagram(given.at(3, 53)), &ANY_WAY, dropped);
}

#[test]
fn established_connections_are_not_refused() {
    for last in [2, 3] {
        let later = |given: &Given| Packet { new: false, ..syn(given.at(last, 80)) };
        check("later packet", later, &[Way::Onwards], Fate::Onwards);
    }
}

#[test]
fn who_dials_the_listener_is_reset_whatever_address_he_takes() {
    let reset = Fate::Refused(Verdict::Reset);
    check("the node's address", |given| syn(given.at(7, PORT)), &[Way::Local], reset);
    let listener_itself =
        |given: &Given| syn(SocketAddr::new(listener(given.ruleset.family), PORT));
    check("the listener's address", listener_itself, &[Way::Local], reset);
    let ours = |given: &Given| Packet { mark: MARK, ..syn(given.at(7, PORT)) };
    check("with our mark", ours, &[Way::Local], reset);
}

#[test]
fn a_socket_of_the_node_that_has_the_listeners_port_as_its_own_goes_on() {
    let answer = |given: &Given| Packet { new: false, ..syn(given.at(7, PORT)) };
    check("answer to it", answer, &[Way::Local], Fate::Node);
}

#[test]
fn what_pods_send_to_nobody_in_a_service_range_of_ours_is_answered_and_does_not_loop() {
    for family in Family::BOTH {
        let given = Given::new(family);
        let to_nobody = syn(given.at(9, 80));
        let fate = given.fate(to_nobody, From::Outside, Way::Loopback);
        assert_eq!(fate, Fate::Refused(Verdict::NoRoute), "{family}");
    }
}

#[test]
fn only_our_own_connections_from_an_alias_leave_as_the_client() {
    for (family, alias, other) in
        [(Family::V4, "198.18.0.7", "198.18.1.7"), (Family::V6, "fd00:2::7", "fd00:2:0:1::7")]
    {
        let given = Given::new(family);
        let leaves = |source: &str, mark: u32| {
            let source = source.parse().expect("an address");
            let packet = Packet { mark, ..syn(given.at(9, 80)) };
            Tracer { ruleset: &given.ruleset, sets: &given.sets }.leave(packet, source)
        };
        let clients = given.ruleset.aliases[0].clients();
        assert_eq!(leaves(alias, MARK), Some(Verdict::From(clients)), "{family}");
        assert_eq!(leaves(alias, MARK | 0x4000), Some(Verdict::From(clients)), "{family}");
        assert_eq!(leaves(alias, 0), None, "{family}: a pod that takes an alias as source");
        assert_eq!(leaves(other, MARK), None, "{family}: an address that stands for nobody");
    }
}

#[test]
fn no_rule_leads_in_a_circle_and_each_chain_is_led_to() {
    for family in Family::BOTH {
        let ruleset = ruleset(family);
        for chain in Chain::ALL {
            let jumps = Table::ALL.into_iter().flat_map(Table::jumps);
            let calls = Chain::ALL.into_iter().flat_map(|from| ruleset.rules(from));
            let led_to = jumps.map(|jump| jump.chain).any(|to| to == chain)
                || calls.map(|rule| rule.verdict).any(|verdict| verdict == Verdict::Call(chain));
            assert!(led_to, "{} {family}", chain.as_str());
        }
    }
}
