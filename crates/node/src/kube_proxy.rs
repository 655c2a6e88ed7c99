//! kube-proxy's face: each of its flags and of its configuration file's fields, and what becomes of
//! it here.
//!
//! ```text
//! file --[file]--> fields --+-- have a flag of ours --> put before the command line's own flags
//!                           +-- have no effect     --> a warning each, with the reason
//! flags without effect ------------------------------> a warning each, with the reason
//! ```
//!
//! [`settings::SETTINGS`] is the only place that knows the names. docs/flags.md has the same table,
//! and a test compares them.

pub(crate) mod effective;
pub(crate) mod file;
pub(crate) mod kind;
pub(crate) mod node;
pub(crate) mod presence;
pub(crate) mod settings;

#[cfg(test)]
mod tests;
