//! Capture: new connections to Services leave their way and come to the proxy's listener.
//!
//! What comes in: which service addresses are captured, refused or dropped ([`Desired`]). What
//! goes out: rules, sets and routes in the kernel, and for each accepted connection the address
//! its client dialled ([`original_destination`]). Never here: endpoints, sockets of the data path,
//! the choice of anything. Privilege ends at this crate's border.
//!
//! # A packet's walk
//!
//! Netfilter shows a packet to the chains of its hooks in turn; the nat table only sees the first
//! packet of a connection, and the kernel repeats its decision for the rest.
//!
//! ```text
//!  from a pod or from outside                          from a process of the node
//!  SYN 10.244.1.10 -> 10.96.0.1:80                     SYN 192.0.2.10 -> 10.96.0.1:80
//!            |                                                   |
//!            |                                          route to 10.96.0.1?
//!            |                                          by default, or ours over lo (link)
//!            v                                                   v
//!  gate: of a new TCP connection, mark bit 0x4           gate (the same)
//!            |                                                   |
//!            v                                                   v
//!  nat PREROUTING                                        nat OUTPUT
//!    1. STREAMVS-CAPTURE                                   1. STREAMVS-CAPTURE
//!         without the gate's bit: return                        (the same rules)
//!         TCP, without our mark, in streamvs4/6 ----.                            ------.
//!    2. KUBE-SERVICES (kube-proxy, if there)        |      2. KUBE-SERVICES            |
//!            |                                      |            |                     |
//!        not captured                           captured     not captured          captured
//!            |               destination becomes 169.254.83.86 |                       |
//!            |               (fdf2:43cb:12db:5356::1) : listen |                       |
//!            v                        port                   | v                       v
//!         routing ------------------------------------->     filter OUTPUT          routing
//!            |   not local              | local                1. STREAMVS-REFUSE  (again, to lo)
//!            v                          v                                              |
//!  filter FORWARD              filter INPUT  <-----------------------------------------'
//!    1. STREAMVS-FORWARD         1. STREAMVS-INPUT
//!         STREAMVS-REFUSE             captured: ACCEPT, whatever the node's policy
//!         to lo: no route             SYN to the listen port otherwise: reset
//!            |                        STREAMVS-REFUSE
//!            v                          v
//!         onwards                  the listener: original_destination() = 10.96.0.1:80
//!
//!  from a socket of ours, bound to a client's alias
//!  SYN 198.18.0.10 -> 10.244.2.11:9000
//!    filter OUTPUT, routing, then nat POSTROUTING
//!      1. STREAMVS-ALIAS
//!           from an alias, with our mark: the client's address takes its place (NETMAP)
//!
//!  STREAMVS-REFUSE, for the first packet of a connection:
//!    in streamvs-reject4/6: TCP reset, or "port unreachable"    in streamvs-drop4/6: silence
//! ```
//!
//! - **Later packets cost little.** Of an established connection INPUT looks at three rules,
//!   FORWARD at two, OUTPUT at one, and nothing looks into a set.
//! - **One rule for all Services.** Rules name ipsets; only (address, port) elements change, one
//!   `ipset` run for each change, and never because of an endpoint.
//! - **An address of our own, not REDIRECT.** REDIRECT sends a packet to the address of the
//!   interface it came by, and drops it silently where there is none: so it is with IPv4 on the
//!   point-to-point veths of Calico and others. (IPv6 finds the link-local address.) Interfaces
//!   and addresses come and go; instead of watching them, captured packets go to an address that
//!   is always there: [`LISTENER_V4`] and [`LISTENER_V6`], made local by one route each
//!   (`ip route add local 169.254.83.86 dev lo`). They are not bound to an interface, are never a
//!   source address of other traffic, and the listener on `[::]` hears them.
//! - **Captured only while we live.** See [`Gate`].
//! - **Or nftables.** Next to kube-proxy's nftables mode the same rules stand in tables of their own,
//!   `ip` and `ip6 streamvs-capture`, before its own ([`Backend`]).
//! - **No loops.** The proxy's sockets carry the mark ([`Config::mark`]) and pass uncaptured.
//! - **The listener is not for others.** Whoever dials the listen port himself, on whatever
//!   address and interface, `lo` too, gets a reset: only a connection whose destination was
//!   translated on this node passes. A health check of the listener must therefore ask the
//!   process (`/healthz`), or dial a service address. Only SYNs are refused, so that a client
//!   socket of the node that happens to have the listen port as its own port goes on.
//! - **First in line.** Jumps are inserted at the first place, before KUBE-SERVICES. An audit
//!   tolerates jumps to chains of others in front of ours (some insist on the first place, and two
//!   that do would fight for ever), but neither verdicts nor, in nat, kube-proxy's chains.
//! - **Refusal.** A Service without endpoints is in no nat rule; its packets go on to FORWARD or
//!   OUTPUT (or INPUT, where a service address is local) and are answered there. Both need a route
//!   first. Host processes always have one ([`link`](crate::ROUTE_PROTOCOL) adds it); so do pods
//!   in IPv4. A node without any IPv6 route to its service range answers pods' packets to a refused
//!   IPv6 Service by "no route" instead of a reset: Linux never forwards IPv6 to `lo`.
//! - **The routes over `lo`** exist only for what nothing else routes, see
//!   [`Config::service_cidrs`]. What pods send to an unknown address there is answered by
//!   "network unreachable" in STREAMVS-FORWARD; without that it would go round `lo` until its TTL
//!   ends.
//!
//! - **Endpoints see the client.** The relay dials for a client of [`Desired::aliases`] from its
//!   alias, which one route makes the node's own (`ip route add local 198.18.0.0/24 dev lo`), and
//!   connection tracking translates both ways: nothing else is needed for answers to come back,
//!   and it finds another port where the client has a connection with the same one. Only sockets
//!   with our mark are translated, so that no pod passes for another by taking an alias as source.
//!   Programs that look at the node's OUTPUT chain see the alias, everybody behind it the client.
//!   What keeps an alias from being used is told as an [`Obstacle`].
//! - **Clients outside have no alias.** For those the relay binds their own address, and answers of
//!   this node's pods to it are led to its socket: tables `ip` and `ip6 streamvs-reply`, one
//!   `ip rule` for each family, and one route in a table of its own ([`Desired::transparent`]).
//!
//! # What comes from outside
//!
//! STREAMVS-CAPTURE asks STREAMVS-SERVICES, in this order:
//!
//! | set | whose connections are captured |
//! | --- | --- |
//! | `streamvs-guarded4/6` and not `streamvs-allowed4/6` | nobody's: loadBalancerSourceRanges do not name the source |
//! | `streamvs4/6` | everybody's: ClusterIPs, load balancers' addresses, externalIPs |
//! | `streamvs-inner4/6` | those of pods (`streamvs-pods4/6`) and of the node; others are in `streamvs-drop4/6` |
//! | `streamvs-node4/6` | everybody's, to a local address: node ports |
//! | `streamvs-node-inner4/6` | those of pods and of the node; others are in `streamvs-node-drop4/6` |
//!
//! - **Node ports are (range, port).** An element holds a range of the node's addresses, so that
//!   one set says both where node ports are served and which there are. A port that is none of a
//!   Service's is nobody's here, and addresses of Services come first.
//! - **Loopback works without `route_localnet`**: the translated packet goes by `lo` to an address
//!   of the node.
//! - **Source ranges** guard the load balancer's address and not the node port, and are asked in
//!   the kernel.
//! - **Health check ports** (`streamvs-health4/6`) are let in whatever the node's policy, for the
//!   first packet of a connection.
//!
//! # What others may rely on
//!
//! The names `STREAMVS-*` (chains), `streamvs*` (sets, nftables tables) and route protocol 83 are ours in any
//! version, and [`cleanup()`] removes all that have them. The order of our rules, and the names
//! behind the prefix, may change.
//!
//! # Which way it errs
//!
//! When something fails, what is in place stays in place: stale capture serves old Services
//! rather than none. Audits ([`Capture::audit`]) find and mend what others flushed.

mod alias;
mod backend;
mod capture;
mod check;
mod cleanup;
mod command;
mod created;
mod desired;
mod error;
mod gate;
mod ipset;
mod kube_proxy;
mod link;
mod listing;
mod nft;
mod original_dst;
mod render;
mod repair;
mod reply;
mod ruleset;
mod sets;
mod tools;

pub use alias::Obstacle;
pub use backend::{Backend, Capture, Method};
pub use capture::Config;
pub use check::{Finding, Verdict, check};
pub use cleanup::cleanup;
pub use desired::Desired;
pub use error::{ConfigError, Error, RouteAttempt};
pub use gate::{BEAT, Gate, GateConfig, Switch};
pub use kube_proxy::cleanup_kube_proxy;
pub use link::PROTOCOL as ROUTE_PROTOCOL;
pub use listing::JumpDamage;
pub use original_dst::original_destination;
pub use repair::{Removed, Repair};
pub use reply::answer_bit;
pub use ruleset::{LISTENER_V4, LISTENER_V6};
pub use sets::SetDamage;
pub use tools::{Flavour, Tools};
