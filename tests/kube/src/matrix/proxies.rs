//! Whoever serves the node's Services.

use std::fmt;
use std::path::Path;

use streamvs_support::agent::{Agent, Source};
use streamvs_support::manifest::Manifests;
use streamvs_support::process::Process;

use super::services::Nodes;
use crate::programs;

/// kube-proxy's `--proxy-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Iptables,
    Nftables,
}

/// How the agent captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// The real kube-proxy.
    Kubernetes(Mode),
    /// In place of kube-proxy.
    Agent(Capture),
    /// In place of kube-proxy, and killed: the kernel serves by what the agent has left.
    Kernel(Capture),
    /// Next to kube-proxy.
    Beside(Mode),
    /// Next to kube-proxy, and killed.
    Behind(Mode),
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Iptables, Self::Nftables];

    /// Starts kube-proxy.
    pub(crate) fn start(self, nodes: &Nodes, kubeconfig: &Path, folder: &Path) -> Process {
        let mode = match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        };
        let mut command = programs::kube_proxy(nodes.lab.node(), mode, kubeconfig);
        // Pods as streamvs knows them, by the Node.
        command.arg("--detect-local-mode=NodeCIDR");
        Process::start(command, &folder.join(format!("kube-proxy-{mode}.log")))
    }
}

impl Capture {
    pub(crate) const ALL: [Self; 3] = [Self::IptablesNft, Self::IptablesLegacy, Self::Nftables];

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::IptablesNft => &["--capture", "iptables", "--iptables-backend", "nft"],
            Self::IptablesLegacy => &["--capture", "iptables", "--iptables-backend", "legacy"],
            Self::Nftables => &["--capture", "nftables"],
        }
    }

    /// Starts the agent in place of kube-proxy.
    #[track_caller]
    pub(crate) fn start(self, nodes: &Nodes, manifests: &Manifests, folder: &Path) -> Agent {
        let replace = ["--kube-proxy-replacement", "--nodeport-addresses", "primary,localhost"];
        let flags = [self.flags(), &replace].concat();
        Agent::start(nodes.lab.node(), folder, manifests, &flags)
    }
}

/// Starts the agent next to kube-proxy.
#[track_caller]
pub(crate) fn start_beside(nodes: &Nodes, kubeconfig: &Path, folder: &Path) -> Agent {
    let flags = ["--nodeport-addresses", "primary,localhost", "--healthz-port=10356"];
    let flags = [&flags[..], &["--metrics-port=10349"]].concat();
    Agent::spawn_from(nodes.lab.node(), folder, Source::Kubeconfig(kubeconfig), &flags)
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubernetes(mode) => write!(f, "kube-proxy, {mode:?}"),
            Self::Agent(capture) => write!(f, "streamvs, {capture:?}"),
            Self::Kernel(capture) => write!(f, "streamvs killed, {capture:?}"),
            Self::Beside(mode) => write!(f, "streamvs next to kube-proxy, {mode:?}"),
            Self::Behind(mode) => write!(f, "streamvs killed next to kube-proxy, {mode:?}"),
        }
    }
}
