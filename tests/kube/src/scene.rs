//! What nearly every test begins with: a control plane, a node with a client and endpoint pods,
//! and the agent installed as `deploy/` says.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use streamvs_support::agent::{Agent, PATIENCE, Source};
use streamvs_support::lab::{Builder, Host, Lab};
use streamvs_support::manifest::{Endpoint, Service, node};
use streamvs_support::wait::eventually_equals;
use streamvs_support::{Family, grpc};
use tempfile::TempDir;

use crate::Cluster;

/// The endpoint pods.
pub(crate) const PODS: [&str; 3] = ["a", "b", "c"];

/// Where endpoints listen; the port of every Service here is [`SERVICE_PORT`].
pub(crate) const TARGET_PORT: u16 = 9000;

/// The port of every Service.
pub(crate) const SERVICE_PORT: u16 = 80;

/// Between "the table without this endpoint is live", as `list` told, and the last frame that was
/// on its way to it by then.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Returns from the test, loudly, where it cannot run.
macro_rules! needs_node {
    ($($more:expr),* $(,)?) => {
        streamvs_support::needs!("ip", "nsenter", "iptables", "ip6tables", "ipset" $(, $more)*)
    };
}
pub(crate) use needs_node;

/// A lab with a control plane, and a kubeconfig of the agent's ServiceAccount.
pub(crate) struct Scene {
    // In the order of their ends.
    pub(crate) cluster: Cluster,
    pub(crate) lab: Lab,
    pub(crate) folder: TempDir,
    pub(crate) kubeconfig: PathBuf,
}

impl Scene {
    /// A client pod, three endpoint pods, and the ServiceAccount and role of `deploy/`.
    pub(crate) fn new() -> Self {
        Self::of(Lab::builder().pod("client").pods(PODS), "alongside")
    }

    /// Any lab with a client pod, and one of the overlays of `deploy/`.
    pub(crate) fn of(builder: Builder, overlay: &str) -> Self {
        let lab = builder.control().build();
        // A way out, as most nodes have one; the other suites' nodes have none.
        lab.node()
            .netns()
            .ip("route add default via 172.18.0.50\nroute add ::/0 via fd00:172:18::50\n");
        let cluster = Cluster::start(&lab);
        cluster.apply(&[node("node", "zone-a")]);
        cluster.kubectl(&["apply", "-k", &deploy(&format!("overlays/{overlay}"))], "");
        let kubeconfig = cluster.account_kubeconfig("kube-system", "streamvs");
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { cluster, lab, folder, kubeconfig }
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.pod("client")
    }

    /// Starts the agent as its ServiceAccount and waits until its rules are in place.
    #[track_caller]
    pub(crate) fn agent(&self, flags: &[&str]) -> Agent {
        self.agent_without_waiting(flags).wait_until_healthy()
    }

    /// Starts the agent.
    pub(crate) fn agent_without_waiting(&self, flags: &[&str]) -> Agent {
        let source = Source::Kubeconfig(&self.kubeconfig);
        Agent::spawn_from(self.lab.node(), self.folder.path(), source, flags)
    }

    /// gRPC endpoints in all pods, on a family.
    pub(crate) fn grpc(&self, family: Family) -> Vec<grpc::Endpoint> {
        PODS.map(|pod| grpc::Endpoint::start(self.lab.pod(pod), family, TARGET_PORT)).into()
    }

    /// Writes a Service with these pods as its ready endpoints.
    #[track_caller]
    pub(crate) fn publish(&self, service: &Service, pods: &[&str]) {
        self.cluster.apply(&[service.object()]);
        self.write(service, &self.ready(service, pods));
    }

    /// Writes the slices of a Service.
    #[track_caller]
    pub(crate) fn write(&self, service: &Service, endpoints: &[Endpoint]) {
        self.cluster.apply(&service.slices(endpoints));
    }

    /// These pods as ready endpoints, in each family the Service has an address of.
    pub(crate) fn ready(&self, service: &Service, pods: &[&str]) -> Vec<Endpoint> {
        let families = service.ips().iter().map(|ip| Family::of(*ip));
        families
            .flat_map(|family| {
                pods.iter().map(move |pod| Endpoint::ready(self.lab.pod(pod), family))
            })
            .collect()
    }

    /// Waits until exactly these pods are used for a Service, in its first family.
    #[track_caller]
    pub(crate) fn wait_until_used(&self, agent: &Agent, service: &Service, pods: &[&str]) {
        let family = Family::of(service.ips()[0]);
        let mut wanted: Vec<SocketAddr> =
            pods.iter().map(|pod| self.lab.pod(pod).at(family, TARGET_PORT)).collect();
        wanted.sort();
        eventually_equals("the endpoints in use", PATIENCE, &wanted, || {
            let mut usable = agent.usable(service.name());
            usable.retain(|address| Family::of(address.ip()) == family);
            usable
        });
    }
}

/// What a client pod's connect comes to.
pub(crate) fn connect(scene: &Scene, target: SocketAddr) -> Result<(), ErrorKind> {
    scene.client().run(|| {
        let socket = TcpStream::connect_timeout(&target, Duration::from_secs(1));
        socket.map(drop).map_err(|error| error.kind())
    })
}

/// A Service for gRPC endpoints with an address of each of `families`.
pub(crate) fn grpc_service(families: &[Family]) -> Service {
    Service::new("echo", families, 10).port("grpc", SERVICE_PORT, TARGET_PORT)
}

/// Where clients find a Service, on a family.
pub(crate) fn address(service: &Service, family: Family) -> SocketAddr {
    SocketAddr::new(service.ip(family), SERVICE_PORT)
}

/// A path under `deploy/`.
pub(crate) fn deploy(path: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    folder.join(path).to_str().expect("the path is text").to_owned()
}
