//! New connections without pause, each with its time, while something happens to the agent.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use streamvs_support::lab::Host;

/// How many knock, and how long each of them rests. A connection that hangs keeps one of them from
/// going on, not the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) knockers: u32,
    pub(crate) pause: Duration,
}

/// At most 1,600 a second: how long connections are refused is seen to a millisecond.
pub(crate) const FAST: Pace = Pace { knockers: 16, pause: Duration::from_millis(10) };

/// At most 2,000 a second.
pub(crate) const FASTEST: Pace = Pace { knockers: 40, pause: Duration::from_millis(18) };

/// At most 100 a second by many: in a second of hanging none of them comes again.
pub(crate) const SLOW: Pace = Pace { knockers: 100, pause: Duration::from_secs(1) };

/// After this long without an answer a connection is given up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Each connection has a source port of its own, from here on. The kernel remembers for ten seconds
/// where a connection went that was reset, and would send the next one from the same port there.
const FIRST_PORT: u16 = 10_000;

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Knock {
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    /// Why it was not answered.
    pub(crate) failure: Option<String>,
}

/// Connections under way, from inside a host.
pub(crate) struct Knocking {
    stop: Arc<AtomicBool>,
    knockers: Vec<JoinHandle<Vec<Knock>>>,
}

impl Knocking {
    pub(crate) fn start(host: &Host, address: SocketAddr, pace: Pace) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let port = Arc::new(AtomicU16::new(FIRST_PORT));
        let knockers = (0..pace.knockers)
            .map(|number| {
                let (stop, port) = (Arc::clone(&stop), Arc::clone(&port));
                host.spawn(move || {
                    let mut knocks = Vec::new();
                    std::thread::sleep(pace.pause / pace.knockers * number);
                    while !stop.load(Ordering::Relaxed) {
                        let port = port.fetch_add(1, Ordering::Relaxed);
                        assert!(port >= FIRST_PORT, "no port is used twice");
                        let started = Instant::now();
                        let failure = knock(port, address).err().map(|error| error.to_string());
                        knocks.push(Knock { started, took: started.elapsed(), failure });
                        std::thread::sleep(pace.pause);
                    }
                    knocks
                })
            })
            .collect();
        Self { stop, knockers }
    }

    /// Ends it; all connections in order.
    pub(crate) fn finish(self) -> Knocks {
        self.stop.store(true, Ordering::Relaxed);
        let knocks = self.knockers.into_iter().flat_map(|knocker| knocker.join().expect("ends"));
        let mut knocks: Vec<Knock> = knocks.collect();
        knocks.sort_by_key(|knock| knock.started);
        Knocks(knocks)
    }
}

/// A whole exchange on a connection of its own, which ends in a reset.
fn knock(port: u16, address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(b"who?\n")?;
    socket.read_exact(&mut [0; 2])
}

/// Connections in the order in which they began.
pub(crate) struct Knocks(Vec<Knock>);

impl Knocks {
    /// Says, for an event, how many failed or were late, and when the last of them began.
    #[track_caller]
    pub(crate) fn report(&self, what: &str, event: Instant) {
        let failed: Vec<&Knock> = self.0.iter().filter(|knock| knock.failure.is_some()).collect();
        let offset = |knock: &Knock| {
            let since = knock.started.checked_duration_since(event);
            since.map_or(-(event - knock.started).as_secs_f64(), |since| since.as_secs_f64()) * 1e3
        };
        let slowest = self.0.iter().filter(|knock| knock.failure.is_none());
        let slowest = slowest.map(|knock| knock.took).max().unwrap_or_default();
        println!(
            "{what}: {} connections, {} failed, slowest answer {slowest:?}",
            self.0.len(),
            failed.len()
        );
        if let (Some(first), Some(last)) = (failed.first(), failed.last()) {
            let (first, last) = (offset(first), offset(last));
            println!("  those that failed began {first:.1} to {last:.1} ms after");
        }
        let mut reasons: Vec<&str> =
            failed.iter().filter_map(|knock| knock.failure.as_deref()).collect();
        reasons.sort_unstable();
        for reason in reasons.chunk_by(|one, other| one == other) {
            println!("  {} times: {}", reason.len(), reason[0]);
        }
    }

    /// A row of a table: how many a second before an event, how many were refused from then on and
    /// from when to when, how many failed otherwise, how many were answered later than the slowest
    /// one before it, and how late the latest was.
    pub(crate) fn row(&self, event: Instant) -> String {
        let before = self.0.iter().take_while(|knock| knock.started + knock.took < event);
        let before: Vec<&Knock> = before.collect();
        let span = before.first().map_or(Duration::ZERO, |first| event - first.started);
        let usual = before.iter().map(|knock| knock.took).max().unwrap_or_default();
        let after = self.0.iter().filter(|knock| knock.started + knock.took >= event);
        let (failed, answered): (Vec<&Knock>, Vec<&Knock>) =
            after.partition(|knock| knock.failure.is_some());
        let is_refused = |knock: &&&Knock| {
            knock.failure.as_ref().is_some_and(|failure| failure.contains("refused"))
        };
        let refused: Vec<_> = failed.iter().filter(is_refused).collect();
        let window = refused.first().zip(refused.last()).map(|(first, last)| {
            format!("{:.1} ms", (last.started - first.started).as_secs_f64() * 1e3)
        });
        let late = answered.iter().filter(|knock| knock.took > usual).count();
        let latest = answered.iter().map(|knock| knock.took).max().unwrap_or_default();
        format!(
            "{:.0} | {} | {} | {} | {late} | {:.0} ms",
            before.len() as f64 / span.as_secs_f64().max(f64::MIN_POSITIVE),
            refused.len(),
            window.unwrap_or_else(|| "-".to_owned()),
            failed.len() - refused.len(),
            latest.as_secs_f64() * 1e3,
        )
    }

    /// Fails if a connection failed that had ended before `event`, or that began `grace` after it
    /// or later; or if none did either.
    #[track_caller]
    pub(crate) fn fail_only_around(&self, event: Instant, grace: Duration) {
        let before = self.0.iter().filter(|knock| knock.started + knock.took < event);
        let after = self.0.iter().filter(|knock| knock.started > event + grace);
        for (when, knocks) in
            [("before", before.collect::<Vec<_>>()), ("after", after.collect::<Vec<_>>())]
        {
            assert!(!knocks.is_empty(), "nobody knocked {when}");
            let failed = knocks.iter().filter(|knock| knock.failure.is_some()).count();
            let first = knocks.iter().find(|knock| knock.failure.is_some());
            assert_eq!(failed, 0, "of {} connections {when}: {first:?}", knocks.len());
        }
    }

    /// Fails if any connection did.
    #[track_caller]
    pub(crate) fn without_failure(&self) {
        assert!(!self.0.is_empty(), "nobody knocked");
        let failed = self.0.iter().filter(|knock| knock.failure.is_some()).count();
        let first = self.0.iter().find(|knock| knock.failure.is_some());
        assert_eq!(failed, 0, "of {} connections: {first:?}", self.0.len());
    }
}
