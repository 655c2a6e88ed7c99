//! One row of the table: a proxy among so many Services.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
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
use crate::table::{Measured, Quantiles, Row};

/// What the Service under test listens on, and its endpoints.
const PORTS: (u16, u16) = (80, 9000);

/// How long a start may take: writing the rules of 100,000 endpoints for the first time is long.
const START: Duration = Duration::from_secs(1200);

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long the processor time of changes without any calls is taken, for `rounds` changes.
const QUIET: Duration = Duration::from_secs(3);

/// When a change was written, when a watcher had it, and when it was first used.
type Moments = (Instant, Instant, Instant);

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
        // Without it kube-proxy asks for it for half a minute before it starts.
        let address = json!({ "type": "InternalIP", "address": lab.node().ip(Family::V4) });
        let patch = json!({ "status": { "addresses": [address] } }).to_string();
        let arguments = ["patch", "node", "node", "--subresource=status", "-p", &patch];
        cluster.kubectl(&arguments, "");
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
    /// When it ends, or serves and then does not see a change in time.
    pub(crate) fn measure(&self, kind: Kind, rounds: usize, pause: Duration) -> Row {
        let node = self.lab.node();
        self.write("a");
        let started = Instant::now();
        let mut process = kind.start(node, &self.kubeconfig, self.folder.path());
        let target = SocketAddr::new(self.service.ip(Family::V4), PORTS.0);
        let probe = Probe::start(self.lab.pod("client"), target, kind.by_connection());
        let first = probe.changes.recv_timeout(START);
        // Calls would be processor time too.
        probe.stop();
        assert_eq!(process.ended(), None, "{kind}:\n{}", process.log());
        let row = |start, measured| Row {
            services: self.services,
            endpoints: self.services * self.endpoints,
            kind,
            start,
            measured,
        };
        let Ok((_, at)) = first else {
            Kind::sweep(process, node);
            return row(START, None);
        };
        let start = at - started;
        let start_cpu = settle(&process);

        let observer = observe(node, self.kubeconfig.clone(), "probe-v4");
        observer.recv_timeout(PATIENCE).expect("the slice as it is");
        let probe = Probe::start(self.lab.pod("client"), target, kind.by_connection());
        probe.changes.recv_timeout(PATIENCE).expect("it serves as before");
        let slices = ["b", "a"].map(|pod| (pod, self.slice(pod)));
        // One connection for all writes, as a controller has; it rests while this thread waits.
        let (probe, measured) = self.cluster.block_on(|api| async move {
            let mut measured = Vec::new();
            for round in 0..rounds {
                std::thread::sleep(pause);
                let (pod, slice) = &slices[round % 2];
                let written = Instant::now();
                api.replace(slice).await.expect("the API server takes the change");
                let event = observer.recv_timeout(PATIENCE).expect("the change is an event");
                let change = probe.changes.recv_timeout(PATIENCE);
                let (who, call) = change.unwrap_or_else(|_| panic!("change {round} is not seen"));
                assert_eq!(who, *pod, "change {round}");
                measured.push((written, event, call));
            }
            (probe, measured)
        });
        let failed = probe.failed();
        let quantiles = |between: &dyn Fn(Moments) -> Duration| {
            Quantiles::of(measured.iter().copied().map(between).collect())
        };
        probe.stop();

        let before = settle(&process);
        for round in 0..rounds {
            self.write(["b", "a"][round % 2]);
            std::thread::sleep(pause);
        }
        let per_change = (settle(&process) - before) / u32::try_from(rounds).unwrap_or(u32::MAX);
        let resident = process.resident_bytes();
        Kind::sweep(process, node);
        let measured = Measured {
            start_cpu,
            to_event: quantiles(&|(written, event, _)| event - written),
            to_call: quantiles(&|(written, _, call)| call - written),
            event_to_call: quantiles(&|(_, event, call)| call.saturating_duration_since(event)),
            per_change,
            resident,
            failed,
        };
        row(start, Some(measured))
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
