//! OAuth 2.0: how an access token is asked for (RFC 6749, 6750, 7523, 8414, 8628, 8693, 8705 and
//! 9700).
//!
//! `source` decides what is asked, in which order; `request` writes it down; `assertion`
//! signs; `reply` reads the answer; `discovery` finds the endpoint; `rotation` has the refresh
//! tokens; `device_code` is the login of a person, on another device. Here is what the
//! configuration says.
//!
//! A value that each device has of its own is absent here. It is found among the values of the
//! device under the name of its key, and comes first there.

mod assertion;
mod device_code;
mod discovery;
mod reply;
mod request;
mod rotation;
mod source;

use std::time::Duration;

use http::{HeaderName, Uri};

pub use assertion::{AssertionSpec, JwtAlgorithm, LONGEST_LIFE};
pub use device_code::{DeviceAuthorization, LoginError};
pub use discovery::DiscoveryError;
pub use reply::{ACCESS_TOKEN, ErrorCode, REFRESH_TOKEN};
pub use source::OauthSource;

use super::secret_ref::SecretRef;

/// How an access token is obtained. What is no secret stands in a [`SecretRef::Value`], too, where
/// both are possible.
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, PartialEq)]
pub enum Grant {
    /// The client's own (RFC 6749 §4.4).
    ClientCredentials,
    /// A user's name and password (RFC 6749 §4.3).
    Password {
        /// The user.
        username: Option<SecretRef>,
        /// The password.
        password: Option<SecretRef>,
    },
    /// A refresh token that somebody has obtained (RFC 6749 §6).
    RefreshToken(Option<SecretRef>),
    /// A person, who says yes on another device (RFC 8628).
    DeviceCode {
        /// Where that begins, unless the metadata say it.
        url: Option<Uri>,
        /// The person may be sent to a page over plain HTTP that is not loopback.
        plaintext: bool,
    },
    /// An assertion (RFC 7523 §2.1).
    JwtBearer(Assertion),
    /// Another token (RFC 8693).
    TokenExchange(Exchange),
}

/// An assertion.
#[derive(Debug, Clone, PartialEq)]
pub enum Assertion {
    /// Made by somebody else.
    Given(Option<SecretRef>),
    /// Signed by us, anew for each attempt.
    Signed(AssertionSpec),
}

/// A token for another.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// On behalf of whom.
    pub subject_token: Option<SecretRef>,
    /// What kind of token that is.
    pub subject_token_type: String,
    /// Who acts, and what kind of token that is.
    pub actor_token: Option<(SecretRef, String)>,
    /// What kind of token is wanted.
    pub requested_token_type: Option<String>,
}

/// How a client shows who it is.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientAuth {
    /// Not at all: a public client.
    None,
    /// Its secret in the field `Authorization` (RFC 6749 §2.3.1).
    Basic(Option<SecretRef>),
    /// Its secret in the form.
    Post(Option<SecretRef>),
    /// An assertion that it signs (RFC 7523 §2.2).
    PrivateKeyJwt(AssertionSpec),
    /// Its certificate in the TLS handshake (RFC 8705).
    Tls,
}

/// A secret by the name of its key; `None` where each device has its own.
type Named<'g> = (&'static str, Option<&'g SecretRef>);

impl Grant {
    /// The secrets on which the grant rests. With others, what came of it is no longer theirs.
    fn basis(&self) -> Vec<Named<'_>> {
        match self {
            Self::ClientCredentials | Self::DeviceCode { .. } => Vec::new(),
            Self::Password { username, password } => {
                vec![("username", username.as_ref()), ("password", password.as_ref())]
            }
            Self::RefreshToken(token) => vec![("refresh_token", token.as_ref())],
            Self::JwtBearer(Assertion::Given(assertion)) => {
                vec![("assertion", assertion.as_ref())]
            }
            Self::JwtBearer(Assertion::Signed(spec)) => {
                vec![("signed_assertion_key", spec.key.as_ref())]
            }
            Self::TokenExchange(exchange) => {
                let actor = exchange.actor_token.as_ref();
                let actor = actor.map(|(token, _)| ("actor_token", Some(token)));
                let subject = ("subject_token", exchange.subject_token.as_ref());
                std::iter::once(subject).chain(actor).collect()
            }
        }
    }

    /// True if a refresh token in the answer is used. A client that asks for itself needs none
    /// (RFC 6749 §4.4.3).
    fn takes_refresh_tokens(&self) -> bool {
        !matches!(self, Self::ClientCredentials)
    }

    /// True if there is something to ask with where a refresh token is used up.
    pub fn can_ask_anew(&self) -> bool {
        !matches!(self, Self::RefreshToken(_) | Self::DeviceCode { .. })
    }
}

impl OauthSpec {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let client = match &self.client_auth {
            ClientAuth::None | ClientAuth::Tls => None,
            ClientAuth::Basic(secret) | ClientAuth::Post(secret) => secret.as_ref(),
            ClientAuth::PrivateKeyJwt(spec) => spec.key.as_ref(),
        };
        let parameters = self.parameters.iter().map(|(_, value)| value);
        let headers = self.headers.iter().map(|(_, value)| value);
        let basis = self.grant.basis().into_iter().filter_map(|(_, reference)| reference);
        basis.chain(client).chain(parameters).chain(headers).cloned().collect()
    }

    /// True if a person has to log in, with a command of its own.
    pub fn needs_a_person(&self) -> bool {
        matches!(self.grant, Grant::DeviceCode { .. })
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
