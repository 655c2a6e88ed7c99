//! Aim: the text is the same for the same change, and says that change and no more.

use streamvs_table::{Disposition, Family, Protocol, ServicePort, TrafficPolicy, Usability};

use super::*;
use crate::contents::Common;
use crate::order::Order;
use crate::ranges::Ranges;
use crate::script::ELEMENTS;
use crate::testing::{MARK, balancer, port, snapshot, sticky, whole};

fn dns(endpoints: &[&str]) -> ServicePort {
    port("dns", Protocol::Udp, &["10.96.0.10", "fd00:96::10"], 53, endpoints)
}

fn contents_of(ports: Vec<ServicePort>) -> Contents {
    crate::testing::contents(&snapshot(ports), Family::V4)
}

/// The script from some Services to others.
fn between(old: Vec<ServicePort>, new: Vec<ServicePort>) -> String {
    let [old, new] = [old, new].map(contents_of);
    let (_, mut shared) = whole(Family::V4, &old);
    let mut script = Script::new();
    contents(&mut script, Family::V4, &old, &new, &mut shared);
    script.text().to_owned()
}

#[test]
fn a_table_from_nothing_is_this_text() {
    let mut local = dns(&["10.244.1.10:5353", "10.244.2.10:5353"]);
    local.endpoints[0].local = true;
    let ports = vec![local, port("call", Protocol::Sctp, &["10.96.0.11"], 9, &["10.244.1.11:99"])];
    let (text, _) = whole(Family::V4, &contents_of(ports));
    let version = layout::version(Family::V4, MARK);
    assert_eq!(
        text.replace(&version, "VERSION"),
        "\
add table ip streamvs-nat
add map ip streamvs-nat services { type inet_proto . ipv4_addr . inet_service : verdict; }
add map ip streamvs-nat node-ports { type inet_proto . inet_service : verdict; }
add map ip streamvs-nat local-services { type inet_proto . ipv4_addr . inet_service : verdict; }
add map ip streamvs-nat local-node-ports { type inet_proto . inet_service : verdict; }
add set ip streamvs-nat node-addresses { type ipv4_addr; flags interval; }
add set ip streamvs-nat pods { type ipv4_addr; flags interval; }
add set ip streamvs-nat unmasqueraded { type ipv4_addr; flags interval; }
add set ip streamvs-nat hairpin { type ipv4_addr . ipv4_addr; }
add chain ip streamvs-nat dispatch
add rule ip streamvs-nat dispatch meta l4proto . ip daddr . th dport vmap @services
add rule ip streamvs-nat dispatch ip daddr @node-addresses ip daddr != 127.0.0.0/8 fib daddr type local meta l4proto . th dport vmap @node-ports
add chain ip streamvs-nat prerouting { type nat hook prerouting priority -95; }
add rule ip streamvs-nat prerouting goto dispatch
add chain ip streamvs-nat output { type nat hook output priority -95; }
add rule ip streamvs-nat output goto dispatch
add chain ip streamvs-nat to-masquerade
add rule ip streamvs-nat to-masquerade meta mark set meta mark | 0x4000
add chain ip streamvs-nat postrouting { type nat hook postrouting priority 100; }
add rule ip streamvs-nat postrouting meta mark & 0x4000 == 0x4000 meta mark set meta mark & 0xffffbfff ct status dnat masquerade fully-random
add rule ip streamvs-nat postrouting ct status dnat ip saddr . ip daddr @hairpin masquerade
add rule ip streamvs-nat postrouting ct status dnat ip saddr 127.0.0.0/8 oifname != \"lo\" masquerade
add chain ip streamvs-nat VERSION
add element ip streamvs-nat node-addresses { 192.0.2.1/32 }
add element ip streamvs-nat pods { 10.244.0.0/16 }
add element ip streamvs-nat unmasqueraded { 10.244.0.0/16 }
add map ip streamvs-nat endpoint-0 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map ip streamvs-nat node-endpoint-0 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip streamvs-nat pick-0
add rule ip streamvs-nat pick-0 dnat ip to meta l4proto . ip daddr . th dport map @endpoint-0
add rule ip streamvs-nat pick-0 dnat ip to meta l4proto . th dport map @node-endpoint-0
add map ip streamvs-nat endpoint-1 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map ip streamvs-nat node-endpoint-1 { type inet_proto . inet_service : ipv4_addr . inet_service; }
add chain ip streamvs-nat pick-1
add rule ip streamvs-nat pick-1 dnat ip to meta l4proto . ip daddr . th dport map @endpoint-1
add rule ip streamvs-nat pick-1 dnat ip to meta l4proto . th dport map @node-endpoint-1
add chain ip streamvs-nat rr-2-0a
add rule ip streamvs-nat rr-2-0a numgen inc mod 2 vmap { 0 : goto pick-0, 1 : goto pick-1 }
add chain ip streamvs-nat random-1
add rule ip streamvs-nat random-1 goto pick-0
add chain ip streamvs-nat masquerade-rr-2-0a
add rule ip streamvs-nat masquerade-rr-2-0a jump to-masquerade
add rule ip streamvs-nat masquerade-rr-2-0a goto rr-2-0a
add chain ip streamvs-nat masquerade-random-1
add rule ip streamvs-nat masquerade-random-1 jump to-masquerade
add rule ip streamvs-nat masquerade-random-1 goto random-1
add chain ip streamvs-nat enter-rr-2-0a
add rule ip streamvs-nat enter-rr-2-0a ip saddr @unmasqueraded goto rr-2-0a
add rule ip streamvs-nat enter-rr-2-0a goto masquerade-rr-2-0a
add chain ip streamvs-nat enter-random-1
add rule ip streamvs-nat enter-random-1 ip saddr @unmasqueraded goto random-1
add rule ip streamvs-nat enter-random-1 goto masquerade-random-1
add element ip streamvs-nat services { udp . 10.96.0.10 . 53 : goto enter-rr-2-0a, sctp . 10.96.0.11 . 9 : goto enter-random-1 }
add element ip streamvs-nat endpoint-0 { udp . 10.96.0.10 . 53 : 10.244.1.10 . 5353, sctp . 10.96.0.11 . 9 : 10.244.1.11 . 99 }
add element ip streamvs-nat endpoint-1 { udp . 10.96.0.10 . 53 : 10.244.2.10 . 5353 }
add element ip streamvs-nat hairpin { 10.244.1.10 . 10.244.1.10 }
"
    );
}

#[test]
fn ipv6_has_the_words_of_its_family() {
    let ports = vec![sticky(dns(&["[fd00:244::10]:5353"]), 60)];
    let (text, _) = whole(Family::V6, &crate::testing::contents(&snapshot(ports), Family::V6));
    for part in [
        "add set ip6 streamvs-nat hairpin { type ipv6_addr . ipv6_addr; }",
        "meta l4proto . ip6 daddr . th dport vmap @services",
        "ip6 saddr ::1 oifname",
        "dnat to [fd00:244::10]:5353",
        "{ udp . fd00:96::10 . 53 : goto enter-sticky-",
        "type ipv6_addr; size 65535; flags dynamic,timeout; timeout 60s;",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("ip saddr") && !text.contains("ipv4"), "{text}");
}

#[test]
fn a_change_of_endpoints_is_a_change_of_elements() {
    for (old, new, wanted) in [
        (
            &["10.244.1.10:53", "10.244.1.11:53"][..],
            &["10.244.1.10:53", "10.244.1.12:53"][..],
            "\
delete element ip streamvs-nat endpoint-1 { udp . 10.96.0.10 . 53 }
add element ip streamvs-nat endpoint-1 { udp . 10.96.0.10 . 53 : 10.244.1.12 . 53 }
",
        ),
        (
            &["10.244.1.10:53", "10.244.1.11:53"],
            &["10.244.1.10:53"],
            "\
delete element ip streamvs-nat services { udp . 10.96.0.10 . 53 }
delete element ip streamvs-nat endpoint-1 { udp . 10.96.0.10 . 53 }
add chain ip streamvs-nat random-1
add rule ip streamvs-nat random-1 goto pick-0
add chain ip streamvs-nat masquerade-random-1
add rule ip streamvs-nat masquerade-random-1 jump to-masquerade
add rule ip streamvs-nat masquerade-random-1 goto random-1
add chain ip streamvs-nat enter-random-1
add rule ip streamvs-nat enter-random-1 ip saddr @unmasqueraded goto random-1
add rule ip streamvs-nat enter-random-1 goto masquerade-random-1
add element ip streamvs-nat services { udp . 10.96.0.10 . 53 : goto enter-random-1 }
",
        ),
        (
            &["10.244.1.10:53"],
            &[],
            "\
delete element ip streamvs-nat services { udp . 10.96.0.10 . 53 }
delete element ip streamvs-nat endpoint-0 { udp . 10.96.0.10 . 53 }
",
        ),
        (&["10.244.1.10:53"], &["10.244.1.10:53"], ""),
    ] {
        assert_eq!(between(vec![dns(old)], vec![dns(new)]), wanted);
    }
}

/// From nothing to a load balancer's Service: what the elements are, and the chains besides those
/// that pick.
fn external(change: impl FnOnce(&mut ServicePort)) -> String {
    let mut port = balancer("dns", &["10.244.1.10:53", "10.244.2.10:53"]);
    port.endpoints[0].local = true;
    change(&mut port);
    let contents = contents_of(vec![port]);
    let (text, _) = whole(Family::V4, &contents);
    let (_, text) =
        text.split_once("unmasqueraded { 10.244.0.0/16 }\n").expect("the ranges come first");
    let is_told = |line: &&str| !line.contains("pick-") && !line.starts_with("add map");
    let lines = text.lines().filter(is_told).map(|line| line.replace(" ip streamvs-nat", ""));
    lines.map(|line| line + "\n").collect()
}

#[test]
fn whoever_comes_by_an_external_address_is_masqueraded() {
    assert_eq!(
        external(|_| {}),
        "\
add chain rr-2-0a
add chain masquerade-rr-2-0a
add rule masquerade-rr-2-0a jump to-masquerade
add rule masquerade-rr-2-0a goto rr-2-0a
add chain enter-rr-2-0a
add rule enter-rr-2-0a ip saddr @unmasqueraded goto rr-2-0a
add rule enter-rr-2-0a goto masquerade-rr-2-0a
add element services { udp . 10.96.0.10 . 53 : goto enter-rr-2-0a, udp . 203.0.113.7 . 53 : goto masquerade-rr-2-0a }
add element endpoint-0 { udp . 10.96.0.10 . 53 : 10.244.1.10 . 53, udp . 203.0.113.7 . 53 : 10.244.1.10 . 53 }
add element endpoint-1 { udp . 10.96.0.10 . 53 : 10.244.2.10 . 53, udp . 203.0.113.7 . 53 : 10.244.2.10 . 53 }
add element node-ports { udp . 30053 : goto masquerade-rr-2-0a }
add element node-endpoint-0 { udp . 30053 : 10.244.1.10 . 53 }
add element node-endpoint-1 { udp . 30053 : 10.244.2.10 . 53 }
add element hairpin { 10.244.1.10 . 10.244.1.10 }
"
    );
}

#[test]
fn the_local_policy_leads_those_outside_to_another_list() {
    let local = |port: &mut ServicePort| {
        port.external_policy = TrafficPolicy::Local;
        port.endpoints[0].usability.local = Usability::Ready;
        port.disposition.local.v4 = Disposition::Balance;
    };
    let text = external(local);
    for line in [
        "add rule split-rr-2-0a ip saddr @pods goto rr-2-0a",
        "add rule split-rr-2-0a fib saddr type local goto masquerade-rr-2-0a",
        "add rule split-rr-2-0a meta l4proto . ip daddr . th dport vmap @local-services",
        "add rule split-rr-2-0a meta l4proto . th dport vmap @local-node-ports",
        "add element services { udp . 10.96.0.10 . 53 : goto enter-rr-2-0a, udp . 203.0.113.7 . 53 : goto split-rr-2-0a }",
        "add element node-ports { udp . 30053 : goto split-rr-2-0a }",
        "add element local-services { udp . 203.0.113.7 . 53 : goto local-random-1 }",
        "add element local-endpoint-0 { udp . 203.0.113.7 . 53 : 10.244.1.10 . 53 }",
        "add element local-node-ports { udp . 30053 : goto local-random-1 }",
        "add element local-node-endpoint-0 { udp . 30053 : 10.244.1.10 . 53 }",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    let text = external(|port| {
        local(port);
        port.disposition.local.v4 = Disposition::Drop;
    });
    for line in [
        "add element local-services { udp . 203.0.113.7 . 53 : accept }",
        "add element local-node-ports { udp . 30053 : accept }",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
    assert!(!text.contains("local-endpoint"), "{text}");
}

#[test]
fn source_ranges_guard_the_load_balancers_address_alone() {
    let guarded = |port: &mut ServicePort| {
        port.source_ranges = vec!["198.51.100.0/24".parse().expect("a range")];
    };
    let text = external(guarded);
    let rule = " ip saddr { 198.51.100.0/24 } goto masquerade-rr-2-0a\n";
    let (before, _) = text.split_once(rule).expect("the chain has its rule");
    let (_, chain) = before.rsplit_once("add rule ").expect("it is a rule");
    assert!(chain.starts_with("guard-"), "{text}");
    assert_eq!(text.matches(&format!("udp . 203.0.113.7 . 53 : goto {chain}")).count(), 1);
    assert!(text.contains("{ udp . 30053 : goto masquerade-rr-2-0a }"), "{text}");
    // The chain is the Service's own, so that it goes when nobody else's does.
    let of = |name: &str| {
        let mut port = balancer(name, &["10.244.1.10:53"]);
        guarded(&mut port);
        contents_of(vec![port]).chains.into_keys().next()
    };
    assert!(of("dns").is_some() && of("dns") != of("other"));
}

#[test]
fn affinity_holds_over_all_addresses_and_both_lists() {
    let text = external(|port| {
        *port = sticky(port.clone(), 60);
        port.external_policy = TrafficPolicy::Local;
        port.endpoints[0].usability.local = Usability::Ready;
        port.disposition.local.v4 = Disposition::Balance;
    });
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("add set client-"), 2, "one for each endpoint: {text}");
    assert_eq!(count("add chain sticky-"), 2, "one for each list: {text}");
    assert_eq!(count("add chain split-sticky-"), 1, "{text}");
    assert_eq!(count("add chain masquerade-sticky-"), 1, "{text}");
    assert!(!text.contains("endpoint-"), "{text}");
}

#[test]
fn everything_is_masqueraded_where_that_is_wanted() {
    let ports = vec![dns(&["10.244.1.10:53"])];
    let common = Common { family: Family::V4, order: Order::Chance, masquerade_all: true };
    let (text, _) = whole(Family::V4, &Contents::of(&snapshot(ports), common));
    assert!(text.contains("{ udp . 10.96.0.10 . 53 : goto masquerade-random-1 }"), "{text}");
}

#[test]
fn ranges_change_by_their_difference() {
    let range = |text: &str| text.parse().expect("a range");
    let known =
        Ranges { node: [range("192.0.2.1/32")].into(), pods: [range("10.244.0.0/16")].into() };
    let between = |old: &Ranges, new: &Ranges| {
        let mut script = Script::new();
        ranges(&mut script, Family::V4, &old.sets(Family::V4), &new.sets(Family::V4));
        script.text().to_owned()
    };
    let other = Ranges { node: [range("192.0.2.0/24")].into(), ..known.clone() };
    assert_eq!(
        between(&known, &other),
        "\
delete element ip streamvs-nat node-addresses { 192.0.2.1/32 }
add element ip streamvs-nat node-addresses { 192.0.2.0/24 }
"
    );
    assert_eq!(between(&known, &known), "");
    let unknown = Ranges { pods: [range("fd00:10:244::/64")].into(), ..known.clone() };
    assert_eq!(
        between(&unknown, &known),
        "\
add element ip streamvs-nat pods { 10.244.0.0/16 }
delete element ip streamvs-nat unmasqueraded { 0.0.0.0/0 }
add element ip streamvs-nat unmasqueraded { 10.244.0.0/16 }
",
        "nobody is masqueraded before it is known where pods of the family are"
    );
}

#[test]
fn clients_of_an_endpoint_that_stays_are_kept() {
    let one = "10.244.1.10:53";
    let text = between(
        vec![sticky(dns(&[one, "10.244.1.11:53"]), 60)],
        vec![sticky(dns(&[one, "10.244.1.12:53"]), 60)],
    );
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("delete set ip streamvs-nat client-"), 1, "{text}");
    assert_eq!(count("add set ip streamvs-nat client-"), 1, "{text}");
    assert_eq!(count("delete chain ip streamvs-nat sticky-"), 1, "{text}");
    assert_eq!(count("delete chain ip streamvs-nat pin-"), 1, "{text}");
    assert_eq!(count("add chain ip streamvs-nat sticky-"), 1, "the Service's: {text}");
    assert_eq!(count("add chain ip streamvs-nat pin-"), 1, "one endpoint's: {text}");
}

#[test]
fn another_timeout_makes_other_sets() {
    let dns = || dns(&["10.244.1.10:53"]);
    let text = between(vec![sticky(dns(), 60)], vec![sticky(dns(), 61)]);
    assert!(text.contains("timeout 61s") && text.contains("delete set"), "{text}");
}

#[test]
fn an_endpoint_of_weight_0_gets_nothing_unless_all_have_it() {
    let weighted = |weights: [u16; 2]| {
        let mut port = dns(&["10.244.1.10:53", "10.244.1.11:53"]);
        for (endpoint, weight) in port.endpoints.iter_mut().zip(weights) {
            endpoint.weight = weight;
        }
        let contents = contents_of(vec![port]);
        contents.elements.keys().filter(|(map, _)| map.place.is_some()).count()
    };
    assert_eq!([weighted([1, 5]), weighted([0, 5]), weighted([0, 0])], [2, 1, 2]);
}

#[test]
fn an_address_is_its_owners_alone() {
    let other = port("other", Protocol::Udp, &["10.96.0.10"], 53, &["10.244.1.99:1"]);
    let text = whole(Family::V4, &contents_of(vec![dns(&["10.244.1.10:53"]), other])).0;
    assert!(text.contains("10.244.1.10 . 53") && !text.contains("10.244.1.99"), "{text}");
}

#[test]
fn elements_are_written_in_statements_of_bounded_length() {
    let mut script = Script::new();
    let hairpin = |number: u32| Hairpin(std::net::Ipv4Addr::from(number).into());
    let count = u32::try_from(ELEMENTS).expect("it is small") + 1;
    script.add(Family::V4, "hairpin", (0..count).map(hairpin));
    assert_eq!(script.text().lines().count(), 2);
    assert!(
        script
            .text()
            .ends_with("add element ip streamvs-nat hairpin { 0.0.19.136 . 0.0.19.136 }\n")
    );
    assert!(script.messages().is_none(), "messages are for few");
}

#[test]
fn a_change_of_elements_alone_is_one_of_messages_too() {
    let new = contents_of(vec![dns(&["10.244.1.10:53", "10.244.1.11:53"])]);
    let (_, shared) = whole(Family::V4, &new);
    for (old, are_messages) in [
        (vec![dns(&["10.244.1.10:53", "10.244.1.12:53"])], true),
        (vec![], true),
        (vec![sticky(dns(&["10.244.1.10:53"]), 60)], false),
    ] {
        let mut script = Script::new();
        contents(&mut script, Family::V4, &contents_of(old), &new, &mut shared.clone());
        hairpins(&mut script, Family::V4, &Default::default(), &new.hairpins);
        assert!(!script.is_empty());
        assert_eq!(script.messages().is_some(), are_messages);
    }
    let mut script = Script::new();
    contents(&mut script, Family::V4, &Contents::default(), &new, &mut Shared::default());
    assert!(script.messages().is_none(), "chains are text");
}
