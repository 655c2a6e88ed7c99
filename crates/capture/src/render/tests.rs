//! Aim: the text is stable, and what an operator reads on the node is what stands here.
//! Method: whole texts. A change of the rules is seen as a change of these.

use streamvs_table::Alias;

use super::*;
use crate::sets::SetName;

const MARK: u32 = 0x1;

fn ruleset(family: Family) -> Ruleset {
    Ruleset {
        family,
        listen_port: 15001,
        mark: MARK,
        gate: Some(0x4),
        aliases: vec![alias(family)],
    }
}

/// Pods and what stands for them.
fn alias(family: Family) -> Alias {
    let (clients, reserve) = match family {
        Family::V4 => ("10.244.1.0/24", "198.18.0.0/15"),
        Family::V6 => ("2001:db8:1::/64", "fd00::/49"),
    };
    let network = |text: &str| text.parse().expect("a network");
    Alias::new(network(clients), network(reserve)).expect("the one fits into the other")
}

fn committed(family: Family) -> String {
    Table::ALL.map(|table| commit(&ruleset(family), table, &[], &Made::default())).concat()
}

#[test]
fn ipv4_rules_are_written_so() {
    let expected = "\
*filter
:STREAMVS-INPUT - [0:0]
:STREAMVS-FORWARD - [0:0]
:STREAMVS-REFUSE - [0:0]
-I INPUT 1 -m comment --comment streamvs -j STREAMVS-INPUT
-I FORWARD 1 -m comment --comment streamvs -j STREAMVS-FORWARD
-I OUTPUT 1 -m conntrack --ctstate NEW -m comment --comment streamvs -j STREAMVS-REFUSE
-A STREAMVS-INPUT -d 169.254.83.86/32 -p tcp -m tcp --dport 15001 -m conntrack --ctstate DNAT -m comment --comment \"streamvs captured connection\" -j ACCEPT
-A STREAMVS-INPUT -p tcp -m tcp --dport 15001 --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment \"streamvs listener dialled directly\" -j REJECT --reject-with tcp-reset
-A STREAMVS-INPUT -p tcp -m conntrack --ctstate NEW -m set --match-set streamvs-health4 dst,dst -m comment --comment \"streamvs health check of a service\" -j ACCEPT
-A STREAMVS-INPUT -m conntrack --ctstate NEW -m comment --comment \"streamvs refused services\" -j STREAMVS-REFUSE
-A STREAMVS-FORWARD -m conntrack --ctstate NEW -m comment --comment \"streamvs refused services\" -j STREAMVS-REFUSE
-A STREAMVS-FORWARD -o lo -m comment --comment \"streamvs no such service\" -j REJECT --reject-with icmp-net-unreachable
-A STREAMVS-REFUSE -p tcp -m set --match-set streamvs-reject4 dst,dst -m comment --comment \"streamvs service has no endpoints\" -j REJECT --reject-with tcp-reset
-A STREAMVS-REFUSE -m set --match-set streamvs-reject4 dst,dst -m comment --comment \"streamvs service has no endpoints\" -j REJECT --reject-with icmp-port-unreachable
-A STREAMVS-REFUSE -m set --match-set streamvs-drop4 dst,dst -m comment --comment \"streamvs service has no local endpoints\" -j DROP
-A STREAMVS-REFUSE -m set --match-set streamvs-guarded4 dst,dst -m set ! --match-set streamvs-allowed4 dst,dst,src -m comment --comment \"streamvs source is not let in\" -j DROP
-A STREAMVS-REFUSE -p tcp -m set --match-set streamvs-node-reject4 dst,dst -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port has no endpoints\" -j REJECT --reject-with tcp-reset
-A STREAMVS-REFUSE -m set --match-set streamvs-node-reject4 dst,dst -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port has no endpoints\" -j REJECT --reject-with icmp-port-unreachable
-A STREAMVS-REFUSE -m set --match-set streamvs-node-drop4 dst,dst -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port has no local endpoints\" -j DROP
COMMIT
*nat
:STREAMVS-CAPTURE - [0:0]
:STREAMVS-SERVICES - [0:0]
:STREAMVS-ALIAS - [0:0]
-I PREROUTING 1 -m comment --comment streamvs -j STREAMVS-CAPTURE
-I OUTPUT 1 -m comment --comment streamvs -j STREAMVS-CAPTURE
-I POSTROUTING 1 -m comment --comment streamvs -j STREAMVS-ALIAS
-A STREAMVS-CAPTURE -m mark ! --mark 0x4/0x4 -m comment --comment \"streamvs gate is shut\" -j RETURN
-A STREAMVS-CAPTURE -p tcp -m mark ! --mark 0x1/0x1 -m comment --comment \"streamvs services\" -j STREAMVS-SERVICES
-A STREAMVS-CAPTURE -m comment --comment \"streamvs leaves it alone\" -j MARK --set-xmark 0x0/0x4
-A STREAMVS-SERVICES -m set --match-set streamvs-guarded4 dst,dst -m set ! --match-set streamvs-allowed4 dst,dst,src -m comment --comment \"streamvs source is not let in\" -j RETURN
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs4 dst,dst -m comment --comment \"streamvs service to the listener\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs-inner4 dst,dst -m set --match-set streamvs-pods4 src -m comment --comment \"streamvs service for pods\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs-inner4 dst,dst -m addrtype --src-type LOCAL -m comment --comment \"streamvs service for the node\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs-node4 dst,dst -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port to the listener\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs-node-inner4 dst,dst -m set --match-set streamvs-pods4 src -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port for pods\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-SERVICES -p tcp -m set --match-set streamvs-node-inner4 dst,dst -m addrtype --src-type LOCAL -m addrtype --dst-type LOCAL -m comment --comment \"streamvs node port for the node\" -j DNAT --to-destination 169.254.83.86:15001
-A STREAMVS-ALIAS -s 198.18.0.0/24 -m mark --mark 0x1/0x1 -m comment --comment \"streamvs clients seen as themselves\" -j NETMAP --to 10.244.1.0/24
COMMIT
";
    assert_eq!(committed(Family::V4), expected);
}

#[test]
fn ipv6_rules_differ_only_in_addresses_sets_and_the_names_of_answers() {
    let as_v4 = committed(Family::V6)
        .replace("fdf2:43cb:12db:5356::1/128", "169.254.83.86/32")
        .replace("[fdf2:43cb:12db:5356::1]", "169.254.83.86")
        .replace("icmp6-port-unreachable", "icmp-port-unreachable")
        .replace("icmp6-no-route", "icmp-net-unreachable")
        .replace("streamvs6 ", "streamvs4 ")
        .replace("fd00::/64", "198.18.0.0/24")
        .replace("2001:db8:1::/64", "10.244.1.0/24");
    let of_sets = |text: String, name: SetName| {
        let v4 = SetName { family: Family::V4, ..name };
        text.replace(name.as_str(), v4.as_str())
    };
    let as_v4 = SetName::of(Family::V6).fold(as_v4, of_sets);
    assert_eq!(as_v4, committed(Family::V4));
}

#[test]
fn jumps_that_are_there_are_replaced_in_the_same_transaction() {
    let present = ["-A PREROUTING -m comment --comment streamvs -j STREAMVS-CAPTURE"];
    let text = commit(&ruleset(Family::V4), Table::Nat, &present, &Made::default());
    let lines: Vec<&str> = text.lines().collect();
    let deleted = "-D PREROUTING -m comment --comment streamvs -j STREAMVS-CAPTURE";
    let at = |wanted: &str| lines.iter().position(|line| *line == wanted).expect("is there");
    let inserted = "-I PREROUTING 1 -m comment --comment streamvs -j STREAMVS-CAPTURE";
    assert!(at(deleted) < at(inserted));
    assert_eq!(lines.iter().filter(|line| **line == "COMMIT").count(), 1);
}

#[test]
fn what_the_install_created_is_recorded_beside_the_rules() {
    let record = "-N STREAMVS-CREATED\n-A STREAMVS-CREATED -m comment --comment table\n";
    let made = Made::parse(&Listing::parse(record)).expect("there is a record");
    let text = commit(&ruleset(Family::V4), Table::Nat, &[], &made);
    assert!(text.contains(":STREAMVS-CREATED - [0:0]\n"), "{text}");
    assert!(text.contains("-A STREAMVS-CREATED -m comment --comment table\n"), "{text}");
}

#[test]
fn removal_takes_jumps_before_chains_and_nothing_of_others() {
    let found = "\
-N KUBE-SERVICES
-N STREAMVS-CAPTURE
-N STREAMVS-OLD
-A PREROUTING -m comment --comment streamvs -j STREAMVS-CAPTURE
-A PREROUTING -j KUBE-SERVICES
-A KUBE-SERVICES -m comment --comment \"not -j STREAMVS-CAPTURE\" -j RETURN
-A STREAMVS-CAPTURE -p tcp -j STREAMVS-OLD
";
    let expected = "\
*nat
-D PREROUTING -m comment --comment streamvs -j STREAMVS-CAPTURE
-F STREAMVS-CAPTURE
-F STREAMVS-OLD
-X STREAMVS-CAPTURE
-X STREAMVS-OLD
COMMIT
";
    assert_eq!(remove(Table::Nat, &Listing::parse(found)), expected);
}

#[test]
fn release_empties_our_chains_and_keeps_the_record() {
    let found = "-N STREAMVS-CAPTURE\n-N STREAMVS-CREATED\n-N KUBE-SERVICES\n";
    let expected = "*nat\n:STREAMVS-CAPTURE - [0:0]\nCOMMIT\n";
    assert_eq!(release(Table::Nat, &Listing::parse(found)), expected);
}
