//! Credentials as the file says them: one type per kind.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RawOauth, RawSecret, RawTls};
use crate::sign::encoding::{Encoding, TimestampFormat};
use crate::sign::hash::Algorithm;
use crate::sign::hmac::KeyEncoding;

/// A field's value: a template such as "Bearer {token}", or a secret.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawValue {
    /// A text in which {name} stands for a value.
    Template(String),
    /// A secret as it is.
    Secret(RawSecret),
}

/// A credential.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "a few of them live while a file is read")]
pub enum RawCredential {
    /// A twinzo device: logs in, renews its token, adds Token, Client and Branch.
    TwinzoDevice(RawTwinzoDevice),
    /// A twinzo API key: adds Api-Key, Client and Branch.
    TwinzoApiKey(RawTwinzoApiKey),
    /// A Devo token: adds standAloneToken.
    DevoToken(RawDevoToken),
    /// A Devo signature: HMAC-SHA256 over key, content and timestamp.
    DevoSignature(RawDevoSignature),
    /// Any fields.
    Fields(RawFields),
    /// Any query parameters.
    Query(RawQuery),
    /// Authorization: Bearer.
    Bearer(RawBearer),
    /// Authorization: Basic.
    Basic(RawBasic),
    /// OAuth 2.0: asks an authorization server for access tokens.
    Oauth2(RawOauth),
    /// A declared login for any API that hands out a token.
    Login(RawLogin),
    /// A declared keyed hash over parts of the request.
    Hmac(RawHmac),
}

/// A twinzo device.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTwinzoDevice {
    /// The API's base URL, such as `"https://api.platform.twinzo.eu"`; it may have a path.
    pub base_url: Option<String>,
    /// The client's name (not its GUID), as the login wants it.
    pub client: Option<String>,
    /// The device's login.
    pub login: Option<String>,
    /// The device's password.
    pub password: Option<RawSecret>,
    /// The client's GUID. Default: the one in the login reply.
    pub client_guid: Option<String>,
    /// The branch's GUID. Default: the one in the login reply.
    pub branch_guid: Option<String>,
    /// An API key to send along with the token.
    pub api_key: Option<RawSecret>,
    /// A file with a line per device, each of which logs in by itself: CSV with a column device and
    /// one for each field that differs; or .toml or .json.
    pub devices: Option<String>,
    /// Renew by the API's token call first and log in only when that fails. Default: true.
    pub renew: Option<bool>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
    /// When to fetch and renew.
    pub refresh: Option<RawRefresh>,
    /// TLS to the token endpoint.
    pub tls: Option<RawTls>,
    /// Allow the login over plain HTTP to a host that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
}

/// A twinzo API key.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTwinzoApiKey {
    /// The key.
    pub api_key: Option<RawSecret>,
    /// The client's GUID.
    pub client_guid: Option<String>,
    /// The branch's GUID.
    pub branch_guid: Option<String>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// A Devo token.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawDevoToken {
    /// The token.
    pub token: Option<RawSecret>,
    /// The field that carries it. Default: "standAloneToken".
    pub header: Option<String>,
    /// What stands before the token in the field, such as "Bearer ". Default: nothing.
    pub prefix: Option<String>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// A Devo signature.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawDevoSignature {
    /// Which API: "provisioning" (default) or "query" (also for relays).
    pub api: Option<RawDevoApi>,
    /// The domain's API key (provisioning).
    pub domain_api_key: Option<RawSecret>,
    /// The reseller's API key (provisioning, multitenant domains).
    pub reseller_api_key: Option<RawSecret>,
    /// The API key (query).
    pub api_key: Option<RawSecret>,
    /// The secret of the key that signs.
    pub api_secret: Option<RawSecret>,
    /// Which key is part of the signature. Default: "reseller" where it is set.
    pub sign_with: Option<RawSignWith>,
    /// The field that carries the signing key instead of the usual one.
    pub key_header: Option<String>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// A Devo API that takes signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawDevoApi {
    /// /probio.
    #[default]
    Provisioning,
    /// /search/query and relays.
    Query,
}

/// A Devo provisioning key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawSignWith {
    /// The reseller's key.
    Reseller,
    /// The domain's key.
    Domain,
}

/// Any fields.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawFields {
    /// The fields to set.
    pub set: Option<BTreeMap<String, RawValue>>,
    /// Secrets that the templates use by name.
    pub values: Option<BTreeMap<String, RawSecret>>,
    /// Further fields to remove from what callers send; a trailing * stands for any ending.
    pub remove: Option<Vec<String>>,
    /// Paths of the upstream that callers may not reach; * stands for the rest of a segment, ** in
    /// front for any number of them.
    pub deny: Option<Vec<String>>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// Any query parameters.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawQuery {
    /// The parameters to set.
    pub set: Option<BTreeMap<String, RawSecret>>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// Authorization: Bearer.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBearer {
    /// The token.
    pub token: Option<RawSecret>,
    /// A file with a line per device: CSV with a column device and one for each field that differs;
    /// or .toml or .json.
    pub devices: Option<String>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// Authorization: Basic.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawBasic {
    /// The user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<RawSecret>,
    /// A file with a line per device: CSV with a column device and one for each field that differs;
    /// or .toml or .json.
    pub devices: Option<String>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// A declared login.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLogin {
    /// The request that logs in.
    pub request: Option<RawRequest>,
    /// Secrets that the templates of the requests use by name.
    pub secrets: Option<BTreeMap<String, RawSecret>>,
    /// A file with a line per device, each of which logs in by itself: CSV with a column device and
    /// one for each field that differs; or .toml or .json.
    pub devices: Option<String>,
    /// Conditions on the reply beside a 2xx status.
    pub success: Option<Vec<RawCondition>>,
    /// The values to take from the reply: name = JSON pointer.
    pub values: Option<BTreeMap<String, String>>,
    /// Where the end of life is in the reply.
    pub expires: Option<RawExpires>,
    /// The lifetime if the reply does not say, such as "1h".
    pub lifetime: Option<String>,
    /// The request that renews; its templates may also use the current values.
    pub renew: Option<RawRequest>,
    /// The request that ends the last token when countersign ends; its templates may also use the
    /// current values. Any 2xx will do.
    pub logout: Option<RawRequest>,
    /// The fields to set on requests; templates use the values.
    pub set: Option<BTreeMap<String, RawValue>>,
    /// Further fields to remove from what callers send; a trailing * stands for any ending.
    pub remove: Option<Vec<String>>,
    /// Paths of the upstream that callers may not reach; * stands for the rest of a segment, ** in
    /// front for any number of them.
    pub deny: Option<Vec<String>>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
    /// When to fetch and renew.
    pub refresh: Option<RawRefresh>,
    /// TLS to the token endpoint.
    pub tls: Option<RawTls>,
    /// Allow the login over plain HTTP to a host that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
}

/// A request to a token endpoint. Texts are templates.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRequest {
    /// The method. Default: "POST".
    pub method: Option<String>,
    /// The URL; no template.
    pub url: Option<String>,
    /// Further fields.
    pub headers: Option<BTreeMap<String, String>>,
    /// JSON content.
    pub json: Option<BTreeMap<String, serde_json::Value>>,
    /// Form content.
    pub form: Option<BTreeMap<String, String>>,
    /// Content as it is.
    pub body: Option<String>,
}

/// A condition on a reply: a JSON pointer and one test.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawCondition {
    /// Where to look.
    pub pointer: Option<String>,
    /// This value must be there.
    pub equals: Option<serde_json::Value>,
    /// This value must not be there.
    pub not: Option<serde_json::Value>,
    /// Nothing, null or an empty text must be there.
    pub empty: Option<bool>,
}

/// Where the end of life is: one JSON pointer.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawExpires {
    /// Milliseconds since 1970.
    pub at_ms: Option<String>,
    /// Seconds since 1970.
    pub at_s: Option<String>,
    /// Seconds from now.
    pub in_s: Option<String>,
    /// A time in RFC 3339.
    pub rfc3339: Option<String>,
    /// A JSON Web Token with an exp claim.
    pub jwt: Option<String>,
}

/// A declared keyed hash.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawHmac {
    /// The hash. Default: "sha256".
    pub algorithm: Option<Algorithm>,
    /// The key.
    pub key: Option<RawSecret>,
    /// How the key is written. Default: "text".
    pub key_encoding: Option<KeyEncoding>,
    /// Further secrets that base and set use by name.
    pub values: Option<BTreeMap<String, RawSecret>>,
    /// A file with a line per device: CSV with a column device and one for each field that differs;
    /// or .toml or .json.
    pub devices: Option<String>,
    /// What the hash is computed over, in order, without separators.
    pub base: Option<Vec<RawPart>>,
    /// How the time of signing is written. Default: "unix-ms".
    pub timestamp: Option<TimestampFormat>,
    /// How the signature is written. Default: "hex".
    pub encoding: Option<Encoding>,
    /// The fields to set; templates use {signature}, {timestamp} and the values.
    pub set: Option<BTreeMap<String, RawValue>>,
    /// Further fields to remove from what callers send; a trailing * stands for any ending.
    pub remove: Option<Vec<String>>,
    /// Paths of the upstream that callers may not reach; * stands for the rest of a segment, ** in
    /// front for any number of them.
    pub deny: Option<Vec<String>>,
    /// The only origins that this credential may be used for.
    pub upstreams: Option<Vec<String>>,
}

/// A part of a signature base.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawPart {
    /// A part of the request.
    Named(RawNamedPart),
    /// A part with a parameter.
    With(RawPartWith),
}

/// A part of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum RawNamedPart {
    Method,
    Path,
    Query,
    Host,
    Timestamp,
    Body,
}

/// A part with a parameter. Exactly one of literal, value, header and body_hash.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPartWith {
    /// A text, such as a separator.
    pub literal: Option<String>,
    /// The name of a value.
    pub value: Option<String>,
    /// The value of a field.
    pub header: Option<String>,
    /// A hash of the content.
    pub body_hash: Option<Algorithm>,
    /// How the hash of the content is written. Default: "hex".
    pub encoding: Option<Encoding>,
}

/// When a credential is fetched and renewed.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRefresh {
    /// The latest renewal before the end: "5m", or a share of the lifetime: "10%". Default: 10%,
    /// at least a minute where that is no more than a quarter.
    pub margin: Option<String>,
    /// How far before that renewals are spread: "5m" or "10%". Default: "10%".
    pub jitter: Option<String>,
    /// Fetch at start instead of at the first request. Default: true.
    pub eager: Option<bool>,
    /// Time limit of one attempt. Default: "10s".
    pub timeout: Option<String>,
    /// Least time between two renewals forced by an upstream's 401, or asked for over the admin
    /// listener. Default: "10s".
    pub min_interval: Option<String>,
    /// How long a request waits for the attempt in flight. Default: "10s".
    pub wait: Option<String>,
    /// With devices: logins in flight. Default: 8.
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrent_logins: Option<u64>,
    /// With devices: logins per second. Default: 50.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_logins_per_second: Option<u64>,
    /// With devices: one that sends no request for so long is not renewed any more. Default: "1h".
    pub idle_after: Option<String>,
}
