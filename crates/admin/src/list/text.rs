//! The table on the terminal: `ipvsadm -Ln` with streams.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{EndpointView, ServiceView};

/// What is shown of each endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Columns<'b> {
    /// Weight and load now, totals of connections and streams.
    Load,
    /// Totals, gRPC errors and durations (`--stats`).
    Stats,
    /// What happened per second (`--rate`).
    Rate {
        /// An earlier sample.
        before: &'b [ServiceView],
        /// How much earlier it was taken.
        elapsed: Duration,
    },
}

/// Renders the services in their order, one block for each ClusterIP with the endpoints of its
/// family. The text ends with a line end.
pub fn render_text(services: &[ServiceView], columns: Columns<'_>) -> String {
    let earlier = columns.earlier();
    let mut rows = vec![columns.heading()];
    for service in services {
        for &cluster_ip in &service.cluster_ips {
            rows.push(service_row(service, cluster_ip));
            let of_family =
                |endpoint: &&EndpointView| endpoint.address.is_ipv4() == cluster_ip.is_ipv4();
            for endpoint in service.endpoints.iter().filter(of_family) {
                let before = earlier.get(&key(service, endpoint)).copied();
                rows.push(endpoint_row(endpoint, columns.cells(endpoint, before)));
            }
        }
    }
    layout("Prot LocalAddress:Port Scheduler Service", &rows)
}

/// A line: what stands at the left, cells in columns, and a note behind them.
#[derive(Default)]
struct Row {
    left: String,
    cells: Vec<String>,
    note: String,
}

impl<'b> Columns<'b> {
    fn heading(self) -> Row {
        let names: &[&str] = match self {
            Self::Load => &["Weight", "ActiveConn", "ActiveStreams", "Conns", "Streams"],
            Self::Stats => &["Conns", "Streams", "Failures", "GrpcErrors", "P50", "P99"],
            Self::Rate { .. } => {
                &["ActiveConn", "ActiveStreams", "Conns/s", "Streams/s", "Failures/s", "GrpcErr/s"]
            }
        };
        Row {
            left: "  -> RemoteAddress:Port".to_owned(),
            cells: names.iter().map(|&name| name.to_owned()).collect(),
            note: String::new(),
        }
    }

    fn earlier(self) -> Earlier<'b> {
        let Self::Rate { before, .. } = self else {
            return Earlier::new();
        };
        let endpoints = before.iter().flat_map(|service| {
            service.endpoints.iter().map(move |endpoint| (key(service, endpoint), endpoint))
        });
        endpoints.collect()
    }

    /// `before` is the endpoint in the earlier sample, if there is one and it was there.
    fn cells(self, endpoint: &EndpointView, before: Option<&EndpointView>) -> Vec<String> {
        match self {
            Self::Load => vec![
                endpoint.weight.to_string(),
                endpoint.active_connections.to_string(),
                endpoint.active_streams.to_string(),
                endpoint.connections.to_string(),
                endpoint.streams.to_string(),
            ],
            Self::Stats => vec![
                endpoint.connections.to_string(),
                endpoint.streams.to_string(),
                endpoint.failures.to_string(),
                percent(endpoint.grpc_errors, endpoint.grpc_responses),
                duration(endpoint.p50_seconds),
                duration(endpoint.p99_seconds),
            ],
            Self::Rate { elapsed, .. } => {
                let rate = |of: fn(&EndpointView) -> u64| {
                    per_second(before.map_or(0, of), of(endpoint), elapsed)
                };
                vec![
                    endpoint.active_connections.to_string(),
                    endpoint.active_streams.to_string(),
                    rate(|endpoint| endpoint.connections),
                    rate(|endpoint| endpoint.streams),
                    rate(|endpoint| endpoint.failures),
                    rate(|endpoint| endpoint.grpc_errors),
                ]
            }
        }
    }
}

fn service_row(service: &ServiceView, cluster_ip: IpAddr) -> Row {
    let ServiceView { protocol, service_port, namespace, name, port, .. } = service;
    let address = SocketAddr::new(cluster_ip, *service_port);
    let scheduler = service.scheduler.as_deref().unwrap_or("-");
    let mut left = format!("{protocol:<4} {address} {scheduler} {namespace}/{name}");
    if !port.is_empty() {
        left.push(':');
        left.push_str(port);
    }
    if let Some(seconds) = service.affinity_seconds {
        left.push_str(" persistent ");
        left.push_str(&seconds.to_string());
    }
    let same_family = |ip: &&IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
    let others = service.load_balancer_ips.iter().chain(&service.external_ips);
    let others = others.filter(same_family).map(IpAddr::to_string);
    let node_port = service.node_port.map(|port| format!("node port {port}"));
    let others: Vec<String> = node_port.into_iter().chain(others).collect();
    if !others.is_empty() {
        left.push_str(" also ");
        left.push_str(&others.join(", "));
    }
    Row { left, ..Row::default() }
}

fn endpoint_row(endpoint: &EndpointView, cells: Vec<String>) -> Row {
    let address = SocketAddr::new(endpoint.address, endpoint.port);
    // "ready" is what one expects.
    let mut note = if endpoint.reason == "ready" { String::new() } else { endpoint.reason.clone() };
    match endpoint.usable_from_outside {
        Some(true) if !endpoint.usable => note.push_str(", but used from outside"),
        Some(false) if endpoint.usable => {
            note.push_str(if note.is_empty() { "" } else { ", " });
            note.push_str("not used from outside");
        }
        _ => {}
    }
    if let Some(left) = endpoint.ejected_seconds {
        note.push_str(if note.is_empty() { "" } else { ", " });
        let _ = write!(note, "ejected, {left:.0} s left");
    }
    Row { left: format!("  -> {address}"), cells, note }
}

/// An earlier sample's endpoints, each under its ServicePort's name and its own address.
type Earlier<'b> = HashMap<(&'b str, &'b str, &'b str, &'b str, SocketAddr), &'b EndpointView>;

fn key<'v>(
    service: &'v ServiceView,
    endpoint: &EndpointView,
) -> (&'v str, &'v str, &'v str, &'v str, SocketAddr) {
    let ServiceView { namespace, name, port, protocol, .. } = service;
    (namespace, name, port, protocol, SocketAddr::new(endpoint.address, endpoint.port))
}

/// With one decimal. A total that went down began anew in between.
fn per_second(before: u64, after: u64, elapsed: Duration) -> String {
    let more = after.checked_sub(before).unwrap_or(after);
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 { format!("{:.1}", more as f64 / seconds) } else { "-".to_owned() }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", 100.0 * part as f64 / whole as f64) }
}

fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0}us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1}ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1}s"),
    }
}

/// Puts the cells below each other, as wide as the widest.
fn layout(title: &str, rows: &[Row]) -> String {
    let with_cells = || rows.iter().filter(|row| !row.cells.is_empty());
    let left = with_cells().map(|row| row.left.len()).max().unwrap_or(0);
    let column_count = with_cells().map(|row| row.cells.len()).max().unwrap_or(0);
    let width = |column: usize| {
        with_cells().filter_map(|row| row.cells.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    let mut text = format!("{title}\n");
    for row in rows {
        let start = text.len();
        text.push_str(&row.left);
        if !row.cells.is_empty() {
            let used = row.left.len();
            text.extend(std::iter::repeat_n(' ', left - used));
            for (cell, width) in row.cells.iter().zip(&widths) {
                write!(text, "  {cell:<width$}").expect("writing to a String does not fail");
            }
            if !row.note.is_empty() {
                text.push_str("  ");
                text.push_str(&row.note);
            }
        }
        text.truncate(start + text[start..].trim_end().len());
        text.push('\n');
    }
    text
}
