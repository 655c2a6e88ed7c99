//! Aim: no panel and no alert waits for a metric that does not exist.
//! Method: every name in an expression is looked up in docs/metrics.md, which a test of `admin`
//! holds against the program.

use std::collections::BTreeSet;

use crate::files::{deploy, document, read, root};

/// Names of ours, of kube-proxy's and of the process in PromQL, without a histogram's suffixes.
fn names(expression: &str) -> BTreeSet<String> {
    expression
        .split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| ["streamvs_", "kubeproxy_", "process_"].iter().any(|p| word.starts_with(p)))
        .map(|word| {
            let histogram =
                |suffix| word.strip_suffix(suffix).filter(|name| name.ends_with("_seconds"));
            let name = ["_bucket", "_count", "_sum"].into_iter().find_map(histogram);
            name.unwrap_or(word).to_owned()
        })
        .collect()
}

fn check(text: &str, least: usize) {
    let documented = read(&root().join("docs/metrics.md"));
    let names = names(text);
    assert!(names.len() >= least, "{names:?}");
    for name in names {
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is not in docs/metrics.md");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    check(&read(&deploy().join("components/dashboard/dashboard.json")), 15);
}

#[test]
fn the_alerts_ask_for_metrics_that_exist() {
    let rule = document(&deploy().join("components/prometheusrule/prometheusrule.yaml"));
    let rules = rule["spec"]["groups"][0]["rules"].as_array().expect("rules").clone();
    let expressions: Vec<&str> = rules.iter().filter_map(|rule| rule["expr"].as_str()).collect();
    assert_eq!(expressions.len(), rules.len());
    check(&expressions.join("\n"), 8);
}

#[test]
fn every_alert_is_explained_to_the_operator() {
    let rule = document(&deploy().join("components/prometheusrule/prometheusrule.yaml"));
    let operations = read(&root().join("docs/operations.md"));
    for rule in rule["spec"]["groups"][0]["rules"].as_array().expect("rules") {
        let name = rule["alert"].as_str().expect("a name");
        assert!(operations.contains(&format!("`{name}`")), "{name} is not in docs/operations.md");
        assert!(rule["labels"]["severity"].is_string(), "{name} has no severity");
    }
}
