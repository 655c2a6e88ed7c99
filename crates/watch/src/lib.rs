//! streamvs-watch.
