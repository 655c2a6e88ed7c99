//! What became of each call: the clients' account held against the endpoints' and the executor's.
//!
//! A failed call is excused by what was recorded, and by nothing else:
//!
//! | verdict | when |
//! | --- | --- |
//! | its endpoint was killed holding it | the killed process recorded it, and was killed while it was open |
//! | its endpoint was killed before it read it | no process recorded it, and the killed one was the last to answer on its connection or stream, or none was and it began before the agent could know of the kill |
//! | the same, of a connection that was not made | it was begun while nothing captured it, so that the kernel led it to an endpoint, and one was killed before it was given up; SYN goes where the first one went |
//! | the agent was killed holding it | its connection was begun before the agent was gone, and was not made, or had no answer since |
//! | nobody had rules for it | no process recorded the datagram, and it was sent between the damage to the kernel path and its repair |
//! | its flow ended with its endpoint | the recorded datagram was sent while the endpoint left, and with it the kernel's flow by which the answer would have come |
//! | its datagram went to the dead | no process recorded it, and it was sent between the kill and the moment when nobody was sent there any more |
//! | its datagram was dropped | it was sent while packets were dropped; and there are no more of these than datagrams dropped |
//!
//! Calls on connections must have been told of their end, and a wrong answer has no excuse. That a
//! captured connection is not made has nothing to do with endpoints, since the agent makes it.
//! Everything else is LOST.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use crate::ledger::{Failed, Kind, Ledger, Why};
use crate::records::{DAMAGED, Incarnation};

/// From what happens to the moment when somebody sees it who has to act on it, on a machine that
/// lets everybody run. What it was seen to be late is added.
const UNAWARE: Duration = Duration::from_secs(3);

/// A process that was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) who: Incarnation,
    /// Before the signal was sent.
    pub(crate) from: Duration,
    /// When its parent had its end.
    pub(crate) gone: Duration,
    /// From when on no datagram goes there, or somebody answers in its place.
    pub(crate) until: Duration,
}

/// A time in which something was the case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Span {
    fn has(self, at: Duration) -> bool {
        self.from <= at && at <= self.until
    }
}

/// What was done, as the executor saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happenings {
    pub(crate) endpoint_deaths: Vec<Death>,
    /// From the signal to the end of the process.
    pub(crate) agent_deaths: Vec<Span>,
    /// Endpoints that left in good order: from the change of the slices to the end of their flows.
    pub(crate) departures: Vec<(Incarnation, Span)>,
    /// No kernel path, so that no new flow of datagrams goes anywhere.
    pub(crate) without_kernel_path: Vec<Span>,
    /// From the end of the agent, or the damage to its rules, until there are rules again.
    pub(crate) uncaptured: Vec<Span>,
    pub(crate) losses: Vec<Span>,
    /// By the rule that did it.
    pub(crate) datagrams_dropped: u64,
    /// The longest that a thread was kept off the processor.
    pub(crate) lateness: Duration,
}

impl Happenings {
    fn unaware(&self) -> Duration {
        UNAWARE + self.lateness
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Answered,
    EndpointKilledHolding,
    EndpointKilledUnread,
    AgentKilledHolding,
    WithoutRules,
    FlowEnded,
    SentToTheDead,
    Dropped,
    Lost,
    Duplicated,
    Corrupted,
}

impl Verdict {
    pub(crate) const ALL: [Self; 11] = [
        Self::Answered,
        Self::EndpointKilledHolding,
        Self::EndpointKilledUnread,
        Self::AgentKilledHolding,
        Self::WithoutRules,
        Self::FlowEnded,
        Self::SentToTheDead,
        Self::Dropped,
        Self::Lost,
        Self::Duplicated,
        Self::Corrupted,
    ];

    /// True for what must not be.
    pub(crate) fn is_wrong(self) -> bool {
        matches!(self, Self::Lost | Self::Duplicated | Self::Corrupted)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Answered => "succeeded",
            Self::EndpointKilledHolding => "endpoint killed holding it",
            Self::EndpointKilledUnread => "endpoint killed before reading it",
            Self::AgentKilledHolding => "agent killed holding it",
            Self::WithoutRules => "sent while others had deleted the rules",
            Self::FlowEnded => "its flow ended with its endpoint",
            Self::SentToTheDead => "sent to a dead endpoint",
            Self::Dropped => "dropped as packet loss",
            Self::Lost => "LOST",
            Self::Duplicated => "DUPLICATED",
            Self::Corrupted => "CORRUPTED",
        })
    }
}

/// How many calls of each kind came to what, and the wrong ones in words.
#[derive(Debug, Default)]
pub(crate) struct Account {
    counts: BTreeMap<(Kind, Verdict), u64>,
    pub(crate) wrong: Vec<String>,
}

impl Account {
    pub(crate) fn count(&self, kind: Kind, verdict: Verdict) -> u64 {
        self.counts.get(&(kind, verdict)).copied().unwrap_or(0)
    }

    /// True when no call was lost, duplicated or corrupted.
    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }

    fn add(&mut self, kind: Kind, verdict: Verdict) {
        *self.counts.entry((kind, verdict)).or_insert(0) += 1;
    }

    fn add_wrong(&mut self, kind: Kind, verdict: Verdict, words: String) {
        self.add(kind, verdict);
        self.wrong.push(format!("{verdict}: {words}"));
    }
}

/// Judges every call. `records` is what each endpoint process wrote down.
pub(crate) fn judge(
    ledger: &Ledger,
    records: &[(Incarnation, Vec<u64>)],
    happenings: &Happenings,
) -> Account {
    let mut account = Account::default();
    let mut received: HashMap<u64, Vec<Incarnation>> = HashMap::new();
    for (who, ids) in records {
        for id in ids {
            received.entry(*id).or_default().push(*who);
        }
    }
    if let Some(by) = received.remove(&DAMAGED) {
        for who in by {
            let words = format!("{who} received a damaged message");
            account.add_wrong(Kind::Unary, Verdict::Corrupted, words);
        }
    }

    let mut dropped = 0;
    for answered in &ledger.answered {
        let by = received.remove(&answered.id).unwrap_or_default();
        let (id, kind) = (answered.id, answered.kind);
        if by.len() > 1 {
            account.add_wrong(kind, Verdict::Duplicated, format!("{kind} {id:x} by {by:?}"));
        } else if by.first() != Some(&answered.by) {
            let words = format!("{kind} {id:x} answered by {}, received by {by:?}", answered.by);
            account.add_wrong(kind, Verdict::Corrupted, words);
        } else {
            account.add(kind, Verdict::Answered);
        }
    }
    for failed in &ledger.failed {
        let by = received.remove(&failed.id).unwrap_or_default();
        let verdict = if by.len() > 1 {
            Verdict::Duplicated
        } else {
            of_failed(failed, by.first().copied(), happenings)
        };
        if verdict == Verdict::Dropped {
            dropped += 1;
        }
        if verdict.is_wrong() {
            account.add_wrong(failed.kind, verdict, format!("{failed}; received by {by:?}"));
        } else if verdict == Verdict::Dropped && dropped > happenings.datagrams_dropped {
            let all = happenings.datagrams_dropped;
            let words = format!("{failed}; only {all} datagrams were dropped");
            account.add_wrong(failed.kind, Verdict::Lost, words);
        } else {
            account.add(failed.kind, verdict);
        }
    }
    for (id, by) in received {
        let words = format!("{by:?} received {id:x}, which nobody sent");
        account.add_wrong(Kind::Unary, Verdict::Corrupted, words);
    }
    account
}

fn of_failed(failed: &Failed, by: Option<Incarnation>, happenings: &Happenings) -> Verdict {
    if matches!(failed.why, Why::Wrong(_)) {
        return Verdict::Corrupted;
    }
    let deaths = &happenings.endpoint_deaths;
    let is_held = |death: &&Death| {
        by == Some(death.who) && failed.began <= death.gone && death.from <= failed.ended
    };
    // Whoever waits on a connection is to be told.
    let is_told = failed.why != Why::Silent || !failed.kind.is_connected();
    if is_told && deaths.iter().any(|death| is_held(&death)) {
        return Verdict::EndpointKilledHolding;
    }
    if failed.kind.is_connected() {
        of_connected(failed, by, happenings)
    } else {
        of_datagram(failed, by, happenings)
    }
}

fn of_connected(failed: &Failed, by: Option<Incarnation>, happenings: &Happenings) -> Verdict {
    let Failed { opened, proven, peer, began, ended, .. } = *failed;
    let is_broken = matches!(failed.why, Why::Broken(_));
    let is_refused = matches!(failed.why, Why::Refused(_));
    let unaware = happenings.unaware();
    // An answer may have waited for a client that was off the processor.
    let is_answered_since = |gone: Duration| proven.is_some_and(|proven| proven > gone + unaware);
    let is_unread = |death: &Death| {
        let may_have_it = match peer {
            Some(peer) => peer == death.who,
            // The agent writes to the dead until it knows.
            None => began <= death.gone + unaware,
        };
        by.is_none() && may_have_it && death.from <= ended && !is_answered_since(death.gone)
    };
    let is_led_to =
        |death: &Death| by.is_none() && death.from <= ended && opened <= death.until + unaware;
    let is_uncaptured = happenings.uncaptured.iter().any(|span| span.has(opened));
    // A connection that was begun later has met the kernel path, and no excuse.
    let is_open_at = |death: &Span| {
        opened <= death.until && death.from <= ended && !is_answered_since(death.until)
    };
    let deaths = &happenings.endpoint_deaths;
    if is_broken && deaths.iter().any(is_unread)
        || is_refused && is_uncaptured && deaths.iter().any(is_led_to)
    {
        Verdict::EndpointKilledUnread
    } else if (is_broken || is_refused) && happenings.agent_deaths.iter().any(is_open_at) {
        Verdict::AgentKilledHolding
    } else {
        Verdict::Lost
    }
}

fn of_datagram(failed: &Failed, by: Option<Incarnation>, happenings: &Happenings) -> Verdict {
    let Failed { began, ended, peer, .. } = *failed;
    let unaware = happenings.unaware();
    let sent_within = |span: &Span| {
        Span { from: span.from.saturating_sub(unaware), until: span.until }.has(began)
    };
    // Where the flow of one that is gone leads now, nobody has said yet.
    let is_gone = |peer: Incarnation| {
        let deaths = happenings.endpoint_deaths.iter().map(|death| (death.who, death.from));
        let departures = happenings.departures.iter().map(|(who, span)| (*who, span.from));
        deaths.chain(departures).any(|(who, from)| who == peer && from <= ended)
    };
    let is_to_the_dead = |death: &Death| {
        peer.is_none_or(is_gone) && sent_within(&Span { from: death.from, until: death.until })
    };
    let is_of_departed = |(who, span): &(Incarnation, Span)| by == Some(*who) && sent_within(span);
    if by.is_none() && happenings.endpoint_deaths.iter().any(is_to_the_dead) {
        Verdict::SentToTheDead
    } else if by.is_none() && happenings.without_kernel_path.iter().any(sent_within) {
        Verdict::WithoutRules
    } else if happenings.departures.iter().any(is_of_departed) {
        Verdict::FlowEnded
    } else if happenings.losses.iter().any(sent_within) {
        Verdict::Dropped
    } else {
        Verdict::Lost
    }
}

#[cfg(test)]
mod tests;
