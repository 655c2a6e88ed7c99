//! The clients: all kinds of calls from one pod, paced, each with an id of its own.

mod grpc;
mod tcp;
mod udp;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use streamvs_support::lab::{Host, block_on_local};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::ledger::{Answered, Failed, Kind, Ledger, Why};
use crate::records::Incarnation;

/// gRPC connections, and how many calls are made at once on each.
const LINES: usize = 4;
const CALLS_AT_ONCE: usize = 3;

/// Loops of short TCP connections, long ones, and loops of datagrams.
const KNOCKERS: usize = 4;
const SESSIONS: usize = 12;
const ASKERS: usize = 8;

/// How long an answer may take. Far above what it takes on a busy machine with lost packets.
const PATIENCE: Duration = Duration::from_secs(30);

/// After a failure, so that nobody is asked as fast as the machine can.
const REST: Duration = Duration::from_millis(20);

/// Where clients find the Services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets {
    pub(crate) grpc: SocketAddr,
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
}

/// Clients under way, on a thread of their own.
#[derive(Debug)]
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    worker: JoinHandle<Ledger>,
}

impl Running {
    /// Starts all of them in a pod.
    pub(crate) fn start(client: &Host, clock: Clock, targets: Targets, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (also_stop, also_answered) = (Arc::clone(&stop), Arc::clone(&answered));
        let worker = client.spawn(move || {
            let shared = Rc::new(Shared {
                clock,
                targets,
                stop: also_stop,
                progress: also_answered,
                issued: Cell::new(0),
                ledger: RefCell::new(Ledger::default()),
            });
            block_on_local(Rc::clone(&shared).run(seed));
            shared.ledger.take()
        });
        Self { stop, answered, worker }
    }

    /// Calls answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Begins no more calls, waits for the open ones, and gives all.
    pub(crate) fn finish(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// What the loops share.
struct Shared {
    clock: Clock,
    targets: Targets,
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    issued: Cell<u64>,
    ledger: RefCell<Ledger>,
}

/// What a client knows of the connection that carries its calls.
#[derive(Clone, Copy, Debug)]
struct Connection {
    opened: Duration,
    last: Option<(Duration, Incarnation)>,
}

/// A call under way.
#[derive(Clone, Copy, Debug)]
struct Begun {
    id: u64,
    kind: Kind,
    began: Duration,
}

impl Shared {
    async fn run(self: Rc<Self>, seed: u64) {
        let mut loops = JoinSet::new();
        let mut seeds = Rng::with_seed(seed);
        for _ in 0..LINES {
            loops.spawn_local(grpc::line(Rc::clone(&self), seeds.fork()));
        }
        for _ in 0..KNOCKERS {
            loops.spawn_local(tcp::knock(Rc::clone(&self), seeds.fork()));
        }
        for _ in 0..SESSIONS {
            loops.spawn_local(tcp::sessions(Rc::clone(&self), seeds.fork()));
        }
        for _ in 0..ASKERS {
            loops.spawn_local(udp::ask(Rc::clone(&self), seeds.fork()));
        }
        while let Some(ended) = loops.join_next().await {
            ended.expect("a client does not panic");
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A call with an id that no other has: the kind in the first octet, then its number.
    fn begin(&self, kind: Kind) -> Begun {
        let number = self.issued.get() + 1;
        self.issued.set(number);
        Begun { id: (kind as u64 + 1) << 56 | number, kind, began: self.clock.now() }
    }

    fn open(&self) -> Connection {
        Connection { opened: self.clock.now(), last: None }
    }

    /// Writes down what came of a call. True: it was answered.
    fn end(
        &self,
        call: Begun,
        connection: Option<&mut Connection>,
        outcome: Result<Incarnation, Why>,
    ) -> bool {
        let Begun { id, kind, began } = call;
        let ended = self.clock.now();
        let mut ledger = self.ledger.borrow_mut();
        match outcome {
            Ok(by) => {
                if let Some(connection) = connection {
                    connection.last = Some((ended, by));
                }
                ledger.answered.push(Answered { id, kind, by });
                self.progress.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(why) => {
                let opened = connection.as_ref().map_or(began, |connection| connection.opened);
                let (proven, peer) = connection.and_then(|connection| connection.last).unzip();
                ledger.failed.push(Failed { id, kind, opened, proven, peer, began, ended, why });
                false
            }
        }
    }
}

/// A pause of at most this long, on average half of it.
async fn pause(random: &mut Rng, most_milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(random.u64(0..=most_milliseconds))).await;
}

/// Whether an answer is what was sent, and whose it is.
fn check(name: &str, sent: &[u8], received: &[u8]) -> Result<Incarnation, Why> {
    let by = Incarnation::parse(name.trim_end())
        .ok_or_else(|| Why::Wrong(format!("no endpoint is called {name:?}")))?;
    if sent == received {
        return Ok(by);
    }
    let (lengths, same) = ((sent.len(), received.len()), sent.iter().zip(received));
    let place = same.take_while(|(one, other)| one == other).count();
    Err(Why::Wrong(format!("{by}'s answer differs from octet {place} on, lengths {lengths:?}")))
}
