//! Tables and traffic for the tests of this crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_balance::{
    Choice, ConnectFailure, ConnectionLimit, EjectionPolicy, Fault, Plan, ReplayReason, Request,
    SchedulerName, StreamLimit, Unit, Verdict, VirtualServer,
};
use streamvs_table::publish::{Publisher, channel};
use streamvs_table::{
    Disposition, Endpoint, Family, PerFamily, PerPolicy, Protocol, ProtocolHint, Reasons,
    ServiceName, ServicePort, ServicePortName, Snapshot, TrafficPolicy, Usability,
};

use crate::{Admin, Health, NodeMetrics, NodeState, health};

pub(crate) fn endpoint(address: &str, usability: Usability) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        node: Some("node-a".into()),
        zone: None,
        ready: usability == Usability::Ready,
        serving: usability != Usability::NotReady,
        terminating: usability == Usability::Terminating,
        local: true,
        weight: 1,
        usability: PerPolicy::both(usability),
    }
}

/// `name` is `namespace/name` or `namespace/name:port`.
pub(crate) fn service(
    name: &str,
    protocol: Protocol,
    port: u16,
    cluster_ips: &[&str],
    endpoints: Vec<Endpoint>,
) -> ServicePort {
    let (namespace, rest) = name.split_once('/').unwrap();
    let (service, port_name) = rest.split_once(':').unwrap_or((rest, ""));
    let mut service = ServicePort {
        name: ServicePortName {
            service: ServiceName::new(namespace, service),
            port: port_name.into(),
            protocol,
        },
        port,
        node_port: None,
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_node_port: None,
        app_protocol: None,
        protocol_hint: ProtocolHint::Auto,
        scheduler: None,
        max_age: Default::default(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        endpoints,
        disposition: PerPolicy::default(),
        reasons: Reasons::default(),
    };
    service.disposition = PerPolicy::from_fn(|policy| {
        PerFamily::from_fn(|family| {
            if service.endpoints(family).any(|endpoint| endpoint.usable(policy)) {
                Disposition::Balance
            } else {
                Disposition::Reject
            }
        })
    });
    service
}

/// Makes all endpoints of IPv4, of which one is ready, run on another node.
pub(crate) fn only_elsewhere(service: &mut ServicePort) {
    for endpoint in &mut service.endpoints {
        endpoint.usability = PerPolicy { cluster: Usability::Ready, local: Usability::NotLocal };
    }
    service.disposition.cluster.v4 = Disposition::Balance;
    service.disposition.local.v4 = Disposition::Drop;
}

pub(crate) fn plan(services: Vec<ServicePort>) -> Plan {
    let (snapshot, conflicts) = Snapshot::new(7, services.into_iter().map(Arc::new).collect());
    assert_eq!(conflicts, []);
    snapshot.check_invariants();
    let plan = Plan::seeded(1).ejecting(EjectionPolicy::default(), Arc::new(|_| {}));
    plan.next(Arc::new(snapshot), SchedulerName::Lc, Instant::now()).0
}

/// A dual-stack gRPC Service, a database without traffic, and DNS over UDP.
pub(crate) fn shop() -> Plan {
    let mut cart = service(
        "shop/cart:grpc",
        Protocol::Tcp,
        50051,
        &["10.96.0.10", "2001:db8:96::10"],
        vec![
            endpoint("192.0.2.1:9000", Usability::Ready),
            endpoint("192.0.2.2:9000", Usability::Ready),
            endpoint("192.0.2.10:9000", Usability::Terminating),
            endpoint("[2001:db8::1]:9000", Usability::Ready),
        ],
    );
    cart.app_protocol = Some("kubernetes.io/h2c".into());
    cart.node_port = Some(30_051);
    cart.affinity = Some(Duration::from_secs(10_800));
    cart.scheduler = Some("rr".into());
    let db = service(
        "shop/db",
        Protocol::Tcp,
        3306,
        &["10.96.0.20"],
        vec![endpoint("192.0.2.20:3306", Usability::NotReady)],
    );
    let dns = service(
        "kube-system/kube-dns:dns",
        Protocol::Udp,
        53,
        &["10.96.0.53"],
        vec![endpoint("192.0.2.53:53", Usability::Ready)],
    );
    plan(vec![cart, db, dns])
}

/// The virtual server of a ServicePort by its shown name.
pub(crate) fn server<'p>(plan: &'p Plan, name: &str, family: Family) -> &'p Arc<VirtualServer> {
    let is_it = |server: &&Arc<VirtualServer>| {
        server.service().name.to_string() == name && server.family() == family
    };
    plan.virtual_servers().find(is_it).unwrap()
}

/// Gives one stream or connection to the endpoint with this address, and no other.
pub(crate) fn give(server: &VirtualServer, address: &str, unit: Unit) -> Choice {
    let address: SocketAddr = address.parse().unwrap();
    let tried: Vec<_> =
        server.targets().iter().map(|t| t.address()).filter(|a| *a != address).collect();
    let request = Request {
        client: "192.0.2.200".parse().unwrap(),
        policy: TrafficPolicy::Cluster,
        unit,
        now: Instant::now(),
        tried: &tried,
    };
    let choice = server.pick(&request, &mut fastrand::Rng::with_seed(1)).unwrap();
    assert_eq!(choice.address(), address);
    let stats = choice.target().stats();
    match unit {
        Unit::Connection => stats.connections.inc(),
        Unit::Stream => stats.streams.inc(),
    }
    choice
}

/// Lets an endpoint fail until it is ejected, for 30 s from now.
pub(crate) fn eject(server: &VirtualServer, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let target = server.targets().iter().find(|target| target.address() == address).unwrap();
    let now = Instant::now();
    for fault in 0..5 {
        let at = now + Duration::from_nanos(fault);
        server.fault(target, Fault::LostBeforeReply, at);
    }
    assert!(target.is_ejected());
}

/// Counts something in every statistic there is of a virtual server and of one endpoint in it.
pub(crate) fn use_everything(server: &VirtualServer, address: &str) {
    let stats = server.stats();
    for verdict in Verdict::ALL {
        stats.connections[verdict.index()].inc();
        stats.detect[verdict.index()].observe(Duration::from_millis(2));
    }
    for reason in ReplayReason::ALL {
        stats.replays[reason.index()].inc();
    }
    stats.active_connections.inc();
    stats.bytes_to_upstream.add(1000);
    stats.bytes_to_downstream.add(2000);
    stats.no_endpoint.inc();
    stats.tls_h2.inc();
    for limit in StreamLimit::ALL {
        stats.limited_streams[limit.index()].inc();
    }
    for limit in ConnectionLimit::ALL {
        stats.limited_connections[limit.index()].inc();
    }
    stats.last_stream_after_removal.observe(Duration::from_millis(3));

    drop(give(server, address, Unit::Connection));
    let choice = give(server, address, Unit::Stream);
    let stats = choice.target().stats();
    for failure in ConnectFailure::ALL {
        stats.failures[failure.index()].inc();
    }
    for fault in Fault::ALL {
        stats.faults[fault.index()].inc();
    }
    stats.ejections.inc();
    for status in (0..=16).map(Some).chain([None]) {
        stats.grpc_response(status).inc();
    }
    stats.stream_duration.observe(Duration::from_millis(4));
}

/// An agent with this plan, and the end by which to publish another.
pub(crate) fn admin(plan: Plan) -> (Admin, Publisher<Plan>) {
    let (publisher, reader) = channel(Arc::new(plan));
    let admin = Admin {
        plan: reader,
        health: Arc::new(Health::new(health::DEFAULT_TIMEOUT, NodeState::Untracked)),
        metrics: Arc::new(NodeMetrics::default()),
        pages: channel(Arc::default()).1,
        handover: None,
    };
    (admin, publisher)
}
