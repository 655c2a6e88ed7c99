//! streamvs-resolve.
