//! Aim: whoever uses the chart gets what the overlays give, and a wrong value is refused.
//! Method: helm and kustomize render each pair; schema and values are compared key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Map, Value};
use streamvs_support::agent::program;
use streamvs_test_kube::programs;

use crate::files::{chart, deploy, document, documents, output, read};

type Objects = BTreeMap<(String, String), Value>;

/// Objects by kind and name, without what only one of the two tools adds.
fn normalised(rendered: &str) -> Objects {
    let mut objects = Objects::new();
    for mut object in documents(rendered) {
        // The chart adds Helm's own labels to objects, though not to pods.
        object["metadata"].as_object_mut().expect("metadata").remove("labels");
        if object["kind"] == "DaemonSet" {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            // The chart can say it; its default is the server's.
            container.as_object_mut().expect("a container").remove("imagePullPolicy");
            let environment = container["env"].as_array_mut().expect("an environment");
            environment.sort_by_key(|variable| variable["name"].to_string());
        }
        let word = |value: &Value| value.as_str().expect("a string").to_owned();
        objects.insert((word(&object["kind"]), word(&object["metadata"]["name"])), object);
    }
    objects
}

fn from_chart(arguments: &[&str]) -> Objects {
    let mut helm = Command::new(programs::path("helm"));
    helm.args(["template", "streamvs", "--namespace", "kube-system"]).arg(chart()).args(arguments);
    normalised(&output(&mut helm))
}

fn from_overlay(name: &str) -> Objects {
    normalised(&output(
        Command::new(programs::path("kubectl"))
            .arg("kustomize")
            .arg(deploy().join("overlays").join(name)),
    ))
}

fn check(overlay: &str, values: Option<&str>) {
    let values = values.map(|file| chart().join(file).display().to_string());
    let arguments = values.as_deref().map_or_else(Vec::new, |file| vec!["--values", file]);
    let (chart, overlay) = (from_chart(&arguments), from_overlay(overlay));
    assert_eq!(chart.keys().collect::<Vec<_>>(), overlay.keys().collect::<Vec<_>>());
    for (key, object) in &chart {
        assert_eq!(object, &overlay[key], "{key:?}: chart on the left, overlay on the right");
    }
    assert!(chart.contains_key(&("DaemonSet".to_owned(), "streamvs".to_owned())));
}

#[test]
fn the_chart_as_it_is_equals_the_overlay_alongside() {
    check("alongside", None);
}

#[test]
fn the_chart_for_labelled_services_equals_its_overlay() {
    check("alongside-labelled", Some("values-alongside-labelled.yaml"));
}

#[test]
fn the_chart_in_place_of_kube_proxy_equals_its_overlay() {
    check("replace", Some("values-replace.yaml"));
}

#[test]
fn every_optional_object_of_the_chart_renders() {
    let on = [
        "metrics.host=0.0.0.0",
        "metrics.annotations=true",
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "dashboard.enabled=true",
        "kubeProxyConfigMap=true",
        "scheduler=lc",
        "logFormat=json",
        "logLevel=4",
        "seLinuxOptions.type=spc_t",
    ];
    let objects = from_chart(&["--set", &on.join(",")]);
    let object = |kind: &str, name: &str| &objects[&(kind.to_owned(), name.to_owned())];
    let source =
        |folder: &str, file: &str| read(&deploy().join("components").join(folder).join(file));

    let rules = &document(&deploy().join("components/prometheusrule/prometheusrule.yaml"));
    assert_eq!(object("PrometheusRule", "streamvs")["spec"], rules["spec"]);
    let dashboard = object("ConfigMap", "streamvs-dashboard")["data"]["streamvs.json"].as_str();
    let dashboard: Value = serde_json::from_str(dashboard.expect("text")).expect("JSON");
    let wanted: Value = serde_json::from_str(&source("dashboard", "dashboard.json")).expect("JSON");
    assert_eq!(dashboard, wanted);
    let pod = &object("DaemonSet", "streamvs")["spec"]["template"];
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], "10349");
    let arguments = pod["spec"]["containers"][0]["args"].to_string();
    for argument in
        ["--ipvs-scheduler=lc", "--log-format=json", "-v=4", "--config=", "--kubeconfig="]
    {
        assert!(arguments.contains(argument), "{argument} in {arguments}");
    }
}

#[test]
fn a_wrong_value_is_refused_by_name() {
    for (value, named) in [
        ("scheduler=fastest", "scheduler"),
        ("drainTimeout=30", "drainTimeout"),
        ("healthz.port=0", "port"),
        ("podMonitor.enabled=true", "metrics.host"),
    ] {
        let mut helm = Command::new(programs::path("helm"));
        let helm = helm.args(["template", "streamvs"]).arg(chart()).args(["--set", value]);
        let refused = helm.output().expect("helm runs");
        assert!(!refused.status.success(), "{value}");
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(stderr.contains(named), "{named} in {stderr}");
    }
}

#[test]
fn the_schema_knows_every_scheduler_of_the_program_and_no_other() {
    let schema: Value =
        serde_json::from_str(&read(&chart().join("values.schema.json"))).expect("JSON");
    let listed = schema["properties"]["scheduler"]["enum"].as_array().expect("a list");
    let listed: BTreeSet<&str> = listed.iter().filter_map(Value::as_str).collect();
    let arguments = ["run", "--manifests", "none", "--ipvs-scheduler", "fastest"];
    let refused = Command::new(program()).args(arguments).output().expect("streamvs starts");
    let message = String::from_utf8_lossy(&refused.stderr);
    let (_, names) = message.split_once("accepted are ").expect("the names are listed");
    let names = names.lines().next().expect("a line");
    // Empty: the program's default.
    let names = names.split(", ").chain([""]).collect();
    assert_eq!(listed, names, "{message}");
}

#[test]
fn what_somebody_else_makes_is_left_out_and_used() {
    let own = ["serviceAccount.create=false", "serviceAccount.name=theirs", "rbac.create=false"];
    let objects = from_chart(&["--set", &own.join(",")]);
    let kinds: BTreeSet<&str> = objects.keys().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["DaemonSet"].into());
    let daemon_set = &objects[&("DaemonSet".to_owned(), "streamvs".to_owned())];
    assert_eq!(daemon_set["spec"]["template"]["spec"]["serviceAccountName"], "theirs");
}

#[test]
fn schema_and_values_have_the_same_keys() {
    let schema: Value =
        serde_json::from_str(&read(&chart().join("values.schema.json"))).expect("JSON");
    let mut values = document(&chart().join("values.yaml"));
    // Helm hands it to every chart.
    values["global"] = Value::Object(Map::new());
    same_keys("values", &schema, &values);
}

/// Where the schema lists properties, exactly those have a default, and no other key passes.
fn same_keys(place: &str, schema: &Value, values: &Value) {
    let Some(properties) = schema["properties"].as_object() else { return };
    assert_eq!(schema["additionalProperties"], false, "{place}");
    let values = values.as_object().unwrap_or_else(|| panic!("{place} is no object"));
    let known: BTreeSet<&String> = properties.keys().collect();
    let given: BTreeSet<&String> = values.keys().collect();
    let unknown: Vec<_> = given.difference(&known).collect();
    assert!(unknown.is_empty(), "{place}: not in the schema: {unknown:?}");
    // A passthrough of Kubernetes' own fields has no defaults of ours.
    if place != "values.resources" && place != "values.seLinuxOptions" {
        let missing: Vec<_> = known.difference(&given).collect();
        assert!(missing.is_empty(), "{place}: without a default: {missing:?}");
    }
    for (key, schema) in properties {
        if let Some(value) = values.get(key) {
            same_keys(&format!("{place}.{key}"), schema, value);
        }
    }
}
