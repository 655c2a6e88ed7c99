//! How the API server is reached: by which address, as whom, and past our own capture.
//!
//! Connections carry our mark (`SO_MARK`), so that no rule of ours ever captures them, whatever
//! address they go to. `HTTPS_PROXY` and the like are not looked at: a node agent that goes through
//! somebody else's proxy by an accident of its environment is worse than one that does not start.
//!
//! The client is built anew after failures, at most every [`RENEWAL_PAUSE`], so that a rotated
//! certificate, a rewritten kubeconfig or a token that came late is picked up. Token files are read
//! again each minute by the client itself, and so is the CA file in a pod.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::task;
use tower::{BoxError, ServiceBuilder};

use super::failure::Failure;
use crate::Error;

/// How long a TCP connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer that is gone without a word is noticed after 15 s + 3 x 5 s without an answer to a probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// The same bound for what was sent and not acknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Files are not read more often than this because of failures.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// How to reach the API server.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A kubeconfig file. None: the environment of a pod, unless there is a `master`.
    pub kubeconfig: Option<PathBuf>,
    /// The server's URL, instead of the kubeconfig's or the pod's.
    pub master: Option<String>,
    /// `SO_MARK` of our connections.
    pub mark: Option<u32>,
}

/// The API server and the client in use.
pub(crate) struct Server {
    access: Access,
    url: Uri,
    identity: String,
    current: Mutex<Current>,
}

struct Current {
    client: Option<Client>,
    /// When the files were last read.
    read_at: Instant,
}

impl Server {
    /// Reads the configuration. Connects to nothing.
    ///
    /// # Errors
    /// There is no configuration, or it is wrong.
    pub(crate) async fn new(access: Access) -> Result<Self, Error> {
        // Other crates of the program may bring another provider; then rustls wants to be told.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = load(&access).await.map_err(Error::Access)?;
        let identity = identity(&config);
        let url = config.cluster_url.clone();
        let client = build(config, access.mark).await.ok();
        let read_at = Instant::now();
        Ok(Self { access, url, identity, current: Mutex::new(Current { client, read_at }) })
    }

    /// The server's URL.
    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    /// What tells this cluster from others without asking it: URL and CA.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// A client; cheap to clone.
    ///
    /// # Errors
    /// The configuration cannot be read now, though it could at the start.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        if let Some(client) = self.current().client.clone() {
            return Ok(client);
        }
        let config = load(&self.access).await.map_err(Failure::Access)?;
        let client = build(config, self.access.mark).await?;
        let mut current = self.current();
        current.client = Some(client.clone());
        current.read_at = Instant::now();
        Ok(client)
    }

    /// Something failed: the next client shall be built of what the files say then.
    pub(crate) fn distrust(&self) {
        let mut current = self.current();
        if current.read_at.elapsed() >= RENEWAL_PAUSE {
            current.client = None;
        }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        // Nothing panics while the lock is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Why there is no configuration, or a wrong one.
#[derive(Debug)]
pub enum AccessError {
    /// Neither a kubeconfig nor a URL is given, and this is no pod.
    NotInCluster,
    /// The files of a pod's ServiceAccount cannot be used.
    InCluster(kube::config::InClusterError),
    /// The kubeconfig cannot be used.
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// The URL cannot be used.
    Master {
        /// The URL as given.
        url: String,
        /// What is wrong with it. None: it has no scheme or host.
        source: Option<http::uri::InvalidUri>,
    },
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInCluster => f.write_str(
                "this is no pod (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not \
                 set), so --kubeconfig, --master or --manifests is needed",
            ),
            Self::InCluster(source) => source.fmt(f),
            Self::Kubeconfig { path, source } => {
                write!(f, "kubeconfig {} cannot be used: {source}", path.display())
            }
            Self::Master { url, source: Some(source) } => {
                write!(f, "{url:?} is no URL: {source}")
            }
            Self::Master { url, source: None } => {
                write!(f, "{url:?} is no URL: https://HOST:PORT or http://HOST:PORT is needed")
            }
        }
    }
}

impl std::error::Error for AccessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotInCluster | Self::Master { source: None, .. } => None,
            Self::InCluster(source) => Some(source),
            Self::Kubeconfig { source, .. } => Some(source),
            Self::Master { source: Some(source), .. } => Some(source),
        }
    }
}

async fn load(access: &Access) -> Result<Config, AccessError> {
    let master = access.master.as_deref().map(parse_url).transpose()?;
    let mut config = match (&access.kubeconfig, &master) {
        (Some(path), _) => {
            let wrong = |source| AccessError::Kubeconfig { path: path.clone(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
        }
        (None, Some(url)) if env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            Config::new(url.clone())
        }
        (None, _) if env::var_os("KUBERNETES_SERVICE_HOST").is_none() => {
            return Err(AccessError::NotInCluster);
        }
        (None, _) => Config::incluster_env().map_err(AccessError::InCluster)?,
    };
    if let Some(url) = master {
        config.cluster_url = url;
    }
    config.proxy_url = None;
    Ok(config)
}

fn parse_url(url: &str) -> Result<Uri, AccessError> {
    let wrong = |source| AccessError::Master { url: url.to_owned(), source };
    let uri: Uri = url.parse().map_err(|source| wrong(Some(source)))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() => Ok(uri),
        _ => Err(wrong(None)),
    }
}

fn identity(config: &Config) -> String {
    let mut ca = crc32fast::Hasher::new();
    for certificate in config.root_cert.iter().flatten() {
        ca.update(certificate);
    }
    format!("{} {:08x}", config.cluster_url, ca.finalize())
}

/// Builds a client. An exec plugin of the kubeconfig may run for it, hence not on this thread.
async fn build(config: Config, mark: Option<u32>) -> Result<Client, Failure> {
    let make = move || {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_mark(mark);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(KEEPALIVE_IDLE));
        connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
        connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
        connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let https = config.rustls_https_connector_with_connector(connector)?;
        let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(https);
        let service = ServiceBuilder::new()
            .layer(config.base_uri_layer())
            .option_layer(config.auth_layer()?)
            .layer(config.extra_headers_layer()?)
            .map_err(BoxError::from)
            .service(http);
        Ok((service, config.default_namespace))
    };
    let made: Result<_, kube::Error> = match task::spawn_blocking(make).await {
        Ok(made) => made,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    };
    let (service, namespace) = made.map_err(Failure::Client)?;
    // A client starts a task, so it is made here, inside of the runtime.
    Ok(ClientBuilder::new(service, namespace).build())
}
