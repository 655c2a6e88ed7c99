//! The files of `deploy/`, and the programs that render them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder `deploy/`.
pub(crate) fn deploy() -> PathBuf {
    root().join("deploy")
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The chart.
pub(crate) fn chart() -> PathBuf {
    deploy().join("helm/streamvs")
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each document of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The only document of a YAML file.
pub(crate) fn document(path: &Path) -> Value {
    let mut documents = documents(&read(path));
    assert_eq!(documents.len(), 1, "{}", path.display());
    documents.remove(0)
}

/// All YAML files under a folder, but the chart's templates, which are none until rendered.
pub(crate) fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("the folder can be read") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() && !path.ends_with("templates") {
            found.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).expect("tools print text")
}
