//! Routes: where requests go, and with which credentials.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::config::context::Context;
use crate::config::raw::{RawNames, RawReplay, RawRoute, RawTimeouts};
use crate::config::shape::nearest;
use crate::config::{
    Address, ConnectionSettings, CredentialConfig, HeaderCase, Http2, IdentitySource,
    ListenerConfig, Origin, Replay, RouteConfig, Scheme, SourceSpec, Timeouts, UpstreamConfig, Way,
};
use crate::connect::ForwardProxy;
use crate::observe::NO_ROUTE;
use crate::sign::BodyCoverage;

pub(super) fn routes(
    context: &mut Context<'_>,
    raw: &[RawRoute],
    declared: &[&str],
    credentials: &[CredentialConfig],
    listeners: &[ListenerConfig],
) -> Vec<RouteConfig> {
    if raw.is_empty() && !context.was_removed("route") && !context.unread() {
        let hint = Some("add [[route]] with upstream = \"https://…\" and credential = \"NAME\"");
        context.error("", "there is no route", hint);
    }
    let mut all: Vec<RouteConfig> = Vec::new();
    let mut used = Vec::new();
    for (index, raw) in raw.iter().enumerate() {
        let path = format!("route[{index}]");
        let names: Vec<&str> = names(raw.credential.as_ref()).collect();
        used.extend(names.iter().map(|name| (*name).to_owned()));
        let mut builder = Builder { context, path: path.clone(), declared, credentials };
        let Some(route) = builder.route(raw, index, &names) else {
            continue;
        };
        if let Some(twin) = all.iter().find(|other| overlap(other, &route)) {
            let message = format!("the route '{}' matches the same requests", twin.name);
            let hint = Some("give them different hosts, paths or methods");
            let at = if raw.path.is_some() { format!("{path}.path") } else { path.clone() };
            context.error(&at, message, hint);
        }
        let certified = |listener: &ListenerConfig| {
            listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
        };
        let by_certificate = matches!(route.identity, Some(IdentitySource::ClientCertificate(_)));
        if by_certificate && !listeners.iter().any(certified) && !listeners.is_empty() {
            let hint = Some("set client_ca in tls of a listener");
            let message = "no listener asks for certificates, so no device could call";
            context.error(&format!("{path}.identity"), message, hint);
        }
        if !route.clients.is_empty() && !listeners.iter().any(certified) && !listeners.is_empty() {
            let hint = Some("set client_ca in tls of a listener");
            let message = "no listener asks for certificates, so nobody could call";
            context.error(&format!("{path}.clients"), message, hint);
        }
        if route.name.is_empty() || route.name == NO_ROUTE {
            let message = format!("a route cannot be called '{}'", route.name);
            let hint = Some("metrics call it that where a request has no route");
            context.error(&format!("{path}.name"), message, hint);
        }
        if all.iter().any(|other| other.name == route.name) {
            let message = format!("another route is called '{}'", route.name);
            context.error(&format!("{path}.name"), message, None);
        }
        let itself = listeners.iter().any(|listener| leads_to(listener, &route.upstream.origin));
        if itself {
            let message = "this route leads back to countersign itself";
            let hint = Some("name the API's own address, not the one that callers use");
            context.error(&format!("{path}.upstream"), message, hint);
        }
        all.push(route);
    }
    for name in declared {
        let unclear = raw.is_empty()
            || (0..raw.len())
                .any(|index| context.was_removed_below(&format!("route[{index}].credential")));
        if !used.iter().any(|used| used == name) && !unclear {
            let path = crate::config::document::join("credential", name);
            let hint = format!("name it in a route: credential = \"{name}\"");
            context.warning(&path, "no route uses this credential", &hint);
        }
    }
    all
}

fn names(raw: Option<&RawNames>) -> impl Iterator<Item = &str> {
    let names = match raw {
        None => &[],
        Some(RawNames::One(name)) => std::slice::from_ref(name),
        Some(RawNames::Many(names)) => names.as_slice(),
    };
    names.iter().map(String::as_str)
}

fn overlap(one: &RouteConfig, two: &RouteConfig) -> bool {
    one.host == two.host
        && one.prefix == two.prefix
        && (one.methods.is_empty()
            || two.methods.is_empty()
            || one.methods.iter().any(|method| two.methods.contains(method)))
}

fn leads_to(listener: &ListenerConfig, origin: &Origin) -> bool {
    match &listener.address {
        Address::Tcp(address) => {
            let host = origin.authority.host().trim_start_matches('[').trim_end_matches(']');
            let same_host = match host.parse::<std::net::IpAddr>().map(|ip| ip.to_canonical()) {
                // Connecting to the unspecified address is connecting to this machine.
                Ok(ip) if ip.is_unspecified() => {
                    address.ip().is_loopback() || address.ip().is_unspecified()
                }
                Ok(ip) => ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback()),
                Err(_) => {
                    origin.is_loopback()
                        && (address.ip().is_loopback() || address.ip().is_unspecified())
                }
            };
            same_host
                && origin.is_secure() == listener.tls.is_some()
                && origin.port() == address.port()
        }
        Address::Unix { .. } => false,
    }
}

pub(super) struct Builder<'b, 'c> {
    pub(super) context: &'b mut Context<'c>,
    path: String,
    declared: &'b [&'b str],
    credentials: &'b [CredentialConfig],
}

impl Builder<'_, '_> {
    pub(super) fn at(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    fn route(&mut self, raw: &RawRoute, index: usize, names: &[&str]) -> Option<RouteConfig> {
        let hint = "upstream = \"https://api.example.com\"";
        let at = self.at("upstream");
        let upstream = self.context.require(raw.upstream.as_deref(), &at, hint);
        let upstream = upstream.and_then(|url| self.upstream(url, raw));
        let prefix = self.prefix(raw.path.as_deref().unwrap_or("/"));
        let host = raw.host.as_ref().and_then(|host| self.host(host));
        let methods = self.methods(raw.methods.as_deref().unwrap_or_default());
        let clients = self.clients(raw.clients.as_deref());
        let credentials = self.credentials(names);
        let timeouts = self.timeouts(&raw.timeouts);
        let is_loopback = upstream.as_ref().is_some_and(|upstream| upstream.origin.is_loopback());
        let connection = self.connection(raw, is_loopback);
        let replay = self.replay(&raw.replay);
        let at = self.at("max_body");
        let max_body = self.context.size(&at, raw.max_body.as_ref(), 1 << 30);
        let at = self.at("remove");
        let remove = self.context.field_patterns(&at, raw.remove.as_deref().unwrap_or_default());
        let at = self.at("deny");
        let deny = self.context.path_patterns(&at, raw.deny.as_deref().unwrap_or_default());
        let identity = self.identity(raw.identity.as_ref());
        let found = credentials.clone().unwrap_or_default();
        let used: Vec<&CredentialConfig> =
            found.iter().filter_map(|index| self.credentials.get(*index)).collect();
        let set = self.set(raw, &used);
        let complete = credentials.is_some();
        self.identified(raw, identity.as_ref(), &used, complete);
        let (upstream, prefix, mut credentials) = (upstream?, prefix?, credentials?);
        self.bound(&upstream.origin, &used);
        if !used.is_empty()
            && !upstream.origin.is_secure()
            && !upstream.origin.is_loopback()
            && raw.allow_plaintext != Some(true)
        {
            let hint = "use https://, or allow_plaintext = true if the way is safe";
            let message = format!("the credential would go to {} unencrypted", upstream.origin);
            let at = self.at("upstream");
            self.context.error(&at, message, Some(hint));
        }
        let sets_it = |used: &&CredentialConfig| used.scheme.sets().contains(&AUTHORIZATION);
        if raw.keep_caller_authorization == Some(true)
            && let Some(owner) = used.iter().find(|used| sets_it(used))
        {
            let message = format!("the credential '{}' sets Authorization itself", owner.name);
            let at = self.at("keep_caller_authorization");
            self.context.error(&at, message, None);
        }
        // Parameters and fields first: a signature may cover them.
        credentials.sort_by_key(|index| match self.credentials.get(*index).map(|c| &c.scheme) {
            Some(Scheme::Query(_)) => 0,
            Some(Scheme::Fields(_)) => 1,
            Some(scheme @ Scheme::Hmac(_)) if scheme.body_coverage() == BodyCoverage::None => 2,
            // Last, because all the content has to be here first.
            Some(Scheme::Hmac(_)) | None => 3,
        });
        let name = raw.name.clone().unwrap_or_else(|| default_name(&prefix, index));
        Some(RouteConfig {
            name,
            host,
            prefix,
            methods,
            clients,
            upstream,
            credentials,
            identity,
            deny,
            max_body,
            timeouts,
            set,
            remove,
            replay,
            clock: raw.clock.unwrap_or_default(),
            keep_caller_authorization: raw.keep_caller_authorization == Some(true),
            websocket: raw.websocket == Some(true),
            rewrite_location: raw.rewrite_location != Some(false),
            scrub: raw.scrub == Some(true),
            max_in_flight: raw.max_in_flight.and_then(|most| usize::try_from(most).ok()),
            connection,
        })
    }

    fn clients(&mut self, raw: Option<&[String]>) -> Vec<String> {
        let at = self.at("clients");
        if raw.is_some_and(|names| names.is_empty() || names.iter().any(String::is_empty)) {
            let hint = "name who may call, or leave 'clients' out";
            self.context.error(&at, "an empty name or list lets nobody call", Some(hint));
        }
        raw.unwrap_or_default().to_vec()
    }

    fn connection(&mut self, raw: &RawRoute, is_loopback: bool) -> ConnectionSettings {
        let at = self.at("http2");
        let http2 = raw.http2.unwrap_or_default();
        let header_case = raw.header_case.unwrap_or_default();
        if http2 == Http2::Always && raw.websocket == Some(true) {
            let hint = "leave http2 out: WebSockets get an HTTP/1.1 connection of their own";
            self.context.error(&at, "a WebSocket begins with HTTP/1.1", Some(hint));
        }
        if http2 == Http2::Always && header_case != HeaderCase::Lower {
            let at = self.at("header_case");
            let hint = Some("leave header_case or http2 out");
            self.context.error(&at, "HTTP/2 has lower case names only", hint);
        }
        if http2 == Http2::Always && raw.lenient == Some(true) {
            let at = self.at("lenient");
            let hint = "leave lenient or http2 out";
            self.context.warning(&at, "HTTP/2 has no odd syntax to bear with", hint);
        }
        let methods = raw.methods.as_deref().unwrap_or_default();
        let without_get =
            !methods.is_empty() && !methods.iter().any(|m| m.eq_ignore_ascii_case("GET"));
        if raw.websocket == Some(true) && without_get {
            let at = self.at("methods");
            let hint = Some("add \"GET\", or leave websocket out");
            self.context.error(&at, "a WebSocket begins with GET", hint);
        }
        if raw.websocket != Some(true) && raw.timeouts.websocket.is_some() {
            let at = self.at("timeouts.websocket");
            let hint = "add websocket = true to the route";
            self.context.warning(&at, "this route forwards no WebSocket", hint);
        }
        // Whoever asks for a case asks for the version that has one.
        let http2 = if header_case == HeaderCase::Lower { http2 } else { Http2::Never };
        let at = self.at("pool");
        let mut duration = |key: &str, text: Option<&str>, default: u64| {
            let default = Duration::from_secs(default);
            self.context.duration(&format!("{at}.{key}"), text, default)
        };
        let idle_timeout = duration("idle_timeout", raw.pool.idle_timeout.as_deref(), 15);
        let max_age = duration("max_age", raw.pool.max_age.as_deref(), 300);
        let at = self.at("timeouts.connect");
        let connect = raw.timeouts.connect.as_deref();
        ConnectionSettings {
            http2,
            header_case,
            lenient: raw.lenient == Some(true),
            connect_timeout: self.context.duration(&at, connect, Duration::from_secs(5)),
            way: self.way(raw.proxy.as_deref(), is_loopback),
            pool_size: raw.pool.size.map_or(256, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            idle_timeout,
            max_age,
        }
    }

    fn way(&mut self, proxy: Option<&str>, is_loopback: bool) -> Way {
        let Some(text) = proxy else { return Way::Environment };
        if text == "none" {
            return Way::Direct;
        }
        let at = self.at("proxy");
        if is_loopback {
            let hint = "leave proxy out: what is loopback here is another machine's there";
            self.context.error(&at, "the upstream is on this machine", Some(hint));
        }
        let hint = "proxy = \"http://proxy.example.com:3128\", or \"none\"";
        let parsed: Option<Uri> = text.parse().ok();
        let usable = parsed.filter(|url| {
            let userinfo =
                url.authority().is_some_and(|authority| authority.as_str().contains('@'));
            let bare = url.path_and_query().is_none_or(|path| path.as_str() == "/");
            ForwardProxy::at(url).is_ok() && bare && !userinfo
        });
        if let Some(url) = usable {
            Way::Proxy(url)
        } else {
            let message = if text.contains('@') {
                "a login of the proxy belongs into HTTPS_PROXY, not into this file"
            } else {
                "this is not the URL of a proxy that can be used"
            };
            self.context.error(&at, message, Some(hint));
            Way::Direct
        }
    }

    fn upstream(&mut self, url: &str, raw: &RawRoute) -> Option<UpstreamConfig> {
        let at = self.at("upstream");
        let (origin, uri) = self.context.url(&at, url)?;
        let at = self.at("tls");
        let tls = self.context.tls(&at, &raw.tls);
        Some(UpstreamConfig {
            origin,
            base: uri.path().trim_end_matches('/').to_owned(),
            trailing_slash: uri.path().len() > 1 && uri.path().ends_with('/'),
            tls,
        })
    }

    fn prefix(&mut self, path: &str) -> Option<String> {
        let at = self.at("path");
        let hint = "a path such as \"/devo\", as callers write it";
        // What a generous server reads otherwise could never match both readings.
        let odd = path.contains(['?', '#', '\\', '%', ' ', ';']) || !path.is_ascii();
        if !path.starts_with('/') || odd {
            self.context.error(&at, "this is not a path", Some(hint));
            return None;
        }
        let prefix = path.trim_end_matches('/');
        let odd = |segment: &str| segment.is_empty() || segment == "." || segment == "..";
        if prefix.split('/').skip(1).any(odd) {
            self.context.error(&at, "the path has an empty or dot segment", Some(hint));
            return None;
        }
        Some(prefix.to_owned())
    }

    fn host(&mut self, host: &str) -> Option<String> {
        let lower = host.to_ascii_lowercase();
        let parsed = lower.parse::<http::uri::Authority>();
        if parsed.is_ok_and(|authority| authority.port().is_none() && authority.host() == lower) {
            return Some(lower);
        }
        let at = self.at("host");
        let hint = Some("a name without port, such as \"api-us.devo.com\"");
        self.context.error(&at, "this is not a host", hint);
        None
    }

    fn methods(&mut self, raw: &[String]) -> Vec<Method> {
        let mut methods = Vec::new();
        for (index, name) in raw.iter().enumerate() {
            if let Ok(method) = Method::from_bytes(name.to_ascii_uppercase().as_bytes()) {
                methods.push(method);
            } else {
                let at = format!("{}[{index}]", self.at("methods"));
                self.context.error(&at, format!("'{name}' is not a method"), None);
            }
        }
        methods
    }

    /// Indices of the named credentials; `None` if one of them could not be compiled.
    fn credentials(&mut self, names: &[&str]) -> Option<Vec<usize>> {
        let at = self.at("credential");
        let mut indices: Vec<usize> = Vec::new();
        let mut complete = true;
        for name in names {
            let index = self.credentials.iter().position(|credential| credential.name == *name);
            match index {
                Some(index) if indices.contains(&index) => {
                    self.context.error(&at, format!("'{name}' is named twice"), None);
                }
                Some(index) => indices.push(index),
                None => {
                    complete = false;
                    let path = crate::config::document::join("credential", name);
                    let declared = self.declared.contains(name) || self.context.was_removed(&path);
                    if !declared {
                        let hint = match nearest(name, self.declared) {
                            Some(near) => format!("did you mean \"{near}\"?"),
                            None => format!("declare it: [credential.{name}]"),
                        };
                        let message = format!("there is no credential '{name}'");
                        self.context.error(&at, message, Some(&hint));
                    }
                }
            }
        }
        let mut fields: Vec<(HeaderName, &str)> = Vec::new();
        let mut covering = 0;
        for credential in indices.iter().filter_map(|index| self.credentials.get(*index)) {
            if credential.scheme.body_coverage() == BodyCoverage::Whole {
                covering += 1;
            }
            for field in credential.scheme.sets() {
                if let Some((_, other)) = fields.iter().find(|(known, _)| *known == field) {
                    let message = format!("'{other}' and '{}' both set '{field}'", credential.name);
                    self.context.error(&at, message, Some("use one of them"));
                }
                fields.push((field, &credential.name));
            }
        }
        if covering > 1 {
            let message = "more than one of these credentials signs the content";
            self.context.error(&at, message, Some("use one of them"));
        }
        complete.then_some(indices)
    }

    /// A credential bound to origins is used for these only.
    fn bound(&mut self, origin: &Origin, used: &[&CredentialConfig]) {
        let at = self.at("upstream");
        for credential in used {
            if let Some(bound) = &credential.upstreams
                && !bound.contains(origin)
            {
                let allowed: Vec<String> = bound.iter().map(ToString::to_string).collect();
                let message =
                    format!("the credential '{}' must not be used for {origin}", credential.name);
                let hint = format!("its 'upstreams' allows {}", allowed.join(", "));
                self.context.error(&at, message, Some(&hint));
            }
            if credential.kind == "twinzo-device"
                && let SourceSpec::Login(login) = &credential.source
                && login.request.url.authority().map(http::uri::Authority::host)
                    != Some(origin.authority.host())
            {
                self.context.warning(
                    &at,
                    format!("'{}' logs in at another host than this", credential.name),
                    "twinzo accepts a token only at the base URL it comes from",
                );
            }
        }
    }

    fn set(
        &mut self,
        raw: &RawRoute,
        used: &[&CredentialConfig],
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut set = Vec::new();
        for (name, text) in raw.set.iter().flatten() {
            let path = crate::config::document::join(&self.at("set"), name);
            let Some(field) = self.context.field_name(&path, name) else { continue };
            if let Some(owner) = used.iter().find(|used| used.owned.contains(&field)) {
                let message = format!("'{name}' belongs to the credential '{}'", owner.name);
                self.context.error(&path, message, None);
            }
            match HeaderValue::from_str(text) {
                Ok(value) => set.push((field, value)),
                Err(_) => {
                    self.context.error(&path, "the value has a character no field can hold", None);
                }
            }
        }
        set
    }

    fn timeouts(&mut self, raw: &RawTimeouts) -> Timeouts {
        let at = self.at("timeouts");
        let mut duration = |key: &str, text: Option<&str>, default: u64| {
            let default = Duration::from_secs(default);
            self.context.duration(&format!("{at}.{key}"), text, default)
        };
        Timeouts {
            first_byte: duration("first_byte", raw.first_byte.as_deref(), 60),
            idle: duration("idle", raw.idle.as_deref(), 60),
            total: raw.total.as_deref().map(|text| duration("total", Some(text), 300)),
            websocket: duration("websocket", raw.websocket.as_deref(), 600),
            go_ahead: duration("go_ahead", raw.go_ahead.as_deref(), 1),
        }
    }

    fn replay(&mut self, raw: &RawReplay) -> Replay {
        let at = self.at("replay");
        let mut statuses = Vec::new();
        for (index, status) in raw.statuses.as_deref().unwrap_or(&[401]).iter().enumerate() {
            match StatusCode::from_u16(*status) {
                Ok(status) if status.is_client_error() => statuses.push(status),
                _ => {
                    let hint = Some("a status from 400 to 499, such as 401");
                    let at = format!("{at}.statuses[{index}]");
                    self.context.error(&at, format!("{status} cannot mean a refused token"), hint);
                }
            }
        }
        let at = format!("{at}.max_body");
        let max_body = self.context.size(&at, raw.max_body.as_ref(), 64 << 10);
        Replay { statuses, max_body: usize::try_from(max_body).unwrap_or(usize::MAX) }
    }
}

/// A name for a route that has none: its prefix.
fn default_name(prefix: &str, index: usize) -> String {
    let words: Vec<&str> = prefix.split('/').filter(|word| !word.is_empty()).collect();
    if words.is_empty() { format!("route-{index}") } else { words.join("-") }
}
