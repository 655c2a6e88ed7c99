//! `streamvs run`: starts all stages in order, waits, and stops them in order.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamvs_admin::{Admin, Health, Moment, NodeMetrics, NodeState, Pages, Server, TableSource};
use streamvs_balance::Plan;
use streamvs_capture::{Capture, Gate, GateConfig, Switch};
use streamvs_resolve::Changes;
use streamvs_table::publish;
use streamvs_watch::NodeEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::cli::RunOptions;
use crate::client_ip::InForce;
use crate::config::{self, Source};
use crate::control::{Plans, Publication, Rules};
use crate::error::Error;
use crate::invocation::{Notice, Settings};
use crate::oom;
use crate::privileges;
use crate::programming::Programming;
use crate::reload::Reload;
use crate::telemetry::{self, Verbosity};
use crate::workers::{self, Workers};

/// From the closed gate to the closed listener: connections that were captured just before are
/// accepted meanwhile. Several round trips of any network a node's clients are on.
const GATE_SETTLES: Duration = Duration::from_millis(100);

/// Runs the agent until it is told to stop.
pub(crate) fn run(
    options: RunOptions,
    notices: &[Notice],
    settings: Settings,
) -> Result<(), Error> {
    let verbosity = telemetry::init(&options.log);
    for notice in notices {
        tracing::warn!("{notice}");
    }
    oom::adjust(options.oom_score_adj);
    control_runtime()?.block_on(serve(options, settings, verbosity))
}

/// Everything but the data path runs on one thread of its own, so that neither a scrape nor a
/// large table delays traffic.
pub(crate) fn control_runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)
}

async fn serve(options: RunOptions, settings: Settings, verbosity: Verbosity) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let node_name = config::node_name(&options)?;
    tracing::info!(node = %node_name, version = env!("CARGO_PKG_VERSION"), "starting");

    let source = config::source(&options, node_name);
    let node_state = match source {
        Source::Manifests(_) => NodeState::Untracked,
        Source::Kubernetes(_) => NodeState::Absent,
    };
    let sync_period = config::sync_period(&options);
    let health = Arc::new(Health::new(sync_period * 2, node_state));
    let metrics = Arc::new(NodeMetrics::default());
    let programming = Arc::new(Programming::new(Arc::clone(&metrics)));
    let server = match Server::bind(config::admin_addresses(&options)).await {
        Ok(server) => server,
        Err(error) => {
            tell_of_failed_start(&source, &options, &error).await;
            return Err(Error::Admin(error));
        }
    };

    // Before the listeners: the kernel closes a dead process's descriptors in this order.
    let gate = config::gate(&options).map(make_gate).transpose()?.flatten();
    // The data path listens before anything is captured.
    let port = options.listen_port;
    let listeners = streamvs_accept::bind(port, config::worker_count(&options))
        .map_err(|source| Error::Listen { port, source })?;
    // All that takes more is open by now, and there is no other thread yet.
    let named = [&options.manifests, &options.config, &options.kubeconfig];
    privileges::give_up(named.into_iter().flatten().map(PathBuf::as_path))?;
    let (publisher, plan) = publish::channel(Arc::new(Plan::empty()));
    let (aliases_publisher, aliases) = publish::channel(Arc::default());
    let (drain, draining) = watch::channel(false);
    let shared = workers::Shared {
        plan: plan.clone(),
        pod_ranges: config::reach(&options).pods,
        aliases,
        relay: config::relay(&options),
        on_refused: config::count_refusals(&metrics),
        drain: draining,
        gate: gate.clone(),
    };
    let mut workers = workers::start(listeners, &shared)?;

    let (target, target_changed) = watch::channel(None);
    let rules = Rules {
        config: config::capture(&options, gate.as_deref().map(Gate::bit)),
        gate,
        client_ip: InForce::new(aliases_publisher, Arc::clone(&metrics)),
        kernel_path: config::kernel_path(&options),
        target: target_changed,
        sync_period,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        programming: Arc::clone(&programming),
    };
    let (stop_rules, rules_stopped) = oneshot::channel();
    let mut rules = tokio::spawn(rules.run(rules_stopped));

    let plans = Rc::new(Plans::new(publisher, options.ipvs_scheduler));
    let mut publication = Publication {
        plans: Rc::clone(&plans),
        target,
        kernel_balances: options.kube_proxy_replacement,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        programming,
        service_cidrs: Vec::new(),
        client_ip: config::client_ip(&options),
        reach: config::reach(&options),
    };
    let watching = async {
        match source {
            Source::Manifests(config) => {
                let publish = |snapshot, changes: Changes| {
                    publication.publish(snapshot, &changes, TableSource::Manifests);
                };
                streamvs_watch::manifests(config, publish).await
            }
            Source::Kubernetes(config) => {
                streamvs_watch::kubernetes(config, |update| publication.take(update)).await
            }
        }
    };

    let pages = Pages {
        configuration: settings.configuration.clone(),
        flags: settings.flags.clone(),
        started: Moment::now().wall,
    };
    let (pages_publisher, pages) = publish::channel(Arc::new(pages));
    let arguments = std::env::args_os().collect();
    let mut reload = Reload { arguments, settings, plans, verbosity, pages: pages_publisher };
    let (stop_admin, mut admin_stopped) = watch::channel(false);
    let admin = tokio::spawn(server.serve(Admin { plan, health, metrics, pages }, async move {
        // A sender that is gone stops it too.
        let _ = admin_stopped.wait_for(|stop| *stop).await;
    }));

    tokio::pin!(watching);
    let failed = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop => break None,
                Asked::Reload => reload.run(),
            },
            Err(error) = &mut watching => break Some(Error::Watch(error)),
            ended = &mut rules => break Some(rules_failure(ended)),
            () = workers.one_ended() => break Some(Error::WorkerLost),
        }
    };
    match &failed {
        Some(error) => tracing::error!(error = %error, "stopping because of this"),
        None => tracing::info!("stopping"),
    }

    // Close the gate, let what was captured until now arrive, then let connections end.
    let _ = stop_rules.send(());
    let capture = if rules.is_finished() { None } else { gate_closed(rules.await) };
    if capture.is_some() {
        tokio::time::sleep(GATE_SETTLES).await;
    }
    drain.send_replace(true);
    drain_workers(&mut workers, &mut signals, options.drain_timeout).await;
    // Rules last: established connections need them until here. In place of kube-proxy they stay:
    // nothing is captured any more, the kernel balances, and refuses what has no endpoints.
    if let Some(capture) = capture
        && !options.kube_proxy_replacement
        && let Err(error) = capture.remove().await
    {
        tracing::error!(error = %error, "cannot remove all rules, run `streamvs cleanup`");
    }
    stop_admin.send_replace(true);
    // Ends within its own grace; its failures are logged where they happen.
    let _ = admin.await;
    tracing::info!("stopped");
    failed.map_or(Ok(()), Err)
}

/// None where this kernel has no gate and nobody insisted on one.
fn make_gate(config: GateConfig) -> Result<Option<Arc<Gate>>, Error> {
    match Gate::new(config) {
        Ok(gate) => {
            if config.switch == Switch::Auto && !gate.is_owned() {
                tracing::warn!(
                    timeout = ?config.timeout,
                    "this kernel has no nftables tables with owner: new connections are lost for \
                     this long should the agent die"
                );
            }
            Ok(Some(Arc::new(gate)))
        }
        Err(error) if config.switch == Switch::Auto => {
            tracing::warn!(
                %error,
                "this kernel has no dead-man switch: new connections are lost should the agent die"
            );
            Ok(None)
        }
        Err(error) => Err(Error::Gate(error)),
    }
}

/// Lets those who look at the Node know why there is no agent, as kube-proxy does.
async fn tell_of_failed_start(
    source: &Source,
    options: &RunOptions,
    error: &streamvs_admin::Error,
) {
    let (Source::Kubernetes(config), streamvs_admin::Error::Bind { address, .. }) = (source, error)
    else {
        return;
    };
    let event = if Some(*address) == config::admin_addresses(options).healthz {
        NodeEvent::HealthPort(error.to_string())
    } else {
        NodeEvent::MetricsPort(error.to_string())
    };
    streamvs_watch::report(config, event).await;
}

/// Waits for the last connection, the deadline, or an impatient second signal.
async fn drain_workers(workers: &mut Workers, signals: &mut Signals, deadline: Duration) {
    tokio::select! {
        drained = timeout(deadline, workers.all_ended()) => match drained {
            Ok(()) => tracing::info!("all connections have ended"),
            Err(_) => tracing::warn!(?deadline, "connections are cut off at the drain timeout"),
        },
        () = signals.stop() => tracing::warn!("connections are cut off by a second signal"),
    }
}

type RulesEnd = Result<Result<Option<Capture>, Error>, JoinError>;

/// Why the keeper of the rules ended before it was told to.
fn rules_failure(ended: RulesEnd) -> Error {
    match ended {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => Error::RulesLost,
    }
}

/// The rules that are still to be removed.
fn gate_closed(ended: RulesEnd) -> Option<Capture> {
    ended.ok().and_then(Result::ok).flatten()
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(Error::Signals)?,
            interrupt: signal(SignalKind::interrupt()).map_err(Error::Signals)?,
            hangup: signal(SignalKind::hangup()).map_err(Error::Signals)?,
        })
    }

    /// What the process is asked for next.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Ready when the process is asked to stop.
    async fn stop(&mut self) {
        while self.next().await != Asked::Stop {
            tracing::warn!("too late to reload, stopping");
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Drain and end.
    Stop,
    /// Read the configuration again.
    Reload,
}
