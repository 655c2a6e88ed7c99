//! Aim: the gRPC project's own interoperability tests pass through the agent.
//! Method: its Go client against its Go servers, each case directly first, so that a failure says
//! whose it is; then through the Service, with each engine. Once more over TLS, which nobody
//! between the two can take apart.

use std::net::SocketAddr;
use std::process::Output;

use streamvs_support::Family;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_support::wait::eventually;

use super::{Certificate, PATIENCE, built, service, start, wait_for_port};
use crate::scene::{PODS, Scene, engines, needs_node};

const PORT: u16 = 10000;

/// Every case of the client that needs no credentials, but those below.
const CASES: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "rpc_soak",
    "channel_soak",
];

/// Cases in which one call asks about another, so both must come to the same server: a Service with
/// one endpoint. (`pick_first_unary` wants a server id, which this server has none of, and is
/// about the client's own choice among addresses.)
const ONE_SERVER: &[&str] = &["orca_oob"];

/// What is told over TLS too: all four kinds of calls, and how calls end.
const TLS_CASES: &[&str] = &[
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "cancel_after_first_response",
    "status_code_and_message",
];

/// What makes the client read load reports.
const ORCA: &str = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

#[test]
fn every_interop_case_passes_through_the_agent() {
    needs_node!();
    for engine in engines() {
        let scene = Scene::new();
        let _servers = servers(&scene, None);
        for (cases, pods) in [(CASES, &PODS[..]), (ONE_SERVER, &PODS[..1])] {
            let service = service(&scene, PORT, pods);
            let agent = scene.agent(&["--http2-engine", &engine]);
            let through = SocketAddr::new(service.ip(Family::V4), PORT);
            for case in cases {
                for (how, address) in [
                    ("directly", scene.lab.pod("a").at(Family::V4, PORT)),
                    ("through the agent", through),
                ] {
                    let output = run(scene.client(), case, address, None);
                    assert!(
                        output.status.success(),
                        "{case} {how}, {engine}:\n{}\n{}",
                        String::from_utf8_lossy(&output.stderr),
                        agent.log()
                    );
                }
            }
            let http2 = agent.metric("streamvs_connections_total", &[("protocol", "http2")]);
            assert!(http2.unwrap_or(0.0) >= cases.len() as f64, "captured: {http2:?}");
        }
    }
}

#[test]
fn grpc_over_tls_passes_whole_and_is_counted() {
    needs_node!("openssl");
    let scene = Scene::new();
    let certificate = Certificate::make(&scene);
    let _servers = servers(&scene, Some(&certificate));
    let service = service(&scene, PORT, &PODS);
    let agent = scene.agent(&["-v", "debug"]);
    let through = SocketAddr::new(service.ip(Family::V4), PORT);
    for case in TLS_CASES {
        let output = run(scene.client(), case, through, Some(&certificate));
        assert!(
            output.status.success(),
            "{case}:\n{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            agent.log()
        );
    }
    let count = TLS_CASES.len() as f64;
    assert_eq!(agent.metric("streamvs_tls_h2_connections_total", &[]), Some(count));
    for (protocol, wanted) in [("tls", count), ("http2", 0.0), ("tcp", 0.0)] {
        let found = agent.metric("streamvs_connections_total", &[("protocol", protocol)]);
        assert_eq!(found.unwrap_or(0.0), wanted, "{protocol}");
    }
    // What is encrypted is balanced by connection.
    for pod in PODS {
        let endpoint = scene.lab.pod(pod).at(Family::V4, PORT).to_string();
        let given = agent.metric("streamvs_endpoint_connections_total", &[("endpoint", &endpoint)]);
        assert_eq!(given, Some(count / PODS.len() as f64), "{endpoint}");
    }
    assert_eq!(agent.metric("streamvs_streams_total", &[]).unwrap_or(0.0), 0.0);
    eventually("the log has every connection as TLS", PATIENCE, || {
        agent.log().matches("protocol=\"tls\"").count() == TLS_CASES.len()
    });
}

/// A server in each pod, with TLS where there is a certificate.
fn servers(scene: &Scene, certificate: Option<&Certificate>) -> Vec<Process> {
    let server = built("interop-server");
    let one = |name| {
        let pod = scene.lab.pod(name);
        let mut command = pod.command(&server);
        command.arg(format!("-port={PORT}"));
        if let Some(certificate) = certificate {
            command.arg("-use_tls").arg("-tls_cert_file").arg(&certificate.file);
            command.arg("-tls_key_file").arg(&certificate.key);
        }
        let process = start(scene, pod, "interop", command);
        wait_for_port(pod, PORT);
        process
    };
    PODS.map(one).into()
}

fn run(
    client: &Host,
    case: &str,
    address: SocketAddr,
    certificate: Option<&Certificate>,
) -> Output {
    let mut command = client.command(built("interop-client"));
    if case.starts_with("orca") {
        // The balancer that reads load reports, which these cases are about.
        command.arg(format!("-service_config_json={ORCA}"));
    }
    if let Some(certificate) = certificate {
        command.args(["-use_tls", "-use_test_ca", "-server_host_override=peer", "-ca_file"]);
        command.arg(&certificate.file);
    }
    command
        .arg(format!("-server_host={}", address.ip()))
        .arg(format!("-server_port={}", address.port()))
        .arg(format!("-test_case={case}"))
        // A busy machine is no failure; a call that never ends still is.
        .args(["-soak_iterations=50", "-soak_overall_timeout_seconds=60"])
        .arg("-soak_per_iteration_max_acceptable_latency_ms=10000")
        .output()
        .expect("the interop client starts")
}
