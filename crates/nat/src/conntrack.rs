//! UDP flows that the kernel remembers, and forgetting those that lead nowhere any more.
//!
//! A client that goes on with its socket keeps its flow alive, and the flow keeps the endpoint of
//! its first packet. So flows must go when their endpoint does; when a Service gets its first
//! endpoint (flows from before are not translated at all); and when it loses the last one.
//!
//! Sources: the kernel's nfnetlink_conntrack; kube-proxy's conntrack package for when.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as IpProtocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};
use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use streamvs_table::{
    AddressKind, Disposition, Family, Protocol, ServicePort, Snapshot, TrafficPolicy,
};

use crate::netlink::Messages;
use crate::ranges::Ranges;

/// Attributes that tell entries of equal tuples apart (`CTA_ID`, `CTA_ZONE`).
const TELLING: [u16; 2] = [12, 18];

/// The flow of a UDP socket, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Where the client sends to.
    pub(crate) dialled: SocketAddr,
    /// Where the answers come from: the endpoint, or the dialled address itself.
    pub(crate) answers_from: SocketAddr,
}

/// At which addresses node ports are served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePorts<'a> {
    pub(crate) ranges: &'a Ranges,
    /// The addresses of the node's interfaces.
    pub(crate) own: &'a BTreeSet<IpAddr>,
}

/// True where a flow to a Service leads to what is not, or no longer, an endpoint of it.
///
/// An endpoint that terminates and still serves keeps its flows, as connections would. So does one
/// that the policy would not give to the client any more: as by kube-proxy, nobody asks where a
/// flow is from.
pub(crate) fn is_stale(
    flow: &Flow,
    before: &Snapshot,
    after: &Snapshot,
    node_ports: NodePorts<'_>,
) -> bool {
    let Flow { dialled, answers_from } = *flow;
    let Some((service, kind)) = dialled_service(flow, after, node_ports) else {
        // Of a Service that is gone only what was translated leads astray.
        return dialled_service(flow, before, node_ports).is_some() && answers_from != dialled;
    };
    let (balancing, policies) = match kind {
        AddressKind::ClusterIp => (service.internal_policy, [service.internal_policy; 2]),
        AddressKind::LoadBalancer | AddressKind::ExternalIp | AddressKind::NodePort => {
            (TrafficPolicy::Cluster, [TrafficPolicy::Cluster, service.external_policy])
        }
    };
    let endpoint = service.endpoints.iter().find(|endpoint| endpoint.address == answers_from);
    let keeps = endpoint.is_some_and(|endpoint| {
        endpoint.serving || policies.into_iter().any(|policy| endpoint.usable(policy))
    });
    let family = Family::of(dialled.ip());
    !(keeps && service.disposition_by(balancing, family) == Disposition::Balance)
}

/// The Service that a client dialled, and by what kind of address.
fn dialled_service<'a>(
    flow: &Flow,
    table: &'a Snapshot,
    node_ports: NodePorts<'_>,
) -> Option<(&'a ServicePort, AddressKind)> {
    let (ip, port) = (flow.dialled.ip(), flow.dialled.port());
    if let Some(service) = table.lookup(ip, port, Protocol::Udp) {
        return service.kind_of(ip).map(|kind| (service.as_ref(), kind));
    }
    // A range may hold addresses of other hosts. What was translated was for the node, also where
    // the address is gone.
    let is_own = node_ports.own.contains(&ip) || table.node().addresses.contains(&ip);
    if !node_ports.ranges.serve_at(ip) || !(is_own || flow.answers_from != flow.dialled) {
        return None;
    }
    let service = table.node_port(port, Protocol::Udp)?;
    service.cluster_ip(Family::of(ip)).map(|_| (service.as_ref(), AddressKind::NodePort))
}

/// Deletes the UDP flows of a family for which `is_stale` holds. Returns how many those were.
///
/// # Errors
/// The netlink socket failed.
pub(crate) async fn forget(family: Family, is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    send(&mut socket, family, NLM_F_REQUEST | NLM_F_DUMP, udp_flows()).await?;
    let mut stale = Vec::new();
    receive(&mut socket, |attributes| {
        if read(&attributes).is_some_and(|flow| is_stale(&flow)) {
            stale.push(attributes);
        }
    })
    .await?;
    let mut deleted = 0;
    for attributes in stale {
        let identity = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            other => TELLING.contains(&other.kind()),
        });
        let request = ConntrackMessage::Delete(identity.collect());
        send(&mut socket, family, NLM_F_REQUEST | NLM_F_ACK, request).await?;
        match receive(&mut socket, drop).await {
            Ok(()) => deleted += 1,
            // It ended meanwhile.
            Err(error) if error.raw_os_error() == Some(ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Asks for the UDP flows of a family, since a node with many connections has ten thousands of
/// others. Kernels before 5.8 do not know the filter and tell of all.
fn udp_flows() -> NetfilterMessageInner {
    /// `IPCTNL_MSG_CT_GET`.
    const GET: u8 = 1;
    /// `CTA_TUPLE_ORIG`.
    const TUPLE: u16 = 1;
    /// `CTA_FILTER` and in it `CTA_FILTER_ORIG_FLAGS`: what of the tuple is to be compared.
    const FILTER: u16 = 25;
    const OF_TUPLE: u16 = 1;
    /// `CTA_FILTER_F_CTA_PROTO_NUM`.
    const PROTOCOL: u32 = 1 << 3;
    fn nest(kind: u16, within: &impl Emitable) -> DefaultNla {
        let mut octets = vec![0; within.buffer_len()];
        within.emit(&mut octets);
        DefaultNla::new(kind | NLA_F_NESTED, octets)
    }
    let udp = Tuple::Proto(vec![ProtoTuple::Protocol(IpProtocol::Udp)]);
    let compared = DefaultNla::new(OF_TUPLE, PROTOCOL.to_ne_bytes().into());
    NetfilterMessageInner::Other {
        subsys: NetfilterSubsystem::Conntrack,
        message_type: GET,
        attributes: vec![nest(TUPLE, &udp), nest(FILTER, &compared)],
    }
}

/// Room for a datagram. The kernel fills it as far as 32 KiB, and less if there is less room: a dump
/// is as many calls as it is datagrams.
const DATAGRAM: usize = 64 << 10;

/// `ENOENT` of every Linux.
const ENOENT: i32 = 2;

async fn send(
    socket: &mut TokioSocket,
    family: Family,
    flags: u16,
    message: impl Into<NetfilterMessageInner>,
) -> io::Result<()> {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request.finalize();
    let mut buffer = vec![0; request.buffer_len()];
    request.serialize(&mut buffer);
    socket.send(&buffer).await.map(drop)
}

/// Gives each entry to `take`, until the end of a dump or an acknowledgement.
async fn receive(
    socket: &mut TokioSocket,
    mut take: impl FnMut(Vec<ConntrackAttribute>),
) -> io::Result<()> {
    let mut datagram = Vec::with_capacity(DATAGRAM);
    loop {
        datagram.clear();
        socket.recv(&mut datagram).await?;
        for message in Messages(&datagram) {
            match message? {
                Some(NetlinkPayload::Done(_)) => return Ok(()),
                Some(NetlinkPayload::Error(error)) => {
                    return match error.code {
                        None => Ok(()),
                        Some(_) => Err(error.to_io()),
                    };
                }
                Some(NetlinkPayload::InnerMessage(message)) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) =
                        message.inner
                    {
                        take(attributes);
                    }
                }
                // An entry that the library cannot read (another protocol's) is nobody's UDP flow.
                Some(_) | None => {}
            }
        }
    }
}

/// The UDP flow of an entry; none where it is something else.
fn read(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let mut dialled = None;
    let mut answers_from = None;
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => dialled = Some(udp(tuple)?.1),
            ConntrackAttribute::CtaTupleReply(tuple) => answers_from = Some(udp(tuple)?.0),
            _ => {}
        }
    }
    Some(Flow { dialled: dialled?, answers_from: answers_from? })
}

/// From where to where a tuple goes, if it is UDP.
fn udp(tuple: &[Tuple]) -> Option<(SocketAddr, SocketAddr)> {
    let (mut source, mut destination) = (None::<IpAddr>, None::<IpAddr>);
    let (mut source_port, mut destination_port, mut is_udp) = (None, None, false);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(ip) => source = Some(*ip),
                        IPTuple::DestinationAddress(ip) => destination = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(ports) => {
                for port in ports {
                    match port {
                        ProtoTuple::Protocol(protocol) => is_udp = *protocol == IpProtocol::Udp,
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let from = SocketAddr::new(source?, source_port?);
    let to = SocketAddr::new(destination?, destination_port?);
    is_udp.then_some((from, to))
}

#[cfg(test)]
mod tests;
