//! The gRPC rows with programs nobody here wrote: ghz as the client, grpc-go as the endpoints.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_support::wait::{eventually, eventually_some};
use tempfile::TempDir;

use crate::table::Row;

/// How long an endpoint may take to start or to tell its count.
const PATIENCE: Duration = Duration::from_secs(10);

/// grpc-go endpoints, one in each pod, and where ghz is.
#[derive(Debug)]
pub(crate) struct Ghz {
    program: PathBuf,
    endpoints: Vec<Process>,
    /// Held for its drop: the logs.
    _folder: TempDir,
}

impl Ghz {
    /// Starts an endpoint in each pod.
    pub(crate) fn start<'a>(peers: &Path, pods: impl Iterator<Item = &'a Host>, port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let endpoints: Vec<Process> = pods
            .map(|pod| {
                let mut command = pod.command(peers.join("endpoint"));
                command.args(["-name", pod.name()]);
                command.args(["-listen", &pod.at(Family::V4, port).to_string()]);
                Process::start(command, &folder.path().join(pod.name()))
            })
            .collect();
        for endpoint in &endpoints {
            eventually("a grpc-go endpoint serves", PATIENCE, || {
                endpoint.log().contains("serving on")
            });
        }
        Self { program: peers.join("ghz"), endpoints, _folder: folder }
    }

    /// Sends the calls and asks each endpoint how many came.
    pub(crate) fn row(
        &self,
        what: String,
        client: &Host,
        address: SocketAddr,
        connections: usize,
        calls: u64,
    ) -> Row {
        let before = self.counts();
        let report = client.output(
            &self.program.to_string_lossy(),
            &[
                "--insecure",
                "--call=grpc.testing.TestService/EmptyCall",
                &format!("--connections={connections}"),
                &format!("--concurrency={}", connections * 10),
                &format!("--total={calls}"),
                "--format=json",
                &address.to_string(),
            ],
        );
        let answers = self.counts().iter().zip(before).map(|(now, before)| now - before).collect();
        let report: Value = serde_json::from_str(&report).expect("ghz reports in JSON");
        let good = report["statusCodeDistribution"]["OK"].as_u64().unwrap_or(0);
        Row { what, answers, failed: calls - good, median: median(&report) }
    }

    fn counts(&self) -> Vec<u64> {
        self.endpoints.iter().map(count).collect()
    }
}

/// Asks one endpoint how many calls it has had.
fn count(endpoint: &Process) -> u64 {
    let told = |log: &str| log.lines().filter(|line| line.starts_with("calls ")).count();
    let before = told(&endpoint.log());
    endpoint.signal(Signal::SIGUSR1);
    eventually_some("an endpoint tells its count", PATIENCE, || {
        let log = endpoint.log();
        let line = log.lines().rev().find_map(|line| line.strip_prefix("calls "))?;
        (told(&log) > before).then(|| line.parse().ok()).flatten()
    })
}

fn median(report: &Value) -> Duration {
    let latencies = report["latencyDistribution"].as_array();
    let nanoseconds = latencies
        .into_iter()
        .flatten()
        .find(|entry| entry["percentage"] == 50)
        .and_then(|entry| entry["latency"].as_u64());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
