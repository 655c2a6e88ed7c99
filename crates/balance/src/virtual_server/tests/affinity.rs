//! sessionAffinity as a client meets it. The memory by itself has tests of its own.

use super::*;

const TIMEOUT: Duration = Duration::from_secs(100);

fn sticky(endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort { affinity: Some(TIMEOUT), ..service("web", endpoints) }
}

fn ask(server: &VirtualServer, number: u32, second: u64, tried: &[SocketAddr]) -> SocketAddr {
    let now = start() + Duration::from_secs(second);
    let request = Request { now, ..request_of(client(number), tried) };
    let mut rng = fastrand::Rng::with_seed(second);
    server.pick(&request, &mut rng).expect("one is usable").address()
}

fn four() -> Vec<Endpoint> {
    (0..4).map(endpoint).collect()
}

#[test]
fn every_scheduler_keeps_a_client_on_its_endpoint() {
    for &name in SchedulerName::ALL {
        let (_, server) = follow(&Plan::seeded(7), name, sticky(four()));
        for number in 0..20 {
            let first = ask(&server, number, 0, &[]);
            for second in 1..5 {
                assert_eq!(ask(&server, number, second, &[]), first, "{name}");
            }
        }
    }
}

#[test]
fn clients_are_spread_by_the_scheduler() {
    let (_, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let mut counts = BTreeMap::<_, usize>::new();
    for number in 0..40 {
        *counts.entry(ask(&server, number, 0, &[])).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10; 4]);
}

#[test]
fn the_window_slides_and_then_ends() {
    let (_, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let first = ask(&server, 1, 0, &[]);
    for second in [100, 200, 300] {
        assert_eq!(ask(&server, 1, second, &[]), first);
    }
    assert_ne!(ask(&server, 1, 401, &[]), first, "rr has gone on to the next");
}

#[test]
fn a_failed_endpoint_loses_its_client_to_the_next_one_for_good() {
    let (_, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let first = ask(&server, 1, 0, &[]);
    let second = ask(&server, 1, 0, &[first]);
    assert_ne!(first, second);
    assert_eq!(ask(&server, 1, 1, &[]), second);
}

#[test]
fn when_all_were_tried_there_is_no_pick_and_no_change() {
    let (_, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let first = ask(&server, 1, 0, &[]);
    let all: Vec<_> = server.targets().iter().map(|target| target.address()).collect();
    assert!(server.pick(&request_of(client(1), &all), &mut rng()).is_none());
    assert_eq!(ask(&server, 1, 1, &[]), first);
}

#[test]
fn bindings_survive_the_next_plans_while_their_endpoint_is_used() {
    let (plan, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let before: Vec<_> = (0..40).map(|number| ask(&server, number, 0, &[])).collect();
    // One leaves, one stops being ready, one is set to weight 0, one stays; one is new.
    let next = vec![unready(1), weighted(2, 0), endpoint(3), endpoint(4)];
    let (plan, server) = follow(&plan, SchedulerName::Lc, sticky(next));
    let after: Vec<_> = (0..40).map(|number| ask(&server, number, 1, &[])).collect();
    let allowed = [3, 4].map(|number| endpoint(number).address);
    for (before, after) in before.iter().zip(&after) {
        assert!(allowed.contains(after));
        assert!(*before != allowed[0] || before == after, "its endpoint stayed");
    }
    // They come back, but the clients have moved.
    let (_, server) =
        follow(&plan, SchedulerName::Lc, sticky(four().into_iter().chain([endpoint(4)]).collect()));
    let last: Vec<_> = (0..40).map(|number| ask(&server, number, 2, &[])).collect();
    assert_eq!(after, last);
}

#[test]
fn a_new_timeout_holds_for_old_bindings() {
    let (plan, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let first = ask(&server, 1, 0, &[]);
    let shorter = ServicePort { affinity: Some(TIMEOUT / 10), ..sticky(four()) };
    let (_, server) = follow(&plan, SchedulerName::Rr, shorter);
    assert_eq!(ask(&server, 1, 10, &[]), first);
    assert_ne!(ask(&server, 1, 21, &[]), first);
}

#[test]
fn affinity_switched_off_is_forgotten() {
    let (plan, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let first = ask(&server, 1, 0, &[]);
    let (plan, server) = follow(&plan, SchedulerName::Rr, service("web", four()));
    assert_ne!(ask(&server, 1, 1, &[]), first);
    let (_, server) = follow(&plan, SchedulerName::Rr, sticky(four()));
    assert_ne!(ask(&server, 1, 2, &[]), first);
}

#[test]
fn threads_of_one_client_agree() {
    let (_, server) = follow(&Plan::seeded(7), SchedulerName::Rr, sticky(four()));
    let seen: BTreeSet<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&server, 1, 0, &[]))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(seen.len(), 1);
}
