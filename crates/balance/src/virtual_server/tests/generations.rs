//! What endpoints and the rotation keep from one generation to the next.

use streamvs_table::{PerPolicy, Usability};

use super::*;

#[test]
fn load_and_statistics_follow_the_address_through_changed_facts() {
    let (plan, server) = plan_of(SchedulerName::Rr, vec![endpoint(1), endpoint(2)]);
    let choice = server.pick(&request(&[]), &mut rng()).expect("two are usable");
    choice.target().stats().streams.inc();
    server.stats().no_endpoint.inc();

    let changed = |number| Endpoint { zone: Some("b".into()), ..endpoint(number) };
    let (_, next) = follow(&plan, SchedulerName::Lc, service("web", vec![changed(1), changed(2)]));
    assert!(!Arc::ptr_eq(&server, &next));
    let same = next.targets().iter().find(|target| target.address() == choice.address());
    let same = same.expect("the address stayed");
    assert!(!Arc::ptr_eq(same, choice.target()) && same.continues(choice.target()));
    assert_eq!(same.endpoint().zone.as_deref(), Some("b"));
    assert_eq!(same.active_streams(), 1);
    assert_eq!(same.recorded_stats().map(|stats| stats.streams.get()), Some(1));
    assert_eq!(next.stats().no_endpoint.get(), 1);
    drop(choice);
    assert_eq!(same.active_streams(), 0);
}

#[test]
fn an_endpoint_without_a_changed_fact_is_the_same_target() {
    let (plan, server) = plan_of(SchedulerName::Rr, vec![endpoint(1), endpoint(2)]);
    let (_, next) =
        follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(1), endpoint(3)]));
    assert!(Arc::ptr_eq(&server.targets()[0], &next.targets()[0]));
    assert!(!next.targets()[1].continues(&server.targets()[1]));
}

#[test]
fn an_address_that_is_gone_for_a_generation_begins_anew() {
    let (plan, server) = plan_of(SchedulerName::Rr, vec![endpoint(1), endpoint(2)]);
    let held: Vec<_> = (0..2).filter_map(|_| server.pick(&request(&[]), &mut rng())).collect();
    let (plan, _) = follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(2)]));
    let (_, back) =
        follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(1), endpoint(2)]));
    assert_eq!(back.targets()[0].outstanding(), 0, "another pod with the same address");
    assert_eq!(back.targets()[1].outstanding(), 1);
    assert_eq!(held.len(), 2);
}

#[test]
fn replays_are_held_against_the_calls_of_endpoints_that_have_left_too() {
    const CALLS: u64 = 500;
    let (plan, server) = plan_of(SchedulerName::Rr, vec![endpoint(1), endpoint(2)]);
    server.targets()[0].stats().streams.add(CALLS);
    let replays = |server: &VirtualServer| {
        (0..2000).filter(|_| server.replay(ReplayReason::DialFailed, start())).count() as u64
    };
    let (plan, next) = follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(2)]));
    assert_eq!(replays(&next), CALLS);
    let held: Vec<_> = (0..700).filter_map(|_| next.pick(&request(&[]), &mut rng())).collect();
    assert_eq!(replays(&next), 200, "as many as are under way");
    drop(held);
    // A stream that came back is a call at its second endpoint only.
    next.targets()[0].stats().streams.add(700);
    assert!(next.replay(ReplayReason::Refused, start()));
    assert_eq!(replays(&next), CALLS + 700 - 701 - 1);
    let (_, last) = follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(3)]));
    assert!(!last.replay(ReplayReason::DialFailed, start()));
    let refused = last.stats().replays_refused.get();
    assert!(refused > 0 && refused == server.stats().replays_refused.get());
}

#[test]
fn a_choice_keeps_its_removed_endpoint_and_tells_when_it_retired() {
    let (plan, server) = plan_of(SchedulerName::Rr, vec![endpoint(1)]);
    let choice = server.pick(&request(&[]), &mut rng()).expect("one is usable");
    assert_eq!(choice.target().retired_at(), None);
    drop(server);
    let (_, _) = follow(&plan, SchedulerName::Rr, service("web", vec![endpoint(2)]));
    drop(plan);
    assert_eq!(choice.target().retired_at(), Some(start()));
    assert_eq!(choice.target().active_streams(), 1);
}

#[test]
fn exactly_the_removed_endpoints_retire() {
    for removed in 0..4 {
        let (plan, server) = plan_of(SchedulerName::Rr, (0..4).map(endpoint).collect());
        let rest = (0..4).filter(|number| *number != removed).map(endpoint).collect();
        let (_, next) = follow(&plan, SchedulerName::Rr, service("web", rest));
        for (number, target) in (0..).zip(server.targets()) {
            assert_eq!(target.retired_at().is_some(), number == removed);
        }
        assert!(next.targets().iter().all(|target| target.retired_at().is_none()));
    }
}

/// What the usable set does to `retired_at`, one generation per second.
#[test]
fn retirement_follows_the_usable_set() {
    let terminating = Endpoint {
        terminating: true,
        ready: false,
        usability: PerPolicy::both(Usability::Terminating),
        ..endpoint(1)
    };
    let last_resort = Endpoint {
        usability: PerPolicy::both(Usability::TerminatingFallback),
        ..terminating.clone()
    };
    let generations = [
        (Some(unready(1)), None, "never used"),
        (Some(endpoint(1)), None, "used"),
        (Some(weighted(1, 0)), None, "weight 0 is in the usable set"),
        (Some(endpoint(1)), None, "used"),
        (Some(terminating.clone()), Some(4), "left"),
        (Some(unready(1)), Some(4), "already gone"),
        (Some(last_resort), None, "returned"),
        (Some(terminating), Some(7), "left again"),
        (None, Some(7), "removed after it left"),
    ];
    let mut plan = Plan::seeded(7);
    let mut target: Option<Arc<Target>> = None;
    for (second, (facts, retired, why)) in (0..).zip(generations) {
        let endpoints = facts.into_iter().chain([endpoint(9)]).collect();
        let snapshot =
            crate::testing::snapshot(second + 1, vec![Arc::new(service("web", endpoints))]);
        let now = start() + Duration::from_secs(second);
        plan = plan.next(snapshot, SchedulerName::Rr, now).0;
        let server = plan.virtual_servers().next().expect("one Service");
        let listed = server.targets().iter().find(|t| t.address() == endpoint(1).address);
        target = listed.cloned().or(target);
        let expected = retired.map(|second| start() + Duration::from_secs(second));
        assert_eq!(target.as_ref().and_then(|target| target.retired_at()), expected, "{why}");
    }
}

#[test]
fn the_rotation_goes_on_when_facts_change_and_when_endpoints_do() {
    let (plan, server) = plan_of(SchedulerName::Rr, (0..4).map(endpoint).collect());
    let mut rng = rng();
    let mut pick = |server: &VirtualServer| {
        server.pick(&request(&[]), &mut rng).map(|choice| choice.address())
    };
    let order: Vec<_> = (0..4).filter_map(|_| pick(&server)).collect();
    assert_eq!(pick(&server), Some(order[0]));

    // A fact that does not matter, then an endpoint that is not used: the very same rotation.
    let mut endpoints: Vec<_> = (0..4).map(endpoint).collect();
    endpoints[2].zone = Some("b".into());
    let (plan, server) = follow(&plan, SchedulerName::Rr, service("web", endpoints.clone()));
    assert_eq!(pick(&server), Some(order[1]));
    endpoints.push(unready(7));
    let (plan, server) = follow(&plan, SchedulerName::Rr, service("web", endpoints.clone()));
    assert_eq!(pick(&server), Some(order[2]));

    // The one whose turn it would be leaves.
    endpoints.retain(|endpoint| endpoint.address != order[3]);
    let (_, server) = follow(&plan, SchedulerName::Rr, service("web", endpoints));
    let rest: Vec<_> = (0..6).filter_map(|_| pick(&server)).collect();
    assert_eq!(rest, [order[0], order[1], order[2], order[0], order[1], order[2]]);
}

#[test]
fn workers_with_the_old_plan_take_turns_with_those_of_the_new() {
    let (plan, old) = plan_of(SchedulerName::Rr, (0..3).map(endpoint).collect());
    let mut endpoints: Vec<_> = (0..3).map(endpoint).collect();
    endpoints[0].zone = Some("b".into());
    let (_, new) = follow(&plan, SchedulerName::Rr, service("web", endpoints));
    let mut rng = rng();
    let choices: Vec<_> = (0..30)
        .filter_map(|n| if n % 3 == 0 { &old } else { &new }.pick(&request(&[]), &mut rng))
        .collect();
    assert_eq!(counts(&choices).into_values().collect::<Vec<_>>(), [10; 3]);
}

#[test]
fn a_change_of_scheduler_keeps_the_load() {
    let (plan, server) = plan_of(SchedulerName::Rr, (0..3).map(endpoint).collect());
    let mut rng = rng();
    let mut held: Vec<_> = (0..9).filter_map(|_| server.pick(&request(&[]), &mut rng)).collect();
    held.retain(|choice| choice.address() == endpoint(1).address);
    assert_eq!(held.len(), 3);
    let (_, server) =
        follow(&plan, SchedulerName::Lc, service("web", (0..3).map(endpoint).collect()));
    for _ in 0..6 {
        held.push(server.pick(&request(&[]), &mut rng).expect("three are usable"));
    }
    assert!(server.targets().iter().all(|target| target.outstanding() == 3));
}

#[test]
fn families_are_balanced_apart() {
    let mut both = service("web", vec![endpoint(1), endpoint_v6(1), endpoint_v6(2)]);
    both.cluster_ips.push("2001:db8::1".parse().expect("an address"));
    let (plan, v4) = follow(&Plan::seeded(7), SchedulerName::Rr, both.clone());
    let v6 = plan.get(&both.name, Family::V6).expect("it has a ClusterIP");
    assert_eq!((v4.targets().len(), v6.targets().len()), (1, 2));
    assert_eq!((v4.family(), v6.family()), (Family::V4, Family::V6));
    assert!(v6.targets().iter().all(|target| target.address().is_ipv6()));
}
