//! The vendor's error format: `application/problem+json` with a numeric string `code`.

use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::Serialize;

use super::Answer;

/// How the vendor labels its JSON.
pub(super) const JSON: &str = "application/json; charset=utf-8";

/// What went wrong. Only [`Fault::NotFound`] was recorded; the titles and codes of the others are
/// assumptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BadRequest,
    Unauthorized,
    NotFound,
    Timeout,
    TooLarge,
    MediaType,
    TooMany,
    Server,
}

impl Fault {
    pub(super) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::REQUEST_TIMEOUT => Self::Timeout,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::MediaType,
            StatusCode::TOO_MANY_REQUESTS => Self::TooMany,
            _ if status.is_server_error() => Self::Server,
            _ => Self::BadRequest,
        }
    }

    /// Status, section of RFC 9110 (429: of RFC 6585), title, code.
    fn form(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "15.5.1", "BadRequestException", "1"),
            Self::Unauthorized => {
                (StatusCode::UNAUTHORIZED, "15.5.2", "AuthenticationException", "2")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "15.5.5", "NotFoundException", "13"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "15.5.9", "TimeoutException", "3"),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "15.5.14", "ContentTooLargeException", "4")
            }
            Self::MediaType => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "15.5.16", "MediaTypeException", "5")
            }
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "4", "TooManyRequestsException", "6"),
            Self::Server => (StatusCode::INTERNAL_SERVER_ERROR, "15.6.1", "InternalException", "7"),
        }
    }
}

/// The keys in the order of the recording.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: &'a str,
    code: &'static str,
}

/// An answer in that format, refused with `detail` as its verdict.
pub(super) fn problem(head: &Parts, fault: Fault, detail: &str) -> Answer {
    let (status, section, title, code) = fault.form();
    let rfc = if fault == Fault::TooMany { 6585 } else { 9110 };
    let problem = Problem {
        r#type: format!("https://tools.ietf.org/html/rfc{rfc}#section-{section}"),
        title,
        status: status.as_u16(),
        detail,
        instance: head.uri.path(),
        code,
    };
    Answer::json(status, "application/problem+json", &problem)
        .field(header::CACHE_CONTROL, HeaderValue::from_static("no-cache,no-store"))
        .field(header::PRAGMA, HeaderValue::from_static("no-cache"))
        .field(header::EXPIRES, HeaderValue::from_static("-1"))
        .refused(detail.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_unknown_sector_looks_as_it_was_recorded() {
        let (head, ()) =
            http::Request::get("/v3/sectors/99?$expand=Beacons").body(()).unwrap().into_parts();
        let answer = problem(&head, Fault::NotFound, "The sector does not exist.");
        assert_eq!(answer.fields["content-type"], "application/problem+json");
        assert_eq!(
            answer.body,
            concat!(
                r#"{"type":"https://tools.ietf.org/html/rfc9110#section-15.5.5","title":"NotFoundException","#,
                r#""status":404,"detail":"The sector does not exist.","instance":"/v3/sectors/99","code":"13"}"#
            )
        );
    }

    #[test]
    fn every_status_the_server_refuses_with_keeps_its_number() {
        for status in [400, 401, 404, 408, 413, 415, 429, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Fault::of(status).form().0, status);
        }
    }
}
