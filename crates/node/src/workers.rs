//! The data path's threads: one `LocalRuntime` each.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use streamvs_accept::{Config, Handover, Listener, OnRefused, Passed};
use streamvs_balance::Plan;
use streamvs_capture::{BEAT, Gate};
use streamvs_relay::h2::Drain;
use streamvs_relay::h2::settings::UPSTREAM_CROWD;
use streamvs_relay::tcp::PIPE_DESCRIPTORS;
use streamvs_relay::{Clients, Options};
use streamvs_table::Aliases;
use streamvs_table::publish::Reader;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::error::Error;
use crate::origin::Origins;

/// Descriptors kept for everything but connections: dials under way, admin, rules, logs. Where there
/// are few, a quarter of them.
const RESERVED_DESCRIPTORS: u64 = 512;

/// The part of all descriptors that sockets of health check node ports may take, a sixteenth: all
/// 2,768 ports of the API server's default range, in both families, from a limit of 88,576 on.
const HEALTH_CHECK_PART: u64 = 16;

/// Fewest descriptors that a worker's connections may take, however few there are.
const LEAST_DESCRIPTORS: u64 = 128;

/// The part of a worker's descriptors, a quarter, up to which idle upstream connections are kept for
/// long.
const CROWD_PART: usize = 4;

/// How long workers have to close what they have. They do nothing else then.
const CUT_OFF: Duration = Duration::from_secs(1);

/// What every worker gets a copy of.
pub(crate) struct Shared {
    pub(crate) plan: Reader<Plan>,
    /// Of pods, as the operator says; empty: the Node object's.
    pub(crate) pod_ranges: Vec<IpNet>,
    pub(crate) aliases: Reader<Aliases>,
    pub(crate) relay: Options,
    pub(crate) clients: Option<Arc<Clients>>,
    pub(crate) on_refused: OnRefused,
    pub(crate) drain: Drain,
    /// None: nothing depends on the workers' signs of life.
    pub(crate) gate: Option<Arc<Gate>>,
    /// Turns true when connections shall leave for a successor.
    pub(crate) leaving: watch::Receiver<bool>,
    /// Where they go.
    pub(crate) departing: mpsc::UnboundedSender<Passed>,
}

/// Starts a thread for each listener. The receiver yields once for each worker that has ended.
pub(crate) fn start(listeners: Vec<Listener>, shared: &Shared) -> Result<Workers, Error> {
    let count = listeners.len();
    let max_descriptors = descriptors_for_each(count);
    tracing::info!(worker_count = count, max_descriptors, "starting the data path");
    let upstream_crowd = UPSTREAM_CROWD.min(max_descriptors / CROWD_PART);
    let relay = Options { upstream_crowd, ..shared.relay.clone() };
    let (ended, receiver) = mpsc::channel(count);
    let (cut, _) = watch::channel(false);
    let mut arrivals = Vec::with_capacity(count);
    for (index, listener) in listeners.into_iter().enumerate() {
        let (arrival, arriving) = mpsc::unbounded_channel();
        arrivals.push(arrival);
        let config = Config {
            listener,
            plan: shared.plan.clone(),
            aliases: shared.aliases.clone(),
            original_dst: Box::new(original_dst),
            origin: Box::new(Origins::new(shared.plan.clone(), shared.pod_ranges.clone())),
            relay: relay.clone(),
            max_descriptors,
            clients: shared.clients.clone(),
            on_refused: Arc::clone(&shared.on_refused),
            drain: shared.drain.clone(),
            handover: Handover {
                leaving: shared.leaving.clone(),
                departing: shared.departing.clone(),
                arriving,
            },
        };
        let gate = shared.gate.clone();
        let (ended, mut cut) = (ended.clone(), cut.subscribe());
        // Joined through `ended`: the process does not outlive its drain.
        thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let heart = gate.map(|gate| beat(gate, index));
                let cut_off = async move {
                    if cut.wait_for(|cut| *cut).await.is_err() {
                        pending().await
                    }
                };
                if let Err(error) = run(config, heart, cut_off) {
                    tracing::error!(error = %error, "data path thread failed");
                }
                // Only the process's end closes the receiver, and then nobody asks.
                let _ = ended.blocking_send(());
            })
            .map_err(Error::Runtime)?;
    }
    Ok(Workers { running_count: count, ended: receiver, cut, arrivals })
}

/// The started threads.
pub(crate) struct Workers {
    running_count: usize,
    ended: mpsc::Receiver<()>,
    /// Turns true when they shall end at once.
    cut: watch::Sender<bool>,
    /// To each, for connections that began elsewhere.
    arrivals: Vec<mpsc::UnboundedSender<Passed>>,
}

impl Workers {
    /// None yet.
    pub(crate) fn none() -> Self {
        let (ended, cut) = (mpsc::channel(1).1, watch::channel(false).0);
        Self { running_count: 0, ended, cut, arrivals: Vec::new() }
    }

    /// True while at least one runs.
    pub(crate) fn are_running(&self) -> bool {
        self.running_count > 0
    }

    /// Where connections that began elsewhere are given to them.
    pub(crate) fn arrivals(&self) -> Vec<mpsc::UnboundedSender<Passed>> {
        self.arrivals.clone()
    }

    /// Ready when one more has ended.
    pub(crate) async fn one_ended(&mut self) {
        if self.ended.recv().await.is_some() {
            self.running_count -= 1;
        }
    }

    /// Ready when all have ended.
    pub(crate) async fn all_ended(&mut self) {
        while self.running_count > 0 {
            self.one_ended().await;
        }
    }

    /// Ends them with the connections they have. Ready when these are closed, so that their clients
    /// hear of it while there are rules by which the kernel knows whose answer that is.
    pub(crate) async fn cut_off(&mut self) {
        self.cut.send_replace(true);
        if timeout(CUT_OFF, self.all_ended()).await.is_err() {
            tracing::warn!("workers do not end, their connections go with the process");
        }
    }
}

fn run(
    config: Config,
    heart: Option<impl Future<Output = ()> + 'static>,
    cut_off: impl Future<Output = ()>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    if let Some(heart) = heart {
        // Ends with the runtime. Beats in turn with all of the worker's connections.
        runtime.spawn_local(heart);
    }
    // All connections end with the runtime.
    runtime.block_on(async {
        tokio::select! {
            ended = streamvs_accept::run(config) => ended,
            () = cut_off => Ok(()),
        }
    })
}

/// Gives a worker's signs of life, for as long as its runtime lives.
async fn beat(gate: Arc<Gate>, worker: usize) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        gate.beat(worker);
    }
}

fn original_dst(socket: &TcpStream, client: IpAddr) -> io::Result<SocketAddr> {
    streamvs_capture::original_destination(socket, client)
}

/// The most sockets that may listen for health checks. To be asked after [`start`].
pub(crate) fn most_health_check_sockets() -> usize {
    let descriptors =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(RESERVED_DESCRIPTORS, |(soft, _)| soft);
    usize::try_from(descriptors / HEALTH_CHECK_PART).unwrap_or(usize::MAX)
}

/// Raises the soft limit of descriptors to the hard one and divides them, after what each worker's
/// pipes may take.
fn descriptors_for_each(worker_count: usize) -> usize {
    let descriptors = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                tracing::warn!(error = %error, "cannot raise the limit of descriptors");
            }
            getrlimit(Resource::RLIMIT_NOFILE).map_or(hard, |(soft, _)| soft)
        }
        Err(error) => {
            tracing::warn!(error = %error, "cannot read the limit of descriptors");
            RESERVED_DESCRIPTORS
        }
    };
    let reserved = RESERVED_DESCRIPTORS.min(descriptors / 4);
    let for_traffic = descriptors - descriptors / HEALTH_CHECK_PART - reserved;
    let for_each = (for_traffic / worker_count as u64).saturating_sub(PIPE_DESCRIPTORS as u64);
    usize::try_from(for_each.max(LEAST_DESCRIPTORS)).unwrap_or(usize::MAX)
}
