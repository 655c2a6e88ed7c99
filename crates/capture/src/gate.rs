//! The gate: new connections are captured only while the data path is alive and well.
//!
//! The capture rules take a packet only if it carries a mark bit, which a small nf_tables table
//! sets ([`table`]) on the first packet of each TCP connection. Without it the same
//! packet goes on to whoever is behind us: kube-proxy's chains, or kernel rules of our own. So
//! there are three ways in which the gate shuts, and none needs us to do anything:
//!
//! - **We are gone** (killed, crashed, out of memory): the table belongs to our socket, and the
//!   kernel deletes it when it closes the socket.
//! - **We hang** (stopped, starved, a worker in an endless loop): the table marks only while its
//!   set has an element, which runs out unless a heartbeat renews it. Each worker beats; whoever
//!   sees that all of them have beaten of late renews it, for all.
//! - **We have nothing to say yet**: the first renewal comes after [`Gate::open`].
//!
//! A heartbeat is no transaction but an empty datagram to `lo` with a mark of ours, which a rule
//! of the table takes for a renewal and drops: 2 us, never waiting for anybody. Ten transactions a
//! second would change the ruleset's generation under every program that reads or writes large
//! rulesets, and those that start over when it changes (iptables-nft, `nft list`) would never
//! finish. Only root can set a mark, and pods' packets do not pass OUTPUT.
//!
//! Kernels before 5.12 have no owned tables. There the same table is without owner, and the gate
//! of a dead agent shuts when the lease runs out.

mod nfnetlink;
pub(crate) mod table;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use nfnetlink::Channel;
use table::Plan;

/// How often each worker shall call [`Gate::beat`].
pub const BEAT: Duration = Duration::from_millis(100);

/// A worker that has not beaten for this long keeps the others from renewing the lease: one beat
/// may be late by as much as the beats are apart.
const LATE: Duration = Duration::from_millis(200);

/// The first bit that may be the gate's: below are the proxy's own by default.
const LOWEST_BIT: u32 = 2;

/// What a gate is made of.
#[derive(Clone, Copy, Debug)]
pub struct GateConfig {
    /// Mark bits of the proxy's own sockets, see [`Config::mark`](crate::Config::mark).
    pub mark: u32,
    /// How long one heartbeat keeps the gate open. At least a few times [`BEAT`].
    pub timeout: Duration,
    /// How many workers beat.
    pub worker_count: usize,
    /// Which ways of shutting are wanted.
    pub switch: Switch,
    /// Another agent lives, and its gate is to stay as it is.
    pub is_successor: bool,
}

/// How the gate shuts when nobody shuts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// At once when the process is gone, and when the lease has run out; where the kernel cannot
    /// do the first, as [`Switch::Lease`].
    Auto,
    /// At once when the process is gone, and when the lease has run out. Linux 5.12.
    Owner,
    /// When the lease has run out.
    Lease,
}

/// The gate of this process, shared by its workers. Dropping it shuts it for good.
#[derive(Debug)]
pub struct Gate {
    plan: Plan,
    owned: bool,
    /// None: shut for good.
    table: Mutex<Option<(Channel, String)>>,
    heart: Socket,
    started: Instant,
    /// When each worker beat last, in milliseconds since `started`, from 1; 0 is never.
    beats: Box<[AtomicU64]>,
    /// When the lease was renewed last, the same.
    renewed: AtomicU64,
    opened: AtomicBool,
    /// Nothing is to be captured for now.
    held: AtomicBool,
    /// A heartbeat went through: no table took it.
    lost: AtomicBool,
}

impl Gate {
    /// Makes the gate, shut. Before the listeners are bound, so that no descriptor of a dead
    /// process's is closed before the gate's.
    ///
    /// # Errors
    /// The kernel has no nf_tables, or not what [`Switch::Owner`] needs; we lack `CAP_NET_ADMIN`;
    /// or no bit is left beside the mark.
    pub fn new(config: GateConfig) -> io::Result<Self> {
        let bit = Self::bit_beside(config.mark).ok_or(io::ErrorKind::InvalidInput)?;
        let channel = Channel::open()?;
        let heart = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        heart.set_nonblocking(true)?;
        heart.set_mark(config.mark | bit)?;
        // The discard service, which nobody runs; it gets nothing either.
        heart.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 9)).into())?;
        let port = heart.local_addr()?.as_socket().map_or(0, |address| address.port());
        let plan = Plan { bit, heartbeat: config.mark | bit, port, timeout: config.timeout };
        let (name, owned) = make(&channel, plan, config.switch)?;
        if config.is_successor && !owned {
            // It took the place of the living agent's table, whose next heartbeat may be a while.
            let _ = heart.send(&[]);
        }
        Ok(Self {
            plan,
            owned,
            table: Mutex::new(Some((channel, name))),
            heart,
            started: Instant::now(),
            beats: (0..config.worker_count).map(|_| AtomicU64::new(0)).collect(),
            renewed: AtomicU64::new(0),
            opened: AtomicBool::new(false),
            held: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        })
    }

    /// The mark bit that says "open" where our own sockets have this mark; none where that leaves
    /// no bit.
    pub fn bit_beside(mark: u32) -> Option<u32> {
        (LOWEST_BIT..u32::BITS).map(|bit| 1 << bit).find(|bit| mark & bit == 0)
    }

    /// The mark bit that says "open", for [`Config::gate`](crate::Config::gate).
    pub fn bit(&self) -> u32 {
        self.plan.bit
    }

    /// The kernel shuts the gate when the process is gone.
    pub fn is_owned(&self) -> bool {
        self.owned
    }

    /// Lets heartbeats open the gate: rules are in place and the table is known.
    pub fn open(&self) {
        self.opened.store(true, Ordering::Relaxed);
        self.renew(self.now());
    }

    /// It was opened, and all workers have beaten since.
    pub fn is_open(&self) -> bool {
        self.renewed.load(Ordering::Relaxed) != 0
    }

    /// Shuts an open gate for a while, or lets it open again: the lease is not renewed while it is
    /// held, so that new connections pass uncaptured from its end on.
    pub fn hold(&self, held: bool) {
        let held = held && self.is_open();
        if self.held.swap(held, Ordering::Relaxed) && !held {
            // The gap is nobody's delay.
            self.renewed.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Shuts the gate for good: from the return on new connections pass uncaptured.
    ///
    /// # Errors
    /// The kernel did not delete a table without owner. It shuts when the lease has run out.
    pub fn close(&self) -> io::Result<()> {
        self.opened.store(false, Ordering::Relaxed);
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner).take();
        match table {
            Some((channel, name)) => table::remove(&channel, &name),
            None => Ok(()),
        }
    }

    /// Leaves new connections to another agent, whose gate is open: ours is shut for good, unless
    /// it has no owner, for then both are one.
    ///
    /// # Errors
    /// As [`Gate::close`].
    pub fn leave(&self) -> io::Result<()> {
        if self.owned {
            return self.close();
        }
        self.opened.store(false, Ordering::Relaxed);
        drop(self.table.lock().unwrap_or_else(PoisonError::into_inner).take());
        Ok(())
    }

    /// A worker is alive. Call it on the worker's own thread, in turn with its work, every
    /// [`BEAT`].
    ///
    /// # Panics
    /// When there are fewer workers than that.
    pub fn beat(&self, worker: usize) {
        let now = self.now();
        self.beats[worker].store(now, Ordering::Relaxed);
        self.renew(now);
    }

    /// Makes the table anew where another program has deleted it. Returns true where it did.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn mend(&self) -> io::Result<bool> {
        if !self.lost.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((channel, name)) = table.as_mut() {
            // What is left of it, if anything.
            let _ = table::remove(channel, name);
            *name = table::make(channel, self.plan, self.owned)?;
        }
        self.lost.store(false, Ordering::Relaxed);
        self.renew(self.now());
        Ok(true)
    }

    /// Renews the lease if nobody has just done so and all workers have beaten of late.
    fn renew(&self, now: u64) {
        let renewed = self.renewed.load(Ordering::Relaxed);
        if !self.opened.load(Ordering::Relaxed)
            || self.held.load(Ordering::Relaxed)
            || is_within(BEAT / 2, renewed, now)
            || !all_beat(&self.beats, now)
        {
            return;
        }
        // The rule that takes a heartbeat drops it, and the sender is told.
        let beat = || self.heart.send(&[]).err().and_then(|error| error.raw_os_error());
        let answer = match beat() {
            // What the one before met while there was no table.
            Some(libc::ECONNREFUSED) => beat(),
            answer => answer,
        };
        if answer != Some(libc::EPERM) {
            // Said once, until it is mended.
            if !self.lost.swap(true, Ordering::Relaxed) {
                tracing::error!("the gate's table is gone, new connections are not captured");
            }
            return;
        }
        self.renewed.store(now, Ordering::Relaxed);
        let gap = Duration::from_millis(now.saturating_sub(renewed));
        if renewed != 0 && gap > self.plan.timeout {
            tracing::warn!(?gap, "the data path was late, new connections passed it by");
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// `then` is a time and lies no further than that before `now`.
fn is_within(duration: Duration, then: u64, now: u64) -> bool {
    then != 0 && Duration::from_millis(now.saturating_sub(then)) <= duration
}

/// Every worker has beaten of late.
fn all_beat(beats: &[AtomicU64], now: u64) -> bool {
    beats.iter().all(|beat| is_within(LATE, beat.load(Ordering::Relaxed), now))
}

fn make(channel: &Channel, plan: Plan, switch: Switch) -> io::Result<(String, bool)> {
    let owned = match switch {
        Switch::Lease => None,
        Switch::Auto | Switch::Owner => match table::make(channel, plan, true) {
            // How kernels before owned tables refuse a flag they do not know.
            Err(error)
                if switch == Switch::Auto
                    && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) =>
            {
                None
            }
            made => Some(made?),
        },
    };
    match owned {
        Some(name) => Ok((name, true)),
        None => Ok((table::make(channel, plan, false)?, false)),
    }
}

/// Takes away the table without owner that a dead agent left. True where there was one.
///
/// # Errors
/// We lack `CAP_NET_ADMIN`.
pub(crate) fn remove_left_behind() -> io::Result<bool> {
    let Ok(channel) = Channel::open() else {
        // A kernel without nf_tables has none.
        return Ok(false);
    };
    match table::remove(&channel, table::NAME) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    //! Aim: one worker that hangs is enough. What the kernel makes of it is tested in namespaces.

    use super::*;

    #[test]
    fn one_silent_worker_keeps_the_lease_from_being_renewed() {
        for (beats, now, renews) in [
            (&[900, 1000][..], 1000, true),
            (&[800, 1000], 1000, true),
            (&[799, 1000], 1000, false),
            (&[0, 100], 100, false),
            (&[0, 0], 1, false),
            // Another thread's clock was read a little later.
            (&[1001, 1000], 1000, true),
        ] {
            let beats: Vec<AtomicU64> = beats.iter().map(|beat| AtomicU64::new(*beat)).collect();
            assert_eq!(all_beat(&beats, now), renews, "{beats:?} at {now}");
        }
    }
}
