//! What is said about the protocol on a port (`features.md` A1 row 22, C1 overrides).

use streamvs_table::ProtocolHint::{self, Auto, H2c, Tcp};

use crate::given;

/// The hint of a port out of annotation, appProtocol and port name, and how many notices it gave.
fn hint(annotation: &str, app_protocol: &str, port_name: &str) -> (ProtocolHint, usize) {
    let annotations = match annotation {
        "" => String::new(),
        value => format!("annotations: {{streamvs.io/protocol: {value}}},"),
    };
    let app_protocol = match app_protocol {
        "" => String::new(),
        value => format!("appProtocol: {value},"),
    };
    let yaml = format!(
        "{{metadata: {{{annotations} name: a}}, spec: {{clusterIP: 10.96.0.1,
          ports: [{{{app_protocol} name: '{port_name}', port: 80}}]}}}}"
    );
    let mut resolver = given::resolver();
    let (snapshot, notices) = given::table_of(&mut resolver, [given::service(&yaml)]);
    (snapshot.services().next().expect("a ServicePort").protocol_hint, notices.len())
}

fn check(cases: &[(&str, [&str; 3], ProtocolHint)]) {
    for (rule, [annotation, app_protocol, port_name], expect) in cases {
        assert_eq!(hint(annotation, app_protocol, port_name), (*expect, 0), "{rule}");
    }
}

#[test]
fn kep_3726_app_protocol_decides() {
    check(&[
        ("nothing said: detect", ["", "", ""], Auto),
        ("KEP-3726: kubernetes.io/h2c is HTTP/2", ["", "kubernetes.io/h2c", ""], H2c),
        ("grpc is HTTP/2", ["", "grpc", ""], H2c),
        ("case does not count", ["", "GRPC", ""], H2c),
        (
            "KEP-3726: kubernetes.io/ws is WebSocket over HTTP/1.1",
            ["", "kubernetes.io/ws", ""],
            Tcp,
        ),
        ("KEP-3726: kubernetes.io/wss likewise", ["", "kubernetes.io/wss", ""], Tcp),
        ("ws and wss without prefix", ["", "ws", ""], Tcp),
        ("tcp is TCP", ["", "tcp", ""], Tcp),
        ("mysql is TCP", ["", "mysql", ""], Tcp),
        ("http may be HTTP/2: detect", ["", "http", ""], Auto),
        ("https may hide gRPC, which shall be counted: detect", ["", "https", ""], Auto),
        ("a name of somebody's own says nothing", ["", "example.com/own", ""], Auto),
    ]);
}

#[test]
fn a_port_name_suggests_http2_and_never_forces_tcp() {
    check(&[
        ("grpc", ["", "", "grpc"], H2c),
        ("grpc-api", ["", "", "grpc-api"], H2c),
        ("h2c", ["", "", "h2c"], H2c),
        ("http2-web", ["", "", "http2-web"], H2c),
        ("a longer word is another word", ["", "", "grpcweb"], Auto),
        ("grpc-web is HTTP/1.1 as often", ["", "", "grpc-web"], Auto),
        ("grpc-web-ui likewise", ["", "", "grpc-web-ui"], Auto),
        ("tcp is what people call anything", ["", "", "tcp"], Auto),
        ("tcp-mysql too: detected anyway", ["", "", "tcp-mysql"], Auto),
        ("http", ["", "", "http"], Auto),
    ]);
}

#[test]
fn the_more_deliberate_word_wins() {
    check(&[
        ("appProtocol over port name", ["", "tcp", "grpc"], Tcp),
        ("an open appProtocol over port name", ["", "http", "grpc"], Auto),
        ("port name where appProtocol says nothing", ["", "example.com/own", "grpc"], H2c),
        ("annotation tcp over appProtocol", ["tcp", "grpc", "grpc"], Tcp),
        ("annotation h2c over appProtocol", ["h2c", "tcp", ""], H2c),
        ("annotation auto over both", ["auto", "grpc", "grpc"], Auto),
    ]);
}

#[test]
fn a_bad_annotation_is_told_and_ignored() {
    assert_eq!(hint("http3", "grpc", ""), (H2c, 1));
    assert_eq!(hint("H2C", "", ""), (Auto, 1));
}

#[test]
fn ports_other_than_tcp_have_no_hint() {
    let yaml = "{metadata: {name: a, annotations: {streamvs.io/protocol: h2c}},
                 spec: {clusterIP: 10.96.0.1, ports: [{name: grpc, port: 80, protocol: UDP}]}}";
    let mut resolver = given::resolver();
    let (snapshot, _) = given::table_of(&mut resolver, [given::service(yaml)]);
    assert_eq!(snapshot.services().next().expect("a ServicePort").protocol_hint, Auto);
}
