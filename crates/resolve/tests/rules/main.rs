//! The rules of a service proxy, each proved by cases named after it.
//!
//! Aim: what kube-proxy and the KEPs promise holds, word by word. Method: objects go through the
//! public `Resolver` and the resulting table is compared whole; cases are data, run through one
//! `check` for each kind of rule.

mod arbitrary;
mod changes;
mod endpoints;
mod external;
mod given;
mod order;
mod protocol;
mod reasons;
mod services;
mod slices;
mod updates;
