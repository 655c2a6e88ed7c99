//! tests/flow.
