//! `countersign explain`: what would happen to a request, step by step. Sends nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::load::{Source, start_failure};
use super::output::{FAINT, Failure, STRONG, print, say, styled};
use super::routes::upstream;
use super::run::runtime;
use crate::app::{identity, snapshot, tables};
use crate::clock::Clock;
use crate::config::{Address, Config, CredentialConfig, ListenerConfig, SourceSpec};
use crate::credential::cache::{CacheSettings, CredentialCache};
use crate::credential::devices::pool::DevicePool;
use crate::credential::devices::table::Table;
use crate::credential::oauth::ACCESS_TOKEN;
use crate::credential::secrets::{Secrets, read};
use crate::permissions::Check;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::identity::Cache;
use crate::proxy::respond::ProxyError;
use crate::proxy::{Identity, Route, find, headers, retarget};
use crate::secret::Secret;
use crate::sign::hmac::BasePart;
use crate::sign::{SignableRequest, Signer};
use crate::tls::PeerNames;
use crate::values::Values;

/// How much of a part is shown.
const SHOWN: usize = 120;

/// A request to explain.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The method
    method: String,
    /// The URL or path, as a caller would use it
    url: String,
    /// A field of the request; may be repeated
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The content, or @FILE
    #[arg(long, value_name = "BODY|@FILE")]
    data: Option<String>,
    /// The time of signing, in milliseconds since 1970; default: now
    #[arg(long, value_name = "UNIX_MS")]
    at: Option<u64>,
    /// The device that calls, where its address or certificate says so
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Show secrets and signatures instead of masking them
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    config: super::ConfigFile,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let config = Source::read(self.config.config.as_deref())?.config()?;
        let content = match self.data.as_deref() {
            None => Vec::new(),
            Some(data) => match data.strip_prefix('@') {
                None => data.as_bytes().to_vec(),
                Some(path) => std::fs::read(path).map_err(|error| {
                    Failure::configuration(format!("{path} cannot be read: {error}"))
                })?,
            },
        };
        let parts = self.request(&config, content.len())?;
        let secrets = runtime()?
            .block_on(Secrets::resolve_or_stand_in(config.secrets(), config.check_permissions));
        let (secrets, missing) = secrets;
        for error in &missing {
            say(format!("note: {error}; a stand-in is used"));
        }
        let secrets = Arc::new(secrets);
        let mut tables = tables(&config).map_err(start_failure)?;
        let time = self.time();
        let device = self.device.as_deref();
        match explain(&config, &secrets, &mut tables, parts, device, &content, time, self.reveal)? {
            Ok(text) => {
                print(text)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(refusal) => {
                let verdict = refusal.verdict();
                let status = format!("{} {}", verdict.status.as_u16(), verdict.title);
                print(format!("{:<12} {status}\n{:<12} {refusal}\n", "answer", "reason"))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn time(&self) -> SystemTime {
        match self.at {
            Some(at) => UNIX_EPOCH + Duration::from_millis(at),
            None => Clock::system().wall(),
        }
    }

    /// The request as it would arrive.
    fn request(&self, config: &Config, content_length: usize) -> Result<Parts, Failure> {
        let wrong = |what: String| Failure::configuration(what);
        let url: Uri = self
            .url
            .parse()
            .ok()
            .filter(|url: &Uri| url.scheme().is_some() || url.path().starts_with('/'))
            .ok_or_else(|| wrong(format!("'{}' is neither a URL nor a path", self.url)))?;
        let method = Method::from_bytes(self.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| wrong(format!("'{}' is not a method", self.method)))?;
        let mut fields = HeaderMap::new();
        for field in &self.header {
            let parsed = field.split_once(':').and_then(|(name, value)| {
                let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            let Some((name, value)) = parsed else {
                return Err(wrong(format!("'{field}' is not a field; write 'Name: value'")));
            };
            fields.append(name, value);
        }
        if !fields.contains_key(HOST) {
            let host = match url.authority() {
                Some(authority) => authority.as_str().to_owned(),
                None => default_host(config),
            };
            let host = HeaderValue::from_str(&host);
            fields.insert(HOST, host.map_err(|_| wrong("the URL has no usable host".into()))?);
        }
        if content_length > 0 {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(content_length));
            if !fields.contains_key(CONTENT_TYPE) {
                // What curl says about --data.
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                fields.insert(CONTENT_TYPE, form);
            }
        }
        let target = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = Request::builder().method(method).uri(target).body(());
        let mut parts = request.map_err(|error| Failure::runtime(&error))?.into_parts().0;
        parts.headers = fields;
        Ok(parts)
    }
}

/// The listener that the request would reach: one that its Host names, else the first.
fn listener_for<'c>(config: &'c Config, parts: &Parts) -> Option<&'c ListenerConfig> {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let named = |listener: &&ListenerConfig| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let port = match &listener.address {
            Address::Tcp(address) => host.ends_with(&format!(":{}", address.port())),
            Address::Unix { .. } => false,
        };
        port || listener.access.hosts.iter().any(|known| known == host || known == name)
    };
    config.listeners.iter().find(named).or_else(|| config.listeners.first())
}

fn default_host(config: &Config) -> String {
    let tcp = config.listeners.iter().find_map(|listener| match &listener.address {
        Address::Tcp(address) => Some(address),
        Address::Unix { .. } => None,
    });
    match tcp {
        Some(address) if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        Some(address) => address.to_string(),
        None => "localhost".to_owned(),
    }
}

/// What would happen, or the answer that would be given instead.
#[expect(clippy::too_many_arguments, reason = "all that the answer depends on")]
fn explain(
    config: &Config,
    secrets: &Arc<Secrets>,
    tables: &mut HashMap<String, Table>,
    mut parts: Parts,
    device: Option<&str>,
    content: &[u8],
    at: SystemTime,
    reveal: bool,
) -> Result<Result<String, ProxyError>, Failure> {
    let identities = identities(config, tables);
    let snapshot = snapshot(config, &identities).map_err(start_failure)?;
    let mut out = Page { text: String::new(), reveal };
    out.row("request", format!("{} {}", parts.method, parts.uri));

    let listener = listener_for(config, &parts);
    let rules = listener.map(|listener| listener.access.clone()).unwrap_or_default();
    let bound = listener.and_then(|listener| match &listener.address {
        Address::Tcp(address) => Some(*address),
        Address::Unix { .. } => None,
    });
    // Who calls is not part of the question, so address and caller token are taken for granted.
    let rules = crate::config::AccessRules {
        allow: Vec::new(),
        users: Vec::new(),
        caller_token: None,
        ..rules
    };
    let gate = Gate::new(rules, bound, &config.limits, Arc::clone(secrets));
    let secure = listener.is_some_and(|listener| listener.tls.is_some());
    // These two cannot be seen in the request.
    let ends = Ends {
        secure,
        peer: device.and_then(|device| device.parse().ok()),
        client: device.map(|device| {
            let name = device.to_owned();
            Arc::new(PeerNames { common_name: Some(name.clone()), alternative: vec![name] })
        }),
        ..Ends::default()
    };
    let admitted = match gate.admit(&parts, &ends, &snapshot.table) {
        Ok(admitted) => admitted,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let route = match find(&snapshot, &admitted.host, &parts.method, parts.uri.path()) {
        Ok(route) => route,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let prefix = if route.config.prefix.is_empty() { "/" } else { &route.config.prefix };
    out.row("route", format!("{} ({prefix} → {})", route.config.name, upstream(&route.config)));

    if !route.config.clients.is_empty() {
        out.row("only for", format!("certificates of {}", route.config.clients.join(", ")));
    }

    let device = match route.device(&mut parts, &ends) {
        Ok(device) => device,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Some(device) = &device {
        out.row("device", device);
    }
    let before: Vec<HeaderName> = parts.headers.keys().cloned().collect();
    headers::strip_request(&mut parts.headers, &[&route.strip]);
    let removed: Vec<&str> = before
        .iter()
        .filter(|name| !parts.headers.contains_key(*name) && **name != HOST)
        .map(HeaderName::as_str)
        .collect();
    out.row("removed", if removed.is_empty() { "nothing".into() } else { removed.join(", ") });
    let Some(target) =
        retarget::retarget(&parts.uri, route.config.prefix.len(), &route.config.upstream)
    else {
        return Ok(Err(ProxyError::Malformed("the target cannot be forwarded")));
    };
    headers::ensure_user_agent(&mut parts.headers);
    for (name, value) in &route.config.set {
        parts.headers.insert(name.clone(), value.clone());
    }
    parts.headers.insert(HOST, route.target.host.clone());
    let mut request = Outgoing {
        method: parts.method,
        target,
        headers: parts.headers,
        added: Vec::new(),
        secret_query: false,
    };
    for (index, identity) in route.config.credentials.iter().zip(&route.identities) {
        let Some(credential) = config.credentials.get(*index) else { continue };
        let own = match (identity.cache.devices(), device.as_deref()) {
            (Some(pool), Some(device)) => own(pool, device, config.check_permissions)?,
            _ => Values::default(),
        };
        let signer = signer(credential, secrets, &own).map_err(|error| Failure::runtime(&error))?;
        if let Err(refusal) = out.credential(credential, &signer, &route, &mut request, content, at)
        {
            return Ok(Err(refusal));
        }
    }
    if route.config.credentials.is_empty() {
        out.row("credential", "none (pass-through)");
    }
    let target = if request.secret_query && !reveal {
        format!("{}{}?…", route.config.upstream.origin, request.target.path())
    } else {
        format!("{}{}", route.config.upstream.origin, request.target)
    };
    out.row("sent as", format!("{} {target}", request.method));
    Ok(Ok(out.text))
}

/// The credentials, of which nothing is read but which devices there are.
fn identities(config: &Config, tables: &mut HashMap<String, Table>) -> Vec<Arc<Identity>> {
    let settings =
        CacheSettings { renewable: false, wait: Duration::ZERO, min_interval: Duration::ZERO };
    let of = |credential: &CredentialConfig| {
        let cache = match tables.remove(&credential.name) {
            Some(table) => {
                let gate = Arc::default();
                Cache::Devices(DevicePool::new(table, Clock::system(), settings, gate))
            }
            None => Cache::One(CredentialCache::new(Clock::system(), settings)),
        };
        Arc::new(identity(credential, cache))
    };
    config.credentials.iter().map(of).collect()
}

/// The values of a device, with a stand-in for what cannot be read.
fn own(pool: &DevicePool<Signer>, device: &str, check: Check) -> Result<Values, Failure> {
    let table = pool.table();
    let cells = table.find(device).into_iter().flat_map(|row| table.cells(row));
    let mut own = Values::default();
    for (column, reference) in cells {
        let secret = runtime()?.block_on(read(&reference, check)).unwrap_or_else(|reason| {
            let what = format!("the secret in the {reference} cannot be read: {reason}");
            say(format!("note: {what}; a stand-in is used"));
            Secret::new("missing")
        });
        own.insert(column.value.clone(), secret);
    }
    Ok(own)
}

/// The signer of a credential. What a login would return stands in as its name.
fn signer(
    credential: &CredentialConfig,
    secrets: &Secrets,
    own: &Values,
) -> Result<Signer, crate::sign::BindError> {
    let values = match &credential.source {
        SourceSpec::Fixed(spec) => spec.read_with(secrets, own)?,
        SourceSpec::Login(login) => {
            let fetched =
                login.reply.values.iter().map(|(name, _)| {
                    (name.clone(), Secret::new(format!("<{name} from the login>")))
                });
            let carried = login
                .secrets
                .iter()
                .filter_map(|(name, reference)| Some((name.clone(), secrets.get(reference)?)));
            let shared: Values = fetched.chain(carried).collect();
            shared.and(own)
        }
        SourceSpec::Oauth(_) => {
            let token = Secret::new("<access token from the authorization server>");
            Values::from_iter([(ACCESS_TOKEN, token)])
        }
    };
    credential.scheme.bind(&values)
}

struct Outgoing {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    /// The fields that credentials have added, unless they hold no secret.
    added: Vec<HeaderName>,
    /// True if a credential has added to the query.
    secret_query: bool,
}

struct Page {
    text: String,
    reveal: bool,
}

impl Page {
    fn row(&mut self, label: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{} {value}", styled(STRONG, format!("{label:<12}")));
    }

    fn credential(
        &mut self,
        credential: &CredentialConfig,
        signer: &Signer,
        route: &Route,
        request: &mut Outgoing,
        content: &[u8],
        at: SystemTime,
    ) -> Result<(), ProxyError> {
        self.row("credential", format!("{} ({})", credential.name, credential.kind));
        let signable = SignableRequest {
            method: &request.method,
            authority: route.config.upstream.origin.authority.as_str(),
            path: request.target.path(),
            query: request.target.query(),
            headers: &request.headers,
        };
        if let Signer::Hmac(hmac) = signer {
            let parts = hmac
                .explain(&signable, content, at, &request.added, request.secret_query)
                .map_err(ProxyError::Sign)?;
            self.row("signed", format!("HMAC-{} over", hmac.algorithm_name()));
            for (index, part) in parts.iter().enumerate() {
                let line = format!("{:>2}. {:<24} {}", index + 1, part.label, self.part(part));
                let _ = writeln!(self.text, "{:<13}{line}", "");
            }
        }
        let mut digest = signer.digest(&signable, at).map_err(ProxyError::Sign)?;
        if let Some(digest) = &mut digest {
            digest.update(content);
        }
        let fields = signer.sign(&signable, digest, at).map_err(ProxyError::Sign)?;
        // What a login returns is not known here; what stands in for it is no secret.
        let fetched: Vec<&str> = match &credential.source {
            SourceSpec::Login(login) => {
                login.reply.values.iter().map(|(name, _)| name.as_str()).collect()
            }
            SourceSpec::Oauth(_) => vec![ACCESS_TOKEN],
            SourceSpec::Fixed(_) => Vec::new(),
        };
        let open = credential.scheme.sets_openly(&fetched);
        for (name, value) in fields.iter() {
            let is_open = open.contains(name);
            let shown = if is_open || self.reveal {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            } else {
                masked(value.len())
            };
            self.row("added", format!("{name}: {shown}"));
            request.headers.insert(name.clone(), value.clone());
            if !is_open {
                request.added.push(name.clone());
            }
        }
        if let Some(pairs) = &fields.query {
            let shown = if self.reveal { pairs.to_string() } else { masked(pairs.len()) };
            self.row("added", format!("query parameters {shown}"));
            request.secret_query = true;
            let owned = credential.scheme.sets_query();
            let without = retarget::replace_query(&request.target, &owned, "");
            if without.is_some_and(|without| without.query() != request.target.query()) {
                self.row("removed", format!("query parameters {}", owned.join(", ")));
            }
            request.target = retarget::replace_query(&request.target, &owned, pairs)
                .ok_or(ProxyError::Internal)?;
        }
        Ok(())
    }

    fn part(&self, part: &BasePart) -> String {
        if part.secret && !self.reveal {
            return masked(part.bytes.len());
        }
        let text = String::from_utf8_lossy(&part.bytes);
        let shown: String = text.chars().take(SHOWN).collect();
        let more = if shown.len() < text.len() { "…" } else { "" };
        let length = styled(FAINT, format!("({} bytes)", part.bytes.len()));
        format!("{}{more} {length}", shown.escape_debug())
    }
}

fn masked(length: usize) -> String {
    format!("{} {}", "*".repeat(8), styled(FAINT, format!("({length} characters)")))
}
