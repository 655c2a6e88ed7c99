//! The rules, typed: which packets, what becomes of them, and where they hang.
//!
//! Pure. What comes in is the configuration; Services never appear, since the rules name sets.
//! What goes out is read by `render` (text for the kernel) and by the tests' packet tracer
//! (meaning).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use streamvs_table::{Alias, Family};

use crate::sets::{Purpose, SetName};

/// Where captured IPv4 packets are sent: an address of our own, local to the node by a route of
/// ours, out of the link-local range so that nothing routes it (RFC 3927).
pub const LISTENER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 86);

/// The same for IPv6, out of a random unique local prefix (RFC 4193).
pub const LISTENER_V6: Ipv6Addr = Ipv6Addr::new(0xfdf2, 0x43cb, 0x12db, 0x5356, 0, 0, 0, 1);

/// The address of a family that captured packets are sent to.
pub(crate) fn listener(family: Family) -> IpAddr {
    match family {
        Family::V4 => LISTENER_V4.into(),
        Family::V6 => LISTENER_V6.into(),
    }
}

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Filter,
    Nat,
}

impl Table {
    /// In the order of commitment: capture begins when everything else is in place.
    pub(crate) const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// The kernel's own chains that lead to ours.
    pub(crate) fn jumps(self) -> impl Iterator<Item = Jump> {
        JUMPS.into_iter().filter(move |jump| jump.chain.table() == self)
    }

    /// Our chains in this table.
    pub(crate) fn chains(self) -> impl Iterator<Item = Chain> {
        Chain::ALL.into_iter().filter(move |chain| chain.table() == self)
    }
}

/// One of our chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chain {
    /// From INPUT: guards the listener, then [`Chain::Refuse`].
    Input,
    /// From FORWARD: [`Chain::Refuse`], and no looping over `lo`.
    Forward,
    /// From OUTPUT, and from the two above: Services without usable endpoints. Only the first
    /// packet of a connection comes here.
    Refuse,
    /// From PREROUTING and OUTPUT: TCP that is not ours goes on to [`Chain::Services`].
    Capture,
    /// Sends service connections to the listener.
    Services,
    /// From POSTROUTING: lets our own connections leave with the client's address.
    Alias,
}

impl Chain {
    pub(crate) const ALL: [Self; 6] =
        [Self::Input, Self::Forward, Self::Refuse, Self::Capture, Self::Services, Self::Alias];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Input => "STREAMVS-INPUT",
            Self::Forward => "STREAMVS-FORWARD",
            Self::Refuse => "STREAMVS-REFUSE",
            Self::Capture => "STREAMVS-CAPTURE",
            Self::Services => "STREAMVS-SERVICES",
            Self::Alias => "STREAMVS-ALIAS",
        }
    }

    pub(crate) fn table(self) -> Table {
        match self {
            Self::Input | Self::Forward | Self::Refuse => Table::Filter,
            Self::Capture | Self::Services | Self::Alias => Table::Nat,
        }
    }
}

/// Every chain of ours begins so. `cleanup` takes whatever does, older versions' chains too.
pub(crate) const CHAIN_PREFIX: &str = "STREAMVS-";

/// A jump from a chain of the kernel to one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Jump {
    pub(crate) hook: Hook,
    pub(crate) chain: Chain,
}

impl Jump {
    /// Only the first packet of a connection takes it: later ones cost this one test.
    pub(crate) fn only_new(self) -> bool {
        self.chain == Chain::Refuse
    }
}

const JUMPS: [Jump; 6] = [
    Jump { hook: Hook::Input, chain: Chain::Input },
    Jump { hook: Hook::Forward, chain: Chain::Forward },
    Jump { hook: Hook::Output, chain: Chain::Refuse },
    Jump { hook: Hook::Prerouting, chain: Chain::Capture },
    Jump { hook: Hook::Output, chain: Chain::Capture },
    Jump { hook: Hook::Postrouting, chain: Chain::Alias },
];

/// A chain of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

impl Hook {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Input => "INPUT",
            Self::Forward => "FORWARD",
            Self::Output => "OUTPUT",
            Self::Postrouting => "POSTROUTING",
        }
    }
}

/// One test of a packet. A rule's tests must all hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It is from this network.
    Source(IpNet),
    /// It is addressed to this very address.
    Destination(IpAddr),
    /// It is about to leave by `lo`.
    LeavesByLoopback,
    /// It is TCP.
    Tcp,
    /// To this TCP port.
    Port(u16),
    /// It opens a TCP connection: SYN, and neither ACK, RST nor FIN.
    Opening,
    /// None of these mark bits is set: it is not from a socket of ours, or the gate is shut.
    WithoutMark(u32),
    /// All of these mark bits are set: it is from a socket of ours.
    WithMark(u32),
    /// It is the first of its connection.
    New,
    /// Its connection's destination was translated on this node.
    Translated,
    /// What the purpose asks of it (destination address, protocol and port, or its source) is an
    /// element of the purpose's set.
    In(Purpose),
    /// It is not.
    NotIn(Purpose),
    /// It is addressed to the node.
    ToNode,
    /// It has an address of the node as its source.
    FromNode,
}

/// What becomes of a packet for which all tests hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It and its connection go to this address instead.
    Redirect(SocketAddr),
    /// It and its connection come from the address of this network that has the same place as
    /// their source has in its own.
    From(IpNet),
    /// It passes this table.
    Accept,
    /// A TCP reset answers it.
    Reset,
    /// "Port unreachable" answers it.
    PortUnreachable,
    /// "No route" answers it.
    NoRoute,
    /// Nothing answers it.
    Drop,
    /// The other chain is asked, then the next rule.
    Call(Chain),
    /// Its chain has no more to say.
    Return,
    /// It loses this mark bit, then the next rule.
    Unmark(u32),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) when: Vec<Condition>,
    pub(crate) verdict: Verdict,
    /// For who reads the node's rules. Without quotes or backslashes.
    pub(crate) comment: &'static str,
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) family: Family,
    pub(crate) listen_port: u16,
    pub(crate) mark: u32,
    /// The mark bit without which nothing is captured; none: there is no gate.
    pub(crate) gate: Option<u32>,
    /// Those of this family.
    pub(crate) aliases: Vec<Alias>,
}

impl Ruleset {
    /// The rules of one chain, in order.
    pub(crate) fn rules(&self, chain: Chain) -> Vec<Rule> {
        match chain {
            Chain::Capture => self.gated(self.ungated(chain)),
            Chain::Input | Chain::Forward | Chain::Refuse | Chain::Services | Chain::Alias => {
                self.ungated(chain)
            }
        }
    }

    /// Rules that a packet only comes to when it carries the gate's bit, which stays on none that
    /// goes on.
    fn gated(&self, rules: Vec<Rule>) -> Vec<Rule> {
        let Some(bit) = self.gate else { return rules };
        let shut = Rule {
            when: vec![Condition::WithoutMark(bit)],
            verdict: Verdict::Return,
            comment: "streamvs gate is shut",
        };
        let passed = Rule {
            when: vec![],
            verdict: Verdict::Unmark(bit),
            comment: "streamvs leaves it alone",
        };
        [vec![shut], rules, vec![passed]].concat()
    }

    fn ungated(&self, chain: Chain) -> Vec<Rule> {
        use Condition::{
            Destination, In, LeavesByLoopback, New, NotIn, Opening, Port, Source, Tcp, ToNode,
            Translated, WithMark, WithoutMark,
        };
        let port = self.listen_port;
        let listener = listener(self.family);
        match chain {
            Chain::Capture => vec![Rule {
                when: vec![Tcp, WithoutMark(self.mark)],
                verdict: Verdict::Call(Chain::Services),
                comment: "streamvs services",
            }],
            Chain::Services => self.services(SocketAddr::new(listener, port)),
            Chain::Alias => {
                let rule = |alias: &Alias| Rule {
                    when: vec![Source(alias.aliases()), WithMark(self.mark)],
                    verdict: Verdict::From(alias.clients()),
                    comment: "streamvs clients seen as themselves",
                };
                self.aliases.iter().map(rule).collect()
            }
            Chain::Input => vec![
                Rule {
                    when: vec![Destination(listener), Tcp, Port(port), Translated],
                    verdict: Verdict::Accept,
                    comment: "streamvs captured connection",
                },
                Rule {
                    when: vec![Tcp, Port(port), Opening],
                    verdict: Verdict::Reset,
                    comment: "streamvs listener dialled directly",
                },
                Rule {
                    when: vec![Tcp, New, In(Purpose::Health)],
                    verdict: Verdict::Accept,
                    comment: "streamvs health check of a service",
                },
                call(Chain::Refuse),
            ],
            Chain::Forward => vec![
                call(Chain::Refuse),
                Rule {
                    when: vec![LeavesByLoopback],
                    verdict: Verdict::NoRoute,
                    comment: "streamvs no such service",
                },
            ],
            Chain::Refuse => vec![
                Rule {
                    when: vec![Tcp, In(Purpose::Reject)],
                    verdict: Verdict::Reset,
                    comment: "streamvs service has no endpoints",
                },
                Rule {
                    when: vec![In(Purpose::Reject)],
                    verdict: Verdict::PortUnreachable,
                    comment: "streamvs service has no endpoints",
                },
                Rule {
                    when: vec![In(Purpose::Drop)],
                    verdict: Verdict::Drop,
                    comment: "streamvs service has no local endpoints",
                },
                Rule {
                    when: vec![In(Purpose::Guarded), NotIn(Purpose::Allowed)],
                    verdict: Verdict::Drop,
                    comment: "streamvs source is not let in",
                },
                Rule {
                    when: vec![Tcp, In(Purpose::NodeReject), ToNode],
                    verdict: Verdict::Reset,
                    comment: "streamvs node port has no endpoints",
                },
                Rule {
                    when: vec![In(Purpose::NodeReject), ToNode],
                    verdict: Verdict::PortUnreachable,
                    comment: "streamvs node port has no endpoints",
                },
                Rule {
                    when: vec![In(Purpose::NodeDrop), ToNode],
                    verdict: Verdict::Drop,
                    comment: "streamvs node port has no local endpoints",
                },
            ],
        }
    }

    /// Addresses of Services before node ports; of each, those that are for everybody before those
    /// that are for clients inside, which are pods and processes of the node.
    fn services(&self, listener: SocketAddr) -> Vec<Rule> {
        use Condition::{FromNode, In, NotIn, Tcp, ToNode};
        let capture = |when: &[Condition], comment| Rule {
            when: [&[Tcp], when].concat(),
            verdict: Verdict::Redirect(listener),
            comment,
        };
        let (inner, node_inner) = (In(Purpose::Inner), In(Purpose::NodeInner));
        let pods = In(Purpose::Pods);
        vec![
            Rule {
                when: vec![In(Purpose::Guarded), NotIn(Purpose::Allowed)],
                verdict: Verdict::Return,
                comment: "streamvs source is not let in",
            },
            capture(&[In(Purpose::Capture)], "streamvs service to the listener"),
            capture(&[inner, pods], "streamvs service for pods"),
            capture(&[inner, FromNode], "streamvs service for the node"),
            capture(&[In(Purpose::NodeCapture), ToNode], "streamvs node port to the listener"),
            capture(&[node_inner, pods, ToNode], "streamvs node port for pods"),
            capture(&[node_inner, FromNode, ToNode], "streamvs node port for the node"),
        ]
    }

    /// The set of this family for a purpose.
    pub(crate) fn set(&self, purpose: Purpose) -> SetName {
        SetName { purpose, family: self.family }
    }
}

fn call(chain: Chain) -> Rule {
    Rule {
        when: vec![Condition::New],
        verdict: Verdict::Call(chain),
        comment: "streamvs refused services",
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace;
