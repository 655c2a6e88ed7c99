//! The node under test: a lab with a control plane, an agent that is replaced again and again, and
//! pods whose processes come and go.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use streamvs_support::Family;
use streamvs_support::agent::{Agent, Source};
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service, node};
use streamvs_support::process::Process;
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_test_kube::Cluster;
use tempfile::TempDir;

use crate::clock::Clock;
use crate::damage::By;
use crate::endpoint::{GRPC_PORT, TCP_PORT, UDP_PORT};
use crate::judge::Span;
use crate::load::Targets;
use crate::records::Incarnation;
use crate::schedule::PODS;

/// The port of every Service.
const SERVICE_PORT: u16 = 80;

/// Where the node's pods have their addresses from.
const POD_CIDRS: &str = "10.244.1.0/24,fd00:10:244:1::/64";

/// How long an agent may be off the processor before new connections pass it by. A killed one is
/// passed by at once, by its table's end. Longer than the default, so that connections are refused
/// by nobody but a dead agent also where this machine does other things.
const LEASE: &str = "5s";

/// How long a change may take to be in force, and a process to start or end. Not a measure.
const LONG: Duration = Duration::from_secs(90);

/// From a change of the table to the end of what was on its way, and what a pod waits between one
/// word to its clients and the next.
const SETTLES: Duration = Duration::from_secs(1);

/// What a datagram may take.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// What an agent logs when one of its tasks has panicked.
const BROKEN_INVARIANT: &str = "a task failed on a broken invariant";

/// How the agents are started.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) by: By,
    pub(crate) engine: &'static str,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--capture {} --http2-engine {}", self.by.flag(), self.engine)
    }
}

/// A process that serves in a pod.
#[derive(Debug)]
struct Serving {
    who: Incarnation,
    process: Process,
    terminating: bool,
}

/// Everything that runs.
pub(crate) struct Node {
    // In the order of their ends.
    pub(crate) agent: Agent,
    serving: BTreeMap<char, Serving>,
    pub(crate) cluster: Cluster,
    pub(crate) lab: Lab,
    folder: TempDir,
    setting: Setting,
    services: [Service; 3],
    agents: u32,
    incarnations: BTreeMap<char, u16>,
    written: SystemTime,
    ports: u16,
}

impl Node {
    /// Builds it, with these pods serving, and waits until the agent captures.
    pub(crate) fn start(first: &[char], setting: Setting) -> Self {
        let names = PODS.map(String::from);
        let names = names.iter().map(String::as_str);
        let lab = Lab::builder().control().pod("client").pods(names).build();
        // A way out, as most nodes have one.
        lab.node().netns().ip("route add default via 172.18.0.50\n");
        let cluster = Cluster::start(&lab);
        cluster.apply(&[node("node", "zone-a")]);
        let services = [
            Service::new("echo", &[Family::V4], 10).port("grpc", SERVICE_PORT, GRPC_PORT),
            Service::new("plain", &[Family::V4], 11).port("tcp", SERVICE_PORT, TCP_PORT),
            Service::new("asked", &[Family::V4], 12)
                .port("udp", SERVICE_PORT, UDP_PORT)
                .protocol("UDP"),
        ];
        cluster.apply(&services.each_ref().map(Service::object));
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join("records")).expect("a folder can be made");
        let agent = spawn_agent(&lab, &cluster, &folder, &setting, 1);
        let mut node = Self {
            agent,
            serving: BTreeMap::new(),
            cluster,
            lab,
            folder,
            setting,
            services,
            agents: 1,
            incarnations: BTreeMap::new(),
            written: SystemTime::UNIX_EPOCH,
            ports: 0,
        };
        for pod in first {
            node.start_endpoint(*pod);
        }
        node.write_slices();
        node.wait_until_healthy();
        node.wait_until_used();
        node
    }

    /// Where clients find the Services.
    pub(crate) fn targets(&self) -> Targets {
        let [grpc, tcp, udp] =
            self.services.each_ref().map(|service| (service.ip(Family::V4), SERVICE_PORT).into());
        Targets { grpc, tcp, udp }
    }

    /// All pods, the client's first.
    pub(crate) fn pods(&self) -> Vec<Host> {
        let names = PODS.map(String::from);
        let names = ["client"].into_iter().chain(names.iter().map(String::as_str));
        names.map(|name| self.lab.pod(name).clone()).collect()
    }

    /// A folder that goes with the node.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends everything but what was written. Returns where that is.
    pub(crate) fn keep(self) -> PathBuf {
        self.folder.keep()
    }

    pub(crate) fn by(&self) -> By {
        self.setting.by
    }

    /// What every process that served has recorded.
    pub(crate) fn records(&self) -> Vec<(Incarnation, PathBuf)> {
        let counts = self.incarnations.iter();
        let all = counts
            .flat_map(|(pod, last)| (1..=*last).map(|count| Incarnation { pod: *pod, count }));
        all.map(|who| (who, self.records_of(who))).collect()
    }

    fn records_of(&self, who: Incarnation) -> PathBuf {
        self.folder.path().join("records").join(who.to_string())
    }

    /// Starts a process in a pod and waits until it serves.
    pub(crate) fn start_endpoint(&mut self, pod: char) {
        let count = self.incarnations.entry(pod).or_insert(0);
        *count += 1;
        let who = Incarnation { pod, count: *count };
        let host = self.lab.pod(&pod.to_string());
        let program = std::env::current_exe().expect("this program is a file");
        let mut command = host.command(program);
        command.args(["endpoint", "--name", &who.to_string()]);
        command.args(["--ip", &host.ip(Family::V4).to_string(), "--records"]);
        command.arg(self.records_of(who));
        let mut process = Process::start(command, &self.folder.path().join(format!("{who}.log")));
        eventually(&format!("{who} serves"), LONG, || {
            assert!(process.ended().is_none(), "{who}: {}", process.log());
            process.log().contains("serving")
        });
        self.serving.insert(pod, Serving { who, process, terminating: false });
    }

    /// Kills a pod's process and waits for its end.
    pub(crate) fn kill_endpoint(&mut self, pod: char) -> Incarnation {
        let mut serving = self.serving.remove(&pod).expect("the pod serves");
        serving.process.signal(Signal::SIGKILL);
        serving.process.wait(LONG);
        serving.who
    }

    /// Ends a pod's process as a kubelet does: nobody is sent there any more, it is asked to end,
    /// it is gone. Returns the time in which the kernel forgot its flows.
    ///
    /// # Errors
    /// In words, when it does not end with all its connections.
    pub(crate) fn drain_endpoint(
        &mut self,
        pod: char,
        clock: Clock,
    ) -> Result<(Incarnation, Span), String> {
        self.serving.get_mut(&pod).expect("the pod serves").terminating = true;
        self.write_slices();
        self.wait_until_used();
        std::thread::sleep(SETTLES);
        let mut serving = self.serving.remove(&pod).expect("the pod serves");
        serving.process.signal(Signal::SIGTERM);
        std::thread::sleep(SETTLES);
        let from = clock.now();
        self.write_slices();
        self.wait_until_without_flows(pod);
        let span = Span { from, until: clock.now() };
        serving.process.signal(Signal::SIGUSR1);
        let status = serving.process.wait(LONG);
        if status.success() {
            return Ok((serving.who, span));
        }
        Err(format!("{} did not end as asked, {status}: {}", serving.who, serving.process.log()))
    }

    /// Tells the API server who serves.
    pub(crate) fn write_slices(&mut self) {
        let endpoints: Vec<Endpoint> = self
            .serving
            .iter()
            .map(|(pod, serving)| {
                let ready = Endpoint::ready(self.lab.pod(&pod.to_string()), Family::V4);
                if serving.terminating { ready.terminating(true) } else { ready }
            })
            .collect();
        for service in &self.services {
            self.cluster.apply(&service.slices(&endpoints));
        }
        self.written = SystemTime::now();
    }

    /// Waits until the agent uses who serves, and nobody else, and so does the kernel.
    pub(crate) fn wait_until_used(&self) {
        for (service, port) in [("echo", GRPC_PORT), ("plain", TCP_PORT), ("asked", UDP_PORT)] {
            let ready = self.serving.iter().filter(|(_, serving)| !serving.terminating);
            let wanted = ready.map(|(pod, _)| self.lab.pod(&pod.to_string()).at(Family::V4, port));
            let wanted: Vec<_> = wanted.collect();
            eventually_equals("the endpoints in use", LONG, &wanted, || {
                std::thread::sleep(Duration::from_millis(50));
                self.agent.usable(service)
            });
        }
    }

    /// Waits until the kernel sends no datagram to a pod any more: its maps do not have it, and no
    /// flow leads there.
    pub(crate) fn wait_until_without_flows(&self, pod: char) {
        let node = self.lab.node();
        let address = self.lab.pod(&pod.to_string()).ip(Family::V4).to_string();
        let service = self.targets().udp.ip().to_string();
        let names = |text: &str| {
            let mut words = text.split(|letter: char| letter != '.' && !letter.is_ascii_digit());
            words.any(|word| word == address)
        };
        eventually(&format!("no datagram goes to {pod}"), LONG, || {
            std::thread::sleep(Duration::from_millis(50));
            let maps = node.output("nft", &["list", "table", "ip", "streamvs-nat"]);
            let flows = node.output("conntrack", &["-L", "-p", "udp", "-d", &service]);
            !names(&maps) && !names(&flows)
        });
        std::thread::sleep(ON_ITS_WAY);
    }

    /// Has clients take other ports from now on than for the last few agents. For ten seconds after
    /// a reset the kernel sends a connection from the same port where that one went: to an agent
    /// that is dead (see the surprises in docs/architecture.md).
    pub(crate) fn change_client_ports(&mut self) {
        const RANGES: u16 = 8;
        const PORTS: u16 = 6_800;
        self.ports = (self.ports + 1) % RANGES;
        let first = 10_000 + self.ports * PORTS;
        let range = format!("{first} {}", first + PORTS - 1);
        self.lab.pod("client").sysctl("net.ipv4.ip_local_port_range", &range);
    }

    /// Starts the next agent, without waiting. Returns the one before.
    pub(crate) fn next_agent(&mut self) -> Agent {
        self.agents += 1;
        let next = spawn_agent(&self.lab, &self.cluster, &self.folder, &self.setting, self.agents);
        std::mem::replace(&mut self.agent, next)
    }

    /// Waits until the agent that was started last captures.
    pub(crate) fn wait_until_healthy(&mut self) {
        eventually("the agent captures", LONG, || {
            if let Some(status) = self.agent.ended() {
                panic!("the agent ended with {status}:\n{}", self.agent.log());
            }
            self.agent.log().contains("capture rules installed")
        });
    }

    /// Ends the last agent as an operator would.
    ///
    /// # Errors
    /// In words, when it does not end well, or when any agent has met what it believes impossible.
    pub(crate) fn stop_agent(&mut self) -> Result<(), String> {
        let status = self.agent.stop(LONG);
        if !status.success() {
            return Err(format!("the agent ended with {status}:\n{}", tail(&self.agent.log())));
        }
        for number in 1..=self.agents {
            let log = self.folder.path().join(format!("agent-{number}/streamvs.log"));
            let log = std::fs::read_to_string(log).expect("an agent has a log");
            if let Some(line) = log.lines().find(|line| line.contains(BROKEN_INVARIANT)) {
                return Err(format!("agent {number}: {line}"));
            }
        }
        Ok(())
    }

    /// Waits until what was last written would survive the API server.
    pub(crate) fn wait_until_kept(&self) {
        let state = self.folder.path().join("streamvs.state");
        eventually("the last table is in the state file", LONG, || {
            let changed = state.metadata().and_then(|file| file.modified());
            changed.is_ok_and(|changed| changed > self.written)
        });
    }
}

/// Waits for the end of an agent that another one has taken over from.
///
/// # Errors
/// In words, when it ends otherwise.
pub(crate) fn wait_for_handover(mut agent: Agent) -> Result<(), String> {
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = agent.ended() {
            break status;
        }
        if start.elapsed() > LONG {
            return Err(format!("it did not hand over:\n{}", tail(&agent.log())));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    if status.success() && agent.log().contains("handed over") {
        return Ok(());
    }
    Err(format!("it ended with {status} instead of handing over:\n{}", tail(&agent.log())))
}

/// The last lines of a log.
pub(crate) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn spawn_agent(
    lab: &Lab,
    cluster: &Cluster,
    folder: &TempDir,
    setting: &Setting,
    number: u32,
) -> Agent {
    let own = folder.path().join(format!("agent-{number}"));
    std::fs::create_dir(&own).expect("a folder can be made");
    let socket = folder.path().join("admin.sock");
    let state = folder.path().join("streamvs.state");
    let text = |path: &Path| path.to_str().expect("the path is text").to_owned();
    let (socket, state) = (text(&socket), text(&state));
    let kubeconfig = cluster.admin_kubeconfig();
    let flags = [
        "--kube-proxy-replacement",
        "--capture",
        setting.by.flag(),
        "--http2-engine",
        setting.engine,
        "--iptables-sync-period",
        "1s",
        "--dead-man-timeout",
        LEASE,
        "--pod-cidrs",
        POD_CIDRS,
        "--admin-socket",
        &socket,
        "--state-file",
        &state,
        "-v",
        "debug",
    ];
    Agent::spawn_from(lab.node(), &own, Source::Kubeconfig(&kubeconfig), &flags)
}
