//! A run: the node, its clients, everything on the schedule, and the account at the end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;

use crate::clock::{Clock, Lateness};
use crate::damage::By;
use crate::judge::{Death, Happenings, Span, judge};
use crate::load::Running;
use crate::loss::Network;
use crate::node::{self, Node, Setting, tail};
use crate::pressure::{self, Pressure};
use crate::records;
use crate::report::{Report, Told};
use crate::schedule::{Damage, Disturbance, Schedule};

/// What a run is started with.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long disturbances go on.
    #[arg(long, default_value_t = 5)]
    pub(crate) minutes: u64,
    /// What the schedule, the way of capture and the engine come from; drawn by chance if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Print the schedule of the seed and do nothing.
    #[arg(long)]
    pub(crate) only_schedule: bool,
}

/// Between the start of the clients and the first disturbance, and after the last one.
const QUIET: Duration = Duration::from_secs(3);

/// Runs it. True: no call was lost, duplicated or corrupted, and all that was to happen did.
pub(crate) fn run(options: &Options) -> bool {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let length = Duration::from_secs(60 * options.minutes);
    let schedule = Schedule::new(seed, length);
    let setting = setting(seed);
    println!("soak: seed {seed}, {} minutes, {setting}", options.minutes);
    if options.only_schedule {
        for (at, disturbance) in &schedule.steps {
            println!("{:8.1} s  {disturbance}", at.as_secs_f64());
        }
        return true;
    }
    let node = Node::start(&schedule.first, setting);
    let mut executor = Executor::new(node, seed);
    executor.run(&schedule);
    let report = executor.finish(seed, options.minutes);
    println!("{report}");
    report.is_clean()
}

/// Of two ways to capture and two engines, by the seed.
fn setting(seed: u64) -> Setting {
    let mut random = Rng::with_seed(seed.wrapping_add(1));
    let by = if random.bool() { By::Iptables } else { By::Nftables };
    Setting { by, engine: if random.bool() { "switch" } else { "h2" } }
}

/// Does what is on the schedule and writes down when.
struct Executor {
    clock: Clock,
    node: Node,
    lateness: Lateness,
    clients: Running,
    network: Network,
    can_press: bool,
    pressure: Option<Pressure>,
    happenings: Happenings,
    told: Told,
}

impl Executor {
    fn new(node: Node, seed: u64) -> Self {
        let network = Network::new(node.pods());
        let can_press = pressure::is_possible();
        let mut told = Told::default();
        if !network.can_delay() {
            told.left_out("delay of packets: this kernel has no netem");
        }
        if !can_press {
            told.left_out("memory pressure: this kernel or container gives no memory groups");
        }
        let clock = Clock::start();
        let clients = Running::start(node.lab.pod("client"), clock, node.targets(), seed);
        let happenings = Happenings::default();
        let lateness = Lateness::watch();
        Self {
            clock,
            node,
            lateness,
            clients,
            network,
            can_press,
            pressure: None,
            happenings,
            told,
        }
    }

    /// Everything on the schedule; a step that comes too late is done at once. Ends early where one
    /// fails, since the rest would stand on something else than it thinks.
    fn run(&mut self, schedule: &Schedule) {
        self.told.memory(self.clock.now(), self.node.agent.resident_bytes());
        std::thread::sleep(QUIET);
        let start = self.clock.now();
        for (at, disturbance) in &schedule.steps {
            std::thread::sleep((start + *at).saturating_sub(self.clock.now()));
            let began = self.clock.now();
            let answered = self.clients.answered();
            println!("{:8.1} s  {disturbance}  ({answered} answered)", began.as_secs_f64());
            let done = catch_unwind(AssertUnwindSafe(|| self.step(*disturbance)));
            let failure = match done {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(panic) => Some(words(panic.as_ref())),
            };
            self.told.done(*disturbance);
            if let Some(failure) = failure.or_else(|| self.agent_failure()) {
                self.told.failed(format!("{disturbance} at {began:.1?}: {failure}"));
                return;
            }
            self.told.memory(self.clock.now(), self.node.agent.resident_bytes());
        }
    }

    /// Whether the agent has ended, which nobody asked of it.
    fn agent_failure(&mut self) -> Option<String> {
        let status = self.node.agent.ended()?;
        Some(format!("the agent ended with {status}:\n{}", tail(&self.node.agent.log())))
    }

    fn step(&mut self, disturbance: Disturbance) -> Result<(), String> {
        match disturbance {
            Disturbance::KillAndRestart { pod, after } => {
                let (from, who, gone) = self.kill_endpoint(pod);
                std::thread::sleep(after);
                self.node.start_endpoint(pod);
                let until = self.clock.now();
                self.happenings.endpoint_deaths.push(Death { who, from, gone, until });
            }
            Disturbance::KillAndReplace { pod, noticed } => {
                let (from, who, gone) = self.kill_endpoint(pod);
                std::thread::sleep(noticed);
                self.node.write_slices();
                self.node.wait_until_used();
                self.node.wait_until_without_flows(pod);
                let until = self.clock.now();
                self.happenings.endpoint_deaths.push(Death { who, from, gone, until });
                self.add(pod);
            }
            Disturbance::Add { pod } => self.add(pod),
            Disturbance::Drain { pod } => {
                let departure = self.node.drain_endpoint(pod, self.clock)?;
                self.happenings.departures.push(departure);
            }
            Disturbance::Upgrade => {
                let old = self.node.next_agent();
                self.press_agent();
                node::wait_for_handover(old)?;
                self.node.wait_until_healthy();
            }
            Disturbance::KillAgent { away } => {
                self.node.change_client_ports();
                let from = self.clock.now();
                self.node.agent.kill();
                self.happenings.agent_deaths.push(Span { from, until: self.clock.now() });
                std::thread::sleep(away);
                drop(self.node.next_agent());
                self.press_agent();
                self.node.wait_until_healthy();
                self.happenings.uncaptured.push(Span { from, until: self.clock.now() });
            }
            Disturbance::Flush(damage) => return self.flush(damage),
            Disturbance::ApiServerGoes => {
                // What an agent that starts now would not know would be no fault of its.
                self.node.wait_until_kept();
                self.node.cluster.kill_server();
            }
            Disturbance::ApiServerReturns => {
                self.node.cluster.start_server(streamvs_test_kube::cluster::Reach::Lab);
            }
            Disturbance::LossBegins { percent } => {
                let from = self.clock.now();
                self.happenings.losses.push(Span { from, until: Duration::MAX });
                self.network.make_bad(percent);
            }
            Disturbance::LossEnds => {
                self.happenings.datagrams_dropped += self.network.make_good();
                let loss = self.happenings.losses.last_mut().expect("there was a loss");
                loss.until = self.clock.now();
            }
            Disturbance::PressureBegins if self.can_press => {
                let program = std::env::current_exe().expect("this program is a file");
                let (folder, agent) = (self.node.folder(), self.node.agent.id());
                self.pressure = Some(Pressure::begin(&program, folder, agent));
            }
            Disturbance::PressureBegins => {}
            Disturbance::PressureEnds => {
                if let Some(pressure) = self.pressure.take() {
                    self.told.limit_met(pressure.end());
                }
            }
        }
        Ok(())
    }

    fn kill_endpoint(&mut self, pod: char) -> (Duration, records::Incarnation, Duration) {
        let from = self.clock.now();
        let who = self.node.kill_endpoint(pod);
        (from, who, self.clock.now())
    }

    fn add(&mut self, pod: char) {
        self.node.start_endpoint(pod);
        self.node.write_slices();
        self.node.wait_until_used();
    }

    /// An agent that starts under pressure is under it at once.
    fn press_agent(&mut self) {
        if let Some(pressure) = &self.pressure {
            pressure.add(self.node.agent.id());
        }
    }

    fn flush(&mut self, damage: Damage) -> Result<(), String> {
        let from = self.clock.now();
        let mended = damage.inflict(self.node.by(), self.node.lab.node());
        let span = Span { from, until: self.clock.now() };
        match damage {
            Damage::KernelPath => self.happenings.without_kernel_path.push(span),
            Damage::Capture | Damage::Set | Damage::Nat => self.happenings.uncaptured.push(span),
        }
        mended
    }

    /// Ends the clients, and judges.
    fn finish(mut self, seed: u64, minutes: u64) -> Report {
        std::thread::sleep(QUIET);
        // A run that ended early may have left it on.
        if self.happenings.losses.last().is_some_and(|loss| loss.until == Duration::MAX) {
            self.happenings.datagrams_dropped += self.network.make_good();
        }
        let length = self.clock.now();
        let ledger = self.clients.finish();
        self.happenings.lateness = self.lateness.finish();
        let stopped = catch_unwind(AssertUnwindSafe(|| self.node.stop_agent()));
        let stopped = stopped.unwrap_or_else(|panic| Err(words(panic.as_ref())));
        if let Err(failure) = stopped {
            self.told.failed(failure);
        }
        let files: Vec<(records::Incarnation, PathBuf)> = self.node.records();
        let records: Vec<_> =
            files.into_iter().map(|(who, file)| (who, records::read(&file))).collect();
        let account = judge(&ledger, &records, &self.happenings);
        let lateness = self.happenings.lateness;
        let mut report = Report {
            lateness,
            seed,
            minutes,
            length,
            ledger,
            account,
            told: self.told,
            records,
            kept: None,
        };
        if !report.is_clean() {
            report.kept = Some(self.node.keep());
        }
        report
    }
}

/// What a panic says.
fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
