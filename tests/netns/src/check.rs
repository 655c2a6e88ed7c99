//! Aim: `streamvs check` tells a fit node from one that is not, in a line for each thing.
//! Method: each finding is made true and false on a node of namespaces, where that can be done.

use std::net::TcpListener;
use std::process::Output;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::program;
use streamvs_support::lab::{Lab, Shape};

use crate::scene::{PODS, Scene, grpc_service, needs_node};

/// What a check of the node says: each subject's verdict and finding.
struct Checked {
    findings: Value,
    code: Option<i32>,
}

impl Checked {
    fn of(scene: &Scene, flags: &[&str]) -> Self {
        let output = run(scene, &[&["-o", "json"], flags].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let findings = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
        Self { findings, code: output.status.code() }
    }

    /// The verdict on a subject, with what was found.
    fn on(&self, subject: &str) -> (&str, &str) {
        let findings = self.findings.as_array().expect("an array");
        let finding = findings.iter().find(|finding| finding["subject"] == subject);
        let finding = finding.unwrap_or_else(|| panic!("nothing on {subject}: {}", self.findings));
        let verdict = finding["verdict"].as_str().expect("text");
        assert_eq!(verdict == "ok", finding["advice"].is_null(), "{finding}");
        (verdict, finding["found"].as_str().expect("text"))
    }

    #[track_caller]
    fn assert(&self, subject: &str, verdict: &str, word: &str) {
        let (is, found) = self.on(subject);
        assert!(is == verdict && found.contains(word), "{subject}: {is} {found}");
    }
}

fn run(scene: &Scene, flags: &[&str]) -> Output {
    let mut command = scene.lab.node().command(program());
    let socket = scene.folder.path().join("admin.sock");
    command.arg("check").args(flags).arg("--admin-socket").arg(socket);
    // What is on the machine that tests run on does not count.
    command.arg("--cni-conf-dir").arg(scene.folder.path().join("cni"));
    command.output().expect("streamvs starts")
}

#[test]
fn a_fit_node_is_told_so_before_and_while_the_agent_runs() {
    needs_node!("nft");
    for backend in ["nft", "legacy"] {
        let scene = Scene::new();
        let flags = ["--iptables-backend", backend];
        let before = Checked::of(&scene, &flags);
        assert_eq!(before.code, Some(0), "{}", before.findings);
        for subject in ["rules", "client address", "nft owner tables", "conntrack", "bridges"] {
            before.assert(subject, "ok", "");
        }
        before.assert("rule order", "ok", "no rules of ours");
        before.assert("listener port", "ok", "free");
        let output = run(&scene, &flags);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let count = before.findings.as_array().map_or(0, Vec::len);
        assert_eq!(text.lines().count(), count, "{text}");

        scene.publish(&grpc_service(Family::V4), &PODS);
        let _agent = scene.agent(&flags);
        let running = Checked::of(&scene, &flags);
        assert_eq!(running.code, Some(0), "{}", running.findings);
        running.assert("rule order", "ok", "our rules are asked first");
        running.assert("agent", "ok", "answers");
        running.assert("clients seen", "ok", "their own");
        for subject in ["listener port", "health port", "metrics port"] {
            running.assert(subject, "ok", "the agent's");
        }
    }
}

#[test]
fn the_trial_leaves_nothing_behind() {
    needs_node!("nft");
    let scene = Scene::new();
    let state = || {
        let node = scene.lab.node();
        let rules = node.netns().output("nft", &["list", "ruleset"]);
        rules + &node.netns().output("ipset", &["list", "-n"])
    };
    let before = state();
    Checked::of(&scene, &[]);
    assert_eq!(state(), before);
}

#[test]
fn a_port_that_is_taken_is_named_with_who_has_it() {
    needs_node!();
    let scene = Scene::new();
    let holder = scene.lab.node().run(|| TcpListener::bind("0.0.0.0:10256").expect("is free"));
    let checked = Checked::of(&scene, &[]);
    assert_eq!(checked.code, Some(1));
    checked.assert("health port", "fail", &format!("({})", std::process::id()));
    checked.assert("metrics port", "ok", "free");
    drop(holder);
    assert_eq!(Checked::of(&scene, &[]).code, Some(0));
}

#[test]
fn rules_of_others_before_ours_are_found() {
    needs_node!();
    let scene = Scene::new();
    scene.publish(&grpc_service(Family::V4), &PODS);
    let mut agent = scene.agent(&[]);
    // Nobody mends it.
    agent.kill();
    let node = scene.lab.node().netns();
    node.output("iptables", &["-t", "nat", "-N", "KUBE-SERVICES"]);
    node.output("iptables", &["-t", "nat", "-A", "PREROUTING", "-j", "KUBE-SERVICES"]);
    let checked = Checked::of(&scene, &[]);
    checked.assert("rule order", "ok", "first");
    checked.assert("kube-proxy", "ok", "iptables mode");
    node.output("iptables", &["-t", "nat", "-I", "PREROUTING", "-j", "KUBE-SERVICES"]);
    let checked = Checked::of(&scene, &[]);
    assert_eq!(checked.code, Some(1));
    checked.assert("rule order", "fail", "PREROUTING");
}

#[test]
fn other_modes_of_kube_proxy_and_cilium_are_known_by_what_they_leave() {
    needs_node!("nft");
    let scene = Scene::new();
    let node = scene.lab.node().netns();
    let checked = Checked::of(&scene, &[]);
    checked.assert("kube-proxy", "ok", "no rules of it");
    checked.assert("Cilium", "ok", "not here");
    node.ip("link add cilium_host type bridge\nlink add kube-ipvs0 type bridge\n");
    let checked = Checked::of(&scene, &[]);
    checked.assert("Cilium", "warn", "runs here");
    checked.assert("kube-proxy", "ok", "ipvs");
    assert_eq!(checked.code, Some(0), "warnings do not fail");
    node.output("nft", &["add", "table", "ip", "kube-proxy"]);
    node.output("nft", &["add", "chain", "ip", "kube-proxy", "services"]);
    let checked = Checked::of(&scene, &[]);
    checked.assert("kube-proxy", "ok", "nftables");
}

#[test]
fn settings_that_are_tight_are_warned_of() {
    needs_node!();
    let scene = Scene::of(Lab::builder().shape(Shape::Bridge).pods(PODS));
    let node = scene.lab.node();
    let checked = Checked::of(&scene, &[]);
    for subject in ["local ports", "forwarding", "bridges", "meshes"] {
        checked.assert(subject, "ok", "");
    }
    node.sysctl("net.ipv4.ip_local_port_range", "40000 40999");
    node.sysctl("net.ipv4.ip_forward", "0");
    node.sysctl("net.bridge.bridge-nf-call-ip6tables", "0");
    std::fs::create_dir(scene.folder.path().join("cni")).expect("a folder can be made");
    let mesh = scene.folder.path().join("cni/10-mesh.conflist");
    std::fs::write(mesh, "{\"plugins\": [{\"type\": \"istio-cni\"}]}").expect("is written");
    let checked = Checked::of(&scene, &[]);
    checked.assert("local ports", "warn", "1000 ");
    checked.assert("forwarding", "warn", "");
    checked.assert("bridges", "warn", "cni0");
    checked.assert("meshes", "warn", "Istio");
    assert_eq!(checked.code, Some(0));
}

#[test]
fn tools_that_are_missing_are_named() {
    needs_node!("env");
    let scene = Scene::new();
    let empty = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = scene.lab.node().command("env");
    let libraries = format!("XTABLES_LIBDIR={}", empty.path().display());
    command.arg(libraries).arg(program()).args(["check", "-o", "json"]);
    let output = command.output().expect("env starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let findings: Value = serde_json::from_str(&text).expect("is JSON");
    let rules = findings.as_array().expect("an array").iter();
    let failed = |finding: &&Value| finding["subject"] == "rules" && finding["verdict"] == "fail";
    assert_eq!(rules.filter(failed).count(), 1, "{text}");
}

#[test]
fn without_privilege_it_says_what_is_lacking() {
    needs_node!("setpriv");
    let scene = Scene::new();
    let mut command = scene.lab.node().command("setpriv");
    command.args(["--bounding-set=-net_raw,-sys_admin", "--inh-caps=-all"]);
    command.arg(program()).args(["check", "-o", "json"]);
    let output = command.output().expect("setpriv starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("CAP_NET_RAW not there"), "{text}");
    assert!(text.contains("not tried"), "{text}");
}
