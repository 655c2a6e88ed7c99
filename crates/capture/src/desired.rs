//! What the kernel shall do with new connections to Services: three sets of addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use streamvs_table::{AddressKind, Alias, Disposition, Family, Protocol, Snapshot};

/// Which service addresses are captured, refused and dropped. Pure data; endpoints are no part of
/// it, so that their coming and going programs nothing here.
///
/// An address in none of the three is left to whoever else handles it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// (ClusterIP, TCP port) whose new connections go to the listener.
    pub capture: BTreeSet<(IpAddr, u16)>,
    /// (ClusterIP, port, protocol) without endpoints: refused at once, by a reset for TCP and by
    /// "port unreachable" for the others.
    pub reject: BTreeSet<(IpAddr, u16, Protocol)>,
    /// (ClusterIP, port, protocol) whose endpoints all run elsewhere under the Local policy:
    /// dropped in silence.
    pub drop: BTreeSet<(IpAddr, u16, Protocol)>,
    /// ClusterIPs whose UDP or SCTP somebody else balances in the kernel. They too need a way from
    /// this node.
    pub routed: BTreeSet<IpAddr>,
    /// Service ranges of the cluster that were learnt while running, besides those configured.
    pub ranges: BTreeSet<IpNet>,
    /// By which clients are to be seen, one for each range of clients; [`crate::Capture::aliases`]
    /// says which are in force.
    pub aliases: BTreeSet<Alias>,
}

impl Desired {
    /// What a snapshot asks for: balanced TCP is captured, balanced UDP and SCTP are only
    /// routed, and the other dispositions hold for every protocol. It knows no ranges and no
    /// aliases.
    ///
    /// Addresses that no packet can have as destination (unspecified address, port 0) are left
    /// out: the kernel's sets refuse them, and one bad manifest must not stop all the others.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut desired = Self::default();
        for (ip, port, protocol, service) in snapshot.addresses() {
            let is_cluster_ip = service.kind_of(ip) == Some(AddressKind::ClusterIp);
            if !is_cluster_ip || ip.is_unspecified() || port == 0 {
                continue;
            }
            match (service.internal_disposition(Family::of(ip)), protocol) {
                (Disposition::Balance, Protocol::Tcp) => {
                    desired.capture.insert((ip, port));
                }
                (Disposition::Balance, Protocol::Udp | Protocol::Sctp) => {
                    desired.routed.insert(ip);
                }
                (Disposition::Reject, _) => {
                    desired.reject.insert((ip, port, protocol));
                }
                (Disposition::Drop, _) => {
                    desired.drop.insert((ip, port, protocol));
                }
            }
        }
        desired
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
        PerFamily, PerPolicy, ProtocolHint, ServiceName, ServicePort, ServicePortName,
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
                ranges: BTreeSet::new(),
                aliases: BTreeSet::new(),
            }
        );
        assert_eq!(desired.addresses(Family::V6), [ip("fd00:96::1"), ip("fd00:96::4")].into());
        assert_eq!(desired.addresses(Family::V4).len(), 4);
    }

    #[test]
    fn empty_snapshot_asks_for_nothing() {
        assert_eq!(Desired::from_snapshot(&Snapshot::default()), Desired::default());
    }
}
