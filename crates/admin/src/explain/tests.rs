//! Aim: each thing a table may say of a Service is put in words with its rule.
//! Method: tables made by hand; the text is compared to the byte where its form matters.

use std::time::Duration;

use streamvs_table::{
    HintSource, ProtocolHint, ServicePort, Snapshot, TopologyOutcome, TrafficPolicy, Unserved,
    Usability,
};

use super::*;
use crate::testing::{eject, endpoint, only_elsewhere, plan, server, service, shop};

fn only_port(service: ServicePort) -> PortView {
    let name = service.name.service.clone();
    match explain(&plan(vec![service]), &name.namespace, &name.name) {
        Explanation::Served { mut ports, .. } if ports.len() == 1 => ports.remove(0),
        other => panic!("{other:?}"),
    }
}

fn web(endpoints: Vec<Endpoint>) -> ServicePort {
    service("shop/web:http", Protocol::Tcp, 80, &["10.96.0.9"], endpoints)
}

#[test]
fn each_endpoint_has_its_rule() {
    for (usability, used, rule) in [
        (Usability::Ready, true, "conditions.ready, KEP-752"),
        (Usability::SameNode, true, "hints.forNodes, KEP-3015"),
        (Usability::SameZone, true, "hints.forZones, KEP-2433"),
        (Usability::TerminatingFallback, true, "conditions.serving and terminating, KEP-1669"),
        (Usability::NotReady, false, "conditions.ready, KEP-1669"),
        (Usability::Terminating, false, "conditions.terminating, KEP-1669"),
        (Usability::HintedToOtherNode, false, "hints.forNodes, KEP-3015"),
        (Usability::HintedToOtherZone, false, "hints.forZones, KEP-2433"),
        (Usability::NotLocal, false, "spec.internalTrafficPolicy, KEP-2086"),
    ] {
        let port = only_port(web(vec![endpoint("192.0.2.1:80", usability)]));
        let found = &port.endpoints[0];
        assert_eq!((found.used, found.rule.as_str()), (used, rule), "{usability:?}");
        assert_eq!(found.reason, usability.to_string());
    }
    let mut idle = endpoint("192.0.2.1:80", Usability::Ready);
    idle.weight = 0;
    let port = only_port(web(vec![idle]));
    assert!(!port.endpoints[0].used);
    assert_eq!(port.endpoints[0].rule, "annotation streamvs.io/weight");
    let mut gone = endpoint("192.0.2.1:80", Usability::NotReady);
    (gone.terminating, gone.serving) = (true, false);
    let port = only_port(web(vec![gone]));
    assert_eq!(port.endpoints[0].reason, "terminating, and no longer serving");
}

#[test]
fn the_disposition_is_said_with_its_reason() {
    let ready = || endpoint("192.0.2.1:80", Usability::Ready);
    let not_ready = || endpoint("192.0.2.2:80", Usability::NotReady);
    let mut far = web(vec![endpoint("192.0.2.3:80", Usability::NotLocal)]);
    only_elsewhere(&mut far);
    far.internal_policy = TrafficPolicy::Local;
    for (service, disposition, reason) in [
        (web(vec![ready(), not_ready()]), "balance", "1 of 2 endpoints are used"),
        (web(vec![not_ready()]), "reject", "none of 1 endpoints can take traffic"),
        (web(vec![]), "reject", "there is no endpoint"),
        (
            far,
            "drop",
            "internalTrafficPolicy is Local, and only other nodes have endpoints (KEP-2086)",
        ),
    ] {
        let family = &only_port(service).families[0];
        assert_eq!((&*family.disposition, &*family.reason), (disposition, reason));
    }
}

#[test]
fn outside_has_its_own_addresses_policy_and_endpoints() {
    let near = || endpoint("192.0.2.1:80", Usability::Ready);
    let mut far = endpoint("192.0.2.2:80", Usability::Ready);
    far.usability.local = Usability::NotLocal;
    let mut web = web(vec![near(), far]);
    web.node_port = Some(30_080);
    web.load_balancer_ips = vec!["203.0.113.1".parse().unwrap()];
    web.external_ips = vec!["203.0.113.9".parse().unwrap()];
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    web.health_check_node_port = Some(32_000);
    web.external_policy = TrafficPolicy::Local;
    let explanation = explain(&plan(vec![web]), "shop", "web");
    let text = render_text(&explanation);
    let expected = "\
  Outside   node port 30080, load balancer 203.0.113.1 from 198.51.100.0/24 only, externalIPs 203.0.113.9
            externalTrafficPolicy Local
            IPv4 balance: 1 of 2 endpoints are used
            health check node port 32000
  ENDPOINT      USED  NODE    ZONE  WHY
  192.0.2.1:80  yes   node-a  -     ready (conditions.ready, KEP-752)
  192.0.2.2:80  yes   node-a  -     ready (conditions.ready, KEP-752)
  192.0.2.2:80  no    node-a  -     from outside: the traffic policy is Local and it runs on another node (spec.externalTrafficPolicy)
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn outside_is_dropped_where_only_other_nodes_have_endpoints() {
    let mut far = web(vec![endpoint("192.0.2.3:80", Usability::NotLocal)]);
    only_elsewhere(&mut far);
    assert_eq!(only_port(far.clone()).external, None, "it has a ClusterIP only");
    far.node_port = Some(30_080);
    far.external_policy = TrafficPolicy::Local;
    let port = only_port(far);
    assert_eq!(port.families[0].disposition, "balance");
    assert!(port.endpoints[0].used);
    assert_eq!(port.endpoints[0].from_outside.as_ref().map(|outside| outside.used), Some(false));
    let outside = &port.external.expect("it has a node port").families[0];
    let reason = "externalTrafficPolicy is Local, and only other nodes have endpoints";
    assert_eq!((&*outside.disposition, &*outside.reason), ("drop", reason));
}

#[test]
fn what_hints_came_to_is_said() {
    for (outcome, words) in [
        (TopologyOutcome::NoHints, "no ready endpoint has a hint"),
        (TopologyOutcome::SameNode, "hinted to this node are used"),
        (TopologyOutcome::SameZone, "hinted to this node's zone are used"),
        (
            TopologyOutcome::Incomplete { without_hint: "192.0.2.7:80".parse().unwrap() },
            "hints are ignored, as 192.0.2.7:80 has none",
        ),
        (TopologyOutcome::NodeWithoutZone, "this node has no label topology.kubernetes.io/zone"),
        (TopologyOutcome::NoneForThisNode, "none names this node or its zone"),
    ] {
        let mut web = web(vec![endpoint("192.0.2.1:80", Usability::Ready)]);
        web.reasons.topology.v4 = outcome;
        let topology = &only_port(web).families[0].topology;
        assert!(topology.contains(words), "{topology}");
    }
}

#[test]
fn the_protocol_hint_is_said_with_its_source() {
    for (source, hint, words) in [
        (HintSource::Nothing, "auto", "nothing says otherwise"),
        (HintSource::Annotation, "h2c", "annotation streamvs.io/protocol"),
        (HintSource::AppProtocol, "h2c", "appProtocol grpc (KEP-3726)"),
        (HintSource::PortName, "h2c", "the port's name http"),
    ] {
        let mut web = web(vec![]);
        web.reasons.protocol_hint = source;
        web.app_protocol = Some("grpc".into());
        web.protocol_hint = if hint == "h2c" { ProtocolHint::H2c } else { ProtocolHint::Auto };
        let port = only_port(web);
        assert_eq!((&*port.protocol_hint, &*port.protocol_hint_source), (hint, words));
    }
}

#[test]
fn what_is_asked_and_not_had_is_noted() {
    let asking = |scheduler: &str| {
        let mut web = web(vec![endpoint("192.0.2.1:80", Usability::Ready)]);
        web.scheduler = Some(scheduler.into());
        only_port(web)
    };
    let sed = asking("sed");
    assert_eq!((sed.scheduler.as_deref(), sed.notes.len()), (Some("sed"), 0));
    let wrong = asking("fastest");
    assert_eq!(wrong.scheduler.as_deref(), Some("lc"));
    assert_eq!(wrong.notes, ["no scheduler is called \"fastest\", lc is used"]);
    let degenerate = asking("dh");
    assert!(degenerate.notes[0].contains("rr is used"), "{:?}", degenerate.notes);

    let mut sticky = web(vec![]);
    sticky.affinity = Some(Duration::from_secs(60));
    let sticky = only_port(sticky);
    assert_eq!(sticky.affinity_seconds, Some(60));
    assert!(sticky.notes[0].contains("of a client go to one endpoint"), "{:?}", sticky.notes);

    let dns = service("kube-system/dns", Protocol::Udp, 53, &["10.96.0.53"], vec![]);
    let dns = only_port(dns);
    assert_eq!(dns.scheduler, None);
    assert_eq!(dns.notes.len(), 1);
    assert!(dns.notes[0].starts_with("UDP does not pass through here: "), "{:?}", dns.notes);
}

#[test]
fn encrypted_http2_is_noted_once_seen() {
    let plan = shop();
    server(&plan, "shop/cart:grpc", Family::V4).stats().tls_h2.inc();
    let Explanation::Served { ports, .. } = explain(&plan, "shop", "cart") else {
        panic!("is served")
    };
    assert!(ports[0].notes.iter().any(|note| note.starts_with("1 TLS connections offered h2")));
}

#[test]
fn an_ejected_endpoint_is_not_used_and_the_others_are_counted() {
    let plan = shop();
    eject(server(&plan, "shop/cart:grpc", Family::V4), "192.0.2.2:9000");
    let Explanation::Served { ports, .. } = explain(&plan, "shop", "cart") else {
        panic!("is served")
    };
    let used: Vec<_> = ports[0].endpoints.iter().map(|endpoint| endpoint.used).collect();
    assert_eq!(used, [true, false, false, true]);
    let ejected = &ports[0].endpoints[1];
    let (start, end) = (
        "ejected for ",
        " s more, as it failed in a row; last it ended a \
                                         connection before it had replied",
    );
    let seconds = ejected.reason.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
    let seconds: u32 = seconds.expect(&ejected.reason).parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert_eq!(ejected.rule, "--outlier-detection");
    let reason = |family: usize| ports[0].families[family].reason.as_str();
    assert_eq!(reason(0), "2 of 3 endpoints are used, but for 1 that fail");
    assert_eq!(reason(1), "1 of 1 endpoints are used");
}

#[test]
fn an_unserved_service_is_not_ours_with_the_reason() {
    let unserved =
        [(ServiceName::new("shop", "mesh"), Unserved::OtherProxy { label: "cilium".into() })];
    let snapshot = Snapshot::default().with_unserved(unserved.into_iter().collect());
    let now = Instant::now();
    let (plan, _) = Plan::seeded(1).next(Arc::new(snapshot), SchedulerName::Rr, now);
    let text = render_text(&explain(&plan, "shop", "mesh"));
    assert_eq!(
        text,
        "shop/mesh is not ours: label says service.kubernetes.io/service-proxy-name=cilium, \
         another proxy has it\n"
    );
}

#[test]
fn an_unknown_service_is_told_with_names_like_it() {
    let names = |namespace, name| match explain(&shop(), namespace, name) {
        Explanation::Unknown { near, .. } => near,
        other => panic!("{other:?}"),
    };
    assert_eq!(names("shop", "crat"), ["shop/cart"]);
    assert_eq!(names("default", "cart"), ["shop/cart"]);
    assert_eq!(names("shop", "kubedns"), ["kube-system/kube-dns"]);
    assert_eq!(names("shop", "zebra"), [""; 0]);
}

#[test]
fn the_text_is_for_people() {
    let text = render_text(&explain(&shop(), "shop", "cart"));
    let expected = "\
shop/cart

Port grpc 50051/TCP
  Scheduler rr, annotation streamvs.io/scheduler asks for rr
  Protocol  auto: nothing says otherwise
  Policy    internalTrafficPolicy Cluster
  Affinity  ClientIP, 10800 s
  IPv4      10.96.0.10 balance: 2 of 3 endpoints are used; no ready endpoint has a hint that is asked for
  IPv6      2001:db8:96::10 balance: 1 of 1 endpoints are used; no ready endpoint has a hint that is asked for
  Outside   node port 30051
            externalTrafficPolicy Cluster
            IPv4 balance: 2 of 3 endpoints are used
            IPv6 balance: 1 of 1 endpoints are used
  Note      sessionAffinity is ClientIP: all connections and streams of a client go to one endpoint
  ENDPOINT            USED  NODE    ZONE  WHY
  192.0.2.1:9000      yes   node-a  -     ready (conditions.ready, KEP-752)
  192.0.2.2:9000      yes   node-a  -     ready (conditions.ready, KEP-752)
  192.0.2.10:9000     no    node-a  -     terminating (conditions.terminating, KEP-1669)
  [2001:db8::1]:9000  yes   node-a  -     ready (conditions.ready, KEP-752)
";
    assert_eq!(text, expected);
}
