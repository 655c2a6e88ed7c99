//! One call as an endpoint sees it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Response};
use tokio::sync::watch;

use super::Kind;
use super::endpoint::{Observer, Orders};
use super::message::{Messages, frame};

/// A call nobody has answered yet.
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) body: RecvStream,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) endpoint: Arc<str>,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) seen: Observer,
}

/// The messages a caller sends.
pub(super) struct Requests {
    body: RecvStream,
    messages: Messages,
    seen: Observer,
}

/// The messages an endpoint sends.
#[derive(Debug)]
pub(super) struct Answer {
    body: SendStream<Bytes>,
}

impl Call {
    pub(super) fn name_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.endpoint).expect("an endpoint's name is plain text")
    }

    /// Sends the response's headers and gives both directions of messages.
    pub(super) fn accept(mut self) -> Result<(Requests, Answer), h2::Error> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("x-endpoint", self.name_header());
        let body = self.respond.send_response(response, false)?;
        let requests = Requests { body: self.body, messages: Messages::default(), seen: self.seen };
        Ok((requests, Answer { body }))
    }
}

impl Requests {
    /// The next message; none at the caller's end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, h2::Error> {
        let message = next_message(&mut self.body, &mut self.messages).await?;
        let wait = message.as_deref().map_or(Duration::ZERO, |message| (self.seen)(message));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(message)
    }
}

/// The next whole message of a body; none at its end.
///
/// # Errors
/// When the stream ended otherwise, or what came is no message.
pub(super) async fn next_message(
    body: &mut RecvStream,
    messages: &mut Messages,
) -> Result<Option<Bytes>, h2::Error> {
    loop {
        match messages.next() {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => {}
            Err(_malformed) => return Err(h2::Reason::INTERNAL_ERROR.into()),
        }
        match body.data().await.transpose()? {
            Some(piece) => {
                body.flow_control().release_capacity(piece.len())?;
                messages.feed(&piece);
            }
            None if messages.is_empty() => return Ok(None),
            None => return Err(h2::Reason::INTERNAL_ERROR.into()),
        }
    }
}

/// Sends one message, waiting for the credit it needs.
pub(super) async fn send_message(
    body: &mut SendStream<Bytes>,
    message: &[u8],
) -> Result<(), h2::Error> {
    send_all(body, frame(message)).await
}

async fn send_all(body: &mut SendStream<Bytes>, mut rest: Bytes) -> Result<(), h2::Error> {
    while !rest.is_empty() {
        body.reserve_capacity(rest.len());
        let credit = match poll_fn(|context| body.poll_capacity(context)).await {
            Some(credit) => credit?,
            // The stream is no longer open for sending: a reset, or its connection's end.
            None => return Err(h2::Reason::CANCEL.into()),
        };
        if credit > 0 {
            body.send_data(rest.split_to(credit.min(rest.len())), false)?;
        }
    }
    Ok(())
}

impl Answer {
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), h2::Error> {
        send_message(&mut self.body, message).await
    }

    /// Ends the call with a gRPC status.
    pub(super) fn end(mut self, status: u16) -> Result<(), h2::Error> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        self.body.send_trailers(trailers)
    }
}
