//! The commands that look or tidy up and then end.

use std::io::Write as _;
use std::time::Duration;

use streamvs_admin::list::{self, Columns};

use crate::app::control_runtime;
use crate::cli::{CleanupOptions, ListOptions, OutputFormat};
use crate::error::Error;
use crate::telemetry;

/// Over this time `--rate` measures.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// `streamvs list`.
pub(crate) fn list(options: &ListOptions) -> Result<(), Error> {
    let text = control_runtime()?.block_on(listing(options))?;
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)
}

async fn listing(options: &ListOptions) -> Result<String, Error> {
    let fetch = async || list::fetch(&options.admin_socket).await.map_err(Error::Admin);
    let services = fetch().await?;
    if options.output == OutputFormat::Json {
        let json = serde_json::to_string_pretty(&services);
        return json.map(|json| json + "\n").map_err(|error| Error::Output(error.into()));
    }
    if options.rate {
        let before = services;
        tokio::time::sleep(RATE_PERIOD).await;
        let services = fetch().await?;
        let columns = Columns::Rate { before: &before, elapsed: RATE_PERIOD };
        return Ok(list::render_text(&services, columns));
    }
    let columns = if options.stats { Columns::Stats } else { Columns::Load };
    Ok(list::render_text(&services, columns))
}

/// `streamvs cleanup`.
pub(crate) fn cleanup(options: &CleanupOptions) -> Result<(), Error> {
    telemetry::init(&options.log);
    let removed =
        control_runtime()?.block_on(streamvs_capture::cleanup()).map_err(Error::Capture)?;
    let mut output = std::io::stdout().lock();
    for item in &removed {
        writeln!(output, "removed {item}").map_err(Error::Output)?;
    }
    if removed.is_empty() {
        writeln!(output, "nothing to remove").map_err(Error::Output)?;
    }
    Ok(())
}
