//! Answers of this node's pods to clients' own addresses come to the proxy, where it asked.
//!
//! ```text
//!  a socket of ours, bound to 203.0.113.9 (IP_TRANSPARENT) -> 10.244.1.10, a pod of this node
//!  its answer to 203.0.113.9: prerouting, ip and ip6 streamvs-reply
//!      is there a transparent socket for it? mark bit 0x8
//!  ip rule: of that bit, table 83, in which every address is the node's own -> the socket
//! ```
//!
//! Who has no such socket goes on as if nothing was here. It does not work for endpoints that are
//! the node itself, whose answers are not routed, nor for those of other nodes, whose answers do
//! not come by.
//!
//! Source: Linux, Documentation/networking/tproxy.rst.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion};
use streamvs_table::{Family, PerFamily};

use crate::error::RouteAttempt;
use crate::nft::Nft;
use crate::nft::render::word;
use crate::{Error, Gate, Repair, link};

/// The tables' name, in the families `ip` and `ip6`.
pub(crate) const TABLE: &str = "streamvs-reply";

/// Before every policy that operators and network plug-ins are known to have but Cilium's, which
/// looks at bits of its own.
const PRIORITY: u32 = 83;

/// The answers of one node.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    /// What does.
    in_force: BTreeSet<IpNet>,
    /// How the kernel shows our tables; none until they are committed.
    printed: PerFamily<Option<String>>,
    /// What stood in the way last.
    told: Option<String>,
}

/// The mark bit of answers that come to sockets with a client's own address: the lowest from 0x4
/// that neither sockets with `mark` nor their gate use. None: there is none left.
pub fn answer_bit(mark: u32) -> Option<u32> {
    Gate::bit_beside(mark | Gate::bit_beside(mark)?)
}

impl Replies {
    /// The ranges of pods whose answers come to us.
    pub(crate) fn in_force(&self) -> impl Iterator<Item = IpNet> {
        self.in_force.iter().copied()
    }

    /// Sees to it that those of these pods do. What was made once stays, since connections may use
    /// it. What stands in the way is told in the log when it is new; the pods see the node's address
    /// then. Returns what it mended.
    pub(crate) async fn settle(&mut self, mark: u32, wanted: &BTreeSet<IpNet>) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let mut failure = None;
        self.in_force.clear();
        for family in Family::BOTH {
            let pods = wanted.iter().copied().filter(|pods| Family::of(pods.addr()) == family);
            let pods: BTreeSet<IpNet> = pods.collect();
            if pods.is_empty() && self.printed.get(family).is_none() {
                continue;
            }
            match self.settle_family(mark, family, &mut repairs).await {
                Ok(()) => self.in_force.extend(pods),
                Err(reason) => failure = Some(reason),
            }
        }
        if let Some(reason) = failure.as_ref().filter(|_| failure != self.told) {
            tracing::warn!(%reason, "endpoints see the node's address instead of that of clients outside");
        }
        self.told = failure;
        repairs
    }

    async fn settle_family(
        &mut self,
        mark: u32,
        family: Family,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), String> {
        let bit = answer_bit(mark).ok_or("no mark bit is left")?;
        if family == Family::V4 && marks_are_routed_back() {
            return Err("net.ipv4.conf.*.src_valid_mark is on".to_owned());
        }
        let in_words = |error: Error| error.to_string();
        let nft = Nft::locate().map_err(in_words)?;
        let known = self.printed.get(family).is_some();
        let found = nft.print(family, TABLE).await.map_err(in_words)?;
        if found.is_none() || found != *self.printed.get(family) {
            nft.commit(&text(family, bit)).await.map_err(in_words)?;
            *self.printed.get_mut(family) = nft.print(family, TABLE).await.map_err(in_words)?;
            if known {
                repairs.push(Repair::Table { family, table: TABLE });
            }
        }
        let added = link::converse(async |handle: &Handle| {
            let route = link::add_reply(handle, family).await?;
            Ok(add_rule(handle, family, bit).await? || route)
        });
        if added.await.map_err(in_words)? && known {
            let network = match family {
                Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
                Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
            };
            repairs.push(Repair::Route { network });
        }
        Ok(())
    }
}

/// The kernel would look for the way back to an answer's sender in our table too, and find that it
/// is the node itself.
fn marks_are_routed_back() -> bool {
    let Ok(interfaces) = std::fs::read_dir("/proc/sys/net/ipv4/conf") else { return false };
    interfaces.flatten().any(|interface| {
        let value = std::fs::read_to_string(interface.path().join("src_valid_mark"));
        value.is_ok_and(|value| value.trim() != "0")
    })
}

/// The table anew, whatever was in it. Only answers are looked at, since each look is one into the
/// kernel's table of sockets.
fn text(family: Family, bit: u32) -> String {
    let table = format!("table {} {TABLE}", word(family));
    format!(
        "add {table}\n\
         delete {table}\n\
         {table} {{\n\
         \tchain prerouting {{\n\
         \t\ttype filter hook prerouting priority -150; policy accept;\n\
         \t\tmeta l4proto tcp ct direction reply socket transparent 1 \
         meta mark set meta mark | {bit:#x} comment \"streamvs answers to us\"\n\
         \t}}\n\
         }}\n"
    )
}

/// True where there was none.
async fn add_rule(handle: &Handle, family: Family, bit: u32) -> Result<bool, Error> {
    if rules(handle, family)
        .await?
        .iter()
        .any(|rule| rule.attributes.contains(&RuleAttribute::FwMask(bit)))
    {
        return Ok(false);
    }
    let mut request = handle
        .rule()
        .add()
        .table_id(link::TABLE_REPLY)
        .action(RuleAction::ToTable)
        .priority(PRIORITY)
        .fw_mark(bit);
    let attributes = &mut request.message_mut().attributes;
    attributes.push(RuleAttribute::FwMask(bit));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(link::PROTOCOL)));
    let added = match family {
        Family::V4 => request.v4().execute().await,
        Family::V6 => request.v6().execute().await,
    };
    match added {
        Ok(()) => Ok(true),
        Err(source) => Err(Error::Route { attempt: RouteAttempt::Rule(family), source }),
    }
}

/// Our rules.
async fn rules(handle: &Handle, family: Family) -> Result<Vec<RuleMessage>, Error> {
    let version = match family {
        Family::V4 => IpVersion::V4,
        Family::V6 => IpVersion::V6,
    };
    let ours = RuleAttribute::Protocol(RouteProtocol::Other(link::PROTOCOL));
    let all: Result<Vec<RuleMessage>, _> = handle.rule().get(version).execute().try_collect().await;
    match all {
        Ok(all) => Ok(all.into_iter().filter(|rule| rule.attributes.contains(&ours)).collect()),
        // A kernel without rules, or without IPv6, has none.
        Err(error) if link::is(&error, &[nix::libc::EOPNOTSUPP, nix::libc::EAFNOSUPPORT]) => {
            Ok(Vec::new())
        }
        Err(source) => Err(Error::Route { attempt: RouteAttempt::Rule(family), source }),
    }
}

/// Deletes rules of ours for another bit than that of `mark`: of an agent before this one, whose
/// mark was another. Sockets of this one may have that bit, and the kernel would look for the way to
/// their endpoints in our table, by which all is the node itself.
///
/// # Errors
/// The kernel refused.
pub(crate) async fn remove_other_rules(mark: u32) -> Result<(), Error> {
    let own = answer_bit(mark).map(RuleAttribute::FwMask);
    link::converse(async |handle: &Handle| {
        for family in Family::BOTH {
            let is_other =
                |rule: &RuleMessage| !own.as_ref().is_some_and(|own| rule.attributes.contains(own));
            remove(handle, family, is_other).await?;
        }
        Ok(())
    })
    .await
}

/// Deletes our rules.
///
/// # Errors
/// The kernel refused.
pub(crate) async fn remove_rules(handle: &Handle, family: Family) -> Result<(), Error> {
    remove(handle, family, |_| true).await
}

async fn remove(
    handle: &Handle,
    family: Family,
    goes: impl Fn(&RuleMessage) -> bool,
) -> Result<(), Error> {
    for rule in rules(handle, family).await?.into_iter().filter(goes) {
        let deleted = handle.rule().del(rule).execute().await;
        deleted.map_err(|source| Error::Route { attempt: RouteAttempt::Rule(family), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Aim: answers have a bit of their own.

    use super::*;

    #[test]
    fn the_bit_is_neither_our_sockets_nor_the_gates() {
        for (mark, expected) in [(0x1, 0x8), (0x4, 0x10), (0x8, 0x10), (0x1c, 0x40)] {
            assert_eq!(answer_bit(mark), Some(expected), "{mark:#x}");
        }
    }
}
