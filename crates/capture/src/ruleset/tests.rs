//! Aim: what the rules do with each kind of packet, in both families.
//! Method: packets are walked through the typed rules by [`trace`](super::trace).

use std::net::{IpAddr, SocketAddr};

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
        let range = |last: u8, v4: u8, v6: u8| {
            let length = if family == Family::V4 { v4 } else { v6 };
            format!("{base}{last}/{length}").parse::<IpNet>().expect("a range").trunc()
        };
        let desired = Desired {
            capture: [(ip(1), 80)].into(),
            reject: [(ip(2), 80, Protocol::Tcp), (ip(2), 53, Protocol::Udp)].into(),
            drop: [(ip(3), 80, Protocol::Tcp), (ip(3), 53, Protocol::Udp)].into(),
            // Clients 10 to 19 or so are pods; 100 is somebody outside.
            pod_ranges: [range(16, 28, 124)].into(),
            inner: [(ip(4), 80)].into(),
            guarded: [(ip(5), 80, Protocol::Tcp)].into(),
            allowed: [(ip(5), 80, Protocol::Tcp, range(100, 32, 128))].into(),
            node_ranges: [range(7, 32, 128)].into(),
            node_capture: [(family, 30_080, Protocol::Tcp)].into(),
            node_inner: [(family, 30_081, Protocol::Tcp)].into(),
            node_reject: [(family, 30_082, Protocol::Tcp), (family, 30_082, Protocol::Udp)].into(),
            node_drop: [(family, 30_081, Protocol::Tcp)].into(),
            health: [(family, 31_000, Protocol::Tcp)].into(),
            ..Desired::default()
        };
        let mut desired = desired;
        desired.capture.insert((ip(5), 80));
        desired.drop.insert((ip(4), 80, Protocol::Tcp));
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

/// A neighbour of an address.
fn client(ip: IpAddr, last: u8) -> IpAddr {
    let base = if ip.is_ipv4() { "192.0.2." } else { "2001:db8::" };
    format!("{base}{last}").parse().expect("an address")
}

fn syn(to: SocketAddr) -> Packet {
    Packet { protocol: Protocol::Tcp, from: client(to.ip(), 100), to, mark: GATE, new: true }
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

// --- what comes from outside ---------------------------------------------------------------------

const POD: u8 = 18;
const OUTSIDER: u8 = 100;
const OTHER: u8 = 101;
const NODE: u8 = 7;

/// A connection from a client to a port of an address, in both families.
#[track_caller]
fn fates(last: u8, port: u16, way: Way, expected: &[(u8, From, Fate)]) {
    for family in Family::BOTH {
        let given = Given::new(family);
        for &(from, place, fate) in expected {
            let to = given.at(last, port);
            let packet = Packet { from: client(to.ip(), from), ..syn(to) };
            let found = given.fate(packet, place, way);
            assert_eq!(found, fate, "{family} from {from} {place:?} to {last}:{port}");
        }
    }
}

const DROPPED: Fate = Fate::Refused(Verdict::Drop);

#[test]
fn without_local_endpoints_pods_and_the_node_are_served_and_outsiders_dropped() {
    let inside = [(POD, From::Outside, Fate::Listener), (NODE, From::Node, Fate::Listener)];
    let outside = [(OUTSIDER, From::Outside, DROPPED)];
    let all = [&inside[..], &outside].concat();
    fates(4, 80, Way::Onwards, &all);
    fates(NODE, 30_081, Way::Local, &all);
}

#[test]
fn a_guarded_address_lets_in_whom_its_ranges_name() {
    let allowed = (OUTSIDER, From::Outside, Fate::Listener);
    let all = [allowed, (OTHER, From::Outside, DROPPED), (POD, From::Outside, DROPPED)];
    fates(5, 80, Way::Onwards, &all);
    fates(5, 80, Way::Local, &all);
}

#[test]
fn a_node_port_is_served_at_the_nodes_own_addresses_within_the_ranges() {
    let everybody = [
        (POD, From::Outside, Fate::Listener),
        (OUTSIDER, From::Outside, Fate::Listener),
        (NODE, From::Node, Fate::Listener),
    ];
    fates(NODE, 30_080, Way::Local, &everybody);
    // The same port elsewhere, another address of the node, another port of the node.
    fates(NODE, 30_080, Way::Onwards, &[(OUTSIDER, From::Outside, Fate::Onwards)]);
    fates(8, 30_080, Way::Local, &[(OUTSIDER, From::Outside, Fate::Node)]);
    fates(NODE, 30_090, Way::Local, &[(OUTSIDER, From::Outside, Fate::Node)]);
}

#[test]
fn a_node_port_without_endpoints_is_refused_in_words_of_the_protocol() {
    let reset = Fate::Refused(Verdict::Reset);
    fates(NODE, 30_082, Way::Local, &[(POD, From::Outside, reset), (NODE, From::Node, reset)]);
    let unreachable = Fate::Refused(Verdict::PortUnreachable);
    check("udp", |given| datagram(given.at(NODE, 30_082)), &[Way::Local], unreachable);
}

#[test]
fn a_service_address_comes_before_a_node_port() {
    for family in Family::BOTH {
        let mut given = Given::new(family);
        let to = given.at(NODE, 30_082);
        let name = SetName { purpose: Purpose::Capture, family };
        let element = sets::Element::Address(to.ip(), to.port(), Protocol::Tcp);
        given.sets.entry(name).or_default().insert(element);
        assert_eq!(given.fate(syn(to), From::Outside, Way::Local), Fate::Listener, "{family}");
    }
}

#[test]
fn a_health_check_reaches_its_port() {
    fates(NODE, 31_000, Way::Local, &[(OUTSIDER, From::Outside, Fate::Node)]);
}
