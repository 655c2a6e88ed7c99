//! SIGHUP: the command line and the file it names are read again, and what may change while the
//! program runs does.

use std::ffi::OsString;
use std::rc::Rc;
use std::sync::Arc;

use streamvs_admin::Pages;
use streamvs_table::publish::Publisher;

use crate::cli::Command;
use crate::control::Plans;
use crate::invocation::{self, Invocation, Refusal, Settings};
use crate::telemetry::Verbosity;

/// Flags that take effect at once.
const LIVE: [&str; 2] = ["ipvs-scheduler", "v"];

/// What a reload changes.
pub(crate) struct Reload {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) settings: Settings,
    pub(crate) plans: Rc<Plans>,
    pub(crate) verbosity: Verbosity,
    pub(crate) pages: Publisher<Pages>,
}

impl Reload {
    /// Reads again. What is wrong is logged, and changes nothing.
    pub(crate) fn run(&mut self) {
        let invocation = match invocation::read(self.arguments.clone()) {
            Ok(invocation) => invocation,
            Err(Refusal::File(fault)) => {
                return tracing::error!(%fault, "configuration is not reloaded");
            }
            Err(Refusal::Usage(error)) => {
                return tracing::error!(%error, "configuration is not reloaded");
            }
        };
        let Invocation { command: Command::Run(options), notices, settings } = invocation else {
            return;
        };
        for notice in notices {
            tracing::warn!("{notice}");
        }
        self.verbosity.set(options.log.verbosity);
        let mut changed = Vec::new();
        for (flag, value) in &settings.flags {
            if self.settings.flags.get(flag) == Some(value) {
                continue;
            }
            if LIVE.contains(&flag.as_str()) {
                changed.push(flag.as_str());
            } else {
                tracing::warn!(flag, value, "changed, and takes effect at the next start only");
            }
        }
        if changed.contains(&"ipvs-scheduler") {
            self.plans.set_scheduler(options.ipvs_scheduler);
        }
        tracing::info!(changed = changed.join(","), "configuration reloaded");
        self.take(settings);
    }

    /// Only what is live is in force, and shown.
    fn take(&mut self, settings: Settings) {
        for flag in LIVE {
            if let Some(value) = settings.flags.get(flag) {
                self.settings.flags.insert(flag.to_owned(), value.clone());
            }
        }
        for section in ["ipvs", "logging"] {
            let field = if section == "ipvs" { "scheduler" } else { "verbosity" };
            let new = settings.configuration.get(section).and_then(|fields| fields.get(field));
            let fields = self.settings.configuration.get_mut(section);
            if let (Some(new), Some(fields)) =
                (new, fields.and_then(|fields| fields.as_object_mut()))
            {
                fields.insert(field.to_owned(), new.clone());
            }
        }
        let pages = Pages {
            configuration: self.settings.configuration.clone(),
            flags: self.settings.flags.clone(),
            started: self.pages.current().started,
        };
        self.pages.publish(Arc::new(pages));
    }
}
