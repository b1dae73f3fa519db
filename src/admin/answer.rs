//! The forms of the admin listener's answers.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

pub(super) fn full(kind: &'static str, content: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(super) fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(content) => full("application/json", content.into()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "it failed"),
    }
}

pub(super) fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    let mut response = full("text/plain; charset=utf-8", Bytes::from(format!("{line}\n")));
    *response.status_mut() = status;
    response
}
