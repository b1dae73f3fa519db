//! The write side of the credentials of all devices: the one task that fetches and renews them.
//!
//! It is the only caller of the source, so that there is one attempt at a time per device whoever
//! waits, and no more in all than the endpoint is to bear.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use super::packed::Names;
use super::pool::{Device, DevicePool, Failed, Shared};
use super::queue::{Next, Queue};
use super::source::{DeviceSource, own_values};
use crate::clock::Now;
use crate::credential::cache::{Failure, Issued};
use crate::credential::schedule::{RefreshPolicy, retry_after, usable_guard};
use crate::credential::secret_ref::SecretRef;
use crate::credential::{Credential, FetchError};
use crate::permissions::Check;
use crate::sign::BindError;
use crate::values::Values;

/// Timers stand still while the machine sleeps, so both clocks are looked at this often.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// A difference between the clocks that is not just the time between two readings.
const JUMP: Duration = Duration::from_secs(1);

/// Keeps the credentials of all active devices fresh until it is told to stop.
pub struct Scheduler<S, T, P>
where
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// The credential's name, for the log.
    pub name: String,
    /// Where the credentials come from.
    pub source: S,
    /// What is published of them.
    pub prepare: P,
    /// Where they are published.
    pub pool: DevicePool<T>,
    /// When to renew.
    pub policy: RefreshPolicy,
    /// How many at once.
    pub fleet: Fleet,
    /// Whether files of secrets that others can get at are refused.
    pub check: Check,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// How often the files of a refused device's secrets are looked at: a new password is tried soon.
const LOOK: Duration = Duration::from_secs(30);

/// What came of an attempt.
struct Attempt<T> {
    device: Arc<Device<T>>,
    /// A digest of the device's own values.
    tried: u64,
    /// True if these may change by themselves.
    from_files: bool,
    outcome: Outcome<T>,
}

enum Outcome<T> {
    Fetched(Credential, T),
    Failed(FetchError),
    /// It was not made: the same values were refused before.
    AsBefore,
}

/// What is done with a device whose turn it is.
enum Turn {
    Attempt,
    /// Nothing any more.
    Over,
}

/// What the task keeps beside what is published.
struct Work<T> {
    queue: Queue<Arc<Device<T>>>,
    names: Names,
    hours: Hours,
}

/// Values that were refused, and until when they are not tried again.
type Refused = (u64, Instant);

/// The time of the schedule: the monotonic clock, moved on by what it missed while the machine
/// slept.
struct Hours {
    last: Now,
    missed: Duration,
}

impl Hours {
    fn read(&mut self, now: Now) -> Instant {
        let wall = now.wall.duration_since(self.last.wall).unwrap_or_default();
        let monotonic = now.monotonic - self.last.monotonic;
        let missed = wall.saturating_sub(monotonic);
        if missed > JUMP {
            self.missed += missed;
        }
        self.last = now;
        now.monotonic + self.missed
    }
}

impl<S, T, P> Scheduler<S, T, P>
where
    S: DeviceSource,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Runs until stopped.
    pub async fn run(self) {
        let shared = Arc::clone(self.pool.shared());
        let hours = Hours { last: shared.clock.now(), missed: Duration::ZERO };
        let mut work = Work { queue: Queue::default(), names: Names::default(), hours };
        let mut attempts = FuturesUnordered::new();
        loop {
            for device in shared.calls() {
                called(device, &mut work.queue);
            }
            let mut not_before = None;
            while attempts.len() < self.fleet.max_concurrent_logins {
                match self.next(&shared, &mut work) {
                    Ok(Some(device)) => attempts.push(self.attempt(&shared, device)),
                    Ok(None) => break,
                    Err(until) => {
                        not_before = Some(until);
                        break;
                    }
                }
            }
            let now = shared.clock.now();
            let time = work.hours.read(now);
            let full = attempts.len() >= self.fleet.max_concurrent_logins;
            // Whoever is due waits for a place or for the gate, not for the time.
            let due = work.queue.next_due().filter(|_| !full && not_before.is_none());
            let due = due.map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(time));
            let gate = not_before.map(|until| until.saturating_duration_since(now.monotonic));
            let sleep = due.min(LONGEST_SLEEP).min(gate.unwrap_or(LONGEST_SLEEP));
            tokio::select! {
                Some(ended) = attempts.next() => self.ended(&shared, ended, &mut work),
                () = shared.called() => {}
                () = tokio::time::sleep(sleep) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// The next device to fetch for, if there is one and the gate lets it pass; else when it may.
    fn next(
        &self,
        shared: &Shared<T>,
        work: &mut Work<T>,
    ) -> Result<Option<Arc<Device<T>>>, Instant> {
        loop {
            let now = shared.clock.now();
            let time = work.hours.read(now);
            let Some(next) = work.queue.next(time) else { return Ok(None) };
            let (device, demanded) = match next {
                Next::Demanded(device) => (device, true),
                Next::Due(device) => (device, false),
            };
            if matches!(self.turn(shared, &device, demanded, now, work), Turn::Over) {
                continue;
            }
            if let Err(until) = shared.gate().pass(now.monotonic, self.fleet.pace()) {
                if demanded {
                    work.queue.demand_first(device);
                } else {
                    let key = work.queue.schedule(time, Arc::clone(&device));
                    device.lock().due = Some(key);
                }
                return Err(until);
            }
            let mut state = device.lock();
            if let Some(key) = state.due.take() {
                work.queue.unschedule(key);
            }
            state.renewing = true;
            state.lapsing = false;
            drop(state);
            return Ok(Some(device));
        }
    }

    /// Decides what is done with a device whose turn it is.
    fn turn(
        &self,
        shared: &Shared<T>,
        device: &Arc<Device<T>>,
        demanded: bool,
        now: Now,
        work: &mut Work<T>,
    ) -> Turn {
        let mut state = device.lock();
        if state.gone {
            return Turn::Over;
        }
        if demanded {
            let idle = shared.idle(&state, now.monotonic) >= self.fleet.idle_after;
            if !idle || state.is_waited_for() {
                return Turn::Attempt;
            }
            // The endpoint was away for so long that nobody remembers who asked.
            state.called = false;
            drop(state);
            shared.leave(device, |_| false);
            return Turn::Over;
        }
        state.due = None;
        if state.called || state.renewing {
            return Turn::Over;
        }
        let idle_after = self.fleet.idle_after;
        let usable = state.is_usable(now);
        let refused = state.failure().is_some_and(|failure| failure.error.is_refusal());
        let retry_at = state.failure().map(|failure| failure.retry_at);
        let idle = shared.idle(&state, now.monotonic) >= idle_after;
        if let Some(retry_at) = retry_at.filter(|at| refused && *at > now.monotonic) {
            // Its password may have been replaced; if nobody asks any more, it is just remembered.
            if !idle {
                return Turn::Attempt;
            }
            let time = work.hours.read(now) + (retry_at - now.monotonic);
            state.due = Some(work.queue.schedule(time, Arc::clone(device)));
            return Turn::Over;
        }
        // Nobody asks again and again with a password that was refused, unless a request does.
        if !idle && (usable || !refused) {
            return Turn::Attempt;
        }
        let ends = state.issued.as_ref().and_then(|issued| issued.usable_until());
        if let Some(ends) = ends.filter(|_| usable && !state.lapsing) {
            state.lapsing = true;
            let time = work.hours.read(now) + ends.remaining(now);
            state.due = Some(work.queue.schedule(time, Arc::clone(device)));
            return Turn::Over;
        }
        drop(state);
        shared.leave(device, |state| {
            let asked = shared.idle(state, now.monotonic) < idle_after;
            asked && (usable || !refused)
        });
        Turn::Over
    }

    /// One attempt within the time limit.
    async fn attempt(&self, shared: &Shared<T>, device: Arc<Device<T>>) -> Attempt<T> {
        let now = shared.clock.now();
        let (current, refused) = {
            let state = device.lock();
            let refused = state.failed.as_ref().filter(|failed| failed.failure.error.is_refusal());
            let refused: Option<Refused> =
                refused.map(|failed| (failed.tried, failed.failure.retry_at));
            // Only a credential that still is one can be renewed, and a renewal that takes all the
            // time there is leaves none for a login.
            let renewable = state.is_usable(now) && !state.renewal_hangs;
            let issued = state.issued.as_ref().filter(|_| renewable);
            let current = issued.zip(state.current.as_ref()).map(|(issued, packed)| Credential {
                values: packed.unpack(),
                expires: issued.expires,
                ..Credential::default()
            });
            (current, refused)
        };
        let (mut tried, mut from_files) = (0, false);
        let fetch = async {
            let table = shared.table();
            let row = table.find(&device.name);
            let row = row.ok_or_else(|| FetchError::Secret("the device is gone".to_owned()))?;
            let mut cells = table.cells(row);
            from_files = cells.any(|(_, cell)| matches!(cell, SecretRef::File(_)));
            let own = own_values(&table, row, self.check).await?;
            tried = digest(&own, &shared.hasher);
            if refused.is_some_and(|(before, until)| before == tried && until > now.monotonic) {
                return Ok(None);
            }
            self.source.fetch_for(&own, current.as_ref()).await.map(Some)
        };
        let fetched = tokio::time::timeout(self.policy.timeout, fetch).await;
        let fetched = fetched.unwrap_or(Err(FetchError::Timeout(self.policy.timeout)));
        let outcome = match fetched {
            Ok(None) => Outcome::AsBefore,
            Err(error) => Outcome::Failed(error),
            Ok(Some(credential)) => match (self.prepare)(&credential) {
                Ok(item) => Outcome::Fetched(credential, item),
                Err(error) => Outcome::Failed(error.into()),
            },
        };
        Attempt { device, tried, from_files, outcome }
    }

    /// Publishes what came of an attempt, and says when the next is due.
    fn ended(&self, shared: &Shared<T>, attempt: Attempt<T>, work: &mut Work<T>) {
        let Attempt { device, tried, from_files, outcome } = attempt;
        let now = shared.clock.now();
        let time = work.hours.read(now);
        let told = match &outcome {
            Outcome::Fetched(..) => Some(Ok(())),
            Outcome::Failed(error) => Some(Err(error)),
            Outcome::AsBefore => None,
        };
        let random = fastrand::f64();
        let closed = told.is_some_and(|told| shared.gate().ended(told, now.monotonic, random));
        let mut state = device.lock();
        state.renewing = false;
        if state.gone {
            return;
        }
        let wait = match outcome {
            Outcome::Fetched(credential, item) => {
                let lifetime = credential.lifetime;
                let guard = lifetime.map(usable_guard).unwrap_or_default();
                let forced = std::mem::take(&mut state.forcing);
                let issued = Issued::new(item, credential.expires, guard, now, forced);
                state.issued = Some(Arc::new(issued));
                let packed = self.source.renews().then(|| work.names.pack(&credential.values));
                state.current = packed;
                state.failed = None;
                state.failures = 0;
                state.renewal_hangs = false;
                let renewal =
                    lifetime.map(|lifetime| self.policy.renew_after(lifetime, fastrand::f64()));
                tracing::debug!(
                    credential = %self.name, device = %device.name,
                    lifetime_s = lifetime.map(|lifetime| lifetime.as_secs()),
                    "credential of a device fetched"
                );
                let again = renewal.or_else(|| self.source.look_again_after());
                again.unwrap_or(self.fleet.idle_after)
            }
            Outcome::Failed(error) if closed => {
                let again = shared.gate().closed(now.monotonic);
                let wait = again.map(|closed| closed.until - now.monotonic).unwrap_or_default();
                tracing::warn!(
                    credential = %self.name, %error, reopens_in_s = wait.as_secs_f64(),
                    "the token endpoint wants to be left alone; all devices wait"
                );
                if !state.is_usable(now) {
                    // Nobody is told that it failed. It goes to the end: were it the only one that is
                    // told to wait, it would keep all others from their turn.
                    state.called = true;
                    drop(state);
                    work.queue.demand(device);
                    if wait > self.policy.wait {
                        wake_all(&work.queue);
                    }
                    return;
                }
                wait
            }
            Outcome::Failed(error) => {
                state.failures = state.failures.saturating_add(1);
                state.renewal_hangs = matches!(error, FetchError::Timeout(_));
                let wait = retry_after(&error, u32::from(state.failures), fastrand::f64());
                tracing::warn!(
                    credential = %self.name, device = %device.name, %error,
                    usable = state.is_usable(now), retry_in_s = wait.as_secs_f64(),
                    "{}", if error.is_refusal() { "login refused" } else { "fetch failed" }
                );
                let retry_at = now.monotonic + wait;
                let look = error.is_refusal() && from_files;
                let failure = Failure { error, retry_at };
                state.failed = Some(Box::new(Failed { failure, tried }));
                if look { LOOK.min(wait) } else { wait }
            }
            Outcome::AsBefore => {
                let left = state.failure().map(|failure| failure.retry_at - now.monotonic);
                left.unwrap_or_default().min(LOOK)
            }
        };
        state.called = false;
        state.due = Some(work.queue.schedule(time + wait, Arc::clone(&device)));
        state.changed();
    }
}

/// The scheduler has something to do for `device`.
fn called<T>(device: Arc<Device<T>>, queue: &mut Queue<Arc<Device<T>>>) {
    let mut state = device.lock();
    if state.gone {
        if let Some(key) = state.due.take() {
            queue.unschedule(key);
        }
        return;
    }
    drop(state);
    queue.demand(device);
}

/// A digest by which to tell whether values are the same. Its key lives as long as the process.
fn digest(values: &Values, hasher: &RandomState) -> u64 {
    let values: Vec<(&str, &str)> =
        values.iter().map(|(name, value)| (name, value.expose())).collect();
    hasher.hash_one(values)
}

/// Those who would wait in vain are told so.
fn wake_all<T>(queue: &Queue<Arc<Device<T>>>) {
    for device in queue.demanded() {
        device.lock().changed();
    }
}

impl<S, T, P> std::fmt::Debug for Scheduler<S, T, P>
where
    P: Fn(&Credential) -> Result<T, BindError>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scheduler").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
