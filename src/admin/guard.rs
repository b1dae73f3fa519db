//! Who may ask the admin listener, by what the request says.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request};
use subtle::ConstantTimeEq;

use super::Admin;

impl Admin {
    /// As for every listener: a web page whose name was pointed here must not get an answer.
    pub(super) fn accepts_host<B>(&self, request: &Request<B>) -> bool {
        let field = request.headers().get(HOST).map(HeaderValue::as_bytes);
        let authority = match (request.uri().authority(), field) {
            (Some(authority), _) => authority.clone(),
            (None, Some(field)) => match Authority::try_from(field) {
                Ok(authority) => authority,
                Err(_) => return false,
            },
            (None, None) => return request.version() == http::Version::HTTP_10,
        };
        let host = authority.host().to_ascii_lowercase();
        let listed = |accepted: &String| *accepted == host || accepted == authority.as_str();
        if self.config.hosts.iter().any(listed) || host == "localhost" {
            return true;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        // A literal address cannot be pointed anywhere; with the token there is no need to ask.
        literal.is_ok_and(|address| {
            address.is_loopback() || address == self.bound.ip() || self.config.token.is_some()
        })
    }

    pub(super) fn has_token<B>(&self, request: &Request<B>) -> bool {
        let Some(reference) = &self.config.token else {
            return true;
        };
        let Some(expected) = self.secrets.get(reference) else {
            return false;
        };
        let presented = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let presented = presented.and_then(|value| value.strip_prefix(b"Bearer "));
        presented.is_some_and(|token| token.ct_eq(expected.expose().as_bytes()).into())
    }
}
