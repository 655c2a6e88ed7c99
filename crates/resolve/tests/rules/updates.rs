//! What a change costs and shows: generations, sharing, notices.

use std::sync::Arc;

use streamvs_resolve::{Change, Resolver};
use streamvs_table::{Disposition, ServiceName, Snapshot};

use crate::given::{
    self, SERVICE, addresses, apply_slice, displayed, node, port_name, slice_of, this_node,
};

fn other_service() -> Change {
    given::service(
        &SERVICE
            .replace("name: svc", "name: other")
            .replace("10.96.0.1", "10.96.0.2")
            .replace("2001:db8:96::1", "2001:db8:96::2"),
    )
}

fn started() -> (Resolver, Snapshot) {
    let mut resolver = given::resolver();
    let changes =
        [given::service(SERVICE), other_service(), apply_slice(slice_of("s1", &["10.1.0.1"]))];
    let (snapshot, _) = given::table_of(&mut resolver, changes);
    (resolver, snapshot)
}

#[test]
fn the_first_table_comes_even_if_empty_and_no_second_without_a_change() {
    let mut resolver = given::resolver();
    let (snapshot, notices) = resolver.resolve().expect("the first");
    assert_eq!((snapshot.generation(), snapshot.service_port_count(), notices.len()), (1, 0, 0));
    assert!(resolver.resolve().is_none());
}

#[test]
fn only_the_touched_service_port_is_made_anew() {
    let (mut resolver, before) = started();
    let change = apply_slice(slice_of("s1", &["10.1.0.2"]));
    let (after, _) = given::table_of(&mut resolver, [change]);
    assert_eq!((before.generation(), after.generation()), (1, 2));
    let same = |name: &str| {
        let name = port_name(name, "");
        Arc::ptr_eq(before.get(&name).expect("before"), after.get(&name).expect("after"))
    };
    assert!(same("other"));
    assert!(!same("svc"));
    assert_eq!(addresses(&before, &port_name("svc", "")), ["10.1.0.1:8080"]);
    assert_eq!(addresses(&after, &port_name("svc", "")), ["10.1.0.2:8080"]);
}

#[test]
fn of_a_service_only_the_changed_port_is_made_anew() {
    let yaml = |target: &str| {
        given::service(&format!(
            "{{metadata: {{name: svc}}, spec: {{clusterIP: 10.96.0.1,
               ports: [{{name: a, port: 80}}, {{name: b, port: 81, appProtocol: {target}}}]}}}}"
        ))
    };
    let mut resolver = given::resolver();
    let (before, _) = given::table_of(&mut resolver, [yaml("tcp")]);
    let (after, _) = given::table_of(&mut resolver, [yaml("grpc")]);
    assert!(Arc::ptr_eq(
        before.services().next().expect("a ServicePort"),
        after.services().next().expect("a ServicePort")
    ));
    assert!(!Arc::ptr_eq(
        before.services().nth(1).expect("two ServicePorts"),
        after.services().nth(1).expect("two ServicePorts")
    ));
}

#[test]
fn what_is_not_visible_makes_no_table() {
    let (mut resolver, _) = started();
    let mut relabelled = slice_of("s1", &["10.1.0.1"]);
    relabelled.metadata.resource_version = Some("7".into());
    let unseen = [
        ("the same object", given::service(SERVICE)),
        ("a slice with a new resourceVersion", apply_slice(relabelled)),
        ("a slice of nobody's", {
            let mut slice = slice_of("s9", &["10.1.0.9"]);
            slice.metadata.namespace = Some("elsewhere".into());
            apply_slice(slice)
        }),
        ("a slice that adds nothing", apply_slice(slice_of("s2", &["10.1.0.1"]))),
        ("another Node", node("n2", Some("z2"))),
        ("a zone nobody hints to", this_node(Some("z1"))),
        ("another Node gone", Change::DeleteNode("n2".into())),
        ("a Service gone that never was", Change::DeleteService(ServiceName::new("x", "y"))),
        (
            "a slice gone that never was",
            Change::DeleteSlice { namespace: "x".into(), name: "y".into() },
        ),
    ];
    for (what, change) in unseen {
        resolver.apply(change);
        assert!(resolver.resolve().is_none(), "{what}");
    }
}

#[test]
fn a_deleted_service_is_gone_and_comes_back_with_its_slices() {
    let (mut resolver, _) = started();
    let gone = Change::DeleteService(ServiceName::new("default", "svc"));
    let (snapshot, _) = given::table_of(&mut resolver, [gone]);
    assert!(snapshot.get(&port_name("svc", "")).is_none());
    assert_eq!(snapshot.addresses().count(), 2);
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(SERVICE)]);
    assert_eq!(addresses(&snapshot, &port_name("svc", "")), ["10.1.0.1:8080"]);
}

#[test]
fn a_service_that_turns_headless_is_gone() {
    let (mut resolver, _) = started();
    let headless = SERVICE.replace("clusterIP: 10.96.0.1", "clusterIP: None");
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(&headless)]);
    assert!(snapshot.get(&port_name("svc", "")).is_none());
}

#[test]
fn a_deleted_slice_takes_its_endpoints_away() {
    let (mut resolver, _) = started();
    let gone = Change::DeleteSlice { namespace: "default".into(), name: "s1".into() };
    let (snapshot, _) = given::table_of(&mut resolver, [gone]);
    let service = snapshot.get(&port_name("svc", "")).expect("the Service is still there");
    assert!(service.endpoints.is_empty());
    assert_eq!(service.internal_disposition(streamvs_table::Family::V4), Disposition::Reject);
}

#[test]
fn slices_may_come_before_their_service() {
    let mut resolver = given::resolver();
    let early = [apply_slice(slice_of("s1", &["10.1.0.1"]))];
    let (snapshot, _) = given::table_of(&mut resolver, early);
    assert!(snapshot.services().next().is_none());
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(SERVICE)]);
    assert_eq!(addresses(&snapshot, &port_name("svc", "")), ["10.1.0.1:8080"]);
}

#[test]
fn this_nodes_zone_moves_traffic_as_it_changes() {
    let mut resolver = given::resolver();
    let hinted = slice_of("s1", &["10.1.0.1 zones=z1", "10.1.0.2 zones=z2"]);
    let name = port_name("svc", "");
    let steps = [
        (this_node(None), "Ready", "Ready"),
        (this_node(Some("z1")), "SameZone", "HintedToOtherZone"),
        (this_node(Some("z2")), "HintedToOtherZone", "SameZone"),
        (Change::DeleteNode(given::HERE.into()), "Ready", "Ready"),
    ];
    resolver.apply(given::service(SERVICE));
    resolver.apply(apply_slice(hinted));
    for (change, first, second) in steps {
        let (snapshot, _) = given::table_of(&mut resolver, [change]);
        let expect = [format!("10.1.0.1:8080 {first}"), format!("10.1.0.2:8080 {second}")];
        assert_eq!(given::verdicts(&snapshot, &name), expect);
    }
}

#[test]
fn an_address_claimed_twice_is_the_first_names_and_is_told_once() {
    let (mut resolver, _) = started();
    let thief = SERVICE.replace("name: svc", "name: thief");
    let (snapshot, notices) = given::table_of(&mut resolver, [given::service(&thief)]);
    let owner = snapshot.lookup([10, 96, 0, 1].into(), 80, streamvs_table::Protocol::Tcp);
    assert_eq!(owner.expect("somebody has it").name, port_name("svc", ""));
    assert_eq!(
        displayed(&notices),
        [
            "default/thief claims 10.96.0.1 port 80, which default/svc has already",
            "default/thief claims 2001:db8:96::1 port 80, which default/svc has already",
        ]
    );

    let change = apply_slice(slice_of("s1", &["10.1.0.7"]));
    let (_, notices) = given::table_of(&mut resolver, [change]);
    assert_eq!(notices, [], "told already, lookup shared");
    let third =
        given::service("{metadata: {name: z}, spec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}}");
    let (_, notices) = given::table_of(&mut resolver, [third]);
    assert_eq!(notices, [], "told already, lookup made anew");

    let gone = Change::DeleteService(ServiceName::new("default", "svc"));
    let (snapshot, notices) = given::table_of(&mut resolver, [gone]);
    let owner = snapshot.lookup([10, 96, 0, 1].into(), 80, streamvs_table::Protocol::Tcp);
    assert_eq!(owner.expect("the other one").name, port_name("thief", ""));
    assert_eq!(notices, []);

    let (_, notices) = given::table_of(&mut resolver, [given::service(SERVICE)]);
    assert_eq!(notices.len(), 2, "it was over, so it is news again");
}

#[test]
fn a_notice_is_given_once_until_it_was_mended() {
    let bad = |value: &str| {
        given::service(&format!(
            "{{metadata: {{name: a, annotations: {{streamvs.io/protocol: {value}}}}},
               spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}}}"
        ))
    };
    let mut resolver = given::resolver();
    let told = displayed(&resolver.apply(bad("quic")));
    assert_eq!(
        told,
        ["annotation streamvs.io/protocol: \"quic\" of Service default/a is ignored: it must be \
          auto, h2c or tcp"]
    );
    assert_eq!(resolver.apply(bad("quic")), []);
    assert_eq!(resolver.apply(bad("sctp")).len(), 1, "another value is news");
    assert_eq!(resolver.apply(bad("auto")), []);
    assert_eq!(resolver.apply(bad("quic")).len(), 1, "it was mended in between");
    resolver.apply(Change::DeleteService(ServiceName::new("default", "a")));
    assert_eq!(resolver.apply(bad("quic")).len(), 1, "it was gone in between");
}

#[test]
fn objects_without_a_name_are_told_and_ignored() {
    let mut resolver = given::resolver();
    let nameless = [
        given::service("{metadata: {}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}"),
        given::slice("{metadata: {name: ''}, addressType: IPv4}"),
        node("", None),
    ];
    let told: Vec<String> =
        nameless.into_iter().flat_map(|change| displayed(&resolver.apply(change))).collect();
    assert_eq!(
        told,
        ["Service", "EndpointSlice", "Node"]
            .map(|kind| format!("{kind} without metadata.name is ignored"))
    );
    let (snapshot, _) = resolver.resolve().expect("the first");
    assert!(snapshot.services().next().is_none());
}
