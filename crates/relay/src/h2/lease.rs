//! One stream's place on an upstream connection.

use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::Request;

use crate::h2::pool::Upstream;

/// Counts as one open stream of its connection until dropped.
pub(super) struct Lease {
    connection: Rc<Upstream>,
}

impl Lease {
    pub(super) fn new(connection: Rc<Upstream>) -> Self {
        connection.open_count.set(connection.open_count.get() + 1);
        Self { connection }
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// The connection takes no streams any more: it was closed, is going away, or has used up its
    /// stream ids. The request was not sent, and the connection is retired.
    pub(super) fn send(
        &self,
        head: Request<()>,
        end_of_stream: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = self.connection.send.clone();
        send.send_request(head, end_of_stream).inspect_err(|error| {
            tracing::debug!(endpoint = %self.connection.leg.endpoint(), error = %error, "connection takes no streams");
            self.retire();
        })
    }

    /// When what has just failed on the connection failed.
    pub(super) fn failed_at(&self) -> Instant {
        self.connection.failed_at()
    }

    /// No new stream goes to this connection.
    pub(super) fn retire(&self) {
        self.connection.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let open_count = self.connection.open_count.get() - 1;
        self.connection.open_count.set(open_count);
        if open_count == 0 {
            self.connection.idle_since.set(Instant::now());
        }
        self.connection.make_room();
    }
}
