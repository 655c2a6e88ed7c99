//! Aim: what `deploy/` installs is accepted by a real API server, every field of it. Method:
//! `kubectl apply --dry-run=server`, which runs admission and validation, with strict fields.

use std::path::Path;
use std::process::Command;

use streamvs_support::lab::Lab;
use streamvs_support::needs;

use crate::scene::deploy;
use crate::{Cluster, programs};

/// What each way of installing makes, sorted.
const BASE: [&str; 4] = [
    "clusterrole.rbac.authorization.k8s.io/streamvs",
    "clusterrolebinding.rbac.authorization.k8s.io/streamvs",
    "daemonset.apps/streamvs",
    "serviceaccount/streamvs",
];

/// What monitoring adds.
const MONITORING: [&str; 3] = [
    "configmap/streamvs-dashboard",
    "podmonitor.monitoring.coreos.com/streamvs",
    "prometheusrule.monitoring.coreos.com/streamvs",
];

/// Has the server look at manifests; nothing is stored. Returns what it would have made, sorted.
#[track_caller]
fn accepted(cluster: &Cluster, arguments: &[&str], input: &str) -> Vec<String> {
    let mut all = vec!["apply", "--dry-run=server", "--validate=strict"];
    all.extend(arguments);
    let said = cluster.kubectl(&all, input);
    let wanted = " created (server dry run)";
    let mut made: Vec<String> =
        said.lines().filter_map(|line| line.strip_suffix(wanted)).map(str::to_owned).collect();
    assert_eq!(made.len(), said.lines().count(), "{said}");
    made.sort();
    made
}

/// The chart as text, with more of helm's arguments.
pub(crate) fn rendered(more: &[&str]) -> String {
    let mut command = Command::new(programs::path("helm"));
    command.args(["template", "streamvs", &deploy("helm/streamvs"), "--namespace", "kube-system"]);
    let output = command.args(more).output().expect("helm starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("manifests are text")
}

/// An overlay over `alongside` with components, in a new folder.
fn overlay(folder: &Path, components: &[&str]) {
    // Kustomize takes folders by their way from here only.
    let up = "../".repeat(folder.components().count() - 1);
    let way = |path: &str| {
        let path = std::fs::canonicalize(deploy(path)).expect("deploy/ has it");
        format!("{up}{}", path.strip_prefix("/").expect("is absolute").display())
    };
    let components: String = components
        .iter()
        .map(|component| format!("  - {}\n", way(&format!("components/{component}"))))
        .collect();
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         namespace: kube-system\nresources:\n  - {}\ncomponents:\n{components}",
        way("overlays/alongside")
    );
    std::fs::write(folder.join("kustomization.yaml"), text).expect("it can be written");
}

#[test]
fn the_server_accepts_every_way_of_installing() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let cluster = Cluster::start(&lab);
    for overlay in ["alongside", "alongside-labelled", "replace"] {
        let made = accepted(&cluster, &["-k", &deploy(&format!("overlays/{overlay}"))], "");
        assert_eq!(made, BASE, "{overlay}");
    }
    let labelled = deploy("helm/streamvs/values-alongside-labelled.yaml");
    let replace = deploy("helm/streamvs/values-replace.yaml");
    for values in [
        &[][..],
        &["--values", &labelled],
        &["--values", &replace],
        &["--set", "kubeProxyConfigMap=true"],
    ] {
        assert_eq!(accepted(&cluster, &["-f", "-"], &rendered(values)), BASE, "{values:?}");
    }

    let definitions = programs::definitions();
    let definitions = definitions.to_str().expect("the path is text");
    cluster.kubectl(&["apply", "--server-side", "-f", definitions], "");
    cluster.kubectl(&["wait", "--for=condition=Established", "-f", definitions], "");
    let mut all: Vec<&str> = BASE.into_iter().chain(MONITORING).collect();
    all.sort_unstable();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    overlay(folder.path(), &["metrics", "podmonitor", "prometheusrule", "dashboard", "kubeadm"]);
    let folder = folder.path().to_str().expect("the path is text");
    assert_eq!(accepted(&cluster, &["-k", folder], ""), all);
    let set = "metrics.host=0.0.0.0,podMonitor.enabled=true,prometheusRule.enabled=true,\
               dashboard.enabled=true";
    assert_eq!(accepted(&cluster, &["-f", "-"], &rendered(&["--set", set])), all);
}

#[test]
fn the_server_does_look() {
    needs!("ip", "nsenter");
    let lab = Lab::builder().control().build();
    let cluster = Cluster::start(&lab);
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    for (right, wrong, why) in [
        // A field that is none, and a value that only validation on the server knows to be wrong.
        ("hostNetwork: true", "hostNetworks: true", "hostNetworks"),
        ("maxSurge: 10%", "maxSurge: 110%", "maxSurge"),
    ] {
        let chart = rendered(&[]);
        assert!(chart.contains(right), "{right} is in the chart");
        std::fs::write(file.path(), chart.replace(right, wrong)).expect("it can be written");
        let mut command = cluster.kubectl_command();
        command.args(["apply", "--dry-run=server", "--validate=strict", "-f"]).arg(file.path());
        let output = command.output().expect("kubectl starts");
        assert!(!output.status.success(), "{wrong}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why), "{said}");
    }
}
