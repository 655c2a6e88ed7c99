//! One stream, from its HEADERS to its record: pick, lease, exchange, and again where that is
//! safe.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode, Version};
use streamvs_balance::{Choice, ConnectFailure, Fault, ReplayReason, Target, Unit, VirtualServer};

use crate::clients::StreamSeat;
use crate::connect::DialError;
use crate::h2::exchange::{End, Exchange};
use crate::h2::lease::Lease;
use crate::h2::pump::Pump;
use crate::h2::replay::Replay;
use crate::h2::{answer, deadline};
use crate::worker::{Route, Worker};

/// Connections to one endpoint that may turn out to be closing before the stream is opened, until
/// the endpoint counts as failed.
const LEASE_ATTEMPTS: usize = 3;

/// Serves one stream, counted as its client's, to its end.
pub(super) async fn serve(
    worker: Rc<Worker>,
    route: Rc<Route>,
    _seat: Option<StreamSeat>,
    first: Option<Choice>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (mut parts, body) = request.into_parts();
    let grpc = answer::is_grpc(&parts.headers);
    let timeout = parts.headers.get("grpc-timeout").filter(|_| grpc);
    let timeout = timeout.and_then(|value| deadline::grpc_timeout(value.as_bytes()));
    // A time beyond the clock's end is never.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    if parts.uri.authority().is_none() {
        // `:authority` may be left out where there is a `host` (RFC 9113 section 8.3.1). The crate
        // sends it on like that only for what it takes for a translated HTTP/1.1 request.
        parts.version = Version::HTTP_11;
    }
    let mut stream = Stream {
        worker: &worker,
        route: &route,
        head: Request::from_parts(parts, ()),
        grpc,
        respond,
        tried: Tried::default(),
        deadline,
    };
    stream.run(first, Pump::new(body)).await;
}

/// A stream that is on no endpoint yet, or on one at a time.
struct Stream<'a> {
    worker: &'a Worker,
    route: &'a Route,
    head: Request<()>,
    grpc: bool,
    respond: SendResponse<Bytes>,
    tried: Tried,
    /// When the client stops waiting, where it said so.
    deadline: Option<Instant>,
}

/// A stream that its endpoint's connection has taken.
struct Opened {
    lease: Lease,
    response: ResponseFuture,
    to_upstream: SendStream<Bytes>,
}

/// What came of opening a stream.
enum Opening {
    Opened(Opened),
    /// The client gave up waiting.
    Cancelled,
    /// The endpoint was removed while the stream waited for its connection.
    Removed,
    /// The client's deadline has passed meanwhile.
    Late,
}

/// What came of waiting for a connection.
enum Leasing {
    Leased(Lease),
    /// As for [`Opening`].
    Cancelled,
    Removed,
    Late,
}

/// A stream that could not be opened at an endpoint. Nothing of the request was sent.
struct Unopened {
    /// For the counter of failures.
    failure: ConnectFailure,
    /// What that says of the endpoint, and since when.
    fault: Option<Fault>,
    at: Instant,
}

impl From<&DialError> for Unopened {
    fn from(error: &DialError) -> Self {
        Self { failure: error.failure, fault: error.fault, at: error.at }
    }
}

/// Endpoints this stream is not given to again. Each stands here at most twice, so the attempts
/// are bounded by twice the number of endpoints.
#[derive(Debug, Default)]
pub(super) struct Tried {
    addresses: Vec<SocketAddr>,
    /// Those that only declined on one connection, which was closing or full: they get another
    /// chance, on another connection, when no other endpoint is left.
    declined: Vec<SocketAddr>,
    second_round: bool,
}

impl Tried {
    pub(super) fn failed(&mut self, address: SocketAddr) {
        self.addresses.push(address);
    }

    pub(super) fn declined(&mut self, address: SocketAddr) {
        self.addresses.push(address);
        if !self.second_round {
            self.declined.push(address);
        }
    }

    /// Picks among the others, and when none is left once more among those that declined.
    pub(super) fn pick(
        &mut self,
        pick: impl Fn(&[SocketAddr]) -> Option<Choice>,
    ) -> Option<Choice> {
        loop {
            let picked = pick(&self.addresses);
            if picked.is_some() || !self.start_second_round() {
                return picked;
            }
        }
    }

    /// What the client is told when nobody is left.
    pub(super) fn no_endpoint(&self, server: &VirtualServer) -> String {
        let name = &server.service().name;
        match self.addresses.len() {
            0 => format!("Service {name} has no usable endpoint"),
            count => format!("Service {name}: none of {count} endpoints could be reached"),
        }
    }

    /// What the client is told when others have used up the budget.
    pub(super) fn over_budget(server: &VirtualServer) -> String {
        let name = &server.service().name;
        format!("Service {name}: too many calls were turned away to try another endpoint")
    }

    /// Gives those that declined a second chance, once.
    fn start_second_round(&mut self) -> bool {
        if self.declined.is_empty() {
            return false;
        }
        let again = std::mem::take(&mut self.declined);
        self.addresses.retain(|address| !again.contains(address));
        self.second_round = true;
        true
    }
}

impl Stream<'_> {
    async fn run(&mut self, first: Option<Choice>, mut request: Pump) {
        let mut first = first.filter(is_still_good);
        let mut replay = Replay::default();
        let mut head_only = request.ended();
        if head_only {
            replay.keep_end(None);
        }
        // Why it has left another endpoint, and when.
        let mut left = None;
        loop {
            if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return self.answer_late();
            }
            let Some(server) = self.route.server(self.worker) else {
                let message = format!("no Service at {} any more", self.route.address());
                return self.answer(StatusCode::SERVICE_UNAVAILABLE, &message);
            };
            let Some(choice) = first.take().or_else(|| self.pick(&server)) else {
                server.stats().no_endpoint.inc();
                return self.answer_no_endpoint(&server);
            };
            if let Some((reason, at)) = left.take()
                && !server.replay(reason, at)
            {
                return self.answer_over_budget(&server);
            }
            let opened = match self.open(&server, &choice, head_only).await {
                Ok(Opening::Opened(opened)) => opened,
                Ok(Opening::Cancelled) => return,
                Ok(Opening::Removed) => continue,
                Ok(Opening::Late) => return self.answer_late(),
                Err(Unopened { failure, fault, at }) => {
                    choice.target().stats().failures[failure.index()].inc();
                    if let Some(fault) = fault {
                        server.fault(choice.target(), fault, at);
                    }
                    self.tried.failed(choice.address());
                    left = Some((ReplayReason::DialFailed, at));
                    continue;
                }
            };
            let started = Instant::now();
            note_start(self.worker, self.route, &server, &choice, started);
            let mut exchange = Exchange {
                request: &mut request,
                replay: &mut replay,
                to_upstream: opened.to_upstream,
                response: opened.response,
                respond: &mut self.respond,
                grpc: self.grpc,
                health: Health::new(&server, choice.target()),
                request_stopped: false,
                body: None,
            };
            let end = exchange.run().await;
            let (status, octets) = (exchange.grpc_status(), exchange.octets_to_downstream());
            drop(exchange);
            let stats = choice.target().stats();
            stats.stream_duration.observe(started.elapsed());
            server.stats().bytes_to_downstream.add(octets);
            tracing::trace!(
                original_dst = %self.route.address(),
                endpoint = %choice.address(),
                grpc_status = status,
                outcome = %end,
                "stream ended"
            );
            match end {
                End::Replay(reason) => {
                    if reason == ReplayReason::GoAway {
                        opened.lease.retire();
                    }
                    self.tried.declined(choice.address());
                    left = Some((reason, Instant::now()));
                    head_only = request.rewind(&replay);
                    continue;
                }
                End::Lost(error) => {
                    // A stream that broke a rule, or is above a GOAWAY's last one, is no fault.
                    let is_goodbye = error.is_go_away() && error.is_remote();
                    let is_of_stream = error.is_reset() || is_goodbye;
                    if !is_of_stream {
                        let at = opened.lease.failed_at();
                        server.fault(choice.target(), Fault::LostBeforeReply, at);
                    }
                    let message = format!(
                        "connection to endpoint {} of Service {} was lost before its reply",
                        choice.address(),
                        server.service().name
                    );
                    self.answer(StatusCode::BAD_GATEWAY, &message);
                }
                End::Complete | End::Cancelled(_) | End::Reset(_) | End::Broken(_) => {}
            }
            server.stats().bytes_to_upstream.add(request.octets());
            if self.grpc {
                stats.grpc_response(status).inc();
            }
            return;
        }
    }

    fn pick(&mut self, server: &VirtualServer) -> Option<Choice> {
        let (worker, route) = (self.worker, &self.route);
        self.tried.pick(|tried| worker.pick(server, route, Unit::Stream, tried))
    }

    /// Opens the stream on a connection to the chosen endpoint.
    ///
    /// # Errors
    /// The endpoint cannot be reached, or closed each connection before it took the stream.
    /// Nothing of the request was sent.
    async fn open(
        &mut self,
        server: &VirtualServer,
        choice: &Choice,
        head_only: bool,
    ) -> Result<Opening, Unopened> {
        let mut closed_at = None;
        for _ in 0..LEASE_ATTEMPTS {
            let lease = match self.lease(choice).await {
                Ok(Leasing::Leased(lease)) => lease,
                Ok(Leasing::Cancelled) => return Ok(Opening::Cancelled),
                Ok(Leasing::Removed) => return Ok(Opening::Removed),
                Ok(Leasing::Late) => return Ok(Opening::Late),
                Err(error) => return Err((&*error).into()),
            };
            if let Ok((response, to_upstream)) = lease.send(self.head.clone(), head_only) {
                return Ok(Opening::Opened(Opened { lease, response, to_upstream }));
            }
            server.stats().replays[ReplayReason::Unwritten.index()].inc();
            closed_at = Some(lease.failed_at());
        }
        let at = closed_at.unwrap_or_else(Instant::now);
        let fault = Some(Fault::LostBeforeReply);
        Err(Unopened { failure: ConnectFailure::Other, fault, at })
    }

    /// A place on a connection to the chosen endpoint, which is looked at again after each wait:
    /// it takes no stream once it was removed, and is not dialled for one. Nor is it waited for past
    /// the client's deadline.
    async fn lease(&mut self, choice: &Choice) -> Result<Leasing, Rc<DialError>> {
        let leg = self.route.leg(self.worker, choice.address());
        let mut lease = pin!(self.worker.pool.lease(leg));
        let mut deadline = pin!(until(self.deadline));
        let respond = &mut self.respond;
        let mut has_waited = false;
        poll_fn(|cx| {
            // Without a wait it was picked just now, from the newest table.
            if has_waited && is_removed(choice) {
                return Poll::Ready(Ok(Leasing::Removed));
            }
            has_waited = true;
            if let Poll::Ready(leased) = lease.as_mut().poll(cx) {
                return Poll::Ready(leased.map(Leasing::Leased));
            }
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Leasing::Late));
            }
            respond.poll_reset(cx).map(|_| Ok(Leasing::Cancelled))
        })
        .await
    }

    fn answer_no_endpoint(&mut self, server: &Arc<VirtualServer>) {
        let message = self.tried.no_endpoint(server);
        self.answer(StatusCode::SERVICE_UNAVAILABLE, &message);
    }

    fn answer_over_budget(&mut self, server: &VirtualServer) {
        self.answer(StatusCode::SERVICE_UNAVAILABLE, &Tried::over_budget(server));
    }

    fn answer_late(&mut self) {
        answer::deadline_exceeded(&mut self.respond, deadline::PASSED);
    }

    fn answer(&mut self, status: StatusCode, message: &str) {
        answer::unavailable(&mut self.respond, self.grpc, status, message);
    }
}

/// Ready at the time, or never.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The chosen endpoint has left the table since it was chosen.
pub(super) fn is_removed(choice: &Choice) -> bool {
    choice.target().retired_at().is_some()
}

/// An endpoint that was chosen a while ago would be chosen now.
pub(super) fn is_still_good(choice: &Choice) -> bool {
    !is_removed(choice) && !choice.target().is_ejected()
}

/// Whom to tell how the endpoint of a stream does.
#[derive(Clone, Copy)]
pub(super) struct Health<'a> {
    server: &'a VirtualServer,
    target: &'a Target,
}

impl<'a> Health<'a> {
    pub(super) fn new(server: &'a VirtualServer, target: &'a Target) -> Self {
        Self { server, target }
    }

    /// The head of the final response has come. UNAVAILABLE in place of a reply is none.
    pub(super) fn responds(self, is_unavailable: bool) {
        if is_unavailable {
            self.server.fault(self.target, Fault::Unavailable, Instant::now());
        } else {
            self.target.answered();
        }
    }
}

/// Counts a stream on `route` that was given to an endpoint, and how late that was if the endpoint
/// had been removed between the pick and now. It is removed when the table without it is published,
/// which is a little after it is told of.
pub(super) fn note_start(
    worker: &Worker,
    route: &Route,
    server: &VirtualServer,
    choice: &Choice,
    now: Instant,
) {
    choice.target().stats().streams.inc();
    let is_offered = |server: &VirtualServer| {
        let usable = server.usable(route.policy(server)).iter();
        usable.map(|target| target.address()).any(|address| address == choice.address())
    };
    if let Some(retired_at) = choice.target().retired_at()
        && !route.server(worker).is_some_and(|server| is_offered(&server))
    {
        let late = now.saturating_duration_since(retired_at);
        server.stats().last_stream_after_removal.observe(late);
    }
}
