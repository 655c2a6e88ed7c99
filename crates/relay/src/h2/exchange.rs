//! One stream on one endpoint, from the request's head to the end of both directions.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response};
use streamvs_balance::ReplayReason;

use crate::h2::answer;
use crate::h2::pump::{Pump, Stop};
use crate::h2::replay::Replay;
use crate::h2::stream::Health;

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum End {
    /// The response was passed on whole.
    Complete,
    /// The endpoint has not acted on the request, and all of it is at hand: another may have it.
    Replay(ReplayReason),
    /// The client reset the stream, or is gone. The endpoint was told.
    Cancelled(Option<h2::Error>),
    /// The endpoint reset the stream. The client was given the same code.
    Reset(Reason),
    /// The endpoint was lost before the response began; the client has been told nothing yet.
    Lost(h2::Error),
    /// The endpoint was lost while the response ran; the client was told.
    Broken(h2::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Replay(reason) => write!(f, "upstream: {}, replayed", reason.as_str()),
            Self::Cancelled(None) => f.write_str("downstream: reset"),
            Self::Cancelled(Some(error)) => write!(f, "downstream: {error}"),
            Self::Reset(reason) => write!(f, "upstream: reset, {}", reason.description()),
            Self::Lost(error) => write!(f, "upstream: lost before the response, {error}"),
            Self::Broken(error) => write!(f, "upstream: lost during the response, {error}"),
        }
    }
}

/// Both ends of a stream and what has passed between them.
pub(super) struct Exchange<'a> {
    pub(super) request: &'a mut Pump,
    pub(super) replay: &'a mut Replay,
    pub(super) to_upstream: SendStream<Bytes>,
    pub(super) response: ResponseFuture,
    pub(super) respond: &'a mut SendResponse<Bytes>,
    pub(super) grpc: bool,
    pub(super) health: Health<'a>,
    /// The endpoint takes no more of the request; its response tells why.
    pub(super) request_stopped: bool,
    pub(super) body: Option<Body>,
}

/// The response's body on its way to the client.
pub(super) struct Body {
    pump: Pump,
    to_downstream: SendStream<Bytes>,
    /// `grpc-status` of a trailers-only response.
    head_status: Option<u32>,
}

impl Exchange<'_> {
    /// Runs until the stream is over on this endpoint.
    pub(super) async fn run(&mut self) -> End {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The call's `grpc-status`, where the response carried one.
    pub(super) fn grpc_status(&self) -> Option<u32> {
        let body = self.body.as_ref()?;
        body.pump.trailers().and_then(grpc_status).or(body.head_status)
    }

    /// Octets of data passed to the client.
    pub(super) fn octets_to_downstream(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.pump.octets())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(reason) = self.poll_client_reset(cx) {
            self.to_upstream.send_reset(reason);
            return Poll::Ready(End::Cancelled(None));
        }
        if let Poll::Ready(end) = self.poll_request(cx) {
            return Poll::Ready(end);
        }
        if self.body.is_none()
            && let Some(end) = ready!(self.poll_head(cx))
        {
            return Poll::Ready(end);
        }
        self.poll_body(cx)
    }

    /// Ready when the client has given up.
    fn poll_client_reset(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        let reset = match &mut self.body {
            None => ready!(self.respond.poll_reset(cx)),
            Some(body) if !body.pump.ended() => ready!(body.to_downstream.poll_reset(cx)),
            Some(_) => return Poll::Pending,
        };
        Poll::Ready(reset.unwrap_or(Reason::CANCEL))
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.request_stopped || self.request.ended() {
            return Poll::Pending;
        }
        let replay = self.body.is_none().then_some(&mut *self.replay);
        match self.request.poll(&mut self.to_upstream, replay, cx) {
            Poll::Ready(Err(Stop::Source(error))) => {
                self.to_upstream.send_reset(error.reason().unwrap_or(Reason::CANCEL));
                Poll::Ready(End::Cancelled(Some(error)))
            }
            Poll::Ready(Err(Stop::Sink(_))) => {
                self.request_stopped = true;
                Poll::Pending
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Passes on informational responses, then the head of the final one.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        while let Poll::Ready(Some(Ok(informational))) = self.response.poll_informational(cx) {
            // Fails only when the client is gone, which the next poll reports.
            let _ = self.respond.send_informational(informational);
        }
        let response = match ready!(Pin::new(&mut self.response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Some(self.failed_before_head(error))),
        };
        self.replay.abandon();
        Poll::Ready(self.begin(response))
    }

    fn begin(&mut self, response: Response<RecvStream>) -> Option<End> {
        let (head, source) = response.into_parts();
        let pump = Pump::new(source);
        let head_status = if pump.ended() { grpc_status(&head.headers) } else { None };
        self.health.responds(self.grpc && head_status == Some(answer::UNAVAILABLE));
        match self.respond.send_response(Response::from_parts(head, ()), pump.ended()) {
            Ok(to_downstream) => {
                self.body = Some(Body { pump, to_downstream, head_status });
                None
            }
            Err(error) => {
                self.to_upstream.send_reset(Reason::CANCEL);
                Some(End::Cancelled(Some(error)))
            }
        }
    }

    fn failed_before_head(&mut self, error: h2::Error) -> End {
        let replay = if error.is_go_away() && error.is_remote() {
            // The crate reports a GOAWAY only to streams above its last id and to streams that
            // were never sent.
            Some(ReplayReason::GoAway)
        } else if error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM) {
            Some(ReplayReason::Refused)
        } else {
            None
        };
        match replay {
            Some(reason) if self.replay.possible() => End::Replay(reason),
            _ if error.is_reset() && error.is_remote() => {
                let reason = error.reason().unwrap_or(Reason::CANCEL);
                self.respond.send_reset(reason);
                End::Reset(reason)
            }
            _ => End::Lost(error),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(body) = &mut self.body else {
            return Poll::Pending;
        };
        if let Err(stop) = ready!(body.pump.poll(&mut body.to_downstream, None, cx)) {
            return Poll::Ready(match stop {
                Stop::Sink(error) => {
                    self.to_upstream.send_reset(Reason::CANCEL);
                    End::Cancelled(Some(error))
                }
                Stop::Source(error) => body.broken(error, self.grpc),
            });
        }
        if self.request.ended() || self.request_stopped {
            return Poll::Ready(End::Complete);
        }
        // The endpoint has answered but the client still sends: go on until either has enough.
        // Dropping the client's half then tells it so with RST_STREAM(NO_ERROR).
        let _ = ready!(self.to_upstream.poll_reset(cx));
        Poll::Ready(End::Complete)
    }
}

impl Body {
    /// The endpoint was lost in the middle of its response.
    fn broken(&mut self, error: h2::Error, grpc: bool) -> End {
        if error.is_reset() && error.is_remote() {
            let reason = error.reason().unwrap_or(Reason::INTERNAL_ERROR);
            self.to_downstream.send_reset(reason);
            return End::Reset(reason);
        }
        if grpc {
            let trailers = answer::unavailable_trailers(answer::LOST);
            let _ = self.to_downstream.send_trailers(trailers);
        } else {
            self.to_downstream.send_reset(Reason::INTERNAL_ERROR);
        }
        End::Broken(error)
    }
}

/// The value of `grpc-status`, where there is a legal one.
fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}
