//! The last requests, one by one, for whoever looks at the moment.
//!
//! While nobody has looked for [`HEEDED`], nothing is recorded, and a request costs one load of a
//! number; what was kept is forgotten then. Data-plane threads hand entries over without waiting:
//! what finds the queue full is dropped and counted. A task of the control plane takes them from
//! there.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::clock::Now;

/// How many of the last are kept.
pub const KEPT: usize = 200;
/// How long somebody who looked is believed to be there still.
pub const HEEDED: Duration = Duration::from_secs(30);
/// Entries on their way from the threads that serve.
const QUEUE: usize = 256;
/// How much of a path is told, in bytes.
const LONGEST_PATH: usize = 512;

/// One request that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Greater than that of every request that was seen before, also of those before a restart.
    pub seq: u64,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its method; empty, as the path is, for a request that could not be read.
    pub method: String,
    /// Its path without the query, which may hold secrets of the caller's.
    pub path: String,
    /// The route's name; empty if there is none for it.
    pub route: String,
    /// The device, or else the name in the caller's certificate; empty if nothing says it.
    pub identity: String,
    /// The answer's status; 0 if there was none.
    pub status: u16,
    /// Whose error it is: "ours", "upstream" or "caller"; empty if it is none.
    pub whose: &'static str,
    /// Why, in a word or a few; empty if there is nothing to say.
    pub reason: &'static str,
    /// What the request is called; empty if it is not called anything.
    pub request_id: String,
    /// How long it waited for credentials, in microseconds, as all of these.
    pub wait_us: u32,
    /// How long it took to apply them.
    pub sign_us: u32,
    /// How long the upstream took to answer.
    pub upstream_us: u32,
    /// How long all of it took, up to the last byte of the answer.
    pub total_us: u64,
    /// How much content of the answer has passed.
    pub bytes: u64,
}

/// `path`, as much of it as is told.
pub fn told(path: &str) -> &str {
    path.get(..path.floor_char_boundary(LONGEST_PATH)).unwrap_or(path)
}

/// The last requests.
#[derive(Debug)]
pub struct Recent {
    watch: Arc<Watch>,
    queue: mpsc::Sender<Seen>,
    /// The other end; whose it is passes on what comes.
    queued: tokio::sync::Mutex<mpsc::Receiver<Seen>>,
    dropped: AtomicU64,
    kept: Mutex<Kept>,
    news: broadcast::Sender<Arc<Seen>>,
}

/// The last, and the number of the next.
#[derive(Debug)]
struct Kept {
    seen: VecDeque<Arc<Seen>>,
    next: u64,
}

/// The end of the queue.
pub(super) type Queued<'r> = tokio::sync::MutexGuard<'r, mpsc::Receiver<Seen>>;

/// Until when somebody looks.
#[derive(Debug)]
struct Watch {
    from: Instant,
    /// In milliseconds from then: 0 for nobody, the largest number while there is a [`Receiver`].
    until_ms: AtomicU64,
    receivers: Mutex<usize>,
}

/// Somebody is there.
const NOW: u64 = u64::MAX;

impl Watch {
    fn since_start(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.from);
        // Below the number that says that somebody is there.
        u64::try_from(passed.as_millis()).unwrap_or(NOW).min(NOW - 1)
    }

    fn begin(&self) {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        *receivers += 1;
        self.until_ms.store(NOW, Ordering::Relaxed);
    }

    fn end(&self, at: Instant) {
        let mut receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner);
        *receivers = receivers.saturating_sub(1);
        if *receivers == 0 {
            self.until_ms.store(self.since_start(at + HEEDED), Ordering::Relaxed);
        }
    }
}

impl Recent {
    pub(super) fn new(from: Now) -> Self {
        // So many microseconds have more room than requests that can be told in them: the numbers
        // go on growing when the program starts anew.
        let next = from.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let kept = Kept { seen: VecDeque::new(), next: u64::try_from(next).unwrap_or_default() };
        let from = from.monotonic;
        let (queue, queued) = mpsc::channel(QUEUE);
        let (news, _) = broadcast::channel(KEPT);
        let watch = Watch { from, until_ms: AtomicU64::new(0), receivers: Mutex::new(0) };
        Self {
            watch: Arc::new(watch),
            queue,
            queued: tokio::sync::Mutex::new(queued),
            dropped: AtomicU64::new(0),
            kept: Mutex::new(kept),
            news,
        }
    }

    /// True if a request that comes `now` is to be recorded.
    pub fn is_watched(&self, now: Instant) -> bool {
        match self.watch.until_ms.load(Ordering::Relaxed) {
            0 => false,
            NOW => true,
            until => self.watch.since_start(now) <= until,
        }
    }

    /// Records a request; never waits.
    pub fn record(&self, seen: Seen) {
        if self.queue.try_send(seen).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many requests could not be recorded because too many came at once.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What was recorded lately, the oldest first, and everything from now on.
    pub fn subscribe(&self) -> Receiver {
        self.forget(Instant::now());
        self.watch.begin();
        let kept = self.kept();
        // Under the lock: nothing comes twice, and nothing is missed.
        let news = self.news.subscribe();
        Receiver { kept: kept.seen.clone(), news, watch: Arc::clone(&self.watch) }
    }

    /// Forgets what was kept, if `now` nobody has looked for [`HEEDED`].
    pub(super) fn forget(&self, now: Instant) {
        let mut kept = self.kept();
        if !self.is_watched(now) {
            kept.seen = VecDeque::new();
        }
    }

    /// The end of the queue, once nobody else has it.
    pub(super) async fn queued(&self) -> Queued<'_> {
        self.queued.lock().await
    }

    /// Passes on what comes.
    pub(super) async fn pump(&self, queued: &mut Queued<'_>) {
        while let Some(mut seen) = queued.recv().await {
            let mut kept = self.kept();
            seen.seq = kept.next;
            kept.next += 1;
            let seen = Arc::new(seen);
            if kept.seen.len() >= KEPT {
                kept.seen.pop_front();
            }
            kept.seen.push_back(Arc::clone(&seen));
            // There may be nobody just now.
            let _ = self.news.send(seen);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees requests as they end. As long as there is one, requests are recorded.
#[derive(Debug)]
pub struct Receiver {
    kept: VecDeque<Arc<Seen>>,
    news: broadcast::Receiver<Arc<Seen>>,
    watch: Arc<Watch>,
}

/// What a [`Receiver`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A request.
    Seen(Arc<Seen>),
    /// So many requests came too fast for whoever looks.
    Missed(u64),
}

impl Receiver {
    /// What was recorded before there was this, the oldest first; [`Self::next`] tells the rest then.
    pub fn take_kept(&mut self) -> VecDeque<Arc<Seen>> {
        std::mem::take(&mut self.kept)
    }

    /// The next; `None` once there will be none. May be given up while it waits.
    pub async fn next(&mut self) -> Option<News> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(News::Seen(kept));
        }
        match self.news.recv().await {
            Ok(seen) => Some(News::Seen(seen)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(News::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.watch.end(Instant::now());
    }
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
