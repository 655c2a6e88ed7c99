//! Whether this node can be captured on, and who else does: what an operator should know before
//! the first start, or when something is odd.
//!
//! Looks only, but for one trial of all rules in a network namespace of its own, which is gone
//! with it. What comes in: the configuration the agent would have. What goes out: one
//! [`Finding`] for each thing looked at, good or bad.

mod kernel;
mod neighbours;
mod rules;
mod trial;

use std::path::Path;

use crate::Config;
use crate::tools::Iptables;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What it means for us.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What to do about it. None where nothing is to be done.
    pub advice: Option<String>,
}

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Fit,
    /// It works, but not as well or not for everybody.
    Warning,
    /// It does not work.
    Unfit,
}

impl Finding {
    /// As it should be.
    pub fn fit(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, verdict: Verdict::Fit, found: found.into(), advice: None }
    }

    /// Not as good as it could be.
    pub fn warning(subject: &'static str, found: impl Into<String>, advice: &str) -> Self {
        let advice = Some(advice.to_owned());
        Self { subject, verdict: Verdict::Warning, found: found.into(), advice }
    }

    /// In the way.
    pub fn unfit(subject: &'static str, found: impl Into<String>, advice: &str) -> Self {
        Self { verdict: Verdict::Unfit, ..Self::warning(subject, found, advice) }
    }
}

/// Looks at this network namespace. `cni_folder` is where network plug-ins have their
/// configuration, mostly `/etc/cni/net.d`.
///
/// Needs root; what is not allowed is a finding too.
pub async fn check(config: &Config, cni_folder: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Iptables::choose(config.tools).await {
        Ok(iptables) => {
            findings.push(rules::flavour(&iptables).await);
            findings.extend(trial::findings(config, iptables.flavour()).await);
            findings.push(rules::order(&iptables).await);
            findings.push(neighbours::kube_proxy(&iptables).await);
        }
        Err(error) => findings.push(Finding::unfit(
            "iptables",
            error.to_string(),
            "install iptables 1.8 or newer, in the form the node's other programs use",
        )),
    }
    findings.extend(kernel::findings());
    findings.push(neighbours::bridges().await);
    findings.push(neighbours::cilium().await);
    findings.push(neighbours::meshes(cni_folder));
    findings
}
