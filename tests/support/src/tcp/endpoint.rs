//! A TCP endpoint inside a namespace.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::speak::{Speak, speak};
use crate::Family;
use crate::lab::{Host, block_on_local};

/// An endpoint that serves until it is dropped; its connections end with it.
#[derive(Debug)]
pub struct Endpoint {
    name: Arc<str>,
    address: SocketAddr,
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    worker: Option<JoinHandle<()>>,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicU64,
    peers: Mutex<BTreeSet<IpAddr>>,
}

impl Endpoint {
    /// Serves on a host's address and `port`, under the host's name.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(host: &Host, family: Family, port: u16, how: Speak) -> Self {
        let address = host.at(family, port);
        let listener = host.run(|| {
            let listener = std::net::TcpListener::bind(address)
                .unwrap_or_else(|error| panic!("{}: {address}: {error}", host.name()));
            listener.set_nonblocking(true).expect("a socket can be made non-blocking");
            listener
        });
        let address = listener.local_addr().expect("a bound socket has an address");
        let name: Arc<str> = host.name().into();
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let (also_name, also_seen) = (Arc::clone(&name), Arc::clone(&seen));
        let worker = host.spawn(move || {
            block_on_local(async move {
                let listener = TcpListener::from_std(listener).expect("the runtime takes sockets");
                tokio::select! {
                    () = serve(listener, how, also_name, &also_seen) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { name, address, seen, stop: Some(stop), worker: Some(worker) }
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// The addresses that they came from.
    pub fn peers(&self) -> BTreeSet<IpAddr> {
        self.seen.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

async fn serve(listener: TcpListener, how: Speak, name: Arc<str>, seen: &Seen) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((socket, peer)) = accepted else { continue };
                seen.peers.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.ip());
                seen.connections.fetch_add(1, Ordering::Relaxed);
                let _ = socket.set_nodelay(true);
                let name = Arc::clone(&name);
                open.spawn_local(async move {
                    // However a connection ends, the client sees it.
                    let _ = speak(how, &name, socket).await;
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}
