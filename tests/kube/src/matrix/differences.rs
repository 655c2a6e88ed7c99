//! Where the outcome is another one than in kube-proxy's iptables mode, and why: the table of
//! `docs/kube-proxy-differences.md`.

use std::collections::BTreeSet;

use super::cell::{Cell, Client, Endpoints, Outcome, Protocol, Target};
use super::expected::expected;
use super::proxies::{Capture, Mode, Proxy};
use streamvs_support::Family;

/// Who serves a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    KubeProxy(Mode),
    /// kube-proxy, behind what the agent refuses.
    Behind(Mode),
    /// The agent itself.
    Agent(Capture),
    /// The kernel, by the agent's maps.
    KernelPath,
}

/// Some cells that are served otherwise.
pub(crate) struct Difference {
    pub(crate) servers: fn(Server) -> bool,
    pub(crate) cells: fn(&Cell) -> bool,
    /// What each outcome of kube-proxy's iptables mode is there.
    pub(crate) becomes: fn(&Cell) -> BTreeSet<Outcome>,
    /// Its row: who serves, what is asked, what kube-proxy's iptables mode does, what is done
    /// there, and why.
    pub(crate) row: [&'static str; 5],
}

impl Server {
    pub(crate) fn of(proxy: Proxy, protocol: Protocol) -> Self {
        let is_tcp = protocol == Protocol::Tcp;
        match proxy {
            Proxy::Kubernetes(mode) => Self::KubeProxy(mode),
            Proxy::Agent(capture) if is_tcp => Self::Agent(capture),
            Proxy::Agent(_) | Proxy::Kernel(_) => Self::KernelPath,
            Proxy::Beside(Mode::Iptables) if is_tcp => Self::Agent(Capture::IptablesNft),
            Proxy::Beside(Mode::Nftables) if is_tcp => Self::Agent(Capture::Nftables),
            Proxy::Beside(mode) | Proxy::Behind(mode) => Self::Behind(mode),
        }
    }

    fn is_kube_proxy_by_nftables(self) -> bool {
        matches!(self, Self::KubeProxy(Mode::Nftables) | Self::Behind(Mode::Nftables))
    }

    fn is_agent(self) -> bool {
        matches!(self, Self::Agent(_))
    }
}

pub(crate) static DIFFERENCES: &[Difference] = &[
    Difference {
        servers: Server::is_kube_proxy_by_nftables,
        cells: is_served_at_loopback,
        becomes: |_| [Outcome::Refused].into(),
        row: [
            "kube-proxy, nftables mode",
            "a node port at 127.0.0.1",
            "served",
            "refused",
            "it does without `route_localnet`, which lets others reach the node's loopback",
        ],
    },
    Difference {
        servers: Server::is_agent,
        cells: |cell| {
            let is_served = cell.kind.endpoints != Endpoints::None;
            cell.target == Target::Loopback && cell.family == Family::V6 && is_served
        },
        becomes: |cell| expected(&Cell { target: Target::NodePort, ..*cell }),
        row: [
            "streamvs, TCP",
            "a node port at ::1",
            "refused",
            "served, if `--nodeport-addresses` has `localhost`",
            "a proxy has a connection of its own to the endpoint, so that nothing has to leave \
             from loopback",
        ],
    },
    Difference {
        servers: |server| server == Server::KernelPath,
        cells: is_served_at_loopback,
        becomes: |_| [Outcome::Refused].into(),
        row: [
            "streamvs, UDP, and TCP while the agent is away",
            "a node port at 127.0.0.1",
            "served",
            "refused",
            "as in kube-proxy's nftables mode: the kernel sends nothing from there to another host",
        ],
    },
    Difference {
        servers: |server| server.is_kube_proxy_by_nftables() || server == Server::KernelPath,
        cells: |cell| {
            let is_dropped = expected(cell).contains(&Outcome::Silence);
            cell.target == Target::Loopback && cell.family == Family::V6 && is_dropped
        },
        becomes: |_| [Outcome::Refused].into(),
        row: [
            "kube-proxy, nftables mode; streamvs, UDP, and TCP while the agent is away",
            "a node port at ::1, `externalTrafficPolicy: Local`, no endpoint here",
            "no answer",
            "refused",
            "nobody serves it there, and who asks at loopback is not outside",
        ],
    },
    Difference {
        servers: |server| server != Server::KubeProxy(Mode::Iptables),
        cells: |cell| {
            let is_host = cell.client == Client::Host;
            is_host && cell.target == Target::LoadBalancer && cell.kind.endpoints == Endpoints::None
        },
        becomes: |_| [Outcome::Refused].into(),
        row: [
            "kube-proxy, nftables mode; streamvs, also next to kube-proxy",
            "a load balancer's address without endpoints, by a process of the node",
            "no answer",
            "refused",
            "kube-proxy's chain for these addresses is not asked of what the node itself sends",
        ],
    },
];

/// What a client may get of a proxy.
///
/// # Panics
/// When two differences speak of the cell, or one that makes none.
pub(crate) fn wanted(proxy: Proxy, cell: &Cell) -> BTreeSet<Outcome> {
    let mut differences = of(proxy, cell);
    let expected = expected(cell);
    let Some(difference) = differences.next() else { return expected };
    assert!(differences.next().is_none(), "{proxy}: {cell} is listed twice");
    let becomes = (difference.becomes)(cell);
    assert_ne!(becomes, expected, "{proxy}: {cell} is listed and no difference");
    becomes
}

/// The differences that speak of a cell.
pub(crate) fn of(proxy: Proxy, cell: &Cell) -> impl Iterator<Item = &'static Difference> {
    let server = Server::of(proxy, cell.protocol);
    let cell = *cell;
    DIFFERENCES
        .iter()
        .filter(move |difference| (difference.servers)(server) && (difference.cells)(&cell))
}

fn is_served_at_loopback(cell: &Cell) -> bool {
    let is_served = cell.kind.endpoints != Endpoints::None;
    cell.target == Target::Loopback && cell.family == Family::V4 && is_served
}
