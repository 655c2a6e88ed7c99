//! Which Services count, and what is read of them (`features.md` A1, A7, A10).

use std::time::Duration;

use streamvs_resolve::{Config, Resolver};
use streamvs_table::{MaxAge, Protocol, ServicePort, ServicePortName, Snapshot, TrafficPolicy};

use crate::given::{self, displayed};

struct Case {
    rule: &'static str,
    /// The Service, without kind.
    service: &'static str,
    /// The ServicePorts that come of it, as [`shown`] writes them.
    expect: &'static [&'static str],
    /// What is said of it.
    notices: &'static [&'static str],
}

/// Name, protocol, port, node port and ClusterIPs of a ServicePort.
fn shown(service: &ServicePort) -> String {
    let ServicePort { name, port, node_port, cluster_ips, .. } = service;
    let node_port = node_port.map_or(String::new(), |port| format!(" nodePort {port}"));
    format!("{name:?} {port}{node_port} {cluster_ips:?}")
}

fn check(proxy_name: Option<&str>, cases: &[Case]) {
    for case in cases {
        let mut resolver = Resolver::new(Config {
            node_name: given::HERE.into(),
            service_proxy_name: proxy_name.map(Into::into),
            allow_external_ips: Vec::new(),
        });
        let change = given::service(case.service);
        let (snapshot, notices) = given::table_of(&mut resolver, [change]);
        let ports: Vec<String> = snapshot.services().map(|port| shown(port)).collect();
        assert_eq!(ports, case.expect, "{}", case.rule);
        assert_eq!(displayed(&notices), case.notices, "{}", case.rule);
    }
}

const fn case(rule: &'static str, service: &'static str, expect: &'static [&'static str]) -> Case {
    Case { rule, service, expect, notices: &[] }
}

#[test]
fn services_count_as_kube_proxy_counts_them() {
    check(
        None,
        &[
            case(
                "a ClusterIP Service counts",
                "{metadata: {name: a, namespace: ns},
                  spec: {clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{port: 80}]}}",
                &["ns/a/TCP 80 [10.96.0.1]"],
            ),
            case(
                "a missing namespace is default",
                "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &["default/a/TCP 80 [10.96.0.1]"],
            ),
            case(
                "a headless Service (clusterIP None) does not count",
                "{metadata: {name: a}, spec: {clusterIP: None, clusterIPs: [None],
                  ports: [{port: 80}]}}",
                &[],
            ),
            case(
                "a headless Service is one by clusterIP alone",
                "{metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80}]}}",
                &[],
            ),
            case(
                "a headless Service is one by clusterIPs alone",
                "{metadata: {name: a}, spec: {clusterIPs: [None], ports: [{port: 80}]}}",
                &[],
            ),
            case(
                "an ExternalName Service does not count, ClusterIP or not",
                "{metadata: {name: a}, spec: {type: ExternalName, externalName: example.org,
                  clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &[],
            ),
            Case {
                notices: &["Service default/a has no ClusterIP and is not served"],
                ..case(
                    "a Service without ClusterIP does not count, and one is told",
                    "{metadata: {name: a}, spec: {clusterIP: '', ports: [{port: 80}]}}",
                    &[],
                )
            },
            case(
                "a LoadBalancer Service counts by its ClusterIP",
                "{metadata: {name: a}, spec: {type: LoadBalancer, clusterIP: 10.96.0.1,
                  ports: [{port: 80, nodePort: 30080}]}}",
                &["default/a/TCP 80 nodePort 30080 [10.96.0.1]"],
            ),
            case(
                "KEP-2447: a Service for another proxy does not count",
                "{metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: other}},
                  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &[],
            ),
            case(
                "KEP-2447: the label excludes by being there, even if empty",
                "{metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: ''}},
                  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &[],
            ),
        ],
    );
}

#[test]
fn kep_2447_with_a_proxy_name_only_services_of_that_name_count() {
    check(
        Some("streamvs"),
        &[
            case(
                "a Service for this proxy counts",
                "{metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: streamvs}},
                  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &["default/a/TCP 80 [10.96.0.1]"],
            ),
            case(
                "a Service without the label does not count",
                "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &[],
            ),
            case(
                "a Service for another proxy does not count",
                "{metadata: {name: a, labels: {service.kubernetes.io/service-proxy-name: other}},
                  spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
                &[],
            ),
        ],
    );
}

#[test]
fn kep_563_cluster_ips_are_one_of_each_family() {
    check(
        None,
        &[
            case(
                "dual stack keeps the order written",
                "{metadata: {name: a}, spec: {clusterIP: '2001:db8::1',
                  clusterIPs: ['2001:db8::1', 10.96.0.1], ports: [{port: 80}]}}",
                &["default/a/TCP 80 [2001:db8::1, 10.96.0.1]"],
            ),
            case(
                "clusterIPs is enough",
                "{metadata: {name: a}, spec: {clusterIPs: [10.96.0.1], ports: [{port: 80}]}}",
                &["default/a/TCP 80 [10.96.0.1]"],
            ),
            case(
                "an IPv4-mapped address is the IPv4 address",
                "{metadata: {name: a}, spec: {clusterIP: '::ffff:10.96.0.1', ports: [{port: 80}]}}",
                &["default/a/TCP 80 [10.96.0.1]"],
            ),
            Case {
                notices: &[
                    "ClusterIP \"10.96.0.2\" of Service default/a is not used: an earlier one has \
                     the same family",
                ],
                ..case(
                    "the second of a family is not used",
                    "{metadata: {name: a}, spec: {clusterIPs: [10.96.0.1, 10.96.0.2],
                      ports: [{port: 80}]}}",
                    &["default/a/TCP 80 [10.96.0.1]"],
                )
            },
            Case {
                notices: &[
                    "ClusterIP \"10.96.0\" of Service default/a is not used: it is not an IP address",
                    "ClusterIP \"0.0.0.0\" of Service default/a is not used: it is not a unicast \
                     address",
                ],
                ..case(
                    "what is no unicast address is not used",
                    "{metadata: {name: a}, spec: {clusterIPs: [10.96.0, 0.0.0.0, '2001:db8::1'],
                      ports: [{port: 80}]}}",
                    &["default/a/TCP 80 [2001:db8::1]"],
                )
            },
        ],
    );
}

#[test]
fn ports_are_told_apart_by_name_and_protocol() {
    check(
        None,
        &[
            case(
                "each port is a ServicePort, sorted by name",
                "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [
                  {name: web, port: 80}, {name: dns, port: 53, protocol: UDP},
                  {name: dns, port: 53, protocol: TCP}, {name: sig, port: 36412, protocol: SCTP}]}}",
                &[
                    "default/a:dns/TCP 53 [10.96.0.1]",
                    "default/a:dns/UDP 53 [10.96.0.1]",
                    "default/a:sig/SCTP 36412 [10.96.0.1]",
                    "default/a:web/TCP 80 [10.96.0.1]",
                ],
            ),
            case(
                "nodePort 0 is none",
                "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1,
                  ports: [{port: 80, nodePort: 0}]}}",
                &["default/a/TCP 80 [10.96.0.1]"],
            ),
            Case {
                notices: &[
                    "port \"0\" of Service default/a is not served: its number is not within 1..=65535",
                    "port \"big\" of Service default/a is not served: its number is not within \
                     1..=65535",
                    "port \"odd\" of Service default/a is not served: its protocol is none of TCP, \
                     UDP and SCTP",
                    "port \"web\" of Service default/a is not served: another port has its name and \
                     protocol",
                ],
                ..case(
                    "a bad port takes no good one with it",
                    "{metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [
                      {port: 0}, {name: web, port: 80}, {name: big, port: 65536},
                      {name: odd, port: 1, protocol: QUIC}, {name: web, port: 81}]}}",
                    &["default/a:web/TCP 80 [10.96.0.1]"],
                )
            },
        ],
    );
}

fn only_port(snapshot: &Snapshot) -> &ServicePort {
    let ports: Vec<_> = snapshot.services().collect();
    let [port] = ports[..] else { panic!("one ServicePort") };
    port
}

#[test]
fn session_affinity_has_a_timeout() {
    let cases = [
        ("none by default", "", None, 0),
        ("None is none", "sessionAffinity: None,", None, 0),
        ("ClientIP lasts three hours", "sessionAffinity: ClientIP,", Some(10_800), 0),
        (
            "ClientIP lasts as long as written",
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}},",
            Some(60),
            0,
        ),
        (
            "a timeout without ClientIP is nothing",
            "sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}},",
            None,
            0,
        ),
        (
            "a timeout beyond a day is the default",
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}},",
            Some(10_800),
            1,
        ),
        (
            "a timeout of 0 is the default",
            "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}},",
            Some(10_800),
            1,
        ),
        ("an unknown affinity is none", "sessionAffinity: Cookie,", None, 1),
    ];
    for (rule, spec, seconds, notice_count) in cases {
        let yaml = format!(
            "{{metadata: {{name: a}}, spec: {{{spec} clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        );
        let mut resolver = given::resolver();
        let (snapshot, notices) = given::table_of(&mut resolver, [given::service(&yaml)]);
        assert_eq!(only_port(&snapshot).affinity, seconds.map(Duration::from_secs), "{rule}");
        assert_eq!(notices.len(), notice_count, "{rule}: {notices:?}");
    }
}

#[test]
fn kep_2086_internal_policy_is_cluster_unless_local() {
    let cases = [
        ("missing", "", TrafficPolicy::Cluster, 0),
        ("Cluster", "internalTrafficPolicy: Cluster,", TrafficPolicy::Cluster, 0),
        ("Local", "internalTrafficPolicy: Local,", TrafficPolicy::Local, 0),
        ("unknown", "internalTrafficPolicy: Near,", TrafficPolicy::Cluster, 1),
        ("external only", "externalTrafficPolicy: Local,", TrafficPolicy::Cluster, 0),
    ];
    for (rule, spec, policy, notice_count) in cases {
        let yaml = format!(
            "{{metadata: {{name: a}}, spec: {{{spec} clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        );
        let mut resolver = given::resolver();
        let (snapshot, notices) = given::table_of(&mut resolver, [given::service(&yaml)]);
        assert_eq!(only_port(&snapshot).internal_policy, policy, "{rule}");
        assert_eq!(notices.len(), notice_count, "{rule}: {notices:?}");
    }
}

#[test]
fn the_scheduler_annotation_is_passed_on_as_written() {
    let yaml = "{metadata: {name: a, annotations: {streamvs.io/scheduler: no-such}},
                 spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let mut resolver = given::resolver();
    let (snapshot, notices) = given::table_of(&mut resolver, [given::service(yaml)]);
    assert_eq!(only_port(&snapshot).scheduler.as_deref(), Some("no-such"));
    assert_eq!(notices, []);
}

#[test]
fn ages_are_durations_as_flags_have_them() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (annotation, age, notice_count) in [
        ("10m", seconds(600), 0),
        ("1h30m", seconds(5400), 0),
        ("1s", seconds(1), 0),
        ("0s", seconds(0), 0),
        ("999ms", None, 1),
        ("-1s", None, 1),
        ("long", None, 1),
        ("", None, 1),
    ] {
        for key in ["stream", "connection"] {
            let yaml = format!(
                "{{metadata: {{name: a, annotations: {{streamvs.io/max-{key}-age: '{annotation}'}}}},
                  spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
            );
            let mut resolver = given::resolver();
            let (snapshot, notices) = given::table_of(&mut resolver, [given::service(&yaml)]);
            let found = only_port(&snapshot).max_age;
            let (stream, connection) = if key == "stream" { (age, None) } else { (None, age) };
            assert_eq!(found, MaxAge { stream, connection }, "{key} {annotation}");
            assert_eq!(notices.len(), notice_count, "{key} {annotation}: {notices:?}");
        }
    }
}

#[test]
fn the_lookup_finds_every_cluster_ip_and_nothing_else() {
    let yaml = "{metadata: {name: a}, spec: {clusterIPs: [10.96.0.1, '2001:db8::1'],
                 ports: [{name: dns, port: 53, protocol: UDP}, {name: web, port: 80}]}}";
    let mut resolver = given::resolver();
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(yaml)]);
    let found = |ip: &str, port, protocol| {
        let ip = ip.parse().expect("an address");
        snapshot.lookup(ip, port, protocol).map(|service| service.name.clone())
    };
    let web = given::port_name("a", "web");
    let dns = ServicePortName { protocol: Protocol::Udp, ..given::port_name("a", "dns") };
    assert_eq!(found("10.96.0.1", 80, Protocol::Tcp), Some(web.clone()));
    assert_eq!(found("2001:db8::1", 80, Protocol::Tcp), Some(web));
    assert_eq!(found("10.96.0.1", 53, Protocol::Udp), Some(dns));
    assert_eq!(found("10.96.0.1", 53, Protocol::Tcp), None);
    assert_eq!(found("10.96.0.2", 80, Protocol::Tcp), None);
}
