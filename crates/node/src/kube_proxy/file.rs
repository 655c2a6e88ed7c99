//! kube-proxy's configuration file into settings, or into a fault with file, line and field.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_saphyr::Spanned;

use super::node::Node;
use super::settings::{self, Here, Setting};

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// The longest file that is read. A ConfigMap holds 1 MiB at most.
const MAX_BYTES: usize = 1 << 20;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// Fields that are set to something, in the order written.
    pub(crate) given: Vec<Given>,
    /// Fields nobody knows.
    pub(crate) unknown: Vec<Unknown>,
}

/// A field that is set.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) setting: &'static Setting,
    /// Not null.
    pub(crate) value: Value,
}

/// A field nobody knows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) field: String,
    pub(crate) line: u64,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub(crate) struct Fault {
    path: PathBuf,
    line: Option<u64>,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Unreadable(io::Error),
    TooLong,
    Yaml(Box<serde_saphyr::Error>),
    NotAMapping,
    OtherDocument { field: &'static str, found: String, accepted: &'static str },
    Value { field: String, found: String, accepted: String },
    Refused { field: String, reason: &'static str },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        match &self.reason {
            Reason::Unreadable(source) => write!(f, ": cannot be read: {source}"),
            Reason::TooLong => write!(f, ": is longer than {MAX_BYTES} bytes"),
            Reason::Yaml(source) => write!(f, ": is not YAML: {source}"),
            Reason::NotAMapping => write!(f, ": is no {KIND}: a mapping of fields is needed"),
            Reason::OtherDocument { field, found, accepted } => {
                write!(f, ": {field} is {found}, {accepted} is needed")
            }
            Reason::Value { field, found, accepted } => {
                write!(f, ": {field} cannot be {found}, {accepted} is needed")
            }
            Reason::Refused { field, reason } => write!(f, ": {field} is refused: {reason}"),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.reason {
            Reason::Unreadable(source) => Some(source),
            Reason::Yaml(source) => Some(source),
            _ => None,
        }
    }
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, is no `KubeProxyConfiguration`, or a field has a value it cannot have.
pub(crate) fn read(path: &Path) -> Result<Configuration, Fault> {
    let fault = |reason| Fault { path: path.to_owned(), line: None, reason };
    let text = std::fs::read_to_string(path).map_err(|error| fault(Reason::Unreadable(error)))?;
    if text.len() > MAX_BYTES {
        return Err(fault(Reason::TooLong));
    }
    parse(&text)
        .map_err(|(line, reason)| Fault { line: line.filter(|line| *line > 0), ..fault(reason) })
}

type Located = (Option<u64>, Reason);

fn parse(text: &str) -> Result<Configuration, Located> {
    let document: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|location| location.line());
        (line, Reason::Yaml(Box::new(error)))
    })?;
    let Node::Map(fields) = &document.value else {
        return Err((Some(document.referenced.line()), Reason::NotAMapping));
    };
    for (field, accepted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let found = fields.iter().find(|(key, _)| key.value == field);
        let found_value = found.map(|(_, node)| node.value.value());
        if found_value.as_ref().and_then(Value::as_str) != Some(accepted) {
            let line = found.map(|(key, _)| key.referenced.line());
            let found = found.map_or("missing".to_owned(), |(_, node)| node.value.shown());
            return Err((line, Reason::OtherDocument { field, found, accepted }));
        }
    }
    let mut configuration = Configuration::default();
    let is_header = |key: &str| key == "apiVersion" || key == "kind";
    let fields = fields.iter().filter(|(key, _)| !is_header(&key.value));
    configuration.take("", fields)?;
    Ok(configuration)
}

impl Configuration {
    fn take<'n>(
        &mut self,
        section: &str,
        fields: impl Iterator<Item = &'n (Spanned<String>, Spanned<Node>)>,
    ) -> Result<(), Located> {
        for (key, node) in fields {
            let line = key.referenced.line();
            let dot = if section.is_empty() { "" } else { "." };
            let field = format!("{section}{dot}{}", key.value);
            let wrong = |accepted| {
                let found = node.value.shown();
                (Some(line), Reason::Value { field: field.clone(), found, accepted })
            };
            if let Some(setting) = settings::of_field(&field) {
                let value = setting.kind.read(&node.value);
                let value = value.map_err(|()| wrong(setting.kind.accepted()))?;
                if let Here::Refused(reason) = setting.here
                    && !value.is_null()
                    && value != setting.default()
                {
                    return Err((Some(line), Reason::Refused { field, reason }));
                }
                if !is_unset(setting, &value) {
                    self.given.push(Given { setting, value });
                }
            } else if settings::is_section(&field) {
                match &node.value {
                    Node::Map(fields) => self.take(&field, fields.iter())?,
                    Node::Scalar(Value::Null) => {}
                    _ => return Err(wrong("a mapping of fields".to_owned())),
                }
            } else {
                self.unknown.push(Unknown { field, line });
            }
        }
        Ok(())
    }
}

/// kubeadm writes out every field, most of them with the empty value of their type, which is
/// "take the default" for all but the score, whose 0 is a score.
fn is_unset(setting: &Setting, value: &Value) -> bool {
    let empty = match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Number(number) => {
            number.as_f64() == Some(0.0) && setting.here != Here::Used("oom_score_adj")
        }
        Value::Array(items) => items.is_empty(),
        Value::Object(_) => is_hollow(value),
        // Left to the default: another section may say otherwise for the same flag.
        Value::Bool(_) => *value == setting.default(),
    };
    // What has no effect and is as always needs no warning.
    empty || matches!(setting.here, Here::Ignored(_)) && *value == setting.default()
}

/// Nothing in it, at any depth, says anything.
fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().all(is_hollow),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty() || text == "0",
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(value) => !value,
        Value::Null => true,
    }
}

#[cfg(test)]
pub(crate) fn parse_for_test(text: &str) -> Result<Configuration, String> {
    parse(text)
        .map_err(|(line, reason)| Fault { path: "config.conf".into(), line, reason }.to_string())
}
