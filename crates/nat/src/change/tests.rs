//! Aim: the text is the same for the same change, and says that change and no more.

use streamvs_table::{Family, Protocol, ServicePort};

use super::*;
use crate::testing::{contents, port, snapshot, sticky, whole};

fn dns(endpoints: &[&str]) -> ServicePort {
    port("dns", Protocol::Udp, &["10.96.0.10", "fd00:96::10"], 53, endpoints)
}

/// The script from some Services to others.
fn between(old: Vec<ServicePort>, new: Vec<ServicePort>) -> String {
    let (old, new) = (snapshot(old), snapshot(new));
    let (old, new) = (contents(&old, Family::V4), contents(&new, Family::V4));
    let (_, mut shared) = whole(Family::V4, &old);
    script(Family::V4, &old, &new, &mut shared)
}

#[test]
fn a_table_from_nothing_is_this_text() {
    let mut local = dns(&["10.244.1.10:5353", "10.244.2.10:5353"]);
    local.endpoints[0].local = true;
    let ports = vec![local, port("call", Protocol::Sctp, &["10.96.0.11"], 9, &["10.244.1.11:99"])];
    let (text, _) = whole(Family::V4, &contents(&snapshot(ports), Family::V4));
    let version = layout::version(Family::V4);
    assert_eq!(
        text.replace(&version, "VERSION"),
        "\
add table ip streamvs-nat
add map ip streamvs-nat services { type inet_proto . ipv4_addr . inet_service : verdict; }
add set ip streamvs-nat hairpin { type ipv4_addr . ipv4_addr; }
add chain ip streamvs-nat prerouting { type nat hook prerouting priority -95; }
add rule ip streamvs-nat prerouting meta l4proto . ip daddr . th dport vmap @services
add chain ip streamvs-nat output { type nat hook output priority -95; }
add rule ip streamvs-nat output meta l4proto . ip daddr . th dport vmap @services
add chain ip streamvs-nat postrouting { type nat hook postrouting priority 100; }
add rule ip streamvs-nat postrouting ct status dnat ip saddr . ip daddr @hairpin masquerade
add rule ip streamvs-nat postrouting ct status dnat ip saddr 127.0.0.0/8 oifname != \"lo\" masquerade
add chain ip streamvs-nat VERSION
add map ip streamvs-nat endpoint-0 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add chain ip streamvs-nat pick-0
add rule ip streamvs-nat pick-0 dnat ip to meta l4proto . ip daddr . th dport map @endpoint-0
add map ip streamvs-nat endpoint-1 { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add chain ip streamvs-nat pick-1
add rule ip streamvs-nat pick-1 dnat ip to meta l4proto . ip daddr . th dport map @endpoint-1
add chain ip streamvs-nat rr-2-0a
add rule ip streamvs-nat rr-2-0a numgen inc mod 2 vmap { 0 : goto pick-0, 1 : goto pick-1 }
add chain ip streamvs-nat random-1
add rule ip streamvs-nat random-1 goto pick-0
add element ip streamvs-nat endpoint-0 { udp . 10.96.0.10 . 53 : 10.244.1.10 . 5353, sctp . 10.96.0.11 . 9 : 10.244.1.11 . 99 }
add element ip streamvs-nat endpoint-1 { udp . 10.96.0.10 . 53 : 10.244.2.10 . 5353 }
add element ip streamvs-nat services { udp . 10.96.0.10 . 53 : goto rr-2-0a, sctp . 10.96.0.11 . 9 : goto random-1 }
add element ip streamvs-nat hairpin { 10.244.1.10 . 10.244.1.10 }
"
    );
}

#[test]
fn ipv6_has_the_words_of_its_family() {
    let ports = vec![sticky(dns(&["[fd00:244::10]:5353"]), 60)];
    let (text, _) = whole(Family::V6, &contents(&snapshot(ports), Family::V6));
    for part in [
        "add set ip6 streamvs-nat hairpin { type ipv6_addr . ipv6_addr; }",
        "meta l4proto . ip6 daddr . th dport vmap @services",
        "ip6 saddr ::1 oifname",
        "dnat to [fd00:244::10]:5353",
        "{ udp . fd00:96::10 . 53 : goto sticky-",
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
add element ip streamvs-nat services { udp . 10.96.0.10 . 53 : goto random-1 }
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
    assert_eq!(count("add chain"), 2, "the Service's and one endpoint's: {text}");
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
        contents(&snapshot(vec![port]), Family::V4).endpoints.len()
    };
    assert_eq!([weighted([1, 5]), weighted([0, 5]), weighted([0, 0])], [2, 1, 2]);
}

#[test]
fn an_address_is_its_owners_alone() {
    let other = port("other", Protocol::Udp, &["10.96.0.10"], 53, &["10.244.1.99:1"]);
    let text =
        whole(Family::V4, &contents(&snapshot(vec![dns(&["10.244.1.10:53"]), other]), Family::V4))
            .0;
    assert!(text.contains("10.244.1.10 . 53") && !text.contains("10.244.1.99"), "{text}");
}

#[test]
fn elements_are_written_in_statements_of_bounded_length() {
    let mut text = String::new();
    add(&mut text, "ip t", "s", 0..ELEMENTS + 1);
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with(&format!("add element ip t s {{ {ELEMENTS} }}\n")));
}
