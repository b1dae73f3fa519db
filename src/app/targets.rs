//! Upstreams as workers see them, shared by the routes that lead to one place.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use crate::config::{ConnectionSettings, Origin, RouteConfig, Way};
use crate::connect::{Dialer, ForwardProxy};
use crate::permissions::Check;
use crate::proxy::Route;
use crate::proxy::upstream::{HTTP_1, Target, UpstreamClock};
use crate::tls::{RenewedTls, TlsSettings, offering};

/// Targets by what they consist of: routes to one place share their connections.
#[derive(Debug)]
pub(super) struct Targets {
    all: HashMap<Key, Arc<Target>>,
    /// Those to which no route leads any more, as long as a request does.
    removed: Vec<Weak<Target>>,
    clocks: HashMap<Origin, Arc<UpstreamClock>>,
    tls: HashMap<TlsSettings, Arc<RenewedTls>>,
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

    /// Looks at the files of TLS to all of them again and again until stopped, and uses what is new
    /// for connections from then on.
    pub(super) fn watch(&self, every: Duration, stop: &CancellationToken, tracker: &TaskTracker) {
        for (settings, tls) in self.tls.iter().filter(|(_, tls)| tls.has_files()) {
            let targets = self.all.iter().filter(|(key, _)| key.1 == *settings);
            let targets = targets.map(|(_, target)| Arc::downgrade(target)).collect();
            tracker.spawn(follow(Arc::clone(tls), targets, every, stop.clone()));
        }
    }

    /// The least number that no target has.
    fn free_number(&self) -> usize {
        let removed = self.removed.iter().filter_map(Weak::upgrade);
        let taken: HashSet<usize> =
            self.all.values().cloned().chain(removed).map(|target| target.id).collect();
        // One more number than are taken holds one that is not.
        (0..=taken.len()).find(|number| !taken.contains(number)).unwrap_or_default()
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
        let protocols = Target::protocols(&settings);
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
            http1_dialer: dialer(HTTP_1)?,
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
        if let Some(tls) = self.tls.get(settings) {
            return Ok(tls.last());
        }
        let tls = RenewedTls::new(settings.clone(), self.check);
        let tls = tls.map_err(|reason| StartError::Tls {
            what: format!("the route '{}'", route.name),
            reason,
        })?;
        let config = tls.last();
        self.tls.insert(settings.clone(), Arc::new(tls));
        Ok(config)
    }
}

async fn follow(
    tls: Arc<RenewedTls>,
    targets: Vec<Weak<Target>>,
    every: Duration,
    stop: CancellationToken,
) {
    // Not even the last one: a target that is new may have been made with the one before.
    let mut used = None;
    loop {
        let now = tokio::select! {
            now = tls.now() => now,
            () = stop.cancelled() => return,
        };
        if used.as_ref().is_none_or(|used| !Arc::ptr_eq(&now, used)) {
            for target in targets.iter().filter_map(Weak::upgrade) {
                target.renew_tls(&now);
            }
            used = Some(now);
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    /// Routes to these upstreams, by what was there before.
    fn next(before: &Targets, upstreams: &[&str]) -> (Targets, Vec<Arc<Route>>) {
        let routes = upstreams.iter().enumerate().map(|(number, upstream)| {
            format!("[[route]]\npath = \"/{number}\"\nupstream = \"http://{upstream}.test\"\n")
        });
        let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
        let text = listen.to_owned() + &routes.collect::<Vec<_>>().concat();
        let config = load(&text, &|_| None).config.unwrap();
        let mut targets = before.next(false);
        let routes: Vec<_> = config
            .routes
            .iter()
            .map(|route| {
                let target = targets.target(route).unwrap();
                Arc::new(Route::new(route.clone(), target, Vec::new()))
            })
            .collect();
        targets.keep_those_of(&routes);
        targets.mark_removed();
        (targets, routes)
    }

    #[test]
    fn a_target_stays_itself_and_no_two_that_are_there_have_one_number() {
        let none = Targets::new(false, Check::Strict);
        let (one, first) = next(&none, &["a", "b"]);
        let numbers = |routes: &[Arc<Route>]| -> Vec<usize> {
            routes.iter().map(|route| route.target.id).collect()
        };
        assert_eq!(numbers(&first), [0, 1]);
        let (two, second) = next(&one, &["c", "b", "d"]);
        assert!(Arc::ptr_eq(&first[1].target, &second[1].target));
        assert!(Arc::ptr_eq(&first[1].target.clock, &second[1].target.clock));
        assert!(first[0].target.removed.load(Ordering::Relaxed));
        assert!(!first[1].target.removed.load(Ordering::Relaxed));
        // A request is still under way to the first.
        assert_eq!(numbers(&second), [2, 1, 3]);
        drop((one, first));
        let (_, third) = next(&two, &["b", "e"]);
        assert_eq!(numbers(&third), [1, 0], "its number is free again");
        // What was gone is another one when it comes back.
        let (_, fourth) = next(&two, &["a"]);
        assert!(!fourth[0].target.removed.load(Ordering::Relaxed));
    }
}
