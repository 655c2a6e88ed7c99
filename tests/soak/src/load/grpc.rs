//! gRPC: unary calls and streams both ways, several at once on each connection.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use streamvs_support::grpc::client::Open;
use streamvs_support::grpc::{Client, Failure, Kind as Method, Line};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{CALLS_AT_ONCE, Connection, PATIENCE, REST, Shared, check, pause};
use crate::ledger::{Kind, Why};
use crate::message;
use crate::records::Incarnation;

/// A loop is this long between two calls, at most.
const PAUSE: u64 = 80;

/// How long a client keeps a connection: some end while they are in use, some while they rest.
const LIFE_MILLISECONDS: std::ops::Range<u64> = 1_000..15_000;

/// One connection after another.
pub(super) async fn line(shared: Rc<Shared>, mut random: Rng) {
    while !shared.is_over() {
        let call = shared.begin(Kind::Unary);
        let line = match Line::connect(shared.targets.grpc).await {
            Ok(line) => line,
            Err(failure) => {
                shared.end(call, None, Err(explain(failure)));
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let line = Rc::new(line);
        let end = shared.clock.now() + Duration::from_millis(random.u64(LIFE_MILLISECONDS));
        let mut loops = JoinSet::new();
        for _ in 0..CALLS_AT_ONCE {
            let (shared, line) = (Rc::clone(&shared), Rc::clone(&line));
            loops.spawn_local(calls(shared, line, end, random.fork()));
        }
        loops.join_all().await;
        shared.ledger.borrow_mut().connected += 1 + line.renewals();
    }
}

async fn calls(shared: Rc<Shared>, line: Rc<Line>, end: Duration, mut random: Rng) {
    while !shared.is_over() && shared.clock.now() < end {
        let good = if random.u32(0..30) == 0 {
            stream(&shared, &line, &mut random).await
        } else {
            unary(&shared, &line, &mut random).await
        };
        if !good {
            tokio::time::sleep(REST).await;
        }
        pause(&mut random, PAUSE).await;
    }
}

/// Mostly small, sometimes more than any window at its start.
fn length(random: &mut Rng) -> usize {
    match random.u32(0..100) {
        0 => random.usize(60_000..400_000),
        1..10 => random.usize(1_000..60_000),
        _ => random.usize(0..1_000),
    }
}

async fn unary(shared: &Shared, line: &Line, random: &mut Rng) -> bool {
    let call = shared.begin(Kind::Unary);
    let sent = message::encode(call.id, length(random));
    let connection = Cell::new(shared.open());
    let outcome = once_more(shared, || async {
        let client = client(shared, line, &connection).await?;
        let reply = client.unary(&sent).await?;
        Ok((reply.endpoint, reply.messages.concat()))
    });
    let outcome = outcome.await.map_err(explain);
    let outcome = outcome.and_then(|(name, received)| check(&name, &sent, &received));
    shared.end(call, Some(&mut connection.get()), outcome)
}

/// A stream of a few messages, each answered before the next.
async fn stream(shared: &Shared, line: &Line, random: &mut Rng) -> bool {
    let connection = Cell::new(shared.open());
    let mut open: Option<Open> = None;
    for _ in 0..random.u32(1..40) {
        let call = shared.begin(Kind::Stream);
        let sent = message::encode(call.id, length(random) / 4);
        let asked = match &mut open {
            Some(begun) => match within(ask(begun, &sent)).await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => within(end_instead(open.take())).await,
                Err(failure) => Err(failure),
            },
            // Until its first answer a stream may prove to have reached nobody.
            None => {
                let begin = || async {
                    let client = client(shared, line, &connection).await?;
                    let mut open = client.open(Method::Bidi).await?;
                    match within(ask(&mut open, &sent)).await? {
                        Some(answer) => Ok((open, answer)),
                        None => within(end_instead(Some(open))).await,
                    }
                };
                let begun = once_more(shared, begin).await;
                begun.map(|(begun, answer)| {
                    open = Some(begun);
                    answer
                })
            }
        };
        let outcome = asked.map_err(explain);
        let outcome = outcome.and_then(|(name, received)| check(&name, &sent, &received));
        let mut after = connection.get();
        if !shared.end(call, Some(&mut after), outcome) {
            return false;
        }
        connection.set(after);
        pause(random, PAUSE).await;
    }
    // Its end is no message, so nobody records it. That it fails is told with the others.
    let call = shared.begin(Kind::Stream);
    let open = open.expect("a stream has a message");
    if let Err(failure) = within(finish(open)).await {
        let failed: Result<Incarnation, Why> = Err(explain(failure));
        return shared.end(call, Some(&mut connection.get()), failed);
    }
    true
}

/// The line's connection. Its beginning is written down.
async fn client(
    shared: &Shared,
    line: &Line,
    connection: &Cell<Connection>,
) -> Result<Client, Failure> {
    let client = line.client().await?;
    connection.set(Connection { opened: shared.clock.at(line.begun()), last: None });
    Ok(client)
}

/// Sends a message and takes the next one; none where the stream ends instead.
async fn ask(open: &mut Open, sent: &[u8]) -> Result<Option<(String, Bytes)>, Failure> {
    open.send(sent).await?;
    let Some(received) = open.next().await? else { return Ok(None) };
    Ok(Some((open.endpoint().await?, received)))
}

/// Why a stream ended before its client did.
async fn end_instead<T>(open: Option<Open>) -> Result<T, Failure> {
    match open.expect("the stream was open").finish().await {
        Ok(_endpoint) => Err(Failure::NotGrpc(200)),
        Err(failure) => Err(failure),
    }
}

async fn finish(mut open: Open) -> Result<(), Failure> {
    open.end()?;
    while open.next().await?.is_some() {}
    open.finish().await.map(drop)
}

async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, work).await.unwrap_or(Err(Failure::TimedOut))
}

/// Does it, and once more where no gRPC library would give up.
async fn once_more<T, F: Future<Output = Result<T, Failure>>>(
    shared: &Shared,
    work: impl Fn() -> F,
) -> Result<T, Failure> {
    match work().await {
        Err(failure) if failure.is_untouched() => {
            shared.ledger.borrow_mut().retried += 1;
            work().await
        }
        done => done,
    }
}

fn explain(failure: Failure) -> Why {
    match failure {
        Failure::TimedOut => Why::Silent,
        Failure::Connect(_) => Why::Refused(failure.to_string()),
        Failure::NotGrpc(_) => Why::Strange(failure.to_string()),
        Failure::Status { code, .. } if code != UNAVAILABLE => Why::Strange(failure.to_string()),
        _ => Why::Broken(failure.to_string()),
    }
}

/// The status by which an endpoint that is gone is told.
const UNAVAILABLE: u16 = 14;
