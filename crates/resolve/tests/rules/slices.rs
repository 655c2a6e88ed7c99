//! Reading and joining EndpointSlices (`features.md` A8, A1 rows 19 to 21).

use k8s_openapi::api::discovery::v1::EndpointSlice;
use streamvs_resolve::Change;
use streamvs_table::Endpoint;

use crate::given::{self, SERVICE, addresses, apply_slice, displayed, port_name, slice_of};

/// One slice with everything written out, `{...}` being its varying part.
fn slice_with(part: &str) -> Change {
    given::slice(&format!(
        "{{metadata: {{name: s1, namespace: default, labels: {{kubernetes.io/service-name: svc}}}},
           {part}}}"
    ))
}

struct Case {
    rule: &'static str,
    slice: &'static str,
    expect: &'static [&'static str],
    notices: &'static [&'static str],
}

fn check(cases: &[Case]) {
    for case in cases {
        let mut resolver = given::resolver();
        let changes = [given::service(SERVICE), slice_with(case.slice)];
        let (snapshot, notices) = given::table_of(&mut resolver, changes);
        let found = addresses(&snapshot, &port_name("svc", ""));
        assert_eq!(found, case.expect, "{}", case.rule);
        assert_eq!(displayed(&notices), case.notices, "{}", case.rule);
    }
}

#[test]
fn slices_are_read_as_kube_proxy_reads_them() {
    check(&[
        Case {
            rule: "the port is the slice's, not the Service's",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000, protocol: TCP}],
                    endpoints: [{addresses: [10.1.0.1]}]",
            expect: &["10.1.0.1:9000"],
            notices: &[],
        },
        Case {
            rule: "only addresses[0] is used",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000}],
                    endpoints: [{addresses: [10.1.0.1, 10.1.0.2]}]",
            expect: &["10.1.0.1:9000"],
            notices: &[],
        },
        Case {
            rule: "endpoints come out sorted by address, as numbers",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000}], endpoints: [
                    {addresses: [10.1.0.10]}, {addresses: [10.1.0.9]}, {addresses: [10.1.0.1]}]",
            expect: &["10.1.0.1:9000", "10.1.0.9:9000", "10.1.0.10:9000"],
            notices: &[],
        },
        Case {
            rule: "ports match by protocol too",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000, protocol: UDP}],
                    endpoints: [{addresses: [10.1.0.1]}]",
            expect: &[],
            notices: &[],
        },
        Case {
            rule: "a port whose name is another is not this one",
            slice: "addressType: IPv4, ports: [{name: web, port: 9000}],
                    endpoints: [{addresses: [10.1.0.1]}]",
            expect: &[],
            notices: &[],
        },
        Case {
            rule: "a port with a nil name is skipped",
            slice: "addressType: IPv4, ports: [{port: 9000}, {name: '', port: 9001}],
                    endpoints: [{addresses: [10.1.0.1]}]",
            expect: &["10.1.0.1:9001"],
            notices: &["1 port(s) of EndpointSlice default/s1 are ignored, the first: it has no \
                        name, not even an empty one"],
        },
        Case {
            rule: "a port with a nil or 0 number is skipped",
            slice: "addressType: IPv4, ports: [{name: ''}, {name: '', port: 0}],
                    endpoints: [{addresses: [10.1.0.1]}]",
            expect: &[],
            notices: &["2 port(s) of EndpointSlice default/s1 are ignored, the first (\"\"): its \
                        number is not within 1..=65535"],
        },
        Case {
            rule: "addresses of the wrong family are skipped",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000}], endpoints: [
                    {addresses: ['2001:db8::1']}, {addresses: [10.1.0.1]},
                    {addresses: ['2001:db8::2']}]",
            expect: &["10.1.0.1:9000"],
            notices: &[
                "2 endpoint(s) of EndpointSlice default/s1 are ignored: \"2001:db8::1\" is \
                        no usable IPv4 address",
            ],
        },
        Case {
            rule: "an IPv4-mapped address is of the wrong family in an IPv6 slice",
            slice: "addressType: IPv6, ports: [{name: '', port: 9000}], endpoints: [
                    {addresses: ['::ffff:10.1.0.1']}, {addresses: ['2001:db8::2']}]",
            expect: &["[2001:db8::2]:9000"],
            notices: &["1 endpoint(s) of EndpointSlice default/s1 are ignored: \
                        \"::ffff:10.1.0.1\" is no usable IPv6 address"],
        },
        Case {
            rule: "what is no address is skipped",
            slice: "addressType: IPv4, ports: [{name: '', port: 9000}], endpoints: [
                    {addresses: [pod-1]}, {addresses: []}, {addresses: [0.0.0.0]},
                    {addresses: [10.1.0.1]}]",
            expect: &["10.1.0.1:9000"],
            notices: &["3 endpoint(s) of EndpointSlice default/s1 are ignored: \"pod-1\" is no \
                        usable IPv4 address"],
        },
        Case {
            rule: "a slice of names (FQDN) is ignored",
            slice: "addressType: FQDN, ports: [{name: '', port: 9000}],
                    endpoints: [{addresses: [example.org]}]",
            expect: &[],
            notices: &["EndpointSlice default/s1 is ignored: its addressType is \"FQDN\""],
        },
        Case {
            rule: "a slice without endpoints and ports is nothing",
            slice: "addressType: IPv4",
            expect: &[],
            notices: &[],
        },
    ]);
}

#[test]
fn kep_752_labels_decide_which_service_a_slice_is_for() {
    let labelled = |labels: &str| {
        given::slice(&format!(
            "{{metadata: {{name: s1, namespace: default, labels: {{{labels}}}}}, addressType: IPv4,
               ports: [{{name: '', port: 9000}}], endpoints: [{{addresses: [10.1.0.1]}}]}}"
        ))
    };
    let cases = [
        ("the label", "kubernetes.io/service-name: svc", 1, 0),
        ("another Service's label", "kubernetes.io/service-name: other", 0, 0),
        ("no label", "", 0, 1),
        ("an empty label", "kubernetes.io/service-name: ''", 0, 1),
        (
            "a slice of a headless Service",
            "kubernetes.io/service-name: svc, service.kubernetes.io/headless: ''",
            0,
            0,
        ),
    ];
    for (rule, labels, endpoint_count, notice_count) in cases {
        let mut resolver = given::resolver();
        let changes = [given::service(SERVICE), labelled(labels)];
        let (snapshot, notices) = given::table_of(&mut resolver, changes);
        let found = addresses(&snapshot, &port_name("svc", ""));
        assert_eq!(found.len(), endpoint_count, "{rule}");
        assert_eq!(notices.len(), notice_count, "{rule}: {notices:?}");
    }
}

#[test]
fn a_slice_of_another_namespace_is_another_services() {
    let mut slice = slice_of("s1", &["10.1.0.1"]);
    slice.metadata.namespace = Some("other".into());
    let mut resolver = given::resolver();
    let changes = [given::service(SERVICE), apply_slice(slice)];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    assert!(addresses(&snapshot, &port_name("svc", "")).is_empty());
}

#[test]
fn named_target_ports_may_differ_from_pod_to_pod() {
    let yaml = "{metadata: {name: svc, namespace: default}, spec: {clusterIP: 10.96.0.1,
                 ports: [{name: grpc, port: 80}, {name: admin, port: 81}]}}";
    let slice = |name: &str, grpc: u16, endpoint: &str| {
        given::slice(&format!(
            "{{metadata: {{name: {name}, namespace: default,
               labels: {{kubernetes.io/service-name: svc}}}}, addressType: IPv4,
               ports: [{{name: admin, port: 9901}}, {{name: grpc, port: {grpc}}}],
               endpoints: [{{addresses: [{endpoint}]}}]}}"
        ))
    };
    let mut resolver = given::resolver();
    let changes =
        [given::service(yaml), slice("s1", 50051, "10.1.0.1"), slice("s2", 50052, "10.1.0.2")];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    let grpc = addresses(&snapshot, &port_name("svc", "grpc"));
    assert_eq!(grpc, ["10.1.0.1:50051", "10.1.0.2:50052"]);
    let admin = addresses(&snapshot, &port_name("svc", "admin"));
    assert_eq!(admin, ["10.1.0.1:9901", "10.1.0.2:9901"]);
}

#[test]
fn endpoints_of_a_family_without_cluster_ip_are_left_out() {
    let yaml = "{metadata: {name: svc}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";
    let mut resolver = given::resolver();
    let changes = [
        given::service(yaml),
        apply_slice(slice_of("v4", &["10.1.0.1"])),
        apply_slice(slice_of("v6", &["2001:db8::1"])),
    ];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    assert_eq!(addresses(&snapshot, &port_name("svc", "")), ["10.1.0.1:8080"]);
}

/// The endpoints that come of `slices`, given in this order and in the other.
fn joined(slices: [EndpointSlice; 2]) -> Vec<Endpoint> {
    let [first, second] = slices;
    let of = |slices: [&EndpointSlice; 2]| {
        let mut resolver = given::resolver();
        let slices = slices.map(|slice| apply_slice(slice.clone()));
        let changes = [given::service(SERVICE)].into_iter().chain(slices);
        let (snapshot, _) = given::table_of(&mut resolver, changes);
        snapshot.services().next().expect("a ServicePort").endpoints.clone()
    };
    let forth = of([&first, &second]);
    assert_eq!(of([&second, &first]), forth, "the order of slices shows");
    forth
}

#[test]
fn of_two_entries_for_an_address_the_best_one_wins() {
    let cases = [
        ("a local one", "10.1.0.1 on=n2", "10.1.0.1 on=here", "here"),
        (
            "a local one, even if it is not ready",
            "10.1.0.1 on=n2",
            "10.1.0.1 on=here ready=false",
            "here",
        ),
        ("else a ready one", "10.1.0.1 on=n2 ready=false", "10.1.0.1 on=n3", "n3"),
        (
            "else a serving one",
            "10.1.0.1 on=n2 ready=false serving=false",
            "10.1.0.1 on=n3 ready=false",
            "n3",
        ),
        (
            "else one that stays",
            "10.1.0.1 on=n2 ready=false terminating=true",
            "10.1.0.1 on=n3 ready=false",
            "n3",
        ),
        ("else the first slice's", "10.1.0.1 on=n2", "10.1.0.1 on=n3", "n2"),
    ];
    for (rule, first, second, expect) in cases {
        let endpoints = joined([slice_of("s1", &[first]), slice_of("s2", &[second])]);
        let [endpoint] = &endpoints[..] else { panic!("{rule}: one endpoint") };
        assert_eq!(endpoint.node.as_deref(), Some(expect), "{rule}");
    }
}

#[test]
fn an_endpoint_moves_between_slices_in_either_order() {
    let full = slice_of("s1", &["10.1.0.1", "10.1.0.2"]);
    let rest = slice_of("s1", &["10.1.0.1"]);
    let gained = slice_of("s2", &["10.1.0.2"]);
    let both = ["10.1.0.1:8080", "10.1.0.2:8080"];
    let name = port_name("svc", "");

    // First seen in its new slice: nothing changes at any point.
    let mut resolver = given::resolver();
    let start = [given::service(SERVICE), apply_slice(full.clone())];
    let (snapshot, _) = given::table_of(&mut resolver, start);
    assert_eq!(addresses(&snapshot, &name), both);
    resolver.apply(apply_slice(gained.clone()));
    assert!(resolver.resolve().is_none());
    resolver.apply(apply_slice(rest.clone()));
    assert!(resolver.resolve().is_none());

    // First lost from its old one: gone for the time between, if anyone looks.
    let mut resolver = given::resolver();
    let start = [given::service(SERVICE), apply_slice(full)];
    given::table_of(&mut resolver, start);
    let (snapshot, _) = given::table_of(&mut resolver, [apply_slice(rest)]);
    assert_eq!(addresses(&snapshot, &name), ["10.1.0.1:8080"]);
    let (snapshot, _) = given::table_of(&mut resolver, [apply_slice(gained)]);
    assert_eq!(addresses(&snapshot, &name), both);
}

#[test]
fn an_address_reused_by_a_new_pod_is_the_new_pods() {
    let old = slice_of("s1", &["10.1.0.1 on=n2 ready=false serving=true terminating=true"]);
    let new = slice_of("s2", &["10.1.0.1 on=n3"]);
    let endpoints = joined([old, new]);
    let [endpoint] = &endpoints[..] else { panic!("one endpoint") };
    assert_eq!((endpoint.node.as_deref(), endpoint.ready), (Some("n3"), true));
}

#[test]
fn a_slice_whose_label_changes_moves_to_the_other_service() {
    let other = SERVICE.replace("name: svc", "name: other").replace("10.96.0.1", "10.96.0.2");
    let mut resolver = given::resolver();
    let slice = slice_of("s1", &["10.1.0.1"]);
    let start = [given::service(SERVICE), given::service(&other), apply_slice(slice.clone())];
    let (snapshot, _) = given::table_of(&mut resolver, start);
    assert_eq!(addresses(&snapshot, &port_name("svc", "")), ["10.1.0.1:8080"]);

    let mut moved = slice.clone();
    moved.metadata.labels = Some([("kubernetes.io/service-name".into(), "other".into())].into());
    let (snapshot, _) = given::table_of(&mut resolver, [apply_slice(moved)]);
    assert!(addresses(&snapshot, &port_name("svc", "")).is_empty());
    assert_eq!(addresses(&snapshot, &port_name("other", "")), ["10.1.0.1:8080"]);

    let mut unlabelled = slice;
    unlabelled.metadata.labels = None;
    let (snapshot, _) = given::table_of(&mut resolver, [apply_slice(unlabelled)]);
    assert!(addresses(&snapshot, &port_name("other", "")).is_empty());
}

#[test]
fn the_weight_annotation_sets_the_weight_of_the_slices_endpoints() {
    let cases = [
        ("not written", None, 1, 0),
        ("a number", Some("7"), 7, 0),
        ("0", Some("0"), 0, 0),
        ("the largest", Some("65535"), 65535, 0),
        ("too large", Some("65536"), 1, 1),
        ("negative", Some("-1"), 1, 1),
        ("no number", Some("heavy"), 1, 1),
    ];
    for (rule, value, weight, notice_count) in cases {
        let mut slice = slice_of("s1", &["10.1.0.1", "10.1.0.2"]);
        slice.metadata.annotations =
            value.map(|value| [("streamvs.io/weight".into(), value.into())].into());
        let mut resolver = given::resolver();
        let changes = [given::service(SERVICE), apply_slice(slice)];
        let (snapshot, notices) = given::table_of(&mut resolver, changes);
        let endpoints = &snapshot.services().next().expect("a ServicePort").endpoints;
        assert!(endpoints.iter().all(|endpoint| endpoint.weight == weight), "{rule}");
        assert_eq!(notices.len(), notice_count, "{rule}: {notices:?}");
    }
}

#[test]
fn node_and_zone_and_conditions_are_shown_as_written() {
    let line = "10.1.0.1 on=here in=z1 ready=false serving=true terminating=true";
    let mut resolver = given::resolver();
    let changes = [given::service(SERVICE), apply_slice(slice_of("s1", &[line, "10.1.0.2"]))];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    let [first, second] = &snapshot.services().next().expect("a ServicePort").endpoints[..] else {
        panic!("two endpoints")
    };
    assert_eq!((first.node.as_deref(), first.zone.as_deref()), (Some("here"), Some("z1")));
    assert_eq!((first.ready, first.serving, first.terminating), (false, true, true));
    assert!(first.local);
    assert_eq!((second.node.as_deref(), second.zone.as_deref()), (None, None));
    assert!(!second.local);
}
