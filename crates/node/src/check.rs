//! `streamvs check`: is this node fit, and what is to be done where it is not.

mod ports;

use std::io::Write as _;

use caps::{CapSet, Capability};
use serde_json::json;
use streamvs_capture::{Backend, Finding, Tools, Verdict};

use crate::app::control_runtime;
use crate::cli::{CheckOptions, IptablesBackend, OutputFormat};
use crate::config::DEFAULT_MARK;
use crate::error::Error;

/// Looks, prints a line for each finding, and fails where one is in the way.
pub(crate) fn check(options: &CheckOptions) -> Result<(), Error> {
    let findings = control_runtime()?.block_on(look(options));
    let text = match options.output {
        OutputFormat::Text => findings.iter().map(line).collect(),
        OutputFormat::Json => {
            let findings: Vec<_> = findings.iter().map(object).collect();
            format!("{:#}\n", serde_json::Value::from(findings))
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Unfit).count() {
        0 => Ok(()),
        count => Err(Error::NotFit { count }),
    }
}

async fn look(options: &CheckOptions) -> Vec<Finding> {
    let mut findings = vec![capabilities()];
    let config = streamvs_capture::Config {
        listen_port: options.listen_port,
        mark: DEFAULT_MARK,
        backend: Backend::Auto,
        gate: None,
        service_cidrs: Vec::new(),
        tools: match options.iptables_backend {
            IptablesBackend::Auto => Tools::Auto,
            IptablesBackend::Nft => Tools::Nft,
            IptablesBackend::Legacy => Tools::Legacy,
        },
    };
    findings.extend(streamvs_capture::check(&config, &options.cni_conf_dir).await);
    findings.extend(ports::findings(options));
    findings.extend(agent(options).await);
    findings
}

/// What the agent keeps of root's.
fn capabilities() -> Finding {
    let subject = "capabilities";
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
    let lacks = |capability: &Capability| {
        !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false)
    };
    let lacking: Vec<String> =
        needed.into_iter().filter(lacks).map(|capability| capability.to_string()).collect();
    if lacking.is_empty() {
        return Finding::fit(subject, "CAP_NET_ADMIN and CAP_NET_RAW are there");
    }
    let found = format!("{} not there", lacking.join(" and "));
    Finding::unfit(subject, found, "run as root, or give the container these capabilities")
}

/// What a running agent says of itself.
async fn agent(options: &CheckOptions) -> Vec<Finding> {
    let subject = "agent";
    let Ok(services) = streamvs_admin::list::fetch(&options.admin_socket).await else {
        let socket = options.admin_socket.display();
        return vec![Finding::fit(subject, format!("none answers at {socket}"))];
    };
    let running = Finding::fit(subject, format!("it answers, and has {} ports", services.len()));
    let Ok(page) = streamvs_admin::metrics_page(&options.admin_socket).await else {
        return vec![running];
    };
    let node = |line: &&str| line.starts_with("streamvs_client_ip_kept{") && line.ends_with(" 0");
    let of_family = |line: &str| line.split('"').nth(1).unwrap_or("an unknown family").to_owned();
    let hidden: Vec<String> = page.lines().filter(node).map(of_family).collect();
    let subject = "clients seen";
    let seen = if hidden.is_empty() {
        Finding::fit(subject, "endpoints see this node's pods by their own addresses")
    } else {
        let found = format!("endpoints see the node's address ({})", hidden.join(", "));
        let advice = "the agent's log says why, where --client-ip node or --masquerade-all do not";
        Finding::warning(subject, found, advice)
    };
    vec![running, seen]
}

/// `warn  conntrack: 9 of 10 entries are used; raise ...`
fn line(finding: &Finding) -> String {
    let Finding { subject, verdict, found, advice } = finding;
    // What programs say may have several lines.
    let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
    let advice = advice.as_ref().map_or(String::new(), |advice| format!("; {advice}"));
    format!("{:<4}  {subject}: {found}{advice}\n", word(*verdict))
}

fn object(finding: &Finding) -> serde_json::Value {
    let Finding { subject, verdict, found, advice } = finding;
    json!({ "subject": subject, "verdict": word(*verdict), "found": found, "advice": advice })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Fit => "ok",
        Verdict::Warning => "warn",
        Verdict::Unfit => "fail",
    }
}

#[cfg(test)]
mod tests {
    //! Aim: a finding is one line, whatever a program has said.

    use super::*;

    #[test]
    fn a_finding_is_one_line_with_what_to_do() {
        assert_eq!(line(&Finding::fit("ports", "free")), "ok    ports: free\n");
        let finding = Finding::unfit("rules", "it said:\n  no\n", "load it");
        assert_eq!(line(&finding), "fail  rules: it said: no; load it\n");
    }
}
