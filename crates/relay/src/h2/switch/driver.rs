//! The switch on sockets: one task for each connection, one that writes for all of them.
//!
//! ```text
//!   connection tasks: socket readable -> a chunk -> Switch::receive_chunk -> events
//!                                                              | output
//!                                                              v
//!   flusher: after all tasks that were ready: writev for each connection with output
//! ```
//!
//! A connection's task reads, and waits for its socket to take more when the kernel has refused.
//! All writing is done by the flusher, which runs behind the tasks that were ready with it: what
//! they produce for one connection leaves in one system call.
//!
//! An idle connection has a task, a link, and its state in the switch, but no buffer.

mod age;
mod chunks;
mod flush;
mod link;
mod streams;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slotmap::SecondaryMap;
use streamvs_balance::{Choice, Unit};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Sleep;

use super::{ConnectionKey, Event, ExchangeKey, Over, Switch};
use crate::connect::{DialError, dial, share};
use crate::h2::{Drain, Error, Outcome};
use crate::worker::{Route, Worker};
use crate::{Leg, Shed};
use chunks::Chunks;
use link::{Age, Client, Link};
use streams::Stream;

/// How often the switch looks at the time. Its deadlines are seconds.
const TICK: Duration = Duration::from_millis(500);

/// A worker's switch with its sockets.
pub struct Driver {
    switch: RefCell<Switch>,
    /// Boxed, as the map keeps room for many in reserve.
    links: RefCell<SecondaryMap<ConnectionKey, Box<Link>>>,
    streams: RefCell<SecondaryMap<ExchangeKey, Stream>>,
    chunks: Chunks,
    flusher: RefCell<Waker>,
    /// Of the table by which the streams that wait were looked at last.
    generation: Cell<u64>,
}

impl Driver {
    /// A switch without connections. [`run`] must run for it to write anything.
    pub fn new(crowd: usize, now: Instant) -> Self {
        Self {
            switch: RefCell::new(Switch::new(now).with_crowd(crowd)),
            links: RefCell::default(),
            streams: RefCell::default(),
            chunks: Chunks::default(),
            flusher: RefCell::new(Waker::noop().clone()),
            generation: Cell::new(0),
        }
    }
}

/// Writes what the connections of `worker` have to say, and keeps time for them. Never ends.
pub async fn run(worker: Rc<Worker>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u32;
    let mut expiry = pin!(tokio::time::sleep(TICK));
    std::future::poll_fn(|cx| {
        let driver = &worker.switch;
        while interval.poll_tick(cx).is_ready() {
            driver.follow_table(&worker);
            driver.switch.borrow_mut().tick(Instant::now());
            driver.chunks.shrink();
            if worker.shed() > Shed::Nothing {
                driver.switch.borrow_mut().give_back();
            }
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(age::TICKS) {
                driver.sweep(&worker);
            }
        }
        if !driver.flusher.borrow().will_wake(cx.waker()) {
            *driver.flusher.borrow_mut() = cx.waker().clone();
        }
        driver.follow(&worker);
        driver.poll_expiry(&worker, expiry.as_mut(), cx);
        driver.flush(&worker);
        Poll::<()>::Pending
    })
    .await;
}

/// Serves a client's connection until it ends, as [`h2::serve`](crate::h2::serve) does. `early` is
/// what was read from the socket already.
pub async fn serve(
    worker: Rc<Worker>,
    route: Rc<Route>,
    early: Bytes,
    socket: TcpStream,
    first: Option<Choice>,
    drain: Drain,
) -> Outcome {
    let driver = &worker.switch;
    let first = first.map(|choice| choice.into_unit(Unit::Stream));
    let extended_connect = route.server(&worker).is_some_and(|server| {
        let usable = server.usable(route.policy(&server)).iter();
        let usable = usable.map(|target| route.leg(&worker, target.address()));
        driver.switch.borrow().offer_extended_connect(usable)
    });
    let key = driver.switch.borrow_mut().open_downstream(extended_connect, Instant::now());
    let client = Client { route, first, age: Age::Since(Instant::now()) };
    let mut relayed = pin!(link::relay(&worker, key, early, socket, Some(client)));
    let mut draining = pin!(drained(drain));
    let mut announced = false;
    let ended = loop {
        tokio::select! {
            biased;
            () = &mut draining, if !announced => {
                announced = true;
                driver.switch.borrow_mut().drain(key, Instant::now());
                driver.wake_flusher();
            }
            ended = &mut relayed => break ended,
        }
    };
    let error = match (ended.over, ended.error) {
        (Some(Over::TooSlow(super::Code::SETTINGS_TIMEOUT)), _) => Some(Error::HandshakeTimeout),
        (Some(Over::TooSlow(code)), _) => Some(Error::TooSlow(code)),
        (Some(Over::Failed(code)), _) => Some(Error::Failed(code)),
        (Some(Over::Closed), _) => None,
        (None, error) => error.map(Error::Socket),
    };
    Outcome { stream_count: ended.stream_count, error }
}

/// True where a stream of the worker on `leg` would need a dial.
pub fn wants(worker: &Worker, leg: Leg) -> bool {
    worker.switch.switch.borrow().wants(leg)
}

/// Takes over a dial of `leg` that was begun before the protocol was known.
pub fn adopt_dial<F>(worker: &Rc<Worker>, leg: Leg, dial: F)
where
    F: Future<Output = Result<TcpStream, DialError>> + 'static,
{
    worker.switch.switch.borrow_mut().dial_begun(leg);
    let worker = Rc::clone(worker);
    // Ends by itself: the dial has a deadline, and the connection one when it is idle.
    tokio::task::spawn_local(async move {
        let dialled = dial.await;
        worker.switch.follow_table(&worker);
        match dialled {
            Ok(socket) => {
                let key = worker.switch.switch.borrow_mut().open_upstream(leg, Instant::now());
                connected(worker, key, leg, Bytes::new(), socket).await;
            }
            Err(error) => {
                tracing::debug!(endpoint = %leg.endpoint(), error = %error.source, "endpoint did not accept");
                let driver = &worker.switch;
                driver.switch.borrow_mut().dial_failed(leg, error.failure, Instant::now());
                driver.follow(&worker);
                driver.wake_flusher();
            }
        }
    });
}

/// Takes over a socket of `leg` that was dialled before the protocol was known, with what its endpoint has
/// sent already.
pub fn adopt(worker: &Rc<Worker>, leg: Leg, early: Bytes, socket: TcpStream) {
    worker.switch.follow_table(worker);
    // At once: the first stream is about to ask for it.
    let key = worker.switch.switch.borrow_mut().open_upstream(leg, Instant::now());
    // Ends when the endpoint closes, or the connection is idle.
    tokio::task::spawn_local(connected(Rc::clone(worker), key, leg, early, socket));
}

async fn connected(
    worker: Rc<Worker>,
    key: ConnectionKey,
    leg: Leg,
    early: Bytes,
    socket: TcpStream,
) {
    share(&socket, worker.dial_options());
    let _pooled = worker.pooled();
    let ended = link::relay(&worker, key, early, socket, None).await;
    match (ended.over, ended.error) {
        (Some(Over::Failed(code) | Over::TooSlow(code)), _) => {
            tracing::debug!(endpoint = %leg.endpoint(), code = %code, "endpoint broke the protocol");
        }
        (None, Some(error)) => {
            tracing::debug!(endpoint = %leg.endpoint(), error = %error, "upstream connection lost");
        }
        (Some(Over::Closed), _) | (None, None) => {
            tracing::debug!(endpoint = %leg.endpoint(), "upstream connection closed");
        }
    }
}

/// Ready when `drain` turns true.
async fn drained(mut drain: watch::Receiver<bool>) {
    if drain.wait_for(|draining| *draining).await.is_err() {
        // A sender that is gone never drains: the process is being torn down anyway.
        std::future::pending::<()>().await;
    }
}

impl Driver {
    /// Does what the switch asks, until it asks nothing.
    fn follow(&self, worker: &Rc<Worker>) {
        loop {
            let event = self.switch.borrow_mut().next_event();
            match event {
                None => return,
                Some(Event::Dial { leg }) => {
                    adopt_dial(worker, leg, dial(leg, worker.options.dial));
                }
                Some(event) => self.stream_event(worker, event),
            }
        }
    }

    /// Answers what waits past its deadline, and sees to being woken for the next.
    fn poll_expiry(&self, worker: &Rc<Worker>, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) {
        loop {
            let Some(at) = self.switch.borrow().next_expiry() else {
                return;
            };
            if timer.deadline() != at.into() {
                timer.as_mut().reset(at.into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.switch.borrow_mut().expire_waits(at.max(Instant::now()));
            self.follow(worker);
        }
    }

    fn wake_flusher(&self) {
        self.flusher.borrow().wake_by_ref();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
