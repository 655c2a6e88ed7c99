//! The end of a connection on which nothing moves.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// Fires when nothing has moved for a while. The clock is read once per progress, and the timer
/// is moved only when it fires early.
#[derive(Default)]
pub(super) struct IdleTimer {
    last_progress: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub(super) fn poll(
        &mut self,
        limit: Option<Duration>,
        progressed: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(limit) = limit else {
            return Poll::Pending;
        };
        let now = Instant::now();
        if progressed || self.last_progress.is_none() {
            self.last_progress = Some(now);
        }
        let last_progress = self.last_progress.unwrap_or(now);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        loop {
            if last_progress + limit < sleep.deadline().into_std() {
                // The limit got shorter (half-closed): do not wait for the old deadline.
                sleep.as_mut().reset((last_progress + limit).into());
            }
            ready!(sleep.as_mut().poll(cx));
            if last_progress.elapsed() >= limit {
                return Poll::Ready(());
            }
            sleep.as_mut().reset((last_progress + limit).into());
        }
    }
}
