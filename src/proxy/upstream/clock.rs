//! The clock of an upstream, as signatures need it: what its answers say of it, and what a refusal
//! means.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::{AGE, DATE};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use crate::clock::{Clock, unix_ms};
use crate::skew::{Estimate, News, Off, Sample, is_credible};

/// So many samples in a row have to agree before signatures are corrected.
const AGREEMENT: usize = 3;
/// An answer is looked at no more often than that, in milliseconds.
const LOOK_EVERY_MS: u64 = 1_000;
/// For so long after an answer that fitted, in milliseconds, no refusal because of the time is
/// expected.
const SETTLED_MS: u64 = 5_000;
/// After a second signature was refused as the first was, none is made for so long.
const TRIAL_PAUSE: Duration = Duration::from_mins(1);

/// What is known of an upstream's clock; shared by all workers, without a lock in the usual case.
#[derive(Debug)]
pub struct UpstreamClock {
    /// Host and port, for messages.
    authority: String,
    correction_ms: AtomicI64,
    /// When an answer was looked at last, by our clock.
    looked_at: AtomicU64,
    /// When an answer fitted last, by our clock.
    settled_at: AtomicU64,
    retries: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    estimate: Estimate,
    /// When a second signature was refused, too.
    refused_again: Option<Instant>,
}

/// An answer to a signed request, as far as the time is concerned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard<'a> {
    /// When the request was signed, by our clock.
    pub(crate) signed: SystemTime,
    /// By how much the time in the signature was corrected, in milliseconds.
    pub(crate) corrected_ms: i64,
    /// True if that was a guess after a refusal.
    pub(crate) trial: bool,
    /// The status of the answer.
    pub(crate) status: StatusCode,
    /// The fields of the answer.
    pub(crate) headers: &'a HeaderMap,
}

impl UpstreamClock {
    /// That of the upstream at `authority`, of which nothing is known yet.
    pub fn new(authority: &str) -> Self {
        Self {
            authority: authority.to_owned(),
            correction_ms: AtomicI64::new(0),
            looked_at: AtomicU64::new(0),
            settled_at: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            state: Mutex::new(State { estimate: Estimate::new(AGREEMENT), refused_again: None }),
        }
    }

    /// By how much the time in a signature is to be corrected, in milliseconds.
    pub fn correction_ms(&self) -> i64 {
        self.correction_ms.load(Ordering::Relaxed)
    }

    /// How far it is ahead of ours, in milliseconds, if enough answers have agreed.
    pub fn skew_ms(&self) -> Option<i64> {
        self.lock().estimate.skew_ms()
    }

    /// Requests that were signed once more.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// True if a request that is signed now may be refused because of its time: an answer has not
    /// fitted for a while.
    pub(crate) fn may_refuse(&self, now: SystemTime) -> bool {
        unix_ms(now).abs_diff(self.settled_at.load(Ordering::Relaxed)) > SETTLED_MS
    }

    /// Counts a request that is signed once more, corrected by `corrected_ms`.
    pub(crate) fn signs_again(&self, corrected_ms: i64) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            upstream = %self.authority, clock = %Off(corrected_ms),
            "a signature was refused and the clocks differ; signing once more"
        );
    }

    /// Learns from an answer. If it is a refusal that the time of the signature explains, says by how
    /// much to correct a second one, in milliseconds.
    pub(crate) fn hear(&self, heard: Heard<'_>, clock: &Clock) -> Option<i64> {
        let refused = matches!(heard.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        let signed = unix_ms(heard.signed);
        let due = signed.abs_diff(self.looked_at.load(Ordering::Relaxed)) >= LOOK_EVERY_MS;
        if !due && !refused && !heard.trial {
            return None;
        }
        self.look(heard, refused, due, clock)
    }

    #[cold]
    fn look(&self, heard: Heard<'_>, refused: bool, due: bool, clock: &Clock) -> Option<i64> {
        let now = clock.now();
        let sample = sample(heard.headers, heard.signed, now.wall);
        let mut state = self.lock();
        if due {
            self.looked_at.store(unix_ms(heard.signed), Ordering::Relaxed);
        }
        let shown = heard.trial && heard.status.is_success();
        if shown {
            // It was accepted, which is worth more than any number of fields.
            state.refused_again = None;
            state.estimate.adopt(heard.corrected_ms);
        } else if heard.trial && refused {
            state.refused_again = Some(now.monotonic);
        } else if let Some(sample) = sample.filter(|_| due) {
            // After any other answer nobody knows whether the signature was looked at: a limit on
            // requests or an error may come before that, and a redirect instead.
            state.estimate.observe(sample);
        }
        let news = state.estimate.news(now.monotonic);
        self.correction_ms.store(state.estimate.correction_ms(), Ordering::Relaxed);
        let paused = state
            .refused_again
            .is_some_and(|at| now.monotonic.saturating_duration_since(at) < TRIAL_PAUSE);
        drop(state);
        if let Some(news) = news {
            self.tell(news);
        }
        let contradicts = sample.is_some_and(|sample| sample.contradicts(heard.corrected_ms));
        // What a guess fitted says nothing about requests that are signed without it.
        let fits = !contradicts && !refused && (shown || !heard.trial);
        let settled = if fits { unix_ms(now.wall) } else { 0 };
        self.settled_at.store(settled, Ordering::Relaxed);
        if !refused || !contradicts || heard.trial || paused {
            return None;
        }
        sample.map(Sample::middle).filter(|skew| is_credible(*skew))
    }

    fn tell(&self, news: News) {
        let upstream = &self.authority;
        match news {
            News::Off(off) => tracing::warn!(
                %upstream,
                "the clock of this machine is {off} that of {upstream}; signatures are corrected, \
                 but certificates and tokens may not be: set the clock (NTP)"
            ),
            News::Incredible(off) => tracing::warn!(
                %upstream,
                "the clock of this machine is {off} that of {upstream}, which is more than is \
                 believed; signatures are not corrected: set the clock (NTP) of whichever is wrong"
            ),
            News::Over => tracing::info!(
                %upstream,
                "the clock of this machine agrees with that of {upstream} again"
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the fields of an answer say; nothing if it comes out of a cache (RFC 9111 §5.1).
fn sample(headers: &HeaderMap, sent: SystemTime, received: SystemTime) -> Option<Sample> {
    if headers.contains_key(AGE) {
        return None;
    }
    let date = headers.get(DATE).and_then(|date| date.to_str().ok())?;
    Sample::new(httpdate::parse_http_date(date).ok()?, sent, received)
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
