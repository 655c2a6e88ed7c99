//! What a plan shows, what it keeps, and what it says.

use std::time::Duration;

use streamvs_table::{Disposition, Endpoint, PerFamily, PerPolicy};

use super::*;
use crate::testing::{endpoint, service, snapshot, start};

fn plain(name: &str) -> ServicePort {
    service(name, vec![endpoint(1), endpoint(2)])
}

fn asking(name: &str, scheduler: &str) -> ServicePort {
    ServicePort { scheduler: Some(scheduler.into()), ..plain(name) }
}

fn next(
    plan: &Plan,
    services: &[&Arc<ServicePort>],
    default: SchedulerName,
) -> (Plan, Vec<Notice>) {
    let services = services.iter().map(|&service| Arc::clone(service)).collect();
    plan.next(snapshot(plan.generation() + 1, services), default, start())
}

fn server(plan: &Plan, name: &str) -> Arc<VirtualServer> {
    let named = |server: &&Arc<VirtualServer>| *server.service().name.service.name == *name;
    Arc::clone(plan.virtual_servers().find(named).expect("it is planned"))
}

#[test]
fn the_empty_plan_serves_nobody() {
    let plan = Plan::empty();
    assert_eq!(plan.generation(), 0);
    assert_eq!(plan.virtual_servers().count(), 0);
    assert!(plan.lookup(plain("a").cluster_ips[0], 80).is_none());
}

#[test]
fn a_plan_agrees_with_its_snapshot_on_every_address() {
    let udp = |name: &str| {
        let mut service = plain(name);
        service.name.protocol = Protocol::Udp;
        service
    };
    let mut both = plain("c");
    both.cluster_ips.push("2001:db8::c".parse().expect("an address"));
    let mut v6_only = plain("d");
    v6_only.cluster_ips = vec!["2001:db8::d".parse().expect("an address")];
    // "xa" claims the address of "a".
    let services =
        [plain("a"), plain("xa"), udp("b"), both, v6_only, service("e", vec![])].map(Arc::new);
    let (table, conflicts) = Snapshot::new(1, services.to_vec());
    assert_eq!(conflicts.len(), 1);
    let (plan, _) = Plan::seeded(1).next(Arc::new(table), SchedulerName::Rr, start());

    let mut addresses = 0;
    for (ip, port, protocol, owner) in plan.snapshot().addresses() {
        match (plan.lookup(ip, port), protocol) {
            (Some(found), Protocol::Tcp) => {
                assert!(Arc::ptr_eq(found.service(), owner), "{ip}");
                assert_eq!(found.family(), Family::of(ip));
            }
            (found, _) => assert!(found.is_none() && protocol == Protocol::Udp, "{ip}"),
        }
        addresses += 1;
        assert!(plan.lookup(ip, port + 1).is_none());
    }
    assert_eq!(addresses, 6);
    let listed: Vec<_> = plan
        .virtual_servers()
        .map(|server| (server.service().name.service.name.to_string(), server.family()))
        .collect();
    let v4 = |name: &str| (name.to_string(), Family::V4);
    let v6 = |name: &str| (name.to_string(), Family::V6);
    assert_eq!(listed, [v4("a"), v4("c"), v6("c"), v6("d"), v4("e"), v4("xa")]);
    for server in plan.virtual_servers() {
        let found = plan.get(&server.service().name, server.family());
        assert!(found.is_some_and(|found| Arc::ptr_eq(found, server)));
    }
    assert!(plan.get(&services[4].name, Family::V4).is_none());
}

#[test]
fn an_unchanged_service_has_the_same_virtual_server() {
    let [a, b, c] = ["a", "b", "c"].map(|name| Arc::new(plain(name)));
    let (first, _) = next(&Plan::seeded(1), &[&a, &b, &c], SchedulerName::Rr);
    let changed = Arc::new(service("b", vec![endpoint(1)]));
    let (second, _) = next(&first, &[&a, &changed, &c], SchedulerName::Rr);
    for (name, same) in [("a", true), ("b", false), ("c", true)] {
        assert_eq!(Arc::ptr_eq(&server(&first, name), &server(&second, name)), same, "{name}");
    }
    assert_eq!(second.generation(), 2);
    for (service, same) in [(&a, true), (&changed, false), (&c, true)] {
        let at = |plan: &Plan| plan.lookup(service.cluster_ips[0], service.port).cloned();
        let (was, is) = (at(&first).expect("served"), at(&second).expect("served"));
        assert_eq!(Arc::ptr_eq(&was, &is), same);
        assert!(Arc::ptr_eq(is.service(), service), "the address leads to the newest");
    }
}

#[test]
fn services_come_and_go_between_unchanged_ones() {
    let names = ["a", "b", "c", "d", "e"];
    let all = names.map(|name| Arc::new(plain(name)));
    // Each subset after each: what is in both is the same, what is not is gone or new.
    for before in 0..1 << names.len() {
        for after in [0, 0b10101, 0b01010, 0b00111, 0b11100, 0b11111, before] {
            let of = |mask: i32| -> Vec<_> {
                (0..names.len()).filter(|i| mask >> i & 1 == 1).map(|i| &all[i]).collect()
            };
            let (first, _) = next(&Plan::seeded(1), &of(before), SchedulerName::Rr);
            let (second, _) = next(&first, &of(after), SchedulerName::Rr);
            assert_eq!(second.virtual_servers().count(), of(after).len());
            for service in &all {
                let (ip, port) = (service.cluster_ips[0], service.port);
                let (was, is) = (first.lookup(ip, port), second.lookup(ip, port));
                assert_eq!(was.is_some(), of(before).contains(&service));
                assert_eq!(is.is_some(), of(after).contains(&service));
                if let (Some(was), Some(is)) = (was, is) {
                    assert!(Arc::ptr_eq(was, is));
                }
                if let (Some(was), None) = (was, is) {
                    assert!(was.targets().iter().all(|target| target.retired_at().is_some()));
                }
            }
        }
    }
}

#[test]
fn a_changed_cluster_ip_is_found_and_the_old_one_is_not() {
    let a = Arc::new(plain("a"));
    let (first, _) = next(&Plan::seeded(1), &[&a], SchedulerName::Rr);
    let moved = Arc::new(ServicePort { port: 81, ..plain("a") });
    let (second, _) = next(&first, &[&moved], SchedulerName::Rr);
    assert!(second.lookup(a.cluster_ips[0], 80).is_none());
    let found = second.lookup(a.cluster_ips[0], 81).expect("it moved here");
    assert!(found.targets()[0].continues(&server(&first, "a").targets()[0]));
}

#[test]
fn a_family_that_is_gone_retires_its_endpoints() {
    let mut both = plain("a");
    both.endpoints.push(crate::testing::endpoint_v6(1));
    both.disposition =
        PerPolicy::both(PerFamily { v4: Disposition::Balance, v6: Disposition::Balance });
    let v4 = Arc::new(both.clone());
    both.cluster_ips.push("2001:db8::a".parse().expect("an address"));
    let both = Arc::new(both);
    let (first, _) = next(&Plan::seeded(1), &[&both], SchedulerName::Rr);
    let v6_server = first.get(&both.name, Family::V6).expect("it has a ClusterIP");
    let (second, _) = next(&first, &[&v4], SchedulerName::Rr);
    assert!(second.get(&both.name, Family::V6).is_none());
    assert_eq!(v6_server.targets()[0].retired_at(), Some(start()));
    assert_eq!(server(&second, "a").targets()[0].retired_at(), None);
}

#[test]
fn the_same_seed_makes_the_same_plan_and_another_one_does_not() {
    let web = Arc::new(service("web", (0..20).map(endpoint).collect()));
    let order = |seed| -> Vec<_> {
        let (plan, _) = next(&Plan::seeded(seed), &[&web], SchedulerName::Rr);
        let server = server(&plan, "web");
        let mut rng = fastrand::Rng::with_seed(0);
        let request = crate::testing::request(&[]);
        (0..20).filter_map(|_| server.pick(&request, &mut rng)).map(|c| c.address()).collect()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}

// --- Schedulers -------------------------------------------------------------------------------

#[test]
fn the_annotation_overrides_the_default() {
    for (annotation, runs) in [
        ("lc", SchedulerName::Lc),
        (" mh ", SchedulerName::Mh),
        ("rr", SchedulerName::Rr),
        ("dh", SchedulerName::Dh),
        ("", SchedulerName::Twos),
        ("  ", SchedulerName::Twos),
        ("LC", SchedulerName::Twos),
        ("ewm", SchedulerName::Twos),
    ] {
        let a = Arc::new(asking("a", annotation));
        let (plan, _) = next(&Plan::seeded(1), &[&a], SchedulerName::Twos);
        assert_eq!(server(&plan, "a").scheduler(), runs, "{annotation:?}");
    }
}

#[test]
fn a_changed_default_reaches_those_that_follow_it_and_leaves_the_others_as_they_are() {
    let [plain, own, wrong] =
        [plain("a"), asking("b", "lc"), asking("c", "none such")].map(Arc::new);
    let all = [&plain, &own, &wrong];
    let (first, _) = next(&Plan::seeded(1), &all, SchedulerName::Rr);
    let (second, _) = next(&first, &all, SchedulerName::Sed);
    assert!(Arc::ptr_eq(&server(&first, "b"), &server(&second, "b")));
    for name in ["a", "c"] {
        let (old, new) = (server(&first, name), server(&second, name));
        assert_eq!((old.scheduler(), new.scheduler()), (SchedulerName::Rr, SchedulerName::Sed));
        assert!(Arc::ptr_eq(&old.targets()[0], &new.targets()[0]), "the load goes on");
        assert_eq!(new.targets()[0].retired_at(), None);
    }
}

#[test]
fn an_unknown_scheduler_is_said_once_and_again_when_it_changes() {
    let wrong = Arc::new(asking("a", "best"));
    let unknown = |name: &str, default| {
        let service = wrong.name.service.clone();
        vec![Notice::UnknownScheduler { service, name: name.into(), default }]
    };
    let (plan, notices) = next(&Plan::seeded(1), &[&wrong], SchedulerName::Rr);
    assert_eq!(notices, unknown("best", SchedulerName::Rr));

    // Nothing changed; then an endpoint did.
    let (plan, notices) = next(&plan, &[&wrong], SchedulerName::Rr);
    assert_eq!(notices, []);
    let fewer = Endpoint { zone: Some("b".into()), ..endpoint(1) };
    let grown = Arc::new(ServicePort { endpoints: vec![fewer], ..asking("a", "best") });
    let (plan, notices) = next(&plan, &[&grown], SchedulerName::Rr);
    assert_eq!(notices, []);

    let other = Arc::new(asking("a", "fastest"));
    let (plan, notices) = next(&plan, &[&other], SchedulerName::Rr);
    assert_eq!(notices, unknown("fastest", SchedulerName::Rr));
    let (plan, notices) = next(&plan, &[&other], SchedulerName::Lc);
    assert_eq!(notices, unknown("fastest", SchedulerName::Lc));

    let (plan, notices) = next(&plan, &[&Arc::new(asking("a", "sed"))], SchedulerName::Lc);
    assert_eq!(notices, []);
    let (_, notices) = next(&plan, &[&other], SchedulerName::Lc);
    assert_eq!(notices, unknown("fastest", SchedulerName::Lc), "it had been right in between");
}

#[test]
fn a_service_of_several_ports_is_told_once() {
    let port = |port: &str, number| {
        let mut service = ServicePort {
            port: number,
            affinity: Some(Duration::from_secs(10)),
            ..asking("a", "best")
        };
        service.name.port = port.into();
        Arc::new(service)
    };
    let (first, second, third) = (port("x", 1), port("y", 2), port("z", 3));
    let (plan, notices) = next(&Plan::seeded(1), &[&first, &second], SchedulerName::Rr);
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(matches!(notices[0], Notice::UnknownScheduler { .. }));
    assert!(matches!(notices[1], Notice::AffinityPinsStreams { .. }));
    let (_, notices) = next(&plan, &[&first, &second, &third], SchedulerName::Rr);
    assert_eq!(notices, []);
}

#[test]
fn affinity_is_announced_when_it_is_switched_on() {
    let sticky = ServicePort { affinity: Some(Duration::from_secs(10)), ..plain("a") };
    let longer = ServicePort { affinity: Some(Duration::from_secs(20)), ..plain("a") };
    let pins = Notice::AffinityPinsStreams { service: sticky.name.service.clone() };
    let (plan, notices) = next(&Plan::seeded(1), &[&Arc::new(plain("a"))], SchedulerName::Rr);
    assert_eq!(notices, []);
    let (plan, notices) = next(&plan, &[&Arc::new(sticky)], SchedulerName::Rr);
    assert_eq!(notices, [pins]);
    let (_, notices) = next(&plan, &[&Arc::new(longer)], SchedulerName::Rr);
    assert_eq!(notices, []);
}

#[test]
fn a_degenerate_scheduler_is_announced_for_who_asked() {
    let degenerate = |service| Notice::DegenerateScheduler { service, name: SchedulerName::Dh };
    let asking = Arc::new(asking("a", "dh"));
    let (plan, notices) = next(&Plan::seeded(1), &[&asking], SchedulerName::Rr);
    assert_eq!(notices, [degenerate(Some(asking.name.service.clone()))]);
    let (plan, notices) = next(&plan, &[&asking], SchedulerName::Dh);
    assert_eq!(notices, [degenerate(None)], "the default now too");
    let (_, notices) = next(&plan, &[&asking], SchedulerName::Dh);
    assert_eq!(notices, []);
}

#[test]
fn notices_name_the_service_and_what_runs() {
    let name = || ServiceName::new("shop", "web");
    for (notice, text) in [
        (
            Notice::UnknownScheduler {
                service: name(),
                name: "best".into(),
                default: SchedulerName::Lc,
            },
            "shop/web asks for the unknown scheduler \"best\", lc runs",
        ),
        (
            Notice::DegenerateScheduler { service: Some(name()), name: SchedulerName::Lblc },
            "shop/web asks for the scheduler lblc, which for a single address means one endpoint \
             for all, rr runs",
        ),
        (
            Notice::DegenerateScheduler { service: None, name: SchedulerName::Dh },
            "the default scheduler is dh, which for a single address means one endpoint for all, \
             rr runs",
        ),
        (
            Notice::AffinityPinsStreams { service: name() },
            "shop/web has sessionAffinity ClientIP: all streams of a client go to one endpoint",
        ),
    ] {
        assert_eq!(notice.to_string(), text);
    }
}
