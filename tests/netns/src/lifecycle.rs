//! Aim: starting, stopping, crashing and tidying up leave an operator nothing to repair.
//! Method: the whole kernel state is read before and after, by the tools an operator would use.

use std::time::{Duration, Instant};

use streamvs_support::Family;
use streamvs_support::agent::{HEALTH_PORT, METRICS_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::Host;
use streamvs_support::wait::eventually;

use crate::scene::{CAPTURES, PODS, Scene, address, grpc_service, needs_node};

/// Everything streamvs may touch, as text. Lines with counters or dates are left out.
fn kernel_state(node: &Host) -> String {
    let mut state = String::new();
    for (program, arguments) in [
        ("iptables-nft-save", &[][..]),
        ("ip6tables-nft-save", &[]),
        ("iptables-legacy-save", &[]),
        ("ip6tables-legacy-save", &[]),
        ("nft", &["-s", "list", "ruleset"]),
        ("ipset", &["save"]),
        ("ip", &["-4", "route", "show", "table", "all"]),
        ("ip", &["-6", "route", "show", "table", "all"]),
        ("ip", &["rule"]),
        ("ip", &["-6", "rule"]),
        ("ip", &["-o", "address"]),
    ] {
        let mut output = node.netns().output(program, arguments);
        if program == "nft" {
            output = sorted_tables(&output);
        }
        let kept = output.lines().filter(|line| !line.starts_with('#') && !line.starts_with(':'));
        state.push_str(&format!("== {program} {arguments:?}\n"));
        for line in kept {
            state.push_str(line);
            state.push('\n');
        }
    }
    state
}

/// The tables of a ruleset in the order of their names: a table that was made anew is the last one.
/// Each gate is a table with a name of its own; they are only counted.
fn sorted_tables(ruleset: &str) -> String {
    let mut tables: Vec<&str> = ruleset.split_inclusive("\n}\n").collect();
    let count = tables.len();
    tables.retain(|table| !table.starts_with("table inet streamvs-gate"));
    let gate_count = count - tables.len();
    tables.sort_unstable();
    format!("{}{gate_count} gates\n", tables.concat())
}

/// The lines that stand in only one of two states.
fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |sign: &str, these: &str, others: &str| -> Vec<String> {
        let missing = these.lines().filter(|line| !others.lines().any(|other| other == *line));
        missing.map(|line| format!("{sign} {line}")).collect()
    };
    let mut difference = only("-", before, after);
    difference.extend(only("+", after, before));
    if difference.is_empty() && before != after {
        difference.push("the same lines in another order or number".to_owned());
    }
    difference
}

#[track_caller]
fn assert_same(before: &str, after: &str, when: &str) {
    let difference = difference(before, after);
    assert!(difference.is_empty(), "{when}: {difference:#?}");
}

#[test]
fn cleanup_leaves_the_node_as_it_was() {
    needs_node!("nft");
    for capture in CAPTURES {
        let scene = Scene::new();
        let node = scene.lab.node();
        // Legacy tables come into being when they are first looked at, and then nobody can delete
        // them: they belong to the kernel's module.
        if capture.contains(&"legacy") {
            for program in ["iptables-legacy", "ip6tables-legacy"] {
                node.netns().output(program, &["-t", "filter", "-S"]);
                node.netns().output(program, &["-t", "nat", "-S"]);
            }
        }
        let before = kernel_state(node);
        let service = grpc_service(Family::V4);
        let _endpoints = scene.grpc(Family::V4, PODS);
        scene.publish(&service, &PODS);

        let mut agent = scene.agent(capture);
        assert!(captures(node), "something is to be removed");
        agent.kill();
        assert!(captures(node), "a crash leaves the rules");
        let output = agent_cleanup(&scene);
        assert!(output.contains("removed"), "{output}");
        assert_same(&before, &kernel_state(node), &format!("{capture:?}: after cleanup"));
        assert_eq!(agent_cleanup(&scene), "nothing to remove\n", "a second one finds nothing");

        let mut agent = scene.agent(capture);
        let status = agent.stop(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", agent.log());
        assert_same(&before, &kernel_state(node), &format!("{capture:?}: after SIGTERM"));
    }
}

fn captures(node: &Host) -> bool {
    let state = kernel_state(node);
    state.contains("STREAMVS-CAPTURE") || state.contains("streamvs-capture")
}

fn agent_cleanup(scene: &Scene) -> String {
    let program = streamvs_support::agent::program();
    let program = program.to_str().expect("the path is text");
    scene.lab.node().netns().output(program, &["cleanup"])
}

#[test]
fn a_second_start_adopts_what_a_crash_left() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let _endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &PODS);
    for capture in CAPTURES {
        let mut agent = scene.agent(capture);
        let rules = kernel_state(scene.lab.node());
        agent.kill();
        drop(agent);
        // The one after the next in this loop finds rules of another kind.
        let mut agent = scene.agent(capture);
        assert_same(&rules, &kernel_state(scene.lab.node()), "no rule twice, none lost");
        let report = Load::unary(address(&service), 1).calls(300).run(scene.client());
        assert!(report.without_failure().spread(&PODS) <= 1);
        agent.kill();
    }
}

#[test]
fn what_others_delete_from_iptables_is_repaired() {
    needs_node!();
    check_repairs(
        "iptables",
        &[
            "iptables -t nat -D PREROUTING 1",
            "iptables -t nat -F STREAMVS-CAPTURE",
            "iptables -t nat -F",
            "iptables -F",
            "ipset flush streamvs4",
        ],
    );
}

#[test]
fn what_others_delete_from_nftables_is_repaired() {
    needs_node!("nft");
    check_repairs(
        "nftables",
        &[
            "nft flush chain ip streamvs-capture nat-prerouting",
            "nft insert rule ip streamvs-capture capture accept",
            "nft flush set ip streamvs-capture streamvs4",
            "nft delete table ip streamvs-capture",
            "nft flush ruleset",
        ],
    );
}

/// Does each damage and waits until everything is as before.
fn check_repairs(capture: &str, damages: &[&str]) {
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let _endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&["--capture", capture, "--iptables-sync-period", "1s"]);
    let node = scene.lab.node();
    let rules = kernel_state(node);
    for damage in damages {
        let words: Vec<&str> = damage.split(' ').collect();
        node.netns().output(words[0], &words[1..]);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let difference = difference(&rules, &kernel_state(node));
            if difference.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "not repaired after {damage}: {difference:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        let report = Load::unary(address(&service), 1).calls(30).run(scene.client());
        report.without_failure();
    }
    // Each did something. An audit may have mended it before we looked.
    let repairs = agent.metric("streamvs_capture_repairs_total", &[]);
    assert!(repairs.is_some_and(|repairs| repairs >= damages.len() as f64), "{repairs:?}");
}

#[test]
fn sigterm_lets_open_calls_finish() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let mut agent = scene.agent(&[]);
    let load = Load::unary(address(&service), 3).calls(2000);
    let running = load.start(scene.client().netns());
    eventually("calls flow", PATIENCE, || endpoints.iter().any(|endpoint| endpoint.calls() > 30));
    let status = agent.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    assert!(agent.log().contains("all connections have ended"), "{}", agent.log());
    // Calls in flight were answered; later ones found no Service, since nobody else serves it.
    drop(running);
}

#[test]
fn bad_manifest_keeps_the_last_good_state_and_says_where() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    let _endpoints = scene.grpc(Family::V4, PODS);
    scene.publish(&service, &PODS);
    let agent = scene.agent(&[]);
    scene.manifests.text("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n");
    eventually("the fault is logged", PATIENCE, || agent.log().contains("broken.yaml"));
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("broken.yaml")).expect("was just there");
    assert!(line.contains("ERROR") && line.contains("line=") && line.contains("reason="), "{line}");
    let report = Load::unary(address(&service), 1).calls(30).run(scene.client());
    report.without_failure();
}

#[test]
fn health_and_metrics_answer_as_kube_proxy_does() {
    needs_node!();
    let scene = Scene::new();
    let agent = scene.agent(&[]);
    for path in ["/healthz", "/livez"] {
        let answer = agent.page(HEALTH_PORT, path).expect("is served");
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.body.contains("\"lastUpdated\""), "{path}: {}", answer.body);
    }
    let page = agent.page(METRICS_PORT, "/metrics").expect("is served");
    for name in ["streamvs_table_generation", "kubeproxy_sync_proxy_rules_duration_seconds"] {
        assert!(page.body.contains(name), "{name}");
    }
    assert!(agent.metric("kubeproxy_proxy_healthz_total", &[("code", "200")]).is_some());
}

#[test]
fn a_service_without_endpoints_is_refused_at_once() {
    needs_node!();
    let scene = Scene::new();
    let service = grpc_service(Family::V4);
    scene.publish(&service, &[]);
    let _agent = scene.agent(&[]);
    for host in [scene.client(), scene.lab.node()] {
        let target = address(&service);
        let refused = || {
            let started = Instant::now();
            let refused = host.netns().run(|| std::net::TcpStream::connect(target));
            let kind = refused.expect_err("refused").kind();
            assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "{}", host.name());
            started.elapsed()
        };
        // The fastest of three, as others may have the machine for a moment.
        let fastest = (0..3).map(|_| refused()).min().expect("three");
        assert!(fastest < Duration::from_millis(900), "without a retransmission");
    }
}
