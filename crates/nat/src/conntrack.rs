//! UDP flows that the kernel remembers, and forgetting those that lead nowhere any more.
//!
//! A client that goes on with its socket keeps its flow alive, and the flow keeps the endpoint of
//! its first packet. So flows must go when their endpoint does; when a Service gets its first
//! endpoint (flows from before are not translated at all); and when it loses the last one.
//!
//! Sources: the kernel's nfnetlink_conntrack; kube-proxy's conntrack package for when.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol as IpProtocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};
use streamvs_table::{
    AddressKind, Disposition, Family, Protocol, ServicePort, Snapshot, TrafficPolicy,
};

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

/// True where a flow to a Service leads to what is not, or no longer, an endpoint of it.
///
/// An endpoint that terminates and still serves keeps its flows, as connections would. So does one
/// that the policy would not give to the client any more: as by kube-proxy, nobody asks where a
/// flow is from.
pub(crate) fn is_stale(flow: &Flow, before: &Snapshot, after: &Snapshot, ranges: &Ranges) -> bool {
    let Flow { dialled, answers_from } = *flow;
    let Some((service, kind)) = dialled_service(flow, after, ranges) else {
        // Of a Service that is gone only what was translated leads astray.
        return dialled_service(flow, before, ranges).is_some() && answers_from != dialled;
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
    ranges: &Ranges,
) -> Option<(&'a ServicePort, AddressKind)> {
    let (ip, port) = (flow.dialled.ip(), flow.dialled.port());
    if let Some(service) = table.lookup(ip, port, Protocol::Udp) {
        return service.kind_of(ip).map(|kind| (service.as_ref(), kind));
    }
    // Where node ports are served at all addresses of the node, a flow to somebody else passes for
    // one to it, unless it was translated.
    let is_told = !ranges.are_all_of(Family::of(ip)) || table.node().addresses.contains(&ip);
    if !ranges.serve_at(ip) || !(is_told || flow.answers_from != flow.dialled) {
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
    let request = ConntrackMessage::Get(Vec::new());
    send(&mut socket, family, NLM_F_REQUEST | NLM_F_DUMP, request).await?;
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

/// `ENOENT` of every Linux.
const ENOENT: i32 = 2;

async fn send(
    socket: &mut TokioSocket,
    family: Family,
    flags: u16,
    message: ConntrackMessage,
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
    loop {
        let (datagram, _) = socket.recv_from_full().await?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let length = length_of(rest)?;
            // An entry that the library cannot read (another protocol's) is nobody's UDP flow.
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(&rest[..length]);
            match message.map(|message| message.payload) {
                Ok(NetlinkPayload::Done(_)) => return Ok(()),
                Ok(NetlinkPayload::Error(error)) => {
                    return match error.code {
                        None => Ok(()),
                        Some(_) => Err(error.to_io()),
                    };
                }
                Ok(NetlinkPayload::InnerMessage(message)) => {
                    if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) =
                        message.inner
                    {
                        take(attributes);
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::trace!(error = %malformed(error), "conntrack entry skipped"),
            }
            // Messages are aligned to four octets.
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The length that a netlink message says it has, which the datagram must hold.
fn length_of(bytes: &[u8]) -> io::Result<usize> {
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize);
    length
        .filter(|length| (16..=bytes.len()).contains(length))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
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
