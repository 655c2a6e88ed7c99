//! The process under test: `streamvs run` inside a node's namespace.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::http;
use crate::lab::Host;
use crate::manifest::Manifests;
use crate::process::Process;
use crate::wait::eventually_some;

/// How long a start, a stop or a command of the agent may take. Far above what it takes, even
/// when this machine builds something beside it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where health is served unless told otherwise.
pub const HEALTH_PORT: u16 = 10256;

/// Where metrics are served unless told otherwise.
pub const METRICS_PORT: u16 = 10249;

/// The port captured connections are redirected to unless told otherwise.
pub const LISTEN_PORT: u16 = 15001;

/// How long the agent may be off the processor before its gate shuts, unless told otherwise.
/// Longer than any test: most have nobody behind the agent, and this machine does other things too.
const LEASE: &str = "600s";

/// Where an agent knows Services from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// A folder of files.
    Manifests(&'a Manifests),
    /// The API server that a kubeconfig file names. The state file is in the agent's folder.
    Kubeconfig(&'a Path),
    /// The API server that flags, or files and variables of a pod, name. The state file is in the
    /// agent's folder.
    Surroundings,
}

/// A running agent. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    node: Host,
    socket: PathBuf,
}

/// The program: `STREAMVS_BIN`, else the newer one of the `fast` and the `dev` profile.
///
/// # Panics
/// When there is none.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("STREAMVS_BIN") {
        return PathBuf::from(path);
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let built = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).ok();
    ["fast", "debug"]
        .map(|profile| target.join(profile).join("streamvs"))
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(|path| built(path).unwrap_or(SystemTime::UNIX_EPOCH))
        .expect("streamvs is built (cargo build -p streamvs-node), or STREAMVS_BIN names it")
}

impl Agent {
    /// Starts it on `node` and waits until it is healthy and captures.
    ///
    /// `folder` takes its log and its admin socket; two agents in one lab need two folders.
    ///
    /// # Panics
    /// When it ends, or is not healthy in time: with its log.
    #[track_caller]
    pub fn start(node: &Host, folder: &Path, manifests: &Manifests, flags: &[&str]) -> Self {
        let agent = Self::spawn(node, folder, manifests, flags);
        agent.wait_until_healthy()
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn spawn(node: &Host, folder: &Path, manifests: &Manifests, flags: &[&str]) -> Self {
        Self::spawn_from(node, folder, Source::Manifests(manifests), flags)
    }

    /// Starts it without waiting, with what it knows from any source.
    #[track_caller]
    pub fn spawn_from(node: &Host, folder: &Path, source: Source<'_>, flags: &[&str]) -> Self {
        Self::spawn_by(node.command(program()), node, folder, source, flags)
    }

    /// The same by a command that becomes the program, such as `setpriv ... streamvs`.
    #[track_caller]
    pub fn spawn_by(
        mut command: Command,
        node: &Host,
        folder: &Path,
        source: Source<'_>,
        flags: &[&str],
    ) -> Self {
        let named = flags.iter().skip_while(|flag| **flag != "--admin-socket").nth(1);
        let socket = named.map_or_else(|| folder.join("admin.sock"), PathBuf::from);
        command.args(["run", "--hostname-override", "node"]);
        match source {
            Source::Manifests(manifests) => command.arg("--manifests").arg(manifests.folder()),
            Source::Kubeconfig(file) => command.arg("--kubeconfig").arg(file),
            Source::Surroundings => &mut command,
        };
        if !matches!(source, Source::Manifests(_)) {
            command.arg("--state-file").arg(folder.join("streamvs.state"));
        }
        if !flags.contains(&"--dead-man-timeout") {
            command.args(["--dead-man-timeout", LEASE]);
        }
        command.arg("--admin-socket").arg(&socket).args(flags).env("RUST_BACKTRACE", "1");
        let process = Process::start(command, &folder.join("streamvs.log"));
        Self { process, node: node.clone(), socket }
    }

    /// Waits until `/healthz` says 200 and the rules of a first table are in the kernel.
    ///
    /// # Panics
    /// When it ends instead, or in [`PATIENCE`] does not: with its log.
    #[track_caller]
    pub fn wait_until_healthy(mut self) -> Self {
        eventually_some("streamvs is healthy", PATIENCE, || {
            if let Some(status) = self.process.ended() {
                panic!("streamvs ended with {status}:\n{}", self.process.log());
            }
            self.page(HEALTH_PORT, "/healthz").ok().filter(|answer| answer.status == 200)?;
            // As with kube-proxy start-up is healthy, but nothing is captured before this.
            let page = self.page(METRICS_PORT, "/metrics").ok()?;
            sum_of(&page.body, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", &[])
        });
        self
    }

    /// A page of one of its HTTP ports on the node's loopback.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn page(&self, port: u16, path: &str) -> std::io::Result<http::Answer> {
        http::get(&self.node, SocketAddr::from(([127, 0, 0, 1], port)), path)
    }

    /// The sum of a metric over all series that carry these labels; none where there is no such
    /// series.
    ///
    /// # Panics
    /// When the page is not served.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let page = self.page(METRICS_PORT, "/metrics").expect("metrics are served");
        sum_of(&page.body, name, labels)
    }

    /// What `streamvs list -o json` says.
    ///
    /// # Panics
    /// When it fails or says something else than a JSON array.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        let output = self.command(&["list", "-o", "json"]);
        assert!(
            output.status.success(),
            "streamvs list: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).expect("list -o json gives a JSON array")
    }

    /// Runs another command of the program against this agent.
    ///
    /// # Panics
    /// When it does not start.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = self.node.command(program());
        command.args(arguments).arg("--admin-socket").arg(&self.socket);
        command.output().expect("streamvs starts")
    }

    /// The endpoints `list` shows for a Service's first port, by address and port.
    #[track_caller]
    pub fn endpoints(&self, service: &str) -> BTreeMap<SocketAddr, Value> {
        let ports = self.list();
        ports.iter().find(|port| port["name"] == service).map(listed_endpoints).unwrap_or_default()
    }

    /// The endpoints of a Service that `list` calls usable.
    #[track_caller]
    pub fn usable(&self, service: &str) -> Vec<SocketAddr> {
        self.endpoints(service)
            .into_iter()
            .filter(|(_, endpoint)| endpoint["usable"] == true)
            .map(|(address, _)| address)
            .collect()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Memory it holds now, without what is swapped out.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident_bytes(&self) -> u64 {
        self.process.resident_bytes()
    }

    /// How many descriptors it has open.
    ///
    /// # Panics
    /// When it has ended.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.id());
        std::fs::read_dir(folder).expect("a running process has descriptors").count()
    }

    /// Its admin socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to stop, without waiting.
    pub fn terminate(&self) {
        self.process.signal(Signal::SIGTERM);
    }

    /// Its exit status, once it has one.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    /// When it still runs after `deadline`.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(deadline)
    }

    /// Kills it as a crash would, and waits for its end.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait(PATIENCE);
    }
}

/// The endpoints of one entry of `list -o json`, by address.
fn listed_endpoints(port: &Value) -> BTreeMap<SocketAddr, Value> {
    let endpoints = port["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints
        .into_iter()
        .filter_map(|endpoint| {
            let ip = endpoint["address"].as_str()?.parse().ok()?;
            let number = u16::try_from(endpoint["port"].as_u64()?).ok()?;
            Some((SocketAddr::new(ip, number), endpoint))
        })
        .collect()
}

/// Adds up the series of a metric in the text format that carry all these labels.
fn sum_of(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut sum = None;
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let (found, set) = series.split_once('{').unwrap_or((series, ""));
        let carries = |(key, value): &(&str, &str)| set.contains(&format!("{key}=\"{value}\""));
        if found == name && labels.iter().all(carries) {
            *sum.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(f64::NAN);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_series_that_match() {
        let page =
            "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\nab 9\nb 1\n";
        assert_eq!(sum_of(page, "a_total", &[("x", "1")]), Some(7.0));
        assert_eq!(sum_of(page, "a_total", &[("y", "3")]), Some(4.0));
        assert_eq!(sum_of(page, "a_total", &[("x", "2")]), None);
        assert_eq!(sum_of(page, "b", &[]), Some(1.0));
    }

    #[test]
    fn listed_endpoints_are_found_by_address() {
        let port = serde_json::json!({
            "endpoints": [{ "address": "2001:db8::1", "port": 9000, "usable": true }]
        });
        let endpoints = listed_endpoints(&port);
        assert_eq!(endpoints.keys().next(), Some(&"[2001:db8::1]:9000".parse().unwrap()));
    }
}
