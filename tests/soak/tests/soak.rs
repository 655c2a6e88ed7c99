//! Aim: nothing is lost, duplicated or corrupted, whatever happens to the node.
//! Method: a short run of `scripts/soak`; `STREAMVS_SOAK_MINUTES` and `STREAMVS_SOAK_SEED` name
//! another one.

use std::process::Command;

/// What a run of all tests has time for: everything happens at least once.
const MINUTES: &str = "2";

const SEED: &str = "1";

#[test]
fn every_call_is_accounted_for() {
    streamvs_support::needs!(
        "ip",
        "nsenter",
        "iptables",
        "iptables-save",
        "ip6tables",
        "ipset",
        "nft",
        "conntrack",
        "tc"
    );
    let named = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let minutes = named("STREAMVS_SOAK_MINUTES", MINUTES);
    let seed = named("STREAMVS_SOAK_SEED", SEED);
    let mut command = Command::new(env!("CARGO_BIN_EXE_soak"));
    let status = command.args(["run", "--minutes", &minutes, "--seed", &seed]).status();
    let status = status.expect("soak starts");
    assert!(status.success(), "soak with seed {seed}: {status}; what it printed says why");
}
