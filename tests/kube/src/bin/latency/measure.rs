//! One row of the table: a proxy among so many Services.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Service, node};
use streamvs_support::process::Process;
use streamvs_support::{Family, grpc};
use streamvs_test_kube::Cluster;
use tempfile::TempDir;

use crate::fill::fill;
use crate::observer::observe;
use crate::probe::Probe;
use crate::proxy::Kind;
use crate::table::{Latency, Quantiles, Row};

/// What the Service under test listens on, and its endpoints.
const PORTS: (u16, u16) = (80, 9000);

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a process is watched to see whether it has anything to do.
const QUIET: Duration = Duration::from_secs(3);

/// How many changes the processor time of one is the mean of: enough to have a saved state in it.
const QUIET_ROUNDS: usize = 20;

/// When a change was written, when a watcher had it, and when it was first used.
type Moments = (Instant, Instant, Instant);

/// What is done to each proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changes {
    pub(crate) rounds: usize,
    /// Before each.
    pub(crate) pause: Duration,
    /// For the first call.
    pub(crate) start_limit: Duration,
}

/// A cluster and a node, on which proxies are measured one after the other.
pub(crate) struct Bench {
    cluster: Cluster,
    lab: Lab,
    folder: TempDir,
    kubeconfig: PathBuf,
    service: Service,
    _endpoints: [grpc::Endpoint; 2],
    services: usize,
    endpoints: usize,
}

impl Bench {
    /// Starts a control plane with that many Services.
    pub(crate) fn start(services: usize, endpoints: usize) -> Self {
        let lab = Lab::builder().control().pods(["client", "a", "b"]).build();
        lab.node().netns().ip("route add default via 172.18.0.50\n");
        let cluster = Cluster::start(&lab);
        let (port, target) = PORTS;
        let service = Service::new("probe", &[Family::V4], 10).port("grpc", port, target);
        cluster.apply(&[node("node", "zone-a"), service.object()]);
        cluster.set_node_addresses("node", &[lab.node().ip(Family::V4)]);
        let start = Instant::now();
        fill(&cluster, services, endpoints);
        eprintln!("{services} Services written in {:?}", start.elapsed());
        Self {
            _endpoints: ["a", "b"]
                .map(|pod| grpc::Endpoint::start(lab.pod(pod), Family::V4, target)),
            kubeconfig: cluster.admin_kubeconfig(),
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
            cluster,
            lab,
            service,
            services,
            endpoints,
        }
    }

    /// Measures one proxy.
    ///
    /// # Panics
    /// When it ends.
    pub(crate) fn measure(&self, kind: Kind, changes: &Changes) -> Row {
        let node = self.lab.node();
        self.write("a");
        let started = Instant::now();
        let mut process = kind.start(node, &self.kubeconfig, self.folder.path());
        let target = SocketAddr::new(self.service.ip(Family::V4), PORTS.0);
        let probe = Probe::start(self.lab.pod("client"), target, kind.by_connection());
        let first = probe.changes.recv_timeout(changes.start_limit);
        // Calls would be processor time too.
        probe.stop();
        assert_eq!(process.ended(), None, "{kind}:\n{}", process.log());
        let (start, latency, start_cpu, per_change);
        if let Ok((_, at)) = first {
            start = Some(at - started);
            start_cpu = settle(&process);
            latency = self.latency(kind, changes);
            per_change = latency.is_ok().then(|| self.per_change(&process, changes));
        } else {
            start = None;
            start_cpu = process.processor_time();
            latency = Err(format!("no call within {} s", changes.start_limit.as_secs()));
            per_change = None;
        }
        let resident = process.resident_bytes();
        Kind::sweep(process, node);
        Row {
            services: self.services,
            endpoints: self.services * self.endpoints,
            kind,
            start,
            latency,
            start_cpu,
            per_change,
            resident,
        }
    }

    /// Changes the endpoint under calls. Or says what did not come in time.
    fn latency(&self, kind: Kind, changes: &Changes) -> Result<Latency, String> {
        let observer = observe(self.lab.node(), self.kubeconfig.clone(), "probe-v4");
        observer.recv_timeout(PATIENCE).map_err(|_| "no slice".to_owned())?;
        let target = SocketAddr::new(self.service.ip(Family::V4), PORTS.0);
        let probe = Probe::start(self.lab.pod("client"), target, kind.by_connection());
        let late = |what| format!("{what} not within {} s", PATIENCE.as_secs());
        if probe.changes.recv_timeout(PATIENCE).is_err() {
            probe.stop();
            return Err(late("a first call".to_owned()));
        }
        let slices = ["b", "a"].map(|pod| (pod, self.slice(pod)));
        let Changes { rounds, pause, .. } = *changes;
        // One connection for all writes, as a controller has; it rests while this thread waits.
        let (probe, measured) = self.cluster.block_on(|api| async move {
            let mut measured: Vec<Moments> = Vec::new();
            for round in 0..rounds {
                std::thread::sleep(pause);
                let (pod, slice) = &slices[round % 2];
                let written = Instant::now();
                api.replace(slice).await.expect("the API server takes the change");
                let event = observer.recv_timeout(PATIENCE).expect("the change is an event");
                let Ok((who, call)) = probe.changes.recv_timeout(PATIENCE) else {
                    return (probe, Err(late(format!("change {round}"))));
                };
                assert_eq!(who, *pod, "change {round}");
                measured.push((written, event, call));
            }
            (probe, Ok(measured))
        });
        let failed = probe.failed();
        probe.stop();
        let measured = measured?;
        let quantiles = |between: &dyn Fn(Moments) -> Duration| {
            Quantiles::of(measured.iter().copied().map(between).collect())
        };
        Ok(Latency {
            to_event: quantiles(&|(written, event, _)| event - written),
            to_call: quantiles(&|(written, _, call)| call - written),
            event_to_call: quantiles(&|(_, event, call)| call.saturating_duration_since(event)),
            failed,
        })
    }

    /// The processor time of a change, without calls.
    fn per_change(&self, process: &Process, changes: &Changes) -> Duration {
        let before = settle(process);
        for round in 0..QUIET_ROUNDS {
            self.write(["b", "a"][round % 2]);
            std::thread::sleep(changes.pause);
        }
        (settle(process) - before) / QUIET_ROUNDS as u32
    }

    /// Makes a pod the only endpoint.
    fn write(&self, pod: &str) {
        self.cluster.apply(&[self.slice(pod)]);
    }

    fn slice(&self, pod: &str) -> Value {
        let endpoint = Endpoint::ready(self.lab.pod(pod), Family::V4);
        self.service.slices(&[endpoint]).remove(0)
    }
}

/// Waits until a process has nothing to do any more, and returns the processor time it has used.
fn settle(process: &Process) -> Duration {
    let start = Instant::now();
    let mut used = process.processor_time();
    loop {
        std::thread::sleep(QUIET);
        let now = process.processor_time();
        // It may look after itself meanwhile, with a hundredth of a core.
        if now - used <= QUIET / 100 || start.elapsed() > PATIENCE {
            return now;
        }
        used = now;
    }
}
