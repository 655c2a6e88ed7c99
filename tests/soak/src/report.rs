//! What is printed at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::judge::{Account, Verdict};
use crate::ledger::{Kind, Ledger};
use crate::records::Incarnation;
use crate::schedule::Disturbance;

/// How many calls that went wrong are told in words; all are counted.
const QUOTED: usize = 40;

/// What the executor has to tell.
#[derive(Debug, Default)]
pub(crate) struct Told {
    left_out: Vec<&'static str>,
    failures: Vec<String>,
    done: BTreeMap<&'static str, u64>,
    limit_met: u64,
    memory: Vec<(Duration, u64)>,
}

impl Told {
    /// A kind of disturbance that cannot be done here. Said at once, too.
    pub(crate) fn left_out(&mut self, what: &'static str) {
        println!("soak: LEFT OUT: {what}");
        self.left_out.push(what);
    }

    /// A disturbance was done.
    pub(crate) fn done(&mut self, disturbance: Disturbance) {
        *self.done.entry(name(disturbance)).or_insert(0) += 1;
    }

    /// A disturbance did not end as it should.
    pub(crate) fn failed(&mut self, failure: String) {
        println!("soak: FAILED: {failure}");
        self.failures.push(failure);
    }

    /// So often was there no memory left in the agent's group.
    pub(crate) fn limit_met(&mut self, count: u64) {
        self.limit_met += count;
    }

    /// Octets that the agent held at a time.
    pub(crate) fn memory(&mut self, at: Duration, octets: u64) {
        self.memory.push((at, octets));
    }
}

/// The kind of a disturbance.
fn name(disturbance: Disturbance) -> &'static str {
    match disturbance {
        Disturbance::KillAndRestart { .. } | Disturbance::KillAndReplace { .. } => {
            "endpoints killed"
        }
        Disturbance::Add { .. } => "endpoints added",
        Disturbance::Drain { .. } => "endpoints drained",
        Disturbance::Upgrade => "upgrades of the agent",
        Disturbance::KillAgent { .. } => "agents killed",
        Disturbance::Flush(_) => "rules damaged by others",
        Disturbance::ApiServerGoes | Disturbance::ApiServerReturns => "API server gone or back",
        Disturbance::LossBegins { .. } | Disturbance::LossEnds => "packet loss begun or ended",
        Disturbance::PressureBegins | Disturbance::PressureEnds => "memory pressure begun or ended",
    }
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) minutes: u64,
    pub(crate) length: Duration,
    pub(crate) lateness: Duration,
    pub(crate) ledger: Ledger,
    pub(crate) account: Account,
    pub(crate) told: Told,
    pub(crate) records: Vec<(Incarnation, Vec<u64>)>,
    /// Where what everybody wrote is kept, of a run that was not clean.
    pub(crate) kept: Option<PathBuf>,
}

impl Report {
    /// True when nothing went wrong, and calls of every kind were answered.
    pub(crate) fn is_clean(&self) -> bool {
        let answered = |kind: &Kind| self.account.count(*kind, Verdict::Answered) > 0;
        self.account.is_clean() && self.told.failures.is_empty() && Kind::ALL.iter().all(answered)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for words in self.account.wrong.iter().take(QUOTED) {
            writeln!(f, "{words}")?;
        }
        let more = self.account.wrong.len().saturating_sub(QUOTED);
        if more > 0 {
            writeln!(f, "and {more} more")?;
        }
        for failure in &self.told.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        writeln!(
            f,
            "| what became of them |{}",
            Kind::ALL.map(|kind| format!(" {kind} |")).concat()
        )?;
        writeln!(f, "| --- |{}", " ---: |".repeat(Kind::ALL.len()))?;
        for verdict in Verdict::ALL {
            let counts = Kind::ALL.map(|kind| self.account.count(kind, verdict));
            writeln!(f, "| {verdict} |{}", counts.map(|count| format!(" {count} |")).concat())?;
        }
        writeln!(f)?;
        for (what, count) in &self.told.done {
            writeln!(f, "{what}: {count}")?;
        }
        for what in &self.told.left_out {
            writeln!(f, "LEFT OUT: {what}")?;
        }
        let Ledger { retried, connected, .. } = self.ledger;
        let (processes, met) = (self.records.len(), self.told.limit_met);
        writeln!(f, "connections: {connected}; calls tried again, as untouched: {retried}")?;
        writeln!(f, "endpoint processes: {processes}; times the memory group was full: {met}")?;
        if let (Some((_, first)), Some((_, last))) =
            (self.told.memory.first(), self.told.memory.last())
        {
            let most = self.told.memory.iter().map(|(_, octets)| octets).max().unwrap_or(last);
            let [first, most, last] = [first, most, last].map(|octets| octets >> 20);
            writeln!(f, "agent's memory in MiB: {first} first, {most} at most, {last} last")?;
        }
        writeln!(f, "longest that a thread was kept off the processor: {:.1?}", self.lateness)?;
        if let Some(kept) = &self.kept {
            writeln!(f, "logs and records are kept in {}", kept.display())?;
        }
        let verdict = if self.is_clean() { "clean" } else { "NOT CLEAN" };
        let seconds = self.length.as_secs();
        write!(f, "soak: seed {}, {} minutes ({seconds} s): {verdict}", self.seed, self.minutes)
    }
}
