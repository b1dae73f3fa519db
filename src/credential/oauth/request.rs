//! The request for a token, written down: form, client authentication, fields. No I/O.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
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

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// What a token is asked for with.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ground<'t> {
    /// The configured grant.
    Grant,
    /// The refresh token of an earlier answer.
    Refresh(&'t Secret),
}

/// What requests are written from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'w> {
    pub(super) spec: &'w OauthSpec,
    pub(super) secrets: &'w Secrets,
    pub(super) clock: &'w Clock,
    pub(super) server: &'w Server,
}

impl Writer<'_> {
    /// The request. Assertions in it are signed anew.
    pub(super) fn write(self, ground: Ground<'_>) -> Result<TokenRequest, FetchError> {
        let spec = self.spec;
        let mut form = Form::default();
        match ground {
            Ground::Grant => self.grant(&mut form)?,
            Ground::Refresh(token) => {
                form.push("grant_type", "refresh_token");
                form.push("refresh_token", token.expose());
            }
        }
        // Without a scope a refresh asks for what was granted, which may be less (RFC 6749 §6).
        let asks_scope =
            matches!(ground, Ground::Grant) || matches!(spec.grant, Grant::RefreshToken(_));
        if let Some(scope) = spec.scope.as_deref().filter(|_| asks_scope) {
            form.push("scope", scope);
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
        let alias = self.server.mtls_token_url.as_ref().filter(|_| tls);
        Ok(TokenRequest {
            method: Method::POST,
            url: alias.unwrap_or(&self.server.token_url).clone(),
            headers,
            content: form.content(),
        })
    }

    fn grant(self, form: &mut Form) -> Result<(), FetchError> {
        match &self.spec.grant {
            Grant::ClientCredentials => form.push("grant_type", "client_credentials"),
            Grant::Password { username, password } => {
                form.push("grant_type", "password");
                form.push("username", self.secret(username)?.expose());
                form.push("password", self.secret(password)?.expose());
            }
            Grant::RefreshToken(token) => {
                form.push("grant_type", "refresh_token");
                form.push("refresh_token", self.secret(token)?.expose());
            }
            Grant::JwtBearer(assertion) => {
                form.push("grant_type", JWT_BEARER);
                match assertion {
                    Assertion::Given(given) => {
                        form.push("assertion", self.secret(given)?.expose());
                    }
                    Assertion::Signed(spec) => form.push("assertion", &self.sign(spec)?),
                }
            }
            Grant::TokenExchange(exchange) => self.exchange(form, exchange)?,
        }
        Ok(())
    }

    fn exchange(self, form: &mut Form, exchange: &Exchange) -> Result<(), FetchError> {
        form.push("grant_type", TOKEN_EXCHANGE);
        form.push("subject_token", self.secret(&exchange.subject_token)?.expose());
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
        let id = self.spec.client_id.as_deref();
        match &self.spec.client_auth {
            ClientAuth::Basic(secret) => {
                let pair = basic(id.unwrap_or_default(), self.secret(secret)?.expose());
                let field = sensitive_value(&pair).ok_or(BindError::Field(AUTHORIZATION))?;
                headers.insert(AUTHORIZATION, field);
                return Ok(());
            }
            ClientAuth::Post(secret) => {
                form.push("client_secret", self.secret(secret)?.expose());
            }
            ClientAuth::PrivateKeyJwt(spec) => {
                form.push("client_assertion_type", CLIENT_JWT_BEARER);
                form.push("client_assertion", &self.sign(spec)?);
            }
            ClientAuth::None | ClientAuth::Tls => {}
        }
        if let Some(id) = id {
            form.push("client_id", id);
        }
        Ok(())
    }

    fn sign(self, spec: &AssertionSpec) -> Result<Zeroizing<String>, FetchError> {
        let key = self.secret(&spec.key)?;
        spec.sign(&key, &self.server.audience(), self.clock)
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
