//! What the resolver has to say of objects, for the log.

use streamvs_resolve::Notice;

pub(crate) fn tell(notices: Vec<Notice>) {
    for notice in notices {
        tracing::warn!(%notice, "object is not used as written");
    }
}
