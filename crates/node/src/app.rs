//! `streamvs run`: starts all stages in order, waits, and stops them in order.

use std::convert::Infallible;
use std::future::pending;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use streamvs_accept::Listener;
use streamvs_admin::handover as admin_handover;
use streamvs_admin::{
    Admin, Closing, Health, Moment, NodeMetrics, NodeState, Pages, Server, TableSource,
};
use streamvs_balance::Plan;
use streamvs_capture::{Capture, Gate, GateConfig, Switch};
use streamvs_relay::connect::Keepalive;
use streamvs_resolve::Changes;
use streamvs_table::publish;
use streamvs_watch::NodeEvent;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};

use crate::cli::{HandoverMode, RunOptions};
use crate::client_ip::InForce;
use crate::config::{self, Source};
use crate::control::{Plans, Publication, Rules, Target};
use crate::ejections;
use crate::error::Error;
use crate::handover::{self, Channel, Inherited, Predecessor, Spares};
use crate::invocation::{Notice, Settings};
use crate::memory;
use crate::oom;
use crate::orders::{self, Order, Orders};
use crate::privileges;
use crate::programming::Programming;
use crate::reload::Reload;
use crate::seccomp;
use crate::service_health;
use crate::telemetry::{self, Verbosity};
use crate::workers::{self, Workers};

/// From the closed gate to the closed listener: connections that were captured just before are
/// accepted meanwhile. Several round trips of any network a node's clients are on.
const GATE_SETTLES: Duration = Duration::from_millis(100);

/// From the last worker's end to that of the connection to the agent that has taken over.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
    let handed_over = match options.handover {
        HandoverMode::Off => None,
        HandoverMode::Exit | HandoverMode::Stay => tokio::select! {
            found = handover::find(&options.admin_socket) => found,
            () = signals.stop() => return Ok(()),
        },
    };
    let (predecessor, inherited) = handed_over.unzip();
    let Inherited { listeners, doors } = inherited.unwrap_or_default();
    let server = match Server::bind_or_inherit(config::admin_addresses(&options), doors).await {
        Ok(server) => server,
        Err(error) => {
            tell_of_failed_start(&source, &options, &error).await;
            return Err(Error::Admin(error));
        }
    };

    let port = options.listen_port;
    let listeners = usable(listeners, port);
    // The kernel goes on giving each of them its share of connections, so none is left out.
    let worker_count = config::worker_count(&options).max(listeners.len());
    // Before the listeners: the kernel closes a dead process's descriptors in this order.
    let gate = config::gate(&options, worker_count, predecessor.is_some());
    let gate = gate.map(make_gate).transpose()?.flatten();
    // The data path listens before anything is captured.
    let listeners = listen(port, worker_count, config::keepalive(&options), listeners)?;
    // All that takes more is open by now, and there is no other thread yet.
    let named = [&options.manifests, &options.config, &options.kubeconfig];
    privileges::give_up(named.into_iter().flatten().map(PathBuf::as_path))?;
    metrics.system_calls_refused(seccomp::confine(options.seccomp));
    let relay = config::relay(&options);
    let pressure = relay.pressure.clone();
    memory::keep(options.memory_limit, pressure, gate.clone(), Arc::clone(&metrics))?;
    let spares = Rc::new(Spares::new(&listeners, &server).map_err(Error::Share)?);
    let plan = match config::ejection(&options) {
        Some(policy) => Plan::empty().ejecting(policy, ejections::told()),
        None => Plan::empty(),
    };
    let plan = plan.starting_slowly(options.slow_start);
    let (publisher, plan) = publish::channel(Arc::new(plan));
    let (aliases_publisher, aliases) = publish::channel(Arc::default());
    let (drain, draining) = watch::channel(false);
    let (leave, leaving) = watch::channel(false);
    let (departing, departures) = mpsc::unbounded_channel();
    let shared = workers::Shared {
        plan: plan.clone(),
        pod_ranges: config::reach(&options).pods,
        aliases,
        relay,
        clients: config::clients(&options),
        on_refused: config::count_refusals(&metrics),
        drain: draining,
        gate: gate.clone(),
        leaving: leaving.clone(),
        departing,
    };

    let (target, target_changed) = watch::channel(None);
    let first_table = target_changed.clone();
    let (tables, table_changed) = watch::channel(Arc::default());
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
    // While there is a predecessor the rules are its own.
    let first = if predecessor.is_some() { Order::Hold } else { Order::Keep };
    let (orders, ordered) = orders::orders(first);
    let orders = Rc::new(orders);
    let mut rules = tokio::spawn(rules.run(ordered));

    let plans = Rc::new(Plans::new(publisher, options.ipvs_scheduler, target));
    let mut publication = Publication {
        plans: Rc::clone(&plans),
        tables,
        kernel_balances: options.kube_proxy_replacement,
        health: Arc::clone(&health),
        metrics: Arc::clone(&metrics),
        programming,
        service_cidrs: Vec::new(),
        client_ip: config::client_ip(&options),
        reach: config::reach(&options),
    };
    let events = match &source {
        Source::Manifests(_) => None,
        Source::Kubernetes(config) => Some(config.clone()),
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
                let take = |update| publication.take(update);
                streamvs_watch::kubernetes(config, leaving, take).await
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
    let (door, mut successors) = admin_handover::door();
    let door = (options.handover != HandoverMode::Off).then_some(door);
    let admin = Admin { plan, health, metrics, pages, handover: door };

    tokio::pin!(watching);
    // With a predecessor each of these waits for something, without one for nothing.
    let mut table_known = pin!(table_known(predecessor.is_some(), first_table));
    let mut taking = pin!(take_rules(predecessor, Rc::clone(&orders)));
    let mut unstarted = Some((listeners, shared));
    let mut unopened = Some(server);
    let mut doors = None;
    let mut health_ports = None;
    let mut workers = Workers::none();
    let mut giving = None;
    let mut deadline = None;
    let ending = loop {
        tokio::select! {
            () = &mut table_known, if unstarted.is_some() => {
                let Some((listeners, shared)) = unstarted.take() else { continue };
                workers = match workers::start(listeners, &shared) {
                    Ok(workers) => workers,
                    Err(error) => break Ending::Failed(error),
                };
            }
            predecessor = &mut taking, if unstarted.is_none() && unopened.is_some() => {
                let Some(server) = unopened.take() else { continue };
                doors = Some(Doors::open(server, admin.clone()));
                let (tables, health) = (table_changed.clone(), Arc::clone(&admin.health));
                let reach = config::reach(&options);
                health_ports = config::answers_health_checks(&options)
                    .then(|| service_health::start(tables, health, reach, events.clone()));
                if let Some(predecessor) = predecessor {
                    tokio::spawn(predecessor.take_connections(workers.arrivals()));
                }
            }
            Some(successor) = successors.recv(), if giving.is_none() && unopened.is_none() => {
                let (spares, orders) = (Rc::clone(&spares), Rc::clone(&orders));
                giving = Some(Box::pin(handover::give(successor, spares, orders)));
            }
            given = ready(giving.as_mut()) => {
                giving = None;
                match given {
                    Some(channel) => break Ending::HandedOver(channel),
                    None if deadline.is_some() => break Ending::Stopped,
                    None => {}
                }
            }
            asked = signals.next() => match asked {
                Asked::Reload => reload.run(),
                // Whoever takes over just now may finish it.
                Asked::Stop if giving.is_some() && deadline.is_none() => {
                    tracing::info!("stopping when the other agent has taken over");
                    deadline = Some(Box::pin(sleep(options.drain_timeout)));
                }
                Asked::Stop => break Ending::Stopped,
            },
            () = ready(deadline.as_mut()) => break Ending::Stopped,
            Err(error) = &mut watching => break Ending::Failed(Error::Watch(error)),
            ended = &mut rules => break Ending::Failed(rules_failure(ended)),
            () = workers.one_ended(), if workers.are_running() => {
                break Ending::Failed(Error::WorkerLost);
            }
        }
    };
    // Agents that want to take over from now on are told to wait until we are gone, as is the one
    // that has our sockets already: it knows by its connection, which ends with this function.
    // Load balancers leave a node that stops; of a successor they notice nothing.
    drop((successors, spares, health_ports));
    let failed = match ending {
        Ending::HandedOver(channel) => {
            tracing::info!("handed over");
            orders.give(Order::Leave);
            if let Some(doors) = doors {
                doors.close(Closing::Leave).await;
            }
            leave.send_replace(true);
            drain.send_replace(true);
            let passing = tokio::spawn(handover::pass_on(channel, departures));
            tokio::select! {
                () = end_after_handover(&mut workers, &mut signals, &options, passing) => {}
                // Streams may still come on the connections we have, and go by the newest table.
                () = keep_watching(watching) => {}
            }
            tracing::info!("stopped");
            return Ok(());
        }
        Ending::Stopped => {
            tracing::info!("stopping");
            None
        }
        Ending::Failed(error) => {
            tracing::error!(error = %error, "stopping because of this");
            Some(error)
        }
    };
    // The rules are somebody else's when they are held or left, and also when we never served:
    // then our predecessor does.
    let served = unopened.is_none();
    let removal = if served && orders.last() == Order::Keep { Order::Remove } else { Order::Leave };
    orders.give(removal);
    // Close the gate, let what was captured until now arrive, then let connections end.
    let capture = if rules.is_finished() { None } else { gate_closed(rules.await) };
    if capture.is_some() {
        sleep(GATE_SETTLES).await;
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
    if let Some(doors) = doors {
        // A successor that was on its way has the socket, and needs its file.
        doors.close(if giving.is_some() { Closing::Leave } else { Closing::Remove }).await;
    }
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

/// Why the agent ends.
enum Ending {
    /// It was told to.
    Stopped,
    /// It cannot go on.
    Failed(Error),
    /// Another agent serves.
    HandedOver(Channel),
}

/// Those listeners of a predecessor that are on the right port.
fn usable(inherited: Vec<Listener>, port: u16) -> Vec<Listener> {
    let here = |listener: &Listener| listener.local_addr().is_ok_and(|local| local.port() == port);
    inherited.into_iter().filter(here).collect()
}

/// `count` listeners for the data path, by descriptors later than all there are: those of a
/// predecessor, and new ones where they are too few.
fn listen(
    port: u16,
    count: usize,
    keepalive: Keepalive,
    inherited: Vec<Listener>,
) -> Result<Vec<Listener>, Error> {
    let renewed = inherited.iter().map(|listener| listener.share().map(Listener::from));
    let mut listeners = renewed.collect::<Result<Vec<_>, _>>().map_err(Error::Share)?;
    for listener in &listeners {
        listener.set_keepalive(keepalive).map_err(|source| Error::Listen { port, source })?;
    }
    let missing = count.saturating_sub(listeners.len());
    if missing > 0 {
        let more = streamvs_accept::bind(port, missing, keepalive);
        listeners.extend(more.map_err(|source| Error::Listen { port, source })?);
    }
    Ok(listeners)
}

/// With a predecessor the workers start when there is a table: connections come at once.
async fn table_known(is_successor: bool, mut first_table: watch::Receiver<Option<Target>>) {
    if is_successor {
        // Where nobody publishes any more, the process ends.
        let _ = first_table.wait_for(Option::is_some).await;
    }
}

/// With a predecessor, makes the rules ours.
async fn take_rules(
    mut predecessor: Option<Predecessor>,
    orders: Rc<Orders>,
) -> Option<Predecessor> {
    if let Some(predecessor) = &mut predecessor {
        predecessor.take_rules(&orders).await;
    }
    predecessor
}

/// As the future, if there is one; else never.
async fn ready<F: Future + Unpin>(future: Option<&mut F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// For as long as the caller likes. If watching fails, the table stays as it is.
async fn keep_watching(
    watching: Pin<&mut impl Future<Output = Result<Infallible, streamvs_watch::Error>>>,
) {
    let Err(error) = watching.await;
    tracing::warn!(%error, "the table is not kept up to date any more");
    pending().await
}

/// Lets the last streams end, and plain connections leave, until the drain timeout. A pod counts
/// that from SIGTERM on and stays until then, for it would be started again.
async fn end_after_handover(
    workers: &mut Workers,
    signals: &mut Signals,
    options: &RunOptions,
    passing: JoinHandle<()>,
) {
    if options.handover == HandoverMode::Stay {
        let ended = async {
            workers.all_ended().await;
            tracing::info!("all connections have ended or gone on elsewhere, waiting for SIGTERM");
            pending().await
        };
        tokio::select! {
            () = signals.stop() => {}
            () = ended => {}
        }
    }
    drain_workers(workers, signals, options.drain_timeout).await;
    // Ends with the workers, and what they gave it is on its way within a moment.
    let _ = timeout(LAST_WORDS, passing).await;
}

/// The admin server, while it serves.
struct Doors {
    close: oneshot::Sender<Closing>,
    serving: JoinHandle<()>,
}

impl Doors {
    fn open(server: Server, admin: Admin) -> Self {
        let (close, closed) = oneshot::channel();
        let closing = async { closed.await.unwrap_or(Closing::Remove) };
        Self { close, serving: tokio::spawn(server.serve(admin, closing)) }
    }

    /// Ends within its own grace; its failures are logged where they happen.
    async fn close(self, closing: Closing) {
        let _ = self.close.send(closing);
        let _ = self.serving.await;
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

/// Waits for the last connection, the deadline, or an impatient second signal, after which the
/// connections are closed.
async fn drain_workers(workers: &mut Workers, signals: &mut Signals, deadline: Duration) {
    tokio::select! {
        drained = timeout(deadline, workers.all_ended()) => match drained {
            Ok(()) => return tracing::info!("all connections have ended"),
            Err(_) => tracing::warn!(?deadline, "connections are cut off at the drain timeout"),
        },
        () = signals.stop() => tracing::warn!("connections are cut off by a second signal"),
    }
    workers.cut_off().await;
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
