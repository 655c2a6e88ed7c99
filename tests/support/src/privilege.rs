//! What a privileged test needs, and the only way to go on without it.
//!
//! Without root or a tool a test fails: silence would look like success. `SWITCH=1` turns that
//! failure into a line that starts with `SKIPPED`, which `scripts/test` counts.

use std::path::{Path, PathBuf};

/// The environment variable which turns missing privilege into a skip that is printed.
pub const SWITCH: &str = "STREAMVS_SKIP_PRIVILEGED";

/// What is missing here, in words; empty when nothing is.
pub fn missing(tools: &[&str]) -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    missing.extend(
        tools.iter().filter(|tool| find(tool).is_none()).map(|tool| format!("the program {tool}")),
    );
    missing
}

/// Where a program is: an absolute path as it stands, a name by `PATH` and the `sbin` folders.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// True when the test named `test` may go on.
///
/// # Panics
/// When something is missing and [`SWITCH`] is not `1`.
#[track_caller]
pub fn granted(test: &str, tools: &[&str]) -> bool {
    let missing = missing(tools);
    if missing.is_empty() {
        return true;
    }
    let reason = missing.join(", ");
    assert!(
        std::env::var_os(SWITCH).is_some_and(|value| value == "1"),
        "{test} needs {reason}; set {SWITCH}=1 to skip it"
    );
    // Not println: the test harness hides that of a passing test, and a skip must be seen.
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED {test}: needs {reason}");
    false
}

/// Returns from the calling test, with a printed skip, where privilege or a tool is missing.
///
/// `needs!("ip", "iptables")`; see [`granted`].
#[macro_export]
macro_rules! needs {
    ($($tool:expr),* $(,)?) => {
        if !$crate::privilege::granted(
            std::thread::current().name().unwrap_or(module_path!()),
            &[$($tool),*],
        ) {
            return;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        let missing = missing(&["sh", "streamvs-no-such-program"]);
        assert!(missing.contains(&"the program streamvs-no-such-program".to_owned()));
        assert!(!missing.contains(&"the program sh".to_owned()));
    }
}
