//! From what was asked on the command line to what each stage is given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use streamvs_accept::{OnRefused, RefusalReason};
use streamvs_admin::{Addresses, NodeMetrics, Refusal};
use streamvs_balance::EjectionPolicy;
use streamvs_capture::{Backend, Gate, GateConfig, Switch, Tools};
use streamvs_relay::connect::{DialOptions, Keepalive};
use streamvs_relay::h2::Engine;
use streamvs_relay::{ClientLimits, Clients, Options};
use streamvs_table::MaxAge;
use streamvs_watch::{Access, KubernetesConfig, ManifestsConfig};

use crate::cli::values::{BindAddress, MAX_SYNC_PERIOD};
use crate::cli::{CaptureMode, ClientIp, DeadManSwitch, Http2Engine, IptablesBackend, RunOptions};
use crate::client_ip::Wish;
use crate::error::Error;
use crate::reach::{Reach, addresses_of_node};

/// A bit that neither kube-proxy nor the common network plugins use.
pub(crate) const DEFAULT_MARK: u32 = 0x1;

/// kube-proxy's port of health pages.
const HEALTHZ_PORT: u16 = 10256;

/// kube-proxy's port of metrics.
const METRICS_PORT: u16 = 10249;

/// kube-proxy's rule: the override, else the host name, trimmed and in lower case.
pub(crate) fn node_name(options: &RunOptions) -> Result<Arc<str>, Error> {
    let name = match options.hostname_override.as_deref().filter(|name| !name.trim().is_empty()) {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname()
            .map_err(|error| Error::HostName(error.into()))?
            .to_string_lossy()
            .into_owned(),
    };
    Ok(name.trim().to_lowercase().into())
}

pub(crate) fn sync_period(options: &RunOptions) -> Duration {
    options.iptables_sync_period.min(MAX_SYNC_PERIOD)
}

/// From one comparison of the kernel's rules to the next. The sixth of the period that is left is
/// for the comparison and the repair, so that what somebody changes right after a comparison is
/// repaired before the period is over.
pub(crate) fn audit_interval(sync_period: Duration) -> Duration {
    // Never zero, as no period is.
    sync_period - sync_period / 6
}

pub(crate) fn worker_count(options: &RunOptions) -> usize {
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    options.workers.map_or_else(cores, usize::from)
}

pub(crate) fn relay(options: &RunOptions) -> Options {
    let positive = |timeout: Duration| (!timeout.is_zero()).then_some(timeout);
    Options {
        http2_engine: match options.http2_engine {
            Http2Engine::Switch => Engine::Switch,
            Http2Engine::H2 => Engine::H2,
        },
        dial: DialOptions {
            mark: upstream_mark(options),
            keepalive: keepalive(options),
            user_timeout: options.tcp_user_timeout,
            ..DialOptions::default()
        },
        idle_timeout: positive(options.ipvs_tcp_timeout),
        half_close_timeout: positive(options.ipvs_tcpfin_timeout),
        max_age: MaxAge {
            stream: positive(options.max_stream_age),
            connection: positive(options.max_connection_age),
        },
        max_connection_age_grace: positive(options.max_connection_age_grace),
        ..Options::default()
    }
}

/// None: clients may have open what they like.
pub(crate) fn clients(options: &RunOptions) -> Option<Arc<Clients>> {
    let positive = |count: u32| (count > 0).then_some(count);
    let limits = ClientLimits {
        connections: positive(options.max_connections_per_client),
        streams: positive(options.max_streams_per_client),
    };
    (limits != ClientLimits::default()).then(|| Clients::new(limits))
}

pub(crate) fn keepalive(options: &RunOptions) -> Keepalive {
    Keepalive { time: options.tcp_keepalive_time, interval: options.tcp_keepalive_interval }
}

/// None: no endpoint is ejected. A base above the maximum is the maximum too, as in Envoy.
pub(crate) fn ejection(options: &RunOptions) -> Option<EjectionPolicy> {
    let base_time = options.outlier_base_ejection_time;
    options.outlier_detection.then(|| EjectionPolicy {
        consecutive_faults: options.outlier_consecutive_faults,
        base_time,
        max_time: options.outlier_max_ejection_time.max(base_time),
    })
}

/// Without capture by us, our own connections need no mark unless somebody asks for one.
fn upstream_mark(options: &RunOptions) -> Option<u32> {
    match options.capture {
        CaptureMode::None => options.upstream_mark,
        CaptureMode::Auto | CaptureMode::Iptables | CaptureMode::Nftables => {
            Some(options.upstream_mark.unwrap_or(DEFAULT_MARK))
        }
    }
}

/// None: nothing is captured, or always.
pub(crate) fn gate(
    options: &RunOptions,
    worker_count: usize,
    is_successor: bool,
) -> Option<GateConfig> {
    let switch = match options.dead_man_switch {
        _ if options.capture == CaptureMode::None => return None,
        DeadManSwitch::None => return None,
        DeadManSwitch::Auto => Switch::Auto,
        DeadManSwitch::Owner => Switch::Owner,
        DeadManSwitch::Lease => Switch::Lease,
    };
    Some(GateConfig {
        mark: options.upstream_mark.unwrap_or(DEFAULT_MARK),
        timeout: options.dead_man_timeout,
        worker_count,
        switch,
        is_successor,
    })
}

/// None: `--capture none`. `gate` is the mark bit of the gate.
pub(crate) fn capture(options: &RunOptions, gate: Option<u32>) -> Option<streamvs_capture::Config> {
    let backend = match options.capture {
        CaptureMode::None => return None,
        CaptureMode::Auto => Backend::Auto,
        CaptureMode::Iptables => Backend::Iptables,
        CaptureMode::Nftables => Backend::Nftables,
    };
    Some(streamvs_capture::Config {
        listen_port: options.listen_port,
        mark: options.upstream_mark.unwrap_or(DEFAULT_MARK),
        gate,
        service_cidrs: options.service_cidrs.clone(),
        backend,
        tools: match options.iptables_backend {
            IptablesBackend::Auto => Tools::Auto,
            IptablesBackend::Nft => Tools::Nft,
            IptablesBackend::Legacy => Tools::Legacy,
        },
    })
}

/// Nothing is translated without rules of ours.
pub(crate) fn client_ip(options: &RunOptions) -> Wish {
    let keep = options.client_ip == ClientIp::Keep
        && options.capture != CaptureMode::None
        && !options.masquerade_all;
    Wish::new(keep, options.pod_cidrs.clone(), options.client_ip_ranges.clone())
}

/// None: next to kube-proxy.
pub(crate) fn kernel_path(options: &RunOptions) -> Option<streamvs_nat::Config> {
    options.kube_proxy_replacement.then(|| streamvs_nat::Config {
        scheduler: options.ipvs_scheduler.as_str().to_owned(),
        masquerade_all: options.masquerade_all,
        masquerade_mark: masquerade_mark(options),
        own_addresses: addresses_of_node,
    })
}

fn masquerade_mark(options: &RunOptions) -> u32 {
    1 << options.iptables_masquerade_bit
}

/// The mark of what is to be masqueraded is one that says something else here.
pub(crate) fn marks_clash(options: &RunOptions) -> bool {
    let ours = options.upstream_mark.unwrap_or(DEFAULT_MARK);
    let gate = Gate::bit_beside(ours).unwrap_or_default();
    let answers = streamvs_capture::answer_bit(ours).unwrap_or_default();
    masquerade_mark(options) & (ours | gate | answers) != 0
}

/// Where pods are not said of the whole cluster, those of this node are known.
pub(crate) fn reach(options: &RunOptions) -> Reach {
    let pods = [&options.cluster_cidr, &options.pod_cidrs];
    let pods = pods.into_iter().find(|ranges| !ranges.is_empty()).cloned().unwrap_or_default();
    Reach { node_ports: options.nodeport_addresses.clone(), pods, ..Reach::default() }
}

/// Where objects are from.
pub(crate) enum Source {
    Manifests(ManifestsConfig),
    Kubernetes(KubernetesConfig),
}

/// Health check node ports are ours: beside a kube-proxy that knows the same Services they are its,
/// and whoever came second could not have them.
pub(crate) fn answers_health_checks(options: &RunOptions) -> bool {
    options.kube_proxy_replacement || options.service_proxy_name.is_some()
}

pub(crate) fn source(options: &RunOptions, node_name: Arc<str>) -> Source {
    let resolver = streamvs_resolve::Config {
        node_name,
        service_proxy_name: options.service_proxy_name.as_deref().map(Into::into),
        allow_external_ips: options.allow_external_ips.clone(),
    };
    match &options.manifests {
        Some(dir) => Source::Manifests(ManifestsConfig { dir: dir.clone(), resolver }),
        None => Source::Kubernetes(KubernetesConfig {
            access: Access {
                kubeconfig: options.kubeconfig.clone().filter(|path| is_given(path)),
                master: options.master.clone().filter(|url| !url.is_empty()),
                mark: upstream_mark(options),
            },
            resolver,
            state_file: Some(options.state_file.clone()).filter(|path| is_given(path)),
        }),
    }
}

/// Files of kube-proxy write an empty path for none.
fn is_given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// kube-proxy's rules: all addresses for health and loopback for metrics, of the family of
/// `--bind-address`; of the deprecated ports 0 is nowhere, and another counts where the address
/// has none.
pub(crate) fn admin_addresses(options: &RunOptions) -> Addresses {
    let is_v6 = options.bind_address.is_some_and(|address| address.is_ipv6());
    let (any, loopback): (IpAddr, IpAddr) = if is_v6 {
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into())
    } else {
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into())
    };
    Addresses {
        healthz: listen_at(options.healthz_bind_address, any, options.healthz_port, HEALTHZ_PORT),
        metrics: listen_at(
            options.metrics_bind_address,
            loopback,
            options.metrics_port,
            METRICS_PORT,
        ),
        socket: Some(options.admin_socket.clone()),
        bind_hard_fail: options.bind_address_hard_fail,
    }
}

fn listen_at(
    address: Option<BindAddress>,
    usual: IpAddr,
    port: Option<u16>,
    usual_port: u16,
) -> Option<SocketAddr> {
    if port == Some(0) {
        return None;
    }
    address.unwrap_or(BindAddress::At(usual, None)).or_port(port.unwrap_or(usual_port))
}

pub(crate) fn count_refusals(metrics: &Arc<NodeMetrics>) -> OnRefused {
    let metrics = Arc::clone(metrics);
    Arc::new(move |reason| {
        metrics.refused(match reason {
            RefusalReason::NotCaptured => Refusal::NotCaptured,
            RefusalReason::NoOriginalDestination => Refusal::NoOriginalDestination,
            RefusalReason::UnknownService => Refusal::UnknownService,
            RefusalReason::Limit => Refusal::Limit,
            RefusalReason::ClientLimit => Refusal::ClientLimit,
            RefusalReason::Memory => Refusal::Memory,
            RefusalReason::Descriptors => Refusal::Descriptors,
        });
    })
}

#[cfg(test)]
mod tests {
    //! Aim: addresses come out as kube-proxy would have them, periods as documented, and times of
    //! ejections as Envoy would.

    use std::time::Duration;

    use streamvs_balance::EjectionPolicy;

    use crate::cli::{Command, RunOptions};
    use crate::invocation;

    fn options(flags: &str) -> RunOptions {
        let line = format!("streamvs run --manifests m {flags}");
        let arguments = line.split_whitespace().map(Into::into).collect();
        let command = invocation::read(arguments).expect("is accepted").command;
        let Command::Run(options) = command else { panic!("is run") };
        *options
    }

    #[test]
    fn endpoints_are_ejected_as_by_envoy_unless_told_otherwise() {
        assert_eq!(super::ejection(&options("")), Some(EjectionPolicy::default()));
        assert_eq!(super::ejection(&options("--outlier-detection=false")), None);
        let flags = "--outlier-consecutive-faults 3 --outlier-base-ejection-time 10m";
        let policy = EjectionPolicy {
            consecutive_faults: 3,
            base_time: Duration::from_secs(600),
            max_time: Duration::from_secs(600),
        };
        assert_eq!(super::ejection(&options(flags)), Some(policy));
    }

    #[test]
    fn an_audit_leaves_time_to_repair_within_the_sync_period() {
        for (sync_period, interval) in [
            (Duration::from_secs(30), Duration::from_secs(25)),
            (Duration::from_secs(6), Duration::from_secs(5)),
            // A timer of zero does not exist.
            (Duration::from_nanos(1), Duration::from_nanos(1)),
        ] {
            assert_eq!(super::audit_interval(sync_period), interval);
        }
    }

    #[test]
    fn addresses_and_deprecated_ports_come_out_as_kube_proxys() {
        for (flags, healthz, metrics) in [
            ("", "0.0.0.0:10256", "127.0.0.1:10249"),
            ("--bind-address=::", "[::]:10256", "[::1]:10249"),
            ("--healthz-port=0 --metrics-port=0", "", ""),
            ("--healthz-port=7 --metrics-bind-address=10.0.0.1:9", "0.0.0.0:7", "10.0.0.1:9"),
            ("--healthz-bind-address=10.0.0.1 --healthz-port=7", "10.0.0.1:7", "127.0.0.1:10249"),
            ("--metrics-bind-address=", "0.0.0.0:10256", ""),
            ("--healthz-bind-address=1.2.3.4:5 --healthz-port=7", "1.2.3.4:5", "127.0.0.1:10249"),
        ] {
            let addresses = super::admin_addresses(&options(flags));
            let shown = |address: Option<std::net::SocketAddr>| {
                address.map_or(String::new(), |address| address.to_string())
            };
            let found = (shown(addresses.healthz), shown(addresses.metrics));
            assert_eq!(found, (healthz.to_owned(), metrics.to_owned()), "{flags}");
        }
    }
}
