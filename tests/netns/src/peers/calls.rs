//! grpc-go as a client that never tries again, and an account of every call by its number: what the
//! client says became of it, and who wrote down that it came.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_support::wait::eventually;

use super::{PATIENCE, built, start, wait_for_port};
use crate::scene::{GRPC_PORT, Scene};

/// Calls under way, at a steady rate over four connections.
pub(super) struct Caller {
    process: Process,
}

/// What a caller says at its end.
pub(super) struct Told {
    pub(super) calls: u64,
    /// Calls in a second, as it kept them.
    pub(super) rate: f64,
    /// Times that grpc-go has tried a call again, which nothing can forbid where the call is proved
    /// not to have been looked at.
    pub(super) again: u64,
    pub(super) failed: BTreeMap<u64, Failure>,
}

/// How a call failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: String,
    pub(super) message: String,
}

impl Caller {
    /// So many calls in a second from the client pod.
    pub(super) fn start(scene: &Scene, target: SocketAddr, rate: u32) -> Self {
        let client = scene.client();
        let mut command = client.command(built("caller"));
        command.args(["-target", &target.to_string(), "-rate", &rate.to_string()]);
        Self { process: start(scene, client, "caller", command) }
    }

    /// Waits until this many more have ended.
    #[track_caller]
    pub(super) fn advance(&self, calls: u64) {
        let goal = self.ended() + calls;
        eventually("the caller goes on", PATIENCE, || self.ended() >= goal);
    }

    fn ended(&self) -> u64 {
        self.lines().iter().rev().find_map(|line| line["ended"].as_u64()).unwrap_or(0)
    }

    /// All that it has said; a line that is being written counts when it is whole.
    fn lines(&self) -> Vec<Value> {
        let log = self.process.log();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Lets the open calls end.
    #[track_caller]
    pub(super) fn stop(mut self) -> Told {
        self.process.signal(Signal::SIGTERM);
        let status = self.process.wait(PATIENCE);
        assert!(status.success(), "{}", self.process.log());
        let lines = self.lines();
        let last = lines.last().expect("it says how it went");
        let count = |name: &str| last[name].as_u64().expect("a count");
        let failed: BTreeMap<u64, Failure> = lines
            .iter()
            .filter_map(|line| {
                let text = |name: &str| line[name].as_str().map(str::to_owned);
                let failure = Failure { code: text("code")?, message: text("message")? };
                Some((line["id"].as_u64()?, failure))
            })
            .collect();
        assert_eq!(failed.len() as u64, count("failed"));
        let calls = count("calls");
        let rate = calls as f64 / last["seconds"].as_f64().expect("a time");
        Told { calls, rate, again: count("again"), failed }
    }
}

/// A server of the calls, which writes down each that it acts on before it answers.
pub(super) struct Server<'a> {
    pub(super) host: &'a Host,
    pub(super) process: Process,
    pub(super) records: PathBuf,
}

impl<'a> Server<'a> {
    /// On grpc-go.
    #[track_caller]
    pub(super) fn start(scene: &'a Scene, pod: &str, incarnation: usize) -> Self {
        Self::of(scene, "endpoint", pod, incarnation, &[])
    }

    /// One that is at fault.
    #[track_caller]
    pub(super) fn faulty(scene: &'a Scene, pod: &str, fault: &str) -> Self {
        Self::of(scene, "faulty", pod, 0, &["-fault", fault])
    }

    #[track_caller]
    fn of(
        scene: &'a Scene,
        program: &str,
        pod: &str,
        incarnation: usize,
        arguments: &[&str],
    ) -> Self {
        let host = scene.lab.pod(pod);
        let records = scene.folder.path().join(format!("records-{pod}-{incarnation}"));
        let mut command = host.command(built(program));
        command.args(["-name", pod, "-listen", &host.at(Family::V4, GRPC_PORT).to_string()]);
        command.arg("-record").arg(&records).args(arguments);
        let process = start(scene, host, &format!("{program}-{incarnation}"), command);
        wait_for_port(host, GRPC_PORT);
        Self { host, process, records }
    }

    /// Calls that it has acted on.
    pub(super) fn acted_on(&self) -> Vec<u64> {
        read(&self.records)
    }
}

/// A line that a killed writer had begun is none of a call that it had acted on.
fn read(records: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(records).expect("an endpoint makes its records");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| line.parse().expect("a number a line")).collect()
}

/// Who acted on each call, by the files of their records. Demands that nobody acted on a call that
/// another one, or the same one, had acted on; and that all calls which succeeded were acted on.
#[track_caller]
pub(super) fn account(told: &Told, records: &[PathBuf]) -> BTreeMap<u64, PathBuf> {
    let mut by = BTreeMap::new();
    for file in records {
        for id in read(file) {
            if let Some(other) = by.insert(id, file.clone()) {
                panic!("call {id} acted on twice: {} and {}", other.display(), file.display());
            }
        }
    }
    for id in 1..=told.calls {
        let acted_on = by.contains_key(&id);
        assert!(acted_on || told.failed.contains_key(&id), "call {id} succeeded at nobody");
    }
    by
}
