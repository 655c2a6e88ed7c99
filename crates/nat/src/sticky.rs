//! sessionAffinity: chains and sets of one ServicePort.
//!
//! ```text
//!  sticky-<hash>:  ip saddr @client-<1> goto pin-<1>
//!                  ip saddr @client-<2> goto pin-<2>
//!                  numgen random mod 2 vmap { 0 : goto pin-<1>, 1 : goto pin-<2> }
//!  pin-<1>:        update @client-<1> { ip saddr }       only a new connection comes here
//!                  meta l4proto udp dnat to 10.244.1.10:53
//! ```
//!
//! A set's name says ServicePort, endpoint and timeout, so that clients stay with an endpoint
//! while others come and go.
//!
//! Source: kube-proxy's nftables mode, which copies its iptables mode (KEP-3866).

use std::net::SocketAddr;
use std::time::Duration;

use streamvs_table::{Family, ServicePortName};

use crate::contents::Contents;
use crate::key;
use crate::layout;

/// Names of the chains begin so, of the Service's own and of those of its endpoints.
pub(crate) const CHAIN: &str = "sticky-";
pub(crate) const PIN: &str = "pin-";

/// Adds what a list of endpoints needs, which is not empty; returns the chain that picks one.
pub(crate) fn add(
    contents: &mut Contents,
    name: &ServicePortName,
    family: Family,
    endpoints: Vec<SocketAddr>,
    timeout: Duration,
) -> String {
    let source = layout::source(family);
    let protocol = key::word(name.protocol);
    let seconds = timeout.as_secs().max(1);
    let mut known = Vec::with_capacity(endpoints.len() + 1);
    let mut turns = Vec::with_capacity(endpoints.len());
    for (place, endpoint) in endpoints.iter().enumerate() {
        let identity = hash(&format!("{name:?} {endpoint} {seconds}"));
        let clients = format!("client-{identity:016x}");
        let rules = vec![
            format!("update @{clients} {{ {source} }}"),
            format!("meta l4proto {protocol} dnat to {endpoint}"),
        ];
        let pin = format!("{PIN}{:016x}", hash(&rules.join("\n")));
        known.push(format!("{source} @{clients} goto {pin}"));
        turns.push(format!("{place} : goto {pin}"));
        contents.chains.insert(pin, rules);
        contents.clients.insert(clients, seconds);
    }
    let count = turns.len();
    known.push(format!("numgen random mod {count} vmap {{ {} }}", turns.join(", ")));
    let chain = format!("{CHAIN}{:016x}", hash(&known.join("\n")));
    contents.chains.insert(chain.clone(), known);
    chain
}

/// FNV-1a, which is the same in every version of everything: names are kept in the kernel.
pub(crate) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
