//! Every metric there is: name, type, labels and meaning, in the order of exposition.

use prometheus_client::metrics::MetricType;

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As scraped: a counter's ends in `_total`, an info's in `_info`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// The keys of its labels.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// The name without what OpenMetrics appends for the type.
    pub(crate) fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            MetricType::Counter => "_total",
            MetricType::Info => "_info",
            _ => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricType::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricType::Gauge, labels, help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricType::Histogram, labels, help }
}

const SERVICE: &[&str] = &["namespace", "service", "port"];
const ENDPOINT: &[&str] = &["namespace", "service", "port", "endpoint"];

/// Captured connections by what they carried.
pub const CONNECTIONS: Metric = counter(
    "streamvs_connections_total",
    &["namespace", "service", "port", "protocol"],
    "Captured connections by what they carried.",
);

/// Captured connections open now.
pub const ACTIVE_CONNECTIONS: Metric =
    gauge("streamvs_active_connections", SERVICE, "Captured connections open now.");

/// Streams given to an endpoint.
pub const STREAMS: Metric =
    counter("streamvs_streams_total", ENDPOINT, "HTTP/2 streams given to the endpoint.");

/// Streams open at an endpoint now.
pub const ACTIVE_STREAMS: Metric =
    gauge("streamvs_active_streams", ENDPOINT, "HTTP/2 streams open at the endpoint now.");

/// Old streams open at an endpoint now.
pub const OLD_STREAMS: Metric = gauge(
    "streamvs_old_streams",
    ENDPOINT,
    "HTTP/2 streams open at the endpoint now that began more than five minutes ago.",
);

/// Connections given to an endpoint.
pub const ENDPOINT_CONNECTIONS: Metric = counter(
    "streamvs_endpoint_connections_total",
    ENDPOINT,
    "Connections balanced as a whole and given to the endpoint.",
);

/// Connections open at an endpoint now.
pub const ENDPOINT_ACTIVE_CONNECTIONS: Metric = gauge(
    "streamvs_endpoint_active_connections",
    ENDPOINT,
    "Connections balanced as a whole and open at the endpoint now.",
);

/// Ended gRPC streams by status.
pub const GRPC_RESPONSES: Metric = counter(
    "streamvs_grpc_responses_total",
    &["namespace", "service", "port", "endpoint", "grpc_status"],
    "Ended gRPC streams by grpc-status; other stands for one above 16 and for none.",
);

/// How long streams lasted.
pub const STREAM_DURATION: Metric = histogram(
    "streamvs_stream_duration_seconds",
    ENDPOINT,
    "From the choice of the endpoint to the end of the stream.",
);

/// Failed dials.
pub const CONNECT_FAILURES: Metric = counter(
    "streamvs_connect_failures_total",
    &["namespace", "service", "port", "endpoint", "reason"],
    "Dials to the endpoint that failed.",
);

/// What spoke against endpoints.
pub const ENDPOINT_FAULTS: Metric = counter(
    "streamvs_endpoint_faults_total",
    &["namespace", "service", "port", "endpoint", "reason"],
    "What spoke against the endpoint; several without an answer between them eject it.",
);

/// Times endpoints were ejected.
pub const ENDPOINT_EJECTIONS: Metric = counter(
    "streamvs_endpoint_ejections_total",
    ENDPOINT,
    "Times that the endpoint was passed over for a while, as it had failed in a row.",
);

/// Endpoints ejected now.
pub const EJECTED_ENDPOINTS: Metric = gauge(
    "streamvs_ejected_endpoints",
    SERVICE,
    "Endpoints that are passed over now, as they have failed in a row.",
);

/// Moves to a second endpoint.
pub const REPLAYS: Metric = counter(
    "streamvs_replays_total",
    &["namespace", "service", "port", "reason"],
    "Streams and connections moved to another endpoint, since the first could not have acted.",
);

/// Moves that were too many.
pub const REPLAY_BUDGET_EXHAUSTED: Metric = counter(
    "streamvs_replay_budget_exhausted_total",
    &["namespace", "service", "port"],
    "Streams that were answered as unavailable in place of being moved, as too many others were.",
);

/// From accept to verdict.
pub const DETECT: Metric = histogram(
    "streamvs_detect_seconds",
    &["namespace", "service", "port", "verdict"],
    "From accept until it was known what the connection carries.",
);

/// Relayed payload.
pub const BYTES: Metric = counter(
    "streamvs_bytes_total",
    &["namespace", "service", "port", "direction"],
    "Payload bytes relayed.",
);

/// Nothing left to choose.
pub const NO_ENDPOINT: Metric = counter(
    "streamvs_no_endpoint_total",
    SERVICE,
    "Connections and streams for which no endpoint was left.",
);

/// gRPC hidden by TLS.
pub const TLS_H2: Metric = counter(
    "streamvs_tls_h2_connections_total",
    SERVICE,
    "TLS connections whose client offered h2, which cannot be balanced by stream.",
);

/// Streams kept out by a limit.
pub const LIMITED_STREAMS: Metric = counter(
    "streamvs_limited_streams_total",
    &["namespace", "service", "port", "reason"],
    "Streams that a limit refused or ended.",
);

/// Connections ended by a limit.
pub const LIMITED_CONNECTIONS: Metric = counter(
    "streamvs_limited_connections_total",
    &["namespace", "service", "port", "reason"],
    "HTTP/2 connections of clients that a limit ended.",
);

/// Streams that came late.
pub const LAST_STREAM_AFTER_REMOVAL: Metric = histogram(
    "streamvs_last_stream_after_removal_seconds",
    SERVICE,
    "How late after an endpoint was removed a stream was still started there.",
);

/// The table's generation.
pub const TABLE_GENERATION: Metric = gauge(
    "streamvs_table_generation",
    &[],
    "Generation of the table in use; counts up with each visible change.",
);

/// From change to swap.
pub const TABLE_SWAP: Metric = histogram(
    "streamvs_table_swap_seconds",
    &[],
    "From a change being learnt to every new connection and stream seeing it.",
);

/// Where the table's knowledge is from.
pub const TABLE_SOURCE: Metric = gauge(
    "streamvs_table_source",
    &["source"],
    "1 for where the knowledge in the table in use is from, 0 for the others.",
);

/// Whether changes arrive.
pub const WATCH_WORKS: Metric = gauge(
    "streamvs_watch_works",
    &["kind"],
    "1 while changes of this kind of objects arrive from the API server.",
);

/// Failed requests to the API server.
pub const WATCH_FAILURES: Metric = counter(
    "streamvs_watch_failures_total",
    &["kind"],
    "Lists and watches of the API server that failed and were tried again.",
);

/// Writes of the state file.
pub const STATE_SAVES: Metric = counter(
    "streamvs_state_saves_total",
    &["result"],
    "Times the state file was written, or could not be.",
);

/// Repaired kernel rules.
pub const CAPTURE_REPAIRS: Metric = counter(
    "streamvs_capture_repairs_total",
    &[],
    "Kernel rules of ours that others had changed and that were put back.",
);

/// Whether clients are seen as themselves.
pub const CLIENT_IP_KEPT: Metric = gauge(
    "streamvs_client_ip_kept",
    &["ip_family"],
    "1 while endpoints see the addresses of this node's pods, 0 while they see the node's.",
);

/// Whether system calls are filtered.
pub const SYSTEM_CALLS_REFUSED: Metric = gauge(
    "streamvs_system_calls_refused",
    &[],
    "1 while system calls that nobody here needs fail, 0 while there is no such filter.",
);

/// Connections turned away at the listener.
pub const REFUSED_CONNECTIONS: Metric = counter(
    "streamvs_refused_connections_total",
    &["reason"],
    "Accepted connections that were closed at once.",
);

/// The memory ceiling.
pub const MEMORY_LIMIT: Metric = gauge(
    "streamvs_memory_limit_bytes",
    &[],
    "The memory that the agent keeps itself below by refusing work.",
);

/// What counts against it.
pub const MEMORY_COUNTED: Metric =
    gauge("streamvs_memory_counted_bytes", &[], "The memory that counts against the limit.");

/// What is given up for want of memory.
pub const MEMORY_SHED: Metric =
    gauge("streamvs_memory_shed", &["what"], "1 while this is given up, since memory is short.");

/// Which build runs.
pub const BUILD: Metric = Metric {
    name: "streamvs_build_info",
    kind: MetricType::Info,
    labels: &["version"],
    help: "The version that runs.",
};

/// Duration of a sync of kernel rules.
pub const SYNC_DURATION: Metric = histogram(
    "kubeproxy_sync_proxy_rules_duration_seconds",
    &["ip_family"],
    "How long bringing the kernel's rules up to date took.",
);

/// Duration of a sync of all kernel rules.
pub const SYNC_FULL: Metric = histogram(
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    &["ip_family"],
    "How long bringing all of the kernel's rules up to date took.",
);

/// Duration of a sync of differences.
pub const SYNC_PARTIAL: Metric = histogram(
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    &["ip_family"],
    "How long bringing changed kernel rules up to date took.",
);

/// Flows of UDP that the kernel forgot.
pub const FLOWS_DELETED: Metric = counter(
    "kubeproxy_conntrack_reconciler_deleted_entries_total",
    &["ip_family"],
    "UDP flows that led to what is no endpoint any more, forgotten by the kernel.",
);

/// Duration of a look at the UDP flows.
pub const FLOWS_RECONCILED: Metric = histogram(
    "kubeproxy_conntrack_reconciler_sync_duration_seconds",
    &["ip_family"],
    "How long finding and forgetting such flows took.",
);

/// From a change in the cluster to its effect here.
pub const NETWORK_PROGRAMMING: Metric = histogram(
    "kubeproxy_network_programming_duration_seconds",
    &["ip_family"],
    "From the change of a pod or Service to new connections and streams being sent by it.",
);

/// Changes of slices that wait.
pub const ENDPOINT_CHANGES_PENDING: Metric = gauge(
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    &[],
    "Changes of EndpointSlices that are learnt and not applied.",
);

/// Changes of slices.
pub const ENDPOINT_CHANGES: Metric =
    counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", &[], "Changes of EndpointSlices.");

/// Changes of Services that wait.
pub const SERVICE_CHANGES_PENDING: Metric = gauge(
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    &[],
    "Changes of Services that are learnt and not applied.",
);

/// Changes of Services.
pub const SERVICE_CHANGES: Metric =
    counter("kubeproxy_sync_proxy_rules_service_changes_total", &[], "Changes of Services.");

/// ServicePorts that drop. A gauge, whatever its name says: kube-proxy's is one.
pub const NO_LOCAL_ENDPOINTS: Metric = gauge(
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    &["ip_family", "traffic_policy"],
    "ServicePorts with a Local traffic policy and endpoints on other nodes only.",
);

/// Time of the last sync.
pub const SYNC_LAST: Metric = gauge(
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    &["ip_family"],
    "When changes were last applied, in seconds since the epoch.",
);

/// Time of the last queued change.
pub const SYNC_LAST_QUEUED: Metric = gauge(
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    &["ip_family"],
    "When a change was last queued, in seconds since the epoch.",
);

/// Answers of `/healthz`.
pub const HEALTHZ: Metric =
    counter("kubeproxy_proxy_healthz_total", &["code"], "Answers of /healthz by status code.");

/// Answers of `/livez`.
pub const LIVEZ: Metric =
    counter("kubeproxy_proxy_livez_total", &["code"], "Answers of /livez by status code.");

/// Time on CPUs.
pub const PROCESS_CPU: Metric =
    counter("process_cpu_seconds_total", &[], "User and system time of all threads, in seconds.");

/// Open file descriptors.
pub const PROCESS_OPEN_FDS: Metric = gauge("process_open_fds", &[], "Open file descriptors.");

/// Limit of file descriptors.
pub const PROCESS_MAX_FDS: Metric =
    gauge("process_max_fds", &[], "The soft limit of open file descriptors.");

/// Resident memory.
pub const PROCESS_RESIDENT: Metric =
    gauge("process_resident_memory_bytes", &[], "Memory in RAM, in bytes.");

/// Virtual memory.
pub const PROCESS_VIRTUAL: Metric =
    gauge("process_virtual_memory_bytes", &[], "Memory mapped, in bytes.");

/// Threads.
pub const PROCESS_THREADS: Metric = gauge("process_threads", &[], "Threads of the process.");

/// Start of the process.
pub const PROCESS_START: Metric = gauge(
    "process_start_time_seconds",
    &[],
    "When the process started, in seconds since the epoch.",
);

/// The last answer of a probe, under `/metrics/slis`.
pub const HEALTHCHECK: Metric = gauge(
    "kubernetes_healthcheck",
    &["name", "type"],
    "Whether the last answer of /healthz or /livez was 200.",
);

/// Answers of the probes, under `/metrics/slis`.
pub const HEALTHCHECKS: Metric = counter(
    "kubernetes_healthchecks_total",
    &["name", "type", "status"],
    "Answers of /healthz and /livez by outcome.",
);

/// Those of `/metrics/slis`.
pub const SLIS: &[Metric] = &[HEALTHCHECK, HEALTHCHECKS];

/// All of `/metrics`.
pub const ALL: &[Metric] = &[
    CONNECTIONS,
    ACTIVE_CONNECTIONS,
    STREAMS,
    ACTIVE_STREAMS,
    OLD_STREAMS,
    ENDPOINT_CONNECTIONS,
    ENDPOINT_ACTIVE_CONNECTIONS,
    GRPC_RESPONSES,
    STREAM_DURATION,
    CONNECT_FAILURES,
    ENDPOINT_FAULTS,
    ENDPOINT_EJECTIONS,
    EJECTED_ENDPOINTS,
    REPLAYS,
    REPLAY_BUDGET_EXHAUSTED,
    DETECT,
    BYTES,
    NO_ENDPOINT,
    TLS_H2,
    LIMITED_STREAMS,
    LIMITED_CONNECTIONS,
    LAST_STREAM_AFTER_REMOVAL,
    TABLE_GENERATION,
    TABLE_SWAP,
    TABLE_SOURCE,
    WATCH_WORKS,
    WATCH_FAILURES,
    STATE_SAVES,
    CAPTURE_REPAIRS,
    CLIENT_IP_KEPT,
    SYSTEM_CALLS_REFUSED,
    REFUSED_CONNECTIONS,
    MEMORY_LIMIT,
    MEMORY_COUNTED,
    MEMORY_SHED,
    BUILD,
    SYNC_DURATION,
    SYNC_FULL,
    SYNC_PARTIAL,
    FLOWS_DELETED,
    FLOWS_RECONCILED,
    NETWORK_PROGRAMMING,
    ENDPOINT_CHANGES_PENDING,
    ENDPOINT_CHANGES,
    SERVICE_CHANGES_PENDING,
    SERVICE_CHANGES,
    NO_LOCAL_ENDPOINTS,
    SYNC_LAST,
    SYNC_LAST_QUEUED,
    HEALTHZ,
    LIVEZ,
    PROCESS_CPU,
    PROCESS_OPEN_FDS,
    PROCESS_MAX_FDS,
    PROCESS_RESIDENT,
    PROCESS_VIRTUAL,
    PROCESS_THREADS,
    PROCESS_START,
];
