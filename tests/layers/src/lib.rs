//! tests/layers.
