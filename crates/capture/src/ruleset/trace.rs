//! A packet walked through the typed rules: what they mean, apart from how they are written.
//!
//! The walk is the one drawn in the crate's page. Routing is an argument of it, since the kernel
//! decides that: whether a packet from a pod is for the node itself, or leaves by which interface.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use streamvs_table::Protocol;

use super::{Chain, Condition, Hook, Jump, Rule, Ruleset, Table, Verdict};
use crate::sets::{Contents, Element, Purpose, SetName};

/// The first packet of a connection, or a later one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) protocol: Protocol,
    pub(super) from: IpAddr,
    pub(super) to: SocketAddr,
    pub(super) mark: u32,
    /// The first of its connection; of TCP a SYN.
    pub(super) new: bool,
}

/// Where a packet is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A pod, or another host.
    Outside,
    /// A process of the node.
    Node,
}

/// What the routing table says of a destination that was not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It is one of the node's own addresses.
    Local,
    /// It leaves by some interface.
    Onwards,
    /// It leaves by `lo`: a service range of ours.
    Loopback,
}

/// What the client sees, or who gets the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The listener has it; its original destination is what was dialled.
    Listener,
    /// Some other socket of the node has it.
    Node,
    /// It goes on, to whoever else handles the address.
    Onwards,
    /// Reset, "port unreachable", "no route" or silence.
    Refused(Verdict),
}

pub(super) struct Tracer<'a> {
    pub(super) ruleset: &'a Ruleset,
    pub(super) sets: &'a Contents,
}

impl Tracer<'_> {
    pub(super) fn walk(&self, packet: Packet, from: From, way: Way) -> Fate {
        let mut state = Walk {
            packet,
            source: None,
            translated: false,
            leaves_by_lo: way == Way::Loopback,
            to_node: way == Way::Local,
            from_node: from == From::Node,
        };
        let first = match from {
            From::Outside => Hook::Prerouting,
            From::Node => Hook::Output,
        };
        if let Some(Verdict::Redirect(to)) = self.hook(Table::Nat, first, &state) {
            state.translated = true;
            state.packet.to = to;
            state.to_node = true;
        }
        let local = state.translated || way == Way::Local;
        let hooks: &[Hook] = match from {
            From::Outside if local => &[Hook::Input],
            From::Outside => &[Hook::Forward],
            From::Node if local => &[Hook::Output, Hook::Input],
            From::Node => &[Hook::Output],
        };
        for hook in hooks {
            match self.hook(Table::Filter, *hook, &state) {
                None | Some(Verdict::Accept) => {}
                Some(verdict) => return Fate::Refused(verdict),
            }
        }
        match (state.translated, local) {
            (true, _) => Fate::Listener,
            (false, true) => Fate::Node,
            (false, false) => Fate::Onwards,
        }
    }

    /// What becomes of the source of a packet that is about to leave.
    pub(super) fn leave(&self, packet: Packet, source: IpAddr) -> Option<Verdict> {
        let state = Walk {
            packet,
            source: Some(source),
            translated: false,
            leaves_by_lo: false,
            to_node: false,
            from_node: true,
        };
        self.hook(Table::Nat, Hook::Postrouting, &state)
    }

    fn hook(&self, table: Table, hook: Hook, state: &Walk) -> Option<Verdict> {
        let taken = |jump: &Jump| jump.hook == hook && (state.packet.new || !jump.only_new());
        let mut chains = table.jumps().filter(taken).map(|jump| jump.chain);
        chains.find_map(|chain| self.chain(chain, state, &mut BTreeSet::new()))
    }

    fn chain(&self, chain: Chain, state: &Walk, above: &mut BTreeSet<Chain>) -> Option<Verdict> {
        assert!(above.insert(chain), "{} calls itself", chain.as_str());
        let matching = self.ruleset.rules(chain).into_iter().filter(|rule| self.holds(rule, state));
        let said = matching.map(|rule| rule.verdict).take_while(|said| *said != Verdict::Return);
        let verdict = said.into_iter().find_map(|verdict| match verdict {
            Verdict::Call(other) => {
                assert_eq!(other.table(), chain.table(), "a call stays in its table");
                self.chain(other, state, above)
            }
            Verdict::Unmark(_) => None,
            verdict => Some(verdict),
        });
        above.remove(&chain);
        verdict
    }

    fn holds(&self, rule: &Rule, state: &Walk) -> bool {
        let Walk { packet, source, translated, leaves_by_lo, to_node, from_node } = state;
        let tcp = packet.protocol == Protocol::Tcp;
        rule.when.iter().all(|condition| match *condition {
            Condition::Source(network) => source.is_some_and(|source| network.contains(&source)),
            Condition::Destination(address) => packet.to.ip() == address,
            Condition::LeavesByLoopback => *leaves_by_lo && !translated,
            Condition::Tcp => tcp,
            Condition::Port(port) => packet.to.port() == port,
            Condition::Opening => tcp && packet.new,
            Condition::WithoutMark(mark) => packet.mark & mark == 0,
            Condition::WithMark(mark) => packet.mark & mark == mark,
            Condition::New => packet.new,
            Condition::Translated => *translated,
            Condition::In(purpose) => self.holds_in(purpose, packet),
            Condition::NotIn(purpose) => !self.holds_in(purpose, packet),
            Condition::ToNode => *to_node,
            Condition::FromNode => *from_node,
        })
    }

    fn holds_in(&self, purpose: Purpose, packet: &Packet) -> bool {
        let name = SetName { purpose, family: self.ruleset.family };
        let is_it = |element: &Element| {
            let to = |ip, port, protocol| (ip, port, protocol) == destination(packet);
            match *element {
                Element::Address(ip, port, protocol) => to(ip, port, protocol),
                Element::Source(ip, port, protocol, range) => {
                    to(ip, port, protocol) && range.contains(&packet.from)
                }
                Element::Range(range, port, protocol) => {
                    range.contains(&packet.to.ip()) && to(packet.to.ip(), port, protocol)
                }
                Element::Net(range) => range.contains(&packet.from),
            }
        };
        self.sets.get(&name).is_some_and(|set| set.iter().any(is_it))
    }
}

fn destination(packet: &Packet) -> (IpAddr, u16, Protocol) {
    (packet.to.ip(), packet.to.port(), packet.protocol)
}

struct Walk {
    packet: Packet,
    /// Where it is from, where that matters.
    source: Option<IpAddr>,
    translated: bool,
    leaves_by_lo: bool,
    to_node: bool,
    from_node: bool,
}
