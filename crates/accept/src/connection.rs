//! THE SPINE: one connection from accept to its record.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use streamvs_balance::{Verdict, VirtualServer};
use streamvs_detect::{Protocol, tls};
use streamvs_relay::connect::{Dialled, NoEndpoint, reset_on_drop};
use streamvs_relay::tcp::{self, Early};
use streamvs_relay::{Route, Seat};
use streamvs_table::{AddressKind, Origin, ProtocolHint, ServicePort};
use tokio::net::TcpStream;

use crate::http2;
use crate::limits;
use crate::opening::{self, Failure, Opened, Opening};
use crate::record::{Record, RefusalReason};
use crate::run::{Open, Shared};

/// Follows one accepted connection to its end. `heard` is what its client has sent to the agent
/// that had it before.
///
/// What is needed only until the protocol is known, or only for HTTP/2, is on the heap for that
/// long: this future is what an idle plain connection costs.
pub(crate) async fn serve(shared: Open, socket: TcpStream, client: SocketAddr, heard: Bytes) {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let Admitted { original_dst, origin, server, seat } = match admit(&shared, &socket, client.ip())
    {
        Ok(admitted) => admitted,
        Err(reason) => return refuse(&shared, &socket, client, reason),
    };
    let mut record = Record::new(client, original_dst, origin, server, seat);
    match Box::pin(open(&shared, socket, heard, &mut record)).await {
        Some(Begun::Http2(http2)) => {
            let Http2 { route, downstream, opened } = *http2;
            let serving = Box::pin(http2::begin(&shared, route, downstream, opened)).await;
            record.served(serving.await);
        }
        Some(Begun::Plain(plain)) => {
            let Plain { downstream, upstream, early } = *plain;
            let opinion = record.opinion();
            let relay = tcp::relay(&shared.worker, downstream, upstream, early, opinion);
            let departure = relay.await;
            shared.departing.relayed(record, departure);
        }
        None => {}
    }
}

/// A connection whose protocol is known.
enum Begun {
    /// Each stream is balanced.
    Http2(Box<Http2>),
    /// The connection as a whole is.
    Plain(Box<Plain>),
}

struct Http2 {
    route: Route,
    downstream: TcpStream,
    opened: Opened,
}

struct Plain {
    downstream: TcpStream,
    upstream: TcpStream,
    early: Early,
}

/// Recognises the protocol, and connects a plain connection to its endpoint. None: it ended there,
/// and the record says how.
async fn open(
    shared: &Shared,
    socket: TcpStream,
    heard: Bytes,
    record: &mut Record,
) -> Option<Begun> {
    let server = record.server();
    let route = record.route();
    let opened = match server.service().protocol_hint {
        ProtocolHint::Tcp => Ok(Opening::Settled(Opened::plain(heard))),
        ProtocolHint::H2c | ProtocolHint::Auto => {
            opening::open(&shared.worker, &route, &socket, early_dial_delay(server), heard).await
        }
    };
    let opened = match opened {
        Ok(Opening::Suspended(heard)) => {
            shared.departing.opening(record, socket, heard);
            return None;
        }
        Ok(Opening::Settled(opened)) => Ok(opened),
        Err(failure) => Err(failure),
    };
    let failure = match opened {
        Ok(opened) if opened.protocol == Protocol::Http2 => {
            record.settle(Verdict::Http2);
            return Some(Begun::Http2(Box::new(Http2 { route, downstream: socket, opened })));
        }
        Ok(opened) => match plain(shared, &route, opened, record).await {
            Ok((upstream, early)) => {
                let plain = Plain { downstream: socket, upstream, early };
                return Some(Begun::Plain(Box::new(plain)));
            }
            Err(none) => Failure::NoEndpoint(none),
        },
        Err(failure) => failure,
    };
    record.failed(failure);
    reset_on_drop(&socket);
    None
}

/// Connects a plain connection to its endpoint.
async fn plain(
    shared: &Shared,
    route: &Route,
    opened: Opened,
    record: &mut Record,
) -> Result<(TcpStream, Early), NoEndpoint> {
    let Opened { mut from_client, from_endpoint, upstream, .. } = opened;
    let hello = tls::client_hello(&from_client);
    record.settle(if hello.is_some() { Verdict::Tls } else { Verdict::Tcp });
    if hello.is_some_and(|hello| hello.offers_h2) {
        record.server().stats().tls_h2.inc();
    }
    let Dialled { socket, choice, sent_count, .. } =
        upstream.connected(&shared.worker, route, &from_client).await?;
    choice.target().stats().connections.inc();
    record.choose(choice);
    from_client.advance(sent_count);
    let early = Early {
        sent_to_upstream: sent_count as u64,
        to_upstream: from_client,
        to_downstream: from_endpoint,
    };
    Ok((socket, early))
}

/// What is known of a connection to a Service before a byte of it was read.
struct Admitted {
    original_dst: SocketAddr,
    origin: Origin,
    server: Arc<VirtualServer>,
    seat: Option<Seat>,
}

/// Whose connection this was, and who serves it.
fn admit(shared: &Shared, socket: &TcpStream, client: IpAddr) -> Result<Admitted, RefusalReason> {
    let original_dst =
        shared.original_dst.of(socket, client).map_err(|_| RefusalReason::NoOriginalDestination)?;
    // A connection to the listener itself was made to its port; only then is a system call due.
    let is_direct = original_dst.port() == shared.port
        && socket.local_addr().is_ok_and(|local| {
            (local.ip().to_canonical(), local.port()) == (original_dst.ip(), original_dst.port())
        });
    if is_direct {
        return Err(RefusalReason::NotCaptured);
    }
    let server = shared.worker.lookup(original_dst).ok_or(RefusalReason::UnknownService)?;
    let origin = origin(shared, server.service(), original_dst.ip(), client);
    let seat = match &shared.clients {
        Some(clients) => Some(clients.connect(client).ok_or(RefusalReason::ClientLimit)?),
        None => None,
    };
    Ok(Admitted { original_dst, origin, server, seat })
}

/// Where the client is, as far as it makes a difference: Inside where it makes none.
fn origin(shared: &Shared, service: &ServicePort, ip: IpAddr, client: IpAddr) -> Origin {
    let kind = service.kind_of(ip).unwrap_or(AddressKind::NodePort);
    if service.policy(kind, Origin::Inside) == service.policy(kind, Origin::Outside) {
        return Origin::Inside;
    }
    shared.origin.of(client)
}

fn refuse(shared: &Shared, socket: &TcpStream, client: SocketAddr, reason: RefusalReason) {
    (shared.on_refused)(reason);
    tracing::debug!(downstream = %client, reason = ?reason, "connection refused");
    reset_on_drop(socket);
}

/// A port on which nothing but HTTP/2 is expected, because somebody said so or because nothing
/// else was ever seen there, spends no early dial on a client that is about to speak.
fn early_dial_delay(server: &VirtualServer) -> Duration {
    let [http2, tcp, tls] = &server.stats().connections;
    let only_http2_seen = http2.get() > 0 && tcp.get() == 0 && tls.get() == 0;
    if server.service().protocol_hint == ProtocolHint::H2c || only_http2_seen {
        limits::EXPECTED_PREFACE
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    //! Aim: an idle plain connection stays small.

    use super::*;

    fn future_octets<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn future_of_an_idle_connection_is_small() {
        assert!(future_octets(serve) <= 640, "{} octets", future_octets(serve));
    }
}
