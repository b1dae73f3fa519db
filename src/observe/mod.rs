//! What becomes of requests: counts and times per route, and the last requests one by one while
//! somebody looks.
//!
//! Data-plane threads only count here, in places of their own where that pays ([`route`]); whoever
//! looks does the work: the admin listener reads, and one task of the control plane closes an
//! interval every ten seconds ([`Observe::run`]). Nothing here keeps a value of a request but
//! [`recent`], and that for at most [`recent::HEEDED`] and an interval after somebody has looked.

pub mod latency;
pub mod recent;
pub mod route;
mod statuses;
pub mod times;
pub mod window;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Now};
use recent::Recent;
use route::RouteMetrics;
use window::{Intervals, View};

/// How long an interval is.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// What stands for the route in labels where a request has none. No route can be called that.
pub const NO_ROUTE: &str = "-";

/// Whose error an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Whose {
    /// It is none.
    #[default]
    Nobodys,
    /// Ours: a limit, a credential, a mistake.
    Ours,
    /// The upstream's: it cannot be reached, fails, or answers with an error itself.
    Upstreams,
    /// The caller's: what it asks for is refused here, or it went away.
    Callers,
}

impl Whose {
    /// In one word; empty for nobody's.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nobodys => "",
            Self::Ours => "ours",
            Self::Upstreams => "upstream",
            Self::Callers => "caller",
        }
    }
}

/// What a proxy has seen of requests.
#[derive(Debug)]
pub struct Observe {
    /// Requests in flight.
    pub in_flight: Padded,
    /// Of requests without a route.
    unrouted: Arc<RouteMetrics>,
    /// The last requests.
    pub recent: Recent,
    /// Of the routes, by name, as long as there is such a route or a request of it.
    routes: Mutex<BTreeMap<String, Weak<RouteMetrics>>>,
    intervals: Mutex<Intervals>,
}

/// A number that threads change all the time, away from what they only read.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Padded(pub AtomicUsize);

impl Observe {
    /// Of a proxy that starts `now`.
    pub fn new(now: Now) -> Self {
        Self {
            in_flight: Padded::default(),
            unrouted: Arc::new(RouteMetrics::new(NO_ROUTE.to_owned())),
            recent: Recent::new(now),
            routes: Mutex::default(),
            intervals: Mutex::new(Intervals::new(now)),
        }
    }

    /// What is counted of the route of that name. A route that replaces one of its name goes on
    /// with what that has counted.
    pub fn route(&self, name: &str) -> Arc<RouteMetrics> {
        let mut routes = self.routes();
        if let Some(known) = routes.get(name).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(RouteMetrics::new(name.to_owned()));
        routes.insert(name.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// What is counted of requests without a route.
    pub fn unrouted(&self) -> &Arc<RouteMetrics> {
        &self.unrouted
    }

    /// Everything that is counted, by the names of routes; [`NO_ROUTE`] first.
    pub fn all(&self) -> Vec<Arc<RouteMetrics>> {
        let mut routes = self.routes();
        // Those that nobody holds any more are gone.
        routes.retain(|_, route| route.strong_count() > 0);
        let routes = routes.values().filter_map(Weak::upgrade);
        std::iter::once(Arc::clone(&self.unrouted)).chain(routes).collect()
    }

    /// Closes an interval every [`INTERVAL`], and passes on the last requests, until told to
    /// `stop`. One at a time does; others wait for their turn.
    pub async fn run(self: Arc<Self>, clock: Clock, stop: CancellationToken) {
        let work = async {
            let mut queued = self.recent.queued().await;
            let mut due = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let close = async {
                loop {
                    due.tick().await;
                    self.close(clock.now());
                }
            };
            tokio::select! {
                () = close => {}
                () = self.recent.pump(&mut queued) => {}
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Closes the interval that is under way, `now`.
    pub fn close(&self, now: Now) {
        let all = self.all();
        let mut intervals = self.intervals();
        let closed = intervals.close(now);
        for route in all {
            route.window().close(closed, || route.totals());
        }
        drop(intervals);
        self.recent.forget(now.monotonic);
    }

    /// How many intervals are over.
    pub fn closed(&self) -> u64 {
        self.intervals().current()
    }

    /// What there is to see of `route`.
    pub fn view(&self, route: &RouteMetrics, now: Now) -> View {
        let intervals = self.intervals();
        let mut window = route.window();
        window.view(&intervals, now, route.in_flight(), || route.totals())
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<String, Weak<RouteMetrics>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn intervals(&self) -> MutexGuard<'_, Intervals> {
        self.intervals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
