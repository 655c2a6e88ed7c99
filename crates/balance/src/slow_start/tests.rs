//! Aim: a new endpoint gets the share that its age says, and the others what they would have without
//! it, among themselves.

use std::collections::BTreeMap;

use streamvs_table::{Family, ServicePort};

use super::*;
use crate::testing::{endpoint, follow, request, service, start};
use crate::{Choice, Plan, Request, SchedulerName, VirtualServer};

const WINDOW: Duration = Duration::from_secs(100);

/// Plans that start slowly, of endpoints 0 to `old` at first.
fn scene(scheduler: SchedulerName, old: u16) -> (Plan, Arc<VirtualServer>) {
    let plan = Plan::seeded(7).starting_slowly(WINDOW);
    follow(&plan, scheduler, of(0..old))
}

fn of(numbers: impl IntoIterator<Item = u16>) -> ServicePort {
    service("web", numbers.into_iter().map(endpoint).collect())
}

/// The next generation, some time later.
fn later(
    plan: &Plan,
    scheduler: SchedulerName,
    next: ServicePort,
    seconds: u64,
) -> (Plan, Arc<VirtualServer>) {
    let name = next.name.clone();
    let snapshot = crate::testing::snapshot(plan.generation() + 1, vec![Arc::new(next)]);
    let (plan, _) = plan.next(snapshot, scheduler, at(seconds));
    let server = Arc::clone(plan.get(&name, Family::V4).expect("it was just planned"));
    (plan, server)
}

fn at(seconds: u64) -> Instant {
    start() + Duration::from_secs(seconds)
}

/// The endpoints of so many picks in a row, each of which is held until the end or given back.
fn picks(server: &VirtualServer, seconds: u64, count: usize, held: bool) -> Vec<u16> {
    let mut rng = fastrand::Rng::with_seed(3);
    let request = Request { now: at(seconds), ..request(&[]) };
    let mut choices: Vec<Choice> = Vec::new();
    let mut picked = Vec::new();
    for _ in 0..count {
        let choice = server.pick(&request, &mut rng).expect("there are candidates");
        let std::net::IpAddr::V4(ip) = choice.address().ip() else { panic!("is IPv4") };
        picked.push(u16::from(ip.octets()[3]));
        if held {
            choices.push(choice);
        }
    }
    picked
}

fn count(picked: &[u16], number: u16) -> usize {
    picked.iter().filter(|picked| **picked == number).count()
}

/// Whom schedulers look at anew for each pick.
const SLOW: [SchedulerName; 8] = [
    SchedulerName::Rr,
    SchedulerName::Wrr,
    SchedulerName::Random,
    SchedulerName::Lc,
    SchedulerName::Wlc,
    SchedulerName::Sed,
    SchedulerName::Nq,
    SchedulerName::Twos,
];

#[test]
fn a_new_endpoint_gets_more_the_longer_it_is_there() {
    const PICKS: usize = 10_000;
    for scheduler in SLOW {
        // The load of those that answer at once says nothing; an endpoint with calls that last is
        // never favoured for having none, either.
        for held in [false, true] {
            let (plan, _) = scene(scheduler, 4);
            let (_, server) = later(&plan, scheduler, of(0..5), 0);
            for (seconds, share) in [(0, 0.1), (5, 0.1), (50, 0.5), (100, 1.0)] {
                let got = count(&picks(&server, seconds, PICKS, held), 4) as f64;
                let fair = PICKS as f64 / 5.0;
                // Where it is passed over, the others have its turns.
                let most = fair * share * 1.35 + 60.0;
                assert!(got <= most, "{scheduler} {held}: {got} of {fair} after {seconds} s");
                assert!(got >= fair * share * 0.7, "{scheduler} {held}: {got} after {seconds} s");
            }
        }
    }
}

#[test]
fn the_others_take_turns_as_exactly_as_before() {
    let (plan, _) = scene(SchedulerName::Rr, 3);
    let (_, server) = later(&plan, SchedulerName::Rr, of(0..4), 0);
    let picked = picks(&server, 1, 3000, false);
    let others: Vec<u16> = picked.into_iter().filter(|number| *number != 3).collect();
    for turns in others.windows(3) {
        let mut turns = turns.to_vec();
        turns.sort_unstable();
        assert_eq!(turns, [0, 1, 2]);
    }
}

#[test]
fn turns_are_exact_when_nobody_is_new_or_nobody_asks() {
    for (plan, seconds) in [(Plan::seeded(7).starting_slowly(WINDOW), 100), (Plan::seeded(7), 0)] {
        let (plan, _) = follow(&plan, SchedulerName::Rr, of(0..3));
        let (_, server) = later(&plan, SchedulerName::Rr, of(0..4), 0);
        let picked = picks(&server, seconds, 4000, false);
        let counts: BTreeMap<u16, usize> =
            (0..4).map(|number| (number, count(&picked, number))).collect();
        assert!(counts.values().all(|count| *count == 1000), "{counts:?}");
    }
}

#[test]
fn a_first_table_is_not_new_and_who_stays_keeps_the_time_when_it_came() {
    let (plan, server) = scene(SchedulerName::Rr, 3);
    assert_eq!(count(&picks(&server, 0, 300, false), 1), 100);
    let (plan, _) = later(&plan, SchedulerName::Rr, of(0..4), 0);
    let (plan, server) = later(&plan, SchedulerName::Rr, of(0..5), 90);
    let picked = picks(&server, 90, 5000, false);
    let (older, newer) = (count(&picked, 3), count(&picked, 4));
    assert!(older > 800 && newer < 200, "{older} {newer}");
    // Another generation in which nothing of it changes, and one after a pause without it.
    let (plan, server) = later(&plan, SchedulerName::Rr, of(1..5), 150);
    let picked = picks(&server, 150, 4000, false);
    assert!(count(&picked, 4) < count(&picked, 3) * 8 / 10);
    let (plan, _) = later(&plan, SchedulerName::Rr, of(1..4), 300);
    let (_, server) = later(&plan, SchedulerName::Rr, of(1..5), 301);
    assert!(count(&picks(&server, 301, 4000, false), 4) < 200, "it is new again");
}

#[test]
fn where_all_are_new_they_share() {
    for scheduler in SLOW {
        let (plan, _) = scene(scheduler, 2);
        let (_, server) = later(&plan, scheduler, of(5..8), 0);
        let picked = picks(&server, 1, 3000, true);
        for number in 5..8 {
            let count = count(&picked, number);
            assert!((900..=1100).contains(&count), "{scheduler}: {count}");
        }
    }
}

#[test]
fn a_client_that_has_tried_all_others_gets_the_new_one() {
    for scheduler in SLOW {
        let (plan, _) = scene(scheduler, 2);
        let (_, server) = later(&plan, scheduler, of(0..3), 0);
        let tried = [endpoint(0).address, endpoint(1).address];
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..100 {
            let choice = server.pick(&request(&tried), &mut rng).expect("one is left");
            assert_eq!(choice.address(), endpoint(2).address, "{scheduler}");
        }
    }
}
