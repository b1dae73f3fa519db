//! What the admin listener has to show, where it comes from, and how it is put: seconds as numbers,
//! exact to a millisecond.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderName;

use crate::clock::{Clock, Now};
use crate::config::{CredentialConfig, ListenerConfig, SourceSpec};
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
    /// The fields that it sets and that hold no secret.
    pub open: Vec<HeaderName>,
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
            open: credential.scheme.sets_openly(&[]),
            fleet: credential.devices.as_ref().map(|devices| devices.fleet),
        }
    }
}

/// Everything that can be seen. Holds no secret that it would show.
#[derive(Debug)]
pub struct Sight {
    shown: ArcSwap<Shown>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) clock: Clock,
    pub(super) started: Now,
}

/// What another configuration changes.
#[derive(Debug, Default)]
struct Shown {
    /// In the order of the configuration.
    credentials: Arc<Vec<Arc<Known>>>,
    /// Where requests come in.
    listeners: Vec<ListenerConfig>,
}

impl Sight {
    /// Of a program that starts now.
    pub fn new(proxy: Arc<Proxy>, clock: Clock) -> Self {
        let started = clock.now();
        Self { shown: ArcSwap::default(), proxy, clock, started }
    }

    /// Shows these credentials from now on, and these places where requests come in.
    pub fn show(&self, credentials: Vec<Known>, listeners: Vec<ListenerConfig>) {
        let credentials = Arc::new(credentials.into_iter().map(Arc::new).collect());
        self.shown.store(Arc::new(Shown { credentials, listeners }));
    }

    /// The credentials, in the order of the configuration.
    pub(super) fn credentials(&self) -> Arc<Vec<Arc<Known>>> {
        Arc::clone(&self.shown.load().credentials)
    }

    /// Where requests come in.
    pub(super) fn listeners(&self) -> Vec<ListenerConfig> {
        self.shown.load().listeners.clone()
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
