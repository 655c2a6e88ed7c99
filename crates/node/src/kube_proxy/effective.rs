//! The configuration in force, in the form of kube-proxy's file: `/configz`, `--write-config-to`.

use serde_json::{Map, Value, json};

use super::file::Given;
use super::settings::SETTINGS;

/// Every field: kube-proxy's default, else what the file says, else what the flags say. Settings
/// without effect here are in it too, as given.
///
/// `flag` gives the text of a flag that was given on the command line.
pub(crate) fn configuration(
    given: &[Given],
    flag: impl Fn(&str) -> Option<String>,
) -> Map<String, Value> {
    let mut configuration = Map::new();
    configuration.insert("apiVersion".to_owned(), json!("kubeproxy.config.k8s.io/v1alpha1"));
    configuration.insert("kind".to_owned(), json!("KubeProxyConfiguration"));
    for setting in SETTINGS.iter().filter(|setting| !setting.field.is_empty()) {
        let from_file = given.iter().find(|given| given.setting.field == setting.field);
        let from_flag = flag(setting.flag).and_then(|text| setting.kind.parse(&text).ok());
        let value = from_flag
            .or_else(|| from_file.map(|given| given.value.clone()))
            .unwrap_or_else(|| setting.default());
        insert(&mut configuration, setting.field, value);
    }
    configuration
}

fn insert(fields: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            fields.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let section = fields.entry(section).or_insert_with(|| json!({}));
            if let Value::Object(fields) = section {
                insert(fields, rest, value);
            }
        }
    }
}
