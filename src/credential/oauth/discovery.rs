//! Finding the token endpoint from the issuer (RFC 8414, and OpenID Connect Discovery 1.0).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{Endpoint, OauthSpec};
use crate::credential::FetchError;
use crate::credential::http::{TokenAnswer, TokenClient, TokenRequest};
use crate::credential::reply::text_at;

/// Where the document is below the host (RFC 8414 §3), the issuer's path behind it.
const OAUTH: &str = "/.well-known/oauth-authorization-server";
/// Where the document is below the issuer (OpenID Connect Discovery 1.0 §4).
const OPENID: &str = "/.well-known/openid-configuration";

/// Why the metadata do not lead to a token endpoint. Names places, never what stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// There are none at either place.
    #[error("it answered {0} at both well-known places; check 'issuer', or set 'token_url'")]
    Status(StatusCode),
    /// What is there is something else.
    #[error("they are not JSON; check 'issuer', or set 'token_url'")]
    NotJson,
    /// They speak for another issuer (RFC 8414 §3.3).
    #[error("their 'issuer' is not the configured one, to the letter")]
    Issuer,
    /// There is no token endpoint that may be used.
    #[error("their 'token_endpoint' is missing or not https")]
    Endpoint,
    /// There is no place where a person's login could begin.
    #[error(
        "their 'device_authorization_endpoint' is missing or not https; set \
         'device_authorization_url' if the server has one"
    )]
    DeviceEndpoint,
}

/// An authorization server, found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// Where tokens are asked for.
    pub(super) token_url: Uri,
    /// Where clients do that which have a certificate, if it is another place (RFC 8705 §5).
    pub(super) mtls_token_url: Option<Uri>,
    /// Where a person's login begins, if that is known (RFC 8628 §4).
    pub(super) device_authorization_url: Option<Uri>,
    /// The same for clients that have a certificate.
    pub(super) mtls_device_authorization_url: Option<Uri>,
    /// What the server calls itself, if it is known.
    pub(super) issuer: Option<String>,
}

impl Server {
    /// Whom an assertion is for: the server itself, and only where its name is not known its
    /// endpoint.
    pub(super) fn audience(&self) -> String {
        self.issuer.clone().unwrap_or_else(|| self.token_url.to_string())
    }
}

/// Asking for the metadata: once, whoever waits for them.
type Asking = Shared<BoxFuture<'static, Result<Arc<Server>, FetchError>>>;

/// What was found, until somebody doubts it.
#[derive(Default)]
pub(super) struct Discovery(Mutex<Option<Asking>>);

impl Discovery {
    /// The server that `spec` names, asked for its metadata if need be.
    pub(super) async fn server(
        &self,
        spec: &OauthSpec,
        client: &TokenClient,
    ) -> Result<Arc<Server>, FetchError> {
        let (issuer, plaintext) = match &spec.endpoint {
            Endpoint::Url(url) => {
                let (token_url, issuer) = (url.clone(), spec.issuer.clone());
                return Ok(Arc::new(Server { token_url, issuer, ..Server::default() }));
            }
            Endpoint::Discovered { issuer, plaintext } => (issuer, *plaintext),
        };
        let ask = || {
            let (issuer, client) = (issuer.clone(), client.clone());
            let name = spec.issuer.clone().unwrap_or_else(|| issuer.to_string());
            let found =
                async move { discover(&issuer, &name, plaintext, &client).await.map(Arc::new) };
            found.boxed().shared()
        };
        let asking = self.lock().get_or_insert_with(ask).clone();
        // Also if it is cut off: a server that keeps one waiting would be waited for for ever.
        let mut unless_found = Unless { found: false, discovery: self, asking: asking.clone() };
        let found = asking.await;
        unless_found.found = found.is_ok();
        found
    }

    /// Asks again the next time, if that is what was found last: endpoints move.
    pub(super) fn forget(&self, server: &Arc<Server>) {
        let mut last = self.lock();
        let found = last.as_ref().and_then(Shared::peek);
        if found.is_some_and(|found| found.as_ref().is_ok_and(|found| Arc::ptr_eq(found, server))) {
            *last = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Asking>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Discovery").field(&self.lock().as_ref().map(Shared::peek)).finish()
    }
}

/// Whoever comes next asks anew, unless it was found.
struct Unless<'d> {
    found: bool,
    discovery: &'d Discovery,
    asking: Asking,
}

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        let mut last = self.discovery.lock();
        if !self.found && last.as_ref().is_some_and(|last| last.ptr_eq(&self.asking)) {
            *last = None;
        }
    }
}

async fn discover(
    issuer: &Uri,
    name: &str,
    plaintext: bool,
    client: &TokenClient,
) -> Result<Server, FetchError> {
    let path = issuer.path().trim_end_matches('/');
    let first = look(issuer, &format!("{OAUTH}{path}"), name, plaintext, client).await;
    let Err(FetchError::Discovery(why)) = first else { return first };
    // What is there may have nothing to do with it, such as a page for whatever is not found.
    let second = look(issuer, &format!("{path}{OPENID}"), name, plaintext, client).await;
    match (why, second) {
        // More telling than that there is nothing at the other place.
        (DiscoveryError::Issuer | DiscoveryError::Endpoint, Err(FetchError::Discovery(_))) => {
            Err(FetchError::Discovery(why))
        }
        (_, second) => second,
    }
}

/// The server that the metadata at `place` describe.
async fn look(
    issuer: &Uri,
    place: &str,
    name: &str,
    plaintext: bool,
    client: &TokenClient,
) -> Result<Server, FetchError> {
    let why = match ask(issuer, place, client).await {
        Ok(answer) if answer.status != StatusCode::OK => DiscoveryError::Status(answer.status),
        Ok(answer) => match serde_json::from_slice(&answer.content) {
            Ok(metadata) => return read(&metadata, name, plaintext).map_err(FetchError::Discovery),
            Err(_) => DiscoveryError::NotJson,
        },
        Err(FetchError::Reply(_)) => DiscoveryError::NotJson,
        Err(error) => return Err(error),
    };
    Err(FetchError::Discovery(why))
}

async fn ask(issuer: &Uri, place: &str, client: &TokenClient) -> Result<TokenAnswer, FetchError> {
    let mut parts = issuer.clone().into_parts();
    let place = place.parse().map_err(|_| FetchError::Request("no such path".to_owned()))?;
    parts.path_and_query = Some(place);
    let url = Uri::from_parts(parts).map_err(|error| FetchError::Request(error.to_string()))?;
    let request = TokenRequest {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        content: Zeroizing::default(),
    };
    let answer = client.exchange(request, |status| status.is_success()).await?;
    // Asked to come back later, it is not asked at the other place.
    if answer.retry_after().is_some() && !answer.status.is_success() {
        let (status, retry_after) = (answer.status, answer.retry_after());
        return Err(FetchError::Unavailable { status, retry_after });
    }
    Ok(answer)
}

fn read(metadata: &Value, name: &str, plaintext: bool) -> Result<Server, DiscoveryError> {
    // Else one server could send us, and our secret, to another (RFC 8414 §3.3, RFC 9207).
    if metadata.pointer("/issuer").and_then(Value::as_str) != Some(name) {
        return Err(DiscoveryError::Issuer);
    }
    let usable = |pointer| usable(&text_at(metadata, pointer)?, plaintext);
    Ok(Server {
        token_url: usable("/token_endpoint").ok_or(DiscoveryError::Endpoint)?,
        mtls_token_url: usable("/mtls_endpoint_aliases/token_endpoint"),
        device_authorization_url: usable("/device_authorization_endpoint"),
        mtls_device_authorization_url: usable(
            "/mtls_endpoint_aliases/device_authorization_endpoint",
        ),
        issuer: Some(name.to_owned()),
    })
}

/// A URL to which secrets may be sent.
pub(super) fn usable(url: &str, plaintext: bool) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let fine = match uri.scheme_str()? {
        "https" => true,
        "http" => plaintext || crate::connect::is_loopback(authority.host()),
        _ => false,
    };
    (fine && !authority.as_str().contains('@') && !url.contains('#')).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "https://id.example.com/tenant";

    fn endpoint(token_endpoint: &Value, plaintext: bool) -> Result<String, DiscoveryError> {
        let metadata = json!({ "issuer": ISSUER, "token_endpoint": token_endpoint });
        read(&metadata, ISSUER, plaintext).map(|server| server.token_url.to_string())
    }

    #[test]
    fn the_issuer_in_the_document_is_the_configured_one_to_the_letter() {
        for other in ["https://id.example.com/tenant/", "https://id.example.com", "", "x"] {
            let metadata = json!({ "issuer": other, "token_endpoint": "https://id.example.com/t" });
            assert_eq!(read(&metadata, ISSUER, false), Err(DiscoveryError::Issuer), "{other}");
        }
        let none = json!({ "token_endpoint": "https://id.example.com/t" });
        assert_eq!(read(&none, ISSUER, false), Err(DiscoveryError::Issuer));
    }

    #[test]
    fn secrets_go_to_https_or_to_this_machine() {
        let fine = |url: &str| endpoint(&json!(url), false).is_ok_and(|found| found == url);
        assert!(fine("https://tokens.example.net/token?tenant=7"), "another host, and a query");
        assert!(fine("http://127.0.0.1:8080/token"));
        for url in [
            "http://id.example.com/token",
            "ftp://id.example.com/token",
            "https://user:password@id.example.com/token",
            "https://id.example.com/token#part",
            "/token",
            "",
        ] {
            assert_eq!(endpoint(&json!(url), false), Err(DiscoveryError::Endpoint), "{url}");
        }
        assert_eq!(endpoint(&json!(7), false), Err(DiscoveryError::Endpoint));
        assert!(endpoint(&json!("http://id.example.com/token"), true).is_ok(), "as configured");
    }

    #[test]
    fn clients_with_a_certificate_may_have_an_endpoint_of_their_own() {
        let metadata = json!({
            "issuer": ISSUER,
            "token_endpoint": "https://id.example.com/token",
            "mtls_endpoint_aliases": { "token_endpoint": "https://mtls.example.com/token" },
        });
        let server = read(&metadata, ISSUER, false).unwrap();
        assert_eq!(server.mtls_token_url.unwrap(), "https://mtls.example.com/token");
    }
}
