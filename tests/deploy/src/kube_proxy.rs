//! Aim: whoever starts kube-proxy starts us by the same words.
//! Method: the real kube-proxy says which flags it has and writes its configuration file; the
//! program takes both.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use streamvs_support::agent::program;
use streamvs_test_kube::programs;

use crate::files::{documents, output, read};

/// A flag in the help of kube-proxy: its name, the word for its values (none: a switch), and its
/// default.
#[derive(Debug)]
struct Flag<'h> {
    name: &'h str,
    value: Option<&'h str>,
    default: Option<&'h str>,
}

/// Lines such as `--name duration   What it is. (default 1s)`, with or without a short name.
fn flag(line: &str) -> Option<Flag<'_>> {
    let (_, rest) = line.split_once("--")?;
    if !line.trim_start().starts_with('-') {
        return None;
    }
    let (head, help) = rest.split_once("  ").unwrap_or((rest, ""));
    let (name, value) = match head.split_once([' ', '[']) {
        Some((name, value)) => (name, Some(value)),
        None => (head, None),
    };
    let default = help.rsplit_once("(default ").and_then(|(_, default)| default.strip_suffix(')'));
    Some(Flag { name, value, default })
}

fn flags(help: &str) -> Vec<Flag<'_>> {
    help.lines().filter_map(flag).collect()
}

#[test]
fn flags_are_read_from_the_help() {
    let help = "Flags:\n      --a ip    What. (default 0.0.0.0)\n  -v, --v Level   How much\n      \
                --on         It is on --b\n      --up tristate[=true]   Or not\n  text --c\n";
    let found: Vec<_> =
        flags(help).iter().map(|flag| (flag.name, flag.value, flag.default)).collect();
    let expected = [
        ("a", Some("ip"), Some("0.0.0.0")),
        ("v", Some("Level"), None),
        ("on", None, None),
        ("up", Some("tristate[=true]"), None),
    ];
    assert_eq!(found, expected);
}

/// Flags that do something else than configure.
const OF_A_RUN: [&str; 4] = ["config", "help", "version", "write-config-to"];

#[test]
fn every_flag_of_kube_proxy_is_taken() {
    let help = output(Command::new(programs::path("kube-proxy")).arg("--help"));
    let flags = flags(&help);
    assert!(flags.len() > 50, "{flags:?}");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let written = folder.path().join("written");
    for Flag { name, value, default } in flags {
        if OF_A_RUN.contains(&name) {
            continue;
        }
        // The default, where the help knows it; else nothing, in the words of the type.
        let argument = match (value, default) {
            (None, _) => format!("--{name}"),
            (Some(_), Some(default)) => format!("--{name}={}", default.trim_matches('"')),
            (Some("duration"), None) => format!("--{name}=0s"),
            (Some("int" | "int32" | "float32" | "Level"), None) => format!("--{name}=0"),
            (Some(_), None) => format!("--{name}="),
        };
        let mut run = Command::new(program());
        output(run.args(["run", &argument, "--write-config-to"]).arg(&written));
    }
    let refused = Command::new(program()).args(["run", "--no-such-flag"]).output();
    assert_eq!(refused.expect("streamvs starts").status.code(), Some(2));
}

/// The leaves of a configuration by their fields, without empty ones: not set is written as
/// nothing, null or empty.
fn leaves(place: &str, value: &Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(&format!("{place}.{name}"), value, found);
            }
        }
        Value::Null => {}
        Value::Array(values) if values.is_empty() => {}
        Value::String(text) if text.is_empty() => {}
        _ => {
            found.insert(place.trim_start_matches('.').to_owned(), value.clone());
        }
    }
}

#[test]
fn kube_proxys_own_file_is_read_and_means_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (theirs, ours) = (folder.path().join("theirs"), folder.path().join("ours"));
    output(Command::new(programs::path("kube-proxy")).arg("--write-config-to").arg(&theirs));
    let mut run = Command::new(program());
    run.args(["run", "--config"]).arg(&theirs).arg("--write-config-to").arg(&ours);
    output(&mut run);
    let read_leaves = |path| {
        let mut found = BTreeMap::new();
        leaves("", &documents(&read(path))[0], &mut found);
        found
    };
    let (theirs, ours) = (read_leaves(&theirs), read_leaves(&ours));
    assert!(theirs.len() > 30, "{theirs:?}");
    let other = |field: &String| {
        // Periods of modes that are not in use: it writes 0, and takes what we write.
        let unused = field.starts_with("ipvs.") || field.starts_with("nftables.");
        // Nothing is buffered here.
        unused && field.ends_with("yncPeriod") || field.starts_with("logging.options.")
    };
    for (field, value) in theirs.iter().filter(|(field, _)| !other(field)) {
        assert_eq!(ours.get(field), Some(value), "{field}");
    }
}
