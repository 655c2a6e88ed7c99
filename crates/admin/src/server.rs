//! The three doors: health port, metrics port and unix socket.
//!
//! A door that cannot be opened does not keep the agent from its work: it is tried again every
//! [`RETRY`], as kube-proxy does, unless the operator asked to fail instead.

pub(crate) mod door;
mod listener;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::routes::Site;
use crate::{Admin, Error};
use listener::{Listener, Place};

pub(crate) use listener::Socket;

/// How long after a failed attempt the next one is made.
const RETRY: Duration = Duration::from_secs(5);

/// Where to listen. Nothing is served where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `/healthz` and `/livez`; kube-proxy's default is `0.0.0.0:10256`.
    pub healthz: Option<SocketAddr>,
    /// `/metrics` and `/proxyMode`; kube-proxy's default is `127.0.0.1:10249`.
    pub metrics: Option<SocketAddr>,
    /// The unix socket for `streamvs list`. Its directory is made where missing.
    pub socket: Option<PathBuf>,
    /// Give up at start when an address cannot be had, rather than try again
    /// (`--bind-address-hard-fail`).
    pub bind_hard_fail: bool,
}

/// What is listened on: as asked, with port 0 replaced by the port that was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// The health port, if it could be had.
    pub healthz: Option<SocketAddr>,
    /// The metrics port, if it could be had.
    pub metrics: Option<SocketAddr>,
    /// The unix socket, if it could be made.
    pub socket: Option<PathBuf>,
}

/// The listening sockets of open doors, to be passed from one agent to the next.
#[derive(Debug, Default)]
pub struct Doors {
    /// Of the health port.
    pub healthz: Option<OwnedFd>,
    /// Of the metrics port.
    pub metrics: Option<OwnedFd>,
    /// Of the unix socket.
    pub socket: Option<OwnedFd>,
}

/// What becomes of the unix socket's file when the doors close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is removed.
    Remove,
    /// It stays, for the one who serves it now.
    Leave,
}

/// The doors, opened as far as they could be, before anything is served.
#[derive(Debug)]
pub struct Server {
    healthz: Option<Opening>,
    metrics: Option<Opening>,
    socket: Option<Opening>,
}

/// A place, and its listener unless it must be tried again.
#[derive(Debug)]
struct Opening {
    place: Place,
    listener: Option<Listener>,
}

impl Server {
    /// Opens each door once.
    ///
    /// # Errors
    ///
    /// With `bind_hard_fail` the first door that could not be opened; those opened before are
    /// closed again. Without, none: such a door is tried again by [`Server::serve`].
    pub async fn bind(addresses: Addresses) -> Result<Self, Error> {
        Self::bind_or_inherit(addresses, Doors::default()).await
    }

    /// The same, but where a predecessor's door is at the place asked for, that one is taken over:
    /// the port, or the file, never goes unserved. One at another place is closed.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_or_inherit(addresses: Addresses, doors: Doors) -> Result<Self, Error> {
        let Addresses { healthz, metrics, socket, bind_hard_fail } = addresses;
        let open = async |place: Option<Place>, door: Option<OwnedFd>| match place {
            Some(place) => match door.and_then(|door| Listener::inherit(&place, door)) {
                Some(listener) => {
                    info!(address = %listener, "admin door taken over");
                    Ok(Some(Opening { place, listener: Some(listener) }))
                }
                None => Opening::attempt(place, bind_hard_fail).await.map(Some),
            },
            None => Ok(None),
        };
        Ok(Self {
            healthz: open(healthz.map(Place::Tcp), doors.healthz).await?,
            metrics: open(metrics.map(Place::Tcp), doors.metrics).await?,
            socket: open(socket.map(Place::Unix), doors.socket).await?,
        })
    }

    /// Other descriptors of the doors that are open, for a successor.
    ///
    /// # Errors
    /// As dup(2).
    pub fn share(&self) -> io::Result<Doors> {
        let share = |opening: &Option<Opening>| {
            let listener = opening.as_ref().and_then(|opening| opening.listener.as_ref());
            listener.map(Listener::share).transpose()
        };
        Ok(Doors {
            healthz: share(&self.healthz)?,
            metrics: share(&self.metrics)?,
            socket: share(&self.socket)?,
        })
    }

    /// What is open.
    pub fn bound(&self) -> Bound {
        let tcp = |opening: &Option<Opening>| opening.as_ref()?.listener.as_ref()?.tcp_address();
        let socket = self.socket.as_ref().filter(|opening| opening.listener.is_some());
        Bound {
            healthz: tcp(&self.healthz),
            metrics: tcp(&self.metrics),
            socket: socket.and_then(|opening| opening.place.path().map(Into::into)),
        }
    }

    /// Serves until `shutdown` is done, gives open requests one second more and does with the unix
    /// socket's file as `shutdown` says.
    ///
    /// Cancel safety: dropping this closes everything at once.
    pub async fn serve(self, admin: Admin, shutdown: impl Future<Output = Closing>) {
        let site = Site::new(admin);
        let (stop, stopped) = watch::channel(None);
        let mut doors = JoinSet::new();
        for (opening, routes) in [
            (self.healthz, site.health_routes()),
            (self.metrics, site.metrics_routes()),
            (self.socket, site.socket_routes()),
        ] {
            let Some(Opening { place, listener }) = opening else {
                continue;
            };
            let mut stopped = stopped.clone();
            doors.spawn(async move {
                let opened = match listener {
                    Some(listener) => Some(listener),
                    None => tokio::select! {
                        listener = retry(&place) => Some(listener),
                        _ = door::asked_to_stop(&mut stopped) => None,
                    },
                };
                if let Some(listener) = opened {
                    door::run(listener, routes, stopped).await;
                }
            });
        }
        stop.send_replace(Some(shutdown.await));
        while let Some(ended) = doors.join_next().await {
            if let Err(error) = ended {
                warn!(%error, "an admin door broke");
            }
        }
    }
}

impl Opening {
    async fn attempt(place: Place, hard_fail: bool) -> Result<Self, Error> {
        let listener = match Listener::open(&place).await {
            Ok(listener) => {
                info!(address = %listener, "admin door open");
                Some(listener)
            }
            Err(error) if hard_fail => return Err(error),
            Err(error) => {
                warn!(%error, retry_seconds = RETRY.as_secs(), "admin door not open yet");
                None
            }
        };
        Ok(Self { place, listener })
    }
}

/// Tries until it succeeds. The first attempt has failed already.
async fn retry(place: &Place) -> Listener {
    loop {
        tokio::time::sleep(RETRY).await;
        match Listener::open(place).await {
            Ok(listener) => {
                info!(address = %listener, "admin door open");
                return listener;
            }
            Err(error) => {
                warn!(%error, retry_seconds = RETRY.as_secs(), "admin door not open yet");
            }
        }
    }
}

#[cfg(test)]
mod tests;
