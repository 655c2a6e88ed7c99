//! streamvs-relay.
