//! What nearly every test begins with: a client pod, three endpoint pods and files for the agent.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use streamvs_support::agent::{self, Agent, PATIENCE};
use streamvs_support::lab::{Builder, Host, Lab};
use streamvs_support::manifest::{Endpoint, Manifests, Service};
use streamvs_support::wait::{eventually, eventually_equals};
use streamvs_support::{Family, grpc, tcp};
use tempfile::TempDir;

/// The endpoint pods.
pub(crate) const PODS: [&str; 3] = ["a", "b", "c"];

/// Where gRPC endpoints listen; the Service's own port is [`SERVICE_PORT`].
pub(crate) const GRPC_PORT: u16 = 9000;

/// Where TCP endpoints listen.
pub(crate) const TCP_PORT: u16 = 8080;

/// Where pods of the lab's node have their addresses from.
pub(crate) const POD_CIDRS: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

/// The port of every Service here.
pub(crate) const SERVICE_PORT: u16 = 80;

/// Between "the table without this endpoint is live", as `list` told, and the last frame that was
/// on its way to it by then. Generous: one busy machine plays client, node and pods.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// Each way to capture.
pub(crate) const CAPTURES: [&[&str]; 3] = [
    &["--capture", "iptables", "--iptables-backend", "nft"],
    &["--capture", "iptables", "--iptables-backend", "legacy"],
    &["--capture", "nftables"],
];

/// Returns from the test, loudly, where it cannot run.
macro_rules! needs_node {
    ($($more:expr),* $(,)?) => {
        streamvs_support::needs!(
            "ip", "nsenter", "iptables", "ip6tables", "iptables-save", "ipset" $(, $more)*
        )
    };
}
pub(crate) use needs_node;

/// Every value that `--http2-engine` takes, as the program itself says.
pub(crate) fn engines() -> Vec<String> {
    let arguments = ["run", "--manifests", "none", "--http2-engine", "every"];
    let output = Command::new(agent::program()).args(arguments).output().expect("streamvs starts");
    let message = String::from_utf8_lossy(&output.stderr);
    let (_, values) = message.split_once("[possible values: ").expect("the engines are listed");
    let (values, _) = values.split_once(']').expect("the list ends");
    values.split(", ").map(str::to_owned).collect()
}

/// A lab with the files its agent watches.
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) folder: TempDir,
    pub(crate) manifests: Manifests,
}

impl Scene {
    /// A client pod and three endpoint pods on one node.
    pub(crate) fn new() -> Self {
        Self::of(Lab::builder().pod("client").pods(PODS))
    }

    /// Any lab.
    pub(crate) fn of(builder: Builder) -> Self {
        let lab = builder.build();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let manifests = Manifests::new(folder.path().join("manifests"));
        std::fs::create_dir(manifests.folder()).expect("a folder can be made in a new one");
        manifests.node_with_pods("node", "zone-a", &POD_CIDRS);
        Self { lab, folder, manifests }
    }

    /// Gives the node default routes, as most nodes have. Without one Services have routes over
    /// `lo`, and what a pod sends to a refused one over IPv6 the kernel answers itself: routes over
    /// `lo` forward nothing there, so its connection fails at once, as "network is unreachable".
    pub(crate) fn route_everywhere(&self) {
        let node = self.lab.node().netns();
        node.ip("route add default via 172.18.0.3\nroute add ::/0 via fd00:172:18::3\n");
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.pod("client")
    }

    /// Starts the agent and waits until its rules are in place.
    #[track_caller]
    pub(crate) fn agent(&self, flags: &[&str]) -> Agent {
        let agent = Agent::start(self.lab.node(), self.folder.path(), &self.manifests, flags);
        if !flags.contains(&"none") {
            eventually("the rules are in place", PATIENCE, || {
                agent.log().contains("capture rules installed")
            });
        }
        agent
    }

    /// gRPC endpoints in pods, on a family.
    pub(crate) fn grpc<'a>(
        &self,
        family: Family,
        pods: impl IntoIterator<Item = &'a str>,
    ) -> Vec<grpc::Endpoint> {
        pods.into_iter()
            .map(|pod| grpc::Endpoint::start(self.lab.pod(pod), family, GRPC_PORT))
            .collect()
    }

    /// TCP endpoints in pods, on a family, all speaking alike.
    pub(crate) fn tcp<'a>(
        &self,
        family: Family,
        how: tcp::Speak,
        pods: impl IntoIterator<Item = &'a str>,
    ) -> Vec<tcp::Endpoint> {
        pods.into_iter()
            .map(|pod| tcp::Endpoint::start(self.lab.pod(pod), family, TCP_PORT, how))
            .collect()
    }

    /// Writes a Service with these pods as its ready endpoints.
    pub(crate) fn publish(&self, service: &Service, pods: &[&str]) {
        self.manifests.service(service);
        self.manifests.endpoints(service, &self.ready(service, pods));
    }

    /// These pods as ready endpoints, in each family the Service has an address of.
    pub(crate) fn ready(&self, service: &Service, pods: &[&str]) -> Vec<Endpoint> {
        service
            .ips()
            .iter()
            .flat_map(|ip| {
                let family = Family::of(*ip);
                pods.iter().map(move |pod| Endpoint::ready(self.lab.pod(pod), family))
            })
            .collect()
    }

    /// Waits until exactly these pods are used for a Service, in each family it has an address of.
    #[track_caller]
    pub(crate) fn wait_until_used(&self, agent: &Agent, service: &Service, pods: &[&str]) {
        let (_, target) = service.ports().next().expect("the Service has a port");
        let families = service.ips().iter().copied().map(Family::of);
        let mut wanted: Vec<SocketAddr> = families
            .flat_map(|family| pods.iter().map(move |pod| self.lab.pod(pod).at(family, target)))
            .collect();
        wanted.sort();
        eventually_equals("the endpoints in use", PATIENCE, &wanted, || {
            agent.usable(service.name())
        });
    }
}

/// A Service for gRPC endpoints, with one address.
pub(crate) fn grpc_service(family: Family) -> Service {
    Service::new("echo", &[family], 10).port("grpc", SERVICE_PORT, GRPC_PORT)
}

/// A Service for gRPC endpoints, with an address of each family.
pub(crate) fn dual_stack_grpc_service() -> Service {
    Service::new("echo", &Family::BOTH, 10).port("grpc", SERVICE_PORT, GRPC_PORT)
}

/// A Service for TCP endpoints, with one address.
pub(crate) fn tcp_service(family: Family) -> Service {
    Service::new("plain", &[family], 11).port("tcp", SERVICE_PORT, TCP_PORT)
}

/// A Service for TCP endpoints, with an address of each family.
pub(crate) fn dual_stack_tcp_service() -> Service {
    Service::new("plain", &Family::BOTH, 11).port("tcp", SERVICE_PORT, TCP_PORT)
}

/// Where clients find a Service in a family.
pub(crate) fn address_of(service: &Service, family: Family) -> SocketAddr {
    SocketAddr::new(service.ip(family), SERVICE_PORT)
}

/// Where clients find a Service of one family.
pub(crate) fn address(service: &Service) -> SocketAddr {
    SocketAddr::new(service.ips()[0], SERVICE_PORT)
}
