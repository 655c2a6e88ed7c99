//! Somebody beside the agent who uses up all the memory there is.
//!
//! Agent and hog share a memory group with a limit. The hog holds most of it and reads a large file
//! again and again, so that the group is always full of the file's pages: whoever needs memory, the
//! agent too, must first take some back. Nobody is to be killed for it: what the file has can
//! always be taken.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use streamvs_support::memory_group::MemoryGroup;

const MIB: usize = 1 << 20;

/// What the hog holds, in MiB.
const HELD: usize = 128;

/// What both may have together, in MiB. What the agent had before is not counted.
const LIMIT: usize = HELD + 64;

/// The file, in MiB. It has no octets on any disk.
const FILE: usize = 4 * LIMIT;

/// Between two reads of a MiB each: a full turn of the group's memory in half a second, for a
/// twentieth of a processor.
const REST: Duration = Duration::from_millis(5);

/// A group with a hog in it.
#[derive(Debug)]
pub(crate) struct Pressure {
    hog: Child,
    group: MemoryGroup,
}

/// True when the kernel lets us make a memory group.
pub(crate) fn is_possible() -> bool {
    group().is_some()
}

fn group() -> Option<MemoryGroup> {
    MemoryGroup::create("soak", LIMIT * MIB)
}

impl Pressure {
    /// Puts the agent beside a hog. `program` is this program, `folder` has room for the file's name.
    ///
    /// # Panics
    /// When the kernel has no memory groups; see [`is_possible`].
    pub(crate) fn begin(program: &Path, folder: &Path, agent: u32) -> Self {
        let group = group().expect("the kernel has memory groups");
        let mut command = Command::new(program);
        command.arg("hog").arg(group.members()).arg(folder.join("hog"));
        let hog = command.stdin(Stdio::null()).spawn().expect("a hog starts");
        let pressure = Self { hog, group };
        pressure.add(agent);
        pressure
    }

    /// Puts another agent into it.
    pub(crate) fn add(&self, agent: u32) {
        self.group.add(agent);
    }

    /// Ends the hog and puts everybody back. Returns how often the limit was met.
    pub(crate) fn end(self) -> u64 {
        self.group.met()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        let _ = self.hog.kill();
        let _ = self.hog.wait();
    }
}

/// The hog: joins a group by its list of members, and uses up its memory until it is killed or its
/// parent has ended.
pub(crate) fn hog(members: &Path, file: &Path) -> ExitCode {
    std::fs::write(members, std::process::id().to_string()).expect("a group can be joined");
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
