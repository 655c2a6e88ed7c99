//! Aim: the text is stable, and what an operator reads on the node is what stands here.
//! Method: whole texts. A change of the rules is seen as a change of these.

use streamvs_table::Alias;

use super::*;
use crate::sets::Purpose;

fn ruleset(family: Family) -> Ruleset {
    Ruleset { family, listen_port: 15001, mark: 0x1, gate: Some(0x4), aliases: Vec::new() }
}

fn contents(family: Family, capture: &[&str]) -> Contents {
    let element = |ip: &&str| Element::Address(ip.parse().expect("an address"), 80, Protocol::Tcp);
    let name = SetName { purpose: Purpose::Capture, family };
    Contents::from([(name, capture.iter().map(element).collect())])
}

#[test]
fn ipv4_rules_are_written_so() {
    let expected = "\
add table ip streamvs-capture
delete table ip streamvs-capture
table ip streamvs-capture {
\tset streamvs-pods4 {
\t\ttype ipv4_addr
\t\tflags interval
\t}
\tset streamvs-allowed4 {
\t\ttype ipv4_addr . inet_proto . inet_service . ipv4_addr
\t\tflags interval
\t}
\tset streamvs-guarded4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-inner4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-node4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tflags interval
\t}
\tset streamvs-node-inner4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tflags interval
\t}
\tset streamvs-reject4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-drop4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t}
\tset streamvs-node-reject4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tflags interval
\t}
\tset streamvs-node-drop4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tflags interval
\t}
\tset streamvs-health4 {
\t\ttype ipv4_addr . inet_proto . inet_service
\t\tflags interval
\t}
\tchain input {
\t\tip daddr 169.254.83.86 meta l4proto tcp tcp dport 15001 ct status dnat accept comment \"streamvs captured connection\"
\t\tmeta l4proto tcp tcp dport 15001 tcp flags & (fin | syn | rst | ack) == syn reject with tcp reset comment \"streamvs listener dialled directly\"
\t\tmeta l4proto tcp ct state new ip daddr . meta l4proto . th dport @streamvs-health4 accept comment \"streamvs health check of a service\"
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
\t\tip daddr . meta l4proto . th dport @streamvs-guarded4 ip daddr . meta l4proto . th dport . ip saddr != @streamvs-allowed4 drop comment \"streamvs source is not let in\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-node-reject4 fib daddr type local reject with tcp reset comment \"streamvs node port has no endpoints\"
\t\tip daddr . meta l4proto . th dport @streamvs-node-reject4 fib daddr type local reject with icmp type port-unreachable comment \"streamvs node port has no endpoints\"
\t\tip daddr . meta l4proto . th dport @streamvs-node-drop4 fib daddr type local drop comment \"streamvs node port has no local endpoints\"
\t}
\tchain capture {
\t\tmeta mark & 0x4 == 0 return comment \"streamvs gate is shut\"
\t\tmeta l4proto tcp meta mark & 0x1 == 0 jump services comment \"streamvs services\"
\t\tmeta mark set meta mark & 0xfffffffb comment \"streamvs leaves it alone\"
\t}
\tchain services {
\t\tip daddr . meta l4proto . th dport @streamvs-guarded4 ip daddr . meta l4proto . th dport . ip saddr != @streamvs-allowed4 return comment \"streamvs source is not let in\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs4 dnat to 169.254.83.86:15001 comment \"streamvs service to the listener\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-inner4 ip saddr @streamvs-pods4 dnat to 169.254.83.86:15001 comment \"streamvs service for pods\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-inner4 fib saddr type local dnat to 169.254.83.86:15001 comment \"streamvs service for the node\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-node4 fib daddr type local dnat to 169.254.83.86:15001 comment \"streamvs node port to the listener\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-node-inner4 ip saddr @streamvs-pods4 fib daddr type local dnat to 169.254.83.86:15001 comment \"streamvs node port for pods\"
\t\tmeta l4proto tcp ip daddr . meta l4proto . th dport @streamvs-node-inner4 fib saddr type local fib daddr type local dnat to 169.254.83.86:15001 comment \"streamvs node port for the node\"
\t}
\tchain alias {
\t\tip saddr 198.18.0.0/24 meta mark & 0x1 == 0x1 snat ip prefix to 10.244.1.0/24 comment \"streamvs clients seen as themselves\"
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
\tchain nat-postrouting {
\t\ttype nat hook postrouting priority 95; policy accept;
\t\tjump alias
\t}
}
add element ip streamvs-capture streamvs4 { 10.96.0.1 . tcp . 80, 10.96.0.2 . tcp . 80 }
";
    let contents = contents(Family::V4, &["10.96.0.1", "10.96.0.2"]);
    let network = |text: &str| text.parse().expect("a network");
    let alias = Alias::new(network("10.244.1.0/24"), network("198.18.0.0/15")).expect("fits");
    let ruleset = Ruleset { aliases: vec![alias], ..ruleset(Family::V4) };
    assert_eq!(replace(&ruleset, &contents), expected);
}

#[test]
fn ipv6_rules_differ_only_in_addresses_sets_and_the_names_of_answers() {
    let as_v4 = replace(&ruleset(Family::V6), &Contents::new())
        .replace("table ip6 ", "table ip ")
        .replace("ip6 daddr", "ip daddr")
        .replace("ip6 saddr", "ip saddr")
        .replace("ipv6_addr", "ipv4_addr")
        .replace("fdf2:43cb:12db:5356::1 ", "169.254.83.86 ")
        .replace("[fdf2:43cb:12db:5356::1]", "169.254.83.86")
        .replace("icmpv6 type port-unreachable", "icmp type port-unreachable")
        .replace("icmpv6 type no-route", "icmp type net-unreachable")
        .replace("streamvs6 ", "streamvs4 ");
    let of_sets = |text: String, name: SetName| {
        let v4 = SetName { family: Family::V4, ..name };
        text.replace(name.as_str(), v4.as_str())
    };
    let as_v4 = SetName::of(Family::V6).fold(as_v4, of_sets);
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
