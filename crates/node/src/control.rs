//! From a new table to what traffic and the kernel see of it.
//!
//! ```text
//! watch --snapshot--> Publication --plan-----> workers   (one atomic swap)
//!                          |
//!                          +-------target----> Rules --> kernel (newest only)
//! ```
//!
//! Traffic first: a Service is known to the workers before the kernel sends them its connections.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use streamvs_admin::{Health, Moment, NodeMetrics, NodeState, Sync, TableSource};
use streamvs_balance::{Plan, SchedulerName};
use streamvs_capture::{BEAT, Capture, Desired, Gate};
use streamvs_nat::{KernelPath, Ranges, Reconciled};
use streamvs_resolve::Changes;
use streamvs_table::publish::Publisher;
use streamvs_table::{Aliases, Family, Snapshot};
use streamvs_watch::{NodeStatus, Origin, Update};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::client_ip::{InForce, Wish};
use crate::config;
use crate::error::Error;
use crate::orders::{Order, Ordered};
use crate::programming::Programming;
use crate::reach::Reach;

/// How long a failed change of rules waits before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long the start waits for the workers. They have nothing to do then, so this is the time of a
/// machine that does other things.
const GATE_OPENS: Duration = Duration::from_secs(10);

/// The plan, which new tables change, and new defaults: one after the other, on one thread.
pub(crate) struct Plans {
    publisher: Publisher<Plan>,
    scheduler: Cell<SchedulerName>,
    /// What the kernel's writer is told, who goes by the same default.
    target: watch::Sender<Option<Target>>,
}

impl Plans {
    pub(crate) fn new(
        publisher: Publisher<Plan>,
        scheduler: SchedulerName,
        target: watch::Sender<Option<Target>>,
    ) -> Self {
        Self { publisher, scheduler: Cell::new(scheduler), target }
    }

    /// Gives the Services that ask for no scheduler another one.
    pub(crate) fn set_scheduler(&self, scheduler: SchedulerName) {
        self.scheduler.set(scheduler);
        let snapshot = Arc::clone(self.publisher.current().snapshot());
        self.publish(snapshot, Instant::now());
        self.target.send_if_modified(|target| match target {
            Some(target) => {
                target.scheduler = scheduler;
                true
            }
            None => false,
        });
    }

    fn publish(&self, snapshot: Arc<Snapshot>, now: Instant) {
        let (plan, notices) = self.publisher.current().next(snapshot, self.scheduler.get(), now);
        self.publisher.publish(Arc::new(plan));
        for notice in notices {
            tracing::warn!("{notice}");
        }
    }
}

/// What the kernel shall agree with.
#[derive(Clone)]
pub(crate) struct Target {
    /// For capture.
    desired: Arc<Desired>,
    /// For the kernel path.
    snapshot: Arc<Snapshot>,
    /// The same.
    scheduler: SchedulerName,
}

/// The single writer of the table.
pub(crate) struct Publication {
    pub(crate) plans: Rc<Plans>,
    /// For those who follow the table itself.
    pub(crate) tables: watch::Sender<Arc<Snapshot>>,
    /// The kernel balances too, so that it has to be told of endpoints.
    pub(crate) kernel_balances: bool,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) programming: Arc<Programming>,
    /// The service ranges the API server told of.
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Whether endpoints are to see the clients.
    pub(crate) client_ip: Wish,
    pub(crate) reach: Reach,
}

impl Publication {
    /// Takes in what the API server, or the state file, says.
    pub(crate) fn take(&mut self, update: Update) {
        match update {
            Update::Table { snapshot, changes, origin } => {
                let source = match origin {
                    Origin::Server => TableSource::Api,
                    Origin::State => TableSource::State,
                };
                self.publish(snapshot, &changes, source);
            }
            Update::Node(NodeStatus::Absent) => self.health.set_node(NodeState::Absent),
            Update::Node(NodeStatus::Present { deleting, taints }) => {
                let taints = taints.iter().map(String::as_str);
                self.health.set_node(NodeState::known(deleting, taints));
            }
            Update::ServiceCidrs(ranges) => self.set_service_cidrs(ranges),
            Update::Watching(kind) => self.metrics.source.watch_works(kind.as_str()),
            Update::Broken(kind) => self.metrics.source.watch_failed(kind.as_str()),
            Update::Saved(result) => {
                self.metrics.source.state_saved(result.is_ok());
                if let Err(error) = result {
                    tracing::warn!(%error, "cannot save the state file, trying again later");
                }
            }
        }
    }

    /// Shows a new table to the workers, then tells the kernel's writer.
    pub(crate) fn publish(&self, snapshot: Snapshot, changes: &Changes, source: TableSource) {
        let started = Instant::now();
        self.metrics.changes_learnt(changes.services, changes.slices);
        for family in Family::BOTH {
            self.health.queued(family, Moment::now());
        }
        let snapshot = Arc::new(snapshot);
        let before = Arc::clone(self.plans.publisher.current().snapshot());
        self.plans.publish(Arc::clone(&snapshot), started);
        self.metrics.table_swapped(started.elapsed());
        self.tables.send_replace(Arc::clone(&snapshot));
        let first_of_source = self.health.table_source() != Some(source);
        self.health.set_table_source(source);
        let (generation, service_port_count) =
            (snapshot.generation(), snapshot.service_port_count());
        if first_of_source {
            let source = source.as_str();
            tracing::info!(generation, service_port_count, source, "first table from its source");
        } else {
            tracing::debug!(generation, service_port_count, "table published");
        }
        let kernel_follows = if snapshot.is_reached_as(&before) {
            self.desire_the_same(&snapshot)
        } else {
            self.desire(&snapshot)
        };
        self.programming.published(changes, kernel_follows || self.kernel_balances);
    }

    /// The table stays; the ranges are for the kernel only.
    fn set_service_cidrs(&mut self, ranges: Vec<IpNet>) {
        self.service_cidrs = ranges;
        if self.plans.target.borrow().is_some() {
            self.desire(self.plans.publisher.current().snapshot());
        }
    }

    /// Only endpoints have changed, so that capture is as it should be, or soon will be. True: it
    /// has yet to be told for the first time.
    fn desire_the_same(&self, snapshot: &Arc<Snapshot>) -> bool {
        let never = self.plans.target.borrow().is_none();
        if never {
            return self.desire(snapshot);
        }
        self.plans.target.send_modify(|target| {
            if let Some(target) = target {
                target.snapshot = Arc::clone(snapshot);
            }
        });
        false
    }

    /// Tells the kernel's writer. True: capture has something to do.
    fn desire(&self, snapshot: &Arc<Snapshot>) -> bool {
        let ranges = self.service_cidrs.iter().copied().collect();
        self.reach.tell_of_no_address(snapshot);
        let desired = Arc::new(Desired {
            ranges,
            aliases: self.client_ip.aliases(snapshot),
            transparent: self.client_ip.transparent(snapshot),
            node_ranges: self.reach.node_ranges(snapshot.node()),
            pod_ranges: self.reach.pod_ranges(snapshot.node()),
            ..Desired::from_snapshot(snapshot)
        });
        let target = &self.plans.target;
        let news = target.borrow().as_ref().is_none_or(|target| *target.desired != *desired);
        let scheduler = self.plans.scheduler.get();
        target.send_replace(Some(Target { desired, snapshot: Arc::clone(snapshot), scheduler }));
        news
    }
}

/// The single writer of the kernel's rules.
pub(crate) struct Rules {
    /// None: `--capture none`.
    pub(crate) config: Option<streamvs_capture::Config>,
    /// None: captured is what the rules say, whether we live or not.
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) client_ip: InForce,
    /// None: UDP and SCTP are kube-proxy's.
    pub(crate) kernel_path: Option<streamvs_nat::Config>,
    pub(crate) target: watch::Receiver<Option<Target>>,
    pub(crate) sync_period: Duration,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) programming: Arc<Programming>,
}

impl Rules {
    /// Does as ordered: mostly, installs rules for the first table and keeps them true. Ends with
    /// [`Order::Remove`], when the gate is closed and the rules are given back, so that
    /// established connections can end before they are removed, or with [`Order::Leave`].
    ///
    /// # Errors
    /// The first installation failed: without capture there is nothing to do. Later failures are
    /// logged, show in `/healthz`, and are tried again.
    pub(crate) async fn run(mut self, mut ordered: Ordered) -> Result<Option<Capture>, Error> {
        let mut installed = None;
        loop {
            match ordered.now() {
                Order::Keep => {
                    match &mut installed {
                        // Somebody else had them meanwhile.
                        Some(installed) => {
                            self.audit(installed).await;
                            self.update(installed, &ordered).await;
                        }
                        None => installed = self.install(&mut ordered).await?,
                    }
                    if let Some(installed) = &mut installed {
                        ordered.obey(Order::Keep);
                        self.keep(installed, &mut ordered).await;
                    }
                }
                Order::Hold => {
                    ordered.obey(Order::Hold);
                    ordered.changed().await;
                }
                Order::Leave => {
                    self.leave_gate();
                    return Ok(None);
                }
                Order::Remove => break,
            }
        }
        let Some(Installed { mut capture, .. }) = installed else {
            return Ok(None);
        };
        self.shut_gate();
        if let Err(error) = capture.close_gate().await {
            tracing::error!(error = %error, "cannot stop capturing new connections");
        }
        Ok(Some(capture))
    }

    /// Keeps the rules true until there is another order.
    async fn keep(&mut self, installed: &mut Installed, ordered: &mut Ordered) {
        let mut audit = tokio::time::interval(config::audit_interval(self.sync_period));
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audit.reset();
        loop {
            tokio::select! {
                biased;
                () = ordered.changed() => return,
                // Before changes, which may come without a pause; these have their turn after each,
                // however long it took.
                _ = audit.tick() => {
                    self.audit(installed).await;
                    audit.reset();
                }
                changed = self.target.changed() => {
                    if changed.is_err() {
                        // The process ends; its last order comes or has come.
                        return ordered.changed().await;
                    }
                    self.update(installed, ordered).await;
                }
            }
        }
    }

    /// Waits for the first table and installs its rules. None: there is another order.
    async fn install(&mut self, ordered: &mut Ordered) -> Result<Option<Installed>, Error> {
        loop {
            let target = self.target.borrow_and_update().clone();
            if let Some(target) = target {
                if let Some(config) = self.config.take() {
                    return self.install_first(config, target).await.map(Some);
                }
                // Nothing is to be captured.
                self.applied(Sync::Full, Instant::now());
                ordered.obey(Order::Keep);
            }
            tokio::select! {
                biased;
                () = ordered.changed() => return Ok(None),
                changed = self.target.changed() => {
                    if changed.is_err() {
                        ordered.changed().await;
                        return Ok(None);
                    }
                }
            }
        }
    }

    async fn install_first(
        &mut self,
        config: streamvs_capture::Config,
        target: Target,
    ) -> Result<Installed, Error> {
        let Target { desired, snapshot, scheduler } = target;
        let started = Instant::now();
        // What capture falls back to is there before capture is.
        let kernel_path = match self.kernel_path.take() {
            Some(mut config) => {
                config.scheduler = scheduler.as_str().to_owned();
                let installed = KernelPath::install(config, snapshot, ranges(&desired)).await;
                let (kernel_path, applied) = installed.map_err(Error::KernelPath)?;
                tracing::info!(script_bytes = applied.script_bytes, "kernel path installed");
                tell_of_flows(&self.metrics, &applied);
                Some(kernel_path)
            }
            None => None,
        };
        let capture = Capture::install(config, &desired).await.map_err(Error::Capture)?;
        self.client_ip.show(&capture);
        self.open_gate().await;
        if kernel_path.is_none() {
            take_away_left_kernel_path().await;
        }
        self.applied(Sync::Full, started);
        tracing::info!(
            captured_count = desired.capture.len(),
            by = %capture.method(),
            "capture rules installed"
        );
        Ok(Installed { capture, captured: desired, kernel_path })
    }

    /// Brings the kernel to the newest table, however often that fails, unless there is another
    /// order.
    async fn update(&mut self, installed: &mut Installed, ordered: &Ordered) {
        loop {
            let Some(target) = self.target.borrow_and_update().clone() else {
                return;
            };
            let started = Instant::now();
            let news = !Arc::ptr_eq(&target.desired, &installed.captured);
            if news {
                self.client_ip.hide_others(|alias| target.desired.aliases.contains(alias));
            }
            match installed.follow(target, &self.metrics).await {
                Ok(()) => {
                    if news {
                        self.client_ip.show(&installed.capture);
                    }
                    return self.applied(Sync::Partial, started);
                }
                Err(error) => {
                    tracing::error!(error = %error, "cannot update the kernel's rules, trying again");
                    tokio::select! {
                        () = ordered.pending() => return,
                        () = tokio::time::sleep(RETRY_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Lets the kernel send us connections, once every worker has given a sign of life.
    async fn open_gate(&self) {
        let Some(gate) = &self.gate else { return };
        gate.open();
        let opening = async {
            while !gate.is_open() {
                tokio::time::sleep(BEAT / 10).await;
            }
        };
        if timeout(GATE_OPENS, opening).await.is_err() {
            tracing::warn!("the workers are busy, nothing is captured until they are not");
        }
    }

    /// Somebody else has a gate of his own.
    fn leave_gate(&self) {
        if let Some(gate) = &self.gate
            && let Err(error) = gate.leave()
        {
            tracing::warn!(%error, "cannot delete the gate, it shuts by itself");
        }
    }

    fn shut_gate(&self) {
        if let Some(gate) = &self.gate
            && let Err(error) = gate.close()
        {
            tracing::warn!(%error, "cannot delete the gate, it shuts by itself");
        }
    }

    async fn audit(&mut self, installed: &mut Installed) {
        let started = Instant::now();
        match self.gate.as_deref().map(Gate::mend) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => {
                self.metrics.capture_repaired(1);
                tracing::warn!("somebody deleted the gate, repaired");
            }
            Some(Err(error)) => tracing::error!(%error, "cannot make the gate again"),
        }
        let client_ip = &self.client_ip;
        let narrow = |stay: &Aliases| {
            client_ip.hide_others(|alias| stay.iter().any(|stays| stays == alias));
        };
        match installed.capture.audit(&narrow).await {
            Ok(repairs) => {
                self.client_ip.show(&installed.capture);
                self.synced(Sync::Full, started);
                for repair in repairs {
                    self.metrics.capture_repaired(1);
                    tracing::warn!(repair = %repair, "somebody changed our rules, repaired");
                }
            }
            Err(error) => {
                tracing::error!(error = %error, "cannot check the capture rules");
            }
        }
        let Some(kernel_path) = &mut installed.kernel_path else { return };
        match kernel_path.audit().await {
            Ok(applied) if applied.script_bytes == 0 => {}
            Ok(applied) => {
                self.metrics.capture_repaired(1);
                tell_of_flows(&self.metrics, &applied);
                tracing::warn!("somebody changed the table streamvs-nat, repaired");
            }
            Err(error) => tracing::error!(error = %error, "cannot check the table streamvs-nat"),
        }
    }

    /// The kernel agrees with the newest table this was told of.
    fn applied(&self, sync: Sync, started: Instant) {
        self.synced(sync, started);
        self.programming.applied();
        for family in Family::BOTH {
            self.health.applied(family, Moment::now());
        }
    }

    fn synced(&self, sync: Sync, started: Instant) {
        for family in Family::BOTH {
            self.metrics.rules_synced(family, sync, started.elapsed());
        }
    }
}

/// What is in the kernel.
struct Installed {
    capture: Capture,
    /// What capture has been told.
    captured: Arc<Desired>,
    kernel_path: Option<KernelPath>,
}

impl Installed {
    /// Brings the kernel to a target. Without a change for capture only the kernel path is told.
    ///
    /// Capture comes first where it gains addresses: the kernel path has a new Service's
    /// connections go by connection, and who connects at once and stays would stay so. Where it
    /// loses some the kernel path comes first: what is no longer captured would go to endpoints
    /// that are none any more. Each is told even where the other fails.
    async fn follow(&mut self, target: Target, metrics: &NodeMetrics) -> Result<(), Error> {
        let Target { desired, snapshot, scheduler } = target;
        let ranges = ranges(&desired);
        let same = Arc::ptr_eq(&desired, &self.captured);
        if !same && !desired.captures_all_of(&self.captured) {
            let told = self.tell_kernel_path(snapshot, ranges, scheduler, metrics).await;
            return self.tell_capture(desired).await.and(told);
        }
        let told = self.tell_capture(desired).await;
        self.tell_kernel_path(snapshot, ranges, scheduler, metrics).await.and(told)
    }

    async fn tell_capture(&mut self, desired: Arc<Desired>) -> Result<(), Error> {
        if !Arc::ptr_eq(&desired, &self.captured) {
            self.capture.update(&desired).await.map_err(Error::Capture)?;
            self.captured = desired;
        }
        Ok(())
    }

    async fn tell_kernel_path(
        &mut self,
        snapshot: Arc<Snapshot>,
        ranges: Ranges,
        scheduler: SchedulerName,
        metrics: &NodeMetrics,
    ) -> Result<(), Error> {
        if let Some(kernel_path) = &mut self.kernel_path {
            let updated = kernel_path.update(snapshot, ranges, scheduler.as_str()).await;
            let applied = updated.map_err(Error::KernelPath)?;
            tracing::debug!(script_bytes = applied.script_bytes, "the kernel path follows");
            tell_of_flows(metrics, &applied);
        }
        Ok(())
    }
}

/// Next to kube-proxy, what an agent in its place has left would balance what kube-proxy does not, by
/// endpoints that nobody keeps up to date.
async fn take_away_left_kernel_path() {
    match streamvs_nat::cleanup().await {
        Ok(removed) if removed.is_empty() => {}
        Ok(removed) => tracing::info!(removed = removed.join(", "), "took away a kernel path"),
        Err(streamvs_nat::Error::NftMissing) => {}
        Err(error) => tracing::warn!(%error, "cannot look for a kernel path that was left"),
    }
}

/// The kernel path goes by the same ranges as capture.
fn ranges(desired: &Desired) -> Ranges {
    Ranges { node: desired.node_ranges.clone(), pods: desired.pod_ranges.clone() }
}

fn tell_of_flows(metrics: &NodeMetrics, applied: &streamvs_nat::Applied) {
    for family in Family::BOTH {
        if let Some(Reconciled { deleted, took }) = *applied.flows.get(family) {
            metrics.flows_reconciled(family, deleted as u64, took);
            tracing::debug!(ip_family = family.as_str(), deleted, ?took, "stale flows forgotten");
        }
    }
}
