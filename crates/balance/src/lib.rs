//! streamvs-balance.
