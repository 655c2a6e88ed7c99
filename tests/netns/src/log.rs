//! Aim: the log is for programs too: each line is JSON, and one thing has one name in all of them.
//! Method: an agent that says all it can, while calls and connections end and an endpoint refuses.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::grpc::load::Load;
use streamvs_support::manifest::Service;
use streamvs_support::tcp::Speak;
use streamvs_support::tcp::load::{First, who};

use crate::scene::{
    PODS, SERVICE_PORT, Scene, address, engines, grpc_service, needs_node, tcp_service,
};

/// Nobody listens there.
const CLOSED_PORT: u16 = 9999;

/// Fields of every line about the end of a connection.
const CONNECTION_ENDED: [&str; 8] = [
    "downstream",
    "duration_seconds",
    "message",
    "original_dst",
    "outcome",
    "protocol",
    "service",
    "stream_count",
];

const STREAM_ENDED: [&str; 5] = ["endpoint", "grpc_status", "message", "original_dst", "outcome"];

#[test]
fn each_line_is_json_and_one_thing_has_one_name() {
    needs_node!();
    for engine in engines() {
        let scene = Scene::new();
        let log = all_kinds(&scene, &engine);
        let lines = lines(&log);
        for line in &lines {
            check_names(&scene, line);
        }
        for (service, protocol, beside) in [
            (grpc_service(Family::V4), "http2", None),
            (tcp_service(Family::V4), "tcp", Some("endpoint")),
        ] {
            let ended = about(&lines, "connection ended");
            let original_dst = address(&service).to_string();
            let to_service = |line: &&&Value| line["fields"]["original_dst"] == *original_dst;
            let line = ended.iter().find(to_service).expect("one has ended");
            let names: BTreeSet<&str> = CONNECTION_ENDED.into_iter().chain(beside).collect();
            assert_eq!(fields(line), names, "{engine}");
            assert_eq!(line["fields"]["protocol"], protocol, "{engine}");
            assert_eq!(line["level"], "DEBUG");
        }
        let ended = about(&lines, "stream ended");
        assert_eq!(ended.len(), 3, "{engine}");
        for line in ended {
            assert_eq!(fields(line), STREAM_ENDED.into(), "{engine}");
            assert_eq!(line["level"], "TRACE");
        }
        let refused = about(&lines, "endpoint did not accept, trying the next");
        assert!(!refused.is_empty(), "{engine}");
        for line in refused {
            assert_eq!(fields(line), ["endpoint", "error", "message", "original_dst"].into());
        }
    }
}

/// The whole log of an agent through which three calls went, a plain connection, and one that no
/// endpoint accepts.
fn all_kinds(scene: &Scene, engine: &str) -> String {
    let calls = grpc_service(Family::V4);
    let plain = tcp_service(Family::V4);
    let dead = Service::new("dead", &[Family::V4], 12).port("tcp", SERVICE_PORT, CLOSED_PORT);
    let _calls = scene.grpc(Family::V4, PODS);
    let _plain = scene.tcp(Family::V4, Speak::Echo, PODS);
    for service in [&calls, &plain, &dead] {
        scene.publish(service, &PODS);
    }
    let flags = ["--http2-engine", engine, "--log-format", "json", "-v", "trace"];
    let mut agent = scene.agent(&flags);
    Load::unary(address(&calls), 1).calls(3).run(scene.client()).without_failure();
    scene.client().netns().run(|| {
        who(address(&plain), First::Client).expect("is answered");
        who(address(&dead), First::Client).expect_err("is reset");
    });
    agent.stop(PATIENCE);
    agent.log()
}

/// All lines, each of which must be an object with the members that every line has.
#[track_caller]
fn lines(log: &str) -> Vec<Value> {
    let parsed = log.lines().map(|text| {
        let line: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        for member in ["timestamp", "level", "target"] {
            assert!(line[member].is_string(), "no {member}: {text}");
        }
        assert!(line["fields"].is_object(), "no fields: {text}");
        line
    });
    parsed.collect()
}

fn about<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["fields"]["message"] == message).collect()
}

fn fields(line: &Value) -> BTreeSet<&str> {
    let fields = line["fields"].as_object().expect("was looked at");
    fields.keys().map(String::as_str).collect()
}

/// What our own lines say of clients, Services and endpoints is said under the name for it.
#[track_caller]
fn check_names(scene: &Scene, line: &Value) {
    if !line["target"].as_str().is_some_and(|target| target.starts_with("streamvs")) {
        return;
    }
    let fields = line["fields"].as_object().expect("was looked at");
    for (name, value) in fields.iter().filter_map(|(name, value)| Some((name, value.as_str()?))) {
        if let Some(wanted) = name_for(scene, value) {
            assert_eq!(name, wanted, "{line}");
        }
    }
}

/// The field a value belongs in. None: any.
fn name_for(scene: &Scene, value: &str) -> Option<&'static str> {
    if value.starts_with("default/") {
        return Some("service");
    }
    let address: SocketAddr = value.parse().ok()?;
    let ip = address.ip();
    if ip == scene.client().ip(Family::V4) {
        Some("downstream")
    } else if PODS.iter().any(|pod| ip == scene.lab.pod(pod).ip(Family::V4)) {
        Some("endpoint")
    } else {
        (address.port() == SERVICE_PORT).then_some("original_dst")
    }
}
