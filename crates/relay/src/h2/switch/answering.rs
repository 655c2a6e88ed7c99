//! Answers that are ours.

use std::time::Instant;

use super::exchange::{Phase, Toward};
use super::facts::Method;
use super::frame::Code;
use super::hpack::{Field, Indexing};
use super::{ExchangeKey, Switch};
use crate::h2::answer;

impl Switch {
    /// Answers [`Event::Pick`](super::Event::Pick): there is no room for the stream now. Its client
    /// is told REFUSED_STREAM, which says that nothing has acted on it (RFC 9113 section 8.7), and
    /// may try again. That is no fault of the client's, and costs nothing of its allowance.
    pub fn refuse(&mut self, key: ExchangeKey, now: Instant) {
        self.now = now;
        if self.exchanges.get(key).is_some_and(|exchange| exchange.phase == Phase::Picking) {
            self.reset_client(key, Code::REFUSED_STREAM);
        }
    }

    /// Answers an event: no endpoint can serve the stream. For gRPC trailers-only with
    /// `grpc-status: 14`, else `status` with the message as text.
    pub fn answer(&mut self, key: ExchangeKey, status: u16, message: &str, now: Instant) {
        self.now = now;
        self.answer_as(key, status, answer::GRPC_UNAVAILABLE, message);
    }

    /// The same with another `grpc-status`.
    pub(super) fn answer_as(
        &mut self,
        key: ExchangeKey,
        status: u16,
        grpc_status: &str,
        message: &str,
    ) {
        self.drop_request(key);
        let Some(exchange) = self.exchanges.get_mut(key) else {
            return;
        };
        exchange.phase = Phase::Answering;
        // What follows uses nobody's credit, least of all that of an endpoint which is lost.
        exchange.response.source = None;
        let side = &mut exchange.down;
        if !side.state.can_send() {
            return;
        }
        let Some(client) = self.connections.writer(side.connection) else {
            return;
        };
        self.block.clear();
        let mut writer = client.encoder.begin(&mut self.block);
        let mut field = |name: &str, value: &str| {
            let indexing = Indexing::Without;
            writer.field(&Field::new(name.as_bytes(), value.as_bytes(), indexing));
        };
        let text = format!("{message}\n");
        let end = exchange.grpc || exchange.method == Method::Head;
        if exchange.grpc {
            field(":status", "200");
            field("content-type", "application/grpc");
            field("grpc-status", grpc_status);
            field("grpc-message", &answer::percent_encode(message));
        } else {
            field(":status", &status.to_string());
            field("content-type", "text/plain; charset=utf-8");
        }
        client.headers(side.stream, &self.block, end);
        if end {
            side.state.sent_end();
            self.settle(key);
        } else {
            self.carry(key, Toward::Downstream, text.as_bytes(), true);
        }
    }
}
