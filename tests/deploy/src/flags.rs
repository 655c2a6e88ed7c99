//! Aim: no manifest gives the program a flag that it does not have.
//! Method: each overlay's whole command line is given to the program, which writes down what it
//! understood.

use std::process::Command;

use serde_json::Value;
use streamvs_support::agent::program;

use streamvs_test_kube::programs;

use crate::files::{deploy, documents, output, read};

/// A container's arguments as the kubelet expands them.
fn arguments(container: &Value) -> Vec<String> {
    let variables = container["env"].as_array().expect("an environment");
    let expand = |argument: &Value| {
        let mut argument = argument.as_str().expect("text").to_owned();
        for variable in variables {
            if let (Some(name), Some(value)) =
                (variable["name"].as_str(), variable["value"].as_str())
            {
                argument = argument.replace(&format!("$({name})"), value);
            }
        }
        argument
    };
    container["args"].as_array().expect("arguments").iter().map(expand).collect()
}

#[test]
fn every_overlays_command_line_is_understood() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (overlay, health) in [
        ("alongside", "0.0.0.0:10356"),
        ("alongside-labelled", "0.0.0.0:10356"),
        ("replace", "0.0.0.0:10256"),
    ] {
        let path = deploy().join("overlays").join(overlay);
        let rendered = output(Command::new(programs::path("kubectl")).arg("kustomize").arg(path));
        let objects = documents(&rendered);
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet");
        let pod = &daemon_set.expect("a DaemonSet")["spec"]["template"]["spec"];
        let written = folder.path().join(overlay);
        let mut run = Command::new(program());
        run.args(arguments(&pod["containers"][0])).arg("--write-config-to").arg(&written);
        output(&mut run);
        let understood = documents(&read(&written)).remove(0);
        assert_eq!(understood["healthzBindAddress"], health, "{overlay}");
        assert_eq!(understood["oomScoreAdj"], -997, "{overlay}");
    }
}
