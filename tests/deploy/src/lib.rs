//! What `deploy/` asks of a cluster and of the program, held against both.
//!
//! - `manifests`: each file parses; the rights, the privileges, the times that must fit.
//! - `flags`: the command lines that are given to the program are understood by it.
//! - `chart`: the chart's values, its schema and the kustomize overlays say the same.
//! - `image`: the Dockerfile builds what the repository builds.
//! - `kube_proxy`: the real kube-proxy's flags, file and pages have their counterpart.
//! - `metrics`: dashboard and alerts ask for metrics that there are.
//!
//! A real API server judges the manifests elsewhere (`tests/kube`).

#[cfg(test)]
mod chart;
#[cfg(test)]
mod files;
#[cfg(test)]
mod flags;
#[cfg(test)]
mod image;
#[cfg(test)]
mod kube_proxy;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod metrics;
