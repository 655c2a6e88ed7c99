//! The contract of `/healthz` and `/livez` as a table of histories and the answers after them.

use serde_json::{Value, json};

use super::*;

/// When every history begins.
const START: &str = "2026-01-19T10:32:00Z";

#[derive(Clone, Copy)]
enum Step {
    Queued(Family),
    Applied(Family),
    Node(NodeState),
    /// The clock goes on by this many seconds.
    Wait(u64),
}
use Step::{Applied, Node, Queued, Wait};

fn after(begin: Moment, seconds: u64) -> Moment {
    let passed = Duration::from_secs(seconds);
    Moment { monotonic: begin.monotonic + passed, wall: begin.wall + passed }
}

/// Plays a history and asks both probes at its end.
fn play(node: NodeState, steps: &[Step]) -> [Answer; 2] {
    let start = Moment { monotonic: Instant::now(), wall: START.parse().unwrap() };
    let mut now = start;
    let health = Health::new(DEFAULT_TIMEOUT, node);
    let mut seconds = 0;
    for step in steps {
        match *step {
            Queued(family) => health.queued(family, now),
            Applied(family) => health.applied(family, now),
            Node(node) => health.set_node(node),
            Wait(more) => {
                seconds += more;
                now = after(start, seconds);
            }
        }
    }
    [health.answer(Probe::Healthz, now), health.answer(Probe::Livez, now)]
}

/// `healthz` and `livez` are the expected status codes.
#[track_caller]
fn check(node: NodeState, steps: &[Step], healthz: u16, livez: u16) {
    let [h, l] = play(node, steps);
    assert_eq!((h.status, l.status), (healthz, livez), "{} {}", h.body, l.body);
    for answer in [h, l] {
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        // The body's own `healthy` leaves the node out, as kube-proxy's does.
        assert_eq!(body["healthy"], json!(livez == 200), "{}", answer.body);
    }
}

const V4: Family = Family::V4;
const V6: Family = Family::V6;
const FINE: NodeState = NodeState::Known { deleting: false, to_be_deleted: false };

#[test]
fn start_up_counts_as_healthy() {
    check(FINE, &[], 200, 200);
    check(FINE, &[Wait(1_000_000)], 200, 200);
    check(FINE, &[Queued(V4), Queued(V6), Wait(1_000)], 200, 200);
}

#[test]
fn a_family_with_nothing_queued_is_healthy_however_long_ago_it_was_applied() {
    check(FINE, &[Queued(V4), Applied(V4), Wait(1_000_000)], 200, 200);
}

#[test]
fn an_update_is_late_from_the_timeout_on() {
    check(FINE, &[Applied(V4), Queued(V4), Wait(59)], 200, 200);
    check(FINE, &[Applied(V4), Queued(V4), Wait(60)], 503, 503);
    check(FINE, &[Applied(V4), Queued(V4), Wait(61)], 503, 503);
}

#[test]
fn the_oldest_queued_update_counts() {
    check(FINE, &[Applied(V4), Queued(V4), Wait(40), Queued(V4), Wait(20)], 503, 503);
    let renewed = [Applied(V4), Queued(V4), Wait(40), Applied(V4), Queued(V4), Wait(59)];
    check(FINE, &renewed, 200, 200);
}

#[test]
fn one_late_family_is_enough() {
    let mut steps = vec![Applied(V4), Applied(V6), Queued(V6), Wait(60)];
    check(FINE, &steps, 503, 503);
    steps.extend([Queued(V4), Applied(V4)]);
    check(FINE, &steps, 503, 503);
    steps.push(Applied(V6));
    check(FINE, &steps, 200, 200);
}

#[test]
fn only_healthz_looks_at_the_node() {
    let deleting = NodeState::known(true, []);
    let tainted = NodeState::known(false, ["example.com/other", TO_BE_DELETED_TAINT]);
    let other_taint = NodeState::known(false, ["node.kubernetes.io/unschedulable"]);
    check(deleting, &[Applied(V4)], 503, 200);
    check(tainted, &[Applied(V4)], 503, 200);
    check(other_taint, &[Applied(V4)], 200, 200);
    check(NodeState::Absent, &[Applied(V4)], 503, 200);
    check(NodeState::Untracked, &[Applied(V4)], 200, 200);
    check(NodeState::Absent, &[Node(FINE)], 200, 200);
    check(FINE, &[Node(deleting)], 503, 200);
    check(deleting, &[Applied(V4), Queued(V4), Wait(60)], 503, 503);
}

#[test]
fn a_healthy_body_is_exact_and_says_now() {
    let [healthz, livez] = play(FINE, &[Applied(V4), Wait(5), Applied(V6), Wait(5)]);
    let status = concat!(
        r#""status":{"IPv4":{"lastUpdated":"2026-01-19T10:32:00Z","healthy":true},"#,
        r#""IPv6":{"lastUpdated":"2026-01-19T10:32:05Z","healthy":true}}}"#,
    );
    let times = r#"{"lastUpdated":"2026-01-19T10:32:10Z","currentTime":"2026-01-19T10:32:10Z","#;
    assert_eq!(healthz.body, format!(r#"{times}"nodeEligible":true,"healthy":true,{status}"#));
    assert_eq!(livez.body, format!(r#"{times}"healthy":true,{status}"#));
}

#[test]
fn an_unhealthy_body_says_when_it_was_true_last() {
    let steps = [Applied(V6), Wait(5), Applied(V4), Queued(V6), Wait(61)];
    let [healthz, livez] = play(FINE, &steps);
    let status = concat!(
        r#""status":{"IPv4":{"lastUpdated":"2026-01-19T10:32:05Z","healthy":true},"#,
        r#""IPv6":{"lastUpdated":"2026-01-19T10:32:00Z","healthy":false}}}"#,
    );
    let times = r#"{"lastUpdated":"2026-01-19T10:32:05Z","currentTime":"2026-01-19T10:33:06Z","#;
    assert_eq!(healthz.body, format!(r#"{times}"nodeEligible":true,"healthy":false,{status}"#));
    assert_eq!(livez.body, format!(r#"{times}"healthy":false,{status}"#));
}

#[test]
fn an_ineligible_node_is_told_apart_from_a_late_update() {
    let [healthz, livez] = play(NodeState::Absent, &[Applied(V4), Wait(2)]);
    let times = |last: &str| {
        format!(
            r#"{{"lastUpdated":"2026-01-19T10:32:{last}Z","currentTime":"2026-01-19T10:32:02Z","#
        )
    };
    let status = r#""status":{"IPv4":{"lastUpdated":"2026-01-19T10:32:00Z","healthy":true}}}"#;
    let times_healthz = times("00");
    assert_eq!(
        healthz.body,
        format!(r#"{times_healthz}"nodeEligible":false,"healthy":true,{status}"#)
    );
    assert_eq!(livez.body, format!(r#"{}"healthy":true,{status}"#, times("02")));
}

#[test]
fn what_never_happened_is_gos_zero_time_and_no_family() {
    let [healthz, _] = play(NodeState::Absent, &[]);
    let body: Value = serde_json::from_str(&healthz.body).unwrap();
    assert_eq!(
        body,
        json!({
            "lastUpdated": "0001-01-01T00:00:00Z",
            "currentTime": START,
            "nodeEligible": false,
            "healthy": true,
        })
    );
}

#[test]
fn fractions_of_a_second_are_shown() {
    let now = Moment {
        monotonic: Instant::now(),
        wall: "2026-01-19T10:32:02.137844334Z".parse().unwrap(),
    };
    let health = Health::new(DEFAULT_TIMEOUT, FINE);
    let body = health.answer(Probe::Livez, now).body;
    assert!(body.contains(r#""currentTime":"2026-01-19T10:32:02.137844334Z""#), "{body}");
}

#[test]
fn each_answer_is_counted_once_under_its_probe_and_code() {
    let now = Moment::now();
    let health = Health::new(DEFAULT_TIMEOUT, NodeState::Absent);
    health.answer(Probe::Healthz, now);
    health.answer(Probe::Healthz, now);
    health.set_node(FINE);
    health.answer(Probe::Healthz, now);
    health.answer(Probe::Livez, now);
    assert_eq!(health.healthz.read(), [("200", 1), ("503", 2)]);
    assert_eq!(health.livez.read(), [("200", 1), ("503", 0)]);
}

#[test]
fn a_wall_clock_that_jumps_makes_nothing_late() {
    let start = Moment { monotonic: Instant::now(), wall: START.parse().unwrap() };
    let health = Health::new(DEFAULT_TIMEOUT, FINE);
    health.applied(V4, start);
    health.queued(V4, start);
    let jumped = Moment {
        monotonic: start.monotonic + Duration::from_secs(1),
        wall: start.wall + Duration::from_secs(86_400),
    };
    assert_eq!(health.answer(Probe::Livez, jumped).status, 200);
    assert_eq!(health.times(V4).queued, Some(start.wall));
    assert_eq!(health.times(V6), Times::default());
}
