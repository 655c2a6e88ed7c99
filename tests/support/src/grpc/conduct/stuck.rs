//! Takes calls and holds them, as a pod in a long pause does; goes on when the conduct changes.

use std::future::poll_fn;

use super::Conduct;
use crate::grpc::call::Call;

pub(super) async fn answer(mut call: Call) -> Result<(), h2::Error> {
    let mut orders = call.orders.clone();
    tokio::select! {
        // A closed channel means the endpoint is going: its connections end by themselves.
        _ = orders.wait_for(|orders| orders.conduct != Conduct::Stuck) => {}
        reset = poll_fn(|context| call.respond.poll_reset(context)) => return reset.map(drop),
    }
    super::steady::answer(call).await
}
