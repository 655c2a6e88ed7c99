//! tests/netns.
