//! [`Record`]: what has become of the attempts to fetch a credential, for whoever runs the program.
//!
//! Requests only count here; everything else is written by the task that fetches.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::FetchError;
use crate::clock::{Deadline, Now};
use crate::skew::{Estimate, News, Sample};

/// What has become of the attempts to fetch a credential, those of all its devices together.
#[derive(Debug, Default)]
pub struct Record {
    fetches: Mutex<Fetches>,
    replays: AtomicU64,
    in_flight: AtomicUsize,
    queue: AtomicUsize,
    missed_ms: AtomicU64,
}

#[derive(Debug)]
struct Fetches {
    outcomes: BTreeMap<&'static str, u64>,
    last: Option<Fetched>,
    failures: u32,
    next: Option<Deadline>,
    skew: Estimate,
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            // There from the start, so that the increase from nothing can be seen.
            outcomes: std::iter::once(OK).chain(FetchError::WORDS).map(|word| (word, 0)).collect(),
            last: None,
            failures: 0,
            next: None,
            // There may be one answer a day.
            skew: Estimate::new(1),
        }
    }
}

/// The outcome that is no failure.
const OK: &str = "ok";

/// An attempt that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
}

/// What a record says at one moment.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// How many attempts ended how: "ok", or the word of a [`FetchError`].
    pub outcomes: BTreeMap<&'static str, u64>,
    /// The last one that succeeded.
    pub last: Option<Fetched>,
    /// How many have failed since. Of all devices together.
    pub failures: u32,
    /// When the next is due; only of a credential without devices.
    pub next: Option<Deadline>,
    /// How far the clock of the token endpoint is ahead of ours, in milliseconds.
    pub skew_ms: Option<i64>,
    /// Requests that were sent a second time with another credential.
    pub replays: u64,
    /// Logins in flight; only of a credential with devices.
    pub in_flight: usize,
    /// Devices whose requests wait for a login.
    pub queue: usize,
}

impl Record {
    /// An attempt for the credential `name` succeeded `now`.
    pub(super) fn fetched(&self, name: &str, now: Now, took: Duration, skew_ms: Option<i64>) {
        let mut fetches = self.lock();
        *fetches.outcomes.entry(OK).or_default() += 1;
        fetches.last = Some(Fetched { at: now.wall, took });
        fetches.failures = 0;
        if let Some(skew_ms) = skew_ms {
            fetches.skew.observe(Sample::about(skew_ms));
        }
        let news = fetches.skew.news(now.monotonic);
        drop(fetches);
        if let Some(news) = news {
            tell(name, news);
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&self, error: &FetchError) {
        let mut fetches = self.lock();
        *fetches.outcomes.entry(error.word()).or_default() += 1;
        fetches.failures = fetches.failures.saturating_add(1);
    }

    /// The next attempt is due then, if nothing happens before.
    pub(super) fn sleeps_until(&self, due: Option<Deadline>) {
        self.lock().next = due;
    }

    /// So many logins are in flight, and so many devices wait for one. `missed` is what the
    /// monotonic clock has missed while the machine slept, by which the schedule is ahead of it.
    pub(super) fn working(&self, in_flight: usize, queue: usize, missed: Duration) {
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.queue.store(queue, Ordering::Relaxed);
        let missed = u64::try_from(missed.as_millis()).unwrap_or(u64::MAX);
        self.missed_ms.store(missed, Ordering::Relaxed);
    }

    /// A request was sent a second time.
    pub fn replayed(&self) {
        self.replays.fetch_add(1, Ordering::Relaxed);
    }

    /// By how much the schedule is ahead of the monotonic clock.
    pub(super) fn missed(&self) -> Duration {
        Duration::from_millis(self.missed_ms.load(Ordering::Relaxed))
    }

    /// What it says now.
    pub fn read(&self) -> Recorded {
        let fetches = self.lock();
        Recorded {
            outcomes: fetches.outcomes.clone(),
            last: fetches.last,
            failures: fetches.failures,
            next: fetches.next,
            skew_ms: fetches.skew.skew_ms(),
            replays: self.replays.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            queue: self.queue.load(Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fetches> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(credential: &str, news: News) {
    match news {
        News::Off(off) | News::Incredible(off) => tracing::warn!(
            %credential,
            "the clock of this machine is {off} that of the token endpoint; lifetimes are read by \
             that clock, but certificates and signatures may not be: set the clock (NTP)"
        ),
        News::Over => tracing::info!(
            %credential, "the clock of this machine agrees with that of the token endpoint again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn it_counts_outcomes_by_word_and_forgets_failures_at_a_success() {
        let record = Record::default();
        assert_eq!(record.read().outcomes.len(), 1 + FetchError::WORDS.len());
        assert!(record.read().outcomes.values().all(|count| *count == 0));
        let late = FetchError::Timeout(Duration::from_secs(1));
        record.failed(&late);
        record.failed(&late);
        assert_eq!(record.read().failures, 2);
        let now = Clock::system().now();
        record.fetched("plant", now, Duration::from_millis(80), Some(3_600_000));
        record.replayed();
        record.working(3, 40, Duration::from_secs(7));
        let read = record.read();
        let counted = read.outcomes.iter().filter(|(_, count)| **count > 0);
        let counted: Vec<_> = counted.map(|(word, count)| (*word, *count)).collect();
        assert_eq!(counted, [("ok", 1), ("timeout", 2)]);
        let last = Fetched { at: now.wall, took: Duration::from_millis(80) };
        assert_eq!((read.failures, read.last), (0, Some(last)));
        assert_eq!(read.skew_ms, Some(3_600_000));
        assert_eq!((read.replays, read.in_flight, read.queue), (1, 3, 40));
        assert_eq!(record.missed(), Duration::from_secs(7));
    }

    /// The words in `FetchError::word`, a match over every kind of error, are those that are there
    /// from the start, and those that the documentation tells of.
    #[test]
    fn every_outcome_is_there_from_the_start_and_documented() {
        let source = include_str!("mod.rs");
        let (_, word) = source.split_once("pub fn word(&self)").unwrap();
        let (word, _) = word.split_once("\n    }\n").unwrap();
        let words: Vec<&str> = word.split('"').skip(1).step_by(2).collect();
        assert_eq!(words, FetchError::WORDS);
        let outcomes = Record::default().read().outcomes;
        let documented = include_str!("../../docs/operations.md");
        let line = documented.lines().find(|line| line.contains("refreshes_total{")).unwrap();
        for word in words.into_iter().chain([OK]) {
            assert_eq!(outcomes.get(word), Some(&0), "{word}");
            assert!(line.contains(&format!("`{word}`")), "{word}: {line}");
        }
    }
}
