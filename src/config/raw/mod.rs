//! The configuration as the file says it. Doc comments here are what users read in the schema.
//!
//! Everything is optional: what must be there is decided where it is compiled, so that a missing
//! key is reported together with all other problems.

mod credential;
mod log;
mod oauth;
mod trace;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use credential::*;
pub use log::*;
pub use oauth::*;
pub use trace::*;

use crate::secret::Secret;

/// countersign's configuration file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Threads that serve requests. Default: one per core.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<u64>,
    /// How long requests in flight may take to finish after SIGTERM. Default: "30s".
    pub drain: Option<String>,
    /// How long new calls are still served after SIGTERM, before `drain` begins; /readyz says no
    /// from the start. At most "10m". Default: "0s".
    pub linger: Option<String>,
    /// On Linux, a Unix socket at which a new process of this user asks for the listening sockets,
    /// so that an upgrade loses no call: "/run/countersign/upgrade.sock". Its directory must not be
    /// writable by others. Off unless configured.
    pub upgrade_socket: Option<String>,
    /// Refuse to use files of secrets, and keys, that other users can read or write.
    /// Default: true.
    pub check_permissions: Option<bool>,
    /// On Linux, let the process use only the files and ports that the configuration names: "auto"
    /// as far as the kernel can, "require", or "off". Default: "auto".
    pub sandbox: Option<RawSandbox>,
    /// Take changes of this file over as soon as they are seen, as SIGHUP does at any time. What
    /// cannot be served by is refused, and what there was stays. Default: false.
    pub watch: Option<bool>,
    /// Bounds on what callers can make the process hold.
    pub limits: RawLimits,
    /// Logging.
    pub log: RawLog,
    /// Traces; off unless configured.
    pub trace: Option<RawTrace>,
    /// Where callers connect.
    pub listen: Vec<RawListen>,
    /// The admin listener; off unless configured.
    pub admin: Option<RawAdmin>,
    /// Where the tokens of credentials that log in are kept. Default: in memory only.
    pub token_store: Option<RawTokenStore>,
    /// What authenticates requests, by name.
    pub credential: BTreeMap<String, RawCredential>,
    /// Which requests go where, and with which credential.
    pub route: Vec<RawRoute>,
}

/// Whether the process confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawSandbox {
    /// As far as the kernel can.
    #[default]
    Auto,
    /// Not to start where the kernel cannot do all of it.
    Require,
    /// Not at all.
    Off,
}

/// A number of bytes: 65536, "64KiB", "1MiB", "2GB".
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawSize {
    /// Bytes.
    Bytes(u64),
    /// With a unit: B, kB, MB, GB, KiB, MiB or GiB.
    Text(String),
}

/// Bounds on what callers can make the process hold.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Connections in all; more wait to be accepted. Default: 1024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u64>,
    /// Connections from one address that is not loopback; more are closed. Default: 128.
    #[schemars(range(min = 1))]
    pub connections_per_address: Option<u64>,
    /// Requests in flight; more are answered 503. Default: 1024.
    #[schemars(range(min = 1))]
    pub requests: Option<u64>,
    /// Size of a request's head. Default: "32KiB".
    pub header_bytes: Option<RawSize>,
    /// Number of fields in a request's head. Default: 100.
    #[schemars(range(min = 1, max = 1000))]
    pub fields: Option<u64>,
    /// Length of a request's target. Default: "8KiB".
    pub target_bytes: Option<RawSize>,
    /// Content held in memory for one request before it goes to a temporary file. Default: "1MiB".
    pub memory_per_request: Option<RawSize>,
    /// Content held in memory for all requests together. A request whose content has to be held
    /// beyond that is answered 503. Default: "256MiB".
    pub memory: Option<RawSize>,
    /// Where content beyond memory_per_request waits, in files without a name. Default: the
    /// system's temporary directory.
    pub spool_directory: Option<String>,
    /// How long the head of a request may take to arrive. Default: "10s".
    pub header_timeout: Option<String>,
    /// How long a caller's connection may be idle between requests. Default: "60s".
    pub idle_timeout: Option<String>,
    /// How long a caller may take nothing of an answer. Buffers of the system make slow callers look
    /// stuck for minutes. Default: "15m".
    pub write_timeout: Option<String>,
}

/// A listener.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawListen {
    /// `"127.0.0.1:8080"`, `"[::1]:8080"` or `"unix:/run/countersign.sock"`.
    pub address: Option<String>,
    /// Permissions of a Unix socket, in octal. Default: "0600".
    pub mode: Option<String>,
    /// The group of a Unix socket: its name in /etc/group, or its number. Default: the process's.
    pub group: Option<String>,
    /// TLS, and certificates of callers.
    pub tls: Option<RawListenTls>,
    /// Which HTTP versions are spoken; "http2" is with prior knowledge. Default: "auto".
    pub protocol: Option<RawProtocol>,
    /// Further host names under which callers may address this listener.
    pub hosts: Option<Vec<String>>,
    /// Browser origins that may call, such as "http://localhost:3000". Default: none.
    pub origins: Option<Vec<String>>,
    /// Addresses and networks that may connect, such as "10.1.0.0/16".
    pub allow: Option<Vec<String>>,
    /// Numbers of the users that may connect to a Unix socket.
    pub users: Option<Vec<u32>>,
    /// A token that callers have to send as "Authorization: Bearer".
    pub caller_token: Option<RawSecret>,
    /// The field in which callers send the token instead.
    pub caller_token_header: Option<String>,
    /// Let everybody call who can connect, on an address that is not loopback.
    pub open: Option<bool>,
    /// How names of fields are written in answers over HTTP/1: "lower", "title", or "preserve", which
    /// is as the upstream wrote them. Default: "lower".
    pub header_case: Option<RawHeaderCase>,
    /// The form of countersign's own answers: "problem" is a problem document, "text" one line of
    /// plain text. Default: "problem".
    pub answers: Option<RawAnswers>,
    /// Bear with callers that send malformed field lines, which are dropped, or close their half of
    /// the connection after the request. Default: false.
    pub lenient: Option<bool>,
}

/// TLS on a listener.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawListenTls {
    /// A PEM file with the certificate chain, the listener's own first. Read again when it changes.
    pub certificate: Option<String>,
    /// A PEM file with its key.
    pub key: Option<String>,
    /// A PEM file with the authorities of callers, who then have to present a certificate.
    pub client_ca: Option<String>,
}

/// How names of fields are written in HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawHeaderCase {
    /// `content-type`.
    #[default]
    Lower,
    /// `Content-Type`.
    Title,
    /// As they came; what countersign adds is written `Like-This`.
    Preserve,
}

/// The form of countersign's own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawAnswers {
    /// A problem document (RFC 9457).
    #[default]
    Problem,
    /// One line of plain text.
    Text,
}

/// Which HTTP versions a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawProtocol {
    /// HTTP/1 and HTTP/2 with prior knowledge.
    #[default]
    Auto,
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// The admin listener: health and status.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawAdmin {
    /// "127.0.0.1:8081". Must be loopback unless there is a token.
    pub address: Option<String>,
    /// Further host names under which it may be addressed.
    pub hosts: Option<Vec<String>>,
    /// A token that is asked for on everything but /livez and /readyz.
    pub token: Option<RawSecret>,
    /// Serve POST /quit, which ends the program as SIGTERM does. Default: false.
    pub quit: Option<bool>,
}

/// Where the tokens of credentials that log in are kept.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RawTokenStore {
    /// In memory: they end with the process.
    Memory(RawMemoryStore),
    /// In a file of this process, sealed: a restart logs in only where a token has ended.
    File(RawFileStore),
    /// In Redis, sealed, for several processes: one renews, and the others use what it got.
    Redis(Box<RawRedisStore>),
}

/// Tokens in memory.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawMemoryStore {}

/// Tokens in a file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawFileStore {
    /// The file, in a directory that others cannot write to. Made if it is not there.
    pub path: Option<String>,
    /// What tokens are sealed with: at least 16 random bytes, as of "openssl rand -base64 32".
    pub key: Option<RawSecret>,
}

/// Tokens in Redis.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRedisStore {
    /// "redis://HOST:PORT/DATABASE", or "rediss://…" with TLS; the password is a key of its own.
    pub url: Option<String>,
    /// Instead of `url`: the Sentinels, or some nodes of the cluster.
    pub urls: Option<Vec<String>>,
    /// The URLs are those of Sentinels, which know where the master is.
    pub sentinel: Option<RawSentinel>,
    /// The URLs are those of nodes of a cluster. Default: false.
    pub cluster: Option<bool>,
    /// What tokens are sealed with: at least 16 random bytes, as of "openssl rand -base64 32".
    pub key: Option<RawSecret>,
    /// What every key in Redis begins with. Default: "countersign:".
    pub prefix: Option<String>,
    /// A user other than the default one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<RawSecret>,
    /// TLS, with URLs that begin with rediss://.
    pub tls: Option<RawTls>,
    /// Allow the password over an unencrypted connection to a host that is not loopback.
    /// Default: false.
    pub allow_plaintext: Option<bool>,
    /// How long an answer may take. Default: "1s".
    pub timeout: Option<String>,
    /// Ports of servers that Sentinels or the cluster may name, beside 6379 and those of the URLs:
    /// the sandbox permits no others.
    pub node_ports: Option<Vec<u16>>,
}

/// How to find the master by way of Sentinels.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSentinel {
    /// What the Sentinels call it.
    pub master: Option<String>,
    /// A user of the Sentinels themselves other than the default one.
    pub username: Option<String>,
    /// The password of the Sentinels themselves.
    pub password: Option<RawSecret>,
}

/// Where a secret is. Exactly one key.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-secret" = true))]
pub struct RawSecret {
    /// The name of an environment variable.
    pub env: Option<String>,
    /// The path of a file; one trailing line break is not part of the secret. Other line breaks
    /// only in PEM.
    pub file: Option<String>,
    /// A command and its arguments; what it prints is the secret.
    pub exec: Option<Vec<String>>,
    /// The name of a systemd credential.
    pub systemd: Option<String>,
    /// The secret itself: for tests and demonstrations only.
    #[serde(deserialize_with = "plain_secret", serialize_with = "masked")]
    #[schemars(with = "Option<String>", extend("x-verbatim" = true))]
    pub value: Option<Secret>,
}

fn plain_secret<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Secret::new))
}

#[expect(clippy::ref_option, reason = "the signature that serde calls")]
fn masked<S: serde::Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(_) => to.serialize_some("***"),
        None => to.serialize_none(),
    }
}

/// A route.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRoute {
    /// A name for logs and metrics.
    pub name: Option<String>,
    /// The host that callers address; default: any.
    pub host: Option<String>,
    /// The path prefix that callers use. Default: "/".
    pub path: Option<String>,
    /// The methods that are let through. Default: all.
    pub methods: Option<Vec<String>>,
    /// Names in the certificates of callers that may use this route. Default: whoever the listener
    /// lets in.
    pub clients: Option<Vec<String>>,
    /// Where requests go: `"https://api.example.com/base"`. The path replaces the prefix.
    pub upstream: Option<String>,
    /// The credential, or a list of several; none for pass-through.
    pub credential: Option<RawNames>,
    /// Which device the caller is, for a credential with devices.
    pub identity: Option<RawIdentity>,
    /// Path prefixes, as callers write them, that are answered 403.
    pub deny: Option<Vec<String>>,
    /// The largest content of a request. Default: "1GiB".
    pub max_body: Option<RawSize>,
    /// Time limits.
    pub timeouts: RawTimeouts,
    /// Plain fields to set on requests.
    pub set: Option<BTreeMap<String, String>>,
    /// Fields to remove from requests; a trailing * stands for any ending.
    pub remove: Option<Vec<String>>,
    /// TLS to the upstream.
    pub tls: RawTls,
    /// What a refusal by the upstream does.
    pub replay: RawReplay,
    /// Whose time signatures have: "follow" is that of the upstream, as its answers tell it, "own"
    /// that of this machine. Default: "follow".
    pub clock: Option<RawClock>,
    /// Pass the caller's Authorization on although a credential is used. Default: false.
    pub keep_caller_authorization: Option<bool>,
    /// Allow a credential over plain HTTP to a host that is not loopback. Default: false.
    pub allow_plaintext: Option<bool>,
    /// HTTP/2 to the upstream: "auto" where it is negotiated under TLS, "always" (without TLS, with
    /// prior knowledge), "never". Default: "auto".
    pub http2: Option<RawHttp2>,
    /// Forward WebSocket handshakes and what follows. Default: false.
    pub websocket: Option<bool>,
    /// How names of fields are written in requests over HTTP/1: "lower", "title", or "preserve", which
    /// is as the caller wrote them. Default: "lower".
    pub header_case: Option<RawHeaderCase>,
    /// Bear with an upstream that sends malformed, folded or oddly spaced field lines.
    /// Default: false.
    pub lenient: Option<bool>,
    /// Point redirects and cookies of the upstream's own origin to this route. Default: true.
    pub rewrite_location: Option<bool>,
    /// Blot out what the credential adds to requests in the fields of answers. Default: false.
    pub scrub: Option<bool>,
    /// Requests in flight on this route; more are answered 503. Default: limits.requests.
    #[schemars(range(min = 1))]
    pub max_in_flight: Option<u64>,
    /// Connections to the upstream that are kept.
    pub pool: RawPool,
    /// `"http://proxy.example.com:3128"` reaches the upstream through that proxy, "none" directly.
    /// Default: what HTTPS_PROXY and NO_PROXY say, for https.
    pub proxy: Option<String>,
}

/// Which device a caller is. Exactly one key.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawIdentity {
    /// The value of this field, which is removed.
    pub header: Option<String>,
    /// This segment of the path after the route's own, counted from 1; it is removed.
    #[schemars(range(min = 1, max = 16))]
    pub path_segment: Option<u64>,
    /// The value of this query parameter, which is removed.
    pub query: Option<String>,
    /// The user of Authorization: Basic. The password is not looked at.
    pub basic_user: Option<bool>,
    /// The caller's address.
    pub source_ip: Option<bool>,
    /// A name in the caller's certificate: "cn" is the common name, "san" any alternative one.
    pub client_certificate: Option<RawCertificateName>,
}

/// Which name in a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawCertificateName {
    /// The common name of the subject.
    Cn,
    /// A subject alternative name: a DNS name in lower case, a URI or an e-mail address.
    San,
}

/// Whose time signatures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawClock {
    /// That of the upstream, where it clearly differs from this machine's.
    #[default]
    Follow,
    /// That of this machine.
    Own,
}

/// Whether an upstream is spoken to by HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawHttp2 {
    /// Where it is negotiated under TLS.
    #[default]
    Auto,
    /// Always; without TLS with prior knowledge.
    Always,
    /// Never.
    Never,
}

/// Connections to an upstream that are kept for further requests. Every worker has its own.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPool {
    /// Connections without a request that are kept, per worker. Default: 256.
    pub size: Option<u64>,
    /// How long one may wait for its next request. Less if the upstream says so. Default: "15s".
    pub idle_timeout: Option<String>,
    /// How old one may get; then the host's name is looked up anew. Default: "5m".
    pub max_age: Option<String>,
}

/// A name or a list of names.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawNames {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Time limits of a route.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTimeouts {
    /// For connecting, the TLS handshake included. Default: "5s".
    pub connect: Option<String>,
    /// From the end of the request to the head of the answer. Default: "60s".
    pub first_byte: Option<String>,
    /// Between two pieces of content, in either direction. Default: "60s".
    pub idle: Option<String>,
    /// For the whole exchange. Default: none.
    pub total: Option<String>,
    /// How long a WebSocket may be silent in both directions. Default: "10m".
    pub websocket: Option<String>,
    /// How long content is held back for which the caller waits to be asked, if the upstream does
    /// not ask. Default: "1s".
    pub go_ahead: Option<String>,
}

/// TLS to a host.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    /// A PEM file with the authorities to trust instead of the platform's.
    pub ca: Option<String>,
    /// A PEM file with our certificate chain.
    pub client_certificate: Option<String>,
    /// A PEM file with its key.
    pub client_key: Option<String>,
}

/// What a refusal by the upstream does.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawReplay {
    /// Statuses that mean "this token is not accepted". Default: `[401]`; an empty list is never.
    pub statuses: Option<Vec<u16>>,
    /// The largest content that is kept to be sent a second time. Default: "64KiB".
    pub max_body: Option<RawSize>,
}
