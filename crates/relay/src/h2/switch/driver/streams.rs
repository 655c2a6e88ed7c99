//! What is known of a stream besides what the switch knows: who serves it, and what is counted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use streamvs_balance::{Choice, Fault, ReplayReason, Unit, VirtualServer};

use super::age::{Life, Old};
use crate::clients::StreamSeat;
use crate::connect::dial_fault;
use crate::h2::stream::{Health, Tried, is_removed, is_still_good, note_start};
use crate::h2::switch::{Ended, Event, ExchangeKey, Report};
use crate::worker::{Route, Worker};

/// One exchange.
pub(super) struct Stream {
    pub(super) route: Rc<Route>,
    _seat: Option<StreamSeat>,
    pub(super) life: Life,
    tried: Tried,
    /// Where it is, or is on its way to.
    pub(super) on: Option<On>,
}

pub(super) struct On {
    server: Arc<VirtualServer>,
    pub(super) choice: Choice,
    /// When it was sent there.
    started: Option<Instant>,
    /// It counts as one of the endpoint's old streams.
    pub(super) old: Option<Old>,
}

impl super::Driver {
    pub(super) fn stream_event(&self, worker: &Rc<Worker>, event: Event) {
        match event {
            Event::Pick { exchange, connection } => {
                let (route, seat, first) = {
                    let mut links = self.links.borrow_mut();
                    let client = links.get_mut(connection).and_then(|link| link.client.as_mut());
                    let Some(client) = client else { return };
                    let Ok(seat) = client.route.open_stream(worker) else {
                        return self.switch.borrow_mut().refuse(exchange, Instant::now());
                    };
                    (Rc::clone(&client.route), seat, client.first.take())
                };
                let (life, tried) = (Life::new(connection, Instant::now()), Tried::default());
                let stream = Stream { route, _seat: seat, life, tried, on: None };
                self.streams.borrow_mut().insert(exchange, stream);
                let first = first.filter(is_still_good);
                self.assign(worker, exchange, first);
            }
            Event::Unreachable { exchange, failure, at } => {
                self.replay(worker, exchange, ReplayReason::DialFailed, at, |tried, on| {
                    on.choice.target().stats().failures[failure.index()].inc();
                    if let Some(fault) = dial_fault(failure) {
                        on.server.fault(on.choice.target(), fault, at);
                    }
                    tried.failed(on.choice.address());
                });
            }
            Event::Replayed { exchange, reason, at } => {
                self.replay(worker, exchange, reason, at, |tried, on| {
                    on.observe_duration();
                    match reason {
                        // It closed one connection after the other before the stream was on it.
                        ReplayReason::Unwritten => {
                            on.server.fault(on.choice.target(), Fault::LostBeforeReply, at);
                            tried.failed(on.choice.address());
                        }
                        _ => tried.declined(on.choice.address()),
                    }
                });
            }
            Event::Unwritten { exchange } => {
                let mut streams = self.streams.borrow_mut();
                let Some(stream) = streams.get_mut(exchange) else { return };
                let Some(on) = stream.on.take_if(|on| is_removed(&on.choice)) else {
                    return self.switch.borrow_mut().retry(exchange, Instant::now());
                };
                on.server.stats().replays[ReplayReason::Unwritten.index()].inc();
                on.observe_duration();
                drop(streams);
                self.assign(worker, exchange, None);
            }
            Event::Lost { exchange, is_fault, at } => {
                let message = match self.streams.borrow().get(exchange) {
                    Some(Stream { on: Some(on), .. }) => {
                        if is_fault {
                            on.server.fault(on.choice.target(), Fault::LostBeforeReply, at);
                        }
                        format!(
                            "connection to endpoint {} of Service {} was lost before its reply",
                            on.choice.address(),
                            on.server.service().name
                        )
                    }
                    _ => "connection to the endpoint was lost before its reply".to_owned(),
                };
                self.answer(exchange, 502, &message);
            }
            Event::Sent { exchange } => {
                if let Some(stream) = self.streams.borrow_mut().get_mut(exchange)
                    && let Some(on) = &mut stream.on
                {
                    let now = Instant::now();
                    on.started = Some(now);
                    note_start(worker, &stream.route, &on.server, &on.choice, now);
                }
            }
            Event::Responds { exchange, is_unavailable } => {
                if let Some(Stream { on: Some(on), .. }) = self.streams.borrow().get(exchange) {
                    Health::new(&on.server, on.choice.target()).responds(is_unavailable);
                }
            }
            Event::Ended { exchange, report } => {
                if let Some(stream) = self.streams.borrow_mut().remove(exchange) {
                    stream.ended(&report);
                }
            }
            Event::Dial { .. } => {}
        }
    }

    /// Gives streams that wait for an endpoint which has been removed meanwhile to another one. To
    /// be called in front of all that may send what waits: nothing is dialled or sent for it later.
    ///
    /// Costs one atomic load while the table stays the same.
    pub(super) fn follow_table(&self, worker: &Rc<Worker>) {
        let generation = worker.generation();
        if self.generation.replace(generation) == generation {
            return;
        }
        let removed = |exchange| {
            let streams = self.streams.borrow();
            let on = streams.get(exchange).and_then(|stream| stream.on.as_ref());
            on.is_some_and(|on| is_removed(&on.choice))
        };
        let withdrawn = self.switch.borrow_mut().withdraw(removed);
        for exchange in withdrawn {
            if let Some(stream) = self.streams.borrow_mut().get_mut(exchange) {
                stream.on = None;
            }
            self.assign(worker, exchange, None);
        }
    }

    /// Takes a stream off an endpoint that has not acted on it, which `note` takes note of, and
    /// gives it to another one, within the budget.
    fn replay(
        &self,
        worker: &Rc<Worker>,
        exchange: ExchangeKey,
        reason: ReplayReason,
        at: Instant,
        note: impl FnOnce(&mut Tried, &On),
    ) {
        let left = self.streams.borrow_mut().get_mut(exchange).and_then(|stream| {
            let on = stream.on.take()?;
            note(&mut stream.tried, &on);
            Some((reason, at))
        });
        self.assign_again(worker, exchange, None, left);
    }

    /// Gives a stream to `first`, or to the endpoint that the scheduler picks, or answers it.
    fn assign(&self, worker: &Rc<Worker>, exchange: ExchangeKey, first: Option<Choice>) {
        self.assign_again(worker, exchange, first, None);
    }

    /// The same for one that has left another endpoint, why and when: where there is an endpoint for
    /// it, within the budget.
    fn assign_again(
        &self,
        worker: &Rc<Worker>,
        exchange: ExchangeKey,
        first: Option<Choice>,
        left: Option<(ReplayReason, Instant)>,
    ) {
        let mut streams = self.streams.borrow_mut();
        let Some(stream) = streams.get_mut(exchange) else {
            return;
        };
        let Some(server) = stream.route.server(worker) else {
            let message = format!("no Service at {} any more", stream.route.address());
            return self.answer(exchange, 503, &message);
        };
        let route = &stream.route;
        let picked = first.or_else(|| {
            stream.tried.pick(|tried| worker.pick(&server, route, Unit::Stream, tried))
        });
        let Some(choice) = picked else {
            server.stats().no_endpoint.inc();
            return self.answer(exchange, 503, &stream.tried.no_endpoint(&server));
        };
        if let Some((reason, at)) = left
            && !server.replay(reason, at)
        {
            return self.answer(exchange, 503, &Tried::over_budget(&server));
        }
        let leg = stream.route.leg(worker, choice.address());
        let may_expire = self.may_expire(worker, &server);
        stream.on = Some(On { server, choice, started: None, old: None });
        let mut switch = self.switch.borrow_mut();
        if may_expire {
            switch.watch_messages(exchange);
        }
        switch.assign(exchange, leg, Instant::now());
    }

    fn answer(&self, exchange: ExchangeKey, status: u16, message: &str) {
        self.switch.borrow_mut().answer(exchange, status, message, Instant::now());
    }
}

impl On {
    fn observe_duration(&self) {
        if let Some(started) = self.started {
            self.choice.target().stats().stream_duration.observe(started.elapsed());
        }
    }
}

impl Stream {
    fn ended(self, report: &Report) {
        let Some(on) = self.on else {
            return;
        };
        tracing::trace!(
            original_dst = %self.route.address(),
            endpoint = %on.choice.address(),
            grpc_status = report.grpc_status,
            outcome = ?report.end,
            "stream ended"
        );
        let stats = on.server.stats();
        stats.bytes_to_upstream.add(report.octets_to_upstream);
        stats.bytes_to_downstream.add(report.octets_to_downstream);
        if on.started.is_none() {
            return;
        }
        on.observe_duration();
        let answered = report.end == Ended::Answered;
        if report.grpc {
            let status = report.grpc_status.filter(|_| !answered);
            on.choice.target().stats().grpc_response(status).inc();
        }
    }
}
