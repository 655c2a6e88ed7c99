//! What the tests stand on: a node made of network namespaces, peers, manifests, the agent.
//!
//! - [`lab`]: a node, its pods, a second node and a host outside, each a network namespace.
//! - [`manifest`]: writes the Service, EndpointSlice and Node files the agent watches.
//! - [`agent`]: the `streamvs` process under test.
//! - [`kube_rules`]: the iptables rules kube-proxy would write, to compare with.
//! - [`grpc`], [`tcp`], [`udp`]: endpoints and clients, in this process, inside a namespace each.
//! - [`memory_group`]: processes that may have so much memory and no more.
//! - [`process`]: peers nobody here wrote, as child processes inside a namespace.
//! - [`figure`]: what a test measured, for people to see.
//! - [`wait`]: waiting for a condition, bounded.
//!
//! Everything here is for tests, so what cannot be set up panics with the reason instead of
//! returning an error: a test that could not build its lab has failed. Never here: a decision of
//! the product, nor a way back into its crates (no crate depends on this one).

pub mod agent;
pub mod figure;
pub mod grpc;
pub mod http;
pub mod kube_rules;
pub mod lab;
pub mod manifest;
pub mod memory_group;
pub mod privilege;
pub mod process;
pub mod tcp;
pub mod udp;
pub mod wait;

/// The IP family, as the product names it.
pub use streamvs_table::Family;
