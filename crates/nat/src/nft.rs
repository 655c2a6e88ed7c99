//! The program `nft`: a script in, its answer out, each script one transaction.
//!
//! A process for each script, which costs 5 to 7 ms with 50,000 elements in place. Changes of few
//! elements alone, which come most often, go past it ([`Script`](crate::script::Script)).

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use streamvs_table::Family;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;
use crate::layout::{self, TABLE};

/// Longest run. 250,000 endpoints load in 2.5 s on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Where it is when `PATH` does not say so.
const USUAL_PLACES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Lists all tables with their chains, and so without their elements: to `list tables` nft 1.0
/// reads all elements too, which takes half a second with 60,000.
const LIST_TABLES: [&str; 2] = ["list", "chains"];

/// The program, found.
#[derive(Clone, Debug)]
pub(crate) struct Nft {
    path: PathBuf,
}

impl Nft {
    pub(crate) fn locate() -> Result<Self, Error> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = USUAL_PLACES.iter().map(PathBuf::from);
        let mut candidates =
            std::env::split_paths(&path).chain(usual).map(|place| place.join("nft"));
        let path = candidates.find(|path| path.is_file()).ok_or(Error::NftMissing)?;
        Ok(Self { path })
    }

    /// Commits a script; an empty one costs nothing.
    pub(crate) async fn commit(&self, script: &str) -> Result<(), Error> {
        if script.is_empty() {
            return Ok(());
        }
        let output = self.run(&["-f", "-"], script).await?;
        success(output).map(drop)
    }

    /// Says what is missing where the kernel cannot do what the rules of a family need.
    pub(crate) async fn probe(&self, family: Family, mark: u32) -> Result<(), Error> {
        let tables = self.run(&LIST_TABLES, "").await?;
        if !tables.status.success() {
            return Err(Error::NoNftables { stderr: stderr(&tables) });
        }
        // Checked by the kernel, and not committed. Beginning anew, for what a table of this name
        // holds now may be another version's or somebody else's, and will be replaced.
        let table = format!("table {} {TABLE}", layout::word(family));
        let probe = layout::probe(family, mark);
        let script = format!("add {table}\ndelete {table}\n{probe}");
        let checked = self.run(&["-c", "-f", "-"], &script).await?;
        if !checked.status.success() {
            return Err(Error::Unsupported { family, stderr: stderr(&checked) });
        }
        Ok(())
    }

    /// All tables, as in `table ip nat`.
    pub(crate) async fn tables(&self) -> Result<Vec<String>, Error> {
        let listed = success(self.run(&LIST_TABLES, "").await?)?;
        let tables = listed.lines().filter(|line| line.starts_with("table "));
        Ok(tables.map(|line| line.trim_end_matches(" {").to_owned()).collect())
    }

    /// Our table as text with plain numbers, with the elements of all maps and sets or without;
    /// none where there is no such table.
    pub(crate) async fn list(
        &self,
        family: Family,
        elements: bool,
    ) -> Result<Option<String>, Error> {
        let tables = self.tables().await?;
        let ours = format!("table {} {TABLE}", layout::word(family));
        if !tables.contains(&ours) {
            return Ok(None);
        }
        let terse: &[&str] = if elements { &[] } else { &["-t"] };
        let listing = [&["-n"], terse, &["list", "table", layout::word(family), TABLE]].concat();
        success(self.run(&listing, "").await?).map(Some)
    }

    /// # Cancel safety
    /// When dropped, the program is killed; its transaction is whole or was not begun.
    async fn run(&self, arguments: &[&str], script: &str) -> Result<Output, Error> {
        let run = async {
            let mut child = Command::new(&self.path)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let mut stdin = child.stdin.take().expect("its input is a pipe");
            let feed = async move {
                // A program that ends early closes its input; its status tells why.
                let _ = stdin.write_all(script.as_bytes()).await;
            };
            tokio::join!(feed, child.wait_with_output()).1
        };
        match tokio::time::timeout(DEADLINE, run).await {
            Ok(output) => output.map_err(Error::Start),
            Err(_) => Err(Error::TimedOut(DEADLINE)),
        }
    }
}

fn success(output: Output) -> Result<String, Error> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::Failed { status: output.status, stderr: stderr(&output) })
    }
}

/// The first lines of what it wrote: with a large script it repeats all of it.
fn stderr(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().take(4).map(|line| line.chars().take(300).collect::<String>() + "\n").collect()
}
