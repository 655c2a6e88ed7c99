//! streamvs-accept.
