//! The commands that look or tidy up and then end.

use std::io::Write as _;
use std::time::Duration;

use streamvs_admin::explain::{self, Explanation};
use streamvs_admin::list::{self, Columns};

use crate::app::control_runtime;
use crate::cli::values::ServiceArgument;
use crate::cli::{ExplainOptions, ListOptions, LogOptions, OutputFormat, RunOptions};
use crate::error::Error;
use crate::invocation::Settings;
use crate::kube_proxy::presence;
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

/// `streamvs explain`.
pub(crate) fn explain(options: &ExplainOptions) -> Result<(), Error> {
    let ServiceArgument { namespace, name } = &options.service;
    let asking = explain::fetch(&options.admin_socket, namespace, name);
    let explanation = control_runtime()?.block_on(asking).map_err(Error::Admin)?;
    let text = match options.output {
        OutputFormat::Text => explain::render_text(&explanation),
        OutputFormat::Json => {
            serde_json::to_string_pretty(&explanation)
                .map_err(|error| Error::Output(error.into()))?
                + "\n"
        }
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)?;
    match explanation {
        Explanation::Unknown { .. } => Err(Error::UnknownService),
        Explanation::Served { .. } | Explanation::Unserved { .. } => Ok(()),
    }
}

/// `streamvs cleanup`.
///
/// With `--kube-proxy` it leaves an agent's own rules alone: switching over is done under one.
pub(crate) fn cleanup(log: &LogOptions, of_kube_proxy: bool) -> Result<(), Error> {
    telemetry::init(log);
    let runtime = control_runtime()?;
    let removed = if of_kube_proxy {
        if let Some(port) = presence::kube_proxy_port() {
            return Err(Error::KubeProxyRuns { port });
        }
        let removed = runtime.block_on(streamvs_capture::cleanup_kube_proxy());
        removed.map_err(Error::Capture)?.iter().map(ToString::to_string).collect()
    } else {
        runtime.block_on(everything_removed())?
    };
    let mut output = std::io::stdout().lock();
    for item in &removed {
        writeln!(output, "removed {item}").map_err(Error::Output)?;
    }
    if removed.is_empty() {
        writeln!(output, "nothing to remove").map_err(Error::Output)?;
    }
    Ok(())
}

/// Capture first: what it falls back to is there until it is gone.
async fn everything_removed() -> Result<Vec<String>, Error> {
    let captured = streamvs_capture::cleanup().await.map_err(Error::Capture)?;
    let mut removed: Vec<String> = captured.iter().map(ToString::to_string).collect();
    match streamvs_nat::cleanup().await {
        Ok(tables) => removed.extend(tables),
        // A warning has said already that no table can be looked for.
        Err(streamvs_nat::Error::NftMissing) => {}
        Err(error) => return Err(Error::KernelPath(error)),
    }
    Ok(removed)
}

/// `streamvs run` with `--write-config-to` or `--init-only`.
pub(crate) fn instead_of_run(options: &RunOptions, settings: &Settings) -> Result<(), Error> {
    if let Some(path) = &options.write_config_to {
        let yaml = serde_saphyr::to_string(&settings.configuration)
            .expect("a mapping of texts and numbers is YAML");
        return std::fs::write(path, yaml)
            .map_err(|source| Error::WriteConfig { path: path.clone(), source });
    }
    // kube-proxy sets kernel limits here that its service mode then cannot set.
    let text = "nothing to set up: streamvs needs its capabilities (NET_ADMIN, NET_RAW) for as \
                long as it runs, and none before\n";
    std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)
}
