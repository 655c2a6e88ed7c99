//! Many calls over a few connections, tallied by who answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Failure, Kind, Line};
use crate::lab::{Netns, block_on_local};

/// How many failures a report quotes; it counts all.
const QUOTED: usize = 10;

/// What to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where to.
    pub address: SocketAddr,
    /// Over how many connections, all opened before the first call.
    pub connections: usize,
    /// How many calls at once on each.
    pub streams: usize,
    /// How many calls in all; none: until stopped.
    pub calls: Option<u64>,
    /// Of which kind.
    pub kind: Kind,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Calls that ended well, by endpoint.
    pub calls: BTreeMap<String, u64>,
    /// Calls that did not.
    pub failed: u64,
    /// The first few failures, in words.
    pub failures: Vec<String>,
    /// Calls tried once more because they were provably not looked at.
    pub retried: u64,
    /// Connections made anew because the first one took no more calls.
    pub reconnected: u64,
    /// How long each good call took, sorted.
    pub durations: Vec<Duration>,
    /// From the first call to the last.
    pub elapsed: Duration,
}

/// A load under way on a thread of its own.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    worker: JoinHandle<Report>,
}

impl Load {
    /// Unary calls over `connections`, ten at once on each, until stopped.
    pub fn unary(address: SocketAddr, connections: usize) -> Self {
        Self { address, connections, streams: 10, calls: None, kind: Kind::Unary }
    }

    /// Ends after this many calls.
    pub fn calls(mut self, calls: u64) -> Self {
        self.calls = Some(calls);
        self
    }

    /// This many calls at once on each connection.
    pub fn streams(mut self, streams: usize) -> Self {
        self.streams = streams;
        self
    }

    /// Calls of another kind.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Sends it all from inside a namespace.
    ///
    /// # Panics
    /// When no number of calls was set: it would not end.
    #[track_caller]
    pub fn run(self, netns: &Netns) -> Report {
        assert!(self.calls.is_some(), "a load that is run to its end has a number of calls");
        self.start(netns).finish()
    }

    /// Begins sending from inside a namespace.
    pub fn start(self, netns: &Netns) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        let (also_stop, also_progress) = (Arc::clone(&stop), Arc::clone(&progress));
        let worker = netns.spawn(move || block_on_local(self.send(also_stop, also_progress)));
        Running { stop, progress, worker }
    }

    async fn send(self, stop: Arc<AtomicBool>, progress: Arc<Progress>) -> Report {
        let shared = Rc::new(Shared {
            load: self,
            report: RefCell::new(Report::default()),
            left: Cell::new(0),
            stop,
            progress,
        });
        shared.left.set(shared.load.calls.unwrap_or(u64::MAX));
        let mut lines = Vec::new();
        for _ in 0..shared.load.connections {
            match Line::connect(shared.load.address).await {
                Ok(line) => lines.push(Rc::new(line)),
                Err(failure) => shared.record_failure(&failure),
            }
        }
        let start = Instant::now();
        let mut loops = JoinSet::new();
        for line in &lines {
            for _ in 0..shared.load.streams {
                loops.spawn_local(Rc::clone(&shared).calls(Rc::clone(line)));
            }
        }
        while let Some(ended) = loops.join_next().await {
            ended.expect("a loop of calls does not panic");
        }
        let mut report = shared.report.take();
        report.elapsed = start.elapsed();
        report.reconnected = lines.iter().map(|line| line.renewals()).sum();
        report.durations.sort_unstable();
        report
    }
}

impl Running {
    /// Calls that have ended well so far.
    pub fn done(&self) -> u64 {
        self.progress.done.load(Ordering::Relaxed)
    }

    /// Calls that have failed so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Ordering::Relaxed)
    }

    /// Waits for this many more good calls.
    ///
    /// # Panics
    /// When they do not come in 20 seconds.
    #[track_caller]
    pub fn advance(&self, calls: u64) {
        let goal = self.done() + calls;
        crate::wait::eventually("the load advances", super::client::PATIENCE, || {
            self.done() >= goal
        });
    }

    /// Starts no more calls, waits for the open ones, and reports.
    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits for the end and reports.
    pub fn finish(self) -> Report {
        self.worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Report {
    /// Calls that ended well.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }

    /// Calls an endpoint answered.
    pub fn of(&self, endpoint: &str) -> u64 {
        self.calls.get(endpoint).copied().unwrap_or(0)
    }

    /// The difference between the busiest and the idlest of these endpoints.
    pub fn spread(&self, endpoints: &[&str]) -> u64 {
        let counts = endpoints.iter().map(|endpoint| self.of(endpoint));
        counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
    }

    /// The duration that a share of the good calls stayed below; zero when there were none.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.durations.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.durations.get(index).copied().unwrap_or_default()
    }

    /// Demands that every call ended well.
    ///
    /// # Panics
    /// When one did not, with the first few reasons.
    #[track_caller]
    pub fn without_failure(self) -> Self {
        assert_eq!(self.failed, 0, "calls failed: {:#?}", self.failures);
        self
    }
}

/// What the loops of one load share.
#[derive(Debug)]
struct Shared {
    load: Load,
    report: RefCell<Report>,
    left: Cell<u64>,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

/// What can be seen of a load while it runs.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    async fn calls(self: Rc<Self>, line: Rc<Line>) {
        while !self.stop.load(Ordering::Relaxed) && self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            self.one_call(&line).await;
        }
    }

    /// Makes one call, once more where no gRPC library would give up, and records it.
    async fn one_call(&self, line: &Line) {
        for last in [false, true] {
            let start = Instant::now();
            let called = match line.client().await {
                Ok(client) => client.ask(self.load.kind).await,
                Err(failure) => Err(failure),
            };
            match called {
                Ok(reply) => {
                    let mut report = self.report.borrow_mut();
                    *report.calls.entry(reply.endpoint).or_insert(0) += 1;
                    report.durations.push(start.elapsed());
                    self.progress.done.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(failure) if failure.is_untouched() && !last => {
                    self.report.borrow_mut().retried += 1;
                }
                Err(failure) => {
                    self.record_failure(&failure);
                    // Without it a peer that is gone would be asked as fast as the machine can.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    return;
                }
            }
        }
    }

    fn record_failure(&self, failure: &Failure) {
        self.progress.failed.fetch_add(1, Ordering::Relaxed);
        let mut report = self.report.borrow_mut();
        report.failed += 1;
        if report.failures.len() < QUOTED {
            report.failures.push(failure.to_string());
        }
    }
}
