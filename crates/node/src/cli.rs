//! The command line. Names are kube-proxy's where the meaning is the same; docs/flags.md has the
//! whole list.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use streamvs_balance::SchedulerName;

/// Where `run` and `list` meet unless told otherwise.
const ADMIN_SOCKET: &str = "/run/streamvs/admin.sock";

/// Balances Kubernetes Services on this node: gRPC by stream, all other TCP by connection.
#[derive(Debug, Parser)]
#[command(name = "streamvs", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node agent
    Run(Box<RunOptions>),
    /// Show Services, their endpoints and what is on each, like `ipvsadm -Ln`
    List(ListOptions),
    /// Remove every rule, set and route of streamvs from this node, and nothing else
    Cleanup(CleanupOptions),
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Directory of *.yaml, *.yml and *.json files with Services, EndpointSlices and Nodes;
    /// watched, and live within 100 ms of a change
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: PathBuf,

    /// Scheduler of Services without the annotation streamvs.io/scheduler
    #[arg(long, value_name = "NAME", default_value = "rr", value_parser = parse_scheduler)]
    pub(crate) ipvs_scheduler: SchedulerName,

    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) hostname_override: Option<String>,

    /// Own only Services labelled service.kubernetes.io/service-proxy-name=NAME
    /// [default: those without the label]
    #[arg(long, value_name = "NAME")]
    pub(crate) service_proxy_name: Option<String>,

    /// How traffic to Services reaches the listener; none leaves that to somebody else
    #[arg(long, value_enum, default_value_t = CaptureMode::Iptables)]
    pub(crate) capture: CaptureMode,

    /// Which iptables to use
    #[arg(long, value_enum, default_value_t = IptablesBackend::Auto)]
    pub(crate) iptables_backend: IptablesBackend,

    /// How often the kernel's rules are compared with what they should be, at most 30s
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_sync_period)]
    pub(crate) iptables_sync_period: Duration,

    /// Port of the listener that captured connections are redirected to
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen_port: u16,

    /// Mark (SO_MARK) of our own connections to endpoints, by which they are not captured
    /// [default: 0x1, or none with --capture none]
    #[arg(long, value_name = "MARK", value_parser = parse_mark)]
    pub(crate) upstream_mark: Option<u32>,

    /// Service address ranges, routed so that host processes reach them on nodes without a
    /// default route [default: a route for each ClusterIP that has none]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,

    /// Worker threads of the data path [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,

    /// HTTP/2 engine
    #[arg(long, value_enum, default_value_t = Http2Engine::H2)]
    pub(crate) http2_engine: Http2Engine,

    /// Close a plain connection without a byte for this long; 0 leaves that to keepalive
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub(crate) ipvs_tcp_timeout: Duration,

    /// The same after one side has closed its half
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) ipvs_tcpfin_timeout: Duration,

    /// Address of /healthz and /livez
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:10256")]
    pub(crate) healthz_bind_address: SocketAddr,

    /// Address of /metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10249")]
    pub(crate) metrics_bind_address: SocketAddr,

    /// Exit when one of these two cannot be bound, instead of trying again every 5 s
    #[arg(long)]
    pub(crate) bind_address_hard_fail: bool,

    /// Unix socket of `streamvs list`
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,

    /// How long connections may take to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) drain_timeout: Duration,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Verbosity: error, warn, info, debug, trace, or 0 to 10 as kube-proxy counts
    /// (up to 2 info, up to 4 debug, then trace)
    #[arg(short, value_name = "LEVEL", default_value = "info", value_parser = parse_level)]
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
pub(crate) struct CleanupOptions {
    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaptureMode {
    /// ipset and REDIRECT
    Iptables,
    /// No rules of ours
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IptablesBackend {
    /// The one this node uses already
    Auto,
    /// iptables-nft
    Nft,
    /// iptables-legacy
    Legacy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Http2Engine {
    /// Frames carried from one connection to another
    Switch,
    /// Two endpoints of the `h2` crate for each stream
    H2,
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

fn parse_scheduler(name: &str) -> Result<SchedulerName, String> {
    name.parse().map_err(|error: streamvs_balance::UnknownScheduler| error.to_string())
}

fn parse_mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) | Err(_) => Err("a number from 1 to 0xffffffff is needed".to_owned()),
        Ok(mark) => Ok(mark),
    }
}

fn parse_sync_period(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if period.is_zero() || period > Duration::from_secs(30) {
        return Err("more than 0s and at most 30s is needed".to_owned());
    }
    Ok(period)
}

fn parse_level(text: &str) -> Result<tracing::Level, String> {
    if let Ok(count) = text.parse::<u8>() {
        return Ok(match count {
            0..=2 => tracing::Level::INFO,
            3..=4 => tracing::Level::DEBUG,
            _ => tracing::Level::TRACE,
        });
    }
    text.parse().map_err(|_| "error, warn, info, debug, trace or a number is needed".to_owned())
}

#[cfg(test)]
mod tests {
    //! Aim: wrong usage is refused with a reason that helps.

    use clap::Parser;

    use super::{Cli, parse_level};

    fn refused(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from(arguments).expect_err("is refused");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn unknown_scheduler_is_refused_with_the_list() {
        let message =
            refused(&["streamvs", "run", "--manifests", "m", "--ipvs-scheduler", "fastest"]);
        for name in ["fastest", "rr", "lc", "random", "twos"] {
            assert!(message.contains(name), "{name} in {message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for arguments in [
            &["--upstream-mark", "0"][..],
            &["--iptables-sync-period", "31s"],
            &["--listen-port", "0"],
            &["--workers", "0"],
            &["--capture", "ebpf"],
            &["--service-cidrs", "10.96.0.0"],
        ] {
            let mut all = vec!["streamvs", "run", "--manifests", "m"];
            all.extend(arguments);
            refused(&all);
        }
    }

    #[test]
    fn verbosity_is_a_name_or_kube_proxys_number() {
        for (text, level) in [
            ("2", tracing::Level::INFO),
            ("4", tracing::Level::DEBUG),
            ("6", tracing::Level::TRACE),
            ("warn", tracing::Level::WARN),
        ] {
            assert_eq!(parse_level(text), Ok(level));
        }
        assert!(parse_level("loud").is_err());
    }
}
