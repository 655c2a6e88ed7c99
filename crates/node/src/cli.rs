//! The command line. Names are kube-proxy's where the meaning is the same; docs/flags.md has the
//! whole list.

mod run;
pub(crate) mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use run::{
    CaptureMode, ClientIp, DeadManSwitch, HandoverMode, Http2Engine, IptablesBackend, RunOptions,
    Seccomp,
};
pub(crate) use values::NodePortAddresses;

/// Where `run` and `list` meet unless told otherwise.
const ADMIN_SOCKET: &str = "/run/streamvs/admin.sock";

/// Where `run` keeps the last good table unless told otherwise.
const STATE_FILE: &str = "/var/lib/streamvs/state";

/// Balances Kubernetes Services on this node: gRPC by stream, all other TCP by connection.
#[derive(Debug, Parser)]
#[command(name = "streamvs", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent
    #[command(args_override_self = true)]
    Run(Box<RunOptions>),
    /// Show Services, their endpoints and what is on each, like `ipvsadm -Ln`
    List(ListOptions),
    /// Show the busiest Services and their endpoints, again and again
    Top(TopOptions),
    /// Say which endpoints of a Service are used from this node, and why the others are not
    Explain(ExplainOptions),
    /// Say whether this node is fit, and what to do where it is not
    Check(CheckOptions),
    /// Remove every rule, set and route of streamvs from this node, and nothing else
    Cleanup(CleanupOptions),
}

#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Form of the log on standard error
    #[arg(long, visible_alias = "logging-format", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Verbosity: error, warn, info, debug, trace, or 0 to 10 as kube-proxy counts
    /// (up to 2 info, up to 4 debug, then trace)
    #[arg(short, long = "v", value_name = "LEVEL", default_value = "info", value_parser = values::level)]
    pub(crate) verbosity: tracing::Level,
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Totals since start: connections, streams, failures
    #[arg(long, conflicts_with = "rate")]
    pub(crate) stats: bool,

    /// Connections and streams a second, measured over one second
    #[arg(long)]
    pub(crate) rate: bool,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,

    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TopOptions {
    /// Between two screens
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::sync_period)]
    pub(crate) interval: Duration,

    /// Print what happened in one interval, and end
    #[arg(long)]
    pub(crate) once: bool,

    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainOptions {
    /// The Service; without a namespace, one in `default`
    #[arg(value_name = "[NAMESPACE/]SERVICE", value_parser = values::service_name)]
    pub(crate) service: values::ServiceArgument,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,

    /// The agent's socket
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = OutputFormat::Text)]
    pub(crate) output: OutputFormat,

    /// Which iptables the agent shall use
    #[arg(long, value_enum, default_value_t = IptablesBackend::Auto)]
    pub(crate) iptables_backend: IptablesBackend,

    /// The agent's port for captured connections
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen_port: u16,

    /// Its port of /healthz
    #[arg(long, value_name = "PORT", default_value_t = 10256)]
    pub(crate) healthz_port: u16,

    /// Its port of /metrics
    #[arg(long, value_name = "PORT", default_value_t = 10249)]
    pub(crate) metrics_port: u16,

    /// Where network plug-ins have their configuration
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) cni_conf_dir: PathBuf,

    /// The agent's socket, if one runs
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupOptions {
    /// Instead, remove what a kube-proxy that is gone has left: its chains in iptables, its tables
    /// in nftables; refused while somebody else answers on kube-proxy's ports
    #[arg(long)]
    pub(crate) kube_proxy: bool,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    Text,
    Json,
}
