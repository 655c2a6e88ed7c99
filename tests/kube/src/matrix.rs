//! Aim: each client gets of each Service, by each of its addresses, what it gets of kube-proxy, and
//! endpoints see whom they see there; differences are listed with their reason.
//! Method: all cells, of a pod, the node, an endpoint itself, another node's pod and a host
//! outside, by every kind of address, in both families and by both protocols, for each place of
//! endpoints and each policy, are asked of the real kube-proxy in both of its modes and of the
//! agent by each way to capture, alive and killed. Rules that say what kube-proxy does stand
//! between the two.

mod cell;
mod differences;
mod expected;
mod probe;
mod proxies;
mod services;

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;
use streamvs_support::Family;
use streamvs_support::agent::PATIENCE;
use streamvs_support::figure;
use streamvs_support::manifest::Manifests;
use streamvs_support::wait::eventually;

use self::cell::{Cell, Outcome};
use self::differences::DIFFERENCES;
use self::proxies::{Capture, Mode, Proxy};
use self::services::Nodes;
use crate::Cluster;
use crate::scene::needs_node;

/// Every proxy of the two tests that ask.
fn proxies() -> Vec<Proxy> {
    let of_modes = Mode::ALL
        .into_iter()
        .flat_map(|mode| [Proxy::Kubernetes(mode), Proxy::Beside(mode), Proxy::Behind(mode)]);
    let of_captures = Capture::ALL
        .into_iter()
        .flat_map(|capture| [Proxy::Agent(capture), Proxy::Kernel(capture)]);
    of_modes.chain(of_captures).collect()
}

/// Asks all cells of the proxy that serves them.
#[track_caller]
fn check(nodes: &Nodes, proxy: Proxy) {
    let started = Instant::now();
    let cells: Vec<(Cell, BTreeSet<Outcome>)> =
        Cell::all().into_iter().map(|cell| (cell, differences::wanted(proxy, &cell))).collect();
    let wrong = probe::ask_all(nodes, &cells);
    let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    let (count, cells) = (wrong.len(), cells.len());
    assert!(wrong.is_empty(), "{proxy}: {count} of {cells} cells:\n{}", told.join("\n"));
    let took = started.elapsed().as_secs_f64();
    figure::report(&format!("matrix: {cells} cells of {proxy}: {took:.1} s"));
}

/// Writes what the API server has, as its controllers and kubelets would.
fn publish(cluster: &Cluster, nodes: &Nodes) {
    let objects = nodes.objects();
    let specs: Vec<Value> = objects.iter().map(without_status).collect();
    cluster.apply(&specs);
    let services: Vec<&Value> =
        objects.iter().filter(|object| object["kind"] == "Service").collect();
    cluster.block_on(|api| async move {
        for service in services {
            api.apply_status(service).await.unwrap_or_else(|error| panic!("{service:#}: {error}"));
        }
    });
    cluster.set_node_addresses("node", &Family::BOTH.map(|family| nodes.lab.node().ip(family)));
}

/// The API takes it apart from the rest.
fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().expect("it has fields").remove("status");
    object
}

#[test]
fn kube_proxy_and_the_agent_next_to_it_do_what_is_said_of_them() {
    needs_node!("nft", "conntrack");
    let nodes = Nodes::new();
    let cluster = Cluster::start(&nodes.lab);
    publish(&cluster, &nodes);
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let kubeconfig = cluster.admin_kubeconfig();
    for mode in Mode::ALL {
        // It takes away what the other mode left.
        let _kube_proxy = mode.start(&nodes, &kubeconfig, folder.path());
        eventually("kube-proxy has written its rules", PATIENCE, || {
            let written = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{";
            let metrics = ["-s", "http://127.0.0.1:10249/metrics"];
            let mut asks = nodes.lab.node().command("curl");
            let metrics = asks.args(metrics).output().expect("curl starts").stdout;
            let metrics = String::from_utf8_lossy(&metrics);
            let families = metrics.lines().filter(|line| line.starts_with(written));
            families.filter(|line| !line.ends_with(" 0")).count() == 2
        });
        check(&nodes, Proxy::Kubernetes(mode));
        let mut agent = proxies::start_beside(&nodes, &kubeconfig, folder.path());
        eventually("the rules are in place", PATIENCE, || {
            agent.log().contains("capture rules installed")
        });
        check(&nodes, Proxy::Beside(mode));
        agent.kill();
        check(&nodes, Proxy::Behind(mode));
        let program = streamvs_support::agent::program();
        nodes.lab.node().output(program.to_str().expect("the path is text"), &["cleanup"]);
    }
}

#[test]
fn the_agent_in_place_of_kube_proxy_does_the_same_but_for_what_is_listed() {
    needs_node!("nft", "iptables-nft", "iptables-legacy");
    for capture in Capture::ALL {
        let nodes = Nodes::new();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let manifests = Manifests::new(folder.path().join("manifests"));
        std::fs::create_dir(manifests.folder()).expect("a folder can be made in a new one");
        for (number, object) in nodes.objects().iter().enumerate() {
            manifests.text(&format!("{number}.json"), &object.to_string());
        }
        let mut agent = capture.start(&nodes, &manifests, folder.path());
        check(&nodes, Proxy::Agent(capture));
        agent.kill();
        check(&nodes, Proxy::Kernel(capture));
    }
}

#[test]
fn each_listed_difference_is_one_and_the_page_has_them_all() {
    let (proxies, cells) = (proxies(), Cell::all());
    let mut occurring = vec![false; DIFFERENCES.len()];
    for proxy in proxies {
        for cell in &cells {
            // It panics at a difference that is none.
            differences::wanted(proxy, cell);
            for found in differences::of(proxy, cell) {
                let place = DIFFERENCES.iter().position(|each| std::ptr::eq(each, found));
                occurring[place.expect("it is one of them")] = true;
            }
        }
    }
    for (difference, occurs) in DIFFERENCES.iter().zip(occurring) {
        assert!(occurs, "no cell has this one: {:?}", difference.row);
    }
    let page = include_str!("../../../docs/kube-proxy-differences.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    let listed: Vec<String> =
        DIFFERENCES.iter().map(|each| format!("| {} |", each.row.join(" | "))).collect();
    assert_eq!(rows, listed, "the table of the page");
}
