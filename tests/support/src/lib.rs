//! tests/support.
