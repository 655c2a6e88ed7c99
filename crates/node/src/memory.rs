//! The memory ceiling: what counts is measured ten times a second, and what has to be given up for
//! it is told to the workers and the gate.
//!
//! The process keeps itself below its limit, for a process that the kernel kills takes all its
//! connections with it. What is given up, in order: to capture new connections (whoever is behind
//! the gate serves them), to take those that come, to take new streams. What is open is never cut.
//!
//! It has a thread of its own: the control thread may work on a large table for longer than it
//! takes to use memory up.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use streamvs_admin::{NodeMetrics, anonymous_bytes};
use streamvs_capture::Gate;
use streamvs_relay::{Pressure, Shed};

use crate::cli::values::MemoryLimit;
use crate::error::Error;

/// Between two measurements. The steps are a twentieth of the limit apart, so that what is used up
/// meanwhile skips one only at half the limit a second.
const SAMPLE: Duration = Duration::from_millis(100);

/// How often the limits of the process's groups are looked up, which may change while it runs.
const REFRESH: Duration = Duration::from_secs(5);

/// The least time between two changes for the better, so that nothing flaps with what is freed and
/// used again within a moment.
const CALM: Duration = Duration::from_secs(1);

/// For each step of [`Shed`], the percentage of the limit at which it begins, and the one below
/// which it ends.
const STEPS: [(u64, u64); 3] = [(85, 80), (90, 85), (95, 90)];

/// Where the kernel shows memory groups, and the file with a group's limit.
const VERSION_1: (&str, &str) = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes");
const VERSION_2: (&str, &str) = ("/sys/fs/cgroup", "memory.max");

/// From here on a limit is none: version 1 has one of nearly 2^63 for groups without.
const NO_LIMIT: u64 = 1 << 60;

/// Keeps the process below `limit` from now on, to its end.
///
/// # Errors
/// There can be no more threads.
pub(crate) fn keep(
    limit: MemoryLimit,
    pressure: Pressure,
    gate: Option<Arc<Gate>>,
    metrics: Arc<NodeMetrics>,
) -> Result<(), Error> {
    if limit == MemoryLimit::None {
        return Ok(());
    }
    let keeper = Keeper { limit, pressure, gate, metrics };
    // Ends with the process: it holds nothing that would have to be put in order.
    let thread = thread::Builder::new().name("memory".to_owned());
    thread.spawn(move || keeper.run()).map(drop).map_err(Error::Runtime)
}

struct Keeper {
    limit: MemoryLimit,
    pressure: Pressure,
    gate: Option<Arc<Gate>>,
    metrics: Arc<NodeMetrics>,
}

impl Keeper {
    fn run(self) {
        let start = Instant::now();
        let (mut ceiling, mut limit, mut refresh) = (Ceiling::new(start), Limit::default(), start);
        loop {
            let now = Instant::now();
            if now >= refresh {
                // Where it cannot be read, as when there is no descriptor left, it is as before.
                limit = Limit::find(self.limit).unwrap_or(limit);
                refresh = now + REFRESH;
            }
            self.look(&limit, &mut ceiling, now);
            thread::sleep(SAMPLE);
        }
    }

    fn look(&self, limit: &Limit, ceiling: &mut Ceiling, now: Instant) {
        let (Some(own), Some(sockets)) = (anonymous_bytes(), limit.socket_bytes()) else {
            // What cannot be read is not zero: all stays as it is.
            return;
        };
        let counted = own + sockets;
        let before = ceiling.shed;
        let shed = ceiling.measured(counted, limit.bytes, now);
        self.metrics.memory_measured(limit.bytes.unwrap_or(0), counted, shed as usize);
        self.pressure.set(shed);
        if let Some(gate) = &self.gate {
            gate.hold(shed >= Shed::Bypass);
        }
        let limit = limit.bytes;
        if shed > before {
            tracing::warn!(given_up = ?shed, counted, limit, "memory is short");
        } else if shed < before {
            tracing::info!(given_up = ?shed, counted, limit, "memory is less short");
        }
    }
}

/// What is given up, step by step and back.
#[derive(Debug)]
struct Ceiling {
    shed: Shed,
    changed: Instant,
}

impl Ceiling {
    fn new(now: Instant) -> Self {
        Self { shed: Shed::Nothing, changed: now }
    }

    /// So much counts against the limit. Says what is to be given up.
    fn measured(&mut self, counted: u64, limit: Option<u64>, now: Instant) -> Shed {
        let reached = |percent: u64| {
            limit.is_some_and(|limit| {
                u128::from(counted) * 100 >= u128::from(limit) * u128::from(percent)
            })
        };
        let begun = STEPS.iter().take_while(|(begins, _)| reached(*begins)).count();
        let kept = STEPS.iter().take_while(|(_, ends)| reached(*ends)).count();
        let step = self.shed as usize;
        let is_calm = now.saturating_duration_since(self.changed) >= CALM;
        let next = if begun > step {
            begun
        } else if kept < step && is_calm {
            step - 1
        } else {
            step
        };
        if next != step {
            self.shed = Shed::ALL[next];
            self.changed = now;
        }
        self.shed
    }
}

/// The limit in force, and what counts besides the process's own memory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Limit {
    /// None: there is none.
    bytes: Option<u64>,
    /// Of the process's group, which is charged for the buffers of its sockets (version 2).
    statistics: Option<PathBuf>,
}

impl Limit {
    fn find(asked: MemoryLimit) -> io::Result<Self> {
        match asked {
            MemoryLimit::None => Ok(Self::default()),
            MemoryLimit::Bytes(bytes) => Ok(Self { bytes: Some(bytes), statistics: None }),
            MemoryLimit::Auto => {
                let groups = fs::read_to_string("/proc/self/cgroup")?;
                of_groups(&groups, VERSION_1, VERSION_2)
            }
        }
    }

    /// None: they cannot be read now.
    fn socket_bytes(&self) -> Option<u64> {
        let Some(path) = &self.statistics else { return Some(0) };
        let text = fs::read_to_string(path).ok()?;
        let sockets = text.lines().find_map(|line| line.strip_prefix("sock ")?.trim().parse().ok());
        Some(sockets.unwrap_or(0))
    }
}

/// The least limit of the group that a process is in and those around it. `groups` is its
/// cgroup(7) file. Of a path that cannot be seen, as in a container that sees only its own group,
/// what can be seen counts.
///
/// # Errors
/// A limit that can be seen cannot be read now.
fn of_groups(groups: &str, version_1: (&str, &str), version_2: (&str, &str)) -> io::Result<Limit> {
    let mut of_version_2 = None;
    for line in groups.lines() {
        let Some((names, path)) = line.split_once(':').and_then(|(_, rest)| rest.split_once(':'))
        else {
            continue;
        };
        if names.split(',').any(|name| name == "memory") {
            return Ok(Limit { bytes: least(version_1, path)?, statistics: None });
        }
        if names.is_empty() {
            of_version_2 = Some(path);
        }
    }
    let Some(path) = of_version_2 else { return Ok(Limit::default()) };
    let statistics = around(version_2.0, path).map(|group| group.join("memory.stat"));
    Ok(Limit {
        bytes: least(version_2, path)?,
        statistics: statistics.into_iter().find(|path| path.is_file()),
    })
}

fn least((root, file): (&str, &str), path: &str) -> io::Result<Option<u64>> {
    let mut least = None;
    for group in around(root, path) {
        match fs::read_to_string(group.join(file)) {
            Ok(text) => {
                let limit = text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT);
                least = [least, limit].into_iter().flatten().min();
            }
            Err(error) if is_short_of_files(&error) => return Err(error),
            // It is not there, or not for us to see.
            Err(_) => {}
        }
    }
    Ok(least)
}

fn is_short_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE | nix::libc::ENOMEM))
}

/// The folders of a group and those around it, from the inside out.
fn around(root: &str, path: &str) -> impl Iterator<Item = PathBuf> {
    let path = Path::new(path.trim_start_matches('/')).to_owned();
    let root = PathBuf::from(root);
    let groups: Vec<PathBuf> = path.ancestors().map(|group| root.join(group)).collect();
    groups.into_iter()
}

#[cfg(test)]
mod tests {
    //! Aim: what is given up follows what is used, in order and without flapping, and limits are
    //! found wherever a kernel or container shows them.

    use super::*;

    #[test]
    fn steps_are_taken_in_order_and_back_one_at_a_time() {
        let start = Instant::now();
        let mut ceiling = Ceiling::new(start);
        for (after, counted, expected) in [
            (100, 84, Shed::Nothing),
            (200, 85, Shed::Bypass),
            // Between the two percentages everything stays as it is.
            (2000, 80, Shed::Bypass),
            (2100, 91, Shed::Connections),
            (2200, 100, Shed::Streams),
            // Far below: one step, and the next only when it has been calm.
            (2300, 10, Shed::Streams),
            (3200, 10, Shed::Connections),
            (3300, 10, Shed::Connections),
            (4200, 10, Shed::Bypass),
            (5200, 79, Shed::Nothing),
            // At once, and by more than one, for the worse.
            (5300, 99, Shed::Streams),
            (6400, 90, Shed::Streams),
            (6500, 89, Shed::Connections),
        ] {
            let now = start + Duration::from_millis(after);
            assert_eq!(ceiling.measured(counted, Some(100), now), expected, "after {after} ms");
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(ceiling.measured(99, None, later), Shed::Bypass, "there is no limit any more");
    }

    #[test]
    fn the_least_limit_around_the_process_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_str().unwrap();
        let put = |group: &str, file: &str, text: &str| {
            let group = folder.path().join(group);
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join(file), text).unwrap();
        };
        let (one, two) = ((root, "memory.limit_in_bytes"), (root, "memory.max"));
        let found = |groups| of_groups(groups, one, two).expect("files can be read");
        assert_eq!(found("0::/pods/agent\n"), Limit::default());

        put("pods/agent", "memory.max", "max\n");
        put("pods/agent", "memory.stat", "anon 1\nsock 4096\nshmem 0\n");
        assert_eq!(found("0::/pods/agent\n").bytes, None);
        put("pods", "memory.max", "300\n");
        assert_eq!(found("0::/pods/agent\n").bytes, Some(300));
        put("pods/agent", "memory.max", "200\n");
        let limit = found("0::/pods/agent\n");
        assert_eq!((limit.bytes, limit.socket_bytes()), (Some(200), Some(4096)));
        fs::remove_file(folder.path().join("pods/agent/memory.stat")).unwrap();
        assert_eq!(limit.socket_bytes(), None, "what cannot be read is not zero");
        put("pods/agent", "memory.stat", "anon 1\nsock 4096\nshmem 0\n");
        // A container that sees only itself is at the root.
        put("", "memory.max", "150\n");
        assert_eq!(found("0::/\n").bytes, Some(150));
        assert_eq!(found("0::/kubepods/of/the/host\n").bytes, Some(150));

        put("old", "memory.limit_in_bytes", "9223372036854771712\n");
        let groups = "12:cpu,cpuacct:/x\n9:memory:/old\n0::/pods/agent\n";
        assert_eq!(found(groups).bytes, None);
        put("old", "memory.limit_in_bytes", "500\n");
        assert_eq!(found(groups).bytes, Some(500));
        assert_eq!(found("no such form\n"), Limit::default());
    }
}
