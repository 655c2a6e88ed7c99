//! The log: tracing events on standard error.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::cli::{LogFormat, LogOptions};

/// By which the verbosity changes while the program runs.
#[derive(Clone, Debug)]
pub(crate) struct Verbosity(reload::Handle<LevelFilter, Registry>);

impl Verbosity {
    pub(crate) fn set(&self, level: tracing::Level) {
        // Fails only when the log is gone, and then nobody would read of it.
        let _ = self.0.reload(LevelFilter::from_level(level));
    }
}

/// Starts logging. Panics of any thread are logged as errors too.
pub(crate) fn init(options: &LogOptions) -> Verbosity {
    let (filter, verbosity) = reload::Layer::new(LevelFilter::from_level(options.verbosity));
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
