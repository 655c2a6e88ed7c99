//! An explanation on the terminal.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{
    EndpointReason, Explanation, ExternalFamilyView, ExternalView, OutsideReason, PortView,
};

/// Renders it. The text ends with a line end.
pub fn render_text(explanation: &Explanation) -> String {
    match explanation {
        Explanation::Unserved { namespace, name, reason } => {
            format!("{namespace}/{name} is not ours: {reason}\n")
        }
        Explanation::Unknown { namespace, name, near } => {
            let mut text = format!("{namespace}/{name} is unknown on this node\n");
            if !near.is_empty() {
                let _ = writeln!(text, "like it are: {}", near.join(", "));
            }
            text
        }
        Explanation::Served { namespace, name, ports } => {
            let mut text = format!("{namespace}/{name}\n");
            for port in ports {
                port_text(&mut text, port);
            }
            text
        }
    }
}

fn port_text(text: &mut String, port: &PortView) {
    let dash = if port.port.is_empty() { "" } else { " " };
    let PortView { service_port, protocol, .. } = port;
    // Writing to a String does not fail, here and below.
    let _ = writeln!(text, "\nPort{dash}{} {service_port}/{protocol}", port.port);
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10}{value}");
    };
    if let Some(scheduler) = &port.scheduler {
        let asked = match &port.asked_scheduler {
            Some(asked) => format!(", annotation streamvs.io/scheduler asks for {asked}"),
            None => ", the default".to_owned(),
        };
        fact("Scheduler", &format!("{scheduler}{asked}"));
    }
    fact("Protocol", &format!("{}: {}", port.protocol_hint, port.protocol_hint_source));
    fact("Policy", &format!("internalTrafficPolicy {}", port.internal_traffic_policy));
    if let Some(seconds) = port.affinity_seconds {
        fact("Affinity", &format!("ClientIP, {seconds} s"));
    }
    for family in &port.families {
        let of_family = format!(
            "{} {}: {}; {}",
            family.cluster_ip, family.disposition, family.reason, family.topology
        );
        fact(&family.family, &of_family);
    }
    if let Some(external) = &port.external {
        fact("Outside", &addresses(external));
        let ExternalView { external_traffic_policy: policy, families, .. } = external;
        fact("", &format!("externalTrafficPolicy {policy}"));
        for ExternalFamilyView { family, disposition, reason } in families {
            fact("", &format!("{family} {disposition}: {reason}"));
        }
        if let Some(port) = external.health_check_node_port {
            fact("", &format!("health check node port {port}"));
        }
    }
    for note in &port.notes {
        fact("Note", note);
    }
    if port.endpoints.is_empty() {
        return;
    }
    let rows: Vec<[String; 5]> =
        std::iter::once(["ENDPOINT", "USED", "NODE", "ZONE", "WHY"].map(str::to_owned))
            .chain(port.endpoints.iter().flat_map(rows_of))
            .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for row in &rows {
        text.push_str("  ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", row[4]);
    }
}

/// What there is besides the ClusterIP, and who may reach it.
fn addresses(external: &ExternalView) -> String {
    let ExternalView { node_port, load_balancer_ips, external_ips, .. } = external;
    let listed = |name: &str, ips: &[IpAddr]| {
        let ips: Vec<_> = ips.iter().map(IpAddr::to_string).collect();
        (!ips.is_empty()).then(|| format!("{name} {}", ips.join(" ")))
    };
    let balancers = listed("load balancer", load_balancer_ips).map(|mut balancers| {
        if !external.load_balancer_source_ranges.is_empty() {
            let ranges = external.load_balancer_source_ranges.join(" ");
            let _ = write!(balancers, " from {ranges} only");
        }
        balancers
    });
    let node_port = node_port.map(|port| format!("node port {port}"));
    let all = [node_port, balancers, listed("externalIPs", external_ips)];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A row for the endpoint, and another one where outside is told another thing.
fn rows_of(endpoint: &EndpointReason) -> impl Iterator<Item = [String; 5]> {
    let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    let row = |used: bool, why: String| {
        [
            endpoint.address.to_string(),
            if used { "yes" } else { "no" }.to_owned(),
            or_dash(&endpoint.node),
            or_dash(&endpoint.zone),
            why,
        ]
    };
    let EndpointReason { used, reason, rule, .. } = endpoint;
    let outside = endpoint.from_outside.as_ref();
    let other = outside.filter(|outside| (&outside.used, &outside.reason) != (used, reason));
    let other = other.map(|OutsideReason { used, reason, rule }| {
        row(*used, format!("from outside: {reason} ({rule})"))
    });
    std::iter::once(row(*used, format!("{reason} ({rule})"))).chain(other)
}
