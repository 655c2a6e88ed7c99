//! An explanation on the terminal.

use std::fmt::Write as _;

use super::{EndpointReason, Explanation, PortView};

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
    for note in &port.notes {
        fact("Note", note);
    }
    if port.endpoints.is_empty() {
        return;
    }
    let rows: Vec<[String; 5]> =
        std::iter::once(["ENDPOINT", "USED", "NODE", "ZONE", "WHY"].map(str::to_owned))
            .chain(port.endpoints.iter().map(row))
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

fn row(endpoint: &EndpointReason) -> [String; 5] {
    let or_dash = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
    [
        endpoint.address.to_string(),
        if endpoint.used { "yes" } else { "no" }.to_owned(),
        or_dash(&endpoint.node),
        or_dash(&endpoint.zone),
        format!("{} ({})", endpoint.reason, endpoint.rule),
    ]
}
