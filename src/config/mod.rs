//! From the text of the configuration file to [`Config`], in which no invalid state can be written.
//!
//! [`document`] parses and keeps every place; [`shape`] checks keys and types against the schema;
//! [`raw`] is what the file says; [`preset`] turns a vendor's kind into generic ones; [`compile`]
//! checks what it means. Each step reports everything it finds, so all problems are seen at once.

pub mod compile;
mod context;
pub mod devices;
pub mod document;
pub mod preset;
pub mod problem;
pub mod quote;
pub mod raw;
pub mod reference;
pub mod shape;
pub mod starter;
pub mod units;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::{Authority, Scheme as UriScheme};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use ipnet::IpNet;

use crate::credential::devices::DevicesSpec;
use crate::credential::fixed::FixedSpec;
use crate::credential::login::LoginSpec;
use crate::credential::oauth::OauthSpec;
use crate::credential::schedule::RefreshPolicy;
use crate::credential::secret_ref::SecretRef;
use crate::credential::store::{Definition, StoreSpec};
use crate::permissions::Check;
use crate::sign::Scheme;
use crate::sign::owned::OwnedFields;
use crate::tls::{ServerTls, TlsSettings};
use problem::Problem;
pub use raw::{RawAccess as AccessLog, RawLevel as Level, RawLogFormat as LogFormat};
pub use raw::{
    RawAnswers as Answers, RawCertificateName as CertificateName, RawClock as ClockSource,
    RawHeaderCase as HeaderCase, RawHttp2 as Http2, RawProtocol as Protocol, RawSandbox as Sandbox,
};

/// A configuration that can run.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Threads that serve requests.
    pub workers: usize,
    /// How long requests in flight may take to finish after SIGTERM.
    pub drain: Duration,
    /// How long new calls are served after the signal to end.
    pub linger: Duration,
    /// Where a new process asks for the listening sockets.
    pub upgrade_socket: Option<PathBuf>,
    /// Whether files of secrets that others can get at are refused.
    pub check_permissions: Check,
    /// Whether the process confines itself.
    pub sandbox: Sandbox,
    /// Whether changes of the file are taken over while serving, without being told.
    pub watch: bool,
    /// Bounds.
    pub limits: Limits,
    /// Logging.
    pub log: LogConfig,
    /// Traces.
    pub trace: Option<TraceConfig>,
    /// Where callers connect; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// The admin listener.
    pub admin: Option<AdminConfig>,
    /// Where tokens are kept.
    pub token_store: StoreSpec,
    /// What authenticates requests.
    pub credentials: Vec<CredentialConfig>,
    /// Which requests go where; at least one.
    pub routes: Vec<RouteConfig>,
}

/// Bounds on what callers can make the process hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address that is not loopback.
    pub connections_per_address: usize,
    /// Requests in flight.
    pub requests: usize,
    /// Size of a request's head, in bytes.
    pub header_bytes: usize,
    /// Number of fields.
    pub fields: usize,
    /// Length of the target, in bytes.
    pub target_bytes: usize,
    /// Content held in memory for one request, in bytes.
    pub memory_per_request: usize,
    /// Content held in memory for all requests, in bytes.
    pub memory: usize,
    /// Where larger content waits.
    pub spool_directory: Option<PathBuf>,
    /// How long a head may take to arrive.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a caller may take nothing of an answer.
    pub write_timeout: Duration,
}

/// Logging.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    /// The least important messages that are written.
    pub level: Level,
    /// For people or for machines.
    pub format: LogFormat,
    /// One line per request.
    pub access: AccessLog,
    /// A file instead of standard error.
    pub file: Option<PathBuf>,
    /// Where the lines per request go, if they go elsewhere.
    pub access_file: Option<LogTarget>,
    /// Lines that wait to be written, in bytes.
    pub buffer: usize,
    /// The field that says what a request is called; `None`: requests are not called anything.
    pub request_id: Option<HeaderName>,
}

/// Traces, and the collector that takes them.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceConfig {
    /// Where they are sent.
    pub endpoint: Uri,
    /// Fields that the collector wants to see.
    pub headers: Vec<(HeaderName, SecretRef)>,
    /// What the collector calls this process.
    pub service_name: String,
    /// The share of requests that is traced, from 0 to 1.
    pub sample: f64,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Requests that wait.
    pub queue: usize,
    /// Requests that are sent at once.
    pub batch: usize,
    /// How long a request waits for others.
    pub delay: Duration,
    /// Tell which device sent a request.
    pub devices: bool,
    /// TLS to the collector.
    pub tls: TlsSettings,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

impl std::fmt::Display for LogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stderr => write!(f, "standard error"),
            Self::Stdout => write!(f, "standard output"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl LogConfig {
    /// Where the lines go that are not about one request.
    pub fn target(&self) -> LogTarget {
        self.file.clone().map_or(LogTarget::Stderr, LogTarget::File)
    }

    /// Where the lines per request go.
    pub fn access_target(&self) -> LogTarget {
        self.access_file.clone().unwrap_or_else(|| self.target())
    }

    /// The files that are written.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let file = |target| if let LogTarget::File(path) = target { Some(path) } else { None };
        [self.target(), self.access_target()].into_iter().filter_map(file)
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its group, by name or number, if it is not that of the process.
        group: Option<String>,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerConfig {
    /// Where.
    pub address: Address,
    /// Which HTTP versions.
    pub protocol: Protocol,
    /// TLS; none for plain HTTP.
    pub tls: Option<ServerTls>,
    /// Who may call.
    pub access: AccessRules,
    /// How names of fields are written in answers.
    pub header_case: HeaderCase,
    /// Bear with odd syntax.
    pub lenient: bool,
}

/// Who may call a listener.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessRules {
    /// Further accepted hosts, lower case, without a port or with one.
    pub hosts: Vec<String>,
    /// Accepted browser origins.
    pub origins: Vec<HeaderValue>,
    /// Networks that may connect; empty for any.
    pub allow: Vec<IpNet>,
    /// Users of this system that may connect to a Unix socket, by number; empty for any.
    pub users: Vec<u32>,
    /// The token that callers send.
    pub caller_token: Option<CallerToken>,
    /// How refusals and failures are put to them.
    pub answers: Answers,
}

/// A token that callers send.
#[derive(Debug, Clone, PartialEq)]
pub struct CallerToken {
    /// The token.
    pub secret: SecretRef,
    /// The field; `None` for `Authorization: Bearer`.
    pub header: Option<HeaderName>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminConfig {
    /// Where.
    pub address: SocketAddr,
    /// Further accepted hosts.
    pub hosts: Vec<String>,
    /// The token that is asked for.
    pub token: Option<SecretRef>,
    /// Whoever may ask may end the program.
    pub quit: bool,
}

/// A credential.
#[derive(Debug, Clone, PartialEq)]
pub struct CredentialConfig {
    /// Its name.
    pub name: String,
    /// Its kind, as the file says it.
    pub kind: String,
    /// Where its values come from.
    pub source: SourceSpec,
    /// How they are applied.
    pub scheme: Scheme,
    /// What is removed from the caller's request.
    pub owned: OwnedFields,
    /// Paths of the upstream that callers may not reach.
    pub deny: Vec<DenyPattern>,
    /// The only origins it may be used for.
    pub upstreams: Option<Vec<Origin>>,
    /// When it is fetched and renewed.
    pub refresh: RefreshPolicy,
    /// TLS to the token endpoint.
    pub tls: TlsSettings,
    /// What its stored tokens belong to.
    pub definition: Definition,
    /// Those who each have one of their own.
    pub devices: Option<DevicesSpec>,
}

/// Which device a caller is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// The value of a field, which is removed.
    Header(HeaderName),
    /// A segment of the path after the prefix, counted from 0, which is removed.
    PathSegment(usize),
    /// The value of a query parameter, which is removed.
    Query(String),
    /// The user of `Authorization: Basic`.
    BasicUser,
    /// The caller's address.
    SourceIp,
    /// A name in the caller's certificate.
    ClientCertificate(CertificateName),
}

impl IdentitySource {
    /// How many segments after the prefix stand before the one that says it, if one does.
    pub fn segments_before(&self) -> Option<usize> {
        if let Self::PathSegment(number) = self { Some(*number) } else { None }
    }
}

/// As the configuration says it, in a few words.
impl std::fmt::Display for IdentitySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            // People count from 1.
            Self::PathSegment(index) => write!(f, "path_segment {}", index + 1),
            Self::Query(name) => write!(f, "query {name}"),
            Self::BasicUser => f.write_str("basic_user"),
            Self::SourceIp => f.write_str("source_ip"),
            Self::ClientCertificate(CertificateName::Cn) => f.write_str("client_certificate cn"),
            Self::ClientCertificate(CertificateName::San) => f.write_str("client_certificate san"),
        }
    }
}

/// Where values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceSpec {
    /// The configuration.
    Fixed(FixedSpec),
    /// A login.
    Login(LoginSpec),
    /// OAuth 2.0.
    Oauth(OauthSpec),
}

impl SourceSpec {
    /// True if values are fetched, so that others can be had in their place.
    pub fn is_fetched(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Login(_) | Self::Oauth(_) => true,
        }
    }

    /// True if a person has to log in, with a command of its own.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Fixed(_) | Self::Login(_) => false,
            Self::Oauth(oauth) => oauth.needs_a_person(),
        }
    }
}

/// A path pattern: segments compared without regard to case, a `*` at the end of one for any ending,
/// `**` in front for any number of segments. It covers everything below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenyPattern(pub Vec<String>);

/// A scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: UriScheme,
    /// Host and, if it is not the default, port; lower case.
    pub authority: Authority,
}

impl Origin {
    /// The port, the scheme's default included.
    pub fn port(&self) -> u16 {
        let default = if self.is_secure() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// True for https.
    pub fn is_secure(&self) -> bool {
        self.scheme == UriScheme::HTTPS
    }

    /// True if the host is this machine, by name or by address.
    pub fn is_loopback(&self) -> bool {
        crate::connect::is_loopback(self.authority.host())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// A route.
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    /// Its name.
    pub name: String,
    /// The host that callers address, lower case, without port.
    pub host: Option<String>,
    /// The path prefix without a trailing slash; empty for everything.
    pub prefix: String,
    /// The methods that are let through; empty for all.
    pub methods: Vec<Method>,
    /// Names in client certificates that may call; empty for whoever the listener lets in.
    pub clients: Vec<String>,
    /// Where requests go.
    pub upstream: UpstreamConfig,
    /// Indices into [`Config::credentials`].
    pub credentials: Vec<usize>,
    /// Which device the caller is, where a credential has devices.
    pub identity: Option<IdentitySource>,
    /// Path prefixes that are answered 403, as callers write them.
    pub deny: Vec<DenyPattern>,
    /// The largest content of a request, in bytes.
    pub max_body: u64,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Plain fields to set.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields to remove.
    pub remove: OwnedFields,
    /// What a refusal by the upstream does.
    pub replay: Replay,
    /// Whose time signatures have.
    pub clock: ClockSource,
    /// Pass the caller's `Authorization` on although a credential is used.
    pub keep_caller_authorization: bool,
    /// Forward WebSocket handshakes.
    pub websocket: bool,
    /// Point redirects and cookies of the upstream to this route.
    pub rewrite_location: bool,
    /// Blot out what the credentials add to requests in the fields of answers.
    pub scrub: bool,
    /// Requests in flight on this route.
    pub max_in_flight: Option<usize>,
    /// How connections to the upstream are made and kept.
    pub connection: ConnectionSettings,
}

/// How connections to an upstream are made and kept. Routes to one origin that agree in this share
/// their connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectionSettings {
    /// Which HTTP versions.
    pub http2: Http2,
    /// How names of fields are written.
    pub header_case: HeaderCase,
    /// Bear with odd syntax.
    pub lenient: bool,
    /// For connecting, the TLS handshake included.
    pub connect_timeout: Duration,
    /// The way there.
    pub way: Way,
    /// Connections without a request that are kept, per worker.
    pub pool_size: usize,
    /// How long one may wait for its next request.
    pub idle_timeout: Duration,
    /// How old one may get.
    pub max_age: Duration,
}

impl ConnectionSettings {
    /// How long a new connection may serve: about [`max_age`](Self::max_age), spread so that
    /// connections made together do not end together.
    pub fn draw_age(&self) -> Duration {
        self.max_age.mul_f64(0.9 + 0.1 * fastrand::f64())
    }
}

/// The way to an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Way {
    /// As `HTTPS_PROXY` and `NO_PROXY` say.
    Environment,
    /// Straight.
    Direct,
    /// Through this proxy.
    Proxy(Uri),
}

/// Where a route's requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Where to connect.
    pub origin: Origin,
    /// The path that replaces the route's prefix, without a trailing slash.
    pub base: String,
    /// True if the configured URL ended in a slash: the bare prefix becomes `base/`.
    pub trailing_slash: bool,
    /// TLS.
    pub tls: TlsSettings,
}

/// As it was configured.
impl std::fmt::Display for UpstreamConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.trailing_slash { "/" } else { "" };
        write!(f, "{}{}{slash}", self.origin, self.base)
    }
}

/// Time limits of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the head of the answer.
    pub first_byte: Duration,
    /// Between two pieces of content.
    pub idle: Duration,
    /// For the whole exchange.
    pub total: Option<Duration>,
    /// How long a WebSocket may be silent.
    pub websocket: Duration,
    /// How long content is held back for which the caller waits to be asked.
    pub go_ahead: Duration,
}

/// What a refusal by the upstream does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Statuses that mean "this token is not accepted".
    pub statuses: Vec<StatusCode>,
    /// The largest content that is kept to be sent again, in bytes.
    pub max_body: usize,
}

impl Config {
    /// Every secret that the configuration refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let tokens = self.listeners.iter().filter_map(|listener| {
            listener.access.caller_token.as_ref().map(|token| token.secret.clone())
        });
        let admin = self.admin.iter().filter_map(|admin| admin.token.clone());
        let store = self.token_store.secrets().into_iter().cloned();
        let credentials = self.credentials.iter().flat_map(CredentialConfig::secrets);
        let trace = self.trace.iter().flat_map(|trace| &trace.headers);
        let trace = trace.map(|(_, secret)| secret.clone());
        tokens.chain(admin).chain(store).chain(trace).chain(credentials).collect()
    }
}

impl CredentialConfig {
    /// Every secret that the credential refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let named = match &self.source {
            SourceSpec::Fixed(fixed) => &fixed.values,
            SourceSpec::Login(login) => &login.secrets,
            SourceSpec::Oauth(oauth) => return oauth.secrets(),
        };
        named.iter().map(|(_, reference)| reference.clone()).collect()
    }
}

impl CredentialConfig {
    /// The secrets to whose values stored tokens are bound. A client's may be replaced without a
    /// person having to log in again.
    pub fn bound_secrets(&self) -> Vec<SecretRef> {
        if self.source.needs_a_person() { Vec::new() } else { self.secrets() }
    }
}

/// What came of a configuration text.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration; `None` if a problem is an error.
    pub config: Option<Config>,
    /// Everything that was found.
    pub problems: Vec<Problem>,
    /// The parts of the text that must not be shown.
    pub masks: Vec<std::ops::Range<usize>>,
    /// Each credential in terms of the generic kinds, for display.
    pub expanded: Vec<(String, raw::RawCredential)>,
}

/// Reads a configuration. `environment` answers `${NAME}`.
pub fn load(text: &str, environment: shape::Environment<'_>) -> Loaded {
    let (document, mut problems) = document::parse(text);
    let shaped = shape::check(&document, environment, &mut problems);
    let (config, expanded) = compile::compile(&document, &shaped, &mut problems);
    let config = config.filter(|_| !problem::any_error(&problems));
    let masks = quote::masks(&document);
    quote::withhold(&document, &masks, &mut problems);
    Loaded { config, problems, masks, expanded }
}

/// Reads a configuration with the process's environment.
pub fn load_with_process_environment(text: &str) -> Loaded {
    load(text, &|name| std::env::var(name).ok())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
