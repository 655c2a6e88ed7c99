//! Aim: the rules are kube-proxy's kind: one choice for a connection, the same chance for each
//! endpoint. Method: read the text, then load it into a node and connect through it.

use super::*;
use crate::grpc;
use crate::grpc::load::Load;
use crate::lab::{Host, Lab};
use crate::needs;
use crate::tcp::load::First;
use crate::tcp::{self, Speak};

fn port(endpoints: &[&str]) -> ServicePort {
    ServicePort {
        name: "default/echo:grpc".to_owned(),
        address: "192.0.2.10:80".parse().unwrap(),
        endpoints: endpoints.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[test]
fn each_endpoint_is_as_likely_as_the_next() {
    let text = render(
        Family::V4,
        &[port(&["198.51.100.1:9000", "198.51.100.2:9000", "198.51.100.3:9000"])],
    );
    let chances: Vec<&str> =
        text.split("--probability ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    assert_eq!(chances, ["0.3333333333", "0.5000000000"]);
    assert_eq!(text.matches("-j DNAT --to-destination 198.51.100.").count(), 3);
}

#[test]
fn a_family_has_only_its_own_services() {
    let text = render(Family::V6, &[port(&["198.51.100.1:9000"])]);
    assert!(!text.contains("192.0.2.10"));
}

#[test]
fn chain_names_fit_the_kernel() {
    assert!(chain_name("KUBE-SVC", &"anything").len() <= 28);
}

#[test]
fn one_connection_stays_on_one_pod_and_many_reach_all() {
    needs!("ip", "nsenter", "iptables-restore", "ip6tables-restore");
    let lab = Lab::builder().pods(["client", "a", "b", "c"]).build();
    let pods = ["a", "b", "c"].map(|name| lab.pod(name).clone());
    for family in Family::BOTH {
        let grpc = pods.each_ref().map(|pod| grpc::Endpoint::start(pod, family, 9000));
        let tcp = pods.each_ref().map(|pod| tcp::Endpoint::start(pod, family, 80, Speak::Banner));
        let service = |number| Lab::service_address(family, number);
        let at = |pods: &[Host; 3], port| pods.iter().map(|pod| pod.at(family, port)).collect();
        let ports = [
            ServicePort {
                name: "default/grpc:grpc".to_owned(),
                address: SocketAddr::new(service(10), 80),
                endpoints: at(&pods, 9000),
            },
            ServicePort {
                name: "default/tcp:tcp".to_owned(),
                address: SocketAddr::new(service(11), 80),
                endpoints: at(&pods, 80),
            },
        ];
        // Twice: a second call replaces the first one's rules.
        apply(lab.node(), &ports);
        apply(lab.node(), &ports);

        let client = lab.pod("client");
        let report = Load::unary(ports[0].address, 1).calls(300).run(client).without_failure();
        assert_eq!(report.spread(&["a", "b", "c"]), 300, "{family:?}: {:?}", report.calls);
        assert_eq!(grpc.iter().map(grpc::Endpoint::connections).sum::<u64>(), 1);

        let report = tcp::load::run(client, ports[1].address, First::Server, 60);
        assert_eq!(report.failures, Vec::<String>::new());
        // One of three endpoints is missed by 60 fair choices once in 10^10 times.
        assert!(tcp.iter().all(|endpoint| endpoint.connections() > 0), "{report:?}");
    }
    remove(lab.node());
    let gone = lab.node().output("iptables-save", &["-t", "nat"]);
    assert!(!gone.contains("KUBE"), "{gone}");
}
