//! The request for a token, written down: form, client authentication, fields. No I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Uri};
use zeroize::Zeroizing;

use super::discovery::Server;
use super::{Assertion, AssertionSpec, ClientAuth, Exchange, Grant, OauthSpec};
use crate::clock::Clock;
use crate::credential::FetchError;
use crate::credential::http::TokenRequest;
use crate::credential::secret_ref::SecretRef;
use crate::credential::secrets::Secrets;
use crate::secret::Secret;
use crate::sign::{BindError, sensitive_value};
use crate::template::MissingValue;
use crate::values::Values;

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// What a token is asked for with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ground<'t> {
    /// The configured grant.
    Grant,
    /// The refresh token of an earlier answer.
    Refresh(&'t Secret),
    /// The code of a login that a person is to approve (RFC 8628 §3.4).
    DeviceCode(&'t Secret),
}

/// What requests are written from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'w> {
    pub(super) spec: &'w OauthSpec,
    pub(super) secrets: &'w Secrets,
    /// The values of a device's own.
    pub(super) own: &'w Values,
    pub(super) clock: &'w Clock,
    pub(super) server: &'w Server,
}

impl Writer<'_> {
    /// The request for a token. Assertions in it are signed anew.
    pub(super) fn write(self, ground: Ground<'_>) -> Result<TokenRequest, FetchError> {
        let mut form = Form::default();
        match ground {
            Ground::Grant => self.grant(&mut form)?,
            Ground::Refresh(token) => {
                form.push("grant_type", "refresh_token");
                form.push("refresh_token", token.expose());
            }
            Ground::DeviceCode(code) => {
                form.push("grant_type", DEVICE_CODE);
                form.push("device_code", code.expose());
            }
        }
        // Without a scope a refresh asks for what was granted, which may be less (RFC 6749 §6).
        let asks_scope =
            matches!(ground, Ground::Grant) || matches!(self.spec.grant, Grant::RefreshToken(_));
        let (alias, url) = (&self.server.mtls_token_url, &self.server.token_url);
        self.finish(form, asks_scope, alias.as_ref(), url)
    }

    /// The request that begins the login of a person at `url` (RFC 8628 §3.1).
    pub(super) fn write_device_authorization(self, url: &Uri) -> Result<TokenRequest, FetchError> {
        let alias = self.server.mtls_device_authorization_url.as_ref();
        self.finish(Form::default(), true, alias, url)
    }

    /// What all requests have. Clients with a certificate have an endpoint of their own, or not.
    fn finish(
        self,
        mut form: Form,
        asks_scope: bool,
        alias: Option<&Uri>,
        url: &Uri,
    ) -> Result<TokenRequest, FetchError> {
        let spec = self.spec;
        let scope = self.own.text("scope").or(spec.scope.as_deref());
        if let Some(scope) = scope.filter(|_| asks_scope) {
            form.push("scope", scope);
        }
        if let Some(audience) = self.own.text("audience") {
            form.push("audience", audience);
        }
        for (name, value) in &spec.parameters {
            form.push(name, self.secret(value)?.expose());
        }
        let mut headers = HeaderMap::new();
        let content_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, content_type);
        for (name, value) in &spec.headers {
            let value = sensitive_value(self.secret(value)?.expose())
                .ok_or_else(|| BindError::Field(name.clone()))?;
            headers.insert(name.clone(), value);
        }
        self.client(&mut form, &mut headers)?;
        let tls = matches!(spec.client_auth, ClientAuth::Tls);
        let url = alias.filter(|_| tls).unwrap_or(url).clone();
        Ok(TokenRequest { method: Method::POST, url, headers, content: form.content() })
    }

    fn grant(self, form: &mut Form) -> Result<(), FetchError> {
        match &self.spec.grant {
            Grant::ClientCredentials => form.push("grant_type", "client_credentials"),
            Grant::Password { username, password } => {
                form.push("grant_type", "password");
                form.push("username", self.value("username", username.as_ref())?.expose());
                form.push("password", self.value("password", password.as_ref())?.expose());
            }
            Grant::RefreshToken(token) => {
                form.push("grant_type", "refresh_token");
                form.push("refresh_token", self.value("refresh_token", token.as_ref())?.expose());
            }
            Grant::DeviceCode { .. } => {
                return Err(FetchError::Request("a person has to log in".to_owned()));
            }
            Grant::JwtBearer(assertion) => {
                form.push("grant_type", JWT_BEARER);
                match assertion {
                    Assertion::Given(given) => {
                        form.push("assertion", self.value("assertion", given.as_ref())?.expose());
                    }
                    Assertion::Signed(spec) => {
                        form.push("assertion", &self.sign("signed_assertion_key", spec)?);
                    }
                }
            }
            Grant::TokenExchange(exchange) => self.exchange(form, exchange)?,
        }
        Ok(())
    }

    fn exchange(self, form: &mut Form, exchange: &Exchange) -> Result<(), FetchError> {
        form.push("grant_type", TOKEN_EXCHANGE);
        let subject = self.value("subject_token", exchange.subject_token.as_ref())?;
        form.push("subject_token", subject.expose());
        form.push("subject_token_type", &exchange.subject_token_type);
        if let Some((token, kind)) = &exchange.actor_token {
            form.push("actor_token", self.secret(token)?.expose());
            form.push("actor_token_type", kind);
        }
        if let Some(requested) = &exchange.requested_token_type {
            form.push("requested_token_type", requested);
        }
        Ok(())
    }

    /// Shows who the client is.
    fn client(self, form: &mut Form, headers: &mut HeaderMap) -> Result<(), FetchError> {
        let id = self.client_id();
        match &self.spec.client_auth {
            ClientAuth::Basic(secret) => {
                let secret = self.value("client_secret", secret.as_ref())?;
                let pair = basic(id.unwrap_or_default(), secret.expose());
                let field = sensitive_value(&pair).ok_or(BindError::Field(AUTHORIZATION))?;
                headers.insert(AUTHORIZATION, field);
                return Ok(());
            }
            ClientAuth::Post(secret) => {
                let secret = self.value("client_secret", secret.as_ref())?;
                form.push("client_secret", secret.expose());
            }
            ClientAuth::PrivateKeyJwt(spec) => {
                form.push("client_assertion_type", CLIENT_JWT_BEARER);
                form.push("client_assertion", &self.sign("client_assertion_key", spec)?);
            }
            ClientAuth::None | ClientAuth::Tls => {}
        }
        if let Some(id) = id {
            form.push("client_id", id);
        }
        Ok(())
    }

    fn client_id(&self) -> Option<&str> {
        self.own.text("client_id").or(self.spec.client_id.as_deref())
    }

    fn sign(self, key: &str, spec: &AssertionSpec) -> Result<Zeroizing<String>, FetchError> {
        let key = self.value(key, spec.key.as_ref())?;
        spec.of(self.client_id()).sign(&key, &self.server.audience(), self.clock)
    }

    /// A device's own value of that name, or the one that all share.
    fn value(self, name: &str, shared: Option<&SecretRef>) -> Result<Secret, FetchError> {
        match (self.own.get(name), shared) {
            (Some(own), _) => Ok(own.clone()),
            (None, Some(shared)) => self.secret(shared),
            (None, None) => Err(FetchError::Request(MissingValue(name.to_owned()).to_string())),
        }
    }

    fn secret(self, reference: &SecretRef) -> Result<Secret, FetchError> {
        let unresolved =
            || FetchError::Request(format!("the secret in the {reference} is missing"));
        self.secrets.get(reference).ok_or_else(unresolved)
    }
}

/// Id and secret for the Basic scheme, each encoded as in a form first (RFC 6749 §2.3.1).
fn basic(id: &str, secret: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(String::new());
    encode(&mut pair, id);
    pair.push(':');
    encode(&mut pair, secret);
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// A form. Sized so that it does not leave half of itself behind when it grows.
struct Form(Zeroizing<String>);

impl Default for Form {
    fn default() -> Self {
        Self(Zeroizing::new(String::with_capacity(4096)))
    }
}

impl Form {
    fn push(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(&mut self.0, name);
        self.0.push('=');
        encode(&mut self.0, value);
    }

    fn content(self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.as_bytes().to_vec())
    }
}

/// `application/x-www-form-urlencoded` (RFC 6749 Appendix B), with a space as `%20`: whoever reads
/// forms reads that as well, and some servers read no `+` in the Basic scheme.
fn encode(out: &mut String, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| char::from(HEX.get(usize::from(nibble)).copied().unwrap_or(b'0'));
    for byte in text.bytes() {
        match byte {
            b'*' | b'-' | b'.' | b'_' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.extend(['%', digit(byte >> 4), digit(byte & 15)]),
        }
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
