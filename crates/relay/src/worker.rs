//! What the connections of one worker thread share.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use streamvs_balance::{Choice, Plan, Request, StreamLimit, Unit, VirtualServer};
use streamvs_table::Aliases;
use streamvs_table::publish::Reader;
use streamvs_table::{AddressKind, MaxAge, Origin, TrafficPolicy};

use crate::clients::{Seat, StreamSeat};
use crate::connect::DialOptions;
use crate::h2::settings::UPSTREAM_CROWD;
use crate::h2::{Engine, Pool, switch};
use crate::tcp::{MAX_PIPES, Pipes, Relays};
use crate::{Leg, Pressure, Shed};

/// Octets of the buffer that all plain connections of a worker read into. One read of a bulk
/// transfer fills it; larger did not measure faster.
const BUFFER_OCTETS: usize = 256 * 1024;

/// Longer than calls take, shorter than a rollout is remembered.
const OLD_STREAM_AGE: Duration = Duration::from_secs(300);

/// What an operator may set for the relay.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who relays HTTP/2.
    pub http2_engine: Engine,
    /// How to connect to endpoints.
    pub dial: DialOptions,
    /// A plain connection without a byte in either direction for this long is closed. None: never
    /// (keepalive still finds dead peers).
    pub idle_timeout: Option<Duration>,
    /// The same once one side has sent FIN. None: never.
    pub half_close_timeout: Option<Duration>,
    /// How old streams and clients' HTTP/2 connections may become where their Service does not
    /// say. By the switch only.
    pub max_age: MaxAge,
    /// How long the streams of a connection that has become too old may go on. None: for as long
    /// as they like.
    pub max_connection_age_grace: Option<Duration>,
    /// From which age on a stream counts as one of its endpoint's old ones. By the switch only.
    pub old_stream_age: Duration,
    /// How short of memory the process is.
    pub pressure: Pressure,
    /// The most idle upstream HTTP/2 connections that are kept for
    /// [`UPSTREAM_IDLE`](crate::h2::settings::UPSTREAM_IDLE); see
    /// [`crate::h2::settings::UPSTREAM_CROWD`].
    pub upstream_crowd: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            http2_engine: Engine::default(),
            dial: DialOptions::default(),
            idle_timeout: None,
            half_close_timeout: None,
            max_age: MaxAge::default(),
            max_connection_age_grace: None,
            old_stream_age: OLD_STREAM_AGE,
            pressure: Pressure::default(),
            upstream_crowd: UPSTREAM_CROWD,
        }
    }
}

/// The state shared by the connections of one worker thread.
pub struct Worker {
    pub(crate) options: Options,
    pub(crate) pool: Pool,
    pub(crate) switch: switch::driver::Driver,
    pub(crate) pipes: Pipes,
    pub(crate) relays: Relays,
    buffer: RefCell<Box<[u8]>>,
    plan: RefCell<Reader<Plan>>,
    aliases: RefCell<Reader<Aliases>>,
    pooled: PooledCount,
    rng: RefCell<fastrand::Rng>,
}

impl Worker {
    /// Makes a worker that reads the table through `plan`, and dials for clients from `aliases`.
    pub fn new(options: Options, plan: Reader<Plan>, aliases: Reader<Aliases>) -> Self {
        let (crowd, pooled) = (options.upstream_crowd, PooledCount::default());
        Self {
            pool: Pool::new(options.dial, crowd, pooled.clone()),
            switch: switch::driver::Driver::new(crowd, Instant::now()),
            options,
            pipes: Pipes::new(MAX_PIPES),
            relays: Relays::default(),
            buffer: RefCell::new(vec![0; BUFFER_OCTETS].into_boxed_slice()),
            plan: RefCell::new(plan),
            aliases: RefCell::new(aliases),
            pooled,
            rng: RefCell::new(fastrand::Rng::new()),
        }
    }

    /// How to connect to endpoints.
    pub fn dial_options(&self) -> &DialOptions {
        &self.options.dial
    }

    /// Who relays HTTP/2.
    pub fn http2_engine(&self) -> Engine {
        self.options.http2_engine
    }

    /// Upstream HTTP/2 connections of the worker, of either engine. Each takes a descriptor.
    pub fn pooled_count(&self) -> usize {
        self.pooled.0.get()
    }

    /// One more of them.
    pub(crate) fn pooled(&self) -> Pooled {
        self.pooled.one_more()
    }

    /// How old what `server` serves may become.
    pub(crate) fn max_age(&self, server: &VirtualServer) -> MaxAge {
        server.service().max_age.or(self.options.max_age)
    }

    /// What is given up for want of memory.
    pub fn shed(&self) -> Shed {
        self.options.pressure.shed()
    }

    /// The upstream HTTP/2 connections of the `h2` engine.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Lends the buffer for one read; nothing may be kept in it across a wait.
    pub fn with_buffer<T>(&self, read: impl FnOnce(&mut [u8]) -> T) -> T {
        read(&mut self.buffer.borrow_mut())
    }

    /// Who serves `address` now.
    pub fn lookup(&self, address: SocketAddr) -> Option<Arc<VirtualServer>> {
        self.plan.borrow_mut().load().lookup(address.ip(), address.port()).cloned()
    }

    /// Picks an endpoint for one connection or stream on `route`, which `server` serves; none of
    /// `tried`.
    pub fn pick(
        &self,
        server: &VirtualServer,
        route: &Route,
        unit: Unit,
        tried: &[SocketAddr],
    ) -> Option<Choice> {
        let (client, policy) = (route.client, route.policy(server));
        let request = Request { client, policy, unit, now: Instant::now(), tried };
        server.pick(&request, &mut self.rng.borrow_mut())
    }

    fn alias(&self, client: IpAddr) -> Option<IpAddr> {
        self.aliases.borrow_mut().load().of(client)
    }

    fn is_transparent(&self, endpoint: IpAddr) -> bool {
        self.aliases.borrow_mut().load().is_transparent(endpoint)
    }

    /// Of the newest table.
    pub(crate) fn generation(&self) -> u64 {
        self.plan.borrow_mut().load().generation()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How many upstream HTTP/2 connections there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct PooledCount(Rc<Cell<usize>>);

impl PooledCount {
    pub(crate) fn one_more(&self) -> Pooled {
        self.0.set(self.0.get() + 1);
        Pooled(self.clone())
    }
}

/// Counts as one of them until it is dropped.
#[derive(Debug)]
pub(crate) struct Pooled(PooledCount);

impl Drop for Pooled {
    fn drop(&mut self) {
        let count = &self.0.0;
        count.set(count.get() - 1);
    }
}

/// The Service address a downstream connection was made to, with who serves it in the newest
/// table. Costs one atomic load while the table stays the same.
#[derive(Debug)]
pub struct Route {
    address: SocketAddr,
    client: IpAddr,
    origin: Origin,
    /// Where what clients have open is limited.
    seat: Option<Rc<Seat>>,
    found: RefCell<(u64, Option<Arc<VirtualServer>>)>,
}

impl Route {
    /// A connection of `client` to the Service address `address`, served by `server` just now.
    pub fn new(
        address: SocketAddr,
        client: IpAddr,
        origin: Origin,
        server: Arc<VirtualServer>,
    ) -> Self {
        let found = RefCell::new((u64::MAX, Some(server)));
        Self { address, client, origin, seat: None, found }
    }

    /// The same, with its streams counted as its client's.
    #[must_use]
    pub fn seated(self, seat: Option<Rc<Seat>>) -> Self {
        Self { seat, ..self }
    }

    /// Another stream of the client. A refused one is counted.
    ///
    /// # Errors
    /// It is to be refused with REFUSED_STREAM.
    pub(crate) fn open_stream(&self, worker: &Worker) -> Result<Option<StreamSeat>, StreamLimit> {
        let opened = match &self.seat {
            _ if worker.shed() >= Shed::Streams => Err(StreamLimit::Memory),
            Some(seat) => seat.open_stream(),
            None => Ok(None),
        };
        opened.inspect_err(|limit| {
            if let Some(server) = self.server(worker) {
                server.stats().limited_streams[limit.index()].inc();
            }
        })
    }

    /// The policy by which `server`, who serves the address, picks for it.
    pub fn policy(&self, server: &VirtualServer) -> TrafficPolicy {
        let service = server.service();
        let kind = service.kind_of(self.address.ip()).unwrap_or(AddressKind::NodePort);
        service.policy(kind, self.origin)
    }

    /// The Service address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// How to reach an endpoint for this client: from its alias where it has one, so that the
    /// endpoint sees the client. An endpoint that is the client itself must see somebody else, or
    /// its answers would not leave it.
    ///
    /// Clients outside have no alias. Under the Local policy their endpoints are this node's, whose
    /// answers come by here, so that their own address will do.
    pub fn leg(&self, worker: &Worker, endpoint: SocketAddr) -> Leg {
        if self.is_masqueraded() {
            return endpoint.into();
        }
        let is_same_family = self.client.is_ipv4() == endpoint.is_ipv4();
        if self.origin == Origin::Outside && is_same_family && worker.is_transparent(endpoint.ip())
        {
            return Leg::transparent(endpoint, self.client);
        }
        let alias = worker
            .alias(self.client)
            .filter(|alias| alias.is_ipv4() == endpoint.is_ipv4() && endpoint.ip() != self.client);
        Leg::new(endpoint, alias)
    }

    /// Where Kubernetes shows everybody as the node: other addresses than ClusterIPs under the
    /// Cluster policy.
    fn is_masqueraded(&self) -> bool {
        self.found.borrow().1.as_ref().is_some_and(|server| {
            let service = server.service();
            service.kind_of(self.address.ip()) != Some(AddressKind::ClusterIp)
                && service.external_policy == TrafficPolicy::Cluster
        })
    }

    /// Who serves the address now. None: the Service, or this port of it, is gone.
    pub fn server(&self, worker: &Worker) -> Option<Arc<VirtualServer>> {
        let generation = worker.generation();
        let mut found = self.found.borrow_mut();
        if found.0 != generation {
            *found = (generation, worker.lookup(self.address));
        }
        found.1.clone()
    }
}
