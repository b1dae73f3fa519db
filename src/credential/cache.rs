//! The read side of a credential: what requests see.

pub mod refresh;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::FetchError;
use super::record::Record;
use crate::clock::{Clock, Deadline, Now};

/// A forced renewal that brought a credential refused again is not repeated before this.
const REPEATED_REJECTION_PAUSE: Duration = Duration::from_mins(1);

/// One credential as requests read it: cheap to clone, no I/O, no lock in the ready case.
///
/// `T` is what was made of the credential for use; the cache does not look into it.
pub struct CredentialCache<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    slot: ArcSwap<Slot<T>>,
    /// Serialises the writers of `slot`; never held by a reader.
    writer: Mutex<Writer>,
    changed: watch::Sender<()>,
    demand: Notify,
    /// Somebody asks for another credential, whatever the schedule says.
    wish: Notify,
    record: Arc<Record>,
    clock: Clock,
    settings: CacheSettings,
}

struct Slot<T> {
    issued: Option<Arc<Issued<T>>>,
    failure: Option<Failure>,
    renewing: bool,
    /// Attempts that have ended.
    ended: u64,
    /// How long the credential was still good when it was published.
    lifetime: Option<Duration>,
}

#[derive(Default)]
struct Writer {
    last_forced: Option<Instant>,
    /// When somebody asked for an attempt last. Apart, because a refusal right after that is to be
    /// mended all the same.
    last_asked: Option<Instant>,
    /// The next credential published is the fruit of a rejection.
    forcing: bool,
    /// Somebody asks for an attempt, and none has begun since.
    wished: bool,
}

/// How a cache behaves towards those who wait and those who reject.
#[derive(Debug, Clone, Copy)]
pub struct CacheSettings {
    /// False for credentials that nobody can renew, such as a key from the configuration.
    pub renewable: bool,
    /// How long a request waits for the attempt in flight.
    pub wait: Duration,
    /// The least time between two renewals forced by an upstream's refusal.
    pub min_interval: Duration,
}

/// A published credential.
pub struct Issued<T> {
    /// What was made of it.
    pub item: T,
    /// When it ends.
    pub expires: Option<Deadline>,
    /// How long before its end it stops being used, in milliseconds.
    guard_ms: u32,
    forced: bool,
}

impl<T> Issued<T> {
    /// A credential. `guard` is how long before its end it is no longer sent; `forced` marks the
    /// fruit of a rejection.
    pub(super) fn new(item: T, expires: Option<Deadline>, guard: Duration, forced: bool) -> Self {
        let guard_ms = u32::try_from(guard.as_millis()).unwrap_or(u32::MAX);
        Self { item, expires, guard_ms, forced }
    }

    /// True for the fruit of a rejection.
    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// When it stops being used.
    pub(super) fn usable_until(&self) -> Option<Deadline> {
        let guard = Duration::from_millis(self.guard_ms.into());
        self.expires.map(|end| end.earlier_by(guard))
    }

    /// True until shortly before its end: it may be sent.
    pub fn is_usable(&self, now: Now) -> bool {
        self.usable_until().is_none_or(|end| !end.is_over(now))
    }
}

/// The last attempt failed; shared by everybody who waits.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Why.
    pub error: FetchError,
    /// When the next attempt is due.
    pub retry_at: Instant,
}

/// There is no usable credential.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unavailable {
    /// The last attempt failed and the next is not due yet.
    #[error("{error}")]
    Failed {
        /// Why.
        error: FetchError,
        /// When the next attempt is due, from now.
        retry_in: Duration,
    },
    /// The attempt in flight takes longer than a request waits.
    #[error("the credential was not fetched within {} s", .0.as_secs_f64())]
    Waiting(Duration),
}

/// What became of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// Another credential was published in the meantime, or is under way.
    Replaced,
    /// Another is being fetched because of this rejection.
    Renewing,
    /// A renewal was forced too short a time ago.
    TooSoon,
    /// Nobody can renew this credential.
    Fixed,
}

/// What somebody who asks for a credential gets.
pub(super) enum Standing<'s, T> {
    /// This one.
    Ready(&'s Arc<Issued<T>>),
    /// Nothing, before the next attempt.
    Failed(Unavailable),
    /// Whatever the next attempt, or the one in flight, brings.
    Wanting,
}

/// What somebody who asks at `now` gets.
pub(super) fn standing<'s, T>(
    issued: Option<&'s Arc<Issued<T>>>,
    failure: Option<&Failure>,
    renewing: bool,
    now: Now,
) -> Standing<'s, T> {
    if let Some(issued) = issued
        && issued.is_usable(now)
    {
        return Standing::Ready(issued);
    }
    match failure {
        Some(failure) if failure.retry_at > now.monotonic && !renewing => {
            let retry_in = failure.retry_at - now.monotonic;
            Standing::Failed(Unavailable::Failed { error: failure.error.clone(), retry_in })
        }
        _ => Standing::Wanting,
    }
}

/// What an upstream's refusal of `refused` leads to, where `current` is the credential now.
pub(super) fn judge_rejection<T>(
    refused: &Arc<Issued<T>>,
    current: Option<&Arc<Issued<T>>>,
    failure: Option<&Failure>,
    last_forced: Option<Instant>,
    now: Instant,
    min_interval: Duration,
) -> Rejection {
    if !current.is_some_and(|current| Arc::ptr_eq(current, refused)) {
        return Rejection::Replaced;
    }
    // Nothing better can be had before the next attempt: a refusal by one path must not take
    // the credential from all others.
    if failure.is_some_and(|failure| failure.retry_at > now) {
        return Rejection::TooSoon;
    }
    let pause =
        if refused.forced { min_interval.max(REPEATED_REJECTION_PAUSE) } else { min_interval };
    if last_forced.is_some_and(|last| now < last + pause) {
        return Rejection::TooSoon;
    }
    Rejection::Renewing
}

/// A credential's state, for people.
#[derive(Debug, Clone)]
pub struct CacheState {
    /// The end of the current credential, if there is a usable one that ends.
    pub expires: Option<Deadline>,
    /// How long that one was still good when it came here: its lifetime, unless it comes from a
    /// store.
    pub lifetime: Option<Duration>,
    /// True if a usable credential is there.
    pub usable: bool,
    /// True while an attempt is in flight.
    pub renewing: bool,
    /// The last attempt, if it failed.
    pub failure: Option<Failure>,
}

impl<T> Clone for CredentialCache<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> CredentialCache<T> {
    /// An empty cache, to be filled by a refresher.
    pub fn new(clock: Clock, settings: CacheSettings) -> Self {
        let slot = Slot { issued: None, failure: None, renewing: false, ended: 0, lifetime: None };
        Self {
            shared: Arc::new(Shared {
                slot: ArcSwap::from_pointee(slot),
                writer: Mutex::default(),
                changed: watch::Sender::new(()),
                demand: Notify::new(),
                wish: Notify::new(),
                record: Arc::default(),
                clock,
                settings,
            }),
        }
    }

    /// A cache that holds a credential without an end.
    pub fn fixed(clock: Clock, item: T) -> Self {
        let settings =
            CacheSettings { renewable: false, wait: Duration::ZERO, min_interval: Duration::ZERO };
        let cache = Self::new(clock, settings);
        cache.publish(item, None, Duration::ZERO);
        cache
    }

    /// The current credential; if none is usable, waits for the attempt in flight.
    ///
    /// A caller who stops waiting does not cancel the attempt.
    ///
    /// # Errors
    /// When the last attempt failed and the next is not due, or takes too long.
    pub async fn get(&self) -> Result<Arc<Issued<T>>, Unavailable> {
        self.get_at(self.shared.clock.now()).await
    }

    /// The same for somebody who has just read the clocks.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_at(&self, now: Now) -> Result<Arc<Issued<T>>, Unavailable> {
        if let Some(issued) = &self.shared.slot.load().issued
            && issued.is_usable(now)
        {
            return Ok(Arc::clone(issued));
        }
        // Boxed, so that what is rare does not make every request's future larger.
        Box::pin(self.wait()).await
    }

    #[cold]
    async fn wait(&self) -> Result<Arc<Issued<T>>, Unavailable> {
        let limit = self.shared.settings.wait;
        let give_up_at = Instant::now() + limit;
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let slot = self.shared.slot.load_full();
            let now = self.shared.clock.now();
            match standing(slot.issued.as_ref(), slot.failure.as_ref(), slot.renewing, now) {
                Standing::Ready(issued) => return Ok(Arc::clone(issued)),
                Standing::Failed(unavailable) => return Err(unavailable),
                Standing::Wanting => {}
            }
            self.shared.demand.notify_one();
            if tokio::time::timeout_at(give_up_at, changed.changed()).await.is_err() {
                return Err(Unavailable::Waiting(limit));
            }
        }
    }

    /// The upstream refused `refused`. Asks for another unless it was already replaced.
    pub fn reject(&self, refused: &Arc<Issued<T>>) -> Rejection {
        if !self.shared.settings.renewable {
            return Rejection::Fixed;
        }
        let mut writer = self.writer();
        let slot = self.shared.slot.load_full();
        let now = self.shared.clock.now();
        let judged = judge_rejection(
            refused,
            slot.issued.as_ref(),
            slot.failure.as_ref(),
            writer.last_forced,
            now.monotonic,
            self.shared.settings.min_interval,
        );
        if judged != Rejection::Renewing {
            return judged;
        }
        writer.last_forced = Some(now.monotonic);
        // An attempt that is under way is not the fruit of this rejection.
        writer.forcing = !slot.renewing;
        self.store(Slot {
            issued: None,
            failure: slot.failure.clone(),
            renewing: slot.renewing,
            ended: slot.ended,
            lifetime: None,
        });
        drop(writer);
        self.shared.demand.notify_one();
        Rejection::Renewing
    }

    /// True if a usable credential is there.
    pub fn is_ready(&self) -> bool {
        self.state().usable
    }

    /// The state, for people.
    pub fn state(&self) -> CacheState {
        let slot = self.shared.slot.load();
        let now = self.shared.clock.now();
        let usable = slot.issued.as_ref().filter(|issued| issued.is_usable(now));
        CacheState {
            expires: usable.and_then(|issued| issued.expires),
            lifetime: usable.and(slot.lifetime),
            usable: usable.is_some(),
            renewing: slot.renewing,
            failure: slot.failure.clone(),
        }
    }

    /// What has become of attempts to fetch it.
    pub fn record(&self) -> &Arc<Record> {
        &self.shared.record
    }

    /// The current credential without waiting, usable or not.
    pub fn peek(&self) -> Option<Arc<Issued<T>>> {
        self.shared.slot.load().issued.clone()
    }

    /// Publishes a fresh credential. `guard` is how long before its end it is no longer sent.
    pub(super) fn publish(&self, item: T, expires: Option<Deadline>, guard: Duration) {
        let mut writer = self.writer();
        let forced = std::mem::take(&mut writer.forcing);
        let issued = Issued::new(item, expires, guard, forced);
        let ended = self.shared.slot.load().ended.wrapping_add(1);
        let lifetime = expires.map(|end| end.remaining(self.shared.clock.now()));
        let issued = Some(Arc::new(issued));
        self.store(Slot { issued, failure: None, renewing: false, ended, lifetime });
        drop(writer);
        self.shared.changed.send_replace(());
    }

    /// Publishes a failed attempt. A credential that is still usable stays in use.
    pub(super) fn publish_failure(&self, failure: Failure) {
        let writer = self.writer();
        let slot = self.shared.slot.load_full();
        self.store(Slot {
            issued: slot.issued.clone(),
            failure: Some(failure),
            renewing: false,
            ended: slot.ended.wrapping_add(1),
            lifetime: slot.lifetime,
        });
        drop(writer);
        self.shared.changed.send_replace(());
    }

    /// Says that an attempt has begun.
    pub(super) fn begin_attempt(&self) {
        let mut writer = self.writer();
        // Whoever asked for one gets this one.
        writer.wished = false;
        let slot = self.shared.slot.load_full();
        self.store(Slot {
            issued: slot.issued.clone(),
            failure: slot.failure.clone(),
            renewing: true,
            ended: slot.ended,
            lifetime: slot.lifetime,
        });
        drop(writer);
    }

    /// Waits until somebody asked for a credential and found none usable.
    pub(super) async fn demanded(&self) {
        self.shared.demand.notified().await;
    }

    fn store(&self, slot: Slot<T>) {
        self.shared.slot.store(Arc::new(slot));
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Writer> {
        self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for CredentialCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCache").field("state", &self.state()).finish()
    }
}

impl<T> fmt::Debug for Issued<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("expires", &self.expires).finish_non_exhaustive()
    }
}
