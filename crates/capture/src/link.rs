//! Routes, by netlink: the listener's own address, and a way to Services for host clients.
//!
//! A packet is captured before it is routed when it comes from a pod, but a process of the node
//! needs a route before its packet exists: without one, `connect` says "network is unreachable"
//! and no rule ever sees it. So what is not routable gets a route over `lo`. It leads nowhere:
//! captured packets leave it by their new destination, refused ones are answered before they
//! leave, and what pods send to unknown addresses of the range is refused in FORWARD rather than
//! looping over `lo` until its TTL ends. All routes of ours carry [`PROTOCOL`], by which they are
//! found again, and which no other program uses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};
use streamvs_table::Family;

use crate::error::RouteAttempt;
use crate::{Error, reply, ruleset};

/// The `proto` of every route of ours (`ip route show table all proto 83`). Not in iproute2's
/// `rt_protos`.
pub const PROTOCOL: u8 = 0x53;

/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX` of the kernel).
pub(crate) const LOOPBACK: u32 = 1;

/// The kernel's table of local addresses (`RT_TABLE_LOCAL`).
const TABLE_LOCAL: u32 = 255;

/// Our table, in which every address is the node's own, see [`crate::reply`].
pub(crate) const TABLE_REPLY: u32 = PROTOCOL as u32;

/// The kernel answers a route request at once; this bounds what nobody expects.
const DEADLINE: Duration = Duration::from_secs(10);

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    network: IpNet,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The node accepts packets to it.
    Local,
    /// The node may send to it.
    Reachable,
    /// The node accepts packets to it that our rule leads to our table.
    Reply,
}

/// What the routing tables say of one family.
struct Tables {
    ours: BTreeSet<Route>,
    /// A default route leads out, so that every address is routable.
    has_default: bool,
}

/// Which routes capture needs.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) families: &'a [Family],
    /// The service ranges, where known.
    pub(crate) ranges: BTreeSet<IpNet>,
    /// Service addresses; those outside the ranges are looked after one by one.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// What stands for clients, and is to be the node's own. Others that once were stay, since
    /// connections may use them.
    pub(crate) aliases: BTreeSet<IpNet>,
    /// Of those the ones that somebody else has taken, and that go.
    pub(crate) yielded: BTreeSet<IpNet>,
}

/// Makes our routes what they should be: the listener's addresses, the aliases, the ranges and single service
/// addresses that nothing else routes, and no others. A route once added stays while it is wanted,
/// also when another way appears. Returns what was added.
///
/// # Errors
/// The kernel refused; routes before the refused one are in place.
pub(crate) async fn settle(wanted: &Wanted<'_>) -> Result<Vec<IpNet>, Error> {
    converse(async |handle: &Handle| {
        let mut added = Vec::new();
        for &family in wanted.families {
            added.extend(settle_family(handle, family, wanted).await?);
        }
        Ok(added)
    })
    .await
}

async fn settle_family(
    handle: &Handle,
    family: Family,
    wanted: &Wanted<'_>,
) -> Result<Vec<IpNet>, Error> {
    let tables = read(handle, family).await?;
    let candidates = candidates(family, wanted);
    let listener: IpNet = ruleset::listener(family).into();
    let aliases = wanted.aliases.iter().copied().filter(|net| Family::of(net.addr()) == family);
    let local: BTreeSet<Route> =
        aliases.chain([listener]).map(|network| Route { network, kind: Kind::Local }).collect();
    let keep = |route: &Route| match route.kind {
        Kind::Local => !wanted.yielded.contains(&route.network),
        Kind::Reachable => candidates.contains(route),
        Kind::Reply => true,
    };
    for route in tables.ours.iter().filter(|route| !keep(route)) {
        delete(handle, *route).await?;
    }
    let mut added = Vec::new();
    for route in local.difference(&tables.ours) {
        if add(handle, *route).await? {
            added.push(route.network);
        }
    }
    for route in candidates.difference(&tables.ours) {
        let single = route.network.prefix_len() == route.network.max_prefix_len();
        if single && tables.has_default {
            continue;
        }
        let inside = route.network.hosts().next().unwrap_or(route.network.addr());
        if !is_routable(handle, inside).await? && add(handle, *route).await? {
            added.push(route.network);
        }
    }
    Ok(added)
}

/// The ranges of a family, and its addresses outside of them.
fn candidates(family: Family, wanted: &Wanted<'_>) -> BTreeSet<Route> {
    let ranges = wanted.ranges.iter().map(IpNet::trunc);
    let ranges: BTreeSet<IpNet> =
        ranges.filter(|range| Family::of(range.addr()) == family).collect();
    let addresses = wanted.addresses.iter().copied();
    let outside = addresses
        .filter(|ip| Family::of(*ip) == family)
        .filter(|ip| !ranges.iter().any(|range| range.contains(ip)))
        .map(IpNet::from);
    let networks: BTreeSet<IpNet> = outside.chain(ranges.iter().copied()).collect();
    networks.into_iter().map(|network| Route { network, kind: Kind::Reachable }).collect()
}

/// Deletes every route of ours, of both families. Returns what it deleted.
///
/// # Errors
/// The kernel refused; routes after the refused one are still there.
pub(crate) async fn remove() -> Result<Vec<IpNet>, Error> {
    converse(async |handle: &Handle| {
        let mut removed = Vec::new();
        for family in Family::BOTH {
            reply::remove_rules(handle, family).await?;
            for route in read(handle, family).await?.ours {
                delete(handle, route).await?;
                removed.push(route.network);
            }
        }
        Ok(removed)
    })
    .await
}

/// Opens a route socket for `work` and drives it meanwhile, without a task of its own.
pub(crate) async fn converse<T>(
    work: impl AsyncFnOnce(&Handle) -> Result<T, Error>,
) -> Result<T, Error> {
    let (connection, handle, _messages) =
        rtnetlink::new_connection().map_err(Error::RouteSocket)?;
    let talk = async {
        tokio::select! {
            // A finished conversation wins over its socket, which ends with it.
            biased;
            result = work(&handle) => result,
            () = connection => Err(Error::RouteSocket(std::io::ErrorKind::ConnectionAborted.into())),
        }
    };
    match tokio::time::timeout(DEADLINE, talk).await {
        Ok(result) => result,
        Err(_) => Err(Error::RouteSocket(std::io::ErrorKind::TimedOut.into())),
    }
}

async fn read(handle: &Handle, family: Family) -> Result<Tables, Error> {
    let mut tables = Tables { ours: BTreeSet::new(), has_default: false };
    dump(handle, family, |message| tables.note(message, family)).await?;
    Ok(tables)
}

/// Shows every route of a family, in whatever table, to `note`.
pub(crate) async fn dump(
    handle: &Handle,
    family: Family,
    mut note: impl FnMut(&RouteMessage),
) -> Result<(), Error> {
    let request = match family {
        Family::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        Family::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    };
    let attempt = RouteAttempt::Dump(family);
    let mut dump = Box::pin(handle.route().get(request).execute());
    loop {
        match dump.try_next().await {
            Ok(Some(message)) => note(&message),
            Ok(None) => return Ok(()),
            // A kernel without IPv6 has no such routes.
            Err(error) if is(&error, &[nix::libc::EOPNOTSUPP, nix::libc::EAFNOSUPPORT]) => {
                return Ok(());
            }
            Err(source) => return Err(Error::Route { attempt, source }),
        }
    }
}

impl Tables {
    fn note(&mut self, message: &RouteMessage, family: Family) {
        let header = &message.header;
        let in_main = header.table == RouteHeader::RT_TABLE_MAIN;
        if header.destination_prefix_length == 0 {
            self.has_default |= in_main && header.kind == RouteType::Unicast;
        }
        if header.protocol != RouteProtocol::Other(PROTOCOL) {
            return;
        }
        if let Some(network) = destination(message, family) {
            let kind = match header.kind {
                RouteType::Local if u32::from(header.table) == TABLE_REPLY => Kind::Reply,
                RouteType::Local => Kind::Local,
                _ => Kind::Reachable,
            };
            self.ours.insert(Route { network, kind });
        }
    }
}

/// Where a route leads. None: the kernel says something impossible.
pub(crate) fn destination(message: &RouteMessage, family: Family) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
        _ => None,
    });
    let unspecified = match family {
        Family::V4 => IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let length = message.header.destination_prefix_length;
    IpNet::new(address.unwrap_or(unspecified), length).ok()
}

fn message(route: Route) -> RouteMessage {
    let (table, kind, scope) = match route.kind {
        Kind::Local => (TABLE_LOCAL, RouteType::Local, RouteScope::Host),
        Kind::Reply => (TABLE_REPLY, RouteType::Local, RouteScope::Host),
        Kind::Reachable => {
            (u32::from(RouteHeader::RT_TABLE_MAIN), RouteType::Unicast, RouteScope::Link)
        }
    };
    let protocol = RouteProtocol::Other(PROTOCOL);
    let length = route.network.prefix_len();
    match route.network.addr() {
        IpAddr::V4(ip) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(ip, length)
            .output_interface(LOOPBACK)
            .table_id(table)
            .kind(kind)
            .scope(scope)
            .protocol(protocol)
            .build(),
        // IPv6 routes have no scope.
        IpAddr::V6(ip) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(ip, length)
            .output_interface(LOOPBACK)
            .table_id(table)
            .kind(kind)
            .protocol(protocol)
            .build(),
    }
}

/// Makes the route by which all addresses of a family are the node's own in our table. True where
/// it was not there.
pub(crate) async fn add_reply(handle: &Handle, family: Family) -> Result<bool, Error> {
    let network = match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    add(handle, Route { network, kind: Kind::Reply }).await
}

/// False where someone else has the same route already.
async fn add(handle: &Handle, route: Route) -> Result<bool, Error> {
    match handle.route().add(message(route)).execute().await {
        Ok(()) => Ok(true),
        Err(error) if is(&error, &[nix::libc::EEXIST]) => Ok(false),
        Err(source) => Err(Error::Route { attempt: RouteAttempt::Add(route.network), source }),
    }
}

async fn delete(handle: &Handle, route: Route) -> Result<(), Error> {
    match handle.route().del(message(route)).execute().await {
        Ok(()) => Ok(()),
        Err(error) if is(&error, &[nix::libc::ESRCH]) => Ok(()),
        Err(source) => Err(Error::Route { attempt: RouteAttempt::Delete(route.network), source }),
    }
}

async fn is_routable(handle: &Handle, address: IpAddr) -> Result<bool, Error> {
    let request = match address {
        IpAddr::V4(ip) => {
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(ip, 32).build()
        }
        IpAddr::V6(ip) => {
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(ip, 128).build()
        }
    };
    let answer = Box::pin(handle.route().get(request).execute()).next().await;
    match answer {
        Some(Ok(_)) => Ok(true),
        None => Ok(false),
        Some(Err(error)) if is(&error, &[nix::libc::ENETUNREACH, nix::libc::EHOSTUNREACH]) => {
            Ok(false)
        }
        // Blackhole and prohibit: someone decided that nothing goes there.
        Some(Err(error)) if is(&error, &[nix::libc::EINVAL, nix::libc::EACCES]) => Ok(true),
        Some(Err(source)) => Err(Error::Route { attempt: RouteAttempt::Lookup(address), source }),
    }
}

/// Whether the kernel refused with one of these codes.
pub(crate) fn is(error: &rtnetlink::Error, codes: &[i32]) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => codes.contains(&-message.raw_code()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_a_range_need_no_route_of_their_own() {
        let parse = |text: &str| text.parse::<IpNet>().expect("a network");
        let wanted = Wanted {
            families: &Family::BOTH,
            ranges: [parse("10.96.0.7/12"), parse("fd00:96::/108")].into(),
            addresses: ["10.96.0.1", "10.200.0.1", "fd00:96::1", "fd00:97::1"]
                .map(|text| text.parse().expect("an address"))
                .into(),
            aliases: BTreeSet::new(),
            yielded: BTreeSet::new(),
        };
        let networks = |family| {
            candidates(family, &wanted).into_iter().map(|route| route.network).collect::<Vec<_>>()
        };
        assert_eq!(networks(Family::V4), [parse("10.96.0.0/12"), parse("10.200.0.1/32")]);
        assert_eq!(networks(Family::V6), [parse("fd00:96::/108"), parse("fd00:97::1/128")]);
    }
}
