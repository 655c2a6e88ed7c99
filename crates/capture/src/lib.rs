//! streamvs-capture.
