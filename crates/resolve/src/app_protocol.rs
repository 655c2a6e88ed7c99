//! What annotation, appProtocol and port name say about the protocol spoken on a port.
//!
//! | source | may say h2c | may say tcp |
//! | --- | --- | --- |
//! | annotation `streamvs.io/protocol` | yes | yes |
//! | `appProtocol` (KEP-3726) | yes | yes |
//! | prefix of the port's name | yes | no |
//!
//! The first that knows anything decides. h2c is a hint: detection still has the last word, and a
//! wrong hint costs a dial. tcp is an order, never to balance by stream, so only what was set on
//! purpose may give it: ports are called `tcp` by people who mean "not UDP", and taking their gRPC
//! off would be silent.

use streamvs_table::{HintSource, ProtocolHint};

/// Values of appProtocol that name HTTP/2 with prior knowledge.
const H2C: &[&str] = &["kubernetes.io/h2c", "h2c", "http2", "grpc"];

/// Values of appProtocol that name something else than HTTP/2: WebSocket over HTTP/1.1 (what
/// `kubernetes.io/ws` and `wss` are defined as), and protocols that are not HTTP.
///
/// `http`, `https` and `tls` are left out on purpose: cleartext `http` may well be HTTP/2, and
/// TLS is passed through anyway but shall be seen and counted, as it may hide gRPC.
const NOT_HTTP2: &[&str] = &[
    "kubernetes.io/ws",
    "kubernetes.io/wss",
    "ws",
    "wss",
    "tcp",
    "amqp",
    "dns",
    "ftp",
    "imap",
    "kafka",
    "ldap",
    "memcache",
    "memcached",
    "mongo",
    "mongodb",
    "mqtt",
    "mysql",
    "nats",
    "pop3",
    "postgres",
    "postgresql",
    "redis",
    "sip",
    "smtp",
    "ssh",
    "telnet",
    "thrift",
];

/// Values of appProtocol that are known and leave it open, so that the port's name is not asked.
const OPEN: &[&str] = &["http", "https", "tls", "grpc-web"];

/// Prefixes of port names that suggest HTTP/2 with prior knowledge. The name is the prefix alone
/// or goes on with `-`.
const H2C_PREFIXES: &[&str] = &["grpc", "h2c", "http2"];

/// Reads the annotation's value. None: it is none of the accepted ones.
pub(crate) fn from_annotation(value: &str) -> Option<ProtocolHint> {
    match value {
        "auto" => Some(ProtocolHint::Auto),
        "h2c" => Some(ProtocolHint::H2c),
        "tcp" => Some(ProtocolHint::Tcp),
        _ => None,
    }
}

/// The hint of a TCP port, and who gave it.
pub(crate) fn hint(
    annotation: Option<ProtocolHint>,
    app_protocol: Option<&str>,
    port_name: &str,
) -> (ProtocolHint, HintSource) {
    let by = |source| move |hint| (hint, source);
    annotation
        .map(by(HintSource::Annotation))
        .or_else(|| app_protocol.and_then(from_app_protocol).map(by(HintSource::AppProtocol)))
        .or_else(|| from_port_name(port_name).map(by(HintSource::PortName)))
        .unwrap_or_default()
}

fn from_app_protocol(value: &str) -> Option<ProtocolHint> {
    let is_in = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(value));
    if is_in(H2C) {
        Some(ProtocolHint::H2c)
    } else if is_in(NOT_HTTP2) {
        Some(ProtocolHint::Tcp)
    } else if is_in(OPEN) {
        Some(ProtocolHint::Auto)
    } else {
        None
    }
}

fn from_port_name(name: &str) -> Option<ProtocolHint> {
    // grpc-web is HTTP/1.1 as often as not, and not what the prefix promises.
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return None;
    }
    let suggests = |prefix: &&str| {
        name.strip_prefix(*prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    H2C_PREFIXES.iter().any(suggests).then_some(ProtocolHint::H2c)
}
