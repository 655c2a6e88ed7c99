//! The program under test, as a process on the node.

use std::fmt;
use std::path::Path;

use clap::ValueEnum;
use streamvs_support::agent;
use streamvs_support::lab::Host;
use streamvs_support::process::Process;
use streamvs_test_kube::programs;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// streamvs; calls are streams of one open connection
    Streamvs,
    /// streamvs; each call on a connection of its own
    StreamvsConnections,
    /// kube-proxy in iptables mode; each call on a connection of its own
    Iptables,
    /// kube-proxy in nftables mode; each call on a connection of its own
    Nftables,
}

impl Kind {
    /// Whether each call needs a connection of its own to reach a new endpoint.
    pub(crate) fn by_connection(self) -> bool {
        self != Self::Streamvs
    }

    /// Starts it on `node` with what a kubeconfig file says, its files in `folder`.
    pub(crate) fn start(self, node: &Host, kubeconfig: &Path, folder: &Path) -> Process {
        let log = folder.join(format!("{self}.log"));
        let mut command = match self {
            Self::Streamvs | Self::StreamvsConnections => {
                let mut command = node.command(agent::program());
                command
                    .args(["run", "--hostname-override", "node", "--kubeconfig"])
                    .arg(kubeconfig)
                    .arg("--state-file")
                    .arg(folder.join(format!("{self}.state")))
                    .arg("--admin-socket")
                    .arg(folder.join(format!("{self}.sock")));
                command
            }
            Self::Iptables | Self::Nftables => {
                let mut command = node.command(programs::path("kube-proxy"));
                let mode = if self == Self::Iptables { "iptables" } else { "nftables" };
                command
                    .args(["--hostname-override=node", "--cluster-cidr=10.244.0.0/16"])
                    .arg(format!("--proxy-mode={mode}"))
                    // A namespace may not set the machine's conntrack limits.
                    .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"])
                    .args(["--conntrack-tcp-timeout-close-wait=0s", "--kubeconfig"])
                    .arg(kubeconfig);
                command
            }
        };
        command.current_dir(folder);
        Process::start(command, &log)
    }

    /// Takes away all rules that any of them made: the node is the bench's own namespace.
    pub(crate) fn sweep(node: &Host) {
        node.output("nft", &["flush", "ruleset"]);
        node.output("ipset", &["destroy"]);
        node.netns().output("conntrack", &["-F"]);
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streamvs => "streamvs, open connection",
            Self::StreamvsConnections => "streamvs, new connections",
            Self::Iptables => "kube-proxy iptables",
            Self::Nftables => "kube-proxy nftables",
        })
    }
}
