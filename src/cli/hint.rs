//! What to do about a failure, for a person at a terminal: the messages themselves say what is wrong.

use std::error::Error as _;
use std::io;

use http::{StatusCode, Uri};

use crate::config::{CredentialConfig, SourceSpec};
use crate::connect::DialError;
use crate::credential::oauth::Endpoint;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::{SecretError, SecretReason};
use crate::credential::{FetchError, Refusal};
use crate::server::bind::BindError;

/// What to do about secrets that cannot be read.
pub(super) fn secrets(errors: &[SecretError]) -> Option<&'static str> {
    let any = |wanted: fn(&SecretReason) -> bool| errors.iter().any(|error| wanted(&error.reason));
    if any(|reason| matches!(reason, SecretReason::NotSet)) {
        return Some(
            "set the variable where countersign is started (export NAME=…); a service has an \
             environment of its own, so it is better served by { file = \"…\" } or \
             { systemd = \"…\" }",
        );
    }
    any(|reason| matches!(reason, SecretReason::NoFile)).then_some(
        "the path is that of the configuration, seen from the directory in which countersign is \
         started",
    )
}

/// What to do about an address that cannot be listened on.
pub(super) fn bind(error: &BindError) -> Option<String> {
    let kind = error.source().and_then(|reason| reason.downcast_ref::<io::Error>())?.kind();
    if kind == io::ErrorKind::AddrInUse {
        Some(
            "another program listens there, perhaps another countersign: end it, or choose another \
             port in 'address'"
                .to_owned(),
        )
    } else if kind == io::ErrorKind::PermissionDenied {
        Some("ports below 1024 are for the administrator: choose another in 'address'".to_owned())
    } else if kind == io::ErrorKind::AddrNotAvailable {
        Some("this machine has no such address: 'address' is where callers connect".to_owned())
    } else {
        None
    }
}

/// What to do about a login that failed.
pub(super) fn fetch(credential: &CredentialConfig, error: &FetchError) -> Option<String> {
    let (key, uri) = endpoint(credential)?;
    let url = shown(uri);
    match error {
        FetchError::Unreachable { reason, .. } => Some(dial(reason, key, uri.host())),
        FetchError::Timeout(_) => {
            Some(format!("{url} was asked: find out why it is slow, or raise refresh.timeout"))
        }
        FetchError::Unavailable { status, .. } if asks_for_another_url(*status) => {
            Some(format!("{url} was asked, which does not look like the API: is {key} right?"))
        }
        FetchError::Reply(_) => {
            Some(format!("{url} was asked: is {key} right, and is that the API that answers?"))
        }
        FetchError::Refused(Refusal::Status(_) | Refusal::Condition(_)) => {
            let places = places(credential);
            (!places.is_empty()).then(|| format!("{url} was asked, with secrets from: {places}"))
        }
        FetchError::Refused(_)
        | FetchError::Broken { .. }
        | FetchError::Unavailable { .. }
        | FetchError::Discovery(_)
        | FetchError::Bind(_)
        | FetchError::Secret(_)
        | FetchError::Request(_)
        | FetchError::Panicked => None,
    }
}

/// What to do about a connection that cannot be had. `key` is where the URL is.
pub(super) fn dial(error: &DialError, key: &str, host: Option<&str>) -> String {
    let host = host.unwrap_or("NAME");
    match error {
        DialError::Name => {
            format!(
                "is the host in {key} spelled right? Does this machine know it: getent hosts {host}"
            )
        }
        DialError::Refused => {
            format!("nothing listens there: is the port in {key} right, and does the server run?")
        }
        DialError::Timeout | DialError::Unroutable(_) => format!(
            "a firewall, or a proxy that has to be used (HTTPS_PROXY)? Is the host in {key} right?"
        ),
        DialError::Certificate(_) => format!(
            "is the host in {key} right, and the clock of this machine? A private authority is \
             trusted with tls = {{ ca = \"…\" }}"
        ),
        DialError::Handshake(_) => format!("are scheme and port in {key} right?"),
        DialError::Proxy(_) => {
            "the proxy is that of HTTPS_PROXY, with exceptions in NO_PROXY, or 'proxy' of the route"
                .to_owned()
        }
        DialError::Prohibited | DialError::Exhausted => {
            "the chapter on troubleshooting has more".to_owned()
        }
    }
}

/// These say that something answers, and not what was asked for.
fn asks_for_another_url(status: StatusCode) -> bool {
    [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED]
        .contains(&status)
}

/// The key that says where a login goes, and where that is.
fn endpoint(credential: &CredentialConfig) -> Option<(&'static str, &Uri)> {
    match &credential.source {
        SourceSpec::Fixed(_) => None,
        SourceSpec::Login(login) => {
            let key = if credential.kind == "login" { "request.url" } else { "base_url" };
            Some((key, &login.request.url))
        }
        SourceSpec::Oauth(oauth) => Some(match &oauth.endpoint {
            Endpoint::Url(url) => ("token_url", url),
            Endpoint::Discovered { issuer, .. } => ("issuer", issuer),
        }),
    }
}

/// Without the query and a user, which may hold anything.
fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{}", url.path())
}

/// Where the secrets of a credential are; none that stands in the configuration itself.
fn places(credential: &CredentialConfig) -> String {
    let mut places: Vec<String> = credential
        .secrets()
        .into_iter()
        .filter(|reference| !matches!(reference, SecretRef::Value(_)))
        .map(|reference| reference.to_string())
        .collect();
    places.sort();
    places.dedup();
    places.join(", ")
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        let url = "https://user:canary@id.example.com:8443/token?key=canary".parse().unwrap();
        assert_eq!(shown(&url), "https://id.example.com:8443/token");
    }
}
