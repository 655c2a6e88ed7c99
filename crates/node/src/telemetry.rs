//! The log: tracing events on standard error.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::cli::{LogFormat, LogOptions};

/// By which the verbosity changes while the program runs.
#[derive(Clone, Debug)]
pub(crate) struct Verbosity(reload::Handle<Targets, Registry>);

impl Verbosity {
    pub(crate) fn set(&self, level: tracing::Level) {
        // Fails only when the log is gone, and then nobody would read of it.
        let _ = self.0.reload(filter(level));
    }
}

/// What is logged at a verbosity. The client for the API server warns of each connection that
/// ends; of what ends for longer `watch` tells itself, once, so the client is heard from `debug` on.
fn filter(level: tracing::Level) -> Targets {
    let client = if level >= tracing::Level::DEBUG { LevelFilter::DEBUG } else { LevelFilter::OFF };
    Targets::new().with_default(level).with_target("kube_client", client)
}

/// Starts logging. Panics of any thread are logged as errors too.
pub(crate) fn init(options: &LogOptions) -> Verbosity {
    let (filter, verbosity) = reload::Layer::new(filter(options.verbosity));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match options.log_format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(panic = %panic, "a task failed on a broken invariant");
    }));
    Verbosity(verbosity)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_client_is_heard_from_debug_on() {
        for (verbosity, client) in [(Level::INFO, false), (Level::DEBUG, true)] {
            let filter = filter(verbosity);
            assert!(filter.would_enable("streamvs_watch", &Level::WARN));
            assert_eq!(filter.would_enable("kube_client::client", &Level::WARN), client);
        }
    }
}
