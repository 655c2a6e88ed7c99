//! Aim: under questions as resolvers ask them, a change of endpoints loses no more than the answers
//! that are under way from a removed endpoint, and no flow stays with it.
//! Method: questions at a steady rate on flows that stay and flows that begin; every one is accounted
//! for. `STREAMVS_DNS_RATE=20000` asks more often than a run of all tests can afford.

use std::collections::BTreeMap;
use std::time::Instant;

use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE};
use streamvs_support::figure;
use streamvs_support::udp::load::{LOST, Load, Outcome};
use streamvs_support::wait::eventually;

use crate::kernel::{REPLACE, dns};
use crate::scene::{PODS, Scene, address, needs_node};

/// How often the endpoints change.
const CHANGES: usize = 12;

/// One endpoint leaves, and another comes.
struct Change {
    /// The pod that leaves.
    removed: &'static str,
    /// Before it was written.
    began: Instant,
    /// When its flows were forgotten, as the agent's metrics told.
    ended: Instant,
}

/// How often the agent has looked for stale flows.
fn looks(agent: &Agent) -> f64 {
    let name = "kubeproxy_conntrack_reconciler_sync_duration_seconds_count";
    agent.metric(name, &[("ip_family", "IPv4")]).unwrap_or_default()
}

#[test]
fn a_change_of_endpoints_loses_only_answers_under_way_from_the_removed_one() {
    needs_node!("nft", "conntrack");
    let rate = std::env::var("STREAMVS_DNS_RATE").ok().and_then(|rate| rate.parse().ok());
    let rate: u32 = rate.unwrap_or(1_000);
    let scene = Scene::new();
    let service = dns(Family::V4);
    let _endpoints = scene.udp(Family::V4, PODS);
    scene.publish(&service, &["c", "a"]);
    let agent = scene.agent(&[REPLACE]);
    let flows = (rate / 50).clamp(20, 400);
    let load = Load { to: address(&service), rate, flows, questions_of_a_flow: 64 };
    let questions = load.start(scene.client());
    // A quarter of a second between changes, a second before the first.
    let quarter = rate as usize / 4;
    questions.advance(4 * quarter);
    let mut changes = Vec::new();
    for round in 0..CHANGES {
        // Its process goes on answering, as a pod's does that ends in order.
        let (removed, left) = [("c", ["a", "b"]), ("a", ["b", "c"]), ("b", ["c", "a"])][round % 3];
        let looked = looks(&agent);
        let began = Instant::now();
        scene.manifests.endpoints(&service, &scene.ready(&service, &left));
        eventually("stale flows are forgotten", PATIENCE, || looks(&agent) > looked);
        changes.push(Change { removed, began, ended: Instant::now() });
        questions.advance(quarter);
    }
    let outcome = questions.finish();
    let lost = judge(&outcome, &changes);
    let last = scene.lab.pod(changes[CHANGES - 1].removed).ip(Family::V4).to_string();
    let flows = scene.lab.node().output("conntrack", &["-L", "-p", "udp", "--reply-src", &last]);
    assert_eq!(flows, "", "no flow stays with what is gone");

    let windows = changes.iter().map(|change| change.ended - change.began);
    figure::report(&format!(
        "UDP, {rate} questions a second wanted and {:.0} asked, {CHANGES} changes of endpoints: {} \
         questions, {} lost, at most {} by one change, all under way from the removed endpoint; \
         answered within {:?} (median) and {:?} (99 of 100); flows forgotten {:?} after the change \
         at the latest",
        outcome.questions.len() as f64 / outcome.took.as_secs_f64(),
        outcome.questions.len(),
        lost.iter().sum::<usize>(),
        lost.iter().max().unwrap_or(&0),
        outcome.answered_within(0.5),
        outcome.answered_within(0.99),
        windows.max().unwrap_or_default(),
    ));
}

/// How many answers each change lost. Fails where anything else was lost, and where a removed
/// endpoint was asked.
#[track_caller]
fn judge(outcome: &Outcome, changes: &[Change]) -> Vec<usize> {
    let mut lost = vec![0; changes.len()];
    let mut at = BTreeMap::new();
    for question in &outcome.questions {
        let before = at.get(&question.flow).cloned();
        if let Some((_, pod)) = &question.answer {
            at.insert(question.flow, pod.clone());
            let ended = changes.iter().rfind(|change| change.ended < question.sent);
            // While a change is on its way either may be asked.
            let is_clear =
                |change: &Change| question.sent > change.ended || question.sent < change.began;
            if let Some(change) = ended.filter(|_| changes.iter().all(is_clear)) {
                let since = question.sent - change.ended;
                assert_ne!(
                    **pod, *change.removed,
                    "asked {since:?} after its flows were forgotten"
                );
            }
            continue;
        }
        // Under way when the flow was forgotten: sent before, and not long ago.
        let change = changes.iter().position(|change| {
            question.sent <= change.ended && question.sent + LOST > change.began
        });
        let change = change.unwrap_or_else(|| panic!("lost without a change: {question:?}"));
        let removed = changes[change].removed;
        // A flow's first question has nobody before it.
        assert!(before.is_none_or(|pod| *pod == *removed), "lost by {removed}: {question:?}");
        lost[change] += 1;
    }
    lost
}
