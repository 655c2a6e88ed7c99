//! streamvs-detect.
