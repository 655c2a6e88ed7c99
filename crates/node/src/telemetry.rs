//! The log: tracing events on standard error.

use tracing_subscriber::filter::LevelFilter;

use crate::cli::{LogFormat, LogOptions};

/// Starts logging. Panics of any thread are logged as errors too.
pub(crate) fn init(options: &LogOptions) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(options.verbosity))
        .with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(panic = %panic, "a task failed on a broken invariant");
    }));
}
