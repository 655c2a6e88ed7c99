//! What the agent was told to do and what it is: `/configz`, `/flagz` and `/statusz`.
//!
//! Shapes are kube-proxy's: `/configz` has one key for the component's configuration; the other
//! two are text for people, and JSON for who asks for exactly that (KEP-4828, KEP-4827).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// What these pages show. Fixed between two reloads of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Pages {
    /// The configuration in force in the form of kube-proxy's file.
    pub configuration: Map<String, Value>,
    /// Each flag, without dashes, with its value.
    pub flags: BTreeMap<String, String>,
    /// When the process began.
    pub started: Timestamp,
}

impl Default for Pages {
    fn default() -> Self {
        Self { configuration: Map::new(), flags: BTreeMap::new(), started: Timestamp::now() }
    }
}

/// The paths that `/statusz` names.
const PATHS: [&str; 7] =
    ["/configz", "/flagz", "/healthz", "/livez", "/metrics", "/proxyMode", "/statusz"];

const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no \
                       formatting compatibility guarantees and is for debugging purposes only.";

const NAME: &str = "streamvs";

/// A page in one of its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Text(String),
    Json(String),
}

pub(crate) fn configz(pages: &Pages) -> Page {
    Page::Json(json!({ "kubeproxy.config.k8s.io": pages.configuration }).to_string())
}

/// # Errors
/// 406 where JSON is asked for in another version.
pub(crate) fn flagz(pages: &Pages, headers: &HeaderMap) -> Result<Page, StatusCode> {
    if wants_json(headers, "Flagz")? {
        let mut page = head("Flagz");
        page.insert("flags".to_owned(), json!(pages.flags));
        return Ok(Page::Json(Value::Object(page).to_string()));
    }
    let mut text = format!("\n{NAME} flags\n{WARNING}\n\n");
    for (name, value) in &pages.flags {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}={value}");
    }
    Ok(Page::Text(text))
}

/// # Errors
/// 406 where JSON is asked for in another version.
pub(crate) fn statusz(
    pages: &Pages,
    headers: &HeaderMap,
    now: Timestamp,
) -> Result<Page, StatusCode> {
    let version = env!("CARGO_PKG_VERSION");
    let up = u64::try_from(now.duration_since(pages.started).as_secs()).unwrap_or(0);
    let started = Timestamp::from_second(pages.started.as_second()).unwrap_or(pages.started);
    if wants_json(headers, "Statusz")? {
        let mut page = head("Statusz");
        page.insert("startTime".to_owned(), json!(started));
        page.insert("uptimeSeconds".to_owned(), json!(up));
        page.insert("binaryVersion".to_owned(), json!(version));
        page.insert("paths".to_owned(), json!(PATHS));
        return Ok(Page::Json(Value::Object(page).to_string()));
    }
    let (hours, minutes, seconds) = (up / 3600, up / 60 % 60, up % 60);
    let started = started.strftime("%a %b %e %H:%M:%S UTC %Y");
    Ok(Page::Text(format!(
        "\n{NAME} statusz\n{WARNING}\n\nStarted: {started}\n\
         Up: {hours} hr {minutes:02} min {seconds:02} sec\nBinary version: {version}\n\
         Paths: {}\n",
        PATHS.join(" ")
    )))
}

fn head(kind: &str) -> Map<String, Value> {
    let mut page = Map::new();
    page.insert("kind".to_owned(), json!(kind));
    page.insert("apiVersion".to_owned(), json!("config.k8s.io/v1beta1"));
    page.insert("metadata".to_owned(), json!({ "name": NAME }));
    page
}

/// JSON must be asked for with group, version and kind; text is for everybody else.
fn wants_json(headers: &HeaderMap, kind: &str) -> Result<bool, StatusCode> {
    let Some(accept) = headers.get(ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(false);
    };
    let is = |media: &str, name: &str| media.split(';').next().map(str::trim) == Some(name);
    let mut text = false;
    for media in accept.split(',') {
        let parameters: Vec<&str> = media.split(';').skip(1).map(str::trim).collect();
        let has = |wanted: &str| parameters.contains(&wanted);
        let version = has("v=v1beta1") || has("v=v1alpha1");
        if is(media, "application/json") && version && has("g=config.k8s.io") {
            return if has(format!("as={kind}").as_str()) {
                Ok(true)
            } else {
                Err(StatusCode::NOT_ACCEPTABLE)
            };
        }
        text |= is(media, "text/plain") || is(media, "text/*") || is(media, "*/*");
    }
    if text { Ok(false) } else { Err(StatusCode::NOT_ACCEPTABLE) }
}

#[cfg(test)]
mod tests {
    //! Aim: each page has the shape its readers know.

    use axum::http::HeaderValue;

    use super::*;

    fn pages() -> Pages {
        Pages {
            configuration: [("mode".to_owned(), json!("ipvs"))].into_iter().collect(),
            flags: [("ipvs-scheduler".to_owned(), "lc".to_owned())].into(),
            started: "2026-01-19T10:32:02.5Z".parse().unwrap(),
        }
    }

    fn asking(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))])
    }

    #[test]
    fn the_configuration_stands_under_kube_proxys_key() {
        let expected = r#"{"kubeproxy.config.k8s.io":{"mode":"ipvs"}}"#;
        assert_eq!(configz(&pages()), Page::Json(expected.to_owned()));
    }

    #[test]
    fn text_is_for_who_does_not_ask_for_json() {
        let now = "2026-01-19T12:33:05.4Z".parse().unwrap();
        for headers in [HeaderMap::new(), asking("*/*"), asking("text/html, text/plain;q=0.9")] {
            let Ok(Page::Text(flags)) = flagz(&pages(), &headers) else { panic!("no text") };
            assert!(flags.ends_with("\n\nipvs-scheduler=lc\n"), "{flags}");
            let Ok(Page::Text(status)) = statusz(&pages(), &headers, now) else {
                panic!("no text")
            };
            assert!(status.contains("Started: Mon Jan 19 10:32:02 UTC 2026\n"), "{status}");
            assert!(status.contains("Up: 2 hr 01 min 02 sec\n"), "{status}");
        }
    }

    #[test]
    fn json_is_for_who_asks_for_the_kind_in_its_version() {
        let now = "2026-01-19T10:32:03.5Z".parse().unwrap();
        let ask = |kind: &str| match kind {
            "Flagz" => asking("application/json;v=v1beta1;g=config.k8s.io;as=Flagz"),
            _ => asking("application/json;v=v1beta1;g=config.k8s.io;as=Statusz"),
        };
        let Ok(Page::Json(flags)) = flagz(&pages(), &ask("Flagz")) else { panic!("no JSON") };
        let flags: Value = serde_json::from_str(&flags).unwrap();
        assert_eq!(flags["kind"], "Flagz");
        assert_eq!(flags["flags"]["ipvs-scheduler"], "lc");
        let Ok(Page::Json(status)) = statusz(&pages(), &ask("Statusz"), now) else {
            panic!("no JSON")
        };
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["startTime"], "2026-01-19T10:32:02Z");
        assert_eq!(status["uptimeSeconds"], 1);
        for refused in ["application/json", "application/json;v=v2;g=config.k8s.io;as=Flagz"] {
            assert_eq!(flagz(&pages(), &asking(refused)), Err(StatusCode::NOT_ACCEPTABLE));
        }
        assert_eq!(statusz(&pages(), &ask("Flagz"), now), Err(StatusCode::NOT_ACCEPTABLE));
    }
}
