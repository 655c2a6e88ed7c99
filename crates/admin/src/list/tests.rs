//! The JSON contract as a whole value, and the terminal's table as text.

use std::time::Duration;

use serde_json::{Value, json};
use streamvs_balance::{Choice, ConnectFailure, Unit, Verdict};
use streamvs_table::{Family, Protocol, TrafficPolicy, Usability};

use super::*;
use crate::testing::{eject, endpoint, give, plan, server, service, shop};

/// The shop with some streams done, some open, and failures. The guards keep them open.
fn busy_shop() -> (Plan, Vec<Choice>) {
    let plan = shop();
    let cart = server(&plan, "shop/cart:grpc", Family::V4);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(give(cart, "192.0.2.1:9000", Unit::Stream));
        drop(give(cart, "192.0.2.2:9000", Unit::Stream));
    }
    open.push(give(cart, "192.0.2.2:9000", Unit::Connection));
    let stats = cart.targets()[1].stats();
    for status in [Some(0), Some(0), Some(0), Some(14), None] {
        stats.grpc_response(status).inc();
    }
    for _ in 0..4 {
        stats.stream_duration.observe(Duration::from_millis(1));
    }
    stats.failures[ConnectFailure::Refused.index()].inc();
    stats.failures[ConnectFailure::TimedOut.index()].inc();
    cart.stats().connections[Verdict::Http2.index()].inc();
    cart.stats().active_connections.inc();
    cart.stats().bytes_to_upstream.add(10);

    let cart = server(&plan, "shop/cart:grpc", Family::V6);
    open.push(give(cart, "[2001:db8::1]:9000", Unit::Stream));
    cart.stats().connections[Verdict::Http2.index()].add(2);
    cart.stats().connections[Verdict::Tcp.index()].inc();
    cart.stats().bytes_to_downstream.add(20);
    (plan, open)
}

/// An endpoint of the shop as JSON before anything happened, with some fields replaced.
fn endpoint_json(address: &str, port: u16, changes: Value) -> Value {
    let mut endpoint = json!({
        "address": address, "port": port, "node": "node-a", "zone": null,
        "ready": true, "serving": true, "terminating": false, "usable": true, "reason": "ready",
        "weight": 1, "activeConnections": 0, "activeStreams": 0,
        "connections": 0, "streams": 0, "failures": 0, "ejectedSeconds": null, "ejections": 0,
        "grpcResponses": 0, "grpcErrors": 0, "p50Seconds": null, "p99Seconds": null,
        "usableFromOutside": true,
    });
    for (key, value) in changes.as_object().unwrap() {
        assert!(endpoint.get(key).is_some(), "{key}");
        endpoint[key] = value.clone();
    }
    endpoint
}

#[test]
fn the_json_of_a_dual_stack_service_port_is_one_object_with_every_field() {
    let (plan, _open) = busy_shop();
    let all = serde_json::to_value(views(&plan)).unwrap();
    let expected = json!({
        "namespace": "shop", "name": "cart", "port": "grpc", "protocol": "TCP",
        "servicePort": 50051, "clusterIPs": ["10.96.0.10", "2001:db8:96::10"],
        "nodePort": 30051, "loadBalancerIPs": [], "externalIPs": [], "scheduler": "rr", "appProtocol": "kubernetes.io/h2c",
        "affinitySeconds": 10800,
        "connections": {"http2": 3, "tcp": 1, "tls": 0}, "activeConnections": 1,
        "replays": 0, "noEndpoint": 0, "bytesToUpstream": 10, "bytesToDownstream": 20,
        "endpoints": [
            endpoint_json("192.0.2.1", 9000, json!({"activeStreams": 4, "streams": 4})),
            endpoint_json("192.0.2.2", 9000, json!({
                "activeConnections": 1, "connections": 1, "streams": 4, "failures": 2,
                "grpcResponses": 4, "grpcErrors": 1,
                // Within the bucket from 0.1 to 1 ms.
                "p50Seconds": 0.00055, "p99Seconds": 0.000991,
            })),
            endpoint_json("192.0.2.10", 9000, json!({
                "ready": false, "terminating": true, "usable": false, "reason": "terminating",
                "usableFromOutside": false,
            })),
            endpoint_json("2001:db8::1", 9000, json!({"activeStreams": 1, "streams": 1})),
        ],
    });
    assert_eq!(all[1], expected);
}

#[test]
fn service_ports_are_sorted_and_those_of_the_kernel_have_no_scheduler() {
    let all = views(&shop());
    let names: Vec<_> =
        all.iter().map(|view| format!("{}/{}", view.namespace, view.name)).collect();
    assert_eq!(names, ["kube-system/kube-dns", "shop/cart", "shop/db"]);
    let (dns, db) = (&all[0], &all[2]);
    assert_eq!((dns.protocol.as_str(), &dns.scheduler), ("UDP", &None));
    assert_eq!(dns.endpoints.len(), 1);
    assert_eq!(db.scheduler.as_deref(), Some("lc"), "the default");
    assert_eq!((db.endpoints[0].usable, db.endpoints[0].reason.as_str()), (false, "not ready"));
}

#[test]
fn json_read_back_is_the_same_and_unknown_fields_do_no_harm() {
    let (plan, _open) = busy_shop();
    let all = views(&plan);
    let mut value = serde_json::to_value(&all).unwrap();
    value[0]["ofALaterVersion"] = json!(1);
    let back: Vec<ServiceView> = serde_json::from_value(value).unwrap();
    assert_eq!(back, all);
}

#[test]
fn what_outside_is_told_otherwise_is_noted() {
    let mut near = endpoint("192.0.2.1:80", Usability::Ready);
    near.usability.cluster = Usability::HintedToOtherZone;
    let mut far = endpoint("192.0.2.2:80", Usability::Ready);
    far.usability.local = Usability::NotLocal;
    let mut web = service("shop/web", Protocol::Tcp, 80, &["10.96.0.9"], vec![near, far]);
    web.external_policy = TrafficPolicy::Local;
    web.load_balancer_ips = vec!["203.0.113.1".parse().unwrap()];
    web.external_ips = vec!["203.0.113.9".parse().unwrap()];
    let text = render_text(&views(&plan(vec![web])), Columns::Load);
    let expected = "\
Prot LocalAddress:Port Scheduler Service
  -> RemoteAddress:Port  Weight  ActiveConn  ActiveStreams  Conns  Streams
TCP  10.96.0.9:80 lc shop/web also 203.0.113.1, 203.0.113.9
  -> 192.0.2.1:80        1       0           0              0      0        hinted to other zones, but used from outside
  -> 192.0.2.2:80        1       0           0              0      0        not used from outside
";
    assert_eq!(text, expected);
}

#[test]
fn the_table_has_a_block_for_each_cluster_ip() {
    let (plan, _open) = busy_shop();
    let text = render_text(&views(&plan), Columns::Load);
    let expected = "\
Prot LocalAddress:Port Scheduler Service
  -> RemoteAddress:Port  Weight  ActiveConn  ActiveStreams  Conns  Streams
UDP  10.96.0.53:53 - kube-system/kube-dns:dns
  -> 192.0.2.53:53       1       0           0              0      0
TCP  10.96.0.10:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> 192.0.2.1:9000      1       0           4              0      4
  -> 192.0.2.2:9000      1       1           0              1      4
  -> 192.0.2.10:9000     1       0           0              0      0        terminating
TCP  [2001:db8:96::10]:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> [2001:db8::1]:9000  1       0           1              0      1
TCP  10.96.0.20:3306 lc shop/db
  -> 192.0.2.20:3306     1       0           0              0      0        not ready
";
    assert_eq!(text, expected);
}

#[test]
fn stats_show_totals_errors_and_durations() {
    let (plan, _open) = busy_shop();
    let cart = &views(&plan)[1..2];
    let expected = "\
Prot LocalAddress:Port Scheduler Service
  -> RemoteAddress:Port  Conns  Streams  Failures  GrpcErrors  P50    P99
TCP  10.96.0.10:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> 192.0.2.1:9000      0      4        0         -           -      -
  -> 192.0.2.2:9000      1      4        2         25.0%       550us  991us
  -> 192.0.2.10:9000     0      0        0         -           -      -      terminating
TCP  [2001:db8:96::10]:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> [2001:db8::1]:9000  0      1        0         -           -      -
";
    assert_eq!(render_text(cart, Columns::Stats), expected);
}

#[test]
fn rates_are_of_two_samples() {
    let plan = shop();
    let before = views(&plan);
    let cart = server(&plan, "shop/cart:grpc", Family::V4);
    let open: Vec<_> = (0..3).map(|_| give(cart, "192.0.2.1:9000", Unit::Stream)).collect();
    let after = views(&plan);
    let rate = |before, after: &[_], milliseconds| {
        let elapsed = Duration::from_millis(milliseconds);
        render_text(&after[1..2], Columns::Rate { before, elapsed })
    };
    let expected = "\
Prot LocalAddress:Port Scheduler Service
  -> RemoteAddress:Port  ActiveConn  ActiveStreams  Conns/s  Streams/s  Failures/s  GrpcErr/s
TCP  10.96.0.10:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> 192.0.2.1:9000      0           3              0.0      2.0        0.0         0.0
  -> 192.0.2.2:9000      0           0              0.0      0.0        0.0         0.0
  -> 192.0.2.10:9000     0           0              0.0      0.0        0.0         0.0        terminating
TCP  [2001:db8:96::10]:50051 rr shop/cart:grpc persistent 10800 also node port 30051
  -> [2001:db8::1]:9000  0           0              0.0      0.0        0.0         0.0
";
    assert_eq!(rate(&before, &after, 1500), expected);
    // An endpoint that is new, or whose agent began anew, counts from zero.
    assert_eq!(rate(&[], &after, 1500), expected);
    drop(open);
    let anew = views(&plan);
    let text = rate(&anew, &after, 1500);
    assert!(
        text.contains("192.0.2.1:9000      0           3              0.0      0.0  "),
        "{text}"
    );
    let mut more = anew.clone();
    more[1].endpoints[0].streams = 1_000;
    let text = rate(&more, &after, 1000);
    assert!(
        text.contains("192.0.2.1:9000      0           3              0.0      3.0  "),
        "{text}"
    );
    assert!(!rate(&before, &after, 0).contains("inf"));
}

#[test]
fn an_ejected_endpoint_is_shown_with_the_time_that_is_left() {
    let plan = shop();
    eject(server(&plan, "shop/cart:grpc", Family::V4), "192.0.2.1:9000");
    let all = views(&plan);
    let of = |index: usize| &all[1].endpoints[index];
    let left = of(0).ejected_seconds.unwrap();
    assert!(left > 0.0 && left <= 30.0, "{left}");
    assert_eq!((of(0).ejections, of(0).usable, &*of(0).reason), (1, true, "ready"));
    assert_eq!((of(1).ejected_seconds, of(1).ejections), (None, 0));
    let text = render_text(&all, Columns::Load);
    let line = text.lines().find(|line| line.contains("192.0.2.1:9000")).unwrap();
    assert!(line.ends_with(&format!("0        ejected, {left:.0} s left")), "{line}");
    // An agent that does not know of ejections says nothing of them.
    let mut older = serde_json::to_value(of(1)).unwrap();
    for field in ["ejectedSeconds", "ejections"] {
        older.as_object_mut().unwrap().remove(field).unwrap();
    }
    assert_eq!(serde_json::from_value::<EndpointView>(older).unwrap(), *of(1));
}

#[test]
fn an_empty_table_is_its_heading() {
    let text = render_text(&views(&Plan::empty()), Columns::Load);
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn quantiles_lie_within_their_bucket() {
    let histogram = Histogram::default();
    assert_eq!(quantile(&histogram, 0.5), None);
    for milliseconds in 1..=100 {
        histogram.observe(Duration::from_millis(milliseconds));
    }
    let at = |q| quantile(&histogram, q).unwrap();
    // Exact values are 50 and 99 ms; the buckets end at 50 and 100.
    assert!((at(0.5) - 0.050).abs() < 1e-9, "{}", at(0.5));
    assert!((at(0.99) - 0.099).abs() < 1e-9, "{}", at(0.99));
    let endless = Histogram::default();
    endless.observe(Duration::from_secs(7200));
    assert_eq!(quantile(&endless, 0.5), Some(600.0));
}

#[test]
fn a_family_without_cluster_ip_still_lists_its_endpoints() {
    let plan = plan(vec![service(
        "shop/cart",
        Protocol::Tcp,
        80,
        &["10.96.0.10"],
        vec![
            endpoint("192.0.2.1:80", Usability::Ready),
            endpoint("[2001:db8::1]:80", Usability::Ready),
        ],
    )]);
    let all = views(&plan);
    assert_eq!(all[0].endpoints.len(), 2);
    // But no block, as no client can come that way.
    assert!(!render_text(&all, Columns::Load).contains("2001:db8::1"));
}
