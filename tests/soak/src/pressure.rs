//! Somebody beside the agent who uses up all the memory there is.
//!
//! Agent and hog share a memory group with a limit. The hog holds most of it and reads a large file
//! again and again, so that the group is always full of the file's pages: whoever needs memory, the
//! agent too, must first take some back. Nobody is to be killed for it: what the file has can
//! always be taken.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// What the hog holds, in MiB.
const HELD: usize = 128;

/// What both may have together, in MiB. What the agent had before is not counted.
const LIMIT: usize = HELD + 64;

/// The file, in MiB. It has no octets on any disk.
const FILE: usize = 4 * LIMIT;

/// How long the last ones may take to leave a group: programs that run for milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two reads of a MiB each: a full turn of the group's memory in half a second, for a
/// twentieth of a processor.
const REST: Duration = Duration::from_millis(5);

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

/// A group with a hog in it.
#[derive(Debug)]
pub(crate) struct Pressure {
    group: PathBuf,
    layout: Layout,
    hog: Child,
    /// The group that agents are in otherwise.
    home: PathBuf,
}

/// True when the kernel lets us make a memory group.
pub(crate) fn is_possible() -> bool {
    find().is_some_and(|layout| {
        let group = group(layout);
        let made = std::fs::create_dir(&group).is_ok();
        made && group.join(layout.limit).is_file() && std::fs::remove_dir(&group).is_ok()
    })
}

fn find() -> Option<Layout> {
    [VERSION_1, VERSION_2].into_iter().find(|layout| {
        let root = Path::new(layout.root);
        let controllers = std::fs::read_to_string(root.join("cgroup.subtree_control"));
        root.join("memory.limit_in_bytes").is_file()
            || controllers.is_ok_and(|text| text.split_whitespace().any(|word| word == "memory"))
    })
}

/// The group that a process is in.
fn home(layout: Layout, process: u32) -> PathBuf {
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    let own = groups.lines().find_map(|line| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        names.split(',').any(|name| name == layout.name).then_some(path)
    });
    Path::new(layout.root).join(own.unwrap_or("/").trim_start_matches('/'))
}

fn group(layout: Layout) -> PathBuf {
    Path::new(layout.root).join(format!("svs-soak-{}", std::process::id()))
}

impl Pressure {
    /// Puts the agent beside a hog. `program` is this program, `folder` has room for the file's name.
    ///
    /// # Panics
    /// When the kernel has no memory groups; see [`is_possible`].
    pub(crate) fn begin(program: &Path, folder: &Path, agent: u32) -> Self {
        let layout = find().expect("the kernel has memory groups");
        let group = group(layout);
        std::fs::create_dir(&group).expect("a memory group can be made");
        write(&group.join(layout.limit), &(LIMIT * MIB).to_string());
        let mut command = Command::new(program);
        command.arg("hog").arg(group.join("cgroup.procs")).arg(folder.join("hog"));
        let hog = command.stdin(Stdio::null()).spawn().expect("a hog starts");
        let pressure = Self { group, layout, hog, home: home(layout, agent) };
        pressure.add(agent);
        pressure
    }

    /// Puts another agent into it.
    pub(crate) fn add(&self, agent: u32) {
        write(&self.group.join("cgroup.procs"), &agent.to_string());
    }

    /// Ends the hog and puts everybody back. Returns how often the limit was met.
    pub(crate) fn end(mut self) -> u64 {
        let (file, before) = self.layout.met;
        let text = std::fs::read_to_string(self.group.join(file)).unwrap_or_default();
        let met = text.lines().find_map(|line| line.strip_prefix(before)?.trim().parse().ok());
        self.stop_hog();
        self.dissolve();
        met.unwrap_or(0)
    }

    fn stop_hog(&mut self) {
        let _ = self.hog.kill();
        let _ = self.hog.wait();
    }

    /// Puts everybody back where the agents came from, and what the agents have started meanwhile.
    fn dissolve(&self) {
        let list = self.group.join("cgroup.procs");
        let start = Instant::now();
        while std::fs::remove_dir(&self.group).is_err() && start.elapsed() < PATIENCE {
            for member in std::fs::read_to_string(&list).unwrap_or_default().lines() {
                // It may have ended.
                let _ = std::fs::write(self.home.join("cgroup.procs"), member);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.stop_hog();
        if self.group.is_dir() {
            self.dissolve();
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The hog: joins a group by its list of members, and uses up its memory until it is killed or its
/// parent has ended.
pub(crate) fn hog(members: &Path, file: &Path) -> ExitCode {
    write(members, &std::process::id().to_string());
    // Not zero, or the kernel would not have to give it.
    let held = vec![1_u8; HELD * MIB];
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(file);
    let file = file.as_mut().expect("a file can be made");
    file.set_len((FILE * MIB) as u64).expect("a file may be large");
    let mut piece = vec![0; MIB];
    let parent = parent_id();
    while parent_id() == parent {
        std::hint::black_box(&held);
        if file.read(&mut piece).expect("a file can be read") == 0 {
            file.rewind().expect("a file can be read again");
        }
        std::thread::sleep(REST);
    }
    ExitCode::FAILURE
}
