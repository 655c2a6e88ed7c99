//! What may be asked of `streamvs run`, apart from those of kube-proxy's flags that have no effect
//! here: `kube_proxy::settings` has them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use streamvs_balance::SchedulerName;

use super::values::{self, BindAddress, MemoryLimit, NodePortAddresses};
use super::{ADMIN_SOCKET, LogOptions, STATE_FILE};

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Kubeconfig file by which to reach the API server
    /// [default: what a pod is given: KUBERNETES_SERVICE_HOST and the ServiceAccount's token]
    #[arg(long, value_name = "FILE", value_parser = values::path_or_none(), conflicts_with = "manifests")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// URL of the API server, instead of the kubeconfig's or the pod's
    #[arg(long, value_name = "URL", conflicts_with = "manifests")]
    pub(crate) master: Option<String>,

    /// Where the last good table is kept, for a start while the API server is away; an empty path
    /// keeps none
    #[arg(long, value_name = "PATH", value_parser = values::path_or_none(), default_value = STATE_FILE)]
    pub(crate) state_file: PathBuf,

    /// Instead of an API server: directory of *.yaml, *.yml and *.json files with Services,
    /// EndpointSlices and Nodes; watched, and live within 100 ms of a change
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,

    /// kube-proxy's configuration file (KubeProxyConfiguration, kubeproxy.config.k8s.io/v1alpha1);
    /// flags that are given as well win over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Write the configuration in force to a file, in kube-proxy's form, and end
    #[arg(long, value_name = "FILE")]
    pub(crate) write_config_to: Option<PathBuf>,

    /// The same as `streamvs cleanup`
    #[arg(long, hide = true, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) cleanup: bool,

    /// End at once: nothing needs to be set up beforehand
    #[arg(long, hide = true, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) init_only: bool,

    /// kube-proxy's mode. All are accepted and make no difference but for whose section of the
    /// configuration file has the sync period: --capture says how traffic gets here
    #[arg(long, value_enum, hide = true, default_value_t = ProxyMode::Unset)]
    pub(crate) proxy_mode: ProxyMode,

    /// Scheduler of Services without the annotation streamvs.io/scheduler
    #[arg(long, value_name = "NAME", default_value = "rr", value_parser = values::scheduler)]
    pub(crate) ipvs_scheduler: SchedulerName,

    /// This node's name [default: the host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub(crate) hostname_override: Option<String>,

    /// Own only Services labelled service.kubernetes.io/service-proxy-name=NAME
    /// [default: those without the label]
    #[arg(long, value_name = "NAME")]
    pub(crate) service_proxy_name: Option<String>,

    /// How traffic to Services reaches the listener; none leaves that to somebody else
    #[arg(long, value_enum, default_value_t = CaptureMode::Auto)]
    pub(crate) capture: CaptureMode,

    /// Serve UDP and SCTP too, in the kernel, and let the kernel balance TCP while this process is
    /// away: for nodes without kube-proxy. Next to kube-proxy leave it off
    #[arg(long, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) kube_proxy_replacement: bool,

    /// Which iptables to use
    #[arg(long, value_enum, default_value_t = IptablesBackend::Auto)]
    pub(crate) iptables_backend: IptablesBackend,

    /// Within which what others did to the kernel's rules is repaired; more than 30s is 30s
    #[arg(long, alias = "ipvs-sync-period", value_name = "DURATION", default_value = "30s", value_parser = values::sync_period)]
    pub(crate) iptables_sync_period: Duration,

    /// Port of the listener that captured connections are redirected to
    #[arg(long, value_name = "PORT", default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) listen_port: u16,

    /// Mark (SO_MARK) of our own connections to endpoints, by which they are not captured
    /// [default: 0x1, or none with --capture none]
    #[arg(long, value_name = "MARK", value_parser = values::mark)]
    pub(crate) upstream_mark: Option<u32>,

    /// What lets new connections pass us by, to whoever else handles Services, once we are dead
    /// or hang
    #[arg(long, value_enum, default_value_t = DeadManSwitch::Auto)]
    pub(crate) dead_man_switch: DeadManSwitch,

    /// How long after the last sign of life of every worker that happens; a dead process's own
    /// table goes at once
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = values::dead_man_timeout)]
    pub(crate) dead_man_timeout: Duration,

    /// By which address endpoints see clients that are pods of this node: their own, or the node's
    #[arg(long, value_enum, default_value_t = ClientIp::Keep)]
    pub(crate) client_ip: ClientIp,

    /// Ranges of this node's pods [default: spec.podCIDRs of its Node]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) pod_cidrs: Vec<IpNet>,

    /// Ranges that nobody uses, one a family and as large as the pods', by which --client-ip keep
    /// tells clients apart on this node
    #[arg(
        long,
        value_name = "CIDR,...",
        value_delimiter = ',',
        default_value = "198.18.0.0/15,fdf2:43cb:12db:8000::/49"
    )]
    pub(crate) client_ip_ranges: Vec<IpNet>,

    /// Let endpoints see the node's address, whoever the client is
    #[arg(long, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) masquerade_all: bool,

    /// Bit of the mark of packets that are to be masqueraded, in place of kube-proxy
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    pub(crate) iptables_masquerade_bit: u8,

    /// Service address ranges, routed so that host processes reach them on nodes without a
    /// default route [default: a route for each ClusterIP that has none]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) service_cidrs: Vec<IpNet>,

    /// Addresses of this node at which node ports are served: primary (the Node object's first
    /// InternalIP of each family), localhost, all, or ranges
    #[arg(long, value_name = "WHICH,...", value_delimiter = ',', default_value = "primary", value_parser = values::node_port_addresses)]
    pub(crate) nodeport_addresses: Vec<NodePortAddresses>,

    /// externalIPs to serve; others are not, since whoever may write a Service could take any
    /// address with them (CVE-2020-8554)
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) allow_external_ips: Vec<IpNet>,

    /// Where the cluster's pods are: their connections are from inside
    /// [default: the ranges of this node's pods]
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub(crate) cluster_cidr: Vec<IpNet>,

    /// Worker threads of the data path [default: one a core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,

    /// HTTP/2 engine
    #[arg(long, value_enum, default_value_t = Http2Engine::Switch)]
    pub(crate) http2_engine: Http2Engine,

    /// Pass over endpoints that fail again and again, for a time and never more than half of a
    /// Service's
    #[arg(long, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(crate) outlier_detection: bool,

    /// So many faults of an endpoint without an answer between them eject it
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) outlier_consecutive_faults: u32,

    /// For how long the first time; each next time is twice as long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::positive_duration)]
    pub(crate) outlier_base_ejection_time: Duration,

    /// For how long at most; after as long without a fault it is the first time again
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = values::positive_duration)]
    pub(crate) outlier_max_ejection_time: Duration,

    /// Memory that the process keeps itself below: when it is short, new connections pass by, then
    /// are reset, then new streams are refused; auto is the limit of its memory group, if any
    #[arg(long, value_name = "auto|none|BYTES", default_value = "auto", value_parser = values::memory_limit)]
    pub(crate) memory_limit: MemoryLimit,

    /// Connections that one client (source address) may have open; more are reset. 0: any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_connections_per_client: u32,

    /// Streams that one client (source address) may have open on all its connections; more are
    /// refused. 0: any number
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_streams_per_client: u32,

    /// End HTTP/2 streams that are older, so that their clients begin anew at another endpoint;
    /// give or take a tenth. 0: never. A Service may say otherwise
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::age)]
    pub(crate) max_stream_age: Duration,

    /// Ask clients whose HTTP/2 connections are older to make a new one; give or take a tenth.
    /// 0: never. A Service may say otherwise
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::age)]
    pub(crate) max_connection_age: Duration,

    /// How long the streams of such a connection may go on; 0 lets them end by themselves
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    pub(crate) max_connection_age_grace: Duration,

    /// For how long an endpoint that is new to a Service gets less than its share, at first a
    /// tenth; 0 is off
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    pub(crate) slow_start: Duration,

    /// Close a plain connection without a byte for this long; 0 leaves that to keepalive
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = values::duration)]
    pub(crate) ipvs_tcp_timeout: Duration,

    /// The same after one side has closed its half
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::duration)]
    pub(crate) ipvs_tcpfin_timeout: Duration,

    /// How long nothing comes from a peer before it is asked whether it is still there
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::keepalive)]
    pub(crate) tcp_keepalive_time: Duration,

    /// Between two such questions; the connection fails when net.ipv4.tcp_keepalive_probes of them
    /// are not answered
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::keepalive)]
    pub(crate) tcp_keepalive_interval: Duration,

    /// HTTP/2 connections fail when the peer acknowledges nothing for this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = values::user_timeout)]
    pub(crate) tcp_user_timeout: Duration,

    /// This node's address, of which only the family counts: it is that of the two defaults below
    #[arg(long, value_name = "ADDRESS", hide = true)]
    pub(crate) bind_address: Option<IpAddr>,

    /// Address of /healthz and /livez, empty for none [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::bind_address)]
    pub(crate) healthz_bind_address: Option<BindAddress>,

    /// Address of /metrics, empty for none [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::bind_address)]
    pub(crate) metrics_bind_address: Option<BindAddress>,

    /// Port of /healthz where its address has none; 0 for none
    #[arg(long, value_name = "PORT", hide = true)]
    pub(crate) healthz_port: Option<u16>,

    /// Port of /metrics where its address has none; 0 for none
    #[arg(long, value_name = "PORT", hide = true)]
    pub(crate) metrics_port: Option<u16>,

    /// Exit when one of these two cannot be bound, instead of trying again every 5 s
    #[arg(long, value_parser = values::boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) bind_address_hard_fail: bool,

    /// How ready the kernel is to kill this process for memory, from -1000 (never) to 1000
    #[arg(long, value_name = "N", default_value_t = -999, allow_hyphen_values = true, value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub(crate) oom_score_adj: i32,

    /// System calls that neither the agent nor iptables, ipset and nft need fail, for it and for
    /// whatever it runs; log lets them through, and the kernel logs them
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value_t = Seccomp::True, default_missing_value = "true")]
    pub(crate) seccomp: Seccomp,

    /// Unix socket of `streamvs list`
    #[arg(long, value_name = "PATH", default_value = ADMIN_SOCKET)]
    pub(crate) admin_socket: PathBuf,

    /// How long connections may take to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    pub(crate) drain_timeout: Duration,

    /// Take over from the agent behind the admin socket without losing a connection, and when
    /// another one takes over from us
    #[arg(long, value_enum, value_name = "HOW", default_value_t = HandoverMode::Exit)]
    pub(crate) handover: HandoverMode,

    #[command(flatten)]
    pub(crate) log: LogOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HandoverMode {
    /// Exit when the last stream has ended, or at the drain timeout
    Exit,
    /// Let streams go on, and stay idle until SIGTERM: for pods, which would be started again
    Stay,
    /// Neither take over nor hand over
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Seccomp {
    /// They fail
    True,
    /// No filter
    False,
    /// They are logged by the kernel
    Log,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaptureMode {
    /// nftables next to a kube-proxy in nftables mode, else iptables
    Auto,
    /// Rules of iptables, and ipsets
    Iptables,
    /// A table of nftables
    Nftables,
    /// No rules of ours
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeadManSwitch {
    /// The best one this kernel can do
    Auto,
    /// An nftables table that the kernel deletes with our process, and the lease (Linux 5.12)
    Owner,
    /// A lease that our workers renew
    Lease,
    /// Nothing
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientIp {
    /// Their own, where that works
    Keep,
    /// The node's
    Node,
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

/// kube-proxy's modes on Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProxyMode {
    /// Empty, which is iptables for kube-proxy.
    #[default]
    #[value(name = "")]
    Unset,
    /// iptables
    Iptables,
    /// ipvs
    Ipvs,
    /// nftables
    Nftables,
}
