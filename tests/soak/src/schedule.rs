//! What will be done to the node, when: all of it from a seed, before anything starts.
//!
//! Disturbances are dealt like cards, so that each comes once before any comes twice. Those that
//! last (no API server, lost packets, short memory) go on under the others.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// The pods that may serve, by the letters of their names.
pub(crate) const PODS: [char; 6] = ['a', 'b', 'c', 'd', 'e', 'f'];

/// How many serve at first, and how few or many may later.
const AT_FIRST: usize = 4;
const FEWEST: usize = 3;

/// Between two disturbances, in milliseconds.
const GAP: std::ops::Range<u64> = 1_000..4_000;

/// How long one lasts that lasts, in milliseconds.
const LASTING: std::ops::Range<u64> = 6_000..15_000;

/// What others do to rules.
///
/// Never all at once: without any rule of NAT the kernel neither tracks nor translates what is
/// established, and its memory of a connection that died then sends later ones astray. No record
/// could tell which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Our rules of capture are flushed.
    Capture,
    /// The set of what is captured is emptied.
    Set,
    /// All of NAT is flushed, ours and everybody's, but not the kernel path.
    Nat,
    /// The table of the kernel path is deleted.
    KernelPath,
}

impl Damage {
    const ALL: [Self; 4] = [Self::Capture, Self::Set, Self::Nat, Self::KernelPath];
}

/// One thing that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disturbance {
    /// An endpoint's process is killed; after this long another one serves in the same pod.
    KillAndRestart { pod: char, after: Duration },
    /// The same, but the slices are told first that it is gone, this long after the kill.
    KillAndReplace { pod: char, noticed: Duration },
    /// A pod serves that did not.
    Add { pod: char },
    /// A pod ends as it should: terminating, GOAWAY, gone.
    Drain { pod: char },
    /// The next agent takes over from the running one.
    Upgrade,
    /// The agent is killed; after this long the next one starts.
    KillAgent { away: Duration },
    /// Others change rules of ours.
    Flush(Damage),
    /// The API server is killed.
    ApiServerGoes,
    /// And starts again.
    ApiServerReturns,
    /// Of a hundred packets that reach the client or an endpoint this many are dropped.
    LossBegins { percent: u8 },
    /// No more.
    LossEnds,
    /// Somebody uses up the memory of the group that the agent is put into.
    PressureBegins,
    /// No more.
    PressureEnds,
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillAndRestart { pod, after } => {
                write!(f, "kill -9 of endpoint {pod}, another in its place after {after:?}")
            }
            Self::KillAndReplace { pod, noticed } => {
                write!(f, "kill -9 of endpoint {pod}, slices told after {noticed:?}, then replaced")
            }
            Self::Add { pod } => write!(f, "endpoint {pod} added"),
            Self::Drain { pod } => write!(f, "endpoint {pod} drained and removed"),
            Self::Upgrade => write!(f, "agent upgraded"),
            Self::KillAgent { away } => write!(f, "kill -9 of the agent, the next after {away:?}"),
            Self::Flush(Damage::Capture) => write!(f, "capture rules flushed by others"),
            Self::Flush(Damage::Set) => write!(f, "set of captured pairs emptied by others"),
            Self::Flush(Damage::Nat) => write!(f, "nat rules flushed by others"),
            Self::Flush(Damage::KernelPath) => write!(f, "kernel path's table deleted by others"),
            Self::ApiServerGoes => write!(f, "API server killed"),
            Self::ApiServerReturns => write!(f, "API server back"),
            Self::LossBegins { percent } => write!(f, "{percent} % of packets lost"),
            Self::LossEnds => write!(f, "no packets lost any more"),
            Self::PressureBegins => write!(f, "agent's memory group full"),
            Self::PressureEnds => write!(f, "agent's memory group free again"),
        }
    }
}

/// Everything that will be done, with the earliest time for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// The pods that serve from the start.
    pub(crate) first: Vec<char>,
    pub(crate) steps: Vec<(Duration, Disturbance)>,
}

/// A card: which kind of disturbance comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Card {
    Restart,
    Replace,
    Add,
    Drain,
    Upgrade,
    KillAgent,
    Flush,
    ApiServer,
    Loss,
    Pressure,
}

impl Card {
    const ALL: [Self; 10] = [
        Self::Restart,
        Self::Replace,
        Self::Add,
        Self::Drain,
        Self::Upgrade,
        Self::KillAgent,
        Self::Flush,
        Self::ApiServer,
        Self::Loss,
        Self::Pressure,
    ];
}

impl Schedule {
    /// The one of a seed, for a run of this length. The last of it is left quiet.
    pub(crate) fn new(seed: u64, length: Duration) -> Self {
        Dealer::new(seed).deal(length)
    }
}

/// Knows how the node will be.
struct Dealer {
    random: Rng,
    deck: Vec<Card>,
    damages: Vec<Damage>,
    serving: Vec<char>,
    /// What lasts now, and its end.
    lasting: Vec<(Duration, Disturbance)>,
}

impl Dealer {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut serving = PODS.to_vec();
        random.shuffle(&mut serving);
        serving.truncate(AT_FIRST);
        Self { random, deck: vec![], damages: vec![], serving, lasting: vec![] }
    }

    fn deal(mut self, length: Duration) -> Schedule {
        let first = self.serving.clone();
        let mut steps = Vec::new();
        let mut at = Duration::ZERO;
        loop {
            at += Duration::from_millis(self.random.u64(GAP));
            if at > length {
                break;
            }
            self.lasting.sort_by_key(|(end, _)| *end);
            while let Some((_, end)) = self.lasting.extract_if(.., |(end, _)| *end <= at).next() {
                steps.push((at, end));
            }
            let next = self.next(at);
            steps.push((at, next));
        }
        self.lasting.sort_by_key(|(end, _)| *end);
        steps.extend(self.lasting.into_iter().map(|(_, end)| (length, end)));
        Schedule { first, steps }
    }

    fn next(&mut self, at: Duration) -> Disturbance {
        loop {
            let allowed = self.deck.iter().position(|card| self.is_allowed(*card));
            match allowed {
                Some(place) => {
                    let card = self.deck.remove(place);
                    return self.play(card, at);
                }
                None => {
                    let mut more = Card::ALL;
                    self.random.shuffle(&mut more);
                    self.deck.extend(more);
                }
            }
        }
    }

    /// Nobody can tell anything to an API server that is away; and nothing lasts twice.
    fn is_allowed(&self, card: Card) -> bool {
        let lasts = |end: Disturbance| self.lasting.iter().any(|(_, lasting)| *lasting == end);
        let has_server = !lasts(Disturbance::ApiServerReturns);
        match card {
            Card::Restart | Card::Upgrade | Card::KillAgent | Card::Flush => true,
            Card::Replace => has_server,
            Card::Add => has_server && self.serving.len() < PODS.len(),
            Card::Drain => has_server && self.serving.len() > FEWEST,
            Card::ApiServer => has_server,
            Card::Loss => !lasts(Disturbance::LossEnds),
            Card::Pressure => !lasts(Disturbance::PressureEnds),
        }
    }

    fn play(&mut self, card: Card, at: Duration) -> Disturbance {
        match card {
            Card::Restart => {
                let pod = self.one_that_serves();
                Disturbance::KillAndRestart { pod, after: self.milliseconds(0..1_500) }
            }
            Card::Replace => {
                let pod = self.one_that_serves();
                Disturbance::KillAndReplace { pod, noticed: self.milliseconds(0..1_500) }
            }
            Card::Add => {
                let idle = PODS.into_iter().filter(|pod| !self.serving.contains(pod));
                let pod = self.random.choice(idle.collect::<Vec<_>>()).expect("a pod is idle");
                self.serving.push(pod);
                Disturbance::Add { pod }
            }
            Card::Drain => {
                let pod = self.one_that_serves();
                self.serving.retain(|serving| *serving != pod);
                Disturbance::Drain { pod }
            }
            Card::Upgrade => Disturbance::Upgrade,
            Card::KillAgent => Disturbance::KillAgent { away: self.milliseconds(0..3_000) },
            Card::Flush => {
                if self.damages.is_empty() {
                    self.damages.extend(Damage::ALL);
                    self.random.shuffle(&mut self.damages);
                }
                Disturbance::Flush(self.damages.pop().expect("there are damages"))
            }
            Card::ApiServer => {
                self.last(at, Disturbance::ApiServerReturns);
                Disturbance::ApiServerGoes
            }
            Card::Loss => {
                self.last(at, Disturbance::LossEnds);
                Disturbance::LossBegins { percent: self.random.u8(1..=2) }
            }
            Card::Pressure => {
                self.last(at, Disturbance::PressureEnds);
                Disturbance::PressureBegins
            }
        }
    }

    fn one_that_serves(&mut self) -> char {
        self.random.choice(&self.serving).copied().expect("a pod serves")
    }

    fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    fn last(&mut self, at: Duration, end: Disturbance) {
        let length = self.milliseconds(LASTING);
        self.lasting.push((at + length, end));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::mem::discriminant;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_gives_the_same_schedule_again() {
        assert_eq!(Schedule::new(7, 5 * MINUTE), Schedule::new(7, 5 * MINUTE));
        assert_ne!(Schedule::new(7, 5 * MINUTE), Schedule::new(8, 5 * MINUTE));
    }

    #[test]
    fn a_longer_run_begins_as_a_shorter_one() {
        let (short, long) = (Schedule::new(7, MINUTE), Schedule::new(7, 60 * MINUTE));
        let same = short.steps.iter().filter(|(at, _)| *at < MINUTE).count();
        assert_eq!(short.steps[..same], long.steps[..same]);
    }

    #[test]
    fn two_minutes_have_everything() {
        for seed in 0..50 {
            let schedule = Schedule::new(seed, 2 * MINUTE);
            let kinds = schedule.steps.iter().map(|(_, step)| discriminant(step));
            assert_eq!(kinds.collect::<HashSet<_>>().len(), 13, "{seed}: {schedule:#?}");
        }
    }

    #[test]
    fn the_node_can_do_what_it_is_told() {
        for seed in 0..50 {
            let schedule = Schedule::new(seed, 60 * MINUTE);
            let mut serving: BTreeSet<char> = schedule.first.iter().copied().collect();
            let (mut server, mut loss, mut pressure) = (true, false, false);
            let mut before = Duration::ZERO;
            for (at, step) in schedule.steps {
                assert!(at >= before && at <= 60 * MINUTE, "{seed}: {step} at {at:?}");
                before = at;
                match step {
                    Disturbance::KillAndRestart { pod, .. } => assert!(serving.contains(&pod)),
                    Disturbance::KillAndReplace { pod, .. } => {
                        assert!(server && serving.contains(&pod));
                    }
                    Disturbance::Add { pod } => assert!(server && serving.insert(pod)),
                    Disturbance::Drain { pod } => assert!(server && serving.remove(&pod)),
                    Disturbance::Upgrade | Disturbance::KillAgent { .. } => {}
                    Disturbance::Flush(_) => {}
                    Disturbance::ApiServerGoes => assert!(std::mem::replace(&mut server, false)),
                    Disturbance::ApiServerReturns => assert!(!std::mem::replace(&mut server, true)),
                    Disturbance::LossBegins { .. } => {
                        assert!(!std::mem::replace(&mut loss, true));
                    }
                    Disturbance::LossEnds => assert!(std::mem::replace(&mut loss, false)),
                    Disturbance::PressureBegins => {
                        assert!(!std::mem::replace(&mut pressure, true));
                    }
                    Disturbance::PressureEnds => assert!(std::mem::replace(&mut pressure, false)),
                }
                assert!(serving.len() >= FEWEST, "{seed}");
            }
            assert!(server && !loss && !pressure, "{seed}: all is over at the end");
        }
    }
}
