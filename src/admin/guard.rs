//! Who may ask the admin listener, by what the request says.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN as ORIGIN_FIELD};
use http::uri::Authority;
use http::{HeaderValue, Request};
use http_body::Body;
use subtle::ConstantTimeEq;

use super::Admin;

impl Admin {
    /// As for every listener: a web page whose name was pointed here must not get an answer.
    pub(super) fn accepts_host<B>(&self, request: &Request<B>) -> bool {
        let Some(authority) = authority(request) else {
            let silent =
                request.uri().authority().is_none() && !request.headers().contains_key(HOST);
            return silent && request.version() == http::Version::HTTP_10;
        };
        let config = &self.access.load().config;
        let host = authority.host().to_ascii_lowercase();
        if self.is_listed(&authority) || host == "localhost" {
            return true;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        // A literal address cannot be pointed anywhere; with the token there is no need to ask.
        literal.is_ok_and(|address| {
            address.is_loopback() || address == self.bound.ip() || config.token.is_some()
        })
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

    /// Whether `request`, from a host that is accepted and with the token where there is one, may
    /// look: not if a web page of another origin sends it. That could not read the answer, but keep
    /// places and threads busy.
    ///
    /// # Errors
    /// With the reason, and what to do.
    pub(super) fn may_look<B>(&self, request: &Request<B>) -> Result<(), &'static str> {
        const FETCHED: &str = "a page of another site may see nothing here (Sec-Fetch-Site); open \
                               the admin page or this address itself, or send the request without \
                               a browser";
        const ORIGIN: &str = "a page of another origin may see nothing here: Origin has to be the \
                              scheme, host and port that are asked; open the admin page itself, \
                              or send the request without Origin";
        self.is_from_here(request, FETCHED, ORIGIN)
    }

    /// Whether it may change something: as [`Self::may_look`], and not in a form that a page could
    /// send without asking.
    ///
    /// # Errors
    /// With the reason, and what to do.
    pub(super) fn may_change<B: Body>(&self, request: &Request<B>) -> Result<(), &'static str> {
        const FETCHED: &str = "a page of another site may change nothing here (Sec-Fetch-Site); \
                               open the admin page itself, or send the request without a browser";
        const ORIGIN: &str = "a page of another origin may change nothing here: Origin has to be \
                              the scheme, host and port that are asked; open the admin page itself, \
                              or send the request without Origin";
        const CONTENT: &str = "a change is sent without content, or with content of the type \
                               application/json; set Content-Type: application/json";
        self.is_from_here(request, FETCHED, ORIGIN)?;
        let mut kinds = request.headers().get_all(CONTENT_TYPE).iter();
        let fits = match kinds.next() {
            Some(kind) => is_json(kind) && kinds.next().is_none(),
            None => request.body().is_end_stream() || request.body().size_hint().exact() == Some(0),
        };
        if fits { Ok(()) } else { Err(CONTENT) }
    }

    /// Refuses what a page of another site sends, with a reason for either sign of it.
    fn is_from_here<B>(
        &self,
        request: &Request<B>,
        by_site: &'static str,
        by_origin: &'static str,
    ) -> Result<(), &'static str> {
        for site in request.headers().get_all("sec-fetch-site") {
            if site != "same-origin" && site != "none" {
                return Err(by_site);
            }
        }
        for origin in request.headers().get_all(ORIGIN_FIELD) {
            let own = origin.to_str().is_ok_and(|origin| self.is_own(request, origin));
            if !own {
                return Err(by_origin);
            }
        }
        Ok(())
    }

    /// True if `origin` is where `request` goes. Behind something that ends TLS it is `https`, but
    /// for names only that the configuration knows.
    fn is_own<B>(&self, request: &Request<B>, origin: &str) -> bool {
        let Some((scheme, of_origin)) = origin.split_once("://") else { return false };
        let Some(asked) = authority(request) else { return false };
        let Ok(of_origin) = Authority::try_from(of_origin) else { return false };
        let port = match scheme {
            "http" => 80,
            "https" if self.is_listed(&asked) => 443,
            _ => return false,
        };
        let same_host = asked.host().eq_ignore_ascii_case(of_origin.host());
        let port_of = |authority: &Authority| authority.port_u16().unwrap_or(port);
        let plain = !of_origin.as_str().contains('@');
        plain && same_host && port_of(&asked) == port_of(&of_origin)
    }

    /// True for a name that the configuration knows, with or without its port.
    fn is_listed(&self, authority: &Authority) -> bool {
        let host = authority.host().to_ascii_lowercase();
        let listed = |accepted: &String| *accepted == host || accepted == authority.as_str();
        self.access.load().config.hosts.iter().any(listed)
    }
}

/// Whom a request is for.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => Authority::try_from(request.headers().get(HOST)?.as_bytes()).ok(),
    }
}

/// True for `application/json`, whatever follows.
fn is_json(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default();
    let (essence, _) = kind.split_once(';').unwrap_or((kind, ""));
    essence.trim().eq_ignore_ascii_case("application/json")
}
