//! Aim: what nft prints is read back as what was written, and damage is seen.
//! Whether nft prints so is tested in namespaces.

use streamvs_table::{Family, Protocol};

use super::*;
use crate::layout;
use crate::testing::{MARK, contents, port, ranges, snapshot, sticky, whole};

fn printed(version: &str) -> String {
    format!(
        "table ip streamvs-nat {{
\tmap services {{
\t\ttype inet_proto . ipv4_addr . inet_service : verdict
\t\telements = {{ 17 . 10.96.0.10 . 53 : goto enter-rr-2-0a,
\t\t\t     132 . 10.96.0.11 . 9 : goto enter-random-1 }}
\t}}

\tmap node-ports {{
\t\ttype inet_proto . inet_service : verdict
\t\telements = {{ 17 . 30053 : goto masquerade-rr-2-0a }}
\t}}

\tmap local-services {{
\t\ttype inet_proto . ipv4_addr . inet_service : verdict
\t}}

\tmap local-node-ports {{
\t\ttype inet_proto . inet_service : verdict
\t}}

\tset node-addresses {{
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = {{ 192.0.2.1 }}
\t}}

\tset pods {{
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = {{ 10.244.0.0/16 }}
\t}}

\tset unmasqueraded {{
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = {{ 10.244.0.0/16 }}
\t}}

\tset hairpin {{
\t\ttype ipv4_addr . ipv4_addr
\t\telements = {{ 10.244.1.10 . 10.244.1.10 }}
\t}}

\tmap endpoint-0 {{
\t\ttype inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
\t\telements = {{ 17 . 10.96.0.10 . 53 : 10.244.1.10 . 5353,
\t\t\t     132 . 10.96.0.11 . 9 : 10.244.1.11 . 99 }}
\t}}

\tmap node-endpoint-0 {{
\t\ttype inet_proto . inet_service : ipv4_addr . inet_service
\t\telements = {{ 17 . 30053 : 10.244.1.10 . 5353 }}
\t}}

\tmap node-endpoint-1 {{
\t\ttype inet_proto . inet_service : ipv4_addr . inet_service
\t\telements = {{ 17 . 30053 : 10.244.2.10 . 5353 }}
\t}}

\tmap endpoint-1 {{
\t\ttype inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
\t\telements = {{ 17 . 10.96.0.10 . 53 : 10.244.2.10 . 5353 }}
\t}}

\tset client-00000000000000aa {{
\t\ttype ipv4_addr
\t\tsize 65535
\t\tflags dynamic,timeout
\t\ttimeout 10800s
\t\telements = {{ 10.244.1.10 expires 10799s, 10.244.1.11 expires 1s }}
\t}}

\tchain dispatch {{
\t\tmeta l4proto . ip daddr . th dport vmap @services
\t\tip daddr @node-addresses ip daddr != 127.0.0.0/8 fib daddr type 2 meta l4proto . th dport vmap @node-ports
\t}}

\tchain prerouting {{
\t\ttype nat hook prerouting priority -95; policy accept;
\t\tgoto dispatch
\t}}

\tchain output {{
\t\ttype nat hook output priority -95; policy accept;
\t\tgoto dispatch
\t}}

\tchain to-masquerade {{
\t\tmeta mark set meta mark | 0x00004000
\t}}

\tchain postrouting {{
\t\ttype nat hook postrouting priority 100; policy accept;
\t\tmeta mark & 0x00004000 == 0x00004000 meta mark set meta mark & 0xffffbfff ct status 0x20 masquerade fully-random
\t\tct status 0x20 ip saddr . ip daddr @hairpin masquerade
\t\tct status 0x20 ip saddr 127.0.0.0/8 oifname != \"lo\" masquerade
\t}}

\tchain {version} {{
\t}}

\tchain pick-0 {{
\t\tdnat ip to meta l4proto . ip daddr . th dport map @endpoint-0
\t\tdnat ip to meta l4proto . th dport map @node-endpoint-0
\t}}

\tchain pick-1 {{
\t\tdnat ip to meta l4proto . ip daddr . th dport map @endpoint-1
\t\tdnat ip to meta l4proto . th dport map @node-endpoint-1
\t}}

\tchain rr-2-0a {{
\t\tnumgen inc mod 2 vmap {{ 0 : goto pick-0, 1 : goto pick-1 }}
\t}}

\tchain masquerade-rr-2-0a {{
\t\tjump to-masquerade
\t\tgoto rr-2-0a
\t}}

\tchain enter-rr-2-0a {{
\t\tip saddr @unmasqueraded goto rr-2-0a
\t\tgoto masquerade-rr-2-0a
\t}}

\tchain random-1 {{
\t\tgoto pick-0
\t}}

\tchain masquerade-random-1 {{
\t\tjump to-masquerade
\t\tgoto random-1
\t}}

\tchain enter-random-1 {{
\t\tip saddr @unmasqueraded goto random-1
\t\tgoto masquerade-random-1
\t}}
}}
"
    )
}

fn wanted() -> Contents {
    let mut dns =
        port("dns", Protocol::Udp, &["10.96.0.10"], 53, &["10.244.1.10:5353", "10.244.2.10:5353"]);
    dns.endpoints[0].local = true;
    dns.node_port = Some(30_053);
    let call = port("call", Protocol::Sctp, &["10.96.0.11"], 9, &["10.244.1.11:99"]);
    contents(&snapshot(vec![dns, call]), Family::V4)
}

#[test]
fn a_table_that_holds_all_needs_no_change() {
    let listing = Listing::parse(&printed(&layout::version(Family::V4, MARK))).expect("understood");
    let wanted = wanted();
    let mut shared = listing.shared(&layout::version(Family::V4, MARK), &wanted).expect("whole");
    assert_eq!(shared, whole(Family::V4, &wanted).1);
    assert_eq!(listing.hairpins().len(), 1);
    assert_eq!(*listing.ranges(), ranges().sets(Family::V4));
    let found = listing.contents(&wanted);
    let mut script = crate::script::Script::new();
    crate::change::contents(&mut script, Family::V4, &found, &wanted, &mut shared);
    assert_eq!(script.text(), "delete set ip streamvs-nat client-00000000000000aa\n");
}

#[test]
fn damage_makes_the_table_another() {
    let text = printed(&layout::version(Family::V4, MARK));
    for (part, instead) in [
        ("\t\tgoto pick-0\n", ""),
        ("\tchain pick-0 {", "\tchain pick-7 {"),
        ("\t\tjump to-masquerade\n", ""),
        ("\t\tip saddr @unmasqueraded goto rr-2-0a\n", ""),
        ("\t\tdnat ip to meta l4proto . th dport map @node-endpoint-1\n", ""),
        ("chain output", "chain outsight"),
        ("\t\tct status 0x20 ip saddr . ip daddr @hairpin masquerade\n", ""),
        ("chain version-", "chain version-0"),
    ] {
        assert!(text.contains(part), "{part}");
        let listing = Listing::parse(&text.replace(part, instead)).expect("understood");
        assert_eq!(
            listing.shared(&layout::version(Family::V4, MARK), &wanted()),
            None,
            "without {part}"
        );
    }
    for (part, instead) in [
        ("map services", "map others"),
        ("set unmasqueraded", "set others"),
        ("17 . 10.96.0.10 . 53 : goto", "icmp . 10.96.0.10 . 53 : goto"),
        ("timeout 10800s", "timeout 3h"),
        (": 10.244.2.10 . 5353", ": 10.244.2.10"),
        ("17 . 30053 : goto", "17 . 10.96.0.10 . 30053 : goto"),
        ("{ 10.244.0.0/16 }", "{ 10.244.0.0/33 }"),
    ] {
        assert_eq!(Listing::parse(&text.replace(part, instead)), None, "{instead}");
    }
}

#[test]
fn chains_of_a_service_are_known_by_their_names() {
    let dns = port("dns", Protocol::Udp, &["10.96.0.10"], 53, &["10.244.1.10:53"]);
    let wanted = contents(&snapshot(vec![sticky(dns, 60)]), Family::V4);
    let mut text = printed(&layout::version(Family::V4, MARK));
    let end = text.rfind('}').expect("it ends");
    text.truncate(end);
    for (name, rules) in &wanted.chains {
        text += &format!("\tchain {name} {{\n\t\t{}\n\t}}\n", rules.join("\n\t\t"));
    }
    let listing = Listing::parse(&(text.clone() + "}\n")).expect("understood");
    assert!(listing.shared(&layout::version(Family::V4, MARK), &wanted).is_some());
    assert_eq!(listing.contents(&wanted).chains, wanted.chains);
    assert!(!listing.has_chains_of(&wanted), "its set is not there");
    // One rule less.
    let cut = text.replacen("\t\tupdate ", "\t\t}\n\tchain sticky-0 {\n\t\tupdate ", 1);
    let listing = Listing::parse(&(cut + "}\n")).expect("understood");
    assert_eq!(listing.shared(&layout::version(Family::V4, MARK), &wanted), None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(table|map|set|chain|elements|=|\\{|\\}|[a-z0-9 .:,\t\n-]){0,60}") {
        Listing::parse(&text);
    }
}
