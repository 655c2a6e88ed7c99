//! The ports on which load balancers ask a node for a Service's endpoints on it: one server for
//! each Service with a `spec.healthCheckNodePort`, which it has by `externalTrafficPolicy: Local`.
//!
//! Comes in: each new table, and at which addresses of the node to listen. Goes out: 200 where a
//! ready endpoint is on this node and what we apply is fresh, else 503, with the number of
//! endpoints as the weight the load balancer should give the node.
//!
//! An endpoint that terminates does not count even while it serves: the load balancer leaves, and
//! what still comes late is served. Without an endpoint the port stays open and says 503.
//!
//! Source: kube-proxy's `pkg/proxy/healthcheck/service_health.go` as of Kubernetes 1.37.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use socket2::{Domain, Socket, Type};
use streamvs_table::{Family, NodeFacts, ServiceName, ServicePort, Snapshot};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::health::{Health, Moment};
use crate::server::door::{self, Connections};

/// How long after a failed attempt to listen the next one is made.
const RETRY: Duration = Duration::from_secs(5);

/// Probes that wait to be accepted.
const BACKLOG: i32 = 64;

/// Serves until the sender of tables is gone.
///
/// `addresses` names the addresses to listen at, an unspecified one for all of its family; none at
/// all means all. At most `most` sockets listen, since each takes a descriptor that traffic cannot
/// have. `on_failure` hears once of a Service whose port cannot be had; that is tried again every
/// 5 s, and other Services are none the worse.
///
/// Cancel safety: dropping this closes all ports.
pub async fn serve(
    mut tables: watch::Receiver<Arc<Snapshot>>,
    health: Arc<Health>,
    addresses: impl Fn(&NodeFacts) -> BTreeSet<IpAddr>,
    most: usize,
    mut on_failure: impl FnMut(&ServiceName, String),
) {
    let (at, of, connections) = Default::default();
    let mut ports = Ports { health, most, at, of, connections };
    let mut known = Arc::new(Snapshot::default());
    loop {
        let table = Arc::clone(&tables.borrow_and_update());
        for change in table.changes_since(&known) {
            ports.follow(change.name, change.after);
        }
        if !ports.of.is_empty() {
            ports.listen_at(addresses(table.node()));
        }
        known = table;
        if ports.any_closed() {
            ports.open(&mut on_failure);
        }
        tokio::select! {
            changed = tables.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if ports.any_closed() => {}
        }
    }
}

/// All ports that are to be served.
struct Ports {
    health: Arc<Health>,
    /// The most sockets.
    most: usize,
    /// The addresses of the node.
    at: BTreeSet<IpAddr>,
    of: BTreeMap<(ServiceName, Family), Port>,
    /// Of all ports together.
    connections: Arc<Mutex<Connections>>,
}

/// The port of one Service for one family.
struct Port {
    number: u16,
    local_endpoints: Arc<AtomicUsize>,
    /// The servers, which end when this is dropped. None: not listening yet.
    doors: Option<JoinSet<()>>,
    /// Its failure was told.
    told: bool,
}

impl Ports {
    /// Closes what listens at other addresses.
    fn listen_at(&mut self, mut at: BTreeSet<IpAddr>) {
        if at.is_empty() {
            at = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].into();
        }
        if at != self.at {
            self.at = at;
            for port in self.of.values_mut() {
                port.doors = None;
            }
        }
    }

    /// Takes in what a Service is now.
    fn follow(&mut self, service: &ServiceName, of_service: &[Arc<ServicePort>]) {
        for family in Family::BOTH {
            let key = (service.clone(), family);
            let Some(number) = port_of(of_service, family) else {
                self.of.remove(&key);
                continue;
            };
            let count = local_endpoints(of_service, family);
            match self.of.get(&key) {
                Some(port) if port.number == number => port.local_endpoints.store(count, Relaxed),
                _ => {
                    let local_endpoints = Arc::new(AtomicUsize::new(count));
                    let port = Port { number, local_endpoints, doors: None, told: false };
                    self.of.insert(key, port);
                }
            }
        }
    }

    /// Listens where that is not done yet.
    fn open(&mut self, on_failure: &mut impl FnMut(&ServiceName, String)) {
        let (mut sockets, mut taken) = (0, BTreeSet::new());
        for ((_, family), port) in &self.of {
            if let Some(doors) = &port.doors {
                sockets += doors.len();
                taken.insert((port.number, *family));
            }
        }
        for ((service, family), port) in &mut self.of {
            if port.doors.is_some() {
                continue;
            }
            let number = port.number;
            // The kernel would not mind, see `listen`.
            let opened = if taken.contains(&(number, *family)) {
                Err(io::Error::other("another Service has it"))
            } else {
                listen_all(&self.at, *family, number, self.most - sockets)
            };
            match opened {
                Ok(listeners) => {
                    sockets += listeners.len();
                    taken.insert((number, *family));
                    let served = Served {
                        service: service.clone(),
                        local_endpoints: Arc::clone(&port.local_endpoints),
                        health: Arc::clone(&self.health),
                    };
                    let routes = Router::new().fallback(answer).with_state(served);
                    let serve = |listener| {
                        let connections = Arc::clone(&self.connections);
                        door::run_among_others(listener, routes.clone(), connections)
                    };
                    port.doors = Some(listeners.into_iter().map(serve).collect());
                    tracing::debug!(%service, port = number, "health check node port open");
                }
                Err(error) if !port.told => {
                    port.told = true;
                    on_failure(service, format!("health check node port {number}: {error}"));
                }
                Err(_) => {}
            }
        }
    }

    fn any_closed(&self) -> bool {
        self.of.values().any(|port| port.doors.is_none())
    }
}

/// The port of a Service that has an address of a family.
fn port_of(of_service: &[Arc<ServicePort>], family: Family) -> Option<u16> {
    let first = of_service.iter().find(|port| port.cluster_ip(family).is_some())?;
    first.health_check_node_port
}

/// The ready endpoints on this node, each address once however many ports it has.
fn local_endpoints(of_service: &[Arc<ServicePort>], family: Family) -> usize {
    let endpoints = of_service.iter().flat_map(|port| port.endpoints(family));
    let counted =
        endpoints.filter(|endpoint| endpoint.local && endpoint.ready && !endpoint.terminating);
    counted.map(|endpoint| endpoint.address.ip()).collect::<BTreeSet<_>>().len()
}

/// A listener for each address of the family, or none at all, as where they are more than `most`.
fn listen_all(
    at: &BTreeSet<IpAddr>,
    family: Family,
    port: u16,
    most: usize,
) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for ip in at.iter().copied().filter(|ip| Family::of(*ip) == family) {
        if listeners.len() == most {
            return Err(io::Error::other("too many sockets listen for health checks"));
        }
        match listen(SocketAddr::new(ip, port)) {
            Ok(listener) => listeners.push(listener),
            // This kernel does not have the family, so nobody asks by it.
            Err(error) if error.raw_os_error() == Some(EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listeners)
}

/// `EAFNOSUPPORT` of every Linux.
const EAFNOSUPPORT: i32 = 97;

/// The port may be a predecessor's at the same time (`SO_REUSEPORT`): both answer the same.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What an answer needs.
#[derive(Clone)]
struct Served {
    service: ServiceName,
    local_endpoints: Arc<AtomicUsize>,
    health: Arc<Health>,
}

/// kube-proxy's body: names and order are its.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    service: BodyService<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct BodyService<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// Whatever is asked, by whichever method: so it does.
async fn answer(State(served): State<Served>) -> Response {
    let count = served.local_endpoints.load(Relaxed);
    let (status, body) = say(&served.service, count, served.health.is_fresh(Moment::now()));
    let headers = [
        (CONTENT_TYPE.as_str(), "application/json".to_owned()),
        (X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", count.to_string()),
    ];
    (status, headers, body).into_response()
}

fn say(service: &ServiceName, count: usize, healthy: bool) -> (StatusCode, Vec<u8>) {
    let well = count > 0 && healthy;
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    let body = Body {
        service: BodyService { namespace: &service.namespace, name: &service.name },
        local_endpoints: count,
        service_proxy_healthy: healthy,
    };
    body.serialize(&mut serializer).expect("a body of texts and numbers is JSON");
    (status, text)
}

#[cfg(test)]
mod tests;
