//! How ready the kernel is to kill this process when memory is short.

/// Sets it, for this process and what it starts. Lowering needs CAP_SYS_RESOURCE: without it the
/// process goes on with what it has, as kube-proxy does.
pub(crate) fn adjust(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(score, error = %error, "cannot set --oom-score-adj");
    }
}
