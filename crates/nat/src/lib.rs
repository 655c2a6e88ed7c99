//! The kernel path: Services that the kernel balances by itself, in nftables maps.
//!
//! What comes in: the table ([`Snapshot`](streamvs_table::Snapshot)), and the addresses of the node
//! and of pods ([`Ranges`]). What goes out: one nftables
//! table of each family, [`TABLE`], and conntrack entries of UDP flows that lead nowhere any more
//! deleted. Never here: sockets of the data path, Services without usable endpoints (`capture`
//! refuses them), decisions about endpoints (`resolve` has made them).
//!
//! It serves UDP and SCTP, which never come to user space, and TCP as a fallback: where `capture`
//! has taken a connection this table no longer sees it, because its chains come later, so TCP gets
//! here only while nothing is captured.
//!
//! # Shape
//!
//! ```text
//!  prerouting, output                    (priority -95: behind capture and kube-proxy at -100)
//!    protocol . address . port  vmap @services            else, to an address of the node,
//!        |                    |                           protocol . port vmap @node-ports
//!        | goto rr-3-07       | goto sticky-5f3c...          with sessionAffinity
//!        v                    v
//!    numgen inc mod 3       client in @client-... ? goto its pin-...
//!      vmap { 0 : pick-0    else numgen random mod 3 vmap { 0 : pin-..., ... }
//!             1 : pick-1                |
//!             2 : pick-2 }              v
//!        |                            update @client-... { client }
//!        v                            dnat to 10.244.1.10:53
//!    dnat to protocol . address . port map @endpoint-1, else to protocol . port map @node-endpoint-1
//!
//!  postrouting:  marked, or source . destination in @hairpin: masquerade
//! ```
//!
//! - **Flat.** A Service is one element of `services`, and one of `endpoint-0`, `endpoint-1`...
//!   for each endpoint. Chains are for numbers of endpoints, and shared by all Services that have
//!   as many. A change of endpoints is a change of elements, in one transaction for both families,
//!   which is told to the kernel by netlink; all else is text for `nft`.
//!   10,000 Services load in half a second, where a chain for each takes sixteen.
//! - **In front of the shared chains** stand others that mark what is to be masqueraded, or that ask
//!   where a client is: those who ask a ClusterIP and are no pods are masqueraded, and those who come
//!   from outside by another address may have maps of their own (`way`). A node port is in maps without an address. Who is not let in, or has no endpoint
//!   under externalTrafficPolicy Local, is not translated, and `capture` drops it.
//! - **Turns are taken in 16 groups** (`rr-3-00` to `rr-3-0f`, by the ClusterIP's last bits) and not
//!   by each Service, so that two Services which one client asks in turn do not share a turn.
//! - **loadBalancerSourceRanges need a chain** for each Service that has some.
//! - **sessionAffinity needs chains of its own**: one for the Service and one with a set of clients
//!   for each endpoint, as in kube-proxy's nftables mode, with the same meaning: an entry lasts
//!   for the timeout since the client's last new connection, and goes with its endpoint.
//! - **Names of chains with content are hashes of that content**, so that what a predecessor left
//!   is known by the names alone; a start with unchanged Services writes nothing.
//!
//! # What others may rely on
//!
//! The name of the table. What is in it may change with any version; a start with another layout
//! replaces it in one transaction, in which established flows go on.
//!
//! # Which way it errs
//!
//! When something fails, what is in place stays: old endpoints rather than none. Nothing is taken
//! away when the process ends, however it ends; [`cleanup()`] does that.

mod change;
mod cleanup;
mod conntrack;
mod contents;
mod elements;
mod error;
mod kernel_path;
mod key;
mod layout;
mod listing;
mod netlink;
mod nft;
mod order;
mod ranges;
mod script;
mod sticky;
#[cfg(test)]
mod testing;
mod way;

pub use cleanup::cleanup;
pub use error::Error;
pub use kernel_path::{Applied, Config, KernelPath, Reconciled};
pub use layout::TABLE;
pub use ranges::Ranges;
