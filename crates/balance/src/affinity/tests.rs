//! The window, its end, its bound; time is an argument.

use super::*;
use crate::testing::{client, endpoint, start};

const TIMEOUT: Duration = Duration::from_secs(10_800);

fn at(seconds: u64) -> Instant {
    start() + Duration::from_secs(seconds)
}

fn anywhere(address: SocketAddr) -> Option<SocketAddr> {
    Some(address)
}

/// Binds if nothing usable is remembered, as a pick does, and says where the client went.
fn go(affinity: &Affinity, number: u32, now: Instant, wanted: u16) -> u16 {
    let wanted = endpoint(wanted).address;
    let went = affinity
        .recall(client(number), now, TIMEOUT, anywhere)
        .unwrap_or_else(|| affinity.bind(client(number), now, TIMEOUT, anywhere, (wanted, wanted)));
    (0..100).find(|n| endpoint(*n).address == went).expect("one of ours")
}

#[test]
fn a_client_returns_to_its_endpoint() {
    let affinity = Affinity::new();
    assert_eq!(go(&affinity, 1, at(0), 7), 7);
    assert_eq!(go(&affinity, 1, at(1), 8), 7);
    assert_eq!(go(&affinity, 2, at(1), 8), 8);
}

#[test]
fn the_window_ends_after_the_timeout_and_not_at_it() {
    let affinity = Affinity::new();
    go(&affinity, 1, at(0), 7);
    go(&affinity, 2, at(0), 7);
    assert_eq!(go(&affinity, 1, at(0) + TIMEOUT, 8), 7);
    let after = at(0) + TIMEOUT + Duration::from_nanos(1);
    assert_eq!(go(&affinity, 2, after, 8), 8);
    assert_eq!(go(&affinity, 2, after, 9), 8, "the new one is remembered");
}

#[test]
fn each_pick_begins_the_window_anew() {
    let affinity = Affinity::new();
    for turn in 0..5 {
        let now = at(0) + TIMEOUT * turn;
        assert_eq!(go(&affinity, 1, now, 7 + turn as u16), 7);
    }
}

#[test]
fn a_late_clock_does_not_shorten_the_window() {
    let affinity = Affinity::new();
    go(&affinity, 1, at(100), 7);
    assert_eq!(go(&affinity, 1, at(0), 8), 7);
    assert_eq!(go(&affinity, 1, at(100) + TIMEOUT, 8), 7);
}

#[test]
fn an_unusable_endpoint_is_replaced_and_the_new_one_remembered() {
    let affinity = Affinity::new();
    go(&affinity, 1, at(0), 7);
    let gone = |address| (address != endpoint(7).address).then_some(address);
    assert_eq!(affinity.recall(client(1), at(1), TIMEOUT, gone), None);
    let new = endpoint(8).address;
    assert_eq!(affinity.bind(client(1), at(1), TIMEOUT, gone, (new, new)), new);
    assert_eq!(go(&affinity, 1, at(2), 9), 8);
    assert_eq!(affinity.len(), 1);
}

#[test]
fn the_first_of_two_racing_picks_binds() {
    let affinity = Affinity::new();
    let (first, second) = (endpoint(1).address, endpoint(2).address);
    assert_eq!(affinity.recall(client(1), at(0), TIMEOUT, anywhere), None);
    assert_eq!(affinity.recall(client(1), at(0), TIMEOUT, anywhere), None);
    assert_eq!(affinity.bind(client(1), at(0), TIMEOUT, anywhere, (first, first)), first);
    assert_eq!(affinity.bind(client(1), at(0), TIMEOUT, anywhere, (second, second)), first);
}

#[test]
fn threads_of_one_client_agree() {
    let affinity = Affinity::new();
    let went: Vec<u16> = std::thread::scope(|scope| {
        let affinity = &affinity;
        let threads: Vec<_> =
            (0..8).map(|wanted| scope.spawn(move || go(affinity, 1, at(0), wanted))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(went.iter().all(|endpoint| *endpoint == went[0]), "{went:?}");
}

#[test]
fn memory_is_bounded_and_the_longest_unseen_go_first() {
    let affinity = Affinity::with_capacity(SHARDS * 16);
    let clients = 2000;
    for number in 0..clients {
        go(&affinity, number, at(u64::from(number)), 7);
        assert!(affinity.len() <= SHARDS * 16);
    }
    // Nobody's window was over, so it is full: each shard has seen more than 16 clients.
    assert_eq!(affinity.len(), SHARDS * 16);
    let remembered = |number| {
        affinity.recall(client(number), at(u64::from(clients)), TIMEOUT, anywhere).is_some()
    };
    assert!(!(0..200).any(remembered), "the oldest are forgotten");
    assert!((clients - 16..clients).all(remembered), "the newest are not");
}

#[test]
fn a_client_that_keeps_coming_is_not_forgotten_for_room() {
    let affinity = Affinity::with_capacity(SHARDS * 16);
    for number in 0..2000 {
        assert_eq!(go(&affinity, 0, at(u64::from(number)), if number == 0 { 7 } else { 8 }), 7);
        go(&affinity, number + 1, at(u64::from(number)), 9);
    }
}

#[test]
fn memory_follows_the_clients_of_one_window() {
    let affinity = Affinity::new();
    for number in 0..10_000 {
        go(&affinity, number, at(0), 7);
    }
    assert_eq!(affinity.len(), 10_000);
    let later = at(0) + TIMEOUT * 2;
    for number in 10_000..20_500 {
        go(&affinity, number, later, 7);
    }
    // Each new client took up to two old ones with it; the shards fill unevenly.
    assert!(affinity.len() <= 10_600, "{}", affinity.len());
}

#[test]
fn a_full_shard_of_busy_clients_still_takes_a_new_one() {
    let affinity = Affinity::with_capacity(1);
    for number in 0..1000 {
        go(&affinity, number, at(0), 7);
        go(&affinity, number, at(1), 7);
    }
    assert_eq!(affinity.len(), SHARDS);
    assert_eq!(go(&affinity, 1000, at(1), 8), 8);
    assert_eq!(go(&affinity, 1000, at(1), 9), 8);
}
