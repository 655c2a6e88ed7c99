//! Every flag of kube-proxy, every field of its configuration file, and what becomes of each.

use super::kind::Kind;

/// A flag, a field, or both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// In the file, with dots; empty: a flag only.
    pub(crate) field: &'static str,
    /// kube-proxy's flag, without dashes; empty: a field only.
    pub(crate) flag: &'static str,
    pub(crate) kind: Kind,
    /// kube-proxy's own default, as JSON.
    pub(crate) default: &'static str,
    pub(crate) here: Here,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Here {
    /// The argument of [`RunOptions`](crate::cli::RunOptions) with this name says the same.
    Used(&'static str),
    /// Accepted and has no effect, for this reason.
    Ignored(&'static str),
    /// Anything but the default is refused, for this reason.
    Refused(&'static str),
}

impl Setting {
    /// As a person knows it: the field, or the flag where there is none.
    pub(crate) fn name(&self) -> String {
        if self.field.is_empty() { format!("--{}", self.flag) } else { self.field.to_owned() }
    }

    /// kube-proxy's default.
    pub(crate) fn default(&self) -> serde_json::Value {
        serde_json::from_str(self.default).expect("each default is JSON")
    }
}

/// A setting of one field. None: there is no such field.
pub(crate) fn of_field(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| !setting.field.is_empty() && setting.field == path)
}

/// Fields begin with this one and a dot.
pub(crate) fn is_section(path: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.field.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

const fn setting(
    field: &'static str,
    flag: &'static str,
    kind: Kind,
    default: &'static str,
    here: Here,
) -> Setting {
    Setting { field, flag, kind, default, here }
}

const AT_ONCE: &str = "changes of endpoints apply at once; the kernel gets only what differs";
const CONNTRACK: &str = "kernel-wide limits are left to kube-proxy or to sysctl";
const BE_LIBERAL: &str =
    "nothing here drops what conntrack calls invalid, and the kernel's setting is left to sysctl";
const UDP: &str =
    "UDP is kube-proxy's, or the kernel's with --kube-proxy-replacement, by its own time-outs";
const LOCAL: &str = "pods are told by their addresses: --cluster-cidr, --pod-cidrs, or the Node's \
                     pod ranges";
const SNAT: &str = "of the node's addresses endpoints see the one the kernel takes";
const NODE_PORT: &str = "--nodeport-addresses says whether loopback serves node ports";
const CLIENT: &str = "the client of the API server here chooses by itself";
const LOG_FILE: &str = "the log goes to standard error";
const LOG_BUFFER: &str = "log lines are written as they come";
const WINDOWS: &str = "streamvs runs on Linux only";
const IPVS: &str = "there is no IPVS here: no kube-ipvs0 device and no IPVS rules to clean up";

/// In the order of kube-proxy's documentation of its file; flags without a field last.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "featureGates",
        "feature-gates",
        Kind::Gates,
        "{}",
        Here::Ignored("gates are of kube-proxy's own features; there are none here"),
    ),
    setting(
        "clientConnection.kubeconfig",
        "kubeconfig",
        Kind::Text,
        "\"\"",
        Here::Used("kubeconfig"),
    ),
    setting("clientConnection.acceptContentTypes", "", Kind::Text, "\"\"", Here::Ignored(CLIENT)),
    setting(
        "clientConnection.contentType",
        "kube-api-content-type",
        Kind::Text,
        "\"application/vnd.kubernetes.protobuf\"",
        Here::Ignored(CLIENT),
    ),
    setting("clientConnection.qps", "kube-api-qps", Kind::Number, "5", Here::Ignored(CLIENT)),
    setting("clientConnection.burst", "kube-api-burst", Kind::Integer, "10", Here::Ignored(CLIENT)),
    setting(
        "logging.format",
        "logging-format",
        Kind::LogFormat,
        "\"text\"",
        Here::Used("log_format"),
    ),
    setting("logging.verbosity", "v", Kind::Integer, "0", Here::Used("verbosity")),
    setting(
        "logging.vmodule",
        "vmodule",
        Kind::Anything,
        "[]",
        Here::Ignored("verbosity is of the whole program"),
    ),
    setting(
        "logging.flushFrequency",
        "log-flush-frequency",
        Kind::Anything,
        "\"5s\"",
        Here::Ignored(LOG_BUFFER),
    ),
    setting("logging.options", "", Kind::Anything, "{}", Here::Ignored(LOG_BUFFER)),
    setting(
        "hostnameOverride",
        "hostname-override",
        Kind::Text,
        "\"\"",
        Here::Used("hostname_override"),
    ),
    setting(
        "bindAddress",
        "bind-address",
        Kind::Address,
        "\"0.0.0.0\"",
        Here::Used("bind_address"),
    ),
    setting(
        "healthzBindAddress",
        "healthz-bind-address",
        Kind::BindAddress,
        "\"0.0.0.0:10256\"",
        Here::Used("healthz_bind_address"),
    ),
    setting(
        "metricsBindAddress",
        "metrics-bind-address",
        Kind::BindAddress,
        "\"127.0.0.1:10249\"",
        Here::Used("metrics_bind_address"),
    ),
    setting(
        "bindAddressHardFail",
        "bind-address-hard-fail",
        Kind::Bool,
        "false",
        Here::Used("bind_address_hard_fail"),
    ),
    setting(
        "enableProfiling",
        "profiling",
        Kind::Bool,
        "false",
        Here::Ignored("there are no pprof pages, as this is no Go program; use perf"),
    ),
    setting(
        "showHiddenMetricsForVersion",
        "show-hidden-metrics-for-version",
        Kind::Text,
        "\"\"",
        Here::Ignored("no metric is hidden"),
    ),
    setting("mode", "proxy-mode", Kind::Mode, "\"\"", Here::Used("proxy_mode")),
    setting(
        "iptables.masqueradeBit",
        "iptables-masquerade-bit",
        Kind::Integer,
        "14",
        Here::Used("iptables_masquerade_bit"),
    ),
    setting(
        "iptables.masqueradeAll",
        "masquerade-all",
        Kind::Bool,
        "false",
        Here::Used("masquerade_all"),
    ),
    setting(
        "iptables.localhostNodePorts",
        "iptables-localhost-nodeports",
        Kind::Bool,
        "true",
        Here::Ignored(NODE_PORT),
    ),
    setting("iptables.snatNodeInternalIP", "", Kind::Bool, "false", Here::Ignored(SNAT)),
    setting(
        "iptables.syncPeriod",
        "iptables-sync-period",
        Kind::Duration,
        "\"30s\"",
        Here::Used("iptables_sync_period"),
    ),
    setting(
        "iptables.minSyncPeriod",
        "iptables-min-sync-period",
        Kind::Duration,
        "\"1s\"",
        Here::Ignored(AT_ONCE),
    ),
    setting(
        "ipvs.syncPeriod",
        "ipvs-sync-period",
        Kind::Duration,
        "\"30s\"",
        Here::Used("iptables_sync_period"),
    ),
    setting(
        "ipvs.minSyncPeriod",
        "ipvs-min-sync-period",
        Kind::Duration,
        "\"1s\"",
        Here::Ignored(AT_ONCE),
    ),
    setting(
        "ipvs.scheduler",
        "ipvs-scheduler",
        Kind::Scheduler,
        "\"\"",
        Here::Used("ipvs_scheduler"),
    ),
    setting("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", Kind::List, "[]", Here::Ignored(IPVS)),
    setting("ipvs.strictARP", "ipvs-strict-arp", Kind::Bool, "false", Here::Ignored(IPVS)),
    setting(
        "ipvs.tcpTimeout",
        "ipvs-tcp-timeout",
        Kind::Duration,
        "\"0s\"",
        Here::Used("ipvs_tcp_timeout"),
    ),
    setting(
        "ipvs.tcpFinTimeout",
        "ipvs-tcpfin-timeout",
        Kind::Duration,
        "\"0s\"",
        Here::Used("ipvs_tcpfin_timeout"),
    ),
    setting("ipvs.udpTimeout", "ipvs-udp-timeout", Kind::Duration, "\"0s\"", Here::Ignored(UDP)),
    setting(
        "nftables.masqueradeBit",
        "",
        Kind::Integer,
        "14",
        Here::Used("iptables_masquerade_bit"),
    ),
    setting("nftables.masqueradeAll", "", Kind::Bool, "false", Here::Used("masquerade_all")),
    setting(
        "nftables.syncPeriod",
        "",
        Kind::Duration,
        "\"30s\"",
        Here::Used("iptables_sync_period"),
    ),
    setting("nftables.minSyncPeriod", "", Kind::Duration, "\"1s\"", Here::Ignored(AT_ONCE)),
    setting("winkernel.networkName", "", Kind::Text, "\"\"", Here::Ignored(WINDOWS)),
    setting("winkernel.sourceVip", "", Kind::Text, "\"\"", Here::Ignored(WINDOWS)),
    setting("winkernel.enableDSR", "", Kind::Bool, "false", Here::Ignored(WINDOWS)),
    setting("winkernel.rootHnsEndpointName", "", Kind::Text, "\"\"", Here::Ignored(WINDOWS)),
    setting("winkernel.forwardHealthCheckVip", "", Kind::Bool, "false", Here::Ignored(WINDOWS)),
    setting(
        "detectLocalMode",
        "detect-local-mode",
        Kind::LocalMode,
        "\"ClusterCIDR\"",
        Here::Ignored(LOCAL),
    ),
    setting(
        "detectLocal.bridgeInterface",
        "pod-bridge-interface",
        Kind::Text,
        "\"\"",
        Here::Ignored(LOCAL),
    ),
    setting(
        "detectLocal.interfaceNamePrefix",
        "pod-interface-name-prefix",
        Kind::Text,
        "\"\"",
        Here::Ignored(LOCAL),
    ),
    setting("clusterCIDR", "cluster-cidr", Kind::Text, "\"\"", Here::Used("cluster_cidr")),
    setting(
        "nodePortAddresses",
        "nodeport-addresses",
        Kind::List,
        "[]",
        Here::Used("nodeport_addresses"),
    ),
    setting("oomScoreAdj", "oom-score-adj", Kind::OomScore, "-999", Here::Used("oom_score_adj")),
    setting(
        "conntrack.maxPerCore",
        "conntrack-max-per-core",
        Kind::Integer,
        "32768",
        Here::Ignored(CONNTRACK),
    ),
    setting("conntrack.min", "conntrack-min", Kind::Integer, "131072", Here::Ignored(CONNTRACK)),
    setting("conntrack.max", "", Kind::Integer, "0", Here::Ignored(CONNTRACK)),
    setting(
        "conntrack.tcpEstablishedTimeout",
        "conntrack-tcp-timeout-established",
        Kind::Duration,
        "\"24h0m0s\"",
        Here::Ignored(CONNTRACK),
    ),
    setting(
        "conntrack.tcpCloseWaitTimeout",
        "conntrack-tcp-timeout-close-wait",
        Kind::Duration,
        "\"1h0m0s\"",
        Here::Ignored(CONNTRACK),
    ),
    setting(
        "conntrack.tcpBeLiberal",
        "conntrack-tcp-be-liberal",
        Kind::Bool,
        "false",
        Here::Ignored(BE_LIBERAL),
    ),
    setting(
        "conntrack.udpTimeout",
        "conntrack-udp-timeout",
        Kind::Duration,
        "\"0s\"",
        Here::Ignored(CONNTRACK),
    ),
    setting(
        "conntrack.udpStreamTimeout",
        "conntrack-udp-timeout-stream",
        Kind::Duration,
        "\"0s\"",
        Here::Ignored(CONNTRACK),
    ),
    setting(
        "configSyncPeriod",
        "config-sync-period",
        Kind::Duration,
        "\"15m0s\"",
        Here::Ignored("objects are watched, and nothing is asked for again by the clock"),
    ),
    setting(
        "portRange",
        "",
        Kind::Text,
        "\"\"",
        Here::Ignored("it was of the userspace mode, and kube-proxy ignores it too"),
    ),
    setting(
        "udpIdleTimeout",
        "",
        Kind::Duration,
        "\"0s\"",
        Here::Ignored("it was of the userspace mode, and kube-proxy ignores it too"),
    ),
    setting(
        "resourceContainer",
        "",
        Kind::Text,
        "\"\"",
        Here::Ignored("kube-proxy has removed it"),
    ),
    setting("windowsRunAsService", "", Kind::Bool, "false", Here::Refused(WINDOWS)),
    setting("", "config", Kind::Text, "\"\"", Here::Used("config")),
    setting("", "write-config-to", Kind::Text, "\"\"", Here::Used("write_config_to")),
    setting("", "cleanup", Kind::Bool, "false", Here::Used("cleanup")),
    setting("", "init-only", Kind::Bool, "false", Here::Used("init_only")),
    setting("", "healthz-port", Kind::Integer, "10256", Here::Used("healthz_port")),
    setting("", "metrics-port", Kind::Integer, "10249", Here::Used("metrics_port")),
    setting("", "master", Kind::Text, "\"\"", Here::Used("master")),
    setting("", "logtostderr", Kind::Bool, "true", Here::Ignored(LOG_FILE)),
    setting("", "alsologtostderr", Kind::Bool, "true", Here::Ignored(LOG_FILE)),
    setting("", "stderrthreshold", Kind::Text, "\"0\"", Here::Ignored(LOG_FILE)),
    setting("", "log-dir", Kind::Text, "\"\"", Here::Ignored(LOG_FILE)),
    setting("", "log-file", Kind::Text, "\"\"", Here::Ignored(LOG_FILE)),
    setting("", "log-file-max-size", Kind::Integer, "1800", Here::Ignored(LOG_FILE)),
    setting("", "one-output", Kind::Bool, "false", Here::Ignored(LOG_FILE)),
    setting(
        "",
        "add-dir-header",
        Kind::Bool,
        "false",
        Here::Ignored("log lines have no place in the source"),
    ),
    setting(
        "",
        "skip-headers",
        Kind::Bool,
        "false",
        Here::Ignored("log lines always say when and how bad"),
    ),
    setting("", "skip-log-headers", Kind::Bool, "true", Here::Ignored(LOG_FILE)),
    setting(
        "",
        "log-backtrace-at",
        Kind::Text,
        "\":0\"",
        Here::Ignored("log lines have no place in the source"),
    ),
    setting("", "log-json-info-buffer-size", Kind::Text, "\"0\"", Here::Ignored(LOG_BUFFER)),
    setting("", "log-json-split-stream", Kind::Bool, "false", Here::Ignored(LOG_FILE)),
    setting("", "log-text-info-buffer-size", Kind::Text, "\"0\"", Here::Ignored(LOG_BUFFER)),
    setting("", "log-text-split-stream", Kind::Bool, "false", Here::Ignored(LOG_FILE)),
];
