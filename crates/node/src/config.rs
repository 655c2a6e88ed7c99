//! From what was asked on the command line to what each stage is given.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use streamvs_accept::{OnRefused, RefusalReason};
use streamvs_admin::{Addresses, NodeMetrics, Refusal};
use streamvs_capture::Tools;
use streamvs_relay::Options;
use streamvs_relay::connect::DialOptions;
use streamvs_relay::h2::Engine;

use crate::cli::{CaptureMode, Http2Engine, IptablesBackend, RunOptions};
use crate::error::Error;

/// A bit that neither kube-proxy nor the common network plugins use.
const DEFAULT_MARK: u32 = 0x1;

/// kube-proxy's rule: the override, else the host name, trimmed and in lower case.
pub(crate) fn node_name(options: &RunOptions) -> Result<Arc<str>, Error> {
    let name = match &options.hostname_override {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()
            .map_err(|error| Error::HostName(error.into()))?
            .to_string_lossy()
            .into_owned(),
    };
    Ok(name.trim().to_lowercase().into())
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
        dial: DialOptions { mark: upstream_mark(options), ..DialOptions::default() },
        idle_timeout: positive(options.ipvs_tcp_timeout),
        half_close_timeout: positive(options.ipvs_tcpfin_timeout),
    }
}

/// Without capture by us, our own connections need no mark unless somebody asks for one.
fn upstream_mark(options: &RunOptions) -> Option<u32> {
    match options.capture {
        CaptureMode::Iptables => Some(options.upstream_mark.unwrap_or(DEFAULT_MARK)),
        CaptureMode::None => options.upstream_mark,
    }
}

/// None: `--capture none`.
pub(crate) fn capture(options: &RunOptions) -> Option<streamvs_capture::Config> {
    match options.capture {
        CaptureMode::None => None,
        CaptureMode::Iptables => Some(streamvs_capture::Config {
            listen_port: options.listen_port,
            mark: options.upstream_mark.unwrap_or(DEFAULT_MARK),
            service_cidrs: options.service_cidrs.clone(),
            tools: match options.iptables_backend {
                IptablesBackend::Auto => Tools::Auto,
                IptablesBackend::Nft => Tools::Nft,
                IptablesBackend::Legacy => Tools::Legacy,
            },
        }),
    }
}

pub(crate) fn manifests(
    options: &RunOptions,
    node_name: Arc<str>,
) -> streamvs_watch::ManifestsConfig {
    streamvs_watch::ManifestsConfig {
        dir: options.manifests.clone(),
        resolver: streamvs_resolve::Config {
            node_name,
            service_proxy_name: options.service_proxy_name.as_deref().map(Into::into),
        },
    }
}

pub(crate) fn admin_addresses(options: &RunOptions) -> Addresses {
    Addresses {
        healthz: Some(options.healthz_bind_address),
        metrics: Some(options.metrics_bind_address),
        socket: Some(options.admin_socket.clone()),
        bind_hard_fail: options.bind_address_hard_fail,
    }
}

pub(crate) fn count_refusals(metrics: &Arc<NodeMetrics>) -> OnRefused {
    let metrics = Arc::clone(metrics);
    Arc::new(move |reason| {
        metrics.refused(match reason {
            RefusalReason::NotCaptured => Refusal::NotCaptured,
            RefusalReason::NoOriginalDestination => Refusal::NoOriginalDestination,
            RefusalReason::UnknownService => Refusal::UnknownService,
            RefusalReason::Limit => Refusal::Limit,
        });
    })
}
