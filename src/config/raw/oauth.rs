//! `kind = "oauth2"` as the file says it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RawNames, RawRefresh, RawSecret, RawTls};
use crate::credential::oauth::JwtAlgorithm;

/// OAuth 2.0.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawOauth {
    /// On what grounds a token is asked for. Default: "client_credentials".
    pub grant: Option<RawGrant>,
    /// The token endpoint.
    pub token_url: Option<String>,
    /// The authorization server's identifier. Without token_url, its metadata say where the token
    /// endpoint is (RFC 8414).
    pub issuer: Option<String>,
    /// Where a login begins, for the grant "device_code". Without it and token_url, the issuer's
    /// metadata say it.
    pub device_authorization_url: Option<String>,
    /// The client's identifier.
    pub client_id: Option<String>,
    /// The client's secret.
    pub client_secret: Option<RawSecret>,
    /// How the client shows who it is. Default: "basic" with client_secret, "private_key_jwt" with
    /// client_assertion.
    pub client_auth: Option<RawClientAuth>,
    /// The assertion that a client signs which shows who it is by its key.
    pub client_assertion: Option<RawAssertion>,
    /// The user, for the grant "password".
    pub username: Option<String>,
    /// The user's password, for the grant "password".
    pub password: Option<RawSecret>,
    /// The refresh token, for the grant "refresh_token".
    pub refresh_token: Option<RawSecret>,
    /// An assertion made by somebody else, for the grant "jwt_bearer".
    pub assertion: Option<RawSecret>,
    /// An assertion that we sign, for the grant "jwt_bearer".
    pub signed_assertion: Option<RawAssertion>,
    /// The token that is exchanged, for the grant "token_exchange".
    pub subject_token: Option<RawSecret>,
    /// What kind of token that is. Default: "urn:ietf:params:oauth:token-type:access_token".
    pub subject_token_type: Option<String>,
    /// A token of whoever acts, for the grant "token_exchange".
    pub actor_token: Option<RawSecret>,
    /// What kind of token that is. Default: "urn:ietf:params:oauth:token-type:access_token".
    pub actor_token_type: Option<String>,
    /// What kind of token the exchange is to issue.
    pub requested_token_type: Option<String>,
    /// What the token is to be good for: a text with spaces, or a list.
    pub scope: Option<RawNames>,
    /// For whom the token is to be.
    pub audience: Option<RawNames>,
    /// The URLs for which the token is to be (RFC 8707).
    pub resource: Option<RawNames>,
    /// Further parameters of the request.
    pub extra: Option<BTreeMap<String, RawText>>,
    /// Further fields of the request.
    pub headers: Option<BTreeMap<String, RawText>>,
    /// The field of requests that carries the access token. Default: "Authorization".
    pub header: Option<String>,
    /// What stands before the token in the field. Default: "Bearer " in Authorization, else nothing.
    pub prefix: Option<String>,
    /// The token_type that the answer must have, if it has one. Default: "Bearer".
    pub token_type: Option<String>,
    /// The lifetime where the answer does not say. Default: "1h".
    pub lifetime: Option<String>,
    /// A file with a line per device, each of which asks for tokens of its own: CSV with a column
    /// device and one for each field that differs; or .toml or .json.
    pub devices: Option<String>,
    /// Further fields to remove from what callers send; a trailing * stands for any ending.
    pub remove: Option<Vec<String>>,
    /// Paths of the upstream that callers may not reach; * stands for the rest of a segment, ** in
    /// front for any number of them.
    pub deny: Option<Vec<String>>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
    /// When to fetch and renew.
    pub refresh: Option<RawRefresh>,
    /// TLS to the authorization server.
    pub tls: Option<RawTls>,
    /// Allow plain HTTP to an authorization server that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
}

/// The grounds on which a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawGrant {
    /// The client's own (RFC 6749 §4.4).
    #[default]
    ClientCredentials,
    /// A user's name and password (RFC 6749 §4.3).
    Password,
    /// A refresh token (RFC 6749 §6).
    RefreshToken,
    /// A person, who logs in with "countersign login" (RFC 8628).
    DeviceCode,
    /// An assertion (RFC 7523).
    JwtBearer,
    /// Another token (RFC 8693).
    TokenExchange,
}

/// How a client shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawClientAuth {
    /// Its secret in the field Authorization.
    Basic,
    /// Its secret in the form.
    Post,
    /// An assertion that it signs (RFC 7523).
    PrivateKeyJwt,
    /// Its certificate in the TLS handshake (RFC 8705).
    Tls,
    /// Not at all: a public client.
    None,
}

/// An assertion that we sign, anew for each attempt.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAssertion {
    /// The private key, in PEM.
    pub key: Option<RawSecret>,
    /// How it signs. Default: "RS256".
    pub algorithm: Option<JwtAlgorithm>,
    /// The key's identifier (kid).
    pub key_id: Option<String>,
    /// Who asserts (iss). Default: client_id.
    pub issuer: Option<String>,
    /// About whom (sub). Default: issuer.
    pub subject: Option<String>,
    /// For whom (aud). Default: the issuer if it is known, else the token endpoint.
    pub audience: Option<String>,
    /// How long it lives, up to 5 minutes. Default: "2m".
    pub lifetime: Option<String>,
    /// Further claims.
    pub claims: Option<BTreeMap<String, serde_json::Value>>,
}

/// A text as it is, or a secret.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawText {
    /// A text.
    Text(String),
    /// A secret.
    Secret(RawSecret),
}
