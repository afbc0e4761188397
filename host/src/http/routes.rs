//! Paths and their answers.

use super::{Backend, PartitionStatus, Readiness, Status, readiness};
use crate::telemetry::Format;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use parti_coordination::WorkerState;
use serde::Serialize;
use serde_json::json;
use std::time::Instant;

/// Every path, for whoever asks for another.
const PATHS: [&str; 5] = ["/health/live", "/health/ready", "/status", "/metrics", "/api/v1/partitions"];

/// Bytes of the largest body that a request may have.
const MAX_BODY_BYTES: u64 = 64 * 1024;

/// The paths over one worker.
pub(super) fn router(backend: Backend) -> Router {
    let started = Instant::now();
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/status", get(move |state| status(state, started)))
        .route("/metrics", get(metrics))
        .route("/api/v1/partitions", get(partitions))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(refuse_large_body))
        .layer(middleware::map_response(never_cached))
        .with_state(backend)
}

async fn live(State(backend): State<Backend>) -> (StatusCode, &'static str) {
    if backend.worker.status().state == WorkerState::Shutdown {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    } else {
        (StatusCode::OK, "OK")
    }
}

async fn ready(State(backend): State<Backend>) -> (StatusCode, String) {
    let readiness = readiness(&backend.worker.status(), backend.ready_when_empty);
    let code = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, readiness.text().into_owned())
}

/// The status and what is known only when it is asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusAnswer {
    #[serde(flatten)]
    status: Status,
    version: &'static str,
    uptime_seconds: u64,
    /// Now, to the second, as the guides have it.
    timestamp: Timestamp,
}

async fn status(State(backend): State<Backend>, started: Instant) -> Json<StatusAnswer> {
    let now = Timestamp::now();
    Json(StatusAnswer {
        status: backend.worker.status(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: started.elapsed().as_secs(),
        timestamp: Timestamp::from_second(now.as_second()).unwrap_or(now),
    })
}

async fn partitions(State(backend): State<Backend>) -> Json<Vec<PartitionStatus>> {
    Json(backend.worker.partitions())
}

async fn metrics(State(backend): State<Backend>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = negotiate(accept);
    match backend.metrics.render(format) {
        Ok(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "Metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

/// The format that the client likes best by the `q` values of its `Accept` headers. OpenMetrics only for who names it,
/// and who names both alike gets it: Prometheus does so and prefers it.
fn negotiate<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let (mut openmetrics, mut text) = (0.0, 0.0);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut known_version) = (1.0_f32, true);
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => known_version = matches!(value.trim().trim_matches('"'), "1.0.0" | "0.0.1"),
                _ => {}
            }
        }
        match media_type.as_str() {
            "application/openmetrics-text" if known_version => openmetrics = quality.max(openmetrics),
            "text/plain" => text = quality.max(text),
            _ => {}
        }
    }
    if openmetrics > 0.0 && openmetrics >= text { Format::OpenMetrics } else { Format::Text }
}

async fn unknown_path(uri: Uri) -> impl IntoResponse {
    let error = format!("there is nothing at {}", uri.path());
    (StatusCode::NOT_FOUND, Json(json!({ "error": error, "paths": PATHS })))
}

async fn wrong_method() -> impl IntoResponse {
    (StatusCode::METHOD_NOT_ALLOWED, Json(json!({ "error": "this path can only be read, with GET or HEAD" })))
}

/// Refuses a request that announces too large a body. A body of unannounced length is not read at all.
async fn refuse_large_body(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > MAX_BODY_BYTES {
        let error = format!("a body has at most {MAX_BODY_BYTES} bytes");
        return (StatusCode::PAYLOAD_TOO_LARGE, Json(json!({ "error": error }))).into_response();
    }
    next.run(request).await
}

async fn never_cached(response: Response) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_goes_to_who_asks_for_it_and_text_to_everyone_else() {
        let chosen = |accept: &str| negotiate(std::iter::once(accept));
        // What Prometheus 2 and 3 send.
        let prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(chosen(prometheus_2), Format::OpenMetrics);
        assert_eq!(chosen(prometheus_3), Format::OpenMetrics);
        assert_eq!(chosen("Application/OpenMetrics-Text"), Format::OpenMetrics);
        assert_eq!(chosen("text/plain, application/openmetrics-text;q=0.9"), Format::Text);
        assert_eq!(chosen("application/openmetrics-text;q=0"), Format::Text);
        assert_eq!(chosen("application/openmetrics-text;version=9"), Format::Text);
        for plain in ["", "*/*", "text/html", ",;=,", "application/openmetrics-text;q=x", ";q=1"] {
            assert_eq!(chosen(plain), Format::Text, "{plain}");
        }
        assert_eq!(negotiate(std::iter::empty()), Format::Text);
    }
}
