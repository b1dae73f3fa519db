//! Field operations of a proxy (RFC 9110 §7.6), as functions over header maps.

use std::sync::OnceLock;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, MAX_FORWARDS, TE, TRAILER, USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use crate::credential::http::USER_AGENT_VALUE;
use crate::sign::owned::OwnedFields;

/// Fields that concern one connection only, beside those that `Connection` names (RFC 9110 §7.6.1),
/// and those with which HTTP/1 asks to become something else.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    static FIELDS: OnceLock<OwnedFields> = OnceLock::new();
    let fields = FIELDS.get_or_init(|| {
        let mut fields = OwnedFields::default();
        for name in HOP_BY_HOP {
            fields.insert(&HeaderName::from_static(name));
        }
        fields
    });
    fields.contains(name)
}

/// What never travels on from a caller, whatever the route.
///
/// Beside hop-by-hop fields these are what a caller says about where it comes from, which is never
/// believed, and the fields with which some frameworks let another path or method take the place of
/// the one that was checked.
fn never_forwarded() -> &'static OwnedFields {
    static FIELDS: OnceLock<OwnedFields> = OnceLock::new();
    FIELDS.get_or_init(|| {
        let mut fields = OwnedFields::default();
        fields.insert_prefix("x-forwarded-");
        for name in HOP_BY_HOP {
            fields.insert(&HeaderName::from_static(name));
        }
        for name in [
            "expect",
            "forwarded",
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method",
            "x-http-method-override",
            "x-method-override",
        ] {
            fields.insert(&HeaderName::from_static(name));
        }
        fields
    })
}

/// Removes what must not travel on from a request: hop-by-hop fields, what the caller's `Connection`
/// names, forwarding fields, `Expect`, and everything in `owned`. `Host` is replaced later, always.
///
/// This comes before anything is added: a caller must not be able to remove our fields by naming
/// them in `Connection`.
pub fn strip_request(headers: &mut HeaderMap, owned: &[&OwnedFields]) {
    strip_connection_named(headers);
    let never = never_forwarded();
    strip(headers, |name| never.contains(name) || owned.iter().any(|owned| owned.contains(name)));
    join_cookies(headers);
}

/// Joins the cookies that HTTP/2 lets a caller send one by one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in cookies {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if joined.len() > first.len()
        && let Ok(joined) = HeaderValue::from_bytes(&joined)
    {
        headers.insert(COOKIE, joined);
    }
}

/// Counts `Max-Forwards` down for a method that heeds it and is forwarded (RFC 9110 §7.6.2); false if
/// the request may go no further.
pub fn count_forwards(method: &Method, headers: &mut HeaderMap) -> bool {
    let left = headers.get(MAX_FORWARDS).filter(|_| *method == Method::OPTIONS);
    let digits = left.map(HeaderValue::as_bytes).unwrap_or_default();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return true;
    }
    let digits = std::str::from_utf8(digits).unwrap_or_default();
    let Some(left) = digits.parse().unwrap_or(u64::MAX).checked_sub(1) else { return false };
    headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    true
}

/// Removes hop-by-hop fields from an answer. `Trailer` stays, because trailers do.
pub fn strip_response(headers: &mut HeaderMap) {
    strip_connection_named(headers);
    strip(headers, |name| is_hop_by_hop(name) && *name != TRAILER);
}

/// Fields that have no business behind the content: they frame, route, authenticate or modify the
/// request (RFC 9110 §6.5.1).
fn is_forbidden_in_trailers(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || name.as_str().starts_with("content-")
        || matches!(
            name.as_str(),
            "authorization"
                | "cache-control"
                | "cookie"
                | "expect"
                | "host"
                | "max-forwards"
                | "range"
                | "set-cookie"
                | "via"
        )
}

/// Removes from the trailers of a request what must not travel on, `owned` included.
pub fn strip_trailers(trailers: &mut HeaderMap, owned: &OwnedFields) {
    let never = never_forwarded();
    strip(trailers, |name| {
        is_forbidden_in_trailers(name) || never.contains(name) || owned.contains(name)
    });
}

/// Removes from the trailers of an answer what must not travel on.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    strip(trailers, is_forbidden_in_trailers);
}

/// True if the caller takes trailers (RFC 9110 §10.1.4).
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    lists(headers, TE, b"trailers")
}

/// True if the content is a gRPC message.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    value.starts_with(b"application/grpc")
}

/// True if the list-valued field `name` has `token` in it, in whatever case and with whatever
/// parameters.
pub fn lists(headers: &HeaderMap, name: HeaderName, token: &[u8]) -> bool {
    let values = headers.get_all(name);
    let mut members = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    members.any(|member| {
        let bare = member.split(|byte| *byte == b';').next().unwrap_or_default();
        bare.trim_ascii().eq_ignore_ascii_case(token)
    })
}

fn strip_connection_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        // What nearly all say, and what names no field.
        .filter(|token| !matches!(*token, b"keep-alive" | b"close"))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        // The length of the content frames the message whatever a caller calls it.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Removes every field, all its values, whose name is `unwanted`.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// How this proxy calls itself in `Via` (RFC 9110 §7.6.3), by the version a request came in.
#[derive(Debug, Clone)]
pub struct Via {
    http1: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A name of eight hexadecimal digits: unique per process, so that two of us in a row are no
    /// loop.
    pub fn new(number: u32) -> Self {
        let name = |version| {
            HeaderValue::try_from(format!("{version} countersign-{number:08x}"))
                .unwrap_or_else(|_| HeaderValue::from_static("1.1 countersign"))
        };
        Self { http1: name("1.1"), http2: name("2") }
    }

    /// Adds this proxy to the fields of a request that came in `version`.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) {
        let value = if version == Version::HTTP_2 { &self.http2 } else { &self.http1 };
        headers.append(VIA, value.clone());
    }

    /// True if a request with these fields came through this proxy before.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(VIA)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .any(|hop| hop == self.http1.as_bytes() || hop == self.http2.as_bytes())
    }
}

/// Gives a request without `User-Agent` ours: some vendors refuse requests that have none.
pub fn ensure_user_agent(headers: &mut HeaderMap) {
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    }
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
