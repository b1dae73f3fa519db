//! The switches that change how a stand-in behaves while it runs.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Kind;

mod failure;

pub use failure::{Failure, Offset, Period};

/// Recorded life of a twinzo token: 24 hours less 4 milliseconds.
const TOKEN_LIFETIME: Duration = Duration::from_millis(86_399_996);

/// Content accepted by default, in bytes.
const BODY_LIMIT: u64 = 128 * 1024 * 1024;

/// Why a switch was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchError {
    /// There is no such switch.
    UnknownKey(String),
    /// The switch does not take this value.
    BadValue {
        /// The switch.
        key: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(key) => {
                write!(f, "unknown key {key:?}; known keys: {}", Switches::KEYS.join(", "))
            }
            Self::BadValue { key, expected } => write!(f, "{key}: expected {expected}"),
        }
    }
}

impl std::error::Error for SwitchError {}

/// The switches of one stand-in, changeable while it runs, by these functions or over HTTP on the
/// control path.
#[derive(Debug, Default)]
pub struct Switches {
    settings: Mutex<Settings>,
    /// Tokens handed out in an earlier generation are revoked. This way the switches need not know
    /// the tokens.
    generation: AtomicU64,
}

#[derive(Clone, Debug)]
struct Settings {
    token_lifetime: Duration,
    token: Endpoints,
    data: Endpoints,
    clock_offset_ms: i64,
    refresh_supported: bool,
    body_limit: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Endpoints {
    latency: Duration,
    failure: Failure,
    times: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_lifetime: TOKEN_LIFETIME,
            token: Endpoints::default(),
            data: Endpoints::default(),
            clock_offset_ms: 0,
            refresh_supported: true,
            body_limit: BODY_LIMIT,
        }
    }
}

impl Switches {
    /// The keys that [`Switches::apply`] knows.
    pub const KEYS: [&str; 11] = [
        "body_limit",
        "clock_offset_ms",
        "data_failure",
        "data_failure_times",
        "data_latency_ms",
        "refresh_supported",
        "revoke",
        "token_failure",
        "token_failure_times",
        "token_latency_ms",
        "token_lifetime_ms",
    ];

    /// How long a token handed out from now on lives.
    pub fn token_lifetime(&self) -> Duration {
        self.lock().token_lifetime
    }

    /// Sets how long a token handed out from now on lives, in whole milliseconds.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.lock().token_lifetime = lifetime;
    }

    /// Sets how long the token endpoints wait before they answer.
    pub fn set_token_latency(&self, latency: Duration) {
        self.lock().token.latency = latency;
    }

    /// Sets how long all other endpoints wait before they answer.
    pub fn set_data_latency(&self, latency: Duration) {
        self.lock().data.latency = latency;
    }

    /// How the token endpoints fail at present.
    pub fn token_failure(&self) -> Failure {
        self.lock().token.failure
    }

    /// Makes the token endpoints fail, for the next `times` calls or until changed.
    pub fn fail_token_calls(&self, failure: Failure, times: Option<u64>) {
        self.lock().token.fail(failure, times);
    }

    /// How all other endpoints fail at present.
    pub fn data_failure(&self) -> Failure {
        self.lock().data.failure
    }

    /// Makes all other endpoints fail, for the next `times` calls or until changed.
    pub fn fail_data_calls(&self, failure: Failure, times: Option<u64>) {
        self.lock().data.fail(failure, times);
    }

    /// How far the stand-in's clock is ahead, in milliseconds.
    pub fn clock_offset_ms(&self) -> i64 {
        self.lock().clock_offset_ms
    }

    /// Sets the stand-in's clock ahead (or back, if negative). All of its times follow it: `Date`,
    /// the times it hands out, the end of tokens already handed out, and the check of a timestamp's
    /// age.
    pub fn set_clock_offset_ms(&self, offset: i64) {
        self.lock().clock_offset_ms = offset;
    }

    /// The stand-in's time, in Unix milliseconds.
    pub fn now_ms(&self) -> i64 {
        Timestamp::now().as_millisecond().saturating_add(self.clock_offset_ms())
    }

    /// Whether a token can be exchanged for a new one.
    pub fn refresh_supported(&self) -> bool {
        self.lock().refresh_supported
    }

    /// Sets whether a token can be exchanged for a new one.
    pub fn set_refresh_supported(&self, supported: bool) {
        self.lock().refresh_supported = supported;
    }

    /// The largest content accepted, in bytes; a request with more is answered with 413.
    pub fn body_limit(&self) -> u64 {
        self.lock().body_limit
    }

    /// Sets the largest content accepted, in bytes.
    pub fn set_body_limit(&self, bytes: u64) {
        self.lock().body_limit = bytes;
    }

    /// Revokes every token handed out so far.
    pub fn revoke_all(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Changes the switches named in `changes`: all of them, or none if one is wrong. A failure
    /// given without its number of times lasts until changed.
    ///
    /// # Errors
    /// If a key is unknown or a value does not fit.
    pub fn apply(&self, changes: &Map<String, Value>) -> Result<(), SwitchError> {
        let mut settings = self.lock();
        let mut next = settings.clone();
        let mut revoke = false;
        // Before the loop, as the order of the keys is not ours to rely on.
        if changes.contains_key("token_failure") {
            next.token.times = None;
        }
        if changes.contains_key("data_failure") {
            next.data.times = None;
        }
        for (key, value) in changes {
            match key.as_str() {
                "body_limit" => next.body_limit = number(key, value)?,
                "clock_offset_ms" => {
                    next.clock_offset_ms =
                        value.as_i64().ok_or_else(|| bad(key, "milliseconds, a whole number"))?;
                }
                "data_failure" => next.data.failure = failure(key, value)?,
                "data_failure_times" => next.data.times = times(key, value)?,
                "data_latency_ms" => next.data.latency = Duration::from_millis(number(key, value)?),
                "refresh_supported" => next.refresh_supported = truth(key, value)?,
                "revoke" => revoke = truth(key, value)?,
                "token_failure" => next.token.failure = failure(key, value)?,
                "token_failure_times" => next.token.times = times(key, value)?,
                "token_latency_ms" => {
                    next.token.latency = Duration::from_millis(number(key, value)?);
                }
                "token_lifetime_ms" => {
                    next.token_lifetime = Duration::from_millis(number(key, value)?);
                }
                _ => return Err(SwitchError::UnknownKey(key.clone())),
            }
        }
        *settings = next;
        drop(settings);
        if revoke {
            self.revoke_all();
        }
        Ok(())
    }

    /// The state of all switches, with the keys of [`Switches::apply`].
    pub fn to_json(&self) -> Value {
        let settings = self.lock().clone();
        json!({
            "body_limit": settings.body_limit,
            "clock_offset_ms": settings.clock_offset_ms,
            "data_failure": settings.data.failure.to_string(),
            "data_failure_times": settings.data.times,
            "data_latency_ms": whole_ms(settings.data.latency),
            "refresh_supported": settings.refresh_supported,
            "token_failure": settings.token.failure.to_string(),
            "token_failure_times": settings.token.times,
            "token_latency_ms": whole_ms(settings.token.latency),
            "token_lifetime_ms": whole_ms(settings.token_lifetime),
        })
    }

    /// The generation of tokens handed out now; earlier ones are revoked.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// How long to wait before answering a call of this kind.
    pub(super) fn latency(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Token => self.lock().token.latency,
            Kind::Data => self.lock().data.latency,
            Kind::Unknown => Duration::ZERO,
        }
    }

    /// How this call is to fail; counts it against the number of times.
    pub(super) fn take_failure(&self, kind: Kind) -> Failure {
        match kind {
            Kind::Token => self.lock().token.take(),
            Kind::Data => self.lock().data.take(),
            Kind::Unknown => Failure::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Endpoints {
    fn fail(&mut self, failure: Failure, times: Option<u64>) {
        self.failure = failure;
        self.times = times;
    }

    fn take(&mut self) -> Failure {
        let failure = self.failure;
        match self.times {
            None => return failure,
            Some(0) => {
                self.fail(Failure::None, None);
                return Failure::None;
            }
            Some(1) => self.fail(Failure::None, None),
            Some(left) => self.times = Some(left - 1),
        }
        failure
    }
}

/// A span of time as whole milliseconds, the largest number standing for anything longer.
pub(super) fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn bad(key: &str, expected: &'static str) -> SwitchError {
    SwitchError::BadValue { key: key.to_owned(), expected }
}

fn number(key: &str, value: &Value) -> Result<u64, SwitchError> {
    value.as_u64().ok_or_else(|| bad(key, "a whole number from 0"))
}

fn times(key: &str, value: &Value) -> Result<Option<u64>, SwitchError> {
    if value.is_null() {
        return Ok(None);
    }
    number(key, value).map(Some)
}

fn truth(key: &str, value: &Value) -> Result<bool, SwitchError> {
    value.as_bool().ok_or_else(|| bad(key, "true or false"))
}

fn failure(key: &str, value: &Value) -> Result<Failure, SwitchError> {
    value.as_str().unwrap_or_default().parse().map_err(|error| match error {
        SwitchError::BadValue { expected, .. } => bad(key, expected),
        SwitchError::UnknownKey(_) => error,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn apply(switches: &Switches, changes: Value) -> Result<(), SwitchError> {
        let Value::Object(changes) = changes else {
            unreachable!("the tests pass objects");
        };
        switches.apply(&changes)
    }

    #[test]
    fn a_failure_with_a_number_of_times_ends_by_itself() {
        let switches = Switches::default();
        switches.fail_token_calls(Failure::ServerError, Some(2));
        assert_eq!(switches.take_failure(Kind::Data), Failure::None);
        assert_eq!(switches.take_failure(Kind::Token), Failure::ServerError);
        assert_eq!(switches.take_failure(Kind::Token), Failure::ServerError);
        assert_eq!(switches.take_failure(Kind::Token), Failure::None);
        assert_eq!(switches.token_failure(), Failure::None);

        switches.fail_data_calls(Failure::Hang, None);
        assert_eq!(switches.take_failure(Kind::Data), Failure::Hang);
        assert_eq!(switches.data_failure(), Failure::Hang);
    }

    #[test]
    fn changes_over_json_are_applied_together_or_not_at_all() {
        let switches = Switches::default();
        let changes = json!({
            "token_lifetime_ms": 5000,
            "token_failure": "server_error",
            "token_failure_times": 2,
        });
        apply(&switches, changes).unwrap();
        assert_eq!(switches.token_lifetime(), Duration::from_secs(5));
        assert_eq!(switches.to_json()["token_failure_times"], 2);

        let error = apply(&switches, json!({"token_lifetime_ms": 1, "zeal": 1})).unwrap_err();
        assert_eq!(error, SwitchError::UnknownKey("zeal".to_owned()));
        assert!(error.to_string().contains("token_lifetime_ms"));
        let error =
            apply(&switches, json!({"data_failure": "server_error", "token_lifetime_ms": -1}))
                .unwrap_err();
        assert!(error.to_string().starts_with("token_lifetime_ms"));
        assert_eq!(switches.token_lifetime(), Duration::from_secs(5));
        assert_eq!(switches.data_failure(), Failure::None);
    }

    #[test]
    fn a_new_failure_forgets_the_number_of_times_of_the_old_one() {
        let switches = Switches::default();
        switches.fail_data_calls(Failure::Garbage, Some(1));
        apply(&switches, json!({"data_failure": "empty_ok"})).unwrap();
        assert!(switches.to_json()["data_failure_times"].is_null());
    }

    #[test]
    fn every_key_but_the_action_is_reported_back() {
        let state = Switches::default().to_json();
        for key in Switches::KEYS {
            assert_eq!(state.get(key).is_some(), key != "revoke", "{key}");
        }
    }

    #[test]
    fn revoking_starts_a_new_generation() {
        let switches = Switches::default();
        apply(&switches, json!({"revoke": false})).unwrap();
        assert_eq!(switches.generation(), 0);
        apply(&switches, json!({"revoke": true})).unwrap();
        assert_eq!(switches.generation(), 1);
    }
}
