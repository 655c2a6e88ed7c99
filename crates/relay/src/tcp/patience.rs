//! Waiting for large pieces while a direction pours.
//!
//! A relay that keeps pace with a sender is woken for every few segments, and each piece costs a
//! wake-up, two splices and a share of what its receiver does with it. With SO_RCVLOWAT (socket(7))
//! the kernel reports a socket only when so many octets have come, or when no more fit, or at FIN
//! or reset. What comes last may be fewer without an end: after [`LIMIT`] they are fetched as they
//! are, and the direction has to pour for longer before anybody waits for it again.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::{getsockopt_impl, libc, setsockopt_impl, sockopt_impl};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

sockopt_impl!(
    /// SO_RCVLOWAT, in octets.
    ReceiveLowWater, Both, libc::SOL_SOCKET, libc::SO_RCVLOWAT, i32
);

/// Octets worth waiting for. Less than a pipe holds, so that one splice takes them with what comes
/// meanwhile; half of this measured 5 % dearer.
const PIECE_OCTETS: i32 = 768 * 1024;

/// How long at most: a sender that needs longer for [`PIECE_OCTETS`] (1.5 Gbit/s) is slow enough to
/// be served as it comes.
const LIMIT: Duration = Duration::from_millis(4);

/// Spliced octets that prove a direction to pour: they take longer than the last piece may wait.
const PROOF_OCTETS: u64 = 8 * 1024 * 1024;

/// Each time that the wait was in vain doubles the proof, up to a gibibyte: messages of many MiB,
/// one after the other, shall not wait at each one's end.
const MOST_DOUBLINGS: u8 = 7;

/// After so many octets without a wait in vain the next proof is a short one again.
const TRUST_OCTETS: u64 = 8 * PROOF_OCTETS;

/// Whether one direction's source is waited for. Boxed, for few directions are ever bulky.
#[derive(Debug, Default)]
pub(super) struct Patience(Option<Box<Pour>>);

/// What a bulky direction has shown.
#[derive(Debug, Default)]
struct Pour {
    /// There while SO_RCVLOWAT is set.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Octets spliced since this has begun, or ended.
    octets: u64,
    doublings: u8,
}

impl Patience {
    /// `count` octets were spliced from `source`.
    pub(super) fn spliced(&mut self, source: &TcpStream, count: usize) {
        let pour = self.0.get_or_insert_default();
        pour.octets += count as u64;
        if let Some(alarm) = &mut pour.alarm {
            alarm.as_mut().reset(Instant::now() + LIMIT);
            if pour.octets >= TRUST_OCTETS {
                pour.doublings = 0;
            }
        } else if pour.octets >= PROOF_OCTETS << pour.doublings {
            pour.octets = 0;
            if setsockopt(source, ReceiveLowWater, &PIECE_OCTETS).is_ok() {
                pour.alarm = Some(Box::pin(tokio::time::sleep(LIMIT)));
            }
        }
    }

    /// `source` has nothing to read as yet, and wakes the task when it has.
    pub(super) fn wait(&mut self, source: &TcpStream, cx: &mut Context<'_>) {
        if let Some(pour) = &mut self.0
            && let Some(alarm) = &mut pour.alarm
            && alarm.as_mut().poll(cx).is_ready()
        {
            pour.doublings = (pour.doublings + 1).min(MOST_DOUBLINGS);
            self.end(source);
        }
    }

    /// From now on `source` is reported when anything has come, and at once if something has.
    pub(super) fn end(&mut self, source: &TcpStream) {
        let Some(pour) = &mut self.0 else { return };
        pour.octets = 0;
        if pour.alarm.take().is_some() {
            // It was set before on this socket, so it can be.
            let _ = setsockopt(source, ReceiveLowWater, &1);
        }
    }

    #[cfg(test)]
    fn is_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|pour| pour.alarm.is_some())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::os::fd::AsFd;
    use std::task::Poll;

    use nix::sys::socket::getsockopt;
    use tokio::io::AsyncWriteExt;

    use super::super::tests::pair;
    use super::*;

    /// What the kernel waits for before it reports `socket`, in octets.
    pub(in super::super) fn low_water(socket: &impl AsFd) -> i32 {
        getsockopt(socket, ReceiveLowWater).expect("is a socket")
    }

    /// Waits for a source that says no more, until it is not waited for.
    async fn out_waited(patience: &mut Patience, source: &TcpStream) {
        poll_fn(|cx| {
            patience.wait(source, cx);
            if patience.is_waiting() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    #[tokio::test]
    async fn each_wait_in_vain_asks_for_a_longer_proof() {
        let (source, _sender) = pair().await;
        let mut patience = Patience::default();
        let mut proof = PROOF_OCTETS as usize;
        for _ in 0..3 {
            patience.spliced(&source, proof - 1);
            assert_eq!(low_water(&source), 1);
            patience.spliced(&source, 1);
            assert_eq!(low_water(&source), PIECE_OCTETS);
            out_waited(&mut patience, &source).await;
            assert_eq!(low_water(&source), 1);
            proof *= 2;
        }
        patience.spliced(&source, proof);
        patience.spliced(&source, TRUST_OCTETS as usize);
        patience.end(&source);
        assert_eq!(low_water(&source), 1);
        patience.spliced(&source, PROOF_OCTETS as usize);
        assert_eq!(low_water(&source), PIECE_OCTETS, "a long pour is trusted again");
    }

    #[tokio::test]
    async fn fewer_octets_are_reported_when_the_wait_ends() {
        let (source, mut sender) = pair().await;
        let mut patience = Patience::default();
        patience.spliced(&source, PROOF_OCTETS as usize);
        sender.write_all(b"the last ones").await.expect("is open");
        let early = tokio::time::timeout(Duration::from_millis(100), source.readable()).await;
        assert!(early.is_err(), "they are few");
        out_waited(&mut patience, &source).await;
        source.readable().await.expect("is open");
        let mut octets = [0; 32];
        assert_eq!(source.try_read(&mut octets).expect("is reported"), 13);
    }
}
