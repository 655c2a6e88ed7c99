//! One direction of a stream: data and trailers from one connection to the other.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::h2::replay::Replay;

/// Why a direction stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The side the bytes come from reset the stream or was lost.
    Source(h2::Error),
    /// The side the bytes go to reset the stream or was lost.
    Sink(h2::Error),
}

/// What has come from the source and is still to be sent.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    Data,
    Trailers,
    Ended,
}

/// Carries one direction of one stream.
///
/// Back-pressure: a chunk is taken from the source only when the sink has credit, and the
/// source's credit is returned when the sink's connection has the chunk. So at most one frame more
/// than the sink's window waits on our side.
#[derive(Debug)]
pub(super) struct Pump {
    source: RecvStream,
    stage: Stage,
    again: Resend,
    octets: u64,
    trailers: Option<HeaderMap>,
}

/// What is sent again to another endpoint before the source is read further.
#[derive(Debug, Default)]
struct Resend {
    chunks: VecDeque<Bytes>,
    end: Option<Option<HeaderMap>>,
}

impl Pump {
    pub(super) fn new(source: RecvStream) -> Self {
        let stage = if source.is_end_stream() { Stage::Ended } else { Stage::Data };
        Self { source, stage, again: Resend::default(), octets: 0, trailers: None }
    }

    /// The direction has ended, and its end was passed on.
    pub(super) fn ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    /// Octets of data passed on.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// The trailers that were passed on.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Starts over towards another endpoint with what `replay` has kept.
    /// Returns whether the request head ends the stream.
    pub(super) fn rewind(&mut self, replay: &Replay) -> bool {
        let (chunks, end) = replay.contents();
        let head_only = chunks.is_empty() && matches!(end, Some(None));
        self.stage = if head_only { Stage::Ended } else { Stage::Data };
        self.again = Resend { chunks, end };
        head_only
    }

    /// Moves what can be moved now; ready when the end was passed on.
    pub(super) fn poll(
        &mut self,
        sink: &mut SendStream<Bytes>,
        mut replay: Option<&mut Replay>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            match self.stage {
                Stage::Data => {
                    ready!(poll_credit(sink, cx))?;
                    let Some(chunk) = ready!(self.poll_chunk(&mut replay, cx))? else {
                        self.stage = Stage::Trailers;
                        continue;
                    };
                    let last = self.at_end();
                    let octets = chunk.len();
                    if octets == 0 && !last {
                        continue;
                    }
                    sink.send_data(chunk, last).map_err(Stop::Sink)?;
                    self.octets += octets as u64;
                    if last {
                        if let Some(replay) = &mut replay {
                            replay.keep_end(None);
                        }
                        self.stage = Stage::Ended;
                    }
                }
                Stage::Trailers => {
                    let trailers = match self.again.end.take() {
                        Some(trailers) => trailers,
                        None => ready!(self.source.poll_trailers(cx)).map_err(Stop::Source)?,
                    };
                    if let Some(replay) = &mut replay {
                        replay.keep_end(trailers.as_ref());
                    }
                    match trailers {
                        Some(trailers) => {
                            self.trailers = Some(trailers.clone());
                            sink.send_trailers(trailers).map_err(Stop::Sink)?;
                        }
                        None => sink.send_data(Bytes::new(), true).map_err(Stop::Sink)?,
                    }
                    self.stage = Stage::Ended;
                }
                Stage::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// The next chunk: first what is sent again, then what the source has. None: data has ended.
    fn poll_chunk(
        &mut self,
        replay: &mut Option<&mut Replay>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Stop>> {
        if let Some(chunk) = self.again.chunks.pop_front() {
            return Poll::Ready(Ok(Some(chunk)));
        }
        if self.again.end.is_some() {
            return Poll::Ready(Ok(None));
        }
        match ready!(self.source.poll_data(cx)) {
            Some(Ok(chunk)) => {
                if let Some(replay) = replay {
                    replay.keep(&chunk);
                }
                // The sink has credit, so the chunk is as good as taken. It fails only where the
                // stream is closed, which the next poll reports.
                let _ = self.source.flow_control().release_capacity(chunk.len());
                Poll::Ready(Ok(Some(chunk)))
            }
            Some(Err(error)) => Poll::Ready(Err(Stop::Source(error))),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// Nothing follows the chunk that was just taken.
    fn at_end(&self) -> bool {
        self.again.chunks.is_empty()
            && match self.again.end {
                Some(None) => true,
                Some(Some(_)) => false,
                None => self.source.is_end_stream(),
            }
    }
}

/// Waits until the sink may take at least one octet.
fn poll_credit(sink: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), Stop>> {
    sink.reserve_capacity(1);
    while sink.capacity() == 0 {
        match ready!(sink.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(Stop::Sink(error))),
            // The stream is closed for sending: a reset by the peer, whose code the other
            // direction or the response reports.
            None => return Poll::Ready(Err(Stop::Sink(h2::Reason::CANCEL.into()))),
        }
    }
    Poll::Ready(Ok(()))
}
