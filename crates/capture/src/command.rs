//! One run of another program: input, output, a deadline, and an error that keeps everything.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;

/// Longest run of one program. Restoring 55,000 foreign rules took iptables-nft 7.5 s, and ours
/// are a dozen; the rest is the wait for another program's lock and a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where administrators' programs live when `PATH` does not say so (a service's often does not).
const USUAL_PLACES: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Finished {
    command: String,
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Finished {
    /// Its output, if it succeeded.
    pub(crate) fn success(self) -> Result<String, Error> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(Error::Failed { command: self.command, status: self.status, stderr: self.stderr })
        }
    }

    /// Its output, or nothing where it ended with `code`: how iptables and ipset say that the
    /// thing asked for does not exist.
    pub(crate) fn success_or_absent(self, code: i32) -> Result<Option<String>, Error> {
        if self.status.code() == Some(code) {
            return Ok(None);
        }
        self.success().map(Some)
    }

    /// It succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// What it wrote to stderr.
    pub(crate) fn stderr(&self) -> &str {
        &self.stderr
    }
}

/// Runs `program` in the calling thread's network namespace, gives it `input`, waits for its end.
///
/// # Errors
/// It could not be started, or ran longer than [`DEADLINE`] and was killed. How it ended is for
/// the caller to judge.
///
/// # Cancel safety
/// When dropped, the program is killed; iptables and ipset leave each transaction whole.
pub(crate) async fn run(program: &Path, args: &[&str], input: &str) -> Result<Finished, Error> {
    let command = format!("{} {}", program.display(), args.join(" "));
    let finished = tokio::time::timeout(DEADLINE, talk(program, args, input)).await;
    match finished {
        Ok(Ok(output)) => Ok(Finished {
            command,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        Ok(Err(source)) => Err(Error::Start { command, source }),
        Err(_) => Err(Error::TimedOut { command, after: DEADLINE }),
    }
}

async fn talk(
    program: &Path,
    args: &[&str],
    input: &str,
) -> Result<std::process::Output, std::io::Error> {
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A program that fails early closes its input: its status and stderr tell why.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    output
}

/// The program's path, from `PATH` or the usual places.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(USUAL_PLACES.iter().map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh() -> PathBuf {
        find("sh").expect("a shell is installed")
    }

    #[tokio::test]
    async fn failure_keeps_command_status_and_stderr() {
        let script = "cat >&2; exit 3";
        let finished = run(&sh(), &["-c", script], "went wrong\n").await.expect("it starts");
        match finished.success() {
            Err(error @ Error::Failed { .. }) => {
                let text = error.to_string();
                assert!(text.contains("sh -c cat"), "{text}");
                assert!(text.contains("exit status: 3"), "{text}");
                assert!(text.ends_with("went wrong"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn absent_is_told_from_failed_by_the_code() {
        let ended = |code: i32| async move {
            let script = format!("exit {code}");
            run(&sh(), &["-c", &script], "").await.expect("it starts").success_or_absent(1)
        };
        assert_eq!(ended(0).await.expect("success"), Some(String::new()));
        assert_eq!(ended(1).await.expect("absent"), None);
        assert!(ended(4).await.is_err());
    }

    #[tokio::test]
    async fn large_input_and_output_do_not_deadlock() {
        let input = "x".repeat(1 << 20);
        let finished = run(&sh(), &["-c", "cat"], &input).await.expect("it starts");
        assert_eq!(finished.success().expect("success").len(), input.len());
    }

    #[tokio::test]
    async fn program_that_does_not_read_its_input_still_reports() {
        let input = "x".repeat(1 << 20);
        let finished = run(&sh(), &["-c", "exit 2"], &input).await.expect("it starts");
        assert!(!finished.succeeded());
        assert_eq!(finished.stderr(), "");
    }

    #[test]
    fn unknown_program_is_not_found() {
        assert_eq!(find("streamvs-no-such-program"), None);
    }
}
