//! The iptables rules kube-proxy's iptables mode makes, as far as ClusterIP TCP goes.
//!
//! What comes in: Services with their endpoints. What goes out: text for `iptables-restore`, one
//! for each family: `KUBE-SERVICES` leads to a chain per ServicePort (`KUBE-SVC-...`), which jumps
//! to one chain per endpoint (`KUBE-SEP-...`) with probability 1/n, 1/(n-1) ... 1, and that
//! rewrites the destination. The choice is made once for a connection, which is the whole point
//! of comparing with it.
//!
//! Source: kube-proxy's iptables mode; the shape of its rules is documented with the Kubernetes
//! "Virtual IPs and Service Proxies" page.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::Family;
use crate::lab::Netns;

/// The mark that asks for masquerade, bit 14 as kube-proxy's default.
const MASQUERADE: &str = "0x4000/0x4000";

/// One ServicePort and where its connections may go.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// `namespace/name:port`, for the comments.
    pub name: String,
    /// ClusterIP and port.
    pub address: SocketAddr,
    /// The endpoints, all of the same family as `address`.
    pub endpoints: Vec<SocketAddr>,
}

/// Loads the rules into a node's namespace, replacing the ones of an earlier call.
///
/// # Panics
/// When `iptables-restore` refuses them, with what it said.
pub fn apply(node: &Netns, ports: &[ServicePort]) {
    for (family, program) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
        node.feed(program, &["--noflush", "--wait"], &render(family, ports));
    }
    hook(node);
}

/// Takes all of it away again.
///
/// # Panics
/// When it is not there.
pub fn remove(node: &Netns) {
    for program in ["iptables", "ip6tables"] {
        node.output(program, &["-w", "-t", "nat", "-F"]);
        node.output(program, &["-w", "-t", "nat", "-X"]);
    }
}

/// Leads the packets there, once.
fn hook(node: &Netns) {
    for program in ["iptables", "ip6tables"] {
        for (from, to) in [
            ("PREROUTING", "KUBE-SERVICES"),
            ("OUTPUT", "KUBE-SERVICES"),
            ("POSTROUTING", "KUBE-POSTROUTING"),
        ] {
            let there = node
                .command(program)
                .args(["-w", "-t", "nat", "-C", from, "-j", to])
                .stderr(std::process::Stdio::null())
                .status()
                .expect("iptables starts")
                .success();
            if !there {
                node.output(program, &["-w", "-t", "nat", "-A", from, "-j", to]);
            }
        }
    }
}

/// The rules of one family as `iptables-restore --noflush` takes them. Each chain named is emptied
/// first.
pub fn render(family: Family, ports: &[ServicePort]) -> String {
    let mut chains = String::from("*nat\n");
    let mut rules = String::new();
    for chain in ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"] {
        push(&mut chains, format_args!(":{chain} - [0:0]"));
    }
    push(&mut rules, format_args!("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000"));
    push(&mut rules, format_args!("-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE} -j RETURN"));
    push(&mut rules, format_args!("-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000"));
    push(&mut rules, format_args!("-A KUBE-POSTROUTING -j MASQUERADE --random-fully"));

    for port in ports.iter().filter(|port| Family::of(port.address.ip()) == family) {
        let (ip, number) = (port.address.ip(), port.address.port());
        let comment = &port.name;
        let service = chain_name("KUBE-SVC", &(&port.name, port.address));
        push(&mut chains, format_args!(":{service} - [0:0]"));
        push(
            &mut rules,
            format_args!(
                "-A KUBE-SERVICES -d {ip}/{bits} -p tcp -m comment --comment \"{comment}\" \
                 -m tcp --dport {number} -j {service}",
                bits = bits(ip)
            ),
        );
        let count = port.endpoints.len();
        for (index, endpoint) in port.endpoints.iter().enumerate() {
            let chain = chain_name("KUBE-SEP", &(&port.name, endpoint));
            push(&mut chains, format_args!(":{chain} - [0:0]"));
            let left = count - index;
            let chance = if left == 1 {
                String::new()
            } else {
                format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64)
            };
            push(
                &mut rules,
                format_args!(
                    "-A {service} -m comment --comment \"{comment} -> {endpoint}\"{chance} \
                     -j {chain}"
                ),
            );
            push(
                &mut rules,
                format_args!(
                    "-A {chain} -s {ip}/{bits} -m comment --comment \"{comment}\" \
                     -j KUBE-MARK-MASQ",
                    ip = endpoint.ip(),
                    bits = bits(endpoint.ip())
                ),
            );
            push(
                &mut rules,
                format_args!(
                    "-A {chain} -p tcp -m comment --comment \"{comment}\" -m tcp \
                     -j DNAT --to-destination {endpoint}"
                ),
            );
        }
    }
    format!("{chains}{rules}COMMIT\n")
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes any text");
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// A chain name no longer than the kernel allows (28): the prefix and 16 letters of a hash.
fn chain_name(prefix: &str, of: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    format!("{prefix}-{:016X}", hasher.finish())
}

#[cfg(test)]
mod tests;
