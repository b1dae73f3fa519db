//! Who may call: decided from the request's head and the socket, before any credential is touched.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, EXPECT, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Version};
use subtle::ConstantTimeEq;

use super::respond::ProxyError;
use super::route::RouteTable;
use crate::config::{AccessRules, Answers, CallerToken, Limits};
use crate::credential::secrets::Secrets;
use crate::tls::PeerNames;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The rules of one listener.
#[derive(Debug)]
pub struct Gate {
    rules: AccessRules,
    /// The address it is bound to; `None` for a Unix socket.
    bound: Option<std::net::SocketAddr>,
    target_bytes: usize,
    fields: usize,
    secrets: Arc<Secrets>,
}

/// Both ends of a caller's connection.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// The caller's address; `None` for a Unix socket.
    pub peer: Option<IpAddr>,
    /// The address the caller connected to; `None` for a Unix socket.
    pub local: Option<IpAddr>,
    /// The number of the user at the other end of a Unix socket.
    pub user: Option<u32>,
    /// True under TLS.
    pub secure: bool,
    /// The names in the certificate that the caller was asked for.
    pub client: Option<Arc<PeerNames>>,
}

/// What a request that may pass says about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted<'r> {
    /// The host it addresses, lower case, without port; empty for HTTP/1.0 without Host.
    pub host: Cow<'r, str>,
    /// The field that carried the caller token. It goes no further.
    pub token_field: Option<HeaderName>,
}

impl Gate {
    /// A gate for a listener bound to `bound`.
    pub fn new(
        rules: AccessRules,
        bound: Option<std::net::SocketAddr>,
        limits: &Limits,
        secrets: Arc<Secrets>,
    ) -> Self {
        let Limits { target_bytes, fields, .. } = *limits;
        Self { rules, bound, target_bytes, fields, secrets }
    }

    /// How refusals and failures are put to callers.
    pub fn answers(&self) -> Answers {
        self.rules.answers
    }

    /// True if whoever is at the other end may call at all, whatever it asks for.
    pub fn knows(&self, ends: &Ends) -> bool {
        let AccessRules { allow, users, .. } = &self.rules;
        let peer = ends.peer.map(|peer| peer.to_canonical());
        let in_network = |peer| allow.iter().any(|network| network.contains(&peer));
        (allow.is_empty() || peer.is_some_and(in_network))
            && (users.is_empty() || ends.user.is_some_and(|user| users.contains(&user)))
    }

    /// Lets a request pass, or says why not.
    ///
    /// # Errors
    /// With the answer to give.
    pub fn admit<'r>(
        &self,
        parts: &'r Parts,
        ends: &Ends,
        table: &RouteTable,
    ) -> Result<Admitted<'r>, ProxyError> {
        if !self.knows(ends) {
            return Err(ProxyError::Peer);
        }
        if parts.method == Method::CONNECT || parts.method == Method::TRACE {
            return Err(ProxyError::NeverForwarded);
        }
        if !parts.uri.path().starts_with('/') {
            return Err(ProxyError::Malformed("the target is not a path"));
        }
        // In absolute form, or as HTTP/2 says it; nobody else's protocol is ours.
        let scheme = parts.uri.scheme_str().unwrap_or("http");
        let https = ends.secure || parts.version == Version::HTTP_2;
        if scheme != "http" && !(scheme == "https" && https) {
            return Err(ProxyError::Malformed("the target's scheme is not http"));
        }
        let target = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        if target.len() > self.target_bytes {
            return Err(ProxyError::Target);
        }
        // In HTTP/1 they were counted when they were read.
        if parts.headers.len() > self.fields {
            return Err(ProxyError::Fields);
        }
        let host = match addressed(parts)? {
            Some(addressed) => {
                if !self.accepts(&addressed, ends, table) {
                    return Err(ProxyError::Host);
                }
                addressed.host
            }
            None => Cow::Borrowed(""),
        };
        self.check_origin(parts)?;
        let token_field = self.check_caller_token(parts)?;
        let can_be_met =
            |expected: &HeaderValue| expected.as_bytes().eq_ignore_ascii_case(b"100-continue");
        if !parts.headers.get_all(EXPECT).iter().all(can_be_met) {
            return Err(ProxyError::Expectation);
        }
        Ok(Admitted { host, token_field })
    }

    /// Names under which this listener may be addressed. A name that an attacker's DNS server can
    /// point here (DNS rebinding) is none of them; literal addresses cannot be pointed anywhere.
    fn accepts(&self, addressed: &Addressed<'_>, ends: &Ends, table: &RouteTable) -> bool {
        let Addressed { text, host, port } = addressed;
        let configured = self
            .rules
            .hosts
            .iter()
            .any(|accepted| accepted.eq_ignore_ascii_case(text) || accepted == host);
        if configured || table.names_host(host) {
            return true;
        }
        let bound_port = self.bound.map(|bound| bound.port());
        if port.is_some() && bound_port.is_some() && *port != bound_port {
            return false;
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match literal {
            Ok(address) => {
                address.is_loopback()
                    || ends
                        .local
                        .is_some_and(|local| local.to_canonical() == address.to_canonical())
            }
            Err(_) => *host == "localhost",
        }
    }

    /// Browsers say where a request comes from. A web page must not act with our credentials.
    fn check_origin(&self, parts: &Parts) -> Result<(), ProxyError> {
        let mut origins = parts.headers.get_all(ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let listed = self.rules.origins.contains(origin) && origins.next().is_none();
            return if listed { Ok(()) } else { Err(ProxyError::Origin) };
        }
        let own = |site: &HeaderValue| site == "none" || site == "same-origin";
        let all_own = parts.headers.get_all(SEC_FETCH_SITE).iter().all(own);
        if all_own { Ok(()) } else { Err(ProxyError::Origin) }
    }

    fn check_caller_token(&self, parts: &Parts) -> Result<Option<HeaderName>, ProxyError> {
        let Some(CallerToken { secret, header }) = &self.rules.caller_token else {
            return Ok(None);
        };
        let name = header.clone().unwrap_or(AUTHORIZATION);
        let mut values = parts.headers.get_all(&name).iter();
        let presented = values.next().ok_or(ProxyError::CallerTokenMissing)?.as_bytes();
        if values.next().is_some() {
            return Err(ProxyError::Malformed("the caller token is there more than once"));
        }
        let presented = if header.is_none() {
            let (scheme, token) = presented.split_at_checked(7).unwrap_or_default();
            if !scheme.eq_ignore_ascii_case(b"bearer ") {
                return Err(ProxyError::CallerTokenMissing);
            }
            token
        } else {
            presented
        };
        let expected = self.secrets.get(secret).ok_or(ProxyError::Internal)?;
        if bool::from(presented.ct_eq(expected.expose().as_bytes())) {
            Ok(Some(name))
        } else {
            Err(ProxyError::CallerToken)
        }
    }
}

/// What a request addresses.
#[derive(Debug, PartialEq, Eq)]
struct Addressed<'r> {
    /// As it is written.
    text: Cow<'r, str>,
    /// Lower case.
    host: Cow<'r, str>,
    port: Option<u16>,
}

impl<'r> Addressed<'r> {
    /// Reads a host and, if there is one, a port.
    fn read(text: &'r [u8]) -> Option<Self> {
        Self::read_plain(text).or_else(|| {
            let authority = Authority::try_from(text).ok()?;
            let port = authority.port_u16();
            let behind_host = authority.as_str().strip_prefix(authority.host())?;
            // A number is not enough: `+80` is one as well.
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let plain_port = behind_host.is_empty()
                || (port.is_some() && behind_host.strip_prefix(':').is_some_and(digits));
            if authority.host().is_empty() || !plain_port {
                return None;
            }
            let host = authority.host().to_ascii_lowercase().into();
            Some(Self { text: authority.as_str().to_owned().into(), host, port })
        })
    }

    /// What nearly all are: a name or IPv4 address in lower case, with or without a port. Nothing
    /// is copied.
    fn read_plain(text: &'r [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (host, port) = match text.split_once(':') {
            Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
                (host, Some(port.parse().ok()?))
            }
            Some(_) => return None,
            None => (text, None),
        };
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
        (!host.is_empty() && host.bytes().all(plain)).then(|| Self {
            text: text.into(),
            host: host.into(),
            port,
        })
    }
}

/// The authority that the request addresses (RFC 9110 §7.2, RFC 9112 §3.2).
fn addressed(parts: &Parts) -> Result<Option<Addressed<'_>>, ProxyError> {
    let malformed = || ProxyError::Malformed("the Host field is not a host");
    let mut hosts = parts.headers.get_all(HOST).iter();
    let field = hosts.next();
    if hosts.next().is_some() {
        return Err(ProxyError::Malformed("there is more than one Host field"));
    }
    let text = match (parts.uri.authority(), field) {
        (Some(target), Some(field)) => {
            // Both have to be one, also the one that does not count.
            Addressed::read(field.as_bytes()).ok_or_else(malformed)?;
            if !target.as_str().as_bytes().eq_ignore_ascii_case(field.as_bytes()) {
                return Err(ProxyError::Malformed("the target and the Host field disagree"));
            }
            target.as_str().as_bytes()
        }
        // Only HTTP/2 says it with the target alone (RFC 9112 §3.2, RFC 9113 §8.3.1).
        (Some(target), None) if parts.version != Version::HTTP_11 => target.as_str().as_bytes(),
        (None, Some(field)) => field.as_bytes(),
        (None, None) if parts.version == Version::HTTP_10 => return Ok(None),
        (_, None) => return Err(ProxyError::Malformed("there is no Host field")),
    };
    Addressed::read(text).map(Some).ok_or_else(malformed)
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;
