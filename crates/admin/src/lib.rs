//! streamvs-admin.
