//! Who may ask the admin listener, by what the request says.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
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
        let config = &self.access.load().config;
        let host = authority.host().to_ascii_lowercase();
        let listed = |accepted: &String| *accepted == host || accepted == authority.as_str();
        if config.hosts.iter().any(listed) || host == "localhost" {
            return true;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        // A literal address cannot be pointed anywhere; with the token there is no need to ask.
        literal.is_ok_and(|address| {
            address.is_loopback() || address == self.bound.ip() || config.token.is_some()
        })
    }

    /// A web page must not change anything here on behalf of whoever looks at it; browsers say where
    /// a request comes from.
    ///
    /// # Errors
    /// With the reason, for a person.
    #[expect(clippy::unused_self, reason = "what is accepted is the admin listener's")]
    pub(super) fn may_change<B>(&self, request: &Request<B>) -> Result<(), &'static str> {
        let headers = request.headers();
        let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        let same_origin = |origin: &HeaderValue| {
            origin.as_bytes().strip_prefix(b"http://").is_some_and(|own| own == host)
        };
        let own = |site: &HeaderValue| site == "none" || site == "same-origin";
        if !headers.get_all(ORIGIN).iter().all(same_origin)
            || !headers.get_all("sec-fetch-site").iter().all(own)
        {
            return Err("a web page of another origin must not change anything here");
        }
        Ok(())
    }

    pub(super) fn has_token<B>(&self, request: &Request<B>) -> bool {
        let access = self.access.load();
        let Some(reference) = &access.config.token else {
            return true;
        };
        let Some(expected) = access.secrets.get(reference) else {
            return false;
        };
        let presented = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let presented = presented.and_then(|value| value.strip_prefix(b"Bearer "));
        presented.is_some_and(|token| token.ct_eq(expected.expose().as_bytes()).into())
    }
}
