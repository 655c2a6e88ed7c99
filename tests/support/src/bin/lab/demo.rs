//! The article's experiment, twice: through rules as kube-proxy makes them, then through streamvs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use streamvs_support::agent::Agent;
use streamvs_support::grpc::load::Load;
use streamvs_support::kube_rules::{self, ServicePort};
use streamvs_support::lab::Lab;
use streamvs_support::manifest::{Endpoint, Manifests, Service};
use streamvs_support::tcp::load::First;
use streamvs_support::tcp::{self, Speak};
use streamvs_support::{Family, grpc};

use crate::ghz::Ghz;
use crate::table::{Row, Section, Table};

/// The pods behind every Service.
const PODS: [&str; 3] = ["a", "b", "c"];

const GRPC_PORT: u16 = 9000;
const HTTP_PORT: u16 = 8080;
const MYSQL_PORT: u16 = 3306;

/// What to send.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) calls: u64,
    pub(crate) connections: usize,
    pub(crate) peers: Option<PathBuf>,
}

/// The endpoints of the demonstration, all of them serving while it lives.
#[derive(Debug)]
struct Scene {
    lab: Lab,
    services: [Service; 3],
    ghz: Option<Ghz>,
    _grpc: Vec<grpc::Endpoint>,
    _tcp: Vec<tcp::Endpoint>,
}

/// Runs it and prints the table.
pub(crate) fn run(plan: &Plan) {
    let began = Instant::now();
    eprintln!("making a node with a client pod and three endpoint pods ...");
    let scene = Scene::new(plan);

    eprintln!("through kube-proxy's kind of iptables rules ...");
    kube_rules::apply(scene.lab.node(), &scene.kube_ports());
    let before = scene.measure("kube-proxy's rules", plan);
    kube_rules::remove(scene.lab.node());

    eprintln!("through streamvs ...");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let manifests = scene.manifests(&folder);
    let mut agent = Agent::start(scene.lab.node(), folder.path(), &manifests, &[]);
    let after = scene.measure("streamvs", plan);
    agent.stop(streamvs_support::agent::PATIENCE);

    let table = Table {
        pods: PODS.iter().map(|pod| format!("pod {pod}")).collect(),
        sections: vec![before, after],
    };
    println!("\n{table}");
    drop(scene);
    eprintln!("done in {:.1} s", began.elapsed().as_secs_f64());
}

impl Scene {
    fn new(plan: &Plan) -> Self {
        let lab = Lab::builder().pod("client").pods(PODS).build();
        let services = [
            Service::new("grpc", &[Family::V4], 10).port("grpc", 80, GRPC_PORT),
            Service::new("http", &[Family::V4], 11).port("http", 80, HTTP_PORT),
            Service::new("mysql", &[Family::V4], 12).port("mysql", MYSQL_PORT, MYSQL_PORT),
        ];
        let pods = || PODS.iter().map(|name| lab.pod(name));
        let ghz = plan.peers.as_ref().map(|peers| Ghz::start(peers, pods(), GRPC_PORT));
        let own = if ghz.is_some() { 0 } else { PODS.len() };
        let start_grpc = |pod| grpc::Endpoint::start(pod, Family::V4, GRPC_PORT);
        let start_tcp = |pod| {
            [
                tcp::Endpoint::start(pod, Family::V4, HTTP_PORT, Speak::Echo),
                tcp::Endpoint::start(pod, Family::V4, MYSQL_PORT, Speak::Banner),
            ]
        };
        let grpc = pods().take(own).map(start_grpc).collect();
        let tcp = pods().flat_map(start_tcp).collect();
        Self { lab, services, ghz, _grpc: grpc, _tcp: tcp }
    }

    /// The Services as kube-proxy's rules know them.
    fn kube_ports(&self) -> Vec<ServicePort> {
        let of = |service: &Service| {
            let ip = service.ip(Family::V4);
            let name = service.name().to_owned();
            let ports: Vec<ServicePort> = service
                .ports()
                .map(|(port, target)| ServicePort {
                    name: format!("default/{name}"),
                    address: SocketAddr::new(ip, port),
                    endpoints: PODS
                        .iter()
                        .map(|pod| self.lab.pod(pod).at(Family::V4, target))
                        .collect(),
                })
                .collect();
            ports
        };
        self.services.iter().flat_map(of).collect()
    }

    /// The Services as files for streamvs.
    fn manifests(&self, folder: &tempfile::TempDir) -> Manifests {
        let manifests = Manifests::new(folder.path().join("manifests"));
        std::fs::create_dir(manifests.folder()).expect("a folder can be made in a new one");
        manifests.node("node", "zone-a");
        for service in &self.services {
            manifests.service(service);
            let endpoints: Vec<Endpoint> =
                PODS.iter().map(|pod| Endpoint::ready(self.lab.pod(pod), Family::V4)).collect();
            manifests.endpoints(service, &endpoints);
        }
        manifests
    }

    fn measure(&self, through: &str, plan: &Plan) -> Section {
        let mut rows: Vec<Row> =
            [1, 3].into_iter().map(|count| self.grpc_row(count, plan)).collect();
        for (what, service, first) in [
            ("TCP, client speaks first", &self.services[1], First::Client),
            ("TCP, server speaks first", &self.services[2], First::Server),
        ] {
            rows.push(self.tcp_row(what, service, first, plan));
        }
        Section { through: through.to_owned(), rows }
    }

    fn grpc_row(&self, connections: usize, plan: &Plan) -> Row {
        let plural = if connections == 1 { "" } else { "s" };
        let address = first_address(&self.services[0]);
        let client = self.lab.pod("client");
        if let Some(ghz) = &self.ghz {
            let what = format!("ghz, {connections} connection{plural}");
            return ghz.row(what, client, address, connections, plan.calls);
        }
        let report = Load::unary(address, connections).calls(plan.calls).run(client);
        Row {
            what: format!("gRPC, {connections} connection{plural}"),
            answers: PODS.iter().map(|pod| report.of(pod)).collect(),
            failed: report.failed,
            median: report.quantile(0.5),
        }
    }

    fn tcp_row(&self, what: &str, service: &Service, first: First, plan: &Plan) -> Row {
        let address = first_address(service);
        let report = tcp::load::run(self.lab.pod("client"), address, first, plan.connections);
        Row {
            what: what.to_owned(),
            answers: PODS
                .iter()
                .map(|pod| report.connections.get(*pod).copied().unwrap_or(0))
                .collect(),
            failed: report.failures.len() as u64,
            median: report.median(),
        }
    }
}

fn first_address(service: &Service) -> SocketAddr {
    let (port, _) = service.ports().next().expect("each Service of the scene has a port");
    SocketAddr::new(service.ip(Family::V4), port)
}
