//! The store of tokens.

use std::time::Duration;

use http::Uri;

use super::credential::placeholder;
use crate::config::CredentialConfig;
use crate::config::context::Context;
use crate::config::document::join;
use crate::config::raw::{RawFileStore, RawRedisStore, RawSecret, RawSentinel, RawTokenStore};
use crate::connect::is_loopback;
use crate::credential::secret_ref::SecretRef;
use crate::credential::store::StoreSpec;
use crate::credential::store::redis::{PORT, RedisSpec, SENTINEL_PORT, Topology};

/// How long an answer of Redis may take: a request without a token waits for a few of them, and
/// nobody waits longer than 5 seconds for a store.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(4);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_PREFIX: &str = "countersign:";
/// A longer one costs memory with every token.
const LONGEST_PREFIX: usize = 128;

const URL_HINT: &str = "url = \"rediss://redis.example.com:6379\"";

pub(super) fn token_store(context: &mut Context<'_>, raw: Option<&RawTokenStore>) -> StoreSpec {
    match raw {
        None | Some(RawTokenStore::Memory(_)) => StoreSpec::Memory,
        Some(RawTokenStore::File(raw)) => file(context, raw),
        Some(RawTokenStore::Redis(raw)) => StoreSpec::Redis(Box::new(redis(context, raw))),
    }
}

fn file(context: &mut Context<'_>, raw: &RawFileStore) -> StoreSpec {
    let hint = "path = \"/var/lib/countersign/tokens\"";
    let path = context.require(raw.path.as_deref(), "token_store.path", hint).unwrap_or_default();
    if raw.path.as_ref().is_some_and(|path| path.is_empty() || path.ends_with('/')) {
        context.error("token_store.path", "this is not the path of a file", Some(hint));
    }
    StoreSpec::File { path: path.into(), key: key(context, raw.key.as_ref()) }
}

fn key(context: &mut Context<'_>, raw: Option<&RawSecret>) -> SecretRef {
    let hint = "key = { file = \"PATH\" }, with what this prints: openssl rand -base64 32";
    let key = context.require(raw, "token_store.key", hint);
    let key = key.and_then(|key| context.secret("token_store.key", key));
    key.unwrap_or_else(placeholder)
}

fn redis(context: &mut Context<'_>, raw: &RawRedisStore) -> RedisSpec {
    let topology = topology(context, raw);
    let (at, urls) = match (&raw.url, &raw.urls) {
        (Some(url), None) => ("token_store.url", std::slice::from_ref(url)),
        (None, Some(urls)) => ("token_store.urls", urls.as_slice()),
        (Some(_), Some(_)) => {
            context.error("token_store.urls", "'url' and 'urls' exclude each other", None);
            ("token_store.urls", [].as_slice())
        }
        (None, None) => {
            context.missing("token_store.url", URL_HINT);
            ("token_store.url", [].as_slice())
        }
    };
    let servers: Vec<Server> = urls.iter().filter_map(|url| server(context, at, url)).collect();
    let first = servers.first().cloned().unwrap_or_default();
    if raw.urls.as_ref().is_some_and(Vec::is_empty) {
        context.error(at, "there is no URL", Some(URL_HINT));
    } else if servers.iter().any(|server| !server.agrees_with(&first)) {
        let hint = "the same scheme, user and database in each";
        context.error(at, "the URLs do not agree", Some(hint));
    } else if topology == Topology::One && servers.len() > 1 {
        let hint = "sentinel = { master = \"NAME\" }, or cluster = true";
        context.error(at, "one server has one URL", Some(hint));
    } else if topology == Topology::Cluster && first.database != 0 {
        context.error(at, "a cluster has database 0 only", None);
    }
    let tls = tls(context, raw, &first);
    plaintext(context, raw, at, &servers);
    RedisSpec {
        servers: servers.iter().map(|server| server.address(&topology)).collect(),
        tls,
        database: first.database,
        username: username(context, raw, first.username),
        password: secret(context, "token_store.password", raw.password.as_ref()),
        key: key(context, raw.key.as_ref()),
        prefix: prefix(context, raw.prefix.as_deref()),
        timeout: timeout(context, raw.timeout.as_deref()),
        node_ports: raw.node_ports.clone().unwrap_or_default(),
        topology,
    }
}

fn topology(context: &mut Context<'_>, raw: &RawRedisStore) -> Topology {
    match &raw.sentinel {
        None if raw.cluster == Some(true) => Topology::Cluster,
        None => {
            if raw.node_ports.is_some() {
                let message = "one server has no other ports";
                let hint = "leave it out: it is for sentinel and cluster";
                context.error("token_store.node_ports", message, Some(hint));
            }
            Topology::One
        }
        Some(sentinel) => {
            if raw.cluster == Some(true) {
                let message = "'sentinel' and 'cluster' exclude each other";
                context.error("token_store.cluster", message, None);
            }
            by_sentinel(context, sentinel)
        }
    }
}

fn by_sentinel(context: &mut Context<'_>, raw: &RawSentinel) -> Topology {
    let hint = "sentinel = { master = \"mymaster\" }";
    let master = context.require(raw.master.clone(), "token_store.sentinel.master", hint);
    if master.as_ref().is_some_and(String::is_empty) {
        context.error("token_store.sentinel.master", "this is no name", Some(hint));
    }
    let password = secret(context, "token_store.sentinel.password", raw.password.as_ref());
    if raw.username.is_some() && raw.password.is_none() {
        let hint = "password = { file = \"PATH\" }";
        context.missing("token_store.sentinel.password", hint);
    }
    let username = raw.username.clone();
    Topology::Sentinel { master: master.unwrap_or_default(), username, password }
}

/// What a URL says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Server {
    host: String,
    port: Option<u16>,
    secure: bool,
    username: Option<String>,
    database: i64,
}

impl Server {
    fn agrees_with(&self, other: &Self) -> bool {
        let said = |server: &Self| (server.secure, server.username.clone(), server.database);
        said(self) == said(other)
    }

    fn address(&self, topology: &Topology) -> (String, u16) {
        let default = match topology {
            Topology::Sentinel { .. } => SENTINEL_PORT,
            Topology::One | Topology::Cluster => PORT,
        };
        (self.host.clone(), self.port.unwrap_or(default))
    }
}

fn server(context: &mut Context<'_>, at: &str, text: &str) -> Option<Server> {
    let mut wrong = |message: &str, hint: &str| {
        context.error(at, message, Some(hint));
        None
    };
    let Ok(uri) = text.parse::<Uri>() else {
        // Not repeated: it may hold a password.
        return wrong("this is not a URL", URL_HINT);
    };
    let secure = match uri.scheme_str() {
        Some("redis") => false,
        Some("rediss") => true,
        _ => return wrong("the URL does not begin with rediss:// or redis://", URL_HINT),
    };
    if text.contains(['?', '#']) {
        return wrong("the URL has a query ('?') or a fragment ('#')", URL_HINT);
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) {
        let hint = "take it out, and set password = { file = \"PATH\" }";
        return wrong("a password cannot stand in the URL", hint);
    }
    if user.is_some_and(|user| user.is_empty() || user.contains('%')) {
        let hint = "set username = \"NAME\" instead";
        return wrong("the user in the URL cannot be read", hint);
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let at_host = authority.rsplit('@').next().unwrap_or_default();
    let port_given = at_host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let odd_port = port_given && uri.port_u16().is_none_or(|port| port == 0);
    if host.is_empty() || odd_port {
        return wrong("the URL has no host or port that can be connected to", URL_HINT);
    }
    let database = match uri.path().trim_start_matches('/') {
        "" => Some(0),
        number => number.parse::<u16>().ok(),
    };
    let Some(database) = database else {
        let hint = "redis://HOST:PORT/0";
        return wrong("what follows the host is not the number of a database", hint);
    };
    Some(Server {
        host: host.to_ascii_lowercase(),
        port: uri.port_u16(),
        secure,
        username: user.map(str::to_owned),
        database: database.into(),
    })
}

fn tls(
    context: &mut Context<'_>,
    raw: &RawRedisStore,
    first: &Server,
) -> Option<crate::tls::TlsSettings> {
    let settings = raw.tls.as_ref().map(|raw| context.tls("token_store.tls", raw));
    if settings.is_some() && !first.secure && !first.host.is_empty() {
        let hint = Some("begin the URL with rediss://");
        context.error("token_store.tls", "there is no TLS on a redis:// connection", hint);
    }
    first.secure.then(|| settings.unwrap_or_default())
}

/// Records are sealed; the password is not.
fn plaintext(context: &mut Context<'_>, raw: &RawRedisStore, at: &str, servers: &[Server]) {
    let far = servers.iter().find(|server| !server.secure && !is_loopback(&server.host));
    let Some(far) = far else { return };
    if raw.allow_plaintext != Some(true) {
        let host = &far.host;
        let what = if raw.password.is_some() { "the password" } else { "what is stored" };
        let message = format!("{what} would go to {host} unencrypted");
        let hint = "use rediss://, or allow_plaintext = true if the way is safe";
        context.error(at, message, Some(hint));
    }
}

fn username(
    context: &mut Context<'_>,
    raw: &RawRedisStore,
    in_url: Option<String>,
) -> Option<String> {
    if raw.username.is_some() && in_url.is_some() {
        let message = "the URL names a user as well";
        context.error("token_store.username", message, Some("leave one of them out"));
    }
    let username = raw.username.clone().or(in_url);
    if username.is_some() && raw.password.is_none() {
        context.missing("token_store.password", "password = { file = \"PATH\" }");
    }
    username
}

fn secret(context: &mut Context<'_>, at: &str, raw: Option<&RawSecret>) -> Option<SecretRef> {
    raw.and_then(|raw| context.secret(at, raw))
}

fn prefix(context: &mut Context<'_>, raw: Option<&str>) -> String {
    let prefix = raw.unwrap_or(DEFAULT_PREFIX);
    let fits = (1..=LONGEST_PREFIX).contains(&prefix.len())
        && prefix.chars().all(|c| c.is_ascii_graphic());
    if !fits {
        let message = format!("this is not 1 to {LONGEST_PREFIX} visible characters of ASCII");
        let hint = Some("prefix = \"countersign:plant-1:\"");
        context.error("token_store.prefix", message, hint);
    }
    prefix.to_owned()
}

fn timeout(context: &mut Context<'_>, raw: Option<&str>) -> Duration {
    let timeout = context.duration("token_store.timeout", raw, DEFAULT_TIMEOUT);
    if !TIMEOUTS.contains(&timeout) {
        let message = "an answer may take from 10 milliseconds to 4 seconds";
        context.error("token_store.timeout", message, Some("timeout = \"1s\""));
    }
    timeout
}

/// What a person has logged in for is not lost with a process: another one is told of it by the
/// store.
pub(super) fn needed(
    context: &mut Context<'_>,
    store: &StoreSpec,
    credentials: &[CredentialConfig],
) {
    if *store != StoreSpec::Memory || context.was_removed_below("token_store") {
        return;
    }
    for credential in credentials {
        if credential.source.needs_a_person() {
            let path = format!("{}.grant", join("credential", &credential.name));
            let message = "the login of a person needs a [token_store] that outlives the process";
            let hint = "[token_store] with kind = \"file\", path = \"/var/lib/countersign/tokens\" \
                        and key = { file = \"PATH\" }";
            context.error(&path, message, Some(hint));
        }
    }
}
