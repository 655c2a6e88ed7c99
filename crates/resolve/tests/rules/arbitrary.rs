//! Objects of any content are taken without a panic, and the table stays sound.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use streamvs_resolve::Change;

use crate::given;

/// Words that mean something somewhere, and any others.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => proptest::sample::select(vec![
            "", "None", "svc", "default", "here", "TCP", "UDP", "IPv4", "IPv6", "FQDN", "ClientIP",
            "Local", "Cluster", "10.96.0.1", "10.1.0.1", "2001:db8::1", "::ffff:10.1.0.1", "fe80::1%eth0",
            "0.0.0.0", "::", "255.255.255.255", "ff02::1", "grpc", "grpc-web", "kubernetes.io/h2c",
            "tcp", "auto", "h2c", "65535", "65536", "-1", "ExternalName",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(vec![
            "kubernetes.io/service-name",
            "service.kubernetes.io/headless",
            "service.kubernetes.io/service-proxy-name",
            "streamvs.io/weight",
            "streamvs.io/scheduler",
            "streamvs.io/protocol",
        ]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![
        proptest::sample::select(vec![0, 1, 80, 8080, 65535, 65536, -1, i32::MIN, i32::MAX]),
        any::<i32>(),
    ]
}

fn metadata() -> impl Strategy<Value = ObjectMeta> {
    let words = || option::of(btree_map(key(), word(), 0..4));
    (option::of(word()), option::of(word()), words(), words()).prop_map(
        |(name, namespace, labels, annotations)| ObjectMeta {
            name,
            namespace,
            labels,
            annotations,
            ..ObjectMeta::default()
        },
    )
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let optional = || option::of(word());
    (optional(), optional(), optional(), number(), option::of(number())).prop_map(
        |(name, protocol, app_protocol, port, node_port)| ServicePort {
            name,
            protocol,
            app_protocol,
            port,
            node_port,
            target_port: None,
        },
    )
}

fn service() -> impl Strategy<Value = Service> {
    let optional = || option::of(word());
    let spec = (
        (optional(), option::of(vec(word(), 0..4)), optional(), optional(), optional()),
        option::of(vec(service_port(), 0..4)),
        option::of(option::of(option::of(number()))),
    )
        .prop_map(|((cluster_ip, cluster_ips, type_, affinity, policy), ports, timeout)| {
            ServiceSpec {
                cluster_ip,
                cluster_ips,
                type_,
                session_affinity: affinity,
                internal_traffic_policy: policy,
                ports,
                session_affinity_config: timeout.map(|timeout| SessionAffinityConfig {
                    client_ip: timeout.map(|seconds| ClientIPConfig { timeout_seconds: seconds }),
                }),
                ..ServiceSpec::default()
            }
        });
    (metadata(), option::of(spec)).prop_map(|(metadata, spec)| Service {
        metadata,
        spec,
        status: None,
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let flag = || option::of(any::<bool>());
    let names = || option::of(vec(word(), 0..3));
    (
        vec(word(), 0..3),
        option::of((flag(), flag(), flag())),
        option::of((names(), names())),
        option::of(word()),
        option::of(word()),
    )
        .prop_map(|(addresses, conditions, hints, node_name, zone)| Endpoint {
            addresses,
            conditions: conditions.map(|(ready, serving, terminating)| EndpointConditions {
                ready,
                serving,
                terminating,
            }),
            hints: hints.map(|(nodes, zones)| EndpointHints {
                for_nodes: nodes
                    .map(|nodes| nodes.into_iter().map(|name| ForNode { name }).collect()),
                for_zones: zones
                    .map(|zones| zones.into_iter().map(|name| ForZone { name }).collect()),
            }),
            node_name,
            zone,
            ..Endpoint::default()
        })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let port = (option::of(word()), option::of(number()), option::of(word())).prop_map(
        |(name, port, protocol)| EndpointPort { name, port, protocol, app_protocol: None },
    );
    (word(), metadata(), option::of(vec(endpoint(), 0..6)), option::of(vec(port, 0..4))).prop_map(
        |(address_type, metadata, endpoints, ports)| EndpointSlice {
            address_type,
            endpoints,
            metadata,
            ports,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        service().prop_map(|service| Change::Service(Box::new(service))),
        slice().prop_map(|slice| Change::Slice(Box::new(slice))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_content_is_taken_and_the_table_is_sound(changes in vec(change(), 1..12)) {
        let mut resolver = given::resolver();
        for change in changes {
            for notice in resolver.apply(change) {
                prop_assert!(notice.to_string().len() < 1 << 20);
            }
            if let Some((snapshot, _)) = resolver.resolve() {
                snapshot.check_invariants();
            }
        }
    }
}
