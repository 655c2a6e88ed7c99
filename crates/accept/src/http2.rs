//! A connection that speaks HTTP/2: which engine serves it, and what becomes of the early dial.

use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use streamvs_balance::Choice;
use streamvs_detect::Prefixed;
use streamvs_relay::connect::{Attempt, Dialled, share};
use streamvs_relay::h2::switch::driver;
use streamvs_relay::h2::{self, Engine, Outcome};
use streamvs_relay::{Route, Worker};
use tokio::net::TcpStream;

use crate::opening::{Opened, Upstream};
use crate::run::Shared;

/// An HTTP/2 connection from now to its end. All that an idle one costs, so nothing that was only
/// needed to begin may be in it.
pub(crate) type Serving = Pin<Box<dyn Future<Output = Outcome>>>;

/// Begins to balance each stream. An endpoint that was dialled early becomes the first pooled
/// connection, and its turn goes to the first stream.
pub(crate) async fn begin(
    shared: &Shared,
    route: Route,
    downstream: TcpStream,
    opened: Opened,
) -> Serving {
    let Opened { from_client, from_endpoint, upstream, .. } = opened;
    let (worker, route) = (Rc::clone(&shared.worker), Rc::new(route));
    let drain = shared.drain.clone();
    share(&downstream, worker.dial_options());
    match worker.http2_engine() {
        Engine::H2 => {
            let first = pool_upstream(&worker, upstream, from_endpoint).await;
            let socket = Prefixed::new(from_client, downstream);
            Box::pin(h2::serve(worker, route, socket, first, drain))
        }
        Engine::Switch => {
            let first = switch_upstream(&worker, upstream, from_endpoint);
            Box::pin(driver::serve(worker, route, from_client, downstream, first, drain))
        }
    }
}

/// Gives what was dialled early to the `h2` engine's pool, and the choice to the first stream.
async fn pool_upstream(
    worker: &Worker,
    upstream: Upstream,
    from_endpoint: Bytes,
) -> Option<Choice> {
    let pool = worker.pool();
    match upstream {
        Upstream::Delayed(_) => None,
        Upstream::Dialling(dialler) => {
            dialler.into_attempt().map(|Attempt { choice, leg, dial }| {
                if pool.wants(leg) {
                    pool.adopt_dial(leg, dial);
                }
                choice
            })
        }
        Upstream::Connected(Dialled { socket, choice, leg, .. }) => {
            if pool.wants(leg) {
                share(&socket, worker.dial_options());
                let socket = Prefixed::new(from_endpoint, socket);
                pool.adopt(leg, socket).await;
            }
            Some(choice)
        }
    }
}

/// The same for the switch.
fn switch_upstream(
    worker: &Rc<Worker>,
    upstream: Upstream,
    from_endpoint: Bytes,
) -> Option<Choice> {
    match upstream {
        Upstream::Delayed(_) => None,
        Upstream::Dialling(dialler) => {
            dialler.into_attempt().map(|Attempt { choice, leg, dial }| {
                if driver::wants(worker, leg) {
                    driver::adopt_dial(worker, leg, dial);
                }
                choice
            })
        }
        Upstream::Connected(Dialled { socket, choice, leg, .. }) => {
            if driver::wants(worker, leg) {
                driver::adopt(worker, leg, from_endpoint, socket);
            }
            Some(choice)
        }
    }
}
