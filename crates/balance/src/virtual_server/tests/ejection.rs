//! Endpoints that fail, as those who pick meet them. The count by itself has tests of its own.

use std::sync::PoisonError;

use super::*;
use crate::testing::snapshot;
use crate::{EjectionChange, EjectionPolicy};

const POLICY: EjectionPolicy = EjectionPolicy {
    consecutive_faults: 3,
    base_time: Duration::from_secs(30),
    max_time: Duration::from_secs(300),
};

/// What was told, by the endpoints' numbers.
type Told = Arc<Mutex<Vec<(u16, EjectionChange)>>>;

/// A Service whose endpoints are ejected, and the time.
struct Scene {
    plan: Plan,
    scheduler: SchedulerName,
    server: Arc<VirtualServer>,
    now: Instant,
    told: Told,
    rng: fastrand::Rng,
}

impl Scene {
    fn new(scheduler: SchedulerName, service: ServicePort) -> Self {
        let told = Told::default();
        let tell = Arc::clone(&told);
        let plan = Plan::seeded(7).ejecting(
            POLICY,
            Arc::new(move |event: crate::EjectionEvent<'_>| {
                assert_eq!(&*event.service.service.name, "web");
                let mut told = tell.lock().unwrap_or_else(PoisonError::into_inner);
                told.push((number(event.endpoint), event.change));
            }),
        );
        let (plan, server) = follow(&plan, scheduler, service);
        Self { plan, scheduler, server, now: start(), told, rng: rng() }
    }

    fn of(scheduler: SchedulerName, count: u16) -> Self {
        Self::new(scheduler, service("web", (0..count).map(endpoint).collect()))
    }

    /// The next generation.
    fn publish(&mut self, service: ServicePort) {
        let name = service.name.clone();
        let snapshot = snapshot(self.plan.generation() + 1, vec![Arc::new(service)]);
        let (plan, _) = self.plan.next(snapshot, self.scheduler, self.now);
        self.server = Arc::clone(plan.get(&name, Family::V4).expect("it was just planned"));
        self.plan = plan;
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn target(&self, wanted: u16) -> &Arc<Target> {
        let mut targets = self.server.targets().iter();
        targets.find(|target| number(target.address()) == wanted).expect("is listed")
    }

    /// One fault, a millisecond after what was before.
    fn fault(&mut self, number: u16) {
        self.now += Duration::from_millis(1);
        self.server.fault(self.target(number), Fault::LostBeforeReply, self.now);
    }

    /// As many as eject.
    fn fail(&mut self, number: u16) {
        for _ in 0..POLICY.consecutive_faults {
            self.fault(number);
        }
    }

    fn pick(&mut self, client_number: u32, tried: &[SocketAddr]) -> Option<u16> {
        let request = Request { now: self.now, ..request_of(client(client_number), tried) };
        let choice = self.server.pick(&request, &mut self.rng)?;
        Some(number(choice.address()))
    }

    /// Who gets something when each of 400 clients asks once.
    fn used(&mut self) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for client in 0..400 {
            *counts.entry(self.pick(client, &[]).expect("one is usable")).or_default() += 1;
        }
        counts
    }

    fn ejected(&self) -> Vec<u16> {
        let ejected = self.server.targets().iter().filter(|target| target.is_ejected());
        ejected.map(|target| number(target.address())).collect()
    }

    fn told(&self) -> Vec<(u16, EjectionChange)> {
        std::mem::take(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn number(address: SocketAddr) -> u16 {
    let SocketAddr::V4(address) = address else { panic!("{address} is IPv4") };
    u16::from(address.ip().octets()[3]) | (address.port() - 8000) << 8
}

fn ejected_for(seconds: u64) -> EjectionChange {
    let time = Duration::from_secs(seconds);
    EjectionChange::Ejected { time, fault: Fault::LostBeforeReply }
}

#[test]
fn every_scheduler_passes_over_an_ejected_endpoint_and_takes_it_again() {
    for &name in SchedulerName::ALL {
        // Of those that look at few and of those that draw.
        for count in [2, 3, 10, 100] {
            let mut scene = Scene::of(name, count);
            let first = scene.pick(0, &[]).expect("one is usable");
            scene.fail(first);
            assert_eq!(scene.told(), [(first, ejected_for(30))], "{name}");
            let used = scene.used();
            assert!(!used.contains_key(&first), "{name}, {count} endpoints: {used:?}");
            let in_order = matches!(name, SchedulerName::Fo | SchedulerName::Ovf);
            let others = if in_order { 1 } else { usize::from(count) - 1 };
            if count <= 10 {
                assert_eq!(used.len(), others, "{name}: {used:?}");
            }
            scene.wait(29);
            assert!(!scene.used().contains_key(&first), "{name}: too early");
            assert_eq!(scene.told(), []);
            scene.wait(1);
            assert!(scene.used().contains_key(&first), "{name}: never again");
            assert_eq!(scene.told(), [(first, EjectionChange::Returned)], "{name}");
        }
    }
}

#[test]
fn turns_of_an_ejected_endpoint_are_spread_evenly() {
    let mut scene = Scene::of(SchedulerName::Rr, 5);
    scene.fail(1);
    scene.fail(3);
    let used = scene.used();
    assert_eq!(used.keys().copied().collect::<Vec<_>>(), [0, 2, 4]);
    let (least, most) = (used.values().min(), used.values().max());
    assert!(most.unwrap() - least.unwrap() <= 1, "{used:?}");
}

#[test]
fn weights_hold_among_the_others() {
    for name in [SchedulerName::Wrr, SchedulerName::Random, SchedulerName::Twos, SchedulerName::Sh]
    {
        let endpoints = vec![weighted(0, 10), weighted(1, 3), weighted(2, 1)];
        let mut scene = Scene::new(name, service("web", endpoints));
        scene.fail(0);
        let used = scene.used();
        let share = used[&1] as f64 / 400.0;
        // Three quarters, within four deviations of 400 draws.
        assert!(used.len() == 2 && (share - 0.75).abs() < 0.09, "{name}: {used:?}");
    }
}

#[test]
fn faults_of_one_instant_count_as_one_and_an_answer_begins_anew() {
    let mut scene = Scene::of(SchedulerName::Rr, 3);
    for _ in 0..100 {
        let now = scene.now;
        scene.server.fault(scene.target(1), Fault::DialFailed, now);
    }
    scene.fault(1);
    assert_eq!(scene.target(1).consecutive_faults(), 2);
    scene.target(1).answered();
    scene.fault(1);
    scene.fault(1);
    assert_eq!(scene.ejected(), [] as [u16; 0]);
    scene.fault(1);
    assert_eq!(scene.ejected(), [1]);
    let stats = scene.target(1).stats();
    assert_eq!(stats.faults.each_ref().map(|count| count.get()), [100, 4, 0]);
    assert_eq!(stats.ejections.get(), 1);
}

#[test]
fn never_more_than_half_are_ejected_and_never_the_last() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let mut scene = Scene::of(SchedulerName::Rr, count);
        for _ in 0..3 {
            for number in 0..count {
                scene.fail(number);
            }
        }
        assert_eq!(scene.ejected().len(), most, "of {count}");
        assert_eq!(scene.told().len(), most);
        assert_eq!(scene.used().len(), usize::from(count) - most);
    }
}

#[test]
fn endpoints_of_weight_zero_and_unready_ones_do_not_make_room_for_ejections() {
    let endpoints = vec![endpoint(0), weighted(1, 0), unready(2), endpoint(3), weighted(4, 0)];
    let mut scene = Scene::new(SchedulerName::Rr, service("web", endpoints));
    for number in 0..5 {
        scene.fail(number);
    }
    assert_eq!(scene.ejected(), [0], "one of the two that take something");
}

#[test]
fn a_unit_for_which_only_ejected_ones_are_left_gets_one_of_them() {
    for &name in SchedulerName::ALL {
        let mut scene = Scene::of(name, 2);
        scene.fail(0);
        let other = endpoint(1).address;
        assert_eq!(scene.pick(1, &[other]), Some(0), "{name}");
        assert_eq!(scene.pick(1, &[other, endpoint(0).address]), None, "{name}");
        assert_eq!(scene.ejected(), [0]);
    }
}

#[test]
fn ejections_go_on_over_generations_as_far_as_enough_others_stay() {
    let mut scene = Scene::of(SchedulerName::Rr, 4);
    scene.fail(0);
    scene.wait(1);
    scene.fail(1);
    scene.told();
    scene.publish(service("web", (0..5).map(endpoint).collect()));
    assert_eq!(scene.ejected(), [0, 1]);
    assert_eq!(scene.used().len(), 3);
    // Of three only one may be: the one that would have returned first is recalled.
    scene.publish(service("web", (0..3).map(endpoint).collect()));
    assert_eq!(scene.ejected(), [1]);
    assert_eq!(scene.told(), [(0, EjectionChange::Recalled)]);
    // The last one is used.
    scene.publish(service("web", vec![endpoint(1)]));
    assert_eq!(scene.told(), [(1, EjectionChange::Recalled)]);
    assert_eq!(scene.used().len(), 1);
    // Gone with the address are its faults, and with its readiness what came of them.
    scene.publish(service("web", (0..3).map(endpoint).collect()));
    scene.fail(2);
    scene.publish(service("web", vec![endpoint(0), endpoint(1), unready(2)]));
    scene.publish(service("web", (0..3).map(endpoint).collect()));
    assert_eq!(scene.ejected(), [] as [u16; 0]);
    assert_eq!(scene.used().len(), 3);
}

#[test]
fn faults_before_its_readiness_came_back_count_no_more() {
    let mut scene = Scene::of(SchedulerName::Rr, 4);
    for _ in 1..POLICY.consecutive_faults {
        scene.fault(2);
    }
    let of = |other| service("web", vec![endpoint(0), endpoint(1), other, endpoint(3)]);
    scene.publish(of(unready(2)));
    assert_eq!(scene.target(2).consecutive_faults(), POLICY.consecutive_faults - 1);
    scene.publish(of(endpoint(2)));
    assert_eq!(scene.target(2).consecutive_faults(), 0);
    scene.fault(2);
    assert!(!scene.target(2).is_ejected());
}

#[test]
fn a_fault_that_is_told_to_an_earlier_generation_counts_in_the_newest() {
    let mut scene = Scene::of(SchedulerName::Rr, 4);
    let (old, target) = (Arc::clone(&scene.server), Arc::clone(scene.target(0)));
    scene.publish(service("web", vec![endpoint(0)]));
    for _ in 0..POLICY.consecutive_faults {
        scene.wait(1);
        old.fault(&target, Fault::DialFailed, scene.now);
    }
    assert_eq!(scene.ejected(), [] as [u16; 0], "it is the last one by now");
}

#[test]
fn half_of_the_endpoints_of_each_policy_stay_in_use() {
    let mut web = service("web", (0..4).map(endpoint).collect());
    web.external_policy = TrafficPolicy::Local;
    web.node_port = Some(30_080);
    for endpoint in &mut web.endpoints[2..] {
        *endpoint.usability.get_mut(TrafficPolicy::Local) = streamvs_table::Usability::NotLocal;
    }
    let mut scene = Scene::new(SchedulerName::Rr, web);
    for number in [0, 1, 2, 3] {
        scene.fail(number);
    }
    assert_eq!(scene.ejected(), [0, 2], "of the local ones, 0 and 1, one");
}

#[test]
fn a_client_of_an_ejected_endpoint_is_bound_to_another_one_for_good() {
    let sticky = ServicePort {
        affinity: Some(Duration::from_secs(10_800)),
        ..service("web", (0..4).map(endpoint).collect())
    };
    for &name in SchedulerName::ALL {
        let mut scene = Scene::new(name, sticky.clone());
        let home = scene.pick(1, &[]).expect("one is usable");
        scene.fail(home);
        let other = scene.pick(1, &[]).expect("one is usable");
        assert_ne!(home, other, "{name}");
        scene.wait(31);
        for _ in 0..10 {
            assert_eq!(scene.pick(1, &[]), Some(other), "{name}: it moves once");
        }
    }
}

#[test]
fn nobody_is_ejected_without_a_policy() {
    let (_, server) = plan_of(SchedulerName::Rr, (0..4).map(endpoint).collect());
    for second in 0..100 {
        let now = start() + Duration::from_secs(second);
        server.fault(&server.targets()[0], Fault::DialFailed, now);
    }
    assert!(server.targets().iter().all(|target| !target.is_ejected()));
    assert_eq!(server.targets()[0].stats().faults[0].get(), 100);
}

#[test]
fn what_is_left_of_an_ejection_is_known() {
    let mut scene = Scene::of(SchedulerName::Rr, 2);
    scene.fail(0);
    let target = Arc::clone(scene.target(0));
    let left = |seconds| {
        let ejection = target.ejection(scene.now + Duration::from_secs(seconds));
        ejection.map(|ejected| (ejected.remaining.as_secs(), ejected.fault))
    };
    assert_eq!(left(0), Some((30, Fault::LostBeforeReply)));
    assert_eq!(left(12), Some((18, Fault::LostBeforeReply)));
    assert_eq!(left(30), None, "whoever asks sees it returned before somebody picks it");
}

#[test]
fn threads_that_fail_and_pick_at_once_never_eject_more_than_half() {
    let scene = Scene::of(SchedulerName::Rr, 6);
    let (server, start) = (&scene.server, scene.now);
    std::thread::scope(|threads| {
        for thread in 0..4u64 {
            threads.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for step in 0..20_000 {
                    let now = start + Duration::from_millis(4 * step + thread);
                    let target = &server.targets()[rng.usize(..6)];
                    server.fault(target, Fault::DialFailed, now);
                    let request = Request { now, ..request(&[]) };
                    assert!(server.pick(&request, &mut rng).is_some());
                    if rng.u8(..) == 0 {
                        target.answered();
                    }
                }
            });
        }
    });
    assert_eq!(scene.ejected().len(), 3);
    let (mut out, mut most) = (0i32, 0);
    for (_, change) in scene.told() {
        out += if matches!(change, EjectionChange::Ejected { .. }) { 1 } else { -1 };
        most = most.max(out);
    }
    assert_eq!(most, 3, "told under the lock, so in order");
}

/// What may happen to a Service.
#[derive(Clone, Debug)]
enum Step {
    Fail(prop::sample::Index),
    Answer(prop::sample::Index),
    Wait(u64),
    /// Ready, unready, weight 0 or absent, and local or not, for each of eight.
    Publish(Vec<(u8, bool)>),
    Pick(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<prop::sample::Index>().prop_map(Step::Fail),
        1 => any::<prop::sample::Index>().prop_map(Step::Answer),
        2 => (0u64..120).prop_map(Step::Wait),
        2 => prop::collection::vec((0u8..6, any::<bool>()), 8).prop_map(Step::Publish),
        3 => (0u32..50).prop_map(Step::Pick),
    ]
}

fn listed(states: &[(u8, bool)]) -> ServicePort {
    let endpoints = (0..).zip(states).filter_map(|(number, &(state, local))| {
        let mut endpoint = match state {
            0 => return None,
            1 => unready(number),
            2 => weighted(number, 0),
            _ => endpoint(number),
        };
        if !local && state != 1 {
            *endpoint.usability.get_mut(TrafficPolicy::Local) = streamvs_table::Usability::NotLocal;
        }
        Some(endpoint)
    });
    let mut web = service("web", endpoints.collect());
    web.external_policy = TrafficPolicy::Local;
    web.node_port = Some(30_080);
    web
}

proptest! {
    #[test]
    fn in_any_history_at_most_half_of_each_list_are_ejected(
        steps in prop::collection::vec(step(), 1..120),
        scheduler in prop::sample::select(SchedulerName::ALL),
    ) {
        let mut scene = Scene::new(scheduler, listed(&[(5, true); 8]));
        for step in steps {
            match step {
                Step::Fail(index) if !scene.server.targets().is_empty() => {
                    let failing = number(index.get(scene.server.targets()).address());
                    scene.fail(failing);
                }
                Step::Answer(index) if !scene.server.targets().is_empty() => {
                    index.get(scene.server.targets()).answered();
                }
                Step::Fail(_) | Step::Answer(_) => {}
                Step::Wait(seconds) => scene.wait(seconds),
                Step::Publish(states) => scene.publish(listed(&states)),
                Step::Pick(client) => {
                    let ejected = scene.ejected();
                    let picked = scene.pick(client, &[]);
                    let usable = !scene.server.usable(TrafficPolicy::Cluster).is_empty();
                    prop_assert_eq!(picked.is_some(), usable);
                    if let Some(picked) = picked {
                        let returned = scene.told().contains(&(picked, EjectionChange::Returned));
                        prop_assert!(returned || !ejected.contains(&picked), "{} was ejected", picked);
                    }
                }
            }
            for policy in TrafficPolicy::BOTH {
                let list = scene.server.lists.get(policy).as_ref();
                let candidates = list.map_or(&[][..], List::candidates);
                let ejected = candidates.iter().filter(|target| target.is_ejected()).count();
                prop_assert!(ejected <= candidates.len() / 2, "{} of {}", ejected, candidates.len());
            }
        }
    }
}
