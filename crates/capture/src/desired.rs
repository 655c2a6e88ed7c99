//! What the kernel shall do with new connections to Services: sets of addresses and ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::{
    AddressKind, Alias, Disposition, Family, Origin, Protocol, ServicePort, Snapshot,
};

/// Which service addresses are captured, refused and dropped. Pure data; endpoints are no part of
/// it, so that their coming and going programs nothing here.
///
/// An address in none of the sets is left to whoever else handles it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// (address, TCP port) whose new connections go to the listener.
    pub capture: BTreeSet<(IpAddr, u16)>,
    /// (address, TCP port) whose new connections go to the listener if they are from inside; those
    /// from outside find it in `drop`.
    pub inner: BTreeSet<(IpAddr, u16)>,
    /// (address, port, protocol) without endpoints: refused at once, by a reset for TCP and by
    /// "port unreachable" for the others.
    pub reject: BTreeSet<(IpAddr, u16, Protocol)>,
    /// (address, port, protocol) whose endpoints all run elsewhere under the Local policy:
    /// dropped in silence.
    pub drop: BTreeSet<(IpAddr, u16, Protocol)>,
    /// ClusterIPs whose UDP or SCTP somebody else balances in the kernel. They too need a way from
    /// this node.
    pub routed: BTreeSet<IpAddr>,
    /// Load balancers' (address, port, protocol) that only let in whom `allowed` names. They are in
    /// one of the other sets as well.
    pub guarded: BTreeSet<(IpAddr, u16, Protocol)>,
    /// (address, port, protocol, range of clients).
    pub allowed: BTreeSet<(IpAddr, u16, Protocol, IpNet)>,
    /// Node ports whose new connections, to an address of the node within `node_ranges`, go to the
    /// listener.
    pub node_capture: BTreeSet<(Family, u16, Protocol)>,
    /// The same for connections from inside only.
    pub node_inner: BTreeSet<(Family, u16, Protocol)>,
    /// As `reject`.
    pub node_reject: BTreeSet<(Family, u16, Protocol)>,
    /// As `drop`.
    pub node_drop: BTreeSet<(Family, u16, Protocol)>,
    /// Health check ports: let in whatever the node's policy.
    pub health: BTreeSet<(Family, u16, Protocol)>,
    /// Addresses of the node at which node ports are served.
    pub node_ranges: BTreeSet<IpNet>,
    /// Where pods are.
    pub pod_ranges: BTreeSet<IpNet>,
    /// Service ranges of the cluster that were learnt while running, besides those configured.
    pub ranges: BTreeSet<IpNet>,
    /// By which clients are to be seen, one for each range of clients; [`crate::Capture::aliases`]
    /// says which are in force.
    pub aliases: BTreeSet<Alias>,
    /// Ranges of this node's pods that are to see clients outside by their own address;
    /// [`crate::Capture::aliases`] says which do.
    pub transparent: BTreeSet<IpNet>,
}

/// What becomes of new connections to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Capture,
    /// Balanced for those inside, dropped for those outside.
    Inner,
    Reject,
    Drop,
}

impl Treatment {
    fn of(service: &ServicePort, kind: AddressKind, family: Family) -> Self {
        let by = |origin| service.disposition_by(service.policy(kind, origin), family);
        match (by(Origin::Inside), by(Origin::Outside)) {
            (Disposition::Balance, Disposition::Balance) => Self::Capture,
            (Disposition::Balance, _) => Self::Inner,
            (Disposition::Drop, _) => Self::Drop,
            (Disposition::Reject, _) => Self::Reject,
        }
    }
}

impl Desired {
    /// Whatever `other` sends to the listener this one sends there too.
    pub fn captures_all_of(&self, other: &Self) -> bool {
        other.capture.is_subset(&self.capture)
            && other.inner.is_subset(&self.inner)
            && other.node_capture.is_subset(&self.node_capture)
            && other.node_inner.is_subset(&self.node_inner)
    }

    /// What a snapshot asks for: balanced TCP is captured, balanced UDP and SCTP are only
    /// routed, and the other dispositions hold for every protocol. It knows no ranges and no
    /// aliases.
    ///
    /// Addresses that no packet can have as destination (unspecified address, port 0) are left
    /// out: the kernel's sets refuse them, and one bad manifest must not stop all the others.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut desired = Self::default();
        for (ip, port, protocol, service) in snapshot.addresses() {
            if ip.is_unspecified() || port == 0 {
                continue;
            }
            let kind = service.kind_of(ip).unwrap_or(AddressKind::ClusterIp);
            let is_tcp = protocol == Protocol::Tcp;
            let treatment = Treatment::of(service, kind, Family::of(ip));
            match treatment {
                Treatment::Capture if is_tcp => {
                    desired.capture.insert((ip, port));
                }
                Treatment::Capture => {
                    desired.routed.insert(ip);
                }
                Treatment::Inner => {
                    if is_tcp {
                        desired.inner.insert((ip, port));
                    }
                    desired.drop.insert((ip, port, protocol));
                }
                Treatment::Reject => {
                    desired.reject.insert((ip, port, protocol));
                }
                Treatment::Drop => {
                    desired.drop.insert((ip, port, protocol));
                }
            }
            let sources = service.sources(ip, &snapshot.node().addresses);
            if let Some(sources) = sources.filter(|_| treatment != Treatment::Reject) {
                desired.guarded.insert((ip, port, protocol));
                let allowed = sources.into_iter().map(|range| (ip, port, protocol, range));
                desired.allowed.extend(allowed);
            }
        }
        for (port, protocol, service) in snapshot.node_ports() {
            desired.serve_at_node(port, protocol, service);
        }
        for service in snapshot.services() {
            let Some(port) = service.health_check_node_port else { continue };
            desired.health.extend(Family::BOTH.map(|family| (family, port, Protocol::Tcp)));
        }
        desired
    }

    fn serve_at_node(&mut self, port: u16, protocol: Protocol, service: &ServicePort) {
        let is_tcp = protocol == Protocol::Tcp;
        for family in Family::BOTH.into_iter().filter(|each| service.cluster_ip(*each).is_some()) {
            let place = (family, port, protocol);
            match Treatment::of(service, AddressKind::NodePort, family) {
                Treatment::Capture if is_tcp => {
                    self.node_capture.insert(place);
                }
                Treatment::Capture => {}
                Treatment::Inner => {
                    if is_tcp {
                        self.node_inner.insert(place);
                    }
                    self.node_drop.insert(place);
                }
                Treatment::Reject => {
                    self.node_reject.insert(place);
                }
                Treatment::Drop => {
                    self.node_drop.insert(place);
                }
            }
        }
    }

    /// Every address named, of one family.
    pub(crate) fn addresses(&self, family: Family) -> BTreeSet<IpAddr> {
        let captured = self.capture.iter().map(|(ip, _)| *ip);
        let refused = self.reject.iter().chain(&self.drop).map(|(ip, ..)| *ip);
        let named = captured.chain(refused).chain(self.routed.iter().copied());
        named.filter(|ip| Family::of(*ip) == family).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use streamvs_table::{
        NodeFacts, PerFamily, PerPolicy, ProtocolHint, ServiceName, ServicePort, ServicePortName,
        TrafficPolicy,
    };

    use super::*;

    fn service(
        name: &str,
        cluster_ips: &[&str],
        port: u16,
        protocol: Protocol,
        disposition: PerFamily<Disposition>,
    ) -> Arc<ServicePort> {
        Arc::new(ServicePort {
            name: ServicePortName {
                service: ServiceName::new("shop", name),
                port: "".into(),
                protocol,
            },
            port,
            node_port: None,
            cluster_ips: cluster_ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
            load_balancer_ips: Vec::new(),
            external_ips: Vec::new(),
            source_ranges: Vec::new(),
            health_check_node_port: None,
            app_protocol: None,
            protocol_hint: ProtocolHint::Auto,
            scheduler: None,
            max_age: Default::default(),
            affinity: None,
            internal_policy: TrafficPolicy::Local,
            external_policy: TrafficPolicy::Cluster,
            endpoints: Vec::new(),
            disposition: PerPolicy {
                cluster: PerFamily::from_fn(|family| match disposition.get(family) {
                    Disposition::Drop => Disposition::Balance,
                    other => *other,
                }),
                local: disposition,
            },
            reasons: Default::default(),
        })
    }

    fn both(disposition: Disposition) -> PerFamily<Disposition> {
        PerFamily { v4: disposition, v6: disposition }
    }

    #[test]
    fn disposition_protocol_and_family_choose_the_set() {
        use Disposition::{Balance, Drop, Reject};
        let (snapshot, conflicts) = Snapshot::new(
            1,
            vec![
                service("tcp", &["10.96.0.1", "fd00:96::1"], 80, Protocol::Tcp, both(Balance)),
                service("udp", &["10.96.0.2"], 53, Protocol::Udp, both(Balance)),
                service("sctp", &["10.96.0.2"], 53, Protocol::Sctp, both(Reject)),
                service("local", &["10.96.0.3"], 80, Protocol::Tcp, both(Drop)),
                service(
                    "half",
                    &["10.96.0.4", "fd00:96::4"],
                    80,
                    Protocol::Tcp,
                    PerFamily { v4: Balance, v6: Reject },
                ),
                service("zero", &["0.0.0.0", "::"], 80, Protocol::Tcp, both(Balance)),
                service("portless", &["10.96.0.5"], 0, Protocol::Tcp, both(Reject)),
            ],
        );
        assert_eq!(conflicts, []);
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let desired = Desired::from_snapshot(&snapshot);
        assert_eq!(
            desired,
            Desired {
                capture: [(ip("10.96.0.1"), 80), (ip("10.96.0.4"), 80), (ip("fd00:96::1"), 80)]
                    .into(),
                reject: [
                    (ip("10.96.0.2"), 53, Protocol::Sctp),
                    (ip("fd00:96::4"), 80, Protocol::Tcp),
                ]
                .into(),
                drop: [(ip("10.96.0.3"), 80, Protocol::Tcp)].into(),
                routed: [ip("10.96.0.2")].into(),
                ..Desired::default()
            }
        );
        assert_eq!(desired.addresses(Family::V6), [ip("fd00:96::1"), ip("fd00:96::4")].into());
        assert_eq!(desired.addresses(Family::V4).len(), 4);
    }

    #[test]
    fn empty_snapshot_asks_for_nothing() {
        assert_eq!(Desired::from_snapshot(&Snapshot::default()), Desired::default());
    }

    /// A load balancer's Service of both families, of which IPv4 has a load balancer's address.
    fn external(change: impl FnOnce(&mut ServicePort)) -> Desired {
        let ips = ["10.96.0.1", "fd00:96::1"];
        let both = both(Disposition::Balance);
        let mut service = Arc::unwrap_or_clone(service("web", &ips, 80, Protocol::Tcp, both));
        service.internal_policy = TrafficPolicy::Cluster;
        service.load_balancer_ips = vec!["203.0.113.1".parse().expect("an address")];
        service.node_port = Some(30_080);
        change(&mut service);
        let (snapshot, _) = Snapshot::new(1, vec![Arc::new(service)]);
        let addresses = vec!["192.0.2.1".parse().expect("an address")];
        let node = NodeFacts { addresses, ..NodeFacts::default() };
        Desired::from_snapshot(&snapshot.with_node(Arc::new(node)))
    }

    #[test]
    fn a_load_balancers_address_and_a_node_port_are_captured_beside_the_cluster_ip() {
        let desired = external(|_| {});
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let addresses = ["10.96.0.1", "203.0.113.1", "fd00:96::1"];
        assert_eq!(desired.capture, addresses.map(|text| (ip(text), 80)).into());
        let node = Family::BOTH.map(|family| (family, 30_080, Protocol::Tcp));
        assert_eq!(desired.node_capture, node.into());
        let nothing =
            Desired { capture: BTreeSet::new(), node_capture: BTreeSet::new(), ..desired };
        assert_eq!(nothing, Desired::default());
    }

    #[test]
    fn without_local_endpoints_clients_inside_are_served_and_those_outside_dropped() {
        let desired = external(|service| {
            service.external_policy = TrafficPolicy::Local;
            service.disposition.local = both(Disposition::Drop);
        });
        let address: IpAddr = "203.0.113.1".parse().expect("an address");
        assert_eq!(desired.inner, [(address, 80)].into());
        assert_eq!(desired.drop, [(address, 80, Protocol::Tcp)].into());
        assert_eq!(desired.capture.len(), 2, "the ClusterIPs are under the other policy");
        assert_eq!(desired.node_inner.len(), 2);
        assert_eq!(desired.node_drop, desired.node_inner);
        assert!(desired.node_capture.is_empty());
    }

    #[test]
    fn without_any_endpoint_everybody_is_refused_everywhere() {
        let desired = external(|service| {
            service.disposition = PerPolicy::both(both(Disposition::Reject));
            service.source_ranges = vec!["198.51.100.0/24".parse().expect("a range")];
        });
        assert_eq!((desired.reject.len(), desired.node_reject.len()), (3, 2));
        assert!(desired.capture.is_empty() && desired.node_capture.is_empty());
        assert!(desired.guarded.is_empty(), "refused is refused");
    }

    #[test]
    fn source_ranges_guard_the_load_balancers_address_and_nothing_else() {
        for (rule, ranges, allowed) in [
            ("no range", &[][..], &[][..]),
            ("of the other family", &["2001:db8::/32"], &[]),
            ("one", &["198.51.100.0/24"], &["198.51.100.0/24"]),
            ("with the node", &["192.0.2.0/24"], &["192.0.2.0/24", "203.0.113.1/32"]),
            ("one in the other", &["198.18.0.0/15", "198.18.7.0/24"], &["198.18.0.0/15"]),
            ("all, the node and the address too", &["0.0.0.0/0"], &["0.0.0.0/0"]),
        ] {
            let desired = external(|service| {
                let ranges = ranges.iter().map(|range| range.parse().expect("a range"));
                service.source_ranges = ranges.collect();
            });
            let address: IpAddr = "203.0.113.1".parse().expect("an address");
            let found: Vec<_> =
                desired.allowed.iter().map(|(.., range)| range.to_string()).collect();
            assert_eq!(found, allowed, "{rule}");
            let guarded = (!allowed.is_empty()).then_some((address, 80, Protocol::Tcp));
            assert_eq!(desired.guarded, guarded.into_iter().collect(), "{rule}");
            assert!(desired.capture.contains(&(address, 80)), "{rule}");
        }
    }

    #[test]
    fn a_health_check_port_is_let_in_in_both_families() {
        let desired = external(|service| service.health_check_node_port = Some(31_000));
        assert_eq!(desired.health, Family::BOTH.map(|each| (each, 31_000, Protocol::Tcp)).into());
    }
}
