//! A node made of network namespaces.
//!
//! ```text
//!   outside 172.18.0.100 ─┐
//!   control 172.18.0.50  ─┼─ net (a bridge) ─┬─ node  172.18.0.2 ── pods 10.244.1.10, .11 ...
//!                         │                  └─ node2 172.18.0.3 ── pods 10.244.2.10, .11 ...
//! ```
//!
//! IPv6 runs beside it: `fd00:172:18::/64` between the nodes, `fd00:10:244:<n>::/64` for the pods
//! of node n, with the same last part in decimal digits. Service addresses are `10.96.0.0/16` and
//! `fd00:10:96::/112`. No node has a default route, so a host client reaches a Service only by a
//! route that somebody made.
//!
//! All names start with `svs-<process>-<n>-`, so labs never meet; each namespace goes when its
//! lab does, and what a killed process left behind goes when the next one builds a lab.

mod host;
mod netns;
mod sweep;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

pub use host::Host;
pub use netns::{Netns, block_on_local};
pub use sweep::sweep;

use crate::Family;

/// How pods hang on their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// A link per pod with the gateway's address on the node's side, as the `ptp` plug-in makes.
    #[default]
    PointToPoint,
    /// A bridge on the node, with the gateway's address on it, as the `bridge` plug-in makes.
    Bridge,
    /// A link per pod whose node side has no IPv4 address and answers ARP by proxy, as Calico's.
    Unnumbered,
}

/// What a [`Lab`] will have.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    shape: Shape,
    pods: Vec<String>,
    remote_pods: Vec<String>,
    outside: bool,
    control: bool,
}

/// A node with its pods. Gone, with all that runs in it, when dropped.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    shape: Shape,
    /// Held for its drop: the bridge between the nodes.
    fabric: Netns,
    node: Host,
    node2: Option<Host>,
    outside: Option<Host>,
    control: Option<Host>,
    pods: Vec<Host>,
}

impl Builder {
    /// How the pods of both nodes hang on their node.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// A pod on the node. Names are at most 8 characters: interfaces are named after them.
    pub fn pod(mut self, name: &str) -> Self {
        self.pods.push(name.to_owned());
        self
    }

    /// Several pods on the node.
    pub fn pods<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().fold(self, Self::pod)
    }

    /// A pod on a second node, which is made for it.
    pub fn remote_pod(mut self, name: &str) -> Self {
        self.remote_pods.push(name.to_owned());
        self
    }

    /// A host outside the cluster with a route to the pods and Services through the node.
    pub fn outside(mut self) -> Self {
        self.outside = true;
        self
    }

    /// A host for the control plane, beside the nodes.
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// Builds it.
    ///
    /// # Panics
    /// When a namespace, link, address or route cannot be made.
    pub fn build(self) -> Lab {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| {
            sweep();
        });
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("svs-{}-{number}", std::process::id());

        let fabric = Netns::create(&format!("{prefix}-net"));
        fabric.ip("link add fabric type bridge\nlink set fabric up\n");
        let node = join_fabric(&prefix, &fabric, "node", 2);
        make_router(&node, 1, self.shape);
        let mut lab = Lab {
            prefix,
            shape: self.shape,
            fabric,
            node,
            node2: None,
            outside: None,
            control: None,
            pods: vec![],
        };
        for name in &self.pods {
            lab.add_pod(name);
        }
        if !self.remote_pods.is_empty() {
            lab.add_second_node(&self.remote_pods);
        }
        if self.outside {
            let outside = join_fabric(&lab.prefix, &lab.fabric, "outside", 100);
            outside.netns().ip(concat!(
                "route add 10.96.0.0/16 via 172.18.0.2\n",
                "route add 10.244.1.0/24 via 172.18.0.2\n",
                "route add fd00:10:96::/112 via fd00:172:18::2\n",
                "route add fd00:10:244:1::/64 via fd00:172:18::2\n",
            ));
            lab.outside = Some(outside);
        }
        if self.control {
            let control = join_fabric(&lab.prefix, &lab.fabric, "control", 50);
            control.netns().ip(concat!(
                "route add 10.244.1.0/24 via 172.18.0.2\n",
                "route add fd00:10:244:1::/64 via fd00:172:18::2\n",
            ));
            lab.control = Some(control);
        }
        lab
    }
}

impl Lab {
    /// A lab still to be described; it will have a node at least.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The node the agent runs on.
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// The second node.
    ///
    /// # Panics
    /// When the lab was built without pods there.
    pub fn second_node(&self) -> &Host {
        self.node2.as_ref().expect("the lab has a second node")
    }

    /// The host outside the cluster.
    ///
    /// # Panics
    /// When the lab was built without one.
    pub fn outside(&self) -> &Host {
        self.outside.as_ref().expect("the lab has a host outside")
    }

    /// The host of the control plane.
    ///
    /// # Panics
    /// When the lab was built without one.
    pub fn control(&self) -> &Host {
        self.control.as_ref().expect("the lab has a host for the control plane")
    }

    /// A pod of either node.
    ///
    /// # Panics
    /// When there is none of that name.
    #[track_caller]
    pub fn pod(&self, name: &str) -> &Host {
        self.pods
            .iter()
            .find(|pod| pod.name() == name)
            .unwrap_or_else(|| panic!("the lab has no pod {name}"))
    }

    /// Hangs one more pod on the node.
    pub fn add_pod(&mut self, name: &str) -> &Host {
        let number = 10 + u16::try_from(self.pods.len()).expect("a lab has few pods");
        let pod = hang_pod(&self.prefix, &self.node, 1, number, name, self.shape);
        self.pods.push(pod);
        self.pods.last().expect("a pod was just added")
    }

    /// A Service address of this lab: `10.96.0.<number>` or `fd00:10:96::<number>`.
    pub fn service_address(family: Family, number: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 96, 0, number).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, decimal(number.into())).into()
            }
        }
    }

    /// Makes the second node with its pods, and the routes between the nodes.
    fn add_second_node(&mut self, pods: &[String]) {
        let node2 = join_fabric(&self.prefix, &self.fabric, "node2", 3);
        make_router(&node2, 2, self.shape);
        for name in pods {
            let number = 10 + u16::try_from(self.pods.len()).expect("a lab has few pods");
            self.pods.push(hang_pod(&self.prefix, &node2, 2, number, name, self.shape));
        }
        self.node.netns().ip(concat!(
            "route add 10.244.2.0/24 via 172.18.0.3\n",
            "route add fd00:10:244:2::/64 via fd00:172:18::3\n",
        ));
        node2.netns().ip(concat!(
            "route add 10.244.1.0/24 via 172.18.0.2\n",
            "route add fd00:10:244:1::/64 via fd00:172:18::2\n",
        ));
        self.node2 = Some(node2);
    }
}

/// The hexadecimal number that reads like `number` in decimal: pod 10 is `::10`.
fn decimal(number: u16) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).expect("decimal digits are hexadecimal digits")
}

/// Makes a host on the bridge between the nodes.
fn join_fabric(prefix: &str, fabric: &Netns, name: &str, number: u16) -> Host {
    let netns = Netns::create(&format!("{prefix}-{name}"));
    let ipv4 = Ipv4Addr::new(172, 18, 0, u8::try_from(number).expect("a host number is small"));
    let ipv6 = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, decimal(number));
    fabric.ip(&format!(
        "link add to-{name} type veth peer name eth0 netns {}\n\
         link set to-{name} master fabric up\n",
        netns.name()
    ));
    netns.ip(&format!(
        "address add {ipv4}/24 dev eth0\naddress add {ipv6}/64 dev eth0 nodad\nlink set eth0 up\n"
    ));
    Host::new(name, netns, ipv4, ipv6, "eth0".to_owned())
}

/// Lets a node forward, and makes its bridge where the shape has one.
fn make_router(node: &Host, number: u16, shape: Shape) {
    let netns = node.netns();
    netns.sysctl("net.ipv4.ip_forward", "1");
    netns.sysctl("net.ipv6.conf.all.forwarding", "1");
    if shape == Shape::Unnumbered {
        // ARP is answered by proxy only for what the node has a route to.
        netns.ip("route add 169.254.1.1/32 dev eth0\n");
    }
    if shape == Shape::Bridge {
        netns.ip(&format!(
            "link add cni0 type bridge\n\
             address add 10.244.{number}.1/24 dev cni0\n\
             address add fd00:10:244:{number}::1/64 dev cni0 nodad\n\
             link set cni0 up\n"
        ));
    }
}

/// Makes a pod and hangs it on its node.
fn hang_pod(
    prefix: &str,
    node: &Host,
    node_number: u16,
    number: u16,
    name: &str,
    shape: Shape,
) -> Host {
    let netns = Netns::create(&format!("{prefix}-{name}"));
    let last = u8::try_from(number).expect("a pod number is small");
    let third = u8::try_from(node_number).expect("a node number is small");
    let ipv4 = Ipv4Addr::new(10, 244, third, last);
    let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, node_number, 0, 0, 0, decimal(number));
    let link = format!("veth-{name}");
    let gateway4 = match shape {
        Shape::Unnumbered => "169.254.1.1".to_owned(),
        Shape::PointToPoint | Shape::Bridge => format!("10.244.{node_number}.1"),
    };
    let gateway6 = format!("fd00:10:244:{node_number}::1");
    let (prefix4, prefix6) = if shape == Shape::Bridge { (24, 64) } else { (32, 128) };

    let mut at_node = format!("link add {link} type veth peer name eth0 netns {}\n", netns.name());
    match shape {
        Shape::Bridge => at_node.push_str(&format!("link set {link} master cni0 up\n")),
        Shape::PointToPoint => at_node.push_str(&format!(
            "address add {gateway4}/32 dev {link}\n\
             address add {gateway6}/128 dev {link} nodad\n\
             link set {link} up\n\
             route add {ipv4}/32 dev {link}\n\
             route add {ipv6}/128 dev {link}\n"
        )),
        Shape::Unnumbered => at_node.push_str(&format!(
            "address add {gateway6}/128 dev {link} nodad\n\
             link set {link} up\n\
             route add {ipv4}/32 dev {link}\n\
             route add {ipv6}/128 dev {link}\n"
        )),
    }
    node.netns().ip(&at_node);
    if shape == Shape::Unnumbered {
        node.netns().sysctl(&format!("net.ipv4.conf.{link}.proxy_arp"), "1");
        // Proxy ARP waits up to 0.8 s on purpose; Calico switches that off too.
        node.netns().sysctl(&format!("net.ipv4.neigh.{link}.proxy_delay"), "0");
    }

    let mut at_pod = format!(
        "address add {ipv4}/{prefix4} dev eth0\n\
         address add {ipv6}/{prefix6} dev eth0 nodad\n\
         link set eth0 up\n"
    );
    if shape != Shape::Bridge {
        at_pod.push_str(&format!(
            "route add {gateway4}/32 dev eth0 scope link\nroute add {gateway6}/128 dev eth0\n"
        ));
    }
    at_pod.push_str(&format!(
        "route add default via {gateway4} dev eth0\nroute add ::/0 via {gateway6} dev eth0\n"
    ));
    netns.ip(&at_pod);
    Host::new(name, netns, ipv4, ipv6, "eth0".to_owned())
}

#[cfg(test)]
mod tests;
