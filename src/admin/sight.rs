//! What the admin listener has to show, where it comes from, and how it is put: seconds as numbers,
//! exact to a millisecond.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::clock::{Clock, Now};
use crate::config::{CredentialConfig, SourceSpec};
use crate::credential::devices::Fleet;
use crate::proxy::upstream::UpstreamClock;
use crate::proxy::{Identity, Proxy};

/// A credential as the admin listener knows it.
#[derive(Debug)]
pub struct Known {
    /// What requests use.
    pub identity: Arc<Identity>,
    /// Its kind, as the configuration says it.
    pub kind: String,
    /// Where its values come from: "fixed", "login" or "oauth".
    pub source: &'static str,
    /// True if it is fetched at start.
    pub eager: bool,
    /// How it is fetched for devices, if it has any.
    pub fleet: Option<Fleet>,
}

impl Known {
    /// `identity` is what requests use of `credential`.
    pub fn of(credential: &CredentialConfig, identity: &Arc<Identity>) -> Self {
        Self {
            identity: Arc::clone(identity),
            kind: credential.kind.clone(),
            source: match &credential.source {
                SourceSpec::Fixed(_) => "fixed",
                SourceSpec::Login(_) => "login",
                SourceSpec::Oauth(_) => "oauth",
            },
            eager: credential.refresh.eager,
            fleet: credential.devices.as_ref().map(|devices| devices.fleet),
        }
    }
}

/// Everything that can be seen. Holds no secret that it would show.
#[derive(Debug)]
pub struct Sight {
    /// The credentials, in the order of the configuration.
    credentials: ArcSwap<Vec<Arc<Known>>>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) clock: Clock,
    pub(super) started: Now,
}

impl Sight {
    /// Of a program that starts now.
    pub fn new(credentials: Vec<Known>, proxy: Arc<Proxy>, clock: Clock) -> Self {
        let started = clock.now();
        let sight = Self { credentials: ArcSwap::default(), proxy, clock, started };
        sight.show(credentials);
        sight
    }

    /// Shows these credentials from now on.
    pub fn show(&self, credentials: Vec<Known>) {
        self.credentials.store(Arc::new(credentials.into_iter().map(Arc::new).collect()));
    }

    /// The credentials, in the order of the configuration.
    pub(super) fn credentials(&self) -> Arc<Vec<Arc<Known>>> {
        self.credentials.load_full()
    }

    /// The credential of that name.
    pub(super) fn credential(&self, name: &str) -> Option<Arc<Known>> {
        self.credentials().iter().find(|known| known.identity.name == name).cloned()
    }

    /// The clocks that signatures follow, each once, by the upstream's origin.
    pub(super) fn clocks(&self) -> Vec<(String, Arc<UpstreamClock>)> {
        let snapshot = self.proxy.snapshot.load();
        let mut clocks: Vec<(String, Arc<UpstreamClock>)> = Vec::new();
        for route in &snapshot.routes {
            let Some(clock) = &route.clock else { continue };
            if !clocks.iter().any(|(_, other)| Arc::ptr_eq(clock, other)) {
                clocks.push((route.target.origin.to_string(), Arc::clone(clock)));
            }
        }
        clocks
    }
}

/// Seconds, exact to a millisecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// Milliseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "exact to a millisecond for 200,000 years")]
pub(super) fn ms_as_seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}
