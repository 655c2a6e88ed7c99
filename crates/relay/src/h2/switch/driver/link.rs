//! One connection's socket, and the task that reads from it.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::SockRef;
use streamvs_balance::Choice;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::chunks;
use crate::h2::switch::{ConnectionKey, Over};
use crate::worker::{Route, Worker};

/// Reads in a row before others have their turn.
const READS: usize = 2;

/// How long, and for how many octets, a peer that broke the protocol is listened to after it was
/// told so: a socket that is closed with unread octets is reset, and the peer may lose the GOAWAY.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_READS: usize = 64;

/// What is known of a connection besides what the switch knows.
pub(super) struct Link {
    pub(super) socket: OwnedWriteHalf,
    /// Wakes the connection's task.
    pub(super) waker: Waker,
    /// The kernel takes no more for now: the task waits until it does.
    pub(super) blocked: bool,
    /// The task does not read, since the peer does not.
    pub(super) paused: bool,
    /// Why writing failed.
    pub(super) error: Option<io::Error>,
    /// For a client's connection.
    pub(super) client: Option<Client>,
}

/// Whose connection it is.
pub(super) struct Client {
    pub(super) route: Rc<Route>,
    /// A choice made before the protocol was known, for the first stream.
    pub(super) first: Option<Choice>,
    /// How old it is.
    pub(super) age: Age,
}

/// How far a client's connection is in its life.
#[derive(Clone, Copy, Debug)]
pub(super) enum Age {
    /// It began then.
    Since(Instant),
    /// It was too old then, and the client was asked to go.
    TooOld(Instant),
}

/// How a connection ended.
pub(super) struct Ended {
    /// By the switch.
    pub(super) over: Option<Over>,
    /// By the socket. None: by the peer, in good order.
    pub(super) error: Option<io::Error>,
    pub(super) stream_count: u64,
}

/// Removes a connection when its task ends, or is dropped.
struct Guard<'a> {
    worker: &'a Rc<Worker>,
    key: ConnectionKey,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let driver = &self.worker.switch;
        driver.follow_table(self.worker);
        driver.switch.borrow_mut().closed(self.key, Instant::now());
        // What the clients of its streams are owed, or the endpoints.
        driver.follow(self.worker);
        driver.wake_flusher();
        driver.links.borrow_mut().remove(self.key);
    }
}

/// Carries octets between a connection's socket and the switch until either ends it.
///
/// Cancel safety: dropping the future closes the socket, and tells the switch.
pub(super) async fn relay(
    worker: &Rc<Worker>,
    key: ConnectionKey,
    early: Bytes,
    socket: TcpStream,
    client: Option<Client>,
) -> Ended {
    let (mut read, write) = socket.into_split();
    let driver = &worker.switch;
    let link = Link {
        socket: write,
        waker: Waker::noop().clone(),
        blocked: false,
        paused: false,
        error: None,
        client,
    };
    driver.links.borrow_mut().insert(key, Box::new(link));
    let _guard = Guard { worker, key };
    driver.feed(worker, key, &Rc::from(&early[..]), 0..early.len());
    drop(early);
    driver.wake_flusher();
    let error = poll_fn(|cx| driver.poll_link(worker, key, &mut read, cx)).await;
    let (over, stream_count) = {
        let switch = driver.switch.borrow();
        (switch.over(key), switch.stream_count(key))
    };
    if let Some(Over::Failed(_) | Over::TooSlow(_)) = over {
        // Boxed, for it happens to few and would be part of every connection.
        Box::pin(linger(worker, &mut read)).await;
    }
    Ended { over, error, stream_count }
}

/// Lets a peer read what it was told last.
async fn linger(worker: &Rc<Worker>, read: &mut OwnedReadHalf) {
    // Fails where the socket is gone already.
    let _ = SockRef::from(read.as_ref()).shutdown(std::net::Shutdown::Write);
    let mut reads = 0;
    let drained = poll_fn(|cx| {
        while reads < LINGER_READS {
            reads += 1;
            let octets = worker.with_buffer(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                let polled = Pin::new(&mut *read).poll_read(cx, &mut buffer);
                polled.map(|read| read.map_or(0, |()| buffer.filled().len()))
            });
            if ready!(octets) == 0 {
                break;
            }
        }
        Poll::Ready(())
    });
    let _ = tokio::time::timeout(LINGER, drained).await;
}

impl super::Driver {
    /// Ready when the connection is over; with an error when its socket is.
    fn poll_link(
        &self,
        worker: &Rc<Worker>,
        key: ConnectionKey,
        read: &mut OwnedReadHalf,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Error>> {
        for _ in 0..READS {
            if let Some(error) = ready!(self.poll_write_side(worker, key, read, cx)) {
                return Poll::Ready(error);
            }
            match ready!(self.poll_read(worker, key, read, cx)) {
                Ok(0) => return Poll::Ready(None),
                Ok(_) => self.wake_flusher(),
                Err(error) => return Poll::Ready(Some(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready with something when the connection has ended, with nothing when it is to be read.
    fn poll_write_side(
        &self,
        worker: &Rc<Worker>,
        key: ConnectionKey,
        read: &OwnedReadHalf,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Option<io::Error>>> {
        let blocked = {
            let mut links = self.links.borrow_mut();
            let Some(link) = links.get_mut(key) else {
                return Poll::Ready(Some(None));
            };
            if !link.waker.will_wake(cx.waker()) {
                link.waker = cx.waker().clone();
            }
            if let Some(error) = link.error.take() {
                return Poll::Ready(Some(Some(error)));
            }
            link.blocked
        };
        if blocked && let Poll::Ready(writable) = read.as_ref().poll_write_ready(cx) {
            if let Err(error) = writable {
                return Poll::Ready(Some(Some(error)));
            }
            if let Some(link) = self.links.borrow_mut().get_mut(key) {
                link.blocked = false;
            }
            self.flush_link(worker, key);
            // What that lets others say, such as credit, is written by the flusher.
            self.wake_flusher();
        }
        let switch = self.switch.borrow();
        if switch.over(key).is_some() && switch.output_octets(key) == 0 {
            return Poll::Ready(Some(None));
        }
        let wants_input = switch.wants_input(key);
        drop(switch);
        if let Some(link) = self.links.borrow_mut().get_mut(key) {
            if let Some(error) = link.error.take() {
                return Poll::Ready(Some(Some(error)));
            }
            link.paused = !wants_input;
        }
        if wants_input { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Reads once and gives what there is to the switch.
    fn poll_read(
        &self,
        worker: &Rc<Worker>,
        key: ConnectionKey,
        read: &mut OwnedReadHalf,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut chunk = self.chunk(worker);
        let mut buffer = ReadBuf::new(Rc::make_mut(&mut chunk));
        let polled = Pin::new(read).poll_read(cx, &mut buffer);
        let octets = buffer.filled().len();
        if octets > 0 {
            self.feed(worker, key, &chunk, 0..octets);
        }
        self.chunks.give(chunk);
        polled.map_ok(|()| octets)
    }

    /// A chunk that nobody else holds.
    fn chunk(&self, worker: &Rc<Worker>) -> Rc<[u8]> {
        self.chunks.take().unwrap_or_else(|| {
            // Nothing is lent after that.
            self.flush(worker);
            self.chunks.take().unwrap_or_else(chunks::fresh)
        })
    }

    fn feed(
        &self,
        worker: &Rc<Worker>,
        key: ConnectionKey,
        chunk: &Rc<[u8]>,
        mut range: Range<usize>,
    ) {
        let now = Instant::now();
        while !range.is_empty() {
            self.follow_table(worker);
            let taken = self.switch.borrow_mut().receive_chunk(key, chunk, range.clone(), now);
            range.start += taken;
            self.follow(worker);
        }
    }
}
