//! Aim: the text is stable, and what an operator reads on the node is what stands here.
//! Method: whole texts. A change of the rules is seen as a change of these.

use super::*;
use crate::sets::Purpose;

fn ruleset(family: Family) -> Ruleset {
    Ruleset { family, listen_port: 15001, mark: 0x1, gate: Some(0x4), aliases: Vec::new() }
}

fn contents(family: Family, capture: &[&str]) -> Contents {
    let element = |ip: &&str| (ip.parse().expect("an address"), 80, Protocol::Tcp);
    let name = SetName { purpose: Purpose::Capture, family };
    Contents::from([(name, capture.iter().map(element).collect())])
}

#[test]
fn ipv4_rules_are_written_so() {
    let expected = "\
add table ip streamvs-capture
delete table ip streamvs-capture
table ip streamvs-capture {
\tset streamvs4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-reject4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-drop4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tchain input {
\t\tip daddr 169.254.83.86 meta l4proto tcp tcp dport 15001 ct status dnat accept comment \"streamvs captured connection\"
\t\tmeta l4proto tcp tcp dport 15001 tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset comment \"streamvs listener dialled directly\"
\t\tct state new jump refuse comment \"streamvs refused services\"
\t}
\tchain forward {
\t\tct state new jump refuse comment \"streamvs refused services\"
\t\toifname \"lo\" reject with icmp type net-unreachable comment \"streamvs no such service\"
\t}
\tchain refuse {
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-reject4 reject with tcp reset comment \"streamvs service has no endpoints\"
\t\tip daddr . meta l4proto . th dport @streamvs-reject4 reject with icmp type port-unreachable comment \"streamvs service has no endpoints\"
\t\tip daddr . meta l4proto . th dport @streamvs-drop4 drop comment \"streamvs service has no local endpoints\"
\t}
\tchain capture {
\t\tmeta mark & 0x4 == 0 return comment \"streamvs gate is shut\"
\t\tmeta l4proto tcp meta mark & 0x1 == 0 ip daddr . meta l4proto . th dport @streamvs4 dnat to 169.254.83.86:15001 comment \"streamvs service to the listener\"
\t\tmeta mark set meta mark & 0xfffffffb comment \"streamvs leaves it alone\"
\t}
\tchain filter-input {
\t\ttype filter hook input priority -5; policy accept;
\t\tjump input
\t}
\tchain filter-forward {
\t\ttype filter hook forward priority -5; policy accept;
\t\tjump forward
\t}
\tchain filter-output {
\t\ttype filter hook output priority -5; policy accept;
\t\tct state new jump refuse
\t}
\tchain nat-prerouting {
\t\ttype nat hook prerouting priority -105; policy accept;
\t\tjump capture
\t}
\tchain nat-output {
\t\ttype nat hook output priority -105; policy accept;
\t\tjump capture
\t}
}
add element ip streamvs-capture streamvs4 { 10.96.0.1 . tcp . 80, 10.96.0.2 . tcp . 80 }
";
    let contents = contents(Family::V4, &["10.96.0.1", "10.96.0.2"]);
    assert_eq!(replace(&ruleset(Family::V4), &contents), expected);
}

#[test]
fn ipv6_rules_differ_only_in_addresses_sets_and_the_names_of_answers() {
    let as_v4 = replace(&ruleset(Family::V6), &Contents::new())
        .replace("table ip6 ", "table ip ")
        .replace("ip6 daddr", "ip daddr")
        .replace("ipv6_addr", "ipv4_addr")
        .replace("fdf2:43cb:12db:5356::1 ", "169.254.83.86 ")
        .replace("[fdf2:43cb:12db:5356::1]", "169.254.83.86")
        .replace("icmpv6 type port-unreachable", "icmp type port-unreachable")
        .replace("icmpv6 type no-route", "icmp type net-unreachable")
        .replace("streamvs-reject6", "streamvs-reject4")
        .replace("streamvs-drop6", "streamvs-drop4")
        .replace("streamvs6 ", "streamvs4 ");
    assert_eq!(as_v4, replace(&ruleset(Family::V4), &Contents::new()));
}

#[test]
fn a_change_costs_its_elements_and_no_change_nothing() {
    let have = contents(Family::V4, &["10.96.0.1", "10.96.0.2"]);
    let want = contents(Family::V4, &["10.96.0.2", "10.96.0.3"]);
    let expected = "\
delete element ip streamvs-capture streamvs4 { 10.96.0.1 . tcp . 80 }
add element ip streamvs-capture streamvs4 { 10.96.0.3 . tcp . 80 }
";
    assert_eq!(change(&have, &want), expected);
    assert_eq!(change(&have, &have), "");
}

#[test]
fn many_elements_are_written_in_several_commands() {
    let many: Vec<String> = (0..2500).map(|n| format!("10.97.{}.{}", n / 250, n % 250)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let text = change(&Contents::new(), &contents(Family::V4, &many));
    assert_eq!(text.lines().count(), 3);
    assert_eq!(text.matches(" . tcp . ").count(), 2500);
}
