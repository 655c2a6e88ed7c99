//! The exposition is parsed back and compared with what was counted, with the catalogue and with
//! docs/metrics.md.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prometheus_client::metrics::MetricType;
use streamvs_balance::Unit;
use streamvs_table::{Family, Protocol, Usability};

use super::*;
use crate::health::Probe;
use crate::testing::{
    admin, eject, endpoint, give, only_elsewhere, plan, server, service, shop, use_everything,
};
use crate::{Admin, Moment, NodeState, TableSource};

/// One line: metric name as written, labels, value.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What a scrape says: types by metric name as declared, and the samples.
#[derive(Debug)]
struct Exposition {
    types: BTreeMap<String, String>,
    lines: Vec<Line>,
}

impl Exposition {
    fn of(admin: &Admin) -> Self {
        let plan = Arc::clone(admin.plan.clone().load());
        let text = scrape(plan, Arc::clone(&admin.health), Arc::clone(&admin.metrics));
        Self::parse(&text)
    }

    /// Reads the text as the OpenMetrics ABNF has it, and panics at anything it does not have.
    fn parse(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("ends in EOF");
        let mut types = BTreeMap::new();
        let mut lines = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "{line}");
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                assert!(rest.contains(' ') && rest.ends_with('.'), "{line}");
            } else {
                lines.push(parse_line(line));
            }
        }
        let series: BTreeSet<_> = lines.iter().map(|l: &Line| (&l.name, &l.labels)).collect();
        assert_eq!(series.len(), lines.len(), "a series is there twice:\n{text}");
        Self { types, lines }
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matches = |line: &&Line| {
            line.name == name
                && line.labels.len() == labels.len()
                && labels
                    .iter()
                    .all(|(key, value)| line.labels.get(*key).is_some_and(|v| v == value))
        };
        self.lines.iter().find(matches).map(|line| line.value)
    }
}

fn parse_line(line: &str) -> Line {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").unwrap();
            let mut value = String::new();
            let mut chars = after.chars();
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => match chars.next().unwrap() {
                        'n' => value.push('\n'),
                        c @ ('"' | '\\') => value.push(c),
                        other => panic!("unknown escape {other:?} in {line}"),
                    },
                    c => value.push(c),
                }
            }
            assert_eq!(labels.insert(key.to_owned(), value), None, "{line}");
            match chars.next().unwrap() {
                ',' => rest = chars.as_str(),
                '}' => break rest = chars.as_str(),
                other => panic!("{other:?} after a label in {line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap();
    Line { name: name.to_owned(), labels, value }
}

/// An agent of which everything was used.
fn everything_used() -> Admin {
    let plan = shop();
    use_everything(server(&plan, "shop/cart:grpc", Family::V4), "192.0.2.1:9000");
    use_everything(server(&plan, "shop/cart:grpc", Family::V6), "[2001:db8::1]:9000");
    let (admin, _) = admin(plan);
    for family in Family::BOTH {
        admin.health.queued(family, Moment::now());
        admin.health.applied(family, Moment::now());
        for sync in [Sync::Full, Sync::Partial] {
            admin.metrics.rules_synced(family, sync, Duration::from_millis(3));
        }
        admin.metrics.flows_reconciled(family, 2, Duration::from_millis(20));
        admin.metrics.network_programmed(family, Duration::from_millis(300));
    }
    for reason in Refusal::ALL {
        admin.metrics.refused(reason);
    }
    admin.metrics.memory_measured(1 << 30, 1 << 29, 1);
    admin.metrics.table_swapped(Duration::from_micros(50));
    admin.health.set_table_source(TableSource::Api);
    admin.metrics.source.watch_works("services");
    admin.metrics.source.state_saved(true);
    admin.metrics.capture_repaired(2);
    admin
}

/// The catalogue's metric a sample belongs to.
fn metric_of(line: &Line) -> &'static Metric {
    let belongs = |metric: &&Metric| match metric.kind {
        MetricType::Histogram => line
            .name
            .strip_prefix(metric.name)
            .is_some_and(|suffix| ["_sum", "_count", "_bucket"].contains(&suffix)),
        _ => line.name == metric.name,
    };
    catalogue::ALL.iter().find(belongs).unwrap_or_else(|| panic!("{line:?} is not catalogued"))
}

#[test]
fn every_sample_is_catalogued_with_type_and_labels_and_nothing_is_missing() {
    let exposition = Exposition::of(&everything_used());
    let mut seen = BTreeSet::new();
    for line in &exposition.lines {
        let metric = metric_of(line);
        let mut labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
        if line.name.ends_with("_bucket") {
            labels.insert("le");
        }
        let keys: BTreeSet<&str> = line.labels.keys().map(String::as_str).collect();
        assert_eq!(keys, labels, "{line:?}");
        let kind = exposition.types.get(metric.stem()).unwrap();
        assert_eq!(kind, metric.kind.as_str(), "{line:?}");
        seen.insert(metric.name);
    }
    let all: BTreeSet<_> = catalogue::ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(seen, all);
}

#[test]
fn an_unused_table_has_no_series_of_traffic() {
    let (admin, _) = admin(shop());
    let exposition = Exposition::of(&admin);
    let of_services: Vec<_> =
        exposition.lines.iter().filter(|line| line.labels.contains_key("service")).collect();
    assert!(of_services.is_empty(), "{of_services:?}");
    assert_eq!(exposition.value("streamvs_table_generation", &[]), Some(7.0));
    assert_eq!(exposition.value("streamvs_capture_repairs_total", &[]), Some(0.0));
}

#[test]
fn the_source_in_use_and_broken_watches_are_told() {
    let (admin, _) = admin(shop());
    admin.health.set_table_source(TableSource::State);
    let source = &admin.metrics.source;
    source.watch_works("nodes");
    source.watch_failed("nodes");
    source.watch_failed("services");
    source.watch_failed("services");
    source.watch_works("services");
    source.state_saved(false);
    let exposition = Exposition::of(&admin);
    for (name, label, value, wanted) in [
        ("streamvs_table_source", "source", "manifests", Some(0.0)),
        ("streamvs_table_source", "source", "api", Some(0.0)),
        ("streamvs_table_source", "source", "state", Some(1.0)),
        ("streamvs_watch_works", "kind", "nodes", Some(0.0)),
        ("streamvs_watch_works", "kind", "services", Some(1.0)),
        ("streamvs_watch_failures_total", "kind", "nodes", Some(1.0)),
        ("streamvs_watch_failures_total", "kind", "services", Some(2.0)),
        ("streamvs_state_saves_total", "result", "failed", Some(1.0)),
        ("streamvs_state_saves_total", "result", "ok", None),
    ] {
        assert_eq!(exposition.value(name, &[(label, value)]), wanted, "{name} {value}");
    }
    let answer = admin.health.answer(Probe::Livez, Moment::now());
    assert!(answer.body.ends_with(r#""tableSource":"state"}"#), "{}", answer.body);
}

#[test]
fn what_memory_does_not_allow_is_told_step_by_step() {
    let (admin, _) = admin(shop());
    let shed = |what| Exposition::of(&admin).value("streamvs_memory_shed", &[("what", what)]);
    assert_eq!(shed("capture"), None, "there is no limit");
    for step in 0..=3 {
        admin.metrics.memory_measured(100, 40, step);
        for (what, from) in [("capture", 1), ("connections", 2), ("streams", 3)] {
            assert_eq!(shed(what), Some(f64::from(u8::from(step >= from))), "{what} at {step}");
        }
    }
    let exposition = Exposition::of(&admin);
    assert_eq!(exposition.value("streamvs_memory_limit_bytes", &[]), Some(100.0));
    assert_eq!(exposition.value("streamvs_memory_counted_bytes", &[]), Some(40.0));
}

#[test]
fn ejected_endpoints_are_counted() {
    let plan = shop();
    let cart = server(&plan, "shop/cart:grpc", Family::V4);
    drop(give(cart, "192.0.2.2:9000", Unit::Stream));
    eject(cart, "192.0.2.1:9000");
    let (admin, _) = admin(plan);
    let exposition = Exposition::of(&admin);
    let cart = [("namespace", "shop"), ("service", "cart"), ("port", "grpc")];
    let at = |name: &str, more: &[(&str, &str)]| {
        exposition.value(name, &[cart.as_slice(), more].concat())
    };
    assert_eq!(at("streamvs_ejected_endpoints", &[]), Some(1.0));
    let (bad, good) = (("endpoint", "192.0.2.1:9000"), ("endpoint", "192.0.2.2:9000"));
    assert_eq!(at("streamvs_endpoint_ejections_total", &[bad]), Some(1.0));
    assert_eq!(at("streamvs_endpoint_ejections_total", &[good]), None);
    for (reason, count) in
        [("lost_before_reply", Some(5.0)), ("dial_failed", None), ("grpc_unavailable", None)]
    {
        assert_eq!(at("streamvs_endpoint_faults_total", &[bad, ("reason", reason)]), count);
    }
}

#[test]
fn both_families_of_a_service_port_are_one_series() {
    let exposition = Exposition::of(&everything_used());
    let cart = [("namespace", "shop"), ("service", "cart"), ("port", "grpc")];
    let at = |name: &str, more: &[(&str, &str)]| {
        exposition.value(name, &[cart.as_slice(), more].concat())
    };
    assert_eq!(at("streamvs_connections_total", &[("protocol", "http2")]), Some(2.0));
    assert_eq!(at("streamvs_active_connections", &[]), Some(2.0));
    assert_eq!(at("streamvs_bytes_total", &[("direction", "to_upstream")]), Some(2000.0));
    assert_eq!(at("streamvs_bytes_total", &[("direction", "to_downstream")]), Some(4000.0));
    assert_eq!(at("streamvs_replays_total", &[("reason", "goaway")]), Some(2.0));
    assert_eq!(at("streamvs_detect_seconds_count", &[("verdict", "tls")]), Some(2.0));
    assert_eq!(at("streamvs_last_stream_after_removal_seconds_sum", &[]), Some(0.006));
    for endpoint in ["192.0.2.1:9000", "[2001:db8::1]:9000"] {
        let endpoint = ("endpoint", endpoint);
        assert_eq!(at("streamvs_streams_total", &[endpoint]), Some(1.0));
        assert_eq!(at("streamvs_endpoint_connections_total", &[endpoint]), Some(1.0));
        let status = ("grpc_status", "14");
        assert_eq!(at("streamvs_grpc_responses_total", &[endpoint, status]), Some(1.0));
        let status = ("grpc_status", "other");
        assert_eq!(at("streamvs_grpc_responses_total", &[endpoint, status]), Some(1.0));
        let reason = ("reason", "timed_out");
        assert_eq!(at("streamvs_connect_failures_total", &[endpoint, reason]), Some(1.0));
    }
    // The other endpoints got nothing, and so did the other ServicePorts.
    assert_eq!(at("streamvs_streams_total", &[("endpoint", "192.0.2.2:9000")]), None);
    assert!(exposition.lines.iter().all(|l| l.labels.get("service").is_none_or(|s| s == "cart")));
}

#[test]
fn gauges_follow_the_open_streams() {
    let plan = shop();
    let streams: Vec<_> = {
        let cart = server(&plan, "shop/cart:grpc", Family::V4);
        (0..3).map(|_| give(cart, "192.0.2.2:9000", Unit::Stream)).collect()
    };
    let (admin, _) = admin(plan);
    let active = || {
        let labels = [
            ("namespace", "shop"),
            ("service", "cart"),
            ("port", "grpc"),
            ("endpoint", "192.0.2.2:9000"),
        ];
        let exposition = Exposition::of(&admin);
        let active = exposition.value("streamvs_active_streams", &labels);
        (active, exposition.value("streamvs_streams_total", &labels))
    };
    assert_eq!(active(), (Some(3.0), Some(3.0)));
    drop(streams);
    assert_eq!(active(), (Some(0.0), Some(3.0)));
}

#[test]
fn a_port_without_a_name_goes_by_its_number() {
    let db = service(
        "shop/db",
        Protocol::Tcp,
        3306,
        &["10.96.0.20"],
        vec![endpoint("192.0.2.20:3306", Usability::Ready)],
    );
    let plan = plan(vec![db]);
    server(&plan, "shop/db", Family::V4).stats().no_endpoint.inc();
    let (admin, _) = admin(plan);
    let labels = [("namespace", "shop"), ("service", "db"), ("port", "3306")];
    assert_eq!(Exposition::of(&admin).value("streamvs_no_endpoint_total", &labels), Some(1.0));
}

#[test]
fn labels_survive_whatever_a_manifest_calls_its_services() {
    let odd = "a\"b\\c\nd";
    let name = format!("{odd}/{odd}:{odd}");
    let plan = plan(vec![service(
        &name,
        Protocol::Tcp,
        1,
        &["10.96.0.1"],
        vec![endpoint("192.0.2.1:1", Usability::Ready)],
    )]);
    server(&plan, &name, Family::V4).stats().no_endpoint.inc();
    let (admin, _) = admin(plan);
    let labels = [("namespace", odd), ("service", odd), ("port", odd)];
    assert_eq!(Exposition::of(&admin).value("streamvs_no_endpoint_total", &labels), Some(1.0));
}

#[test]
fn histograms_are_cumulative_and_end_in_their_count() {
    let exposition = Exposition::of(&everything_used());
    let mut series: BTreeMap<_, Vec<(f64, f64)>> = BTreeMap::new();
    for line in exposition.lines.iter().filter(|line| line.name.ends_with("_bucket")) {
        let mut labels = line.labels.clone();
        let bound = labels.remove("le").unwrap();
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        let name = line.name.trim_end_matches("_bucket").to_owned();
        series.entry((name, labels)).or_default().push((bound, line.value));
    }
    assert!(series.len() > 5);
    for ((name, labels), buckets) in series {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {buckets:?}");
        let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let count = exposition.value(&format!("{name}_count"), &labels);
        assert_eq!(buckets.last().map(|b| (b.0, Some(b.1))), Some((f64::INFINITY, count)));
        assert!(count.is_some_and(|count| count >= 1.0), "{name}");
    }
}

#[test]
fn kube_proxys_bounds_are_kept_where_its_name_is() {
    let exposition = Exposition::of(&everything_used());
    let bounds_of = |name: &str| -> Vec<f64> {
        let bucket = format!("{name}_bucket");
        exposition
            .lines
            .iter()
            .filter(|line| line.name == bucket)
            .filter(|line| line.labels["ip_family"] == "IPv6" && line.labels["le"] != "+Inf")
            .map(|line| line.labels["le"].parse().unwrap())
            .collect()
    };
    for kind in [
        "sync_proxy_rules",
        "sync_full_proxy_rules",
        "sync_partial_proxy_rules",
        "conntrack_reconciler_sync",
    ] {
        let bounds = bounds_of(&format!("kubeproxy_{kind}_duration_seconds"));
        assert_eq!(bounds.len(), 15);
        assert_eq!((bounds[0], bounds[14]), (0.001, 16.384));
    }
    let bounds = bounds_of("kubeproxy_network_programming_duration_seconds");
    assert_eq!(bounds.len(), 81);
    assert_eq!(bounds[..4], [0.0, 0.25, 0.5, 1.0]);
    assert_eq!(bounds[61..64], [59.0, 60.0, 65.0][..]);
    assert_eq!(bounds[72..], [110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0]);
}

#[test]
fn changes_are_pending_until_they_are_applied() {
    let (admin, _) = admin(shop());
    let shown = |name: &str| {
        Exposition::of(&admin).value(&format!("kubeproxy_sync_proxy_rules_{name}"), &[])
    };
    admin.metrics.changes_learnt(1, 3);
    assert_eq!(shown("service_changes_pending"), Some(1.0));
    assert_eq!(shown("endpoint_changes_pending"), Some(3.0));
    admin.metrics.changes_applied();
    admin.metrics.changes_learnt(0, 2);
    assert_eq!(shown("service_changes_pending"), Some(0.0));
    assert_eq!(shown("endpoint_changes_pending"), Some(2.0));
    assert_eq!(shown("service_changes_total"), Some(1.0));
    assert_eq!(shown("endpoint_changes_total"), Some(5.0));
}

#[test]
fn a_service_port_that_drops_for_want_of_a_local_endpoint_is_counted() {
    let mut far = service(
        "shop/far",
        Protocol::Tcp,
        80,
        &["10.96.0.30"],
        vec![endpoint("192.0.2.30:80", Usability::NotLocal)],
    );
    only_elsewhere(&mut far);
    far.internal_policy = streamvs_table::TrafficPolicy::Local;
    let mut near = service("shop/near", Protocol::Tcp, 80, &["10.96.0.31"], far.endpoints.clone());
    only_elsewhere(&mut near);
    near.external_policy = streamvs_table::TrafficPolicy::Local;
    near.node_port = Some(30_080);
    let (admin, _) = admin(plan(vec![far, near]));
    let exposition = Exposition::of(&admin);
    for (family, count) in [("IPv4", 1.0), ("IPv6", 0.0)] {
        for policy in ["internal", "external"] {
            let labels = [("ip_family", family), ("traffic_policy", policy)];
            let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
            assert_eq!(exposition.value(name, &labels), Some(count), "{policy}");
        }
    }
}

#[test]
fn probes_and_syncs_are_shown_under_kube_proxys_names() {
    let (admin, _) = admin(shop());
    let before = Exposition::of(&admin);
    let v4 = [("ip_family", "IPv4")];
    assert_eq!(before.value("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &v4), None);

    let now = Moment { wall: "2026-01-19T10:32:02.5Z".parse().unwrap(), ..Moment::now() };
    admin.health.queued(Family::V4, now);
    admin.health.applied(Family::V4, now);
    admin.health.answer(Probe::Healthz, now);
    let after = Exposition::of(&admin);
    let time = Some(1_768_818_722.5);
    assert_eq!(after.value("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &v4), time);
    assert_eq!(after.value("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &v4), time);
    assert_eq!(after.value("kubeproxy_proxy_healthz_total", &[("code", "200")]), Some(1.0));
    assert_eq!(after.value("kubeproxy_proxy_livez_total", &[("code", "200")]), Some(0.0));
}

#[test]
fn slis_tell_of_each_answer_and_of_the_last() {
    let health = Arc::new(Health::new(crate::health::DEFAULT_TIMEOUT, NodeState::Absent));
    let samples = |health: &Arc<Health>| -> Vec<String> {
        let text = slis(Arc::clone(health));
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&health), [""; 0], "nobody has asked");
    for probe in [Probe::Healthz, Probe::Healthz, Probe::Livez] {
        health.answer(probe, Moment::now());
    }
    health.set_node(NodeState::Untracked);
    health.answer(Probe::Healthz, Moment::now());
    assert_eq!(
        samples(&health),
        [
            r#"kubernetes_healthcheck{name="streamvs",type="healthz"} 1"#,
            r#"kubernetes_healthcheck{name="streamvs",type="livez"} 1"#,
            r#"kubernetes_healthchecks_total{name="streamvs",type="healthz",status="success"} 1"#,
            r#"kubernetes_healthchecks_total{name="streamvs",type="healthz",status="error"} 2"#,
            r#"kubernetes_healthchecks_total{name="streamvs",type="livez",status="success"} 1"#,
        ]
    );
    health.set_node(NodeState::Absent);
    health.answer(Probe::Healthz, Moment::now());
    assert_eq!(samples(&health)[0], r#"kubernetes_healthcheck{name="streamvs",type="healthz"} 0"#);
}

#[test]
fn docs_list_exactly_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    // Rows are: | `name` | type | `label`, `label` | meaning | in kube-proxy |
    let mut documented = BTreeMap::new();
    let of_metrics = ["| `streamvs_", "| `kubeproxy_", "| `process_", "| `kubernetes_"];
    let is_row = |line: &&str| of_metrics.iter().any(|start| line.starts_with(start));
    for row in docs.lines().filter(is_row) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        let labels: Vec<&str> = match cells[2] {
            "-" => Vec::new(),
            labels => labels.split(',').map(|label| label.trim().trim_matches('`')).collect(),
        };
        let name = cells[0].trim_matches('`');
        assert_eq!(documented.insert(name, (cells[1], labels)), None, "{row}");
    }
    let catalogued: BTreeMap<_, _> = catalogue::ALL
        .iter()
        .chain(catalogue::SLIS)
        .map(|metric| (metric.name, (metric.kind.as_str(), metric.labels.to_vec())))
        .collect();
    assert_eq!(documented, catalogued);
}

#[test]
fn names_follow_the_rules_of_prometheus() {
    for metric in catalogue::ALL.iter().chain(catalogue::SLIS) {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(metric.name.chars().all(plain), "{}", metric.name);
        let counter = matches!(metric.kind, MetricType::Counter);
        // kube-proxy has a gauge of such a name.
        if metric.name != "kubeproxy_sync_proxy_rules_no_local_endpoints_total" {
            assert_eq!(metric.name.ends_with("_total"), counter, "{}", metric.name);
            assert!(!metric.stem().ends_with("_total"), "{}", metric.name);
        }
        // The encoder writes the help as it is, and a line end would break the format.
        assert!(!metric.help.contains(['\n', '\\']) && metric.help.ends_with('.'), "{metric:?}");
    }
}
