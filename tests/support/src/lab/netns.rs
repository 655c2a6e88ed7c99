//! A network namespace: made, entered and deleted.

use std::fs::File;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the handles of named namespaces.
pub(super) const FOLDER: &str = "/run/netns";

/// A network namespace. Clones are the same one; the last to go deletes it and ends what runs in it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Owned>);

/// The owner: deletes on drop, so also when a test panics.
#[derive(Debug)]
struct Owned {
    name: String,
}

impl Drop for Owned {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

impl Netns {
    /// Makes a namespace with loopback up and duplicate address detection off.
    ///
    /// # Panics
    /// When it cannot be made, for example without root.
    pub fn create(name: &str) -> Self {
        run(Command::new("ip").args(["netns", "add", name]), None);
        let netns = Self(Arc::new(Owned { name: name.to_owned() }));
        // An IPv6 address that is still tentative would refuse to be bound for a second.
        netns.sysctl("net.ipv6.conf.default.accept_dad", "0");
        netns.sysctl("net.ipv6.conf.all.disable_ipv6", "0");
        netns.ip("link set lo up\n");
        netns
    }

    /// The name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The handle to enter it by.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.0.name)
    }

    /// Runs `work` on a thread of its own inside the namespace and returns what it gave.
    ///
    /// Sockets made there stay in the namespace wherever they go afterwards.
    ///
    /// # Panics
    /// When `work` does, with its own panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let name = thread::current().name().unwrap_or(self.name()).to_owned();
            let worker = thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, || {
                    self.enter();
                    work()
                })
                .expect("a thread can be started");
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// As [`run`](Self::run), without waiting for the end.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let netns = self.clone();
        thread::Builder::new()
            .name(self.name().to_owned())
            .spawn(move || {
                netns.enter();
                work()
            })
            .expect("a thread can be started")
    }

    /// Runs a future inside the namespace, on a runtime and a thread of its own.
    ///
    /// The future is made on that thread, so it need not be `Send`, and it may use
    /// `tokio::task::spawn_local`.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, make: impl FnOnce() -> F + Send) -> T {
        self.run(|| block_on_local(make()))
    }

    /// Moves the calling thread into the namespace for the rest of its life.
    fn enter(&self) {
        let handle = File::open(self.path())
            .unwrap_or_else(|error| panic!("namespace {}: {error}", self.name()));
        setns(handle, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("entering namespace {}: {error}", self.name()));
    }

    /// A command that will run inside the namespace, its process id being the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program to its end inside the namespace and returns its standard output.
    ///
    /// # Panics
    /// When it fails, with what it said.
    #[track_caller]
    pub fn output(&self, program: &str, args: &[&str]) -> String {
        run(self.command(program).args(args), None)
    }

    /// As [`output`](Self::output), with `input` as the program's standard input.
    #[track_caller]
    pub fn feed(&self, program: &str, args: &[&str], input: &str) -> String {
        run(self.command(program).args(args), Some(input))
    }

    /// Runs lines of `ip` commands inside the namespace.
    #[track_caller]
    pub fn ip(&self, lines: &str) {
        run(Command::new("ip").args(["-n", self.name(), "-batch", "-"]), Some(lines));
    }

    /// Sets a kernel parameter of the namespace, given with dots.
    ///
    /// # Panics
    /// When the kernel has no such parameter or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| {
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}"))
        });
    }
}

/// Runs a future that may use `spawn_local` to its end, on a new runtime of one thread.
pub fn block_on_local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Ends every process inside the namespace and deletes it. Quiet: it may be half gone already.
pub(super) fn delete(name: &str) {
    if let Ok(pids) = Command::new("ip").args(["netns", "pids", name]).output() {
        // Only processes someone put into this namespace, which is ours, are in this list; a
        // thread of this very process that is still inside shows as this process: not that one.
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            if let Ok(pid) = pid.parse::<i32>()
                && pid != std::process::id().cast_signed()
            {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot start or fails, with what it said.
#[track_caller]
fn run(command: &mut Command, input: Option<&str>) -> String {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that ends early closes the pipe; its exit status tells why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().expect("a child can be waited for");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        input.unwrap_or_default(),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
