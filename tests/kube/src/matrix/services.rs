//! The Services, one for each [`Kind`], and the nodes on which they are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use streamvs_support::lab::{Host, Lab};
use streamvs_support::manifest::{Endpoint, Service, node};
use streamvs_support::{Family, tcp, udp};

use super::cell::{Endpoints, Kind, Policy};

/// The endpoint pods.
pub(crate) const HERE: &str = "here";
pub(crate) const THERE: &str = "there";

/// The port of every Service.
pub(crate) const PORT: u16 = 80;

/// Where endpoints listen.
const TCP_TARGET: u16 = 8080;
const UDP_TARGET: u16 = 5353;

/// The first of the node ports, and of the ports that health checks ask.
const NODE_PORTS: u16 = 30_100;
const HEALTH_CHECKS: u16 = 31_100;

/// Where pods of this node are.
const POD_CIDRS: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

/// A node, a second one, a host outside, and endpoints that say whom they see.
pub(crate) struct Nodes {
    _endpoints: Vec<(tcp::Endpoint, udp::Endpoint)>,
    pub(crate) lab: Lab,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let pods = Lab::builder().pods(["client", HERE]).remote_pod(THERE).remote_pod("far");
        let lab = pods.outside().control().build();
        // The kernel refuses only so many times a second.
        for limit in ["ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"] {
            lab.node().sysctl(&format!("net.{limit}"), "0");
        }
        // A way out, as most nodes have one.
        let default = "route add default via 172.18.0.50\nroute add ::/0 via fd00:172:18::50\n";
        lab.node().netns().ip(default);
        // It would answer by ICMPv6 what no proxy takes.
        lab.control()
            .netns()
            .ip("route add blackhole 203.0.113.0/24\nroute add blackhole 2001:db8:203::/48\n");
        let outside = lab.outside().netns();
        outside.ip("route add 203.0.113.0/24 via 172.18.0.2\n\
                    route add 2001:db8:203::/48 via fd00:172:18::2\n\
                    route add 10.244.2.0/24 via 172.18.0.3\n\
                    route add fd00:10:244:2::/64 via fd00:172:18::3\n");
        // What no proxy takes goes back out by the node, which tells of the shorter way; once
        // taken, nothing would come by the node any more.
        for interface in ["all", "eth0"] {
            outside.sysctl(&format!("net.ipv4.conf.{interface}.accept_redirects"), "0");
            outside.sysctl(&format!("net.ipv6.conf.{interface}.accept_redirects"), "0");
        }
        let start = |pod: &Host, family| {
            let tcp = tcp::Endpoint::start(pod, family, TCP_TARGET, tcp::Speak::Who);
            (tcp, udp::Endpoint::start(pod, family, UDP_TARGET))
        };
        let pods = [HERE, THERE].into_iter();
        let endpoints = pods.flat_map(|pod| Family::BOTH.map(|family| start(lab.pod(pod), family)));
        Self { _endpoints: endpoints.collect(), lab }
    }

    /// The addresses that are the node's.
    pub(crate) fn of_node(&self, family: Family) -> [IpAddr; 2] {
        let gateway: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(10, 244, 1, 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1).into(),
        };
        [self.lab.node().ip(family), gateway]
    }

    /// The Node, the Services and their slices, as the API has them. A status that the API takes
    /// apart from the rest is in the object.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let mut node = node("node", "zone-a");
        node["spec"] = json!({ "podCIDR": POD_CIDRS[0], "podCIDRs": POD_CIDRS });
        let address =
            |family| json!({ "type": "InternalIP", "address": self.lab.node().ip(family) });
        node["status"] = json!({ "addresses": Family::BOTH.map(address) });
        let mut objects = vec![node];
        for kind in Kind::all() {
            objects.push(exposed(kind));
            objects.extend(of(kind).slices(&self.endpoints(kind)));
        }
        objects
    }

    fn endpoints(&self, kind: Kind) -> Vec<Endpoint> {
        let pods: &[(&str, &str)] = match kind.endpoints {
            Endpoints::Here => &[(HERE, "node")],
            Endpoints::Elsewhere => &[(THERE, "node2")],
            Endpoints::Both => &[(HERE, "node"), (THERE, "node2")],
            Endpoints::None => &[],
        };
        let ready = |(pod, node): &(&str, &str), family| {
            Endpoint::ready(self.lab.pod(pod), family).on_node(node)
        };
        pods.iter().flat_map(|of| Family::BOTH.map(|family| ready(of, family))).collect()
    }
}

/// The place of a Service among all.
fn number(kind: Kind) -> u16 {
    let place = Kind::all().iter().position(|each| *each == kind).expect("it is one of them");
    u16::try_from(place).expect("there are few")
}

/// A Service, as far as it is one of a cluster.
pub(crate) fn of(kind: Kind) -> Service {
    let Kind { internal, external, endpoints } = kind;
    let name = format!("internal-{internal:?}-external-{external:?}-{endpoints:?}").to_lowercase();
    let number = 100 + u8::try_from(number(kind)).expect("there are few");
    let service = Service::new(&name, &Family::BOTH, number)
        .port("tcp", PORT, TCP_TARGET)
        .port("udp", PORT, UDP_TARGET)
        .protocol("UDP");
    match internal {
        Policy::Cluster => service,
        Policy::Local => service.internal_local(),
    }
}

pub(crate) fn node_port(kind: Kind) -> u16 {
    NODE_PORTS + number(kind)
}

pub(crate) fn load_balancer(kind: Kind, family: Family) -> IpAddr {
    let number = 1 + number(kind);
    match family {
        Family::V4 => {
            Ipv4Addr::new(203, 0, 113, u8::try_from(number).expect("there are few")).into()
        }
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, number).into(),
    }
}

/// The Service as a cloud's controllers would have it.
fn exposed(kind: Kind) -> Value {
    let mut object = of(kind).object();
    object["spec"]["type"] = json!("LoadBalancer");
    object["spec"]["externalTrafficPolicy"] = json!(format!("{:?}", kind.external));
    for port in [0, 1] {
        object["spec"]["ports"][port]["nodePort"] = json!(node_port(kind));
    }
    if kind.external == Policy::Local {
        object["spec"]["healthCheckNodePort"] = json!(HEALTH_CHECKS + number(kind));
    }
    let ingress =
        Family::BOTH.map(|family| json!({ "ip": load_balancer(kind, family), "ipMode": "VIP" }));
    object["status"] = json!({ "loadBalancer": { "ingress": ingress } });
    object
}
