//! The moment of going over to another configuration: what is new begins, and has what it needs;
//! then all is exchanged; what is gone ends once its last request is over.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Now;
use super::keepers::Nursery;
use super::parts::Part;
use super::reload::{Next, Place, Reloader};
use super::restart::pairs;
use crate::config::CredentialConfig;
use crate::control::Refusal;
use crate::credential::cache::Unavailable;
use crate::proxy::Route;
use crate::proxy::identity::Cache;
use crate::stamp::POLL_INTERVAL;
use crate::telemetry;

/// How often is looked whether the last request of what is gone is over.
const LOOK: Duration = Duration::from_millis(100);
/// How often is looked for a credential that requests do not wait for.
const SOON: Duration = Duration::from_millis(20);
/// What the first attempt to fetch a credential may take beside its time limit.
const SPARE: Duration = Duration::from_secs(1);

impl Reloader {
    /// Goes over to `next`, once the credentials that are fetched at start are there.
    ///
    /// # Errors
    /// When one of them is not. Nothing has changed then.
    pub(super) async fn exchange(&mut self, next: Next) -> Result<(), Vec<Refusal>> {
        let Next { parts, starting, tls } = next;
        let mut begun = Begun(Vec::new());
        for starting in starting {
            let stop = starting.part.stop.clone();
            let (tracker, watch, runs) = (&self.tracker, &self.watch, &starting.part.runs);
            (starting.start)(&Nursery { tracker, watch, stop: &stop, runs });
            begun.0.push(starting.part);
        }
        let waiting = join_all(begun.0.iter().map(first)).await;
        let problems: Vec<Refusal> = waiting.into_iter().filter_map(Result::err).collect();
        if !problems.is_empty() {
            self.ending.extend(begun.0.iter().map(Ending::of));
            return Err(problems);
        }
        begun.0.clear();
        self.go_over(parts, tls);
        Ok(())
    }

    /// Exchanges everything. Nothing here waits or fails.
    fn go_over(
        &mut self,
        parts: super::parts::Parts,
        tls: Vec<Option<Arc<crate::server::tls::ListenerTls>>>,
    ) {
        let before = std::mem::replace(&mut self.parts, parts);
        let parts = &self.parts;
        parts.secrets.publish();
        let (paired, _) = pairs(&before.config.listeners, &parts.config.listeners);
        let mut places: Vec<Option<Place>> =
            std::mem::take(&mut self.places).into_iter().map(Some).collect();
        for ((listener, pair), tls) in parts.config.listeners.iter().zip(paired).zip(tls) {
            let place = pair.and_then(|pair| places.get_mut(pair)).and_then(Option::take);
            let Some(mut place) = place else { continue };
            let had = place.settings.load().tls.clone();
            let same = match (&had, &tls) {
                (Some(had), Some(tls)) => Arc::ptr_eq(had, tls),
                (None, None) => true,
                _ => false,
            };
            if !same {
                place.tls_stop.cancel();
                place.tls_stop = self.ground.stop.child_token();
                if let Some(tls) = &tls {
                    let watching = Arc::clone(tls).watch(POLL_INTERVAL, place.tls_stop.clone());
                    self.tracker.spawn(watching);
                }
            }
            let settings = parts.settings(listener, place.bound, tls);
            place.settings.store(Arc::new(settings));
            self.places.push(place);
        }
        self.removed.retain(|route| route.strong_count() > 0);
        let removed = self.proxy.replace(parts.snapshot());
        self.removed.extend(removed.iter().map(Arc::downgrade));
        drop(removed);
        if let (Some(admin), Some(config)) = (&self.admin, &parts.config.admin) {
            let bound = self.places.iter().map(|place| place.bound);
            let (secrets, listeners) = (Arc::clone(&parts.secrets), parts.listeners(bound));
            admin.go_over(config.clone(), secrets, parts.known(), listeners);
        }
        self.now.store(Arc::new(Now::of(parts)));
        telemetry::reconfigure(&parts.config.log);
        parts.targets.mark_removed();
        self.tls_stop.cancel();
        self.tls_stop = self.ground.stop.child_token();
        parts.targets.watch(POLL_INTERVAL, &self.tls_stop, &self.tracker);
        self.broom.sweep();
        self.watch_secrets();
        let stays = |part: &Part| {
            let mut all = self.parts.credentials.iter();
            all.any(|other| Arc::ptr_eq(&other.identity, &part.identity))
        };
        for part in before.credentials.iter().filter(|part| !stays(part)) {
            self.ending.push(Ending::of(part));
            // Whatever was removed when: its requests may still need it.
            let uses = |route: &Arc<Route>| {
                route.identities.iter().any(|identity| Arc::ptr_eq(identity, &part.identity))
            };
            let routes =
                self.removed.iter().filter(|route| route.upgrade().is_some_and(|r| uses(&r)));
            let (routes, gone) = (routes.cloned().collect(), part.stop.clone());
            let (drain, stop) = (before.config.drain, self.ground.stop.clone());
            self.tracker.spawn(retire(routes, gone, drain, stop));
        }
    }

    /// Has the files of the secrets that there are now read again, once nobody reads the others.
    fn watch_secrets(&mut self) {
        let stop = self.ground.stop.child_token();
        let watching = Arc::clone(&self.parts.secrets).watch(POLL_INTERVAL, stop.clone());
        let (before, other) =
            std::mem::replace(&mut self.secrets, (stop, tokio::spawn(std::future::ready(()))));
        before.cancel();
        self.secrets.1 = self.tracker.spawn(async move {
            // What it reads at last is older than what is read from now on.
            let _ = other.await;
            watching.await;
        });
    }
}

/// A credential that is gone, and may still be kept for requests in flight.
#[derive(Debug)]
pub(super) struct Ending {
    config: CredentialConfig,
    runs: Weak<()>,
}

impl Ending {
    fn of(part: &Part) -> Self {
        Self { config: part.config.clone(), runs: Arc::downgrade(&part.runs) }
    }

    /// What it was configured to, as long as it is kept.
    pub(super) fn kept(&self) -> Option<&CredentialConfig> {
        (self.runs.strong_count() > 0).then_some(&self.config)
    }
}

/// New credentials that nothing uses yet: they end when this is dropped.
struct Begun(Vec<Part>);

impl Drop for Begun {
    fn drop(&mut self) {
        for part in &self.0 {
            part.stop.cancel();
        }
    }
}

/// Waits for the first token of a credential that is fetched at start.
///
/// # Errors
/// When the first attempt fails, or takes too long.
async fn first(part: &Part) -> Result<(), Refusal> {
    let config = &part.config;
    let waits = config.source.is_fetched()
        && config.refresh.eager
        // Nobody knows when a person logs in, and devices are fetched when they call.
        && !config.source.needs_a_person();
    let Cache::One(cache) = &part.identity.cache else { return Ok(()) };
    if !waits {
        return Ok(());
    }
    let give_up_at = Instant::now() + config.refresh.timeout + SPARE;
    let fetched = async {
        loop {
            match cache.get().await {
                // A request would have waited less long, perhaps not at all.
                Err(Unavailable::Waiting(_)) => tokio::time::sleep(SOON).await,
                other => return other,
            }
        }
    };
    let reason = match tokio::time::timeout_at(give_up_at, fetched).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(Unavailable::Failed { error, .. })) => error.to_string(),
        Ok(Err(other @ Unavailable::Waiting(_))) => other.to_string(),
        Err(_) => format!("it takes over {} s", config.refresh.timeout.as_secs_f64()),
    };
    Err(Refusal::new(format!("the credential '{}' cannot be fetched: {reason}", config.name)))
}

/// Ends what keeps a credential fresh once the last request of the routes that are gone is over, which
/// may still need it, or after `drain`. Where tokens are stored, the next one of its name may renew what
/// is stored at the same time: either can do without, see [`needed`](super::restart::needed).
async fn retire(
    routes: Vec<Weak<Route>>,
    gone: CancellationToken,
    drain: Duration,
    stop: CancellationToken,
) {
    let over = async {
        while routes.iter().any(|route| route.strong_count() > 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(drain, over) => {}
        () = stop.cancelled() => {}
    }
    gone.cancel();
}
