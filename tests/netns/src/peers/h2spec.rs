//! Aim: an HTTP/2 server conforms as well behind the agent as without it.
//! Method: h2spec, the conformance suite for servers, once at a golang.org/x/net/http2 server's own
//! address and once through the Service, with each engine; case by case.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

use streamvs_support::lab::Host;
use streamvs_support::{Family, figure};

use super::{built, service, start, wait_for_port};
use crate::scene::{Scene, engines, needs_node};

const PORT: u16 = 8080;

/// How long h2spec waits for what it expects, in seconds. A few cases wait for all of it, and all
/// others could fail of a busy machine below it.
const TIMEOUT: &str = "4";

/// Cases of the suite with its strict ones, and how many of them the server must pass directly: so
/// that a suite or a server that does not work is not taken for agreement.
const CASES: usize = 146;
const DIRECT: usize = 135;

/// Cases that the server passes and the agent before it does not: engine, case, and what a proxy
/// must do itself that makes it so.
const DIFFERENCES: &[(&str, &str, &str)] = &[];

/// Whether each case passed, by its name in h2spec: `http2/6.5.3/1 Sends multiple values ...`.
type Verdicts = BTreeMap<String, bool>;

#[test]
fn every_case_passed_directly_passes_through_the_agent() {
    needs_node!();
    let (suite, server) = (built("h2spec"), built("h2c"));
    for engine in engines() {
        let scene = Scene::new();
        let pod = scene.lab.pod("a");
        let mut command = pod.command(&server);
        command.args(["-listen", &format!("0.0.0.0:{PORT}")]);
        let _server = start(&scene, pod, "h2c", command);
        wait_for_port(pod, PORT);
        let service = service(&scene, PORT, &["a"]);
        let agent = scene.agent(&["--http2-engine", &engine]);
        let through = SocketAddr::new(service.ip(Family::V4), PORT);
        let (client, folder) = (scene.client(), scene.folder.path());
        let (direct, through) = thread::scope(|scope| {
            let direct = scope
                .spawn(|| judge(&suite, client, pod.at(Family::V4, PORT), &folder.join("direct")));
            let through = judge(&suite, client, through, &folder.join("through"));
            (direct.join().expect("h2spec ran at the server"), through)
        });
        let http2 = agent.metric("streamvs_connections_total", &[("protocol", "http2")]);
        assert!(http2.unwrap_or(0.0) > 100.0, "the cases came as HTTP/2: {http2:?}");
        compare(&engine, &direct, &through);
    }
}

/// Runs the whole suite, strict cases too, against one address.
fn judge(suite: &Path, client: &Host, server: SocketAddr, report: &Path) -> Verdicts {
    let output = client
        .command(suite)
        .args(["--strict", "--timeout", TIMEOUT, "--junit-report"])
        .arg(report)
        .args(["--host", &server.ip().to_string(), "--port", &server.port().to_string()])
        .output()
        .expect("h2spec starts");
    // It ends with 1 when a case fails; what counts is the report.
    let report = std::fs::read_to_string(report).unwrap_or_else(|error| {
        panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stderr))
    });
    verdicts(&report)
}

/// Reads a JUnit report as h2spec writes it.
fn verdicts(report: &str) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let mut last = (String::new(), 0);
    for case in report.split("<testcase ").skip(1) {
        let attribute = |name: &str| {
            let from = case.find(&format!("{name}=\""))? + name.len() + 2;
            case[from..].split('"').next()
        };
        let section = attribute("package").expect("a case has a section");
        let title = attribute("classname").expect("a case has a title");
        last = if last.0 == section { (last.0, last.1 + 1) } else { (section.to_owned(), 1) };
        let failed = ["<failure", "<error", "<skipped"].iter().any(|end| case.contains(end));
        verdicts.insert(format!("{section}/{} {title}", last.1), !failed);
    }
    verdicts
}

#[track_caller]
fn compare(engine: &str, direct: &Verdicts, through: &Verdicts) {
    let passed = |verdicts: &Verdicts| verdicts.values().filter(|passed| **passed).count();
    figure::report(&format!(
        "h2spec, cases passed of {CASES}: direct {}, through {engine} {}",
        passed(direct),
        passed(through)
    ));
    assert_eq!((direct.len(), through.len()), (CASES, CASES));
    assert!(passed(direct) >= DIRECT, "the server fails directly: {direct:#?}");
    let found: Vec<&str> = direct
        .iter()
        .filter(|(case, passed)| **passed && !through[*case])
        .map(|(case, _)| case.as_str())
        .collect();
    let known: Vec<&str> =
        DIFFERENCES.iter().filter(|(with, ..)| *with == engine).map(|(_, case, _)| *case).collect();
    assert_eq!(found, known, "{engine}");
}

#[test]
fn a_report_is_read_by_section_and_number() {
    let report = r#"<testsuites><testsuite name="x">
        <testcase package="http2/4.2" classname="One" time="0"></testcase>
        <testcase package="http2/4.2" classname="Two" time="0"><failure>no</failure></testcase>
        <testcase package="http2/4.3" classname="Three" time="0"></testcase>
        </testsuite></testsuites>"#;
    let wanted =
        [("http2/4.2/1 One", true), ("http2/4.2/2 Two", false), ("http2/4.3/1 Three", true)];
    let found = verdicts(report);
    assert!(found.iter().map(|(case, passed)| (case.as_str(), *passed)).eq(wanted), "{found:?}");
}
