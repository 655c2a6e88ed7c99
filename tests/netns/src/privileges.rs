//! Aim: whoever takes over the agent gets little, and who may ask it is decided by the kernel.
//! Method: the kernel's word on every thread in `/proc`, while the agent does all of its work.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use streamvs_support::Family;
use streamvs_support::agent::{Agent, PATIENCE, Source, program};
use streamvs_support::grpc::load::Load;
use streamvs_support::manifest::Service;
use streamvs_support::privilege::find;
use streamvs_support::wait::eventually;

use crate::scene::{
    CAPTURES, GRPC_PORT, PODS, SERVICE_PORT, Scene, address, grpc_service, needs_node,
};

/// `CAP_NET_ADMIN` (12) and `CAP_NET_RAW` (13), as `/proc` writes a set.
const NET_ADMIN_AND_RAW: &str = "0000000000003000";

/// The same and `CAP_DAC_READ_SEARCH` (2).
const AND_READ: &str = "0000000000003004";

/// A user that owns nothing here.
const STRANGER: u32 = 65534;

/// What every thread of the agent has; they all agree, or this panics.
#[track_caller]
fn privileges(agent: &Agent) -> Vec<(String, String)> {
    let wanted = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"];
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.id())).expect("the agent runs");
    let mut of_threads: Vec<Vec<(String, String)>> = tasks
        .map(|task| task.expect("its threads can be read").path().join("status"))
        .map(|status| fs::read_to_string(status).expect("a thread's status can be read"))
        .map(|status| {
            let words = status.lines().filter_map(|line| line.split_once(char::is_whitespace));
            words
                .filter(|(name, _)| wanted.contains(name))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect()
        })
        .collect();
    // At least the control thread and one worker.
    assert!(of_threads.len() >= 2);
    of_threads.sort();
    of_threads.dedup();
    assert_eq!(of_threads.len(), 1, "threads differ: {of_threads:#?}");
    of_threads.remove(0)
}

fn sets(bounded: &str) -> Vec<(String, String)> {
    [
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", bounded),
        ("CapEff:", bounded),
        ("CapBnd:", bounded),
        ("CapAmb:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        // SECCOMP_MODE_FILTER.
        ("Seccomp:", "2"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[test]
fn two_capabilities_are_enough_from_start_to_stop() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let mut agent = scene.agent(&[]);
    assert_eq!(privileges(&agent), sets(NET_ADMIN_AND_RAW));

    // Rules change after that: ipset and iptables run as its children.
    let report = Load::unary(address(&service), 1).calls(30).run(scene.client());
    report.without_failure();
    let later = Service::new("later", &[Family::V4], 12).port("grpc", SERVICE_PORT, GRPC_PORT);
    scene.publish(&later, &PODS);
    scene.wait_until_used(&agent, &later, &PODS);
    eventually("the later Service is captured", PATIENCE, || {
        scene.lab.node().netns().output("ipset", &["save"]).contains(&later.ips()[0].to_string())
    });
    let report = Load::unary(address(&later), 1).calls(30).run(scene.client());
    report.without_failure();
    assert_eq!(privileges(&agent), sets(NET_ADMIN_AND_RAW));

    assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
    let rules = scene.lab.node().netns().output("iptables-save", &[]);
    assert!(!rules.contains("STREAMVS"), "{rules}");
}

#[test]
fn a_container_that_has_no_more_is_enough_too() {
    needs_node!("setpriv");
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    // What deploy/ asks the container runtime for. CAP_SETPCAP is missing from the start.
    let mut command = scene.lab.node().command("setpriv");
    command
        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set=-all,+net_admin,+net_raw"])
        .arg(program());
    let source = Source::Manifests(&scene.manifests);
    let agent = Agent::spawn_by(command, scene.lab.node(), scene.folder.path(), source, &[]);
    let mut agent = agent.wait_until_healthy();
    assert_eq!(privileges(&agent), sets(NET_ADMIN_AND_RAW));
    let report = Load::unary(address(&service), 1).calls(30).run(scene.client());
    assert!(report.without_failure().spread(&PODS) <= 1);
    assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
    let rules = scene.lab.node().netns().output("iptables-save", &[]);
    assert!(!rules.contains("STREAMVS"), "{rules}");
}

/// Makes the file system of a container as deploy/ asks for it, in a mount namespace of its own:
/// `/` and `/proc/sys` can be read, and the agent's folder (for those of its admin socket and
/// state) and the lock of iptables written. `$1` is the folder; the rest becomes the process.
const READ_ONLY: &str = "\
    folder=$1; shift
    touch /run/xtables.lock
    for kept in \"$folder\" /run/xtables.lock; do mount --bind \"$kept\" \"$kept\"; done
    for path in /proc/sys / /run /tmp /var; do
        [ $path = /proc/sys ] && mount --bind $path $path
        if mountpoint -q $path; then mount -o remount,bind,ro $path; fi
    done
    for path in / /etc /root /run /tmp /var /usr; do
        if touch $path/streamvs-probe 2>/dev/null; then echo \"$path can be written\"; exit 9; fi
    done
    exec \"$@\"";

#[test]
fn a_container_whose_root_is_read_only_is_enough() {
    needs_node!("unshare", "setpriv", "mount", "nft");
    for capture in CAPTURES {
        let scene = Scene::new();
        let _endpoints = scene.grpc(Family::V4, PODS);
        let service = grpc_service(Family::V4);
        scene.publish(&service, &PODS);
        let mut command = scene.lab.node().command("unshare");
        command.args(["--mount", "sh", "-ec", READ_ONLY, "sh"]).arg(scene.folder.path());
        command
            .args(["setpriv", "--no-new-privs", "--inh-caps=-all"])
            .arg("--bounding-set=-all,+net_admin,+net_raw")
            .arg(program());
        let source = Source::Manifests(&scene.manifests);
        let flags = [capture, &["--kube-proxy-replacement"]].concat();
        let agent = Agent::spawn_by(command, scene.lab.node(), scene.folder.path(), source, &flags);
        let mut agent = agent.wait_until_healthy();
        let report = Load::unary(address(&service), 1).calls(30).run(scene.client());
        assert!(report.without_failure().spread(&PODS) <= 1);
        assert!(agent.stop(PATIENCE).success(), "{}", agent.log());
        let log = agent.log();
        assert!(!log.contains("Read-only file system"), "{log}");
    }
}

/// Stands in for a tool: tries what no tool needs, says what works, and becomes the tool. AF_PACKET
/// (17) with SOCK_RAW (3) and ETH_P_ALL shows all that passes the node, and CAP_NET_RAW is enough;
/// in a user namespace everybody has all capabilities, and none is needed to make one.
const STAND_IN: &str = "\
    {
        unshare --user true && echo 'a user namespace'
        perl -e 'socket(my $all, 17, 3, 768) or die \"$!\\n\"' && echo 'all packets'
    } >>SEEN 2>&1
    exec TOOL \"$@\"";

#[test]
fn what_the_agent_runs_makes_only_system_calls_that_tools_need() {
    needs_node!("unshare", "perl");
    for (flag, works, refused) in [
        ("--seccomp=true", false, 1.0),
        ("--seccomp=log", true, 0.0),
        ("--seccomp=false", true, 0.0),
    ] {
        let scene = Scene::new();
        let _endpoints = scene.grpc(Family::V4, PODS);
        let service = grpc_service(Family::V4);
        scene.publish(&service, &PODS);
        let folder = scene.folder.path();
        let (tools, seen) = (folder.join("tools"), folder.join("seen"));
        fs::create_dir(&tools).expect("a folder can be made");
        let tool = find("ipset").expect("is there");
        let script = STAND_IN
            .replace("SEEN", &seen.display().to_string())
            .replace("TOOL", &tool.display().to_string());
        fs::write(tools.join("ipset"), format!("#!/bin/sh\n{script}\n")).expect("is written");
        fs::set_permissions(tools.join("ipset"), Permissions::from_mode(0o755)).expect("is ours");
        let path = std::env::var("PATH").expect("is set");
        let mut command = scene.lab.node().command("env");
        command.arg(format!("PATH={}:{path}", tools.display())).arg(program());
        let source = Source::Manifests(&scene.manifests);
        let flags = [flag, "--capture", "iptables"];
        let agent = Agent::spawn_by(command, scene.lab.node(), folder, source, &flags);
        let mut agent = agent.wait_until_healthy();
        Load::unary(address(&service), 1).calls(30).run(scene.client()).without_failure();

        let seen = fs::read_to_string(&seen).expect("the tool was run");
        for what in ["a user namespace", "all packets"] {
            let worked = seen.lines().any(|line| line == what);
            assert_eq!(worked, works, "{flag}, {what}: {seen}");
        }
        assert_eq!(seen.contains("Function not implemented"), !works, "{flag}: {seen}");
        assert_eq!(agent.metric("streamvs_system_calls_refused", &[]), Some(refused), "{flag}");
        assert!(agent.stop(PATIENCE).success(), "{flag}: {}", agent.log());
    }
}

#[test]
fn files_of_another_user_are_still_read() {
    needs_node!();
    let scene = Scene::new();
    let _endpoints = scene.grpc(Family::V4, PODS);
    let service = grpc_service(Family::V4);
    scene.publish(&service, &PODS);
    let folder = scene.manifests.folder();
    chown(folder, Some(STRANGER), Some(STRANGER)).expect("root may give a folder away");
    fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("and close it");
    let agent = scene.agent(&[]);
    assert_eq!(privileges(&agent), sets(AND_READ));
    scene.publish(&service, &PODS[..2]);
    scene.wait_until_used(&agent, &service, &PODS[..2]);
}

#[test]
fn a_stranger_is_not_answered_on_the_admin_socket() {
    needs_node!("setpriv");
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    let socket = agent.socket();
    let mode = socket.metadata().expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Somebody opens it to all.
    fs::set_permissions(socket, Permissions::from_mode(0o666)).expect("root may");
    fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o755)).expect("root may");
    let list = |user: u32| {
        let mut command = scene.lab.node().command("setpriv");
        command
            .args(["--reuid", &user.to_string(), "--clear-groups", "--bounding-set=-all"])
            .arg(program())
            .args(["list", "--admin-socket"])
            .arg(socket);
        command.output().expect("setpriv starts")
    };
    let refused = list(STRANGER);
    assert!(!refused.status.success(), "{}", String::from_utf8_lossy(&refused.stdout));
    assert!(refused.stdout.is_empty());
    eventually("the log says so", PATIENCE, || agent.log().contains("a stranger"));
    assert!(list(0).status.success());
}
