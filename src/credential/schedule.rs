//! When to renew and when to try again: pure functions of lifetimes, failures and a random share.

use std::time::Duration;

use super::FetchError;

const MINUTE: Duration = Duration::from_mins(1);

/// The longest wait after a failure that is not a refusal.
pub const MAX_BACKOFF: Duration = MINUTE;
/// The longest `Retry-After` that is believed.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);
/// The wait after a refusal: accounts lock when a wrong password is tried again and again.
pub const REFUSAL_PAUSE: Duration = Duration::from_mins(15);

/// A length of time, or a share of a credential's lifetime.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Span {
    /// An absolute length.
    Duration(Duration),
    /// A share of the lifetime, from 0 to 1.
    Share(f64),
}

impl Span {
    fn of(self, lifetime: Duration) -> Duration {
        match self {
            Self::Duration(duration) => duration,
            Self::Share(share) => lifetime.mul_f64(share.clamp(0.0, 1.0)),
        }
    }
}

/// How a credential is renewed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefreshPolicy {
    /// The latest point of renewal, before the end. `None`: a tenth of the lifetime, at least a
    /// minute where that is no more than a quarter.
    pub margin: Option<Span>,
    /// How far before that point renewals are spread. `None`: a tenth of the lifetime.
    pub jitter: Option<Span>,
    /// Fetch at start instead of at the first request.
    pub eager: bool,
    /// The time limit of one attempt.
    pub timeout: Duration,
    /// The least time between two renewals forced by an upstream's refusal.
    pub min_interval: Duration,
    /// How long a request waits for the attempt in flight.
    pub wait: Duration,
}

impl Default for RefreshPolicy {
    fn default() -> Self {
        Self {
            margin: None,
            jitter: None,
            eager: true,
            timeout: Duration::from_secs(10),
            min_interval: Duration::from_secs(10),
            wait: Duration::from_secs(10),
        }
    }
}

impl RefreshPolicy {
    /// How long after its issue a credential is renewed. `random` is drawn from 0 to 1.
    pub fn renew_after(&self, lifetime: Duration, random: f64) -> Duration {
        let margin = match self.margin {
            Some(margin) => margin.of(lifetime),
            None => (lifetime / 10).max(MINUTE.min(lifetime / 4)),
        };
        let jitter = self.jitter.unwrap_or(Span::Share(0.1)).of(lifetime);
        let latest = lifetime.saturating_sub(margin);
        let renew_after = latest.saturating_sub(jitter.mul_f64(random.clamp(0.0, 1.0)));
        // Margins longer than the lifetime would renew in a tight loop.
        renew_after.max(lifetime / 4)
    }

    /// True if a credential lives no longer than the configured margin, which cannot be kept then.
    pub fn margin_exceeds(&self, lifetime: Duration) -> bool {
        self.margin.is_some_and(|margin| margin.of(lifetime) >= lifetime)
    }
}

/// How long before its end a credential is no longer sent: it could end on the way.
pub fn usable_guard(lifetime: Duration) -> Duration {
    (lifetime / 20).min(Duration::from_secs(10))
}

/// How long to wait after a failure. `failures` counts the failures in a row, this one included;
/// `random` is drawn from 0 to 1.
pub fn retry_after(error: &FetchError, failures: u32, random: f64) -> Duration {
    if error.is_refusal() {
        return REFUSAL_PAUSE;
    }
    let exponent = failures.saturating_sub(1).min(6);
    let ceiling = Duration::from_secs(1 << exponent).min(MAX_BACKOFF);
    let backoff = ceiling.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0);
    let asked = error.retry_after().unwrap_or_default().min(MAX_RETRY_AFTER);
    backoff.max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Refusal;
    use http::StatusCode;

    fn window(policy: &RefreshPolicy, lifetime: u64) -> (u64, u64) {
        let at = |random| policy.renew_after(Duration::from_secs(lifetime), random).as_secs();
        (at(1.0), at(0.0))
    }

    #[test]
    fn renewal_falls_into_the_last_part_of_the_lifetime() {
        let policy = RefreshPolicy::default();
        assert_eq!(window(&policy, 86_400), (69_120, 77_760), "a day: 80 to 90 %");
        assert_eq!(window(&policy, 3_600), (2_880, 3_240), "an hour: 80 to 90 %");
        assert_eq!(window(&policy, 300), (210, 240), "five minutes: a minute is left");
        assert_eq!(window(&policy, 20), (13, 15), "short: a quarter is left");
    }

    #[test]
    fn equal_lifetimes_are_renewed_at_least_a_tenth_apart() {
        let policy = RefreshPolicy::default();
        for lifetime in [10_000, 100_000] {
            let (earliest, latest) = window(&policy, lifetime);
            assert!(latest - earliest >= lifetime / 10);
        }
    }

    #[test]
    fn a_configured_margin_is_kept_and_never_makes_a_tight_loop() {
        let margin = Some(Span::Duration(Duration::from_secs(100)));
        let policy =
            RefreshPolicy { margin, jitter: Some(Span::Share(0.0)), ..RefreshPolicy::default() };
        assert_eq!(window(&policy, 1_000), (900, 900));
        assert_eq!(window(&policy, 40), (10, 10));
        let exceeds = |lifetime| policy.margin_exceeds(Duration::from_secs(lifetime));
        assert!(exceeds(40) && exceeds(100) && !exceeds(101));
        assert!(!RefreshPolicy::default().margin_exceeds(Duration::from_secs(1)));
    }

    #[test]
    fn backoff_grows_to_a_minute_and_honours_retry_after() {
        let error = FetchError::Timeout(Duration::from_secs(1));
        let seconds = |failures| retry_after(&error, failures, 1.0).as_secs();
        assert_eq!([1, 2, 3, 6, 7, 100].map(seconds), [1, 2, 4, 32, 60, 60]);
        let asked = |retry_after| FetchError::Unavailable {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(retry_after)),
        };
        assert_eq!(retry_after(&asked(120), 1, 0.0).as_secs(), 120);
        assert_eq!(retry_after(&asked(86_400), 1, 0.0), MAX_RETRY_AFTER);
    }

    #[test]
    fn a_refusal_is_lasting() {
        let refused = FetchError::Refused(Refusal::Status(StatusCode::UNAUTHORIZED));
        assert_eq!(retry_after(&refused, 1, 0.0), REFUSAL_PAUSE);
    }
}
