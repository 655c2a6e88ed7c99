//! Whether clients can be seen by their aliases on this node, and what speaks against it.
//!
//! Looks only. What comes in: the aliases asked for, the kernel's routes, links and settings, and
//! what the backend's rules came to. What goes out: for each alias nothing, or the [`Obstacle`].

use std::collections::BTreeSet;
use std::fmt;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::Handle;
use streamvs_table::{Alias, Aliases, Family, PerFamily};

use crate::error::RouteAttempt;
use crate::{Error, link};

/// Why clients are not seen by their alias, so that endpoints see the node's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Someone else has a route into the range of aliases: whoever is there would not be reached.
    RangeTaken {
        /// Where the route leads.
        route: IpNet,
    },
    /// Pods are joined by a bridge whose frames pass by iptables, so that answers of one pod to
    /// another are not translated back (`net.bridge.bridge-nf-call-iptables`).
    UnfilteredBridge {
        /// Its name.
        bridge: String,
    },
    /// The program or the kernel does not take the rules that translate.
    Untranslatable {
        /// What they do it by.
        means: &'static str,
        /// What the program said.
        message: String,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RangeTaken { route } => write!(
                f,
                "there is a route to {route}, which is within the range reserved for aliases; \
                 reserve another one with --client-ip-ranges"
            ),
            Self::UnfilteredBridge { bridge } => write!(
                f,
                "frames on the pods' bridge {bridge} pass by iptables; load br_netfilter and set \
                 net.bridge.bridge-nf-call-iptables and -ip6tables to 1"
            ),
            Self::Untranslatable { means, message } => {
                write!(f, "{means} does not work: {message}")
            }
        }
    }
}

/// Told of the aliases that stay in force, before others cease to be.
pub(crate) type Narrow<'a> = &'a (dyn Fn(&Aliases) + Sync);

/// The aliases asked for, and what keeps them from being used.
#[derive(Debug)]
pub(crate) struct Judged {
    /// What the backend's rules translate by.
    means: &'static str,
    aliases: Vec<(Alias, Option<Obstacle>)>,
    /// Families whose rules are only taken without aliases, and what is said else.
    untranslatable: PerFamily<Option<String>>,
}

impl Judged {
    /// None are asked for.
    pub(crate) fn new(means: &'static str) -> Self {
        Self { means, aliases: Vec::new(), untranslatable: PerFamily::default() }
    }

    /// Looks anew what keeps each of these from being used.
    ///
    /// # Errors
    /// The kernel does not tell its routes or links.
    pub(crate) async fn examine(&mut self, aliases: &BTreeSet<Alias>) -> Result<(), Error> {
        self.aliases = examine(aliases).await?;
        Ok(())
    }

    /// Those that may be used, where these families are captured.
    pub(crate) fn in_force(&self, families: &[Family]) -> Aliases {
        let free = |(alias, obstacle): &(Alias, Option<Obstacle>)| {
            let translatable = self.untranslatable.get(alias.family()).is_none();
            let captured = families.contains(&alias.family());
            (obstacle.is_none() && translatable && captured).then_some(*alias)
        };
        Aliases::new(self.aliases.iter().filter_map(free))
    }

    /// Those that may not, and why.
    pub(crate) fn obstacles(&self) -> Vec<(Alias, Obstacle)> {
        let obstacle = |(alias, obstacle): &(Alias, Option<Obstacle>)| {
            let refused = || {
                let message = self.untranslatable.get(alias.family()).clone()?;
                Some(Obstacle::Untranslatable { means: self.means, message })
            };
            Some((*alias, obstacle.clone().or_else(refused)?))
        };
        self.aliases.iter().filter_map(obstacle).collect()
    }

    /// Those that somebody else's route leads into.
    pub(crate) fn yielded(&self) -> BTreeSet<IpNet> {
        let taken = |(alias, obstacle): &(Alias, Option<Obstacle>)| {
            matches!(obstacle, Some(Obstacle::RangeTaken { .. })).then(|| alias.aliases())
        };
        self.aliases.iter().filter_map(taken).collect()
    }

    /// Notes that a family's rules were refused with their aliases; none: that it was not because
    /// of those.
    pub(crate) fn refuse(&mut self, family: Family, message: Option<&str>) {
        *self.untranslatable.get_mut(family) = message.map(|message| message.trim().to_owned());
    }

    /// Lets each family be tried again.
    pub(crate) fn try_again(&mut self) {
        self.untranslatable = PerFamily::default();
    }
}

/// A route of someone else.
#[derive(Clone, Copy, Debug)]
struct Foreign {
    network: IpNet,
    /// The index of the interface it leads to, where that is one.
    interface: Option<u32>,
}

/// A bridge, and whether iptables sees IPv4 and IPv6 that it passes on.
#[derive(Clone, Debug)]
struct Bridge {
    index: u32,
    name: String,
    filtered_v4: bool,
    filtered_v6: bool,
}

/// Looks what keeps each alias from being used. Costs nothing where there is none.
///
/// # Errors
/// The kernel does not tell its routes or links.
async fn examine(aliases: &BTreeSet<Alias>) -> Result<Vec<(Alias, Option<Obstacle>)>, Error> {
    if aliases.is_empty() {
        return Ok(Vec::new());
    }
    link::converse(async |handle: &Handle| {
        let bridges = bridges(handle).await?;
        let mut routes = Vec::new();
        for family in Family::BOTH {
            link::dump(handle, family, |message| routes.extend(foreign(message, family))).await?;
        }
        let judge = |alias: &Alias| (*alias, obstacle(alias, &routes, &bridges));
        Ok(aliases.iter().map(judge).collect())
    })
    .await
}

fn obstacle(alias: &Alias, routes: &[Foreign], bridges: &[Bridge]) -> Option<Obstacle> {
    if let Some(taken) = routes.iter().find(|route| overlap(route.network, alias.aliases())) {
        return Some(Obstacle::RangeTaken { route: taken.network });
    }
    let to_clients = routes.iter().filter(|route| overlap(route.network, alias.clients()));
    let unfiltered = to_clients.filter_map(|route| route.interface).find_map(|interface| {
        bridges.iter().find(|bridge| {
            let filtered = match alias.family() {
                Family::V4 => bridge.filtered_v4,
                Family::V6 => bridge.filtered_v6,
            };
            bridge.index == interface && !filtered
        })
    });
    unfiltered.map(|bridge| Obstacle::UnfilteredBridge { bridge: bridge.name.clone() })
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// None: it is one of ours, or the default route, which leads everywhere and nowhere.
fn foreign(message: &RouteMessage, family: Family) -> Option<Foreign> {
    let ours = message.header.protocol == RouteProtocol::Other(link::PROTOCOL);
    if ours || message.header.destination_prefix_length == 0 {
        return None;
    }
    let interface = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some(Foreign { network: link::destination(message, family)?, interface })
}

async fn bridges(handle: &Handle) -> Result<Vec<Bridge>, Error> {
    let all = |setting: &str| {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{setting}");
        // No such file: br_netfilter is not loaded, and nothing is filtered.
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "1")
    };
    let (all_v4, all_v6) = (all("iptables"), all("ip6tables"));
    let links = links(handle).await?;
    let bridges = links.iter().filter_map(bridge).map(|bridge| Bridge {
        filtered_v4: bridge.filtered_v4 || all_v4,
        filtered_v6: bridge.filtered_v6 || all_v6,
        ..bridge
    });
    Ok(bridges.collect())
}

/// All interfaces.
pub(crate) async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, Error> {
    let failed = |source| Error::Route { attempt: RouteAttempt::Links, source };
    handle.link().get().execute().try_collect().await.map_err(failed)
}

/// The names of bridges of which iptables does not see all frames.
pub(crate) async fn unfiltered_bridges() -> Result<Vec<String>, Error> {
    link::converse(async |handle: &Handle| {
        let bridges = bridges(handle).await?.into_iter();
        let unfiltered = bridges.filter(|bridge| !(bridge.filtered_v4 && bridge.filtered_v6));
        Ok(unfiltered.map(|bridge| bridge.name).collect())
    })
    .await
}

/// A link that is a bridge, with the settings of its own.
fn bridge(link: &LinkMessage) -> Option<Bridge> {
    let mut found = None;
    let mut name = String::new();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::LinkInfo(infos) => found = settings(infos).or(found),
            _ => {}
        }
    }
    let (filtered_v4, filtered_v6) = found?;
    Some(Bridge { index: link.header.index, name, filtered_v4, filtered_v6 })
}

fn settings(infos: &[LinkInfo]) -> Option<(bool, bool)> {
    if !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge))) {
        return None;
    }
    let mut own = (false, false);
    for info in infos {
        let LinkInfo::Data(InfoData::Bridge(settings)) = info else { continue };
        for setting in settings {
            match setting {
                InfoBridge::NfCallIpTables(value) => own.0 = *value,
                InfoBridge::NfCallIp6Tables(value) => own.1 = *value,
                _ => {}
            }
        }
    }
    Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[track_caller]
    fn check(routes: &[(&str, u32)], filtered: (bool, bool), expected: Option<&str>) {
        let routes: Vec<Foreign> = routes
            .iter()
            .map(|&(network, index)| Foreign { network: net(network), interface: Some(index) })
            .collect();
        let (filtered_v4, filtered_v6) = filtered;
        let bridge = Bridge { index: 7, name: "cni0".to_owned(), filtered_v4, filtered_v6 };
        let alias = Alias::new(net("10.244.1.0/24"), net("198.18.0.0/15")).expect("fits");
        let found = obstacle(&alias, &routes, &[bridge]).map(|obstacle| obstacle.to_string());
        match expected {
            None => assert_eq!(found, None),
            Some(word) => assert!(found.as_ref().is_some_and(|it| it.contains(word)), "{found:?}"),
        }
    }

    #[test]
    fn a_route_into_the_aliases_is_an_obstacle_and_one_beside_them_is_none() {
        let unfiltered = (false, false);
        check(&[("198.18.0.0/15", 2)], unfiltered, Some("198.18.0.0/15"));
        check(&[("198.18.0.9/32", 2)], unfiltered, Some("198.18.0.9/32"));
        check(&[("198.18.1.0/24", 2), ("192.0.2.0/24", 2)], unfiltered, None);
    }

    #[test]
    fn the_pods_bridge_must_be_filtered_for_their_family() {
        let to_pods = [("10.244.1.0/24", 7)];
        check(&to_pods, (false, true), Some("cni0"));
        check(&to_pods, (true, false), None);
        check(&[("10.244.1.10/32", 3)], (false, false), None);
        // A bridge of somebody else.
        check(&[("172.17.0.0/16", 7)], (false, false), None);
    }
}
