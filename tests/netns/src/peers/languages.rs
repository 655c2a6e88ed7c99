//! Aim: gRPC of every language works through the agent, and each call is balanced.
//! Method: a grpc-java, a grpc-js and a grpcio server behind one Service, and a client of each; so
//! every case of `tests/peers/proto` is tried with each pair of languages. Three tries of a case
//! come to three different servers, or the calls were not balanced.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_support::wait::{eventually, eventually_equals};

use super::{PATIENCE, built, peers, service, start};
use crate::scene::{PODS, Scene, engines, needs_node};

const PORT: u16 = 9000;
const LANGUAGES: [&str; 3] = ["java", "js", "python"];

/// How often a case is tried, so that each server has its turn.
const TRIES: u64 = 3;

/// Cases whose answers say which server gave them, with the number of answers.
const ANSWERED: &[(&str, u64)] = &[
    ("once", TRIES),
    ("collect", TRIES),
    ("expand", TRIES),
    ("converse", TRIES),
    ("cancel", TRIES),
    ("large", TRIES),
    ("metadata", TRIES),
    ("spread", 300),
];

/// Cases that end without an answer.
const UNANSWERED: &[&str] = &["deadline", "status"];

/// Calls of one client that a server sees end early: one cancelled and one past its deadline.
const ENDED_EARLY: usize = 2;

/// How long a client may take for all its cases; they take about four.
const CLIENT_SECONDS: &str = "90";

/// What may pass to the servers in the case `gzip`, whose messages are 3 x 4 MiB. grpc-js does not
/// understand how grpcio says that it takes gzip, and sends the next one as it is.
fn gzip_sent_max(client: &str) -> u64 {
    if client == "js" { 5 << 20 } else { 1 << 20 }
}

/// What may come back, the messages being 3 x 1 MiB: grpc-js sends its one as it is.
const GZIP_RECEIVED_MAX: u64 = 3 << 19;

#[test]
fn every_language_calls_every_language_and_each_call_is_balanced() {
    needs_node!();
    for engine in engines() {
        let scene = Scene::new();
        let servers: Vec<Process> = PODS
            .iter()
            .zip(LANGUAGES)
            .map(|(pod, language)| {
                let pod = scene.lab.pod(pod);
                let mut command = program(pod, language, "server");
                command.args([language, &pod.at(Family::V4, PORT).to_string()]);
                start(&scene, pod, language, command)
            })
            .collect();
        for server in &servers {
            eventually("a server serves", PATIENCE, || server.log().contains("serving"));
        }
        let service = service(&scene, PORT, &PODS);
        let _agent = scene.agent(&["--http2-engine", &engine]);
        let address = SocketAddr::new(service.ip(Family::V4), PORT);
        for (clients, language) in (1..).zip(LANGUAGES) {
            let what = format!("{language} through {engine}");
            cases_pass(&scene, &what, language, address);
            gzip_passes_compressed(&scene, &what, language, address);
            eventually_equals(
                &format!("calls of {what} that ended early at each server"),
                PATIENCE,
                &[clients * ENDED_EARLY; 3],
                || [0, 1, 2].map(|server: usize| ended_early(&servers[server])),
            );
        }
    }
}

fn cases_pass(scene: &Scene, what: &str, language: &str, address: SocketAddr) {
    let answered = ANSWERED.iter().map(|(case, _)| *case);
    let cases: Vec<&str> = answered.chain(UNANSWERED.iter().copied()).collect();
    let reports = run(scene, language, address, &cases);
    for (case, count) in ANSWERED {
        let each = LANGUAGES.map(|name| (name.to_owned(), count / TRIES)).into();
        assert_eq!(reports[*case], Ok(each), "{case}, {what}");
    }
    for case in UNANSWERED {
        assert_eq!(reports[*case], Ok(BTreeMap::new()), "{case}, {what}");
    }
}

fn gzip_passes_compressed(scene: &Scene, what: &str, language: &str, address: SocketAddr) {
    let sent = || PODS.iter().map(|pod| scene.lab.pod(pod).received_bytes()).sum::<u64>();
    let received = || scene.client().received_bytes();
    let before = (sent(), received());
    let reports = run(scene, language, address, &["gzip"]);
    let each = LANGUAGES.map(|name| (name.to_owned(), 1)).into();
    assert_eq!(reports["gzip"], Ok(each), "gzip, {what}");
    let (sent, received) = (sent() - before.0, received() - before.1);
    assert!(sent < gzip_sent_max(language), "{sent} octets came to the servers, {what}");
    assert!(received < GZIP_RECEIVED_MAX, "{received} octets came back, {what}");
}

/// Calls that a server saw cancelled or come to their deadline.
fn ended_early(server: &Process) -> usize {
    server.log().lines().filter(|line| *line == "ended early").count()
}

/// Answers by server, or what went wrong; by case.
type Reports = BTreeMap<String, Result<BTreeMap<String, u64>, String>>;

/// Runs a client to its end.
fn run(scene: &Scene, language: &str, address: SocketAddr, cases: &[&str]) -> Reports {
    let program = program(scene.client(), language, "client");
    // `timeout` ends a client that hangs, so that the test says which.
    let mut command = Command::new("timeout");
    command.arg(CLIENT_SECONDS).arg(program.get_program()).args(program.get_args());
    let output = command.arg(address.to_string()).args(cases).output().expect("a client starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let reports: Reports = text.lines().map(report).collect();
    assert!(
        output.status.success() && reports.len() == cases.len(),
        "{language}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    reports
}

/// Reads a line of a client.
fn report(line: &str) -> (String, Result<BTreeMap<String, u64>, String>) {
    let line: Value = serde_json::from_str(line).expect("a client reports in JSON");
    let case = line["case"].as_str().expect("a report has a case").to_owned();
    let outcome = match line["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(serde_json::from_value(line["endpoints"].clone()).expect("counts by endpoint")),
    };
    (case, outcome)
}

/// A client or a server, as `scripts/peers` made it, inside a host.
fn program(host: &Host, language: &str, role: &str) -> Command {
    let folder = built(language);
    let script = |extension: &str| folder.join(format!("{role}.{extension}"));
    match language {
        "java" => {
            let mut command = host.command("java");
            // Quick to start rather than quick to run.
            command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-cp"]);
            command.arg(class_path(&folder));
            command.arg(match role {
                "server" => "io.streamvs.peers.Server",
                _ => "io.streamvs.peers.Client",
            });
            command
        }
        "js" => {
            let mut command = host.command("node");
            command.arg(script("js"));
            command
        }
        _ => {
            let mut command = host.command(peers().join("python/venv/bin/python"));
            command.arg(script("py"));
            command
        }
    }
}

fn class_path(folder: &Path) -> String {
    format!("{0}/classes:{0}/lib/*", folder.display())
}
