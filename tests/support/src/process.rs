//! A peer nobody here wrote: a child process inside a namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::eventually_some;

/// A running child, both its outputs going to one file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command (made by [`Netns::command`](crate::lab::Netns::command)).
    ///
    /// # Panics
    /// When it does not start or its log cannot be made.
    #[track_caller]
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let also = file.try_clone().expect("a file handle can be doubled");
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// The process id of the program itself.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, once it has one.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended; whoever waits for its end will see that.
        let _ = kill(Pid::from_raw(self.id().cast_signed()), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `deadline`, with its log.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let id = self.id();
        eventually_some(&format!("process {id} ends"), deadline, || self.ended())
    }

    /// Processor time it has used, user and system, as the kernel counted it.
    ///
    /// # Panics
    /// When it has ended.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))
            .expect("a running process has a stat file");
        // Fields 14 and 15, counted after the name in parentheses, in ticks of 10 ms.
        let ticks: u64 = stat
            .rsplit(") ")
            .next()
            .expect("a stat line has a name in parentheses")
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Memory it holds now, without what is swapped out.
    ///
    /// # Panics
    /// When it has ended.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))
            .expect("a running process has a status file");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("a status file has a line with the memory") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
