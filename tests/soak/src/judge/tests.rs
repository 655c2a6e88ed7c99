//! Aim: each excuse covers what it says and nothing beside it.
//! Method: one call at a time against one thing that was done, on a clock of whole seconds.

use super::*;
use crate::ledger::Answered;

const A: Incarnation = Incarnation { pod: 'a', count: 1 };
const B: Incarnation = Incarnation { pod: 'b', count: 1 };

const SECOND: Duration = Duration::from_secs(1);

fn broken() -> Why {
    Why::Broken("connection reset".to_owned())
}

/// A call from one second to another, on a connection of its own.
fn failed(kind: Kind, began: u32, ended: u32) -> Failed {
    Failed {
        id: 1,
        kind,
        opened: began * SECOND,
        proven: None,
        peer: None,
        began: began * SECOND,
        ended: ended * SECOND,
        why: broken(),
    }
}

/// Of A, from 100 to 101; until 105 datagrams may be sent there.
fn endpoint_death() -> Happenings {
    let (from, gone, until) = (100 * SECOND, 101 * SECOND, 105 * SECOND);
    let endpoint_deaths = vec![Death { who: A, from, gone, until }];
    Happenings { endpoint_deaths, ..Happenings::default() }
}

fn span() -> Vec<Span> {
    vec![Span { from: 100 * SECOND, until: 101 * SECOND }]
}

/// One failed call that was received by these.
#[track_caller]
fn check(failed: Failed, by: &[Incarnation], happenings: &Happenings, wanted: Verdict) {
    let kind = failed.kind;
    let text = failed.to_string();
    let ledger = Ledger { failed: vec![failed], ..Ledger::default() };
    let records: Vec<_> = by.iter().map(|who| (*who, vec![1])).collect();
    let account = judge(&ledger, &records, happenings);
    assert_eq!(account.count(kind, wanted), 1, "{text}: {account:?}");
    assert_eq!(account.is_clean(), !wanted.is_wrong());
}

#[test]
fn answers_count_once_by_who_received() {
    let answered = |by| Ledger {
        answered: vec![Answered { id: 1, kind: Kind::Unary, by }],
        ..Ledger::default()
    };
    let cases: [(&[Incarnation], Verdict); 5] = [
        (&[A], Verdict::Answered),
        (&[], Verdict::Corrupted),
        (&[B], Verdict::Corrupted),
        (&[A, B], Verdict::Duplicated),
        (&[A, A], Verdict::Duplicated),
    ];
    for (by, wanted) in cases {
        let records: Vec<_> = by.iter().map(|who| (*who, vec![1])).collect();
        let account = judge(&answered(A), &records, &Happenings::default());
        assert_eq!(account.count(Kind::Unary, wanted), 1, "{by:?}: {account:?}");
    }
}

#[test]
fn what_nobody_sent_is_corruption() {
    for id in [DAMAGED, 77] {
        let account = judge(&Ledger::default(), &[(A, vec![id])], &Happenings::default());
        assert_eq!(account.count(Kind::Unary, Verdict::Corrupted), 1, "{id}");
    }
}

#[test]
fn without_a_reason_a_call_is_lost() {
    for kind in Kind::ALL {
        check(failed(kind, 10, 11), &[], &Happenings::default(), Verdict::Lost);
        check(failed(kind, 10, 11), &[B], &endpoint_death(), Verdict::Lost);
    }
}

#[test]
fn a_killed_endpoint_excuses_what_it_held() {
    let killed = endpoint_death();
    for kind in Kind::ALL {
        check(failed(kind, 99, 102), &[A], &killed, Verdict::EndpointKilledHolding);
        // It ended before, or began afterwards, or another one had it.
        check(failed(kind, 98, 99), &[A], &killed, Verdict::Lost);
        check(failed(kind, 106, 107), &[A], &killed, Verdict::Lost);
        check(failed(kind, 96, 102), &[B], &killed, Verdict::Lost);
        let silent = Failed { why: Why::Silent, ..failed(kind, 99, 102) };
        let wanted = match kind {
            Kind::Datagram => Verdict::EndpointKilledHolding,
            _ => Verdict::Lost,
        };
        check(silent, &[A], &killed, wanted);
        // It was tried at another endpoint too.
        check(failed(kind, 99, 102), &[A, B], &killed, Verdict::Duplicated);
    }
}

#[test]
fn a_killed_endpoint_excuses_what_it_had_not_read() {
    let killed = endpoint_death();
    let call = failed(Kind::Session, 99, 102);
    check(call.clone(), &[], &killed, Verdict::EndpointKilledUnread);
    check(failed(Kind::Unary, 98, 99), &[], &killed, Verdict::Lost);
    check(failed(Kind::Unary, 105, 106), &[], &killed, Verdict::Lost);
    for why in [Why::Silent, Why::Refused("connect".to_owned())] {
        check(Failed { why, ..call.clone() }, &[], &killed, Verdict::Lost);
    }
    // A session with somebody else, and one that has talked since.
    let mut other = call.clone();
    (other.peer, other.proven) = (Some(B), Some(98 * SECOND));
    check(other, &[], &killed, Verdict::Lost);
    let mut same = call.clone();
    (same.peer, same.proven) = (Some(A), Some(98 * SECOND));
    check(same.clone(), &[], &killed, Verdict::EndpointKilledUnread);
    // An idle session learns of it when it speaks.
    (same.began, same.ended) = (110 * SECOND, 110 * SECOND);
    check(same.clone(), &[], &killed, Verdict::EndpointKilledUnread);
    same.proven = Some(105 * SECOND);
    check(same, &[], &killed, Verdict::Lost);
}

#[test]
fn a_killed_agent_excuses_the_connections_it_had() {
    let killed = Happenings { agent_deaths: span(), ..Happenings::default() };
    for by in [&[][..], &[A]] {
        check(failed(Kind::Unary, 99, 102), by, &killed, Verdict::AgentKilledHolding);
        check(failed(Kind::Unary, 98, 99), by, &killed, Verdict::Lost);
        // The kernel has taken over by then.
        check(failed(Kind::Connection, 102, 103), by, &killed, Verdict::Lost);
        check(failed(Kind::Datagram, 100, 101), by, &killed, Verdict::Lost);
    }
    let refused =
        Failed { why: Why::Refused("connect".to_owned()), ..failed(Kind::Unary, 100, 101) };
    check(refused, &[], &killed, Verdict::AgentKilledHolding);
    let mut older = failed(Kind::Session, 110, 110);
    (older.opened, older.proven) = (50 * SECOND, Some(99 * SECOND));
    check(older.clone(), &[], &killed, Verdict::AgentKilledHolding);
    // It has survived that.
    older.proven = Some(105 * SECOND);
    check(older, &[], &killed, Verdict::Lost);
}

#[test]
fn the_kernel_leads_uncaptured_connections_to_the_dead() {
    let refused = |began, ended| Failed {
        why: Why::Refused("connect".to_owned()),
        ..failed(Kind::Connection, began, ended)
    };
    let uncaptured = vec![Span { from: 98 * SECOND, until: 102 * SECOND }];
    let killed = Happenings { uncaptured: uncaptured.clone(), ..endpoint_death() };
    check(refused(99, 101), &[], &killed, Verdict::EndpointKilledUnread);
    // It was captured, or given up before the kill; or nobody was killed.
    check(refused(97, 101), &[], &killed, Verdict::Lost);
    check(refused(103, 104), &[], &killed, Verdict::Lost);
    check(refused(98, 99), &[], &killed, Verdict::Lost);
    let alive = Happenings { uncaptured, ..Happenings::default() };
    check(refused(99, 101), &[], &alive, Verdict::Lost);
}

#[test]
fn a_kernel_path_that_is_gone_excuses_datagrams_sent_meanwhile() {
    let gone = Happenings { without_kernel_path: span(), ..Happenings::default() };
    check(failed(Kind::Datagram, 100, 105), &[], &gone, Verdict::WithoutRules);
    check(failed(Kind::Datagram, 102, 107), &[], &gone, Verdict::Lost);
    check(failed(Kind::Datagram, 100, 105), &[A], &gone, Verdict::Lost);
    check(failed(Kind::Connection, 100, 101), &[], &gone, Verdict::Lost);
}

#[test]
fn datagrams_to_the_dead_are_excused_until_nobody_is_sent_there() {
    let killed = endpoint_death();
    check(failed(Kind::Datagram, 104, 109), &[], &killed, Verdict::SentToTheDead);
    check(failed(Kind::Datagram, 106, 109), &[], &killed, Verdict::Lost);
    let mut flow = failed(Kind::Datagram, 104, 109);
    (flow.peer, flow.proven) = (Some(B), Some(90 * SECOND));
    check(flow.clone(), &[], &killed, Verdict::Lost);
    flow.peer = Some(A);
    check(flow.clone(), &[], &killed, Verdict::SentToTheDead);
    // It was sent on from one that had left.
    let mut both = endpoint_death();
    both.departures.push((B, Span { from: 91 * SECOND, until: 92 * SECOND }));
    flow.peer = Some(B);
    check(flow, &[], &both, Verdict::SentToTheDead);
}

#[test]
fn answers_of_an_endpoint_that_leaves_may_be_cut_off() {
    let departures = vec![(A, span()[0])];
    let left = Happenings { departures, ..Happenings::default() };
    check(failed(Kind::Datagram, 100, 105), &[A], &left, Verdict::FlowEnded);
    check(failed(Kind::Datagram, 96, 101), &[A], &left, Verdict::Lost);
    check(failed(Kind::Datagram, 102, 107), &[A], &left, Verdict::Lost);
    check(failed(Kind::Datagram, 100, 105), &[B], &left, Verdict::Lost);
    check(failed(Kind::Datagram, 100, 105), &[], &left, Verdict::Lost);
    check(failed(Kind::Session, 100, 105), &[A], &left, Verdict::Lost);
}

#[test]
fn no_more_datagrams_are_excused_than_were_dropped() {
    let losses = Happenings { losses: span(), datagrams_dropped: 1, ..Happenings::default() };
    let datagram = |id| Failed { id, ..failed(Kind::Datagram, 100, 105) };
    let ledger = Ledger { failed: vec![datagram(1), datagram(2)], ..Ledger::default() };
    let account = judge(&ledger, &[(A, vec![1])], &losses);
    assert_eq!(account.count(Kind::Datagram, Verdict::Dropped), 1);
    assert_eq!(account.count(Kind::Datagram, Verdict::Lost), 1);
    check(failed(Kind::Connection, 100, 105), &[], &losses, Verdict::Lost);
}

#[test]
fn a_wrong_answer_has_no_excuse() {
    let mut call = failed(Kind::Unary, 99, 102);
    call.why = Why::Wrong("an octet".to_owned());
    check(call, &[A], &endpoint_death(), Verdict::Corrupted);
}
