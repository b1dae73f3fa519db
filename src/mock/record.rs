//! What a stand-in received: a bounded list of exchanges, and counters.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Method, Version};

use super::{Answer, Event};

/// Exchanges kept unless [`Recorder::new`] is told otherwise; older ones are forgotten first.
const CAPACITY: usize = 10_000;

/// One exchange with a stand-in. Its `Debug` form names the fields and leaves out their values,
/// which hold credentials.
#[derive(Clone)]
pub struct Recorded {
    /// Counts from 1 in the order in which the exchanges were recorded; goes on after
    /// [`Recorder::clear`].
    pub sequence: u64,
    /// The request method.
    pub method: Method,
    /// Path and query exactly as received.
    pub target: String,
    /// The HTTP version of the request.
    pub version: Version,
    /// The request's fields, values included.
    pub headers: HeaderMap,
    /// Bytes of content received.
    pub body_len: u64,
    /// SHA-256 of the content received, in lower-case hexadecimal.
    pub body_sha256: String,
    /// The status code of the answer, or 0 if none was given on purpose.
    pub status: u16,
    /// Whether the credentials were accepted.
    pub accepted: bool,
    /// Why they were accepted or refused, in one plain sentence.
    pub verdict: String,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.keys().map(http::HeaderName::as_str).collect();
        f.debug_struct("Recorded")
            .field("sequence", &self.sequence)
            .field("method", &self.method)
            .field("target", &self.target)
            .field("version", &self.version)
            .field("header_names", &names)
            .field("body_len", &self.body_len)
            .field("body_sha256", &self.body_sha256)
            .field("status", &self.status)
            .field("accepted", &self.accepted)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

/// The exchanges of one stand-in, the newest last, and counters over all of them.
///
/// An exchange is recorded right before its answer is sent: whoever has the answer finds the
/// record. A call that its caller gave up earlier, as during a latency, is not recorded, nor are
/// calls of the control path.
#[derive(Debug)]
pub struct Recorder {
    kept: Mutex<Kept>,
    capacity: usize,
    token_calls: AtomicU64,
    logins: AtomicU64,
    refreshes: AtomicU64,
    revocations: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    sequence: u64,
    exchanges: VecDeque<Recorded>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Recorder {
    /// Keeps the last `capacity` exchanges.
    pub fn new(capacity: usize) -> Self {
        Self {
            kept: Mutex::default(),
            capacity,
            token_calls: AtomicU64::new(0),
            logins: AtomicU64::new(0),
            refreshes: AtomicU64::new(0),
            revocations: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// All exchanges kept, the oldest first.
    pub fn all(&self) -> Vec<Recorded> {
        self.lock().exchanges.iter().cloned().collect()
    }

    /// The newest exchange.
    pub fn last(&self) -> Option<Recorded> {
        self.lock().exchanges.back().cloned()
    }

    /// How many exchanges are kept.
    pub fn count(&self) -> usize {
        self.lock().exchanges.len()
    }

    /// How many of the exchanges kept satisfy `wanted`.
    ///
    /// `wanted` runs under the recorder's lock and must not call the recorder.
    pub fn count_where(&self, wanted: impl Fn(&Recorded) -> bool) -> usize {
        self.lock().exchanges.iter().filter(|recorded| wanted(recorded)).count()
    }

    /// Forgets every exchange and sets all counters to zero.
    pub fn clear(&self) {
        let mut kept = self.lock();
        kept.exchanges.clear();
        for counter in [
            &self.token_calls,
            &self.logins,
            &self.refreshes,
            &self.revocations,
            &self.accepted,
            &self.refused,
        ] {
            counter.store(0, Relaxed);
        }
    }

    /// Calls of the token endpoints, whatever became of them.
    pub fn token_calls(&self) -> u64 {
        self.token_calls.load(Relaxed)
    }

    /// Logins that were answered with a token.
    pub fn logins(&self) -> u64 {
        self.logins.load(Relaxed)
    }

    /// Renewals that were answered with a token.
    pub fn refreshes(&self) -> u64 {
        self.refreshes.load(Relaxed)
    }

    /// Tokens taken back by a call of the API;
    /// [`Switches::revoke_all`](super::Switches::revoke_all) does not count.
    pub fn revocations(&self) -> u64 {
        self.revocations.load(Relaxed)
    }

    /// Exchanges whose credentials were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// All other exchanges: refused, answered by a failure switch, or on no known route.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Counts a call of a token endpoint.
    pub(super) fn count_token_call(&self) {
        self.token_calls.fetch_add(1, Relaxed);
    }

    /// Counts what an answer did.
    pub(super) fn count_answer(&self, answer: &Answer) {
        let outcome = if answer.accepted { &self.accepted } else { &self.refused };
        outcome.fetch_add(1, Relaxed);
        match answer.event {
            Event::None => {}
            Event::Login => _ = self.logins.fetch_add(1, Relaxed),
            Event::Refresh => _ = self.refreshes.fetch_add(1, Relaxed),
            Event::Revocation => _ = self.revocations.fetch_add(1, Relaxed),
        }
    }

    /// Keeps an exchange and numbers it.
    pub(super) fn keep(&self, mut recorded: Recorded) {
        let mut kept = self.lock();
        kept.sequence += 1;
        recorded.sequence = kept.sequence;
        kept.exchanges.push_back(recorded);
        while kept.exchanges.len() > self.capacity {
            kept.exchanges.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use http::{HeaderValue, StatusCode};

    use super::*;

    fn exchange(target: &str) -> Recorded {
        let mut headers = HeaderMap::new();
        headers.insert("token", HeaderValue::from_static("canary-secret"));
        Recorded {
            sequence: 0,
            method: Method::GET,
            target: target.to_owned(),
            version: Version::HTTP_11,
            headers,
            body_len: 0,
            body_sha256: String::new(),
            status: 200,
            accepted: true,
            verdict: "fine".to_owned(),
        }
    }

    #[test]
    fn the_oldest_exchange_is_forgotten_first() {
        let recorder = Recorder::new(2);
        for target in ["/a", "/b", "/c"] {
            recorder.keep(exchange(target));
        }
        let targets: Vec<String> =
            recorder.all().into_iter().map(|recorded| recorded.target).collect();
        assert_eq!(targets, ["/b", "/c"]);
        assert_eq!(recorder.last().unwrap().sequence, 3);
        assert_eq!(recorder.count_where(|recorded| recorded.target == "/c"), 1);
    }

    #[test]
    fn clear_forgets_exchanges_and_counters_but_goes_on_numbering() {
        let recorder = Recorder::default();
        recorder.keep(exchange("/a"));
        recorder.count_answer(&Answer::empty(StatusCode::OK).accepted("").event(Event::Login));
        assert_eq!((recorder.logins(), recorder.accepted()), (1, 1));

        recorder.clear();
        assert_eq!((recorder.count(), recorder.logins(), recorder.accepted()), (0, 0, 0));

        recorder.keep(exchange("/b"));
        assert_eq!(recorder.last().unwrap().sequence, 2);
    }

    #[test]
    fn the_debug_form_names_fields_without_their_values() {
        let recorder = Recorder::default();
        recorder.keep(exchange("/a"));
        let text = format!("{recorder:?}");
        assert!(text.contains("token"));
        assert!(!text.contains("canary-secret"));
    }
}
