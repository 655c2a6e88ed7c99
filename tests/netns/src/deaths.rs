//! Aim: what the death of the agent costs under load, as a table: killed, stopped, and killed by the
//! kernel because there was no memory left; next to kube-proxy and in its place.
//! Method: new connections without pause and gRPC calls on open ones; what happens at that moment is
//! a figure, what must be over seconds later is asserted. `STREAMVS_DEATHS=1` does all six at up to
//! 2,000 new connections a second, where a run of all tests does one.

use std::io::{ErrorKind, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE, Source, program};
use streamvs_support::figure;
use streamvs_support::grpc::load::Load;
use streamvs_support::memory_group::MemoryGroup;
use streamvs_support::tcp::Speak;
use streamvs_support::wait::eventually;

use crate::gate::{A_WHILE, LEASE, OVER, kube_proxy};
use crate::kernel::REPLACE;
use crate::knocking::{FAST, FASTEST, Knocking};
use crate::scene::{
    GRPC_PORT, PODS, Scene, TCP_PORT, address, grpc_service, needs_node, tcp_service,
};

const MIB: usize = 1 << 20;

/// What the agent and the hog may have together.
const LIMIT: usize = 128 * MIB;

/// How an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Killed,
    Stopped,
    OutOfMemory,
}

/// Who is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    KubeProxy,
    KernelPath,
}

/// Somebody in the agent's memory group who takes ever more.
struct Hog(Child);

impl Hog {
    fn start(group: &MemoryGroup) -> Self {
        // It keeps what comes until a line ends, and none does.
        let script = "echo $$ > \"$0\" && exec tail -n 1";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(group.members());
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().expect("sh starts"))
    }

    /// Takes a MiB more, unless the kernel has killed it too: what the agent had is not free at once.
    fn eat(&mut self) {
        let input = self.0.stdin.as_mut().expect("its input is a pipe");
        let eaten = input.write_all(&vec![b'x'; MIB]);
        assert!(eaten.map_or_else(|error| error.kind() == ErrorKind::BrokenPipe, |()| true));
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the agent, in a memory group or as always.
fn start(scene: &Scene, flags: &[&str], group: Option<&MemoryGroup>) -> Agent {
    let Some(group) = group else { return scene.agent(flags) };
    let mut command = scene.lab.node().command("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(group.members()).arg(program());
    let source = Source::Manifests(&scene.manifests);
    let agent = Agent::spawn_by(command, scene.lab.node(), scene.folder.path(), source, flags);
    eventually("the rules are in place", PATIENCE, || {
        agent.log().contains("capture rules installed")
    });
    agent
}

/// A row of the table.
fn row(death: Death, behind: Behind, all: bool) -> String {
    let group = (death == Death::OutOfMemory).then(|| MemoryGroup::create("oom", LIMIT));
    // One that it cannot make is told by `needs` of the test.
    let group = group.map(|group| group.expect("a memory group can be made"));
    let scene = Scene::new();
    let (plain, echo) = (tcp_service(Family::V4), grpc_service(Family::V4));
    let _tcp = scene.tcp(Family::V4, Speak::Echo, PODS);
    let _grpc = scene.grpc(Family::V4, PODS);
    scene.publish(&plain, &PODS);
    scene.publish(&echo, &PODS);
    let mut flags = LEASE.to_vec();
    match behind {
        Behind::KubeProxy => kube_proxy(&scene, &[(&plain, TCP_PORT), (&echo, GRPC_PORT)]),
        Behind::KernelPath => flags.push(REPLACE),
    }
    if group.is_some() {
        // The kernel is to take the agent, and not the one who takes most.
        flags.push("--oom-score-adj=1000");
    }
    let mut agent = start(&scene, &flags, group.as_ref());
    let calls = Load::unary(address(&echo), 4).start(scene.client());
    calls.advance(100);
    let mut hog = group.as_ref().map(Hog::start);

    let pace = if all { FASTEST } else { FAST };
    let knocking = Knocking::start(scene.client(), address(&plain), pace);
    std::thread::sleep(A_WHILE);
    let failed = calls.failed();
    let began = Instant::now();
    let mut died = began;
    match death {
        Death::Killed => agent.kill(),
        Death::Stopped => agent.signal(Signal::SIGSTOP),
        Death::OutOfMemory => {
            let hog = hog.as_mut().expect("it is in the group");
            let group = group.as_ref().expect("there is one");
            let mut last = died;
            eventually("the kernel kills the agent", PATIENCE, || {
                // It may have been the bite before, and be seen now.
                died = std::mem::replace(&mut last, Instant::now());
                if group.killed() == 0 {
                    hog.eat();
                }
                agent.ended().is_some()
            });
            let by = agent.ended().and_then(|status| status.signal());
            assert_eq!(by, Some(Signal::SIGKILL as i32), "it was the kernel:\n{}", agent.log());
            assert!(group.killed() > 0, "for want of memory");
        }
    }
    std::thread::sleep(OVER + A_WHILE);
    let knocks = knocking.finish();
    let row = knocks.row(died);
    // While memory runs out it dies sooner than it is seen to.
    knocks.fail_only_around(began, died - began + OVER);
    if death == Death::Stopped {
        agent.signal(Signal::SIGCONT);
    } else {
        // Calls go on past it, each on the connection that its client has made since.
        calls.advance(100);
    }
    let calls = calls.stop();
    format!("| {death:?} | {behind:?} | {row} | {} |", calls.failed - failed)
}

#[test]
fn an_agent_that_dies_under_load_is_no_outage() {
    needs_node!("nft", "tail");
    let all = std::env::var_os("STREAMVS_DEATHS").is_some();
    let mut rows = vec![
        "| death of the agent | behind it | new connections a second | refused | for | failed \
         otherwise | late | latest answer | failed calls on 4 connections |"
            .to_owned(),
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |".to_owned(),
    ];
    for behind in [Behind::KubeProxy, Behind::KernelPath] {
        for death in [Death::Killed, Death::Stopped, Death::OutOfMemory] {
            if all || (behind, death) == (Behind::KernelPath, Death::OutOfMemory) {
                rows.push(row(death, behind, all));
            }
        }
    }
    figure::report(&rows.join("\n"));
}
