//! `GET /api/status`: the state of everything, as JSON.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::devices::{Counts, Shown};
use super::reload::Shown as Reload;
use super::sight::{Known, Sight, ms_as_seconds, seconds};
use crate::clock::Now;
use crate::control::Control;
use crate::credential::devices::sight::Overview;
use crate::observe::window::View;
use crate::proxy::Route;
use crate::proxy::identity::Cache;
use crate::telemetry;

/// The answer.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_s: f64,
    /// What `/readyz` says, and why it says no.
    ready: bool,
    not_ready_because: Option<String>,
    in_flight: usize,
    routes: Vec<Routed>,
    /// Of requests without a route.
    unrouted: View,
    credentials: Vec<Credential>,
    upstreams: Vec<Upstream>,
    /// The last reload of the configuration; null if there was none.
    reload: Option<Reload>,
    /// Null where something else than the program's own logging is in use.
    log: Option<telemetry::State>,
    /// Null where nothing is traced.
    trace: Option<Trace>,
}

/// A route, and what is seen of its requests.
#[derive(Debug, Serialize)]
struct Routed {
    name: String,
    /// Null for any.
    host: Option<String>,
    path: String,
    upstream: String,
    /// Empty for all.
    methods: Vec<String>,
    credentials: Vec<String>,
    /// What says which device a caller is; null if nobody asks.
    identity: Option<String>,
    #[serde(flatten)]
    seen: View,
}

#[derive(Debug, Serialize)]
struct Trace {
    /// Requests since the start.
    exported: u64,
    dropped: u64,
    waiting: usize,
    /// True while the collector takes nothing.
    failing: bool,
}

#[derive(Debug, Serialize)]
struct Credential {
    name: String,
    kind: String,
    source: &'static str,
    state: &'static str,
    /// Whether requests fail for want of it; null if none do.
    trouble: Option<Trouble>,
    /// How long the current one is still good; null if there is none or it does not end.
    expires_in_s: Option<f64>,
    /// True if there is one that may be sent.
    usable: bool,
    /// How long the current one was good when it came here; null if it does not end.
    issued_lifetime_s: Option<f64>,
    /// How much of that is left, from 0 to 1.
    lifetime_left_share: Option<f64>,
    /// When it is to be renewed; null if that is not planned, or another attempt is.
    renew_in_s: Option<f64>,
    /// When the next attempt is due, if one is.
    next_attempt_in_s: Option<f64>,
    /// Attempts that failed since the last success.
    failures: u32,
    /// Why the last attempt failed; null if it did not.
    error: Option<String>,
    error_word: Option<&'static str>,
    last_renewal: Option<Renewal>,
    clock_skew_s: Option<f64>,
    replays: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Devices>,
}

/// How many of those who need a credential do without: the one rule for whoever shows or judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Trouble {
    /// Not all yet: what is there still serves, or most of the devices have theirs.
    Some,
    /// All of them.
    All,
}

impl Trouble {
    /// Of one credential for all callers.
    fn of_one(failing: bool, usable: bool) -> Option<Self> {
        failing.then_some(if usable { Self::Some } else { Self::All })
    }

    /// Of devices. `closed`: nobody may log in at the moment.
    fn of_devices(counts: &Counts, closed: bool) -> Option<Self> {
        let Counts { known, fresh, renewing, failing, refused, idle } = *counts;
        let bad = failing + refused;
        // Whoever is idle or waits has not failed.
        let others = fresh + renewing + idle;
        if (closed && fresh == 0) || (others == 0 && bad > 0) {
            Some(Self::All)
        } else if closed || bad * 20 > known.saturating_sub(idle) {
            Some(Self::Some)
        } else {
            None
        }
    }
}

#[derive(Debug, Serialize)]
struct Renewal {
    ago_s: f64,
    took_s: f64,
}

#[derive(Debug, Serialize)]
struct Devices {
    counts: Counts,
    login_queue: usize,
    logins_in_flight: usize,
    max_concurrent_logins: usize,
    /// Null where nobody is asked, so that nobody has to be spared.
    max_logins_per_second: Option<f64>,
    gate: Option<Gate>,
    renewals: Renewals,
    /// Those that fail the longest.
    failing: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Gate {
    closed_for_s: f64,
    error: String,
}

#[derive(Debug, Serialize)]
struct Renewals {
    within_1m: usize,
    within_5m: usize,
    within_15m: usize,
    soonest: Vec<Soon>,
}

#[derive(Debug, Serialize)]
struct Soon {
    device: String,
    in_s: f64,
}

#[derive(Debug, Serialize)]
struct Upstream {
    #[serde(rename = "upstream")]
    origin: String,
    /// How far its clock is ahead; null until enough answers agree.
    clock_skew_s: Option<f64>,
    /// By how much times in signatures are corrected.
    corrected_s: f64,
    retries: u64,
}

impl Status {
    /// What `sight` sees. Looks at every device.
    pub(super) fn of(sight: &Sight, control: &Control, not_ready_because: Option<String>) -> Self {
        let now = sight.clock.now();
        let clocks = sight.clocks();
        let upstreams = clocks.into_iter().map(|(origin, clock)| Upstream {
            origin,
            clock_skew_s: clock.skew_ms().map(ms_as_seconds),
            corrected_s: ms_as_seconds(clock.correction_ms()),
            retries: clock.retries(),
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: seconds(now.monotonic - sight.started.monotonic),
            ready: not_ready_because.is_none(),
            not_ready_because,
            in_flight: sight.proxy.in_flight(),
            routes: Routed::all(sight, now),
            unrouted: sight.proxy.observe().view(sight.proxy.observe().unrouted(), now),
            credentials: sight
                .credentials()
                .iter()
                .map(|known| Credential::of(known, now))
                .collect(),
            upstreams: upstreams.collect(),
            reload: control.last_reload().map(|reload| Reload::of(&reload, now.wall)),
            log: telemetry::state(),
            trace: sight.proxy.tracer().map(|tracer| Trace {
                exported: tracer.exported(),
                dropped: tracer.dropped(),
                waiting: tracer.waiting(),
                failing: tracer.is_failing(),
            }),
        }
    }
}

impl Status {
    /// Leaves out what came in past intervals, for who knows it already.
    pub(super) fn leave_out_history(&mut self) {
        for route in &mut self.routes {
            route.seen.history = None;
        }
    }
}

impl Routed {
    /// The routes that are served, in the order of the configuration.
    fn all(sight: &Sight, now: Now) -> Vec<Self> {
        let snapshot = sight.proxy.snapshot.load_full();
        let observe = sight.proxy.observe();
        let route = |route: &Arc<Route>| {
            let config = &route.config;
            let credentials = route.identities.iter();
            Self {
                name: config.name.clone(),
                host: config.host.clone(),
                path: if config.prefix.is_empty() { "/" } else { &config.prefix }.to_owned(),
                upstream: config.upstream.to_string(),
                methods: config.methods.iter().map(ToString::to_string).collect(),
                credentials: credentials.map(|identity| identity.name.clone()).collect(),
                identity: config.identity.as_ref().map(ToString::to_string),
                seen: observe.view(route.metrics(), now),
            }
        };
        snapshot.routes.iter().map(route).collect()
    }
}

impl Credential {
    fn of(known: &Known, now: Now) -> Self {
        let cache = &known.identity.cache;
        let recorded = cache.record().read();
        let mut credential = Self {
            name: known.identity.name.clone(),
            kind: known.kind.clone(),
            source: known.source,
            state: "waiting",
            trouble: None,
            expires_in_s: None,
            usable: false,
            issued_lifetime_s: None,
            lifetime_left_share: None,
            renew_in_s: None,
            next_attempt_in_s: None,
            failures: recorded.failures,
            error: None,
            error_word: None,
            last_renewal: recorded.last.map(|last| Renewal {
                ago_s: seconds(now.wall.duration_since(last.at).unwrap_or_default()),
                took_s: seconds(last.took),
            }),
            clock_skew_s: recorded.skew_ms.map(ms_as_seconds),
            replays: recorded.replays,
            devices: None,
        };
        match cache {
            Cache::One(cache) => {
                let state = cache.state();
                credential.state = match &state.failure {
                    Some(failure) if failure.error.is_refusal() => "refused",
                    Some(_) => "failing",
                    None if state.renewing => "renewing",
                    None if state.usable => "fresh",
                    None => "waiting",
                };
                let left = |end: crate::clock::Deadline| seconds(end.remaining(now));
                credential.expires_in_s = state.expires.map(left);
                credential.usable = state.usable;
                credential.trouble = Trouble::of_one(state.failure.is_some(), state.usable);
                credential.issued_lifetime_s = state.lifetime.map(seconds);
                let share =
                    |(lifetime, left): (f64, f64)| (lifetime > 0.0).then(|| left / lifetime);
                let both = credential.issued_lifetime_s.zip(credential.expires_in_s);
                credential.lifetime_left_share = both.and_then(share).map(|share| share.min(1.0));
                credential.next_attempt_in_s = recorded.next.filter(|_| !state.renewing).map(left);
                let planned = state.usable && state.expires.is_some() && state.failure.is_none();
                credential.renew_in_s = credential.next_attempt_in_s.filter(|_| planned);
                credential.error = state.failure.as_ref().map(|failure| failure.error.to_string());
                credential.error_word = state.failure.map(|failure| failure.error.word());
            }
            Cache::Devices(pool) => {
                let overview = pool.overview();
                let counts = Counts::from(overview.census);
                credential.usable = counts.fresh > 0;
                let closed = overview.closed.is_some();
                credential.state = counts.state(closed);
                credential.trouble = Trouble::of_devices(&counts, closed);
                if let Some((closed, _)) = &overview.closed {
                    credential.error = Some(closed.error.to_string());
                    credential.error_word = Some(closed.error.word());
                }
                let fleet = known.fleet.unwrap_or_default();
                credential.devices = Some(Devices {
                    login_queue: recorded.queue,
                    logins_in_flight: recorded.in_flight,
                    max_concurrent_logins: fleet.max_concurrent_logins,
                    max_logins_per_second: known
                        .identity
                        .renewable
                        .then_some(fleet.max_logins_per_second),
                    ..Devices::of(counts, overview)
                });
            }
        }
        credential
    }
}

impl Devices {
    fn of(counts: Counts, overview: Overview) -> Self {
        let [one, five, fifteen] = overview.within;
        let soonest = overview.soonest.into_iter();
        let soon = |(device, left): (String, Duration)| Soon { device, in_s: seconds(left) };
        Self {
            counts,
            login_queue: 0,
            logins_in_flight: 0,
            max_concurrent_logins: 0,
            max_logins_per_second: None,
            gate: overview.closed.map(|(closed, left)| Gate {
                closed_for_s: seconds(left),
                error: closed.error.to_string(),
            }),
            renewals: Renewals {
                within_1m: one,
                within_5m: five,
                within_15m: fifteen,
                soonest: soonest.map(soon).collect(),
            },
            failing: overview.failing.into_iter().map(Shown::from).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(fresh: usize, failing: usize, refused: usize, idle: usize) -> Counts {
        let known = fresh + failing + refused + idle;
        Counts { known, fresh, renewing: 0, failing, refused, idle }
    }

    #[test]
    fn one_credential_is_in_trouble_while_its_last_attempt_failed() {
        assert_eq!(Trouble::of_one(false, false), None, "nobody has needed it yet");
        assert_eq!(Trouble::of_one(false, true), None);
        assert_eq!(Trouble::of_one(true, true), Some(Trouble::Some), "the one from before serves");
        assert_eq!(Trouble::of_one(true, false), Some(Trouble::All));
    }

    #[test]
    fn devices_are_in_trouble_by_how_many_of_them_do_without() {
        let of = |counts: Counts| Trouble::of_devices(&counts, false);
        assert_eq!(of(counts(0, 10, 0, 0)), Some(Trouble::All), "10 of 10 failing");
        assert_eq!(of(counts(0, 0, 10, 0)), Some(Trouble::All), "10 of 10 refused");
        assert_eq!(of(counts(0, 0, 1, 9)), Some(Trouble::Some), "nobody asks for the others");
        assert_eq!(of(counts(9_999, 0, 1, 0)), None, "1 of 10,000");
        assert_eq!(of(counts(19, 1, 0, 0)), None, "one in twenty");
        assert_eq!(of(counts(18, 1, 0, 50)), Some(Trouble::Some), "one in nineteen");
        assert_eq!(of(counts(10, 0, 0, 3)), None);
        assert_eq!(of(counts(0, 0, 0, 0)), None, "an empty file");
        let waits = Counts { renewing: 1, known: 2, ..counts(0, 1, 0, 0) };
        assert_eq!(of(waits), Some(Trouble::Some), "one waits for its login");
    }

    #[test]
    fn a_closed_gate_is_trouble_for_all_if_nobody_has_a_token() {
        let of = |counts: Counts| Trouble::of_devices(&counts, true);
        assert_eq!(of(counts(10, 0, 0, 0)), Some(Trouble::Some), "those with a token are served");
        assert_eq!(of(counts(0, 0, 0, 10)), Some(Trouble::All));
        assert_eq!(of(counts(0, 3, 0, 7)), Some(Trouble::All));
    }

    #[test]
    fn trouble_is_told_in_a_word() {
        let words = serde_json::to_string(&[None, Some(Trouble::Some), Some(Trouble::All)]);
        assert_eq!(words.unwrap(), r#"[null,"some","all"]"#);
    }
}
