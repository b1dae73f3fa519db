//! Upstreams as workers see them, shared by the routes that lead to one place.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use http::HeaderValue;
use rustls::ClientConfig;

use super::StartError;
use crate::config::{ConnectionSettings, Http2, Origin, RouteConfig, Way};
use crate::connect::{Dialer, ForwardProxy};
use crate::permissions::Check;
use crate::proxy::Route;
use crate::proxy::upstream::{Target, UpstreamClock};
use crate::tls::{TlsSettings, client_config, offering};

/// Targets by what they consist of: routes to one place share their connections.
#[derive(Debug)]
pub(super) struct Targets {
    all: HashMap<Key, Arc<Target>>,
    /// Those to which no route leads any more, as long as a request does.
    removed: Vec<Weak<Target>>,
    clocks: HashMap<Origin, Arc<UpstreamClock>>,
    tls: HashMap<TlsSettings, Arc<ClientConfig>>,
    remember_case: bool,
    check: Check,
}

/// What a target consists of, and whether it remembers how an upstream writes names of fields.
type Key = (Origin, TlsSettings, ConnectionSettings, bool);

impl Targets {
    /// None yet. With `remember_case`, they remember how upstreams write names of fields.
    pub(super) fn new(remember_case: bool, check: Check) -> Self {
        let (all, clocks, tls) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { all, removed: Vec::new(), clocks, tls, remember_case, check }
    }

    /// Those of the next configuration: what it has in common with this one stays, and what is
    /// known of upstreams' clocks.
    pub(super) fn next(&self, remember_case: bool) -> Self {
        Self {
            all: self.all.clone(),
            removed: self.removed.clone(),
            clocks: self.clocks.clone(),
            tls: self.tls.clone(),
            remember_case,
            check: self.check,
        }
    }

    /// Forgets those to which none of `routes` leads.
    pub(super) fn keep_those_of(&mut self, routes: &[Arc<Route>]) {
        let used =
            |target: &Arc<Target>| routes.iter().any(|route| Arc::ptr_eq(&route.target, target));
        self.removed.retain(|target| target.strong_count() > 0);
        let unused = self.all.values().filter(|target| !used(target));
        self.removed.extend(unused.map(Arc::downgrade));
        self.all.retain(|_, target| used(target));
        self.clocks.retain(|origin, _| self.all.keys().any(|key| key.0 == *origin));
        self.tls.retain(|settings, _| self.all.keys().any(|key| key.1 == *settings));
    }

    /// Has workers give up the connections to those that are not in `self` any more.
    pub(super) fn mark_removed(&self) {
        for target in self.removed.iter().filter_map(Weak::upgrade) {
            target.removed.store(true, Ordering::Relaxed);
        }
    }

    /// The least number that no target has.
    fn free_number(&self) -> usize {
        let removed = self.removed.iter().filter_map(Weak::upgrade);
        let taken: HashSet<usize> =
            self.all.values().cloned().chain(removed).map(|target| target.id).collect();
        (0..).find(|number| !taken.contains(number)).unwrap_or(usize::MAX)
    }

    /// The target of a route.
    ///
    /// # Errors
    /// When TLS to it, or a proxy on the way, cannot be set up.
    pub(super) fn target(&mut self, route: &RouteConfig) -> Result<Arc<Target>, StartError> {
        let upstream = &route.upstream;
        let settings = route.connection.clone();
        let key =
            (upstream.origin.clone(), upstream.tls.clone(), settings.clone(), self.remember_case);
        if let Some(target) = self.all.get(&key) {
            return Ok(Arc::clone(target));
        }
        let tls = if upstream.origin.is_secure() { Some(self.tls(route)?) } else { None };
        let url = http::Uri::builder()
            .scheme(upstream.origin.scheme.clone())
            .authority(upstream.origin.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(std::io::Error::other)?;
        let proxy = match &settings.way {
            Way::Direct => None,
            Way::Environment => ForwardProxy::of_environment(&url)?,
            Way::Proxy(proxy) => Some(ForwardProxy::at(proxy)?),
        };
        let protocols: &[&[u8]] = match settings.http2 {
            Http2::Never => &[b"http/1.1"],
            Http2::Auto => &[b"h2", b"http/1.1"],
            Http2::Always => &[b"h2"],
        };
        let dialer = |protocols| {
            let tls = tls.as_ref().map(|tls| offering(tls, protocols));
            Dialer::new(&url, tls.as_ref(), proxy.clone(), settings.connect_timeout)
        };
        let unknown = || Arc::new(UpstreamClock::new(upstream.origin.authority.as_str()));
        let id = self.free_number();
        let clock = self.clocks.entry(upstream.origin.clone()).or_insert_with(unknown);
        let target = Arc::new(Target {
            clock: Arc::clone(clock),
            id,
            removed: AtomicBool::new(false),
            dialer: dialer(protocols)?,
            http1_dialer: dialer(&[b"http/1.1"])?,
            origin: upstream.origin.clone(),
            remember_case: self.remember_case,
            host: HeaderValue::from_str(upstream.origin.authority.as_str())
                .map_err(std::io::Error::other)?,
            settings,
        });
        self.all.insert(key, Arc::clone(&target));
        Ok(target)
    }

    fn tls(&mut self, route: &RouteConfig) -> Result<Arc<ClientConfig>, StartError> {
        let settings = &route.upstream.tls;
        if let Some(client) = self.tls.get(settings) {
            return Ok(Arc::clone(client));
        }
        let client = client_config(settings, self.check).map_err(|reason| StartError::Tls {
            what: format!("the route '{}'", route.name),
            reason,
        })?;
        self.tls.insert(settings.clone(), Arc::clone(&client));
        Ok(client)
    }
}
