//! Which path answers what, on each of the three doors.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, SERVER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use streamvs_balance::Plan;
use tokio::sync::Semaphore;

use crate::health::{Answer, Moment, Probe};
use crate::pages::{self, Page, Pages};
use crate::{Admin, explain, handover, list, metrics};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    admin: Admin,
    /// One answer that walks the whole table is made at a time: it costs a core and memory in
    /// proportion to the table, and more at once would be none the faster.
    table_walk: Arc<Semaphore>,
}

impl Site {
    pub(crate) fn new(admin: Admin) -> Self {
        Self { admin, table_walk: Arc::new(Semaphore::new(1)) }
    }

    /// The health port.
    pub(crate) fn health_routes(&self) -> Router {
        Router::new()
            .route("/healthz", any(healthz))
            .route("/livez", any(livez))
            .with_state(self.clone())
    }

    /// The metrics port. `/healthz` says here what it says on kube-proxy's metrics port: that the
    /// process answers.
    pub(crate) fn metrics_routes(&self) -> Router {
        Router::new()
            .route("/metrics", any(scrape))
            .route("/metrics/slis", any(slis))
            .route("/proxyMode", any(|| async { plain("streamvs") }))
            .route("/healthz", any(|| async { plain("ok") }))
            .route("/livez", any(livez))
            .route("/configz", any(configz))
            .route("/flagz", any(flagz))
            .route("/statusz", any(statusz))
            .with_state(self.clone())
    }

    /// The unix socket.
    pub(crate) fn socket_routes(&self) -> Router {
        Router::new()
            .route("/services", get(services))
            .route("/explain/{namespace}/{name}", get(explanation))
            .route("/metrics", any(scrape))
            .route("/healthz", any(healthz))
            .route("/livez", any(livez))
            .route("/handover", get(hand_over))
            .with_state(self.clone())
    }

    fn pages(mut self) -> Arc<Pages> {
        Arc::clone(self.admin.pages.load())
    }

    /// Makes a text out of the table in use, on a thread that may take its time.
    async fn walk(
        mut self,
        make: impl FnOnce(&Self, Arc<Plan>) -> String + Send + 'static,
    ) -> Result<String, StatusCode> {
        let permit = Arc::clone(&self.table_walk).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let walk = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even when the client has gone.
            let _permit = permit;
            let plan = Arc::clone(self.admin.plan.load());
            make(&self, plan)
        });
        walk.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }
}

async fn healthz(State(site): State<Site>) -> Response {
    probe(site.admin.health.answer(Probe::Healthz, Moment::now()))
}

async fn livez(State(site): State<Site>) -> Response {
    probe(site.admin.health.answer(Probe::Livez, Moment::now()))
}

fn probe(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).expect("200 and 503 are status codes");
    // Who looks for a kube-proxy on its ports tells us apart by this.
    (status, typed(JSON), [(SERVER, "streamvs")], answer.body).into_response()
}

async fn scrape(State(site): State<Site>) -> Result<Response, StatusCode> {
    let text = site.walk(|site, plan| {
        let (health, node) = (Arc::clone(&site.admin.health), Arc::clone(&site.admin.metrics));
        metrics::scrape(plan, health, node)
    });
    Ok((typed(metrics::CONTENT_TYPE), text.await?).into_response())
}

async fn slis(State(site): State<Site>) -> Response {
    (typed(metrics::CONTENT_TYPE), metrics::slis(site.admin.health)).into_response()
}

async fn services(State(site): State<Site>) -> Result<Response, StatusCode> {
    let text = site.walk(|_, plan| {
        serde_json::to_string(&list::views(&plan)).expect("views have string keys only")
    });
    Ok((typed(JSON), text.await?).into_response())
}

async fn explanation(
    State(site): State<Site>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, StatusCode> {
    let text = site.walk(move |_, plan| {
        let explanation = explain::explain(&plan, &namespace, &name);
        serde_json::to_string(&explanation).expect("explanations have string keys only")
    });
    Ok((typed(JSON), text.await?).into_response())
}

async fn hand_over(State(site): State<Site>, request: Request) -> Response {
    handover::answer(site.admin.handover.as_ref(), request)
}

async fn configz(State(site): State<Site>) -> Response {
    pages::configz(&site.pages()).into_response()
}

async fn flagz(State(site): State<Site>, headers: HeaderMap) -> Result<Response, StatusCode> {
    Ok(pages::flagz(&site.pages(), &headers)?.into_response())
}

async fn statusz(State(site): State<Site>, headers: HeaderMap) -> Result<Response, StatusCode> {
    Ok(pages::statusz(&site.pages(), &headers, Moment::now().wall)?.into_response())
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        match self {
            Self::Text(text) => (typed(TEXT), text).into_response(),
            Self::Json(json) => (typed(JSON), json).into_response(),
        }
    }
}

fn plain(text: &'static str) -> Response {
    (typed(TEXT), text).into_response()
}

/// `nosniff` as kube-proxy has it: no browser shall take our text for a page.
fn typed(content_type: &'static str) -> [(HeaderName, &'static str); 2] {
    [(CONTENT_TYPE, content_type), (X_CONTENT_TYPE_OPTIONS, "nosniff")]
}
