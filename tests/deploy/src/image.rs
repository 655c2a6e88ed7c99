//! Aim: the image is built as the repository is, and has what the agent starts.
//! Method: the Dockerfile's words are held against `rust-toolchain.toml` and the program's imports.
//! No image is built: the machine of the tests has no registry of images.

use std::collections::BTreeSet;
use std::process::Command;

use streamvs_support::agent::program;

use crate::files::{deploy, output, read};

fn dockerfile() -> String {
    read(&deploy().join("Dockerfile"))
}

#[test]
fn it_is_built_by_the_rust_of_the_repository() {
    let toolchain = read(&deploy().join("../rust-toolchain.toml"));
    let (_, version) = toolchain.split_once("channel = \"").expect("a channel");
    let (version, _) = version.split_once('"').expect("it ends");
    // Patch versions do not change what compiles.
    let minor = version.rsplit_once('.').expect("three numbers").0;
    let text = dockerfile();
    assert!(text.contains(&format!("FROM rust:{minor}-")), "{text}");
    assert!(text.contains(&format!("RUSTUP_TOOLCHAIN={minor}\n")), "{text}");
}

#[test]
fn both_stages_are_the_same_debian() {
    let text = dockerfile();
    let stages: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(stages.len(), 2);
    for stage in stages {
        assert!(stage.contains("bookworm"), "{stage}");
    }
}

#[test]
fn it_has_the_programs_that_the_agent_starts() {
    let text = dockerfile();
    let (_, packages) = text.split_once("--no-install-recommends ").expect("packages");
    let packages = packages.split(" &&").next().expect("they end").split_whitespace().collect();
    let needed: BTreeSet<&str> = ["iptables", "ipset", "nftables"].into();
    assert_eq!(needed, packages);
}

#[test]
fn the_program_needs_no_library_that_debian_slim_lacks() {
    let libraries = output(Command::new("ldd").arg(program()));
    for line in libraries.lines() {
        let name = line.split_whitespace().next().expect("a name");
        let file = name.rsplit('/').next().unwrap_or(name);
        let known = ["linux-vdso.so.1", "libc.so.6", "libgcc_s.so.1", "libm.so.6"];
        assert!(known.contains(&file) || file.starts_with("ld-linux"), "{line}");
    }
}
