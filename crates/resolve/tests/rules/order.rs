//! Any order of changes, resolved at any times, gives the table of the objects that are left.

use std::collections::BTreeMap;

use proptest::prelude::*;
use streamvs_resolve::Change;
use streamvs_table::{ServiceName, Snapshot};

use crate::given;

/// A step of a history. Few names and addresses, so that they collide.
#[derive(Clone, Debug)]
enum Step {
    Service { name: u8, ip: u8, policy: bool, headless: bool, foreign: bool },
    DeleteService { name: u8 },
    Slice { name: u8, service: u8, v6: bool, port: u16, endpoints: Vec<Pod> },
    DeleteSlice { name: u8 },
    Node { zone: Option<u8> },
    DeleteNode,
    Resolve,
}

#[derive(Clone, Debug)]
struct Pod {
    ip: u8,
    node: Option<u8>,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
    hint_node: Option<u8>,
    hint_zone: Option<u8>,
}

fn pod() -> impl Strategy<Value = Pod> {
    let small = || proptest::option::weighted(0.7, 0..3_u8);
    let flag = || proptest::option::of(any::<bool>());
    (0..6_u8, small(), flag(), flag(), flag(), small(), small()).prop_map(
        |(ip, node, ready, serving, terminating, hint_node, hint_zone)| Pod {
            ip,
            node,
            ready,
            serving,
            terminating,
            hint_node,
            hint_zone,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..5_u8, any::<bool>(), proptest::bool::weighted(0.1), proptest::bool::weighted(0.1))
            .prop_map(|(name, ip, policy, headless, foreign)| Step::Service {
                name, ip, policy, headless, foreign
            }),
        1 => (0..4_u8).prop_map(|name| Step::DeleteService { name }),
        8 => (
            0..6_u8,
            0..4_u8,
            any::<bool>(),
            8080..8082_u16,
            proptest::collection::vec(pod(), 0..5)
        )
            .prop_map(|(name, service, v6, port, endpoints)| Step::Slice {
                name, service, v6, port, endpoints
            }),
        2 => (0..6_u8).prop_map(|name| Step::DeleteSlice { name }),
        1 => proptest::option::of(0..3_u8).prop_map(|zone| Step::Node { zone }),
        1 => Just(Step::DeleteNode),
        4 => Just(Step::Resolve),
    ]
}

/// Which object a step is about; none for `Resolve`.
fn object(step: &Step) -> Option<(&'static str, u8)> {
    match step {
        Step::Service { name, .. } | Step::DeleteService { name } => Some(("service", *name)),
        Step::Slice { name, .. } | Step::DeleteSlice { name } => Some(("slice", *name)),
        Step::Node { .. } | Step::DeleteNode => Some(("node", 0)),
        Step::Resolve => None,
    }
}

/// Node 0 is this one.
fn node_name(number: u8) -> String {
    if number == 0 { given::HERE.to_owned() } else { format!("n{number}") }
}

fn change(step: &Step) -> Option<Change> {
    Some(match step {
        Step::Service { name, ip, policy, headless, foreign } => {
            let cluster_ips = if *headless {
                "None".to_owned()
            } else {
                format!("10.96.0.{ip}, '2001:db8:96::{ip}'")
            };
            let policy = if *policy { "Local" } else { "Cluster" };
            let labels = if *foreign {
                "labels: {service.kubernetes.io/service-proxy-name: other},"
            } else {
                ""
            };
            given::service(&format!(
                "{{metadata: {{{labels} name: svc{name}, namespace: default}},
                   spec: {{clusterIPs: [{cluster_ips}], internalTrafficPolicy: {policy},
                   ports: [{{name: a, port: 80}}, {{name: b, port: 81}}]}}}}"
            ))
        }
        Step::DeleteService { name } => {
            Change::DeleteService(ServiceName::new("default", format!("svc{name}")))
        }
        Step::Slice { name, service, v6, port, endpoints } => {
            let lines: Vec<String> = endpoints.iter().map(|pod| line(pod, *v6)).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let mut slice = given::slice_of(&format!("slice{name}"), &lines);
            slice.address_type = if *v6 { "IPv6" } else { "IPv4" }.into();
            let label = ("kubernetes.io/service-name".into(), format!("svc{service}"));
            slice.metadata.labels = Some([label].into());
            let ports = slice.ports.as_mut().expect("made with ports");
            ports.push(ports[0].clone());
            ports[0].name = Some("a".into());
            ports[1].name = Some("b".into());
            ports[1].port = Some((*port).into());
            given::apply_slice(slice)
        }
        Step::DeleteSlice { name } => {
            Change::DeleteSlice { namespace: "default".into(), name: format!("slice{name}").into() }
        }
        Step::Node { zone } => given::this_node(zone.map(|zone| format!("z{zone}")).as_deref()),
        Step::DeleteNode => Change::DeleteNode(given::HERE.into()),
        Step::Resolve => return None,
    })
}

fn line(pod: &Pod, v6: bool) -> String {
    use std::fmt::Write;
    let Pod { ip, node, ready, serving, terminating, hint_node, hint_zone } = pod;
    let mut line = if v6 { format!("2001:db8::{ip}") } else { format!("10.1.0.{ip}") };
    let mut say = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            write!(line, " {key}={value}").expect("a string takes all");
        }
    };
    say("on", node.map(node_name));
    say("ready", ready.map(|flag| flag.to_string()));
    say("serving", serving.map(|flag| flag.to_string()));
    say("terminating", terminating.map(|flag| flag.to_string()));
    say("nodes", hint_node.map(node_name));
    say("zones", hint_zone.map(|zone| format!("z{zone}")));
    line
}

fn assert_same(left: &Snapshot, right: &Snapshot) {
    assert!(left.services().eq(right.services()), "{left:?} {right:?}");
    let lookup = |snapshot: &Snapshot| -> BTreeMap<_, _> {
        let entry = |(ip, port, protocol, service): (_, u16, _, &std::sync::Arc<_>)| {
            let service: &streamvs_table::ServicePort = service;
            ((ip, port, protocol), service.name.clone())
        };
        snapshot.addresses().map(entry).collect()
    };
    assert_eq!(lookup(left), lookup(right));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_history_gives_the_table_of_what_is_left(
        steps in proptest::collection::vec(step(), 1..60),
        reverse in any::<bool>(),
    ) {
        let mut resolver = given::resolver();
        let mut last = Snapshot::default();
        let mut left: BTreeMap<(&str, u8), &Step> = BTreeMap::new();
        for step in &steps {
            if let (Some(object), Some(change)) = (object(step), change(step)) {
                resolver.apply(change);
                left.insert(object, step);
            } else if let Some((snapshot, _)) = resolver.resolve() {
                snapshot.check_invariants();
                prop_assert_eq!(snapshot.generation(), last.generation() + 1);
                last = snapshot;
            }
        }
        if let Some((snapshot, _)) = resolver.resolve() {
            snapshot.check_invariants();
            last = snapshot;
        }

        let mut left: Vec<&Step> = left.into_values().collect();
        if reverse {
            left.reverse();
        }
        let mut fresh = given::resolver();
        for step in left {
            fresh.apply(change(step).expect("only objects are left"));
        }
        let (scratch, _) = fresh.resolve().expect("the first");
        assert_same(&last, &scratch);
    }
}
