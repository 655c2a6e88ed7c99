//! A client that calls one after the other and tells when a pod first answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use streamvs_support::Family;
use streamvs_support::grpc::{Client, Kind};
use streamvs_support::lab::{Host, block_on_local};

/// Between two calls: what the client leaves of the machine to what is measured.
const PAUSE: Duration = Duration::from_micros(500);

/// How long a connect may take: less than the second after which the kernel would send its SYN
/// again, so that a start is seen when it happens.
const CONNECT: Duration = Duration::from_millis(100);

/// A running client.
pub(crate) struct Probe {
    /// Each time another pod answered than before: which one, and when its answer was there.
    pub(crate) changes: Receiver<(String, Instant)>,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
}

impl Probe {
    /// Starts calling from a pod, each call on a connection of its own or all on one.
    pub(crate) fn start(pod: &Host, target: SocketAddr, by_connection: bool) -> Self {
        let (sender, changes) = channel();
        let shared = Arc::new(Shared::default());
        let also = Arc::clone(&shared);
        // Any port; and a reset at the end, for a thousand connections a second would leave no
        // port that is not in TIME_WAIT within half a minute.
        let source = SocketAddr::new(pod.ip(Family::of(target.ip())), 0);
        let thread = pod.spawn(move || {
            block_on_local(async move {
                let mut last = String::new();
                let mut open: Option<Client> = None;
                while !also.stop.load(Ordering::Relaxed) {
                    match call(source, target, open.take()).await {
                        Some((client, endpoint)) => {
                            if endpoint != last {
                                let _ = sender.send((endpoint.clone(), Instant::now()));
                                last = endpoint;
                            }
                            open = (!by_connection).then_some(client);
                        }
                        None => {
                            also.failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // The client's own sleep has no finer grain than a millisecond.
                    std::thread::sleep(PAUSE);
                }
            });
        });
        Self { changes, shared, thread }
    }

    /// Calls that have failed so far.
    pub(crate) fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Stops calling.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client does not panic");
    }
}

async fn call(
    source: SocketAddr,
    target: SocketAddr,
    open: Option<Client>,
) -> Option<(Client, String)> {
    let client = match open {
        Some(client) => client,
        None => {
            let connect = Client::connect_from(source, target);
            tokio::time::timeout(CONNECT, connect).await.ok()?.ok()?
        }
    };
    let reply = client.ask(Kind::Unary).await.ok()?;
    Some((client, reply.endpoint))
}
