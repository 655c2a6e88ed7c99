//! Runs `ipset`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::Error;
use crate::command::{find, run};
use crate::sets::{self, Contents, Found, SetName};

/// The `ipset` program.
#[derive(Clone, Debug)]
pub(crate) struct Ipset {
    program: PathBuf,
}

impl Ipset {
    /// Finds it.
    ///
    /// # Errors
    /// It is not installed.
    pub(crate) fn locate() -> Result<Self, Error> {
        match find("ipset") {
            Some(program) => Ok(Self { program }),
            None => Err(Error::ToolMissing { program: "ipset".to_owned(), package: "ipset" }),
        }
    }

    /// The names of all sets, of whomever.
    pub(crate) async fn names(&self) -> Result<BTreeSet<String>, Error> {
        let listed = run(&self.program, &["list", "-n"], "").await?.success()?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// What the wanted sets hold now; those that do not exist are left out.
    pub(crate) async fn read(
        &self,
        names: &BTreeSet<String>,
        want: &Contents,
    ) -> Result<BTreeMap<SetName, Found>, Error> {
        let mut found = BTreeMap::new();
        for &name in want.keys().filter(|name| names.contains(name.as_str())) {
            let saved = run(&self.program, &["save", name.as_str()], "").await?.success()?;
            found.insert(name, sets::parse(name, &saved));
        }
        Ok(found)
    }

    /// Runs a script. It is no transaction: lines before a failing one have been done.
    pub(crate) async fn restore(&self, script: &str) -> Result<(), Error> {
        if script.is_empty() {
            return Ok(());
        }
        run(&self.program, &["-exist", "restore"], script).await?.success().map(drop)
    }
}
