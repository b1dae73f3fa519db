//! What would happen to a request, step by step. Nothing is sent, and nothing is fetched.
//!
//! `countersign explain` asks it of a configuration, the admin listener of the running program.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use serde::Serialize;

use crate::config::{AccessRules, Address, Limits, ListenerConfig};
use crate::credential::secrets::Secrets;
use crate::proxy::guard::{Ends, Gate};
use crate::proxy::respond::ProxyError;
use crate::proxy::{Identity, Proxy, Snapshot, find, headers, retarget};
use crate::sign::hmac::BasePart;
use crate::sign::{SignError, SignableRequest, Signer};
use crate::tls::PeerNames;

/// How much of a part of a signature base is shown, in characters.
const SHOWN: usize = 120;

/// A request as somebody would write it.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The URL or path, as a caller would use it.
    pub url: &'a str,
    /// Names and values of its fields.
    pub fields: Vec<(&'a str, &'a str)>,
    /// The length of its content.
    pub content_length: usize,
}

impl Asked<'_> {
    /// The request as it would arrive at one of `listeners`.
    ///
    /// # Errors
    /// With what cannot be a request, for a person.
    pub fn parts(&self, listeners: &[ListenerConfig]) -> Result<Parts, String> {
        let url: Uri = self
            .url
            .parse()
            .ok()
            .filter(|url: &Uri| url.scheme().is_some() || url.path().starts_with('/'))
            .ok_or_else(|| format!("'{}' is neither a URL nor a path", self.url))?;
        let method = Method::from_bytes(self.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("'{}' is not a method", self.method))?;
        let mut fields = HeaderMap::new();
        for (name, value) in &self.fields {
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            let parsed = parsed.zip(HeaderValue::from_str(value).ok());
            let Some((name, value)) = parsed else {
                return Err(format!("'{name}: {value}' is not a field"));
            };
            fields.append(name, value);
        }
        if !fields.contains_key(HOST) {
            let host = match url.authority() {
                Some(authority) => authority.as_str().to_owned(),
                None => default_host(listeners),
            };
            let host = HeaderValue::from_str(&host);
            fields.insert(HOST, host.map_err(|_| "the URL has no usable host".to_owned())?);
        }
        if self.content_length > 0 {
            fields.insert(CONTENT_LENGTH, HeaderValue::from(self.content_length));
            if !fields.contains_key(CONTENT_TYPE) {
                // What curl says about --data.
                let form = HeaderValue::from_static("application/x-www-form-urlencoded");
                fields.insert(CONTENT_TYPE, form);
            }
        }
        let target = url.path_and_query().map_or("/", PathAndQuery::as_str);
        let request = Request::builder().method(method).uri(target).body(());
        let mut parts = request.map_err(|error| error.to_string())?.into_parts().0;
        parts.headers = fields;
        Ok(parts)
    }
}

/// What an explanation depends on beside the request.
#[derive(Debug)]
pub struct Ground<'a> {
    /// What requests are served by.
    pub snapshot: &'a Snapshot,
    /// What serves them; `None` where nothing runs.
    pub proxy: Option<&'a Proxy>,
    /// Where they come in.
    pub listeners: &'a [ListenerConfig],
    /// Bounds.
    pub limits: &'a Limits,
    /// What the rules of listeners refer to.
    pub secrets: &'a Arc<Secrets>,
    /// The device that calls, where its address or certificate says so.
    pub device: Option<&'a str>,
    /// The time.
    pub now: SystemTime,
    /// The time of signing; else now, corrected where the upstream's clock is followed.
    pub at: Option<SystemTime>,
    /// Whether secrets and signatures are told.
    pub reveal: bool,
}

/// A credential as it would be used.
#[derive(Debug)]
pub struct Held {
    /// Its kind, as the configuration says it.
    pub kind: String,
    /// The fields it sets that hold no secret.
    pub open: Vec<HeaderName>,
    /// What signs, or why there is nothing that could.
    pub signer: Result<Signer, String>,
}

/// What would happen.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// Method and target as they came.
    pub request: String,
    /// The route that was found.
    pub route: Option<FoundRoute>,
    /// The device that it was taken for, where a credential has several.
    pub identity: Option<String>,
    /// The fields that do not get to the upstream.
    pub removed: Vec<String>,
    /// The fields that are set whatever the credentials do: those of the route (`set`) and, of a
    /// running program, `Via` and what the request is called, which is another each time.
    pub set: Vec<Added>,
    /// What each credential of the route does, in the order of signing.
    pub credentials: Vec<Applied>,
    /// Method and URL as they would be sent; `None` if nothing would be.
    pub sent_as: Option<String>,
    /// The answer that would be given instead.
    pub refused: Option<Refused>,
}

/// The route of a request.
#[derive(Debug, Serialize)]
pub struct FoundRoute {
    /// Its name.
    pub name: String,
    /// The prefix of paths that it stands for.
    pub path: String,
    /// Where its requests go.
    pub upstream: String,
    /// The certificates that it is for; empty if for all.
    pub clients: Vec<String>,
}

/// What one credential does to the request.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Why it is not there.
    pub missing: Option<String>,
    /// What its signature covers.
    pub signed: Option<Signed>,
    /// The fields that it adds.
    pub added: Vec<Added>,
    /// The query parameters that it adds.
    pub query: Option<Shown>,
    /// The query parameters of the caller's that it replaces.
    pub query_removed: Vec<String>,
}

/// A signature base.
#[derive(Debug, Serialize)]
pub struct Signed {
    /// The algorithm.
    pub algorithm: String,
    /// What goes into it, in order.
    pub parts: Vec<Part>,
}

/// One part of a signature base.
#[derive(Debug, Serialize)]
pub struct Part {
    /// What it is.
    pub label: String,
    /// Its bytes as text with escapes, or their number alone.
    #[serde(flatten)]
    pub shown: Shown,
    /// True if there is more of it than is shown.
    pub cut: bool,
}

/// A field.
#[derive(Debug, Serialize)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(flatten)]
    pub shown: Shown,
}

/// A value, if it may be seen.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The value; `None` where it is masked.
    pub value: Option<String>,
    /// Its length in bytes.
    pub length: usize,
}

impl Shown {
    fn of(bytes: &[u8], open: bool) -> Self {
        let value = open.then(|| String::from_utf8_lossy(bytes).into_owned());
        Self { value, length: bytes.len() }
    }
}

/// The answer that would be given without asking the upstream.
#[derive(Debug, Serialize)]
pub struct Refused {
    /// Its status.
    pub status: u16,
    /// What it is called in general.
    pub title: &'static str,
    /// The word for it in logs and metrics.
    pub word: &'static str,
    /// Why, for a person.
    pub reason: String,
}

impl Explanation {
    fn refuse(mut self, error: &ProxyError) -> Self {
        let verdict = error.verdict();
        self.refused = Some(Refused {
            status: verdict.status.as_u16(),
            title: verdict.title,
            word: verdict.word,
            reason: error.to_string(),
        });
        self
    }
}

/// What would happen to the request of `parts` and `content`. `hold` is asked for each credential of
/// its route.
///
/// # Errors
/// Those of `hold`.
pub fn explain<E>(
    ground: &Ground<'_>,
    mut parts: Parts,
    content: &[u8],
    mut hold: impl FnMut(&Identity, Option<&str>) -> Result<Held, E>,
) -> Result<Explanation, E> {
    let mut told = Explanation {
        request: format!("{} {}", parts.method, parts.uri),
        ..Explanation::default()
    };
    let (gate, ends) = entrance(ground, &parts);
    let admitted = match gate.admit(&parts, &ends, &ground.snapshot.table) {
        Ok(admitted) => admitted,
        Err(error) => return Ok(told.refuse(&error)),
    };
    let found = find(ground.snapshot, &admitted.host, &parts.method, parts.uri.path());
    let route = match found {
        Ok(route) => route,
        Err(error) => return Ok(told.refuse(&error)),
    };
    let prefix = if route.config.prefix.is_empty() { "/" } else { &route.config.prefix };
    told.route = Some(FoundRoute {
        name: route.config.name.clone(),
        path: prefix.to_owned(),
        upstream: route.config.upstream.to_string(),
        clients: route.config.clients.clone(),
    });
    // Before it is read who calls: the field that says so does not get to the upstream either.
    let before = parts.headers.clone();
    let device = match route.device(&mut parts, &ends) {
        Ok(device) => device,
        Err(error) => return Ok(told.refuse(&error)),
    };
    told.identity = device.as_deref().map(str::to_owned);
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > route.config.max_body {
        return Ok(told.refuse(&ProxyError::ContentTooLarge));
    }
    headers::strip_request(&mut parts.headers, &[&route.strip]);
    let gone = before.keys().filter(|name| !parts.headers.contains_key(*name) && **name != HOST);
    told.removed = gone.map(|name| name.as_str().to_owned()).collect();
    let left = parts.headers.clone();
    let prefix = route.config.prefix.len();
    let Some(target) = retarget::retarget(&parts.uri, prefix, &route.config.upstream) else {
        let error = ProxyError::Malformed("the target cannot be forwarded");
        return Ok(told.refuse(&error));
    };
    match ground.proxy {
        Some(proxy) => {
            let id = proxy.name(&before);
            proxy.introduce(&mut parts.headers, parts.version, &route, id.as_ref());
        }
        None => headers::ensure_user_agent(&mut parts.headers),
    }
    for (name, value) in &route.config.set {
        parts.headers.insert(name.clone(), value.clone());
    }
    let differs =
        |name: &&HeaderName| !left.get_all(*name).iter().eq(parts.headers.get_all(*name).iter());
    let is_set = |name: &HeaderName| route.config.set.iter().any(|(own, _)| own == name);
    told.set = parts
        .headers
        .keys()
        .filter(differs)
        .flat_map(|name| parts.headers.get_all(name).iter().map(move |value| (name, value)))
        .map(|(name, value)| Added {
            name: name.as_str().to_owned(),
            // Nobody knows what an operator puts there.
            shown: Shown::of(value.as_bytes(), ground.reveal || !is_set(name)),
        })
        .collect();
    parts.headers.insert(HOST, route.target.host.clone());
    let mut outgoing = Outgoing {
        method: parts.method,
        authority: route.config.upstream.origin.authority.as_str(),
        target,
        headers: parts.headers,
        added: Vec::new(),
        secret_query: false,
        content,
        at: ground.at.unwrap_or_else(|| {
            let correction = route.clock.as_ref().map(|clock| clock.correction_ms());
            moved(ground.now, correction.unwrap_or_default())
        }),
        reveal: ground.reveal,
    };
    for identity in &route.identities {
        match outgoing.apply(identity, hold(identity, device.as_deref())?) {
            Ok(applied) => told.credentials.push(applied),
            Err(error) => return Ok(told.refuse(&error)),
        }
    }
    if told.credentials.iter().all(|applied| applied.missing.is_none()) {
        let origin = &route.config.upstream.origin;
        let Outgoing { method, target, .. } = &outgoing;
        told.sent_as = Some(if outgoing.secret_query && !ground.reveal {
            format!("{method} {origin}{}?…", target.path())
        } else {
            format!("{method} {origin}{target}")
        });
    }
    Ok(told)
}

/// What judges the request where it comes in, and where that is.
fn entrance(ground: &Ground<'_>, parts: &Parts) -> (Gate, Ends) {
    let listener = listener_for(ground.listeners, parts);
    let rules = listener.map(|listener| listener.access.clone()).unwrap_or_default();
    let bound = listener.and_then(|listener| match &listener.address {
        Address::Tcp(address) => Some(*address),
        Address::Unix { .. } => None,
    });
    // Who calls is not part of the question, so address and caller token are taken for granted.
    let rules = AccessRules { allow: Vec::new(), users: Vec::new(), caller_token: None, ..rules };
    let gate = Gate::new(rules, bound, ground.limits, Arc::clone(ground.secrets));
    // These cannot be seen in the request.
    let ends = Ends {
        secure: listener.is_some_and(|listener| listener.tls.is_some()),
        peer: ground.device.and_then(|device| device.parse().ok()),
        client: ground.device.map(|device| {
            let name = device.to_owned();
            Arc::new(PeerNames { common_name: Some(name.clone()), alternative: vec![name] })
        }),
        ..Ends::default()
    };
    (gate, ends)
}

/// The listener that the request would reach: one that its Host names, else the first.
fn listener_for<'c>(listeners: &'c [ListenerConfig], parts: &Parts) -> Option<&'c ListenerConfig> {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let named = |listener: &&ListenerConfig| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let port = match &listener.address {
            Address::Tcp(address) => host.ends_with(&format!(":{}", address.port())),
            Address::Unix { .. } => false,
        };
        port || listener.access.hosts.iter().any(|known| known == host || known == name)
    };
    listeners.iter().find(named).or_else(|| listeners.first())
}

fn default_host(listeners: &[ListenerConfig]) -> String {
    let tcp = listeners.iter().find_map(|listener| match &listener.address {
        Address::Tcp(address) => Some(address),
        Address::Unix { .. } => None,
    });
    match tcp {
        Some(address) if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        Some(address) => address.to_string(),
        None => "localhost".to_owned(),
    }
}

fn moved(time: SystemTime, by_ms: i64) -> SystemTime {
    let distance = Duration::from_millis(by_ms.unsigned_abs());
    let moved = if by_ms < 0 { time.checked_sub(distance) } else { time.checked_add(distance) };
    moved.unwrap_or(time)
}

struct Outgoing<'a> {
    method: Method,
    authority: &'a str,
    target: PathAndQuery,
    headers: HeaderMap,
    /// The fields that credentials have added, unless they hold no secret.
    added: Vec<HeaderName>,
    /// True if a credential has added to the query.
    secret_query: bool,
    content: &'a [u8],
    at: SystemTime,
    reveal: bool,
}

impl Outgoing<'_> {
    fn apply(&mut self, identity: &Identity, held: Held) -> Result<Applied, ProxyError> {
        let mut applied = Applied {
            name: identity.name.clone(),
            kind: held.kind,
            missing: None,
            signed: None,
            added: Vec::new(),
            query: None,
            query_removed: Vec::new(),
        };
        let signer = match held.signer {
            Ok(signer) => signer,
            Err(missing) => {
                applied.missing = Some(missing);
                return Ok(applied);
            }
        };
        let signable = SignableRequest {
            method: &self.method,
            authority: self.authority,
            path: self.target.path(),
            query: self.target.query(),
            headers: &self.headers,
        };
        applied.signed = self.signed(&signer, &signable).map_err(ProxyError::Sign)?;
        let mut digest = signer.digest(&signable, self.at).map_err(ProxyError::Sign)?;
        if let Some(digest) = &mut digest {
            digest.update(self.content);
        }
        let fields = signer.sign(&signable, digest, self.at).map_err(ProxyError::Sign)?;
        for (name, value) in fields.iter() {
            let open = held.open.contains(name);
            applied.added.push(Added {
                name: name.as_str().to_owned(),
                shown: Shown::of(value.as_bytes(), open || self.reveal),
            });
            self.headers.insert(name.clone(), value.clone());
            if !open {
                self.added.push(name.clone());
            }
        }
        if let Some(pairs) = &fields.query {
            applied.query = Some(Shown::of(pairs.as_bytes(), self.reveal));
            self.secret_query = true;
            let owned = &identity.owned_query;
            let without = retarget::replace_query(&self.target, owned, "");
            if without.is_some_and(|without| without.query() != self.target.query()) {
                applied.query_removed.clone_from(owned);
            }
            self.target =
                retarget::replace_query(&self.target, owned, pairs).ok_or(ProxyError::Internal)?;
        }
        Ok(applied)
    }

    /// What the signature covers, if it is one.
    fn signed(
        &self,
        signer: &Signer,
        signable: &SignableRequest<'_>,
    ) -> Result<Option<Signed>, SignError> {
        let Signer::Hmac(hmac) = signer else { return Ok(None) };
        let parts =
            hmac.explain(signable, self.content, self.at, &self.added, self.secret_query)?;
        Ok(Some(Signed {
            algorithm: format!("HMAC-{}", hmac.algorithm_name()),
            parts: parts.iter().map(|part| self.part(part)).collect(),
        }))
    }

    fn part(&self, part: &BasePart) -> Part {
        let label = part.label.clone();
        let length = part.bytes.len();
        if part.secret && !self.reveal {
            return Part { label, shown: Shown { value: None, length }, cut: false };
        }
        let text = String::from_utf8_lossy(&part.bytes);
        let shown: String = text.chars().take(SHOWN).collect();
        let cut = shown.len() < text.len();
        let value = Some(shown.escape_debug().to_string());
        Part { label, shown: Shown { value, length }, cut }
    }
}
