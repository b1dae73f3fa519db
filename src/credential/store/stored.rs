//! [`Stored`]: a credential as a store keeps it.

use std::time::{Duration, SystemTime};

use crate::clock::Now;
use crate::credential::Credential;
use crate::credential::schedule::usable_guard;
use crate::values::Values;

/// How far the wall clock may seem to be behind the time when a token was fetched.
const TOLERANCE: Duration = Duration::from_mins(1);

/// A credential as it is stored: by the wall clock alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The values.
    pub values: Values,
    /// When it was fetched.
    pub fetched: SystemTime,
    /// When it ends; `None` if it does not.
    pub expires: Option<SystemTime>,
    /// The whole lifetime; `None` if it does not end.
    pub lifetime: Option<Duration>,
    /// How far the clock of the token endpoint was ahead of ours, if it said.
    pub clock_skew_ms: Option<i64>,
}

/// A credential that came out of a store.
#[derive(Debug)]
pub struct Restored {
    /// The credential, on the clocks of this process.
    pub credential: Credential,
    /// How long ago it was fetched.
    pub age: Duration,
    /// False if it has ended, or may have: of use for a renewal at most.
    pub usable: bool,
}

impl Stored {
    pub(super) fn of(credential: &Credential, now: Now) -> Self {
        Self {
            values: credential.values.clone(),
            fetched: now.wall,
            expires: credential.expires.map(|end| end.wall),
            lifetime: credential.lifetime,
            clock_skew_ms: credential.clock_skew_ms,
        }
    }

    /// The same, ended by all clocks.
    pub(super) fn refused(self, now: Now) -> Self {
        Self { expires: Some(now.wall), lifetime: Some(Duration::ZERO), ..self }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.lifetime == Some(Duration::ZERO)
    }

    /// The credential as of `now`. A wall clock that is behind the time when the token was fetched,
    /// as on a machine that lost it, does not tell whether it has ended, so it has if it ever does.
    pub fn restore(self, now: Now) -> Restored {
        let untrusted = now.wall + TOLERANCE < self.fetched;
        let left = self.expires.map(|end| {
            let left = end.duration_since(now.wall).unwrap_or_default();
            self.lifetime.map_or(left, |lifetime| left.min(lifetime))
        });
        let guard = self.lifetime.map(usable_guard).unwrap_or_default();
        let usable = left.is_none_or(|left| left > guard && !untrusted);
        Restored {
            credential: Credential {
                values: self.values,
                expires: left.map(|left| now.after(left)),
                lifetime: self.lifetime,
                clock_skew_ms: self.clock_skew_ms,
            },
            age: now.wall.duration_since(self.fetched).unwrap_or_default(),
            usable,
        }
    }
}
