//! Aim: starting, stopping, crashing and tidying up leave an operator nothing to repair.
//! Method: the whole kernel state is read before and after, by the tools an operator would use.

use std::time::{Duration, Instant};

use streamvs_support::Family;
use streamvs_support::agent::{HEALTH_PORT, METRICS_PORT, PATIENCE};
use streamvs_support::grpc::load::Load;
use streamvs_support::lab::Host;
use streamvs_support::manifest::Service;
use streamvs_support::wait::eventually;

use self::state::{assert_same, difference, furnish, kernel_state};
use crate::scene::{
    CAPTURES, PODS, Scene, address, address_of, dual_stack_grpc_service, grpc_service, needs_node,
};

mod state;

#[test]
fn cleanup_leaves_an_empty_node_as_it_was() {
    needs_node!("nft");
    for capture in CAPTURES {
        let legacy = capture.contains(&"legacy");
        check_cleanup(capture, if legacy { make_legacy_tables } else { |_| {} });
    }
}

/// Legacy tables come into being when they are first looked at, and then nobody can delete them:
/// they belong to the kernel's module.
fn make_legacy_tables(node: &Host) {
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        node.netns().output(program, &["-t", "filter", "-S"]);
        node.netns().output(program, &["-t", "nat", "-S"]);
    }
}

#[test]
fn cleanup_leaves_what_others_keep_on_the_node() {
    needs_node!("nft");
    for capture in CAPTURES.into_iter().chain([REPLACE]) {
        check_cleanup(capture, furnish);
    }
}

const REPLACE: &[&str] = &["--kube-proxy-replacement"];

/// Holds the whole state of a node before the first start against that after a crash and cleanup,
/// and after SIGTERM. Both families are captured, and a Service without endpoints is refused.
fn check_cleanup(flags: &[&str], prepare: fn(&Host)) {
    let scene = Scene::new();
    let node = scene.lab.node();
    prepare(node);
    let before = kernel_state(node);
    let service = dual_stack_grpc_service();
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
    scene.publish(&service, &PODS);
    scene.publish(&Service::new("empty", &Family::BOTH, 12).port("tcp", 80, 80), &[]);

    let mut agent = scene.agent(flags);
    for family in Family::BOTH {
        let load = Load::unary(address_of(&service, family), 1).calls(30);
        load.run(scene.client()).without_failure();
    }
    assert!(captures(node), "something is to be removed");
    agent.kill();
    assert!(captures(node), "a crash leaves the rules");
    let output = agent_cleanup(&scene);
    assert!(output.contains("removed"), "{output}");
    assert_same(&before, &kernel_state(node), &format!("{flags:?}: after cleanup"));
    assert_eq!(agent_cleanup(&scene), "nothing to remove\n", "a second one finds nothing");

    let mut agent = scene.agent(flags);
    let status = agent.stop(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", agent.log());
    if flags == REPLACE {
        // The kernel goes on balancing in place of kube-proxy.
        assert!(!difference(&before, &kernel_state(node)).is_empty());
        agent_cleanup(&scene);
    }
    assert_same(&before, &kernel_state(node), &format!("{flags:?}: after SIGTERM"));
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
    for backend in ["nft", "legacy"] {
        let tables = |rest: &str| format!("iptables-{backend} {rest}");
        let tables6 = |rest: &str| format!("ip6tables-{backend} {rest}");
        check_repairs(
            &["--capture", "iptables", "--iptables-backend", backend],
            &[
                tables("-t nat -D PREROUTING 1"),
                tables6("-t nat -D PREROUTING 1"),
                tables("-t nat -F STREAMVS-CAPTURE"),
                tables6("-t filter -D STREAMVS-INPUT 2"),
                tables("-t nat -F"),
                tables("-F"),
                tables6("-F"),
                "ipset flush streamvs4".to_owned(),
                "ipset flush streamvs6".to_owned(),
                "ip route del 10.96.0.0/16".to_owned(),
                "ip -6 route del fd00:10:96::/112".to_owned(),
            ],
        );
    }
}

#[test]
fn what_others_delete_from_nftables_is_repaired() {
    needs_node!("nft");
    check_repairs(
        &["--capture", "nftables"],
        &[
            "nft flush chain ip streamvs-capture nat-prerouting",
            "nft flush chain ip6 streamvs-capture nat-prerouting",
            "nft insert rule ip streamvs-capture capture accept",
            "nft flush set ip streamvs-capture streamvs4",
            "nft flush set ip6 streamvs-capture streamvs6",
            "nft delete table ip streamvs-capture",
            "nft delete table ip6 streamvs-capture",
            "nft flush ruleset",
            "nft delete table ip streamvs-capture && nft add table ip streamvs-capture && \
             nft add set ip streamvs-capture streamvs4 { type ipv4_addr; }",
            "ip route del 10.96.0.0/16",
            "ip -6 route del fd00:10:96::/112",
        ]
        .map(str::to_owned),
    );
}

/// Does each damage, of one command or several, waits until everything is as before, and asks the Service in both families,
/// from a pod and from the node. The sync period is a second instead of 30, the longest there is; a
/// slow machine has some more.
fn check_repairs(capture: &[&str], damages: &[String]) {
    let scene = Scene::new();
    let service = dual_stack_grpc_service();
    let _endpoints = Family::BOTH.map(|family| scene.grpc(family, PODS));
    scene.publish(&service, &PODS);
    let ranges = ["--service-cidrs", "10.96.0.0/16,fd00:10:96::/112"];
    let agent = scene.agent(&[capture, &["--iptables-sync-period", "1s"], &ranges].concat());
    let node = scene.lab.node();
    let rules = kernel_state(node);
    for damage in damages {
        for command in damage.split(" && ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            node.netns().output(words[0], &words[1..]);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let difference = difference(&rules, &kernel_state(node));
            if difference.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "not repaired after {damage}: {difference:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        for family in Family::BOTH {
            for client in [scene.client(), node] {
                let load = Load::unary(address_of(&service, family), 1).calls(30);
                load.run(client).without_failure();
            }
        }
    }
    // Each did something. An audit may have mended it before we looked.
    let repairs = agent.metric("streamvs_capture_repairs_total", &[]);
    assert!(repairs.is_some_and(|repairs| repairs >= damages.len() as f64), "{repairs:?}");
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
