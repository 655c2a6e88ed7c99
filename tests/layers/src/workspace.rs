//! The workspace as cargo sees it, held against the rules.

use std::path::Path;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::graph::Package;
use crate::rules::violations;

/// What all packages of ours are named after.
const PREFIX: &str = "streamvs-";

fn read() -> Vec<Package> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo can describe the workspace this test was built from");
    packages(&metadata)
}

fn packages(metadata: &Metadata) -> Vec<Package> {
    let root = &metadata.workspace_root;
    let package = |package: &cargo_metadata::Package| {
        let own = |name: &str| name.strip_prefix(PREFIX).map(str::to_owned);
        let used = &package.dependencies;
        Package {
            name: own(&package.name).unwrap_or_else(|| package.name.to_string()),
            test: package.manifest_path.starts_with(root.join("tests")),
            ours: used.iter().filter_map(|dependency| own(&dependency.name)).collect(),
            foreign: used
                .iter()
                .filter(|dependency| dependency.kind != DependencyKind::Development)
                .filter(|dependency| own(&dependency.name).is_none())
                .map(|dependency| dependency.name.clone())
                .collect(),
        }
    };
    metadata.packages.iter().map(package).collect()
}

#[test]
fn no_crate_uses_what_the_rules_do_not_allow() {
    let packages = read();
    let found: Vec<String> =
        violations(&packages).iter().map(|violation| format!("  {violation}")).collect();
    assert!(found.is_empty(), "arrows that no rule allows:\n{}", found.join("\n"));
}

#[test]
fn the_workspace_that_is_read_is_the_real_one() {
    let packages = read();
    let named = |name: &str| packages.iter().find(|package| package.name == name);
    for name in ["table", "balance", "capture", "relay", "accept", "node"] {
        assert!(named(name).is_some_and(|package| !package.test), "{name}");
    }
    assert!(named("support").is_some_and(|package| package.test));
    assert!(named("balance").is_some_and(|package| package.ours.contains("table")));
    assert!(named("relay").is_some_and(|package| package.foreign.contains("h2")));
}
