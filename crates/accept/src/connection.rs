//! THE SPINE: one connection from accept to its record.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use streamvs_balance::{Verdict, VirtualServer};
use streamvs_detect::{Prefixed, Protocol, tls};
use streamvs_relay::connect::{Dialled, reset_on_drop};
use streamvs_relay::{Route, h2, tcp};
use streamvs_table::ProtocolHint;
use tokio::net::TcpStream;

use crate::limits;
use crate::opening::{self, Failure, Opened, Upstream};
use crate::record::{Record, RefusalReason};
use crate::run::Shared;

/// Follows one accepted connection to its end.
pub(crate) async fn serve(shared: Rc<Shared>, socket: TcpStream, client: SocketAddr) {
    let (original_dst, server) = match admit(&shared, &socket) {
        Ok(admitted) => admitted,
        Err(reason) => return refuse(&shared, &socket, client, reason),
    };
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    let mut record = Record::new(client, original_dst, Arc::clone(&server));
    let route = Route::new(original_dst, client.ip(), Arc::clone(&server));

    let opened = match server.service().protocol_hint {
        ProtocolHint::Tcp => Ok(Opened {
            protocol: Protocol::Tcp,
            from_client: Bytes::new(),
            from_endpoint: Bytes::new(),
            upstream: Upstream::new(Duration::ZERO),
        }),
        ProtocolHint::H2c | ProtocolHint::Auto => {
            opening::open(&shared.worker, &route, &socket, early_dial_delay(&server)).await
        }
    };
    match opened {
        Ok(opened) if opened.protocol == Protocol::Http2 => {
            http2(&shared, route, socket, opened, &mut record).await;
        }
        Ok(opened) => plain(&shared, &route, &server, socket, opened, &mut record).await,
        Err(failure) => {
            record.outcome = match failure {
                Failure::Downstream(error) => format!("downstream: {error}"),
                Failure::Upstream(error) => format!("upstream: {error}"),
                Failure::NoEndpoint(none) => no_endpoint(&server, none.tried_count),
            };
            reset_on_drop(&socket);
        }
    }
}

/// Whose connection this was, and who serves it.
fn admit(
    shared: &Shared,
    socket: &TcpStream,
) -> Result<(SocketAddr, Arc<VirtualServer>), RefusalReason> {
    let original_dst =
        shared.original_dst.of(socket).map_err(|_| RefusalReason::NoOriginalDestination)?;
    let is_direct = socket.local_addr().is_ok_and(|local| {
        (local.ip().to_canonical(), local.port()) == (original_dst.ip(), original_dst.port())
    });
    if is_direct {
        return Err(RefusalReason::NotCaptured);
    }
    let server = shared.worker.lookup(original_dst).ok_or(RefusalReason::UnknownService)?;
    Ok((original_dst, server))
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

/// Balances each stream. An endpoint that was dialled early becomes the first pooled connection,
/// and its turn goes to the first stream.
async fn http2(
    shared: &Rc<Shared>,
    route: Route,
    socket: TcpStream,
    opened: Opened,
    record: &mut Record,
) {
    record.settle(Verdict::Http2);
    let pool = shared.worker.pool();
    let first = match opened.upstream {
        Upstream::Delayed(_) => None,
        Upstream::Dialling(dialler) => dialler.into_attempt().map(|(choice, dial)| {
            if pool.wants(choice.address()) {
                pool.adopt_dial(choice.address(), dial);
            }
            choice
        }),
        Upstream::Connected(Dialled { socket, choice }) => {
            if pool.wants(choice.address()) {
                let socket = Prefixed::new(opened.from_endpoint, socket);
                pool.adopt(choice.address(), socket).await;
            }
            Some(choice)
        }
    };
    let socket = Prefixed::new(opened.from_client, socket);
    let outcome =
        h2::serve(Rc::clone(&shared.worker), Rc::new(route), socket, first, shared.drain.clone())
            .await;
    record.stream_count = outcome.stream_count;
    record.outcome = outcome.error.map_or_else(|| "closed".to_owned(), |error| error.to_string());
}

/// Balances the connection as a whole.
async fn plain(
    shared: &Shared,
    route: &Route,
    server: &VirtualServer,
    socket: TcpStream,
    opened: Opened,
    record: &mut Record,
) {
    let hello = tls::client_hello(&opened.from_client);
    record.settle(if hello.is_some() { Verdict::Tls } else { Verdict::Tcp });
    if hello.is_some_and(|hello| hello.offers_h2) {
        server.stats().tls_h2.inc();
    }
    let dialled = match opened.upstream.connected(&shared.worker, route).await {
        Ok(dialled) => dialled,
        Err(none) => {
            record.outcome = no_endpoint(server, none.tried_count);
            return reset_on_drop(&socket);
        }
    };
    record.endpoint = Some(dialled.choice.address());
    dialled.choice.target().stats().connections.inc();
    let outcome = tcp::relay(
        &shared.worker,
        socket,
        dialled.socket,
        opened.from_client,
        opened.from_endpoint,
    )
    .await;
    server.stats().bytes_to_upstream.add(outcome.bytes_to_upstream);
    server.stats().bytes_to_downstream.add(outcome.bytes_to_downstream);
    record.outcome = outcome.end.to_string();
}

fn no_endpoint(server: &VirtualServer, tried_count: usize) -> String {
    server.stats().no_endpoint.inc();
    format!("no endpoint, {tried_count} tried")
}
