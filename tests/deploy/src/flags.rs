//! Aim: no manifest gives the program a flag that it does not have.
//! Method: every flag in `deploy/` is looked up in `streamvs run --help`, and each overlay's whole
//! command line is given to the program, which writes down what it understood.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use streamvs_support::agent::program;

use streamvs_test_kube::programs;

use crate::files::{chart, deploy, documents, output, read, yaml_files};

/// Long flags at the beginning of an argument: `- --flag=value`, `value: --flag`.
fn flags_given(text: &str) -> BTreeSet<String> {
    let argument = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("- ").or_else(|| line.strip_prefix("value: "))?;
        let flag: String = line
            .strip_prefix("--")?
            .chars()
            .take_while(|character| character.is_ascii_alphanumeric() || *character == '-')
            .collect();
        Some(format!("--{flag}"))
    };
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(argument).collect()
}

#[test]
fn arguments_are_found_in_lists_and_in_patches() {
    let text = "args:\n  - run\n  - --a-b=1\n  # - --c\n  - op: add\n    value: --d\n";
    assert_eq!(flags_given(text), ["--a-b", "--d"].map(str::to_owned).into());
}

#[test]
fn every_flag_that_is_given_is_one_that_the_program_has() {
    let help = output(Command::new(program()).args(["run", "--help"]));
    let known = |flag: &str| {
        help.split(|character: char| !character.is_ascii_alphanumeric() && character != '-')
            .any(|word| word == flag)
    };
    let mut files = yaml_files(&deploy());
    files.push(chart().join("templates/daemonset.yaml"));
    let mut count = 0;
    for path in files {
        for flag in flags_given(&read(&path)) {
            assert!(known(&flag), "{flag} in {} is no flag of `run`", path.display());
            count += 1;
        }
    }
    assert!(count > 8, "only {count} flags were found");
}

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
