//! The accept loop of one door, and the bounds that keep strangers from using us up.
//!
//! The health port is open to the world. So each connection carries one request and ends after
//! [`LONGEST`] at the latest, and a door holds at most [`MOST_CONNECTIONS`]: when one more comes,
//! the oldest goes. An honest probe is done in a millisecond and so is never the oldest for long,
//! while a client that dawdles loses its place; refusing the newcomer would do the opposite.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Closing;
use super::listener::{Listener, Socket};

/// Open connections of one door: far above what any prober or Prometheus opens at once, and with
/// three doors far below the usual limit of 1024 descriptors.
pub(super) const MOST_CONNECTIONS: usize = 128;

/// From accept to the last byte of the answer: three times Prometheus' scrape timeout of 10 s.
const LONGEST: Duration = Duration::from_secs(30);

/// For the request's head, which honest clients send in one packet.
pub(super) const LONGEST_HEAD: Duration = Duration::from_secs(5);

/// For the request's head in bytes; hyper's smallest is 8 KiB.
const LARGEST_HEAD: usize = 16 << 10;

/// How long open requests may go on after the stop.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// After a failed accept, mostly for want of descriptors: long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stopped` says how to close.
pub(super) async fn run(
    mut listener: Listener,
    routes: Router,
    mut stopped: watch::Receiver<Option<Closing>>,
) {
    listener.own_file();
    let mut connections = Connections::default();
    let closing = loop {
        // The stop wins; ended connections are reaped whenever there is nothing else to do.
        tokio::select! {
            biased;
            closing = asked_to_stop(&mut stopped) => break closing,
            accepted = listener.accept() => match accepted {
                Ok(socket) => connections.admit(serve_one(socket, routes.clone())),
                Err(error) => {
                    warn!(%error, "admin accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.tasks.join_next() => {}
        }
    };
    if closing == Closing::Leave {
        listener.leave_file();
    }
    drop(listener);
    let _ = timeout(GRACE, connections.finished()).await;
}

/// Serves one of many ports, whose connections are bounded together. Ends when it is dropped; its
/// connections end by themselves.
pub(crate) async fn run_among_others(
    listener: TcpListener,
    routes: Router,
    connections: Arc<Mutex<Connections>>,
) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let connection = serve_one(Box::new(socket), routes.clone());
                // Nothing can panic while the lock is held.
                connections.lock().unwrap_or_else(PoisonError::into_inner).admit(connection);
            }
            Err(error) => {
                warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Done when the value says how to close, or its sender is gone. Cancel safe.
pub(super) async fn asked_to_stop(stopped: &mut watch::Receiver<Option<Closing>>) -> Closing {
    let closing = stopped.wait_for(Option::is_some).await;
    closing.ok().and_then(|closing| *closing).unwrap_or(Closing::Remove)
}

/// The open connections of a door; dropping it closes them.
#[derive(Default)]
pub(crate) struct Connections {
    tasks: JoinSet<()>,
    /// In the order of accept; some may have ended.
    by_age: VecDeque<AbortHandle>,
}

impl Connections {
    fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        if self.by_age.len() >= MOST_CONNECTIONS {
            self.by_age.retain(|task| !task.is_finished());
        }
        if self.by_age.len() >= MOST_CONNECTIONS
            && let Some(oldest) = self.by_age.pop_front()
        {
            debug!("admin connection dropped for a newer one");
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }

    async fn finished(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One request and its answer.
async fn serve_one(socket: Box<dyn Socket>, routes: Router) {
    let mut http = http1::Builder::new();
    http.keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(LONGEST_HEAD)
        .max_buf_size(LARGEST_HEAD);
    let connection = http
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(routes))
        .with_upgrades();
    match timeout(LONGEST, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin connection broke"),
        Err(_) => debug!("admin connection took too long"),
    }
}
