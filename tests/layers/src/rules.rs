//! The rules, and what breaks them.

use crate::graph::{Package, Violation};

/// What each crate may use of ours. `node` wires them all.
const ARROWS: &[(&str, &[&str])] = &[
    ("table", &[]),
    ("detect", &[]),
    ("balance", &["table"]),
    ("resolve", &["table"]),
    ("capture", &["table"]),
    ("nat", &["table"]),
    ("relay", &["table", "balance"]),
    ("admin", &["table", "balance"]),
    ("watch", &["table", "resolve"]),
    ("accept", &["table", "balance", "detect", "relay"]),
    (
        "node",
        &[
            "table", "detect", "balance", "resolve", "capture", "nat", "relay", "admin", "watch",
            "accept",
        ],
    ),
];

/// Who may use a foreign crate outside tests: each gives a power that only its owner shall have.
const OWNERS: &[(&str, &[&str])] = &[
    ("kube", &["watch"]),
    ("rustls", &["watch"]),
    ("tower", &["watch"]),
    ("notify", &["watch"]),
    ("k8s-openapi", &["resolve", "watch"]),
    ("h2", &["relay"]),
    ("netlink-packet-route", &["capture"]),
    ("netlink-packet-netfilter", &["nat"]),
    ("rtnetlink", &["capture"]),
    ("nix", &["capture", "node", "relay"]),
    ("rustix", &["node"]),
    ("caps", &["node"]),
    ("seccompiler", &["node"]),
    ("socket2", &["capture", "relay", "accept", "admin"]),
    ("clap", &["node"]),
    ("crossterm", &["node"]),
    ("tracing-subscriber", &["node"]),
    ("axum", &["admin"]),
    ("prometheus-client", &["admin"]),
];

/// Crates that start nothing, read no clock and write no log.
const PURE: &[&str] = &["table", "balance", "resolve"];

/// What a pure crate cannot be pure with.
const IMPURE: &[&str] = &["tokio", "tracing", "socket2", "nix", "hyper", "h2", "axum"];

/// Every arrow that is not allowed, sorted.
pub(crate) fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut violations: Vec<Violation> = packages.iter().flat_map(check).collect();
    violations.sort();
    violations
}

fn check(package: &Package) -> Vec<Violation> {
    let from = &package.name;
    if package.test {
        // Tests may use all of ours, and any foreign crate.
        return Vec::new();
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| name == from) else {
        return vec![Violation::Unknown { name: from.clone() }];
    };
    let arrows = package
        .ours
        .iter()
        .filter(|to| !allowed.contains(&to.as_str()))
        .map(|to| Violation::Arrow { from: from.clone(), to: to.clone() });
    let owned = package.foreign.iter().filter_map(|to| {
        let (_, owners) = OWNERS.iter().find(|(name, _)| name == to)?;
        let broken = !owners.contains(&from.as_str());
        broken.then(|| Violation::Ownership {
            from: from.clone(),
            to: to.clone(),
            owners: owners.iter().map(|&owner| owner.to_owned()).collect(),
        })
    });
    let impure = package
        .foreign
        .iter()
        .filter(|to| PURE.contains(&from.as_str()) && IMPURE.contains(&to.as_str()))
        .map(|to| Violation::Arrow { from: from.clone(), to: to.clone() });
    arrows.chain(owned).chain(impure).collect()
}

mod tests {
    use super::*;

    fn package(name: &str, ours: &[&str], foreign: &[&str]) -> Package {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Package { name: name.to_owned(), test: false, ours: set(ours), foreign: set(foreign) }
    }

    fn check(packages: &[Package], wanted: &[&str]) {
        let found: Vec<String> = violations(packages).iter().map(Violation::to_string).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_arrows_of_the_design_are_allowed() {
        check(
            &[
                package("relay", &["table", "balance"], &["h2", "socket2", "tokio"]),
                package("watch", &["table", "resolve"], &["notify", "kube"]),
                package("node", &["accept", "capture", "watch"], &["nix", "clap"]),
            ],
            &[],
        );
    }

    #[test]
    fn a_new_arrow_is_found() {
        check(&[package("resolve", &["table", "capture"], &[])], &["resolve may not use capture"]);
        check(&[package("table", &["balance"], &[])], &["table may not use balance"]);
    }

    #[test]
    fn no_crate_uses_the_test_support() {
        check(&[package("relay", &["support"], &[])], &["relay may not use support"]);
    }

    #[test]
    fn a_foreign_crate_in_the_wrong_hands_is_found() {
        check(
            &[package("accept", &[], &["h2", "notify"])],
            &[
                "accept may not use h2: it belongs to relay",
                "accept may not use notify: it belongs to watch",
            ],
        );
    }

    #[test]
    fn a_pure_crate_with_a_runtime_is_found() {
        check(&[package("balance", &["table"], &["tokio"])], &["balance may not use tokio"]);
    }

    #[test]
    fn a_crate_without_a_rule_is_found() {
        check(&[package("sidecar", &[], &[])], &["no rule says what sidecar may use"]);
    }

    #[test]
    fn tests_may_use_everything() {
        let tests = Package { test: true, ..package("netns", &["support", "relay"], &["h2"]) };
        check(&[tests], &[]);
    }

    #[test]
    fn a_chain_of_arrows_never_comes_back() {
        // A cycle would not build, but the list itself should not promise one either.
        let reaches = |from: &str, to: &str| {
            let mut open = vec![from];
            while let Some(name) = open.pop() {
                let (_, next) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name).unwrap();
                if next.contains(&to) {
                    return true;
                }
                open.extend(*next);
            }
            false
        };
        for (name, _) in ARROWS {
            assert!(!reaches(name, name), "{name} reaches itself");
        }
    }
}
