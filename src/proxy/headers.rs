//! Field operations of a proxy (RFC 9110 §7.6), as functions over header maps.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT, VIA,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::credential::http::USER_AGENT_VALUE;
use crate::sign::owned::OwnedFields;

/// Fields that concern one connection only, beside those that `Connection` names (RFC 9110 §7.6.1),
/// and those with which HTTP/1 asks to become something else.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What a caller says about where it comes from. It is never believed, so it is not passed on.
fn is_forwarding(name: &HeaderName) -> bool {
    *name == FORWARDED || name.as_str().starts_with("x-forwarded-") || name == "x-real-ip"
}

/// Removes what must not travel on from a request: hop-by-hop fields, what the caller's `Connection`
/// names, forwarding fields, `Host` and `Expect`, and everything in `owned`.
///
/// This comes before anything is added: a caller must not be able to remove our fields by naming
/// them in `Connection`.
pub fn strip_request(headers: &mut HeaderMap, owned: &[&OwnedFields]) {
    strip_connection_named(headers);
    strip(headers, |name| {
        is_hop_by_hop(name)
            || is_forwarding(name)
            || *name == HOST
            || *name == EXPECT
            || owned.iter().any(|owned| owned.contains(name))
    });
}

/// Removes hop-by-hop fields from an answer.
pub fn strip_response(headers: &mut HeaderMap) {
    strip_connection_named(headers);
    strip(headers, is_hop_by_hop);
}

fn strip_connection_named(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
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

/// Adds this proxy to `Via` (RFC 9110 §7.6.3).
pub fn add_via(headers: &mut HeaderMap, pseudonym: &HeaderValue) {
    headers.append(VIA, pseudonym.clone());
}

/// True if the request came through this proxy before.
pub fn came_through(headers: &HeaderMap, pseudonym: &HeaderValue) -> bool {
    let pseudonym = pseudonym.as_bytes();
    headers
        .get_all(VIA)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|hop| hop.trim_ascii() == pseudonym)
}

/// Gives a request without `User-Agent` ours: some vendors refuse requests that have none.
pub fn ensure_user_agent(headers: &mut HeaderMap) {
    if !headers.contains_key(USER_AGENT) {
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
    }
}

/// The fields that frame an HTTP/1 message or concern the connection: never set from outside.
pub const CONNECTION_FIELDS: [HeaderName; 5] =
    [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
