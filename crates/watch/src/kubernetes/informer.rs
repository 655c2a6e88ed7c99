//! Lists one kind of objects, then watches it, for ever.
//!
//! ```text
//!          no version                    version known
//!   +--> streamed list ----------------------+
//!   |      | not understood                  v
//!   |      +---> list in pages ----------> watch --+--> ended in time, or lost: watch again
//!   |                                              |
//!   +------------ 410: history is gone <-----------+
//! ```
//!
//! A streamed list (KEP-3157) is a watch that begins with everything there is: it needs no memory
//! for pages and spares etcd. A server that does not know it, or not the field selector, is asked
//! more plainly. A second list starts from the version already seen, so that a server that lags
//! behind the one before does not take us back in time.
//!
//! Cancel safety: dropping the future closes its connection, and nothing else.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{TryStreamExt as _, pin_mut};
use kube::api::{Api, ListParams, VersionMatch, WatchParams};
use kube::core::WatchEvent;
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::failure::Failure;
use super::server::Server;

/// Objects in a page of a list: 250 slices of 100 endpoints are some 20 MiB while they are read.
const PAGE: u32 = 250;
/// The server ends a watch after a time between these, in seconds, so that connections move to new
/// servers by and by; nodes that began together do not begin again together.
const WATCH_SECONDS: std::ops::Range<u32> = 200..290;
/// Beyond the watch's own end nothing can come.
const WATCH_GRACE: Duration = Duration::from_secs(10);
/// For the head of an answer, or a page of a list.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two objects of a streamed list. A server that does not know such lists may take the
/// request for a plain watch, which never says that the list is done.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch that ended sooner, without an event, did not work.
const SHORT: Duration = Duration::from_secs(1);
/// The mark of a streamed list's end.
const LIST_END: &str = "k8s.io/initial-events-end";

/// What an informer tells.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// A list begins.
    Listing,
    /// The object is there, as it is now.
    Applied(K),
    /// The object is gone.
    Deleted(K),
    /// The list is done: what was not in it is gone.
    Listed,
    /// Changes are being watched.
    Watching,
    /// It does not work, and is tried again after a wait.
    Broken(Failure),
}

/// What to ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    pub(crate) labels: Option<String>,
    /// Must hold of all objects.
    pub(crate) fields: Option<String>,
    /// Spares objects nobody needs; left away where the server does not know the field.
    pub(crate) optional_fields: Option<String>,
}

/// One kind's list and watch.
#[derive(Debug)]
pub(crate) struct Informer<K, T> {
    server: Arc<Server>,
    selection: Selection,
    /// How an event is told apart from other kinds'.
    wrap: fn(Event<K>) -> T,
    events: mpsc::Sender<T>,
    /// Lists are streamed.
    streaming: bool,
    /// Everything up to here was told.
    version: Option<String>,
    /// The newest version seen, also when `version` was forgotten.
    seen: Option<String>,
    backoff: Backoff,
}

/// Nobody listens any more.
struct Unheard;

enum Stop {
    Failed(Failure),
    Unheard,
}

impl From<Unheard> for Stop {
    fn from(Unheard: Unheard) -> Self {
        Self::Unheard
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<kube::Error> for Stop {
    fn from(error: kube::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<K, T> Informer<K, T>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(crate) fn new(
        server: Arc<Server>,
        selection: Selection,
        wrap: fn(Event<K>) -> T,
        events: mpsc::Sender<T>,
    ) -> Self {
        Self {
            server,
            selection,
            wrap,
            events,
            streaming: true,
            version: None,
            seen: None,
            backoff: Backoff::default(),
        }
    }

    /// Tells events until nobody listens.
    pub(crate) async fn run(mut self) {
        loop {
            let failure = match self.cycle().await {
                Ok(()) => continue,
                Err(Stop::Unheard) => return,
                Err(Stop::Failed(failure)) => failure,
            };
            if self.adapt(&failure) {
                continue;
            }
            self.server.distrust();
            if self.tell(Event::Broken(failure)).await.is_err() {
                return;
            }
            sleep(self.backoff.fail(fastrand::f64())).await;
        }
    }

    /// One list where there is no version, and one watch.
    async fn cycle(&mut self) -> Result<(), Stop> {
        let api = Api::all(self.server.client().await?);
        if self.version.is_none() && !self.streaming {
            self.list(&api).await?;
        }
        self.watch(&api).await
    }

    /// Asks otherwise next time, if that may help. False: it is a failure.
    fn adapt(&mut self, failure: &Failure) -> bool {
        if matches!(failure, Failure::Gone) {
            let knew = self.version.take().is_some();
            // Gone in the middle of a list is a failure like others.
            return knew;
        }
        if self.version.is_some() {
            return false;
        }
        if failure.is_behind() {
            return self.seen.take().is_some();
        }
        let fields = &mut self.selection.optional_fields;
        match failure.code() {
            Some(400) => fields.take().is_some() || std::mem::take(&mut self.streaming),
            Some(422) => std::mem::take(&mut self.streaming) || fields.take().is_some(),
            _ if matches!(failure, Failure::Silent) => std::mem::take(&mut self.streaming),
            _ => false,
        }
    }

    async fn list(&mut self, api: &Api<K>) -> Result<(), Stop> {
        self.tell(Event::Listing).await?;
        let mut parameters = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.fields(),
            limit: Some(PAGE),
            version_match: self.seen.as_ref().map(|_| VersionMatch::NotOlderThan),
            resource_version: self.seen.clone(),
            ..ListParams::default()
        };
        loop {
            let page = timeout(ANSWER_TIMEOUT, api.list(&parameters)).await;
            let page = page.map_err(|_| Failure::Silent)??;
            for object in page.items {
                self.tell(Event::Applied(object)).await?;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => {
                    self.advance(page.metadata.resource_version.unwrap_or_default());
                    self.version.clone_from(&self.seen);
                    self.tell(Event::Listed).await?;
                    return Ok(());
                }
            }
        }
    }

    /// Watches until the server ends it. Without a version it begins with a streamed list.
    async fn watch(&mut self, api: &Api<K>) -> Result<(), Stop> {
        let seconds = fastrand::u32(WATCH_SECONDS);
        let mut listing = self.version.is_none();
        let parameters = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.fields(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: listing,
        };
        let from = self.version.as_ref().or(self.seen.as_ref());
        let from = from.map_or_else(|| "0".to_owned(), Clone::clone);
        let started = Instant::now();
        let stream = timeout(ANSWER_TIMEOUT, api.watch(&parameters, &from)).await;
        let stream = stream.map_err(|_| Failure::Silent)??;
        pin_mut!(stream);
        self.tell(if listing { Event::Listing } else { Event::Watching }).await?;
        let mut any = false;
        loop {
            let patience = if listing {
                STREAM_TIMEOUT
            } else {
                Duration::from_secs(seconds.into()) + WATCH_GRACE
            };
            let event = timeout(patience, stream.try_next()).await.map_err(|_| Failure::Silent)?;
            match event? {
                None if listing || (!any && started.elapsed() < SHORT) => {
                    return Err(Failure::ShortLived.into());
                }
                None => return Ok(()),
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    let version = object.resource_version();
                    self.tell(Event::Applied(object)).await?;
                    self.pass(version, listing);
                }
                Some(WatchEvent::Deleted(object)) => {
                    let version = object.resource_version();
                    self.tell(Event::Deleted(object)).await?;
                    self.pass(version, listing);
                }
                Some(WatchEvent::Bookmark(bookmark)) => {
                    let metadata = bookmark.metadata;
                    if listing && metadata.annotations.contains_key(LIST_END) {
                        listing = false;
                        self.tell(Event::Listed).await?;
                        self.tell(Event::Watching).await?;
                    }
                    self.pass(Some(metadata.resource_version), listing);
                }
                Some(WatchEvent::Error(status)) => return Err(Failure::of_status(status).into()),
            }
            any = true;
            self.backoff.succeed();
        }
    }

    /// The objects of a list come in no order of versions, so that only its end counts.
    fn pass(&mut self, version: Option<String>, listing: bool) {
        if let Some(version) = version
            && !listing
        {
            self.advance(version);
            self.version.clone_from(&self.seen);
        }
    }

    fn advance(&mut self, version: String) {
        if !version.is_empty() {
            self.seen = Some(version);
        }
    }

    fn fields(&self) -> Option<String> {
        let parts = [&self.selection.fields, &self.selection.optional_fields];
        let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
        (!parts.is_empty()).then(|| parts.join(","))
    }

    async fn tell(&self, event: Event<K>) -> Result<(), Unheard> {
        self.events.send((self.wrap)(event)).await.map_err(|_| Unheard)
    }
}

impl<K> Event<K> {
    /// The same of another type of object.
    pub(crate) fn map<T>(self, object: impl FnOnce(K) -> T) -> Event<T> {
        match self {
            Self::Listing => Event::Listing,
            Self::Applied(applied) => Event::Applied(object(applied)),
            Self::Deleted(deleted) => Event::Deleted(object(deleted)),
            Self::Listed => Event::Listed,
            Self::Watching => Event::Watching,
            Self::Broken(failure) => Event::Broken(failure),
        }
    }
}
