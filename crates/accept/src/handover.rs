//! Connections that leave for the agent that takes our place, and those that come from the one
//! whose place we took.
//!
//! Plain connections are passed on as they stand, with the octets in flight. One whose protocol is
//! not known yet begins anew over there, with what its client has said. HTTP/2 is not passed on:
//! its clients are sent away by GOAWAY, and its open streams end here.
//!
//! Which way it errs: a connection of a Service that the newer table does not have goes on
//! uncounted, for Kubernetes lets established connections be.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use bytes::Bytes;
use streamvs_balance::{Unit, Verdict};
use streamvs_relay::tcp::{self, Departure, Suspended};
use streamvs_table::Origin;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use crate::connection;
use crate::record::Record;
use crate::run::{Open, Shared};

/// A worker's ways to and from other processes.
///
/// Neither queue needs a bound of its own: each holds connections only, of which a process has as
/// many as it has descriptors for.
#[derive(Debug)]
pub struct Handover {
    /// Turns true when connections shall leave; stays true.
    pub leaving: watch::Receiver<bool>,
    /// Where they go.
    pub departing: mpsc::UnboundedSender<Passed>,
    /// Where others come from.
    pub arriving: mpsc::UnboundedReceiver<Passed>,
}

/// A connection on its way from one agent to the next.
#[derive(Debug)]
pub struct Passed {
    /// Who opened it.
    pub client: SocketAddr,
    /// How far it has come.
    pub stage: Stage,
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage {
    /// Its protocol is not known.
    Opening {
        /// The client's socket.
        downstream: OwnedFd,
        /// What the client has sent.
        heard: Bytes,
    },
    /// It is relayed as a plain connection.
    Plain {
        /// What is known of it.
        facts: Facts,
        /// Its sockets, and the octets in flight.
        suspended: Box<Suspended>,
    },
}

/// What is known of a plain connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The Service address it was made to.
    pub original_dst: SocketAddr,
    /// Who serves it.
    pub endpoint: SocketAddr,
    /// What it was recognised as.
    pub verdict: Verdict,
}

/// Where a worker's connections leave.
#[derive(Debug)]
pub(crate) struct Departing(mpsc::UnboundedSender<Passed>);

impl From<mpsc::UnboundedSender<Passed>> for Departing {
    fn from(sender: mpsc::UnboundedSender<Passed>) -> Self {
        Self(sender)
    }
}

impl Departing {
    /// Closes the record of a plain connection that has left its relay, and passes it on unless it
    /// is over.
    pub(crate) fn relayed(&self, mut record: Record, departure: Departure) {
        match departure {
            Departure::Ended(outcome) => record.relayed(outcome),
            Departure::Suspended(suspended) => {
                record.passed_on(suspended.up.octets, suspended.down.octets);
                let facts = record.facts().expect("it has an endpoint and a protocol");
                self.plain(record.client(), facts, suspended);
            }
        }
    }

    fn plain(&self, client: SocketAddr, facts: Facts, mut suspended: Box<Suspended>) {
        // What we have written is counted by us.
        for half in [&mut suspended.up, &mut suspended.down] {
            half.octets = 0;
        }
        self.send(Passed { client, stage: Stage::Plain { facts, suspended } });
    }

    /// Passes on a connection of which not even the protocol is known.
    pub(crate) fn opening(&self, record: &mut Record, socket: TcpStream, heard: Bytes) {
        match socket.into_std() {
            Ok(socket) => {
                record.passed_on(0, 0);
                let stage = Stage::Opening { downstream: socket.into(), heard };
                self.send(Passed { client: record.client(), stage });
            }
            Err(error) => tracing::warn!(error = %error, "cannot pass on a connection"),
        }
    }

    fn send(&self, passed: Passed) {
        // The receiver is gone when the process ends; then so does the connection.
        let _ = self.0.send(passed);
    }
}

/// Suspends the worker's connections when it is told to.
pub(crate) async fn leave(shared: Rc<Shared>, mut leaving: watch::Receiver<bool>) {
    if leaving.wait_for(|leaving| *leaving).await.is_ok() {
        shared.worker.suspend();
    }
}

/// Goes on with what comes from elsewhere.
pub(crate) async fn arrive(shared: Rc<Shared>, mut arriving: mpsc::UnboundedReceiver<Passed>) {
    while let Some(Passed { client, stage }) = arriving.recv().await {
        let open = Open::new(&shared);
        match stage {
            Stage::Opening { downstream, heard } => match TcpStream::from_std(downstream.into()) {
                Ok(socket) => {
                    tokio::task::spawn_local(connection::serve(open, socket, client, heard));
                }
                Err(error) => tracing::warn!(error = %error, "cannot take over a connection"),
            },
            Stage::Plain { facts, suspended } => {
                tokio::task::spawn_local(resume(open, client, facts, *suspended));
            }
        }
    }
}

/// Goes on with a plain connection to its end, or until it is passed on again.
async fn resume(shared: Open, client: SocketAddr, facts: Facts, suspended: Suspended) {
    let record = record(&shared, client, facts);
    let departure = match tcp::resume(&shared.worker, suspended) {
        Ok(relay) => relay.await,
        Err(error) => return tracing::warn!(error = %error, "cannot take over a connection"),
    };
    match (departure, record) {
        (Departure::Ended(outcome), Some(mut record)) => record.relayed(outcome),
        (Departure::Ended(_), None) => {}
        (Departure::Suspended(suspended), record) => {
            if let Some(mut record) = record {
                record.passed_on(suspended.up.octets, suspended.down.octets);
            }
            shared.departing.plain(client, facts, suspended);
        }
    }
}

/// Counts it where it belongs. None: the Service is gone.
fn record(shared: &Shared, client: SocketAddr, facts: Facts) -> Option<Record> {
    let Facts { original_dst, endpoint, verdict } = facts;
    let server = shared.worker.lookup(original_dst)?;
    let choice = server.resume(endpoint, Unit::Connection);
    // Where the client is matters to a pick, and it has its endpoint.
    // It has been let in.
    let seat = shared.clients.as_ref().and_then(|clients| clients.adopt(client.ip()));
    let mut record = Record::new(client, original_dst, Origin::Inside, server, seat);
    record.settled(verdict);
    if let Some(choice) = choice {
        record.choose(choice);
    }
    Some(record)
}
