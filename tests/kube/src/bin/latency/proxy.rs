//! The program under test, as a process on the node.

use std::fmt;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use streamvs_support::agent;
use streamvs_support::lab::Host;
use streamvs_support::privilege;
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
    /// The same with iptables-legacy
    IptablesLegacy,
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
                    .arg(folder.join(format!("{self}.sock")))
                    // Nobody is behind it, and the machine is busy.
                    .args(["--dead-man-timeout", "1h"]);
                command
            }
            Self::Iptables | Self::IptablesLegacy | Self::Nftables => {
                let mode = if self == Self::Nftables { "nftables" } else { "iptables" };
                let mut command = programs::kube_proxy(node, mode, kubeconfig);
                if self == Self::IptablesLegacy {
                    let path = std::env::var("PATH").unwrap_or_default();
                    command.env("PATH", format!("{}:{path}", legacy(folder).display()));
                }
                command.arg("--cluster-cidr=10.244.0.0/16");
                command
            }
        };
        command.current_dir(folder).process_group(0);
        Process::start(command, &log)
    }

    /// Ends a proxy with what it has started, and takes away all rules that any of them made: the
    /// node is the bench's own namespace.
    pub(crate) fn sweep(process: Process, node: &Host) {
        let group = Pid::from_raw(process.id().cast_signed());
        // An iptables-restore would go on for minutes.
        killpg(group, Signal::SIGKILL).expect("the proxy runs in a group of its own");
        drop(process);
        node.output("nft", &["flush", "ruleset"]);
        for family in ["iptables-legacy-restore", "ip6tables-legacy-restore"] {
            node.feed(family, &[], "*nat\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n");
        }
        node.output("ipset", &["destroy"]);
        node.netns().output("conntrack", &["-F"]);
    }
}

/// A folder in which `iptables` is iptables-legacy.
fn legacy(folder: &Path) -> PathBuf {
    let folder = folder.join("legacy");
    std::fs::create_dir_all(&folder).expect("the bench's folder can be written to");
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let program = privilege::find(&format!("{family}-legacy{suffix}"));
            let link = folder.join(format!("{family}{suffix}"));
            let _ = std::fs::remove_file(&link);
            symlink(program.expect("iptables-legacy is installed"), link).expect("a new name");
        }
    }
    folder
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streamvs => "streamvs, open connection",
            Self::StreamvsConnections => "streamvs, new connections",
            Self::Iptables => "kube-proxy iptables",
            Self::IptablesLegacy => "kube-proxy iptables-legacy",
            Self::Nftables => "kube-proxy nftables",
        })
    }
}
