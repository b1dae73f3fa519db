//! OAuth 2.0: how an access token is asked for (RFC 6749, 6750, 7523, 8414, 8693, 8705, 9700).
//!
//! `source` decides what is asked, in which order; `request` writes it down; `assertion`
//! signs; `reply` reads the answer; `discovery` finds the endpoint; `rotation` has the refresh
//! token. Here is what the configuration says.

mod assertion;
mod discovery;
mod reply;
mod request;
mod rotation;
mod source;

use std::time::Duration;

use http::{HeaderName, Uri};

pub use assertion::{AssertionSpec, JwtAlgorithm, LONGEST_LIFE};
pub use discovery::DiscoveryError;
pub use reply::{ACCESS_TOKEN, ErrorCode, REFRESH_TOKEN};
pub use source::OauthSource;

use super::secret_ref::SecretRef;

/// How an access token is obtained. What is no secret stands in a [`SecretRef::Value`], too, where
/// both are possible.
#[derive(Debug, Clone)]
pub struct OauthSpec {
    /// Where.
    pub endpoint: Endpoint,
    /// The authorization server's identifier, if it is known.
    pub issuer: Option<String>,
    /// On what grounds.
    pub grant: Grant,
    /// The client's identifier.
    pub client_id: Option<String>,
    /// How the client shows who it is.
    pub client_auth: ClientAuth,
    /// What the token is to be good for, separated by spaces.
    pub scope: Option<String>,
    /// Further parameters.
    pub parameters: Vec<(String, SecretRef)>,
    /// Further fields of the request.
    pub headers: Vec<(HeaderName, SecretRef)>,
    /// The type of token that is expected.
    pub token_type: String,
    /// The lifetime where the answer does not say.
    pub lifetime: Option<Duration>,
}

/// Where the token endpoint is.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// Here.
    Url(Uri),
    /// Where the metadata of the issuer say.
    Discovered {
        /// The issuer's identifier, which is a URL.
        issuer: Uri,
        /// The metadata may lead to an endpoint over plain HTTP that is not loopback.
        plaintext: bool,
    },
}

/// A grant: the grounds on which a token is asked for.
#[derive(Debug, Clone)]
pub enum Grant {
    /// The client's own (RFC 6749 §4.4).
    ClientCredentials,
    /// A user's name and password (RFC 6749 §4.3).
    Password {
        /// The user.
        username: SecretRef,
        /// The password.
        password: SecretRef,
    },
    /// A refresh token that somebody has obtained (RFC 6749 §6).
    RefreshToken(SecretRef),
    /// An assertion (RFC 7523 §2.1).
    JwtBearer(Assertion),
    /// Another token (RFC 8693).
    TokenExchange(Exchange),
}

/// An assertion.
#[derive(Debug, Clone)]
pub enum Assertion {
    /// Made by somebody else.
    Given(SecretRef),
    /// Signed by us, anew for each attempt.
    Signed(AssertionSpec),
}

/// A token for another.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// On behalf of whom.
    pub subject_token: SecretRef,
    /// What kind of token that is.
    pub subject_token_type: String,
    /// Who acts, and what kind of token that is.
    pub actor_token: Option<(SecretRef, String)>,
    /// What kind of token is wanted.
    pub requested_token_type: Option<String>,
}

/// How a client shows who it is.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Not at all: a public client.
    None,
    /// Its secret in the field `Authorization` (RFC 6749 §2.3.1).
    Basic(SecretRef),
    /// Its secret in the form.
    Post(SecretRef),
    /// An assertion that it signs (RFC 7523 §2.2).
    PrivateKeyJwt(AssertionSpec),
    /// Its certificate in the TLS handshake (RFC 8705).
    Tls,
}

impl Grant {
    /// The secrets on which the grant rests. With others, what came of it is no longer theirs.
    fn basis(&self) -> Vec<&SecretRef> {
        match self {
            Self::ClientCredentials => Vec::new(),
            Self::Password { username, password } => vec![username, password],
            Self::RefreshToken(token) => vec![token],
            Self::JwtBearer(Assertion::Given(assertion)) => vec![assertion],
            Self::JwtBearer(Assertion::Signed(spec)) => vec![&spec.key],
            Self::TokenExchange(exchange) => {
                let actor = exchange.actor_token.as_ref().map(|(token, _)| token);
                std::iter::once(&exchange.subject_token).chain(actor).collect()
            }
        }
    }

    /// True if a refresh token in the answer is used. A client that asks for itself needs none
    /// (RFC 6749 §4.4.3).
    fn takes_refresh_tokens(&self) -> bool {
        !matches!(self, Self::ClientCredentials)
    }
}

impl OauthSpec {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let client = match &self.client_auth {
            ClientAuth::None | ClientAuth::Tls => None,
            ClientAuth::Basic(secret) | ClientAuth::Post(secret) => Some(secret),
            ClientAuth::PrivateKeyJwt(spec) => Some(&spec.key),
        };
        let parameters = self.parameters.iter().map(|(_, value)| value);
        let headers = self.headers.iter().map(|(_, value)| value);
        let all = self.grant.basis().into_iter().chain(client).chain(parameters).chain(headers);
        all.cloned().collect()
    }

    /// The URLs that are asked, as far as the configuration knows them.
    pub fn url(&self) -> &Uri {
        match &self.endpoint {
            Endpoint::Url(url) => url,
            Endpoint::Discovered { issuer, .. } => issuer,
        }
    }

    /// True if TLS may be needed.
    pub fn may_be_secure(&self) -> bool {
        matches!(self.endpoint, Endpoint::Discovered { .. })
            || self.url().scheme_str() == Some("https")
    }
}
