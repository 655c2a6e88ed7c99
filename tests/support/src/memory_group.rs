//! Memory groups (cgroups) of tests: processes that may have so much memory together and no more.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the last ones may take to leave a group: programs that run for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where memory groups are: the files for the limit and for the members.
#[derive(Clone, Copy, Debug)]
struct Layout {
    root: &'static str,
    limit: &'static str,
    /// A file that says how often the limit was met, and the word before the number.
    met: (&'static str, &'static str),
    /// What a process' own list of its groups calls it.
    name: &'static str,
}

const VERSION_1: Layout = Layout {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    met: ("memory.failcnt", ""),
    name: "memory",
};
const VERSION_2: Layout = Layout {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    met: ("memory.events", "max "),
    name: "",
};

/// A group with a limit. When dropped, whoever is in it is put where its makers are.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
    layout: Layout,
    /// The group of this process.
    home: PathBuf,
}

fn find() -> Option<Layout> {
    [VERSION_1, VERSION_2].into_iter().find(|layout| {
        let root = Path::new(layout.root);
        let controllers = std::fs::read_to_string(root.join("cgroup.subtree_control"));
        root.join("memory.limit_in_bytes").is_file()
            || controllers.is_ok_and(|text| text.split_whitespace().any(|word| word == "memory"))
    })
}

impl MemoryGroup {
    /// Makes a group that may have so many octets. Its name begins with `svs-` and this process' id;
    /// `name` tells it from others of this process. None: the kernel lets us make none.
    pub fn create(name: &str, limit: usize) -> Option<Self> {
        let layout = find()?;
        let path = Path::new(layout.root).join(format!("svs-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = groups.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names.split(',').any(|name| name == layout.name).then_some(path)
        });
        let home = Path::new(layout.root).join(own.unwrap_or("/").trim_start_matches('/'));
        let group = Self { path, layout, home };
        std::fs::write(group.path.join(layout.limit), limit.to_string()).ok()?;
        Some(group)
    }

    /// The list of its members: a process that writes its id there joins.
    pub fn members(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Puts a process into it. What the process had before is not counted.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn add(&self, process: u32) {
        std::fs::write(self.members(), process.to_string()).expect("a process can be moved");
    }

    /// How often somebody in it asked for more than there was.
    pub fn met(&self) -> u64 {
        let (file, before) = self.layout.met;
        let text = std::fs::read_to_string(self.path.join(file)).unwrap_or_default();
        let met = text.lines().find_map(|line| line.strip_prefix(before)?.trim().parse().ok());
        met.unwrap_or(0)
    }

    /// How many were killed because there was no memory left.
    pub fn killed(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"].map(|file| self.path.join(file));
        let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        let counts = texts.filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        });
        counts.sum()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let start = Instant::now();
        while std::fs::remove_dir(&self.path).is_err() && start.elapsed() < PATIENCE {
            for member in std::fs::read_to_string(self.members()).unwrap_or_default().lines() {
                // It may have ended.
                let _ = std::fs::write(self.home.join("cgroup.procs"), member);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
