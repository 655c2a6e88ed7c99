//! Where the Kubernetes programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use streamvs_support::lab::Host;

/// The folder of a set that somebody else keeps, by the convention of envtest.
pub const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// A program: from [`VARIABLE`]'s folder if it is there, else from where `scripts/kube-assets`
/// builds it.
///
/// # Panics
/// When it is in neither. A test that needs it has failed then; it is not skipped.
#[track_caller]
pub fn path(program: &str) -> PathBuf {
    let folders = std::env::var_os(VARIABLE).map(PathBuf::from).into_iter().chain([built()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("{program} is missing: run scripts/kube-assets, or set {VARIABLE}")
    })
}

/// kube-proxy on a node, with `--proxy-mode` and a kubeconfig file. Where pods are is still to be
/// said.
///
/// # Panics
/// As [`path`].
#[track_caller]
pub fn kube_proxy(node: &Host, mode: &str, kubeconfig: &Path) -> Command {
    let mut command = node.command(path("kube-proxy"));
    command
        .args(["--hostname-override=node", &format!("--proxy-mode={mode}")])
        // A namespace may not set the machine's conntrack limits.
        .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"])
        .args(["--conntrack-tcp-timeout-close-wait=0s", "--kubeconfig"])
        .arg(kubeconfig);
    command
}

/// The folder of the CustomResourceDefinitions that the Prometheus operator brings.
///
/// # Panics
/// When it is missing.
#[track_caller]
pub fn definitions() -> PathBuf {
    let folder = built().join("crds");
    assert!(folder.is_dir(), "{} is missing: run scripts/kube-assets", folder.display());
    folder
}

/// Where `scripts/kube-assets` puts what it builds.
fn built() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/kube-assets")
}
