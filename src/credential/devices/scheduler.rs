//! The write side of the credentials of all devices: the one task that fetches and renews them.
//!
//! It is the only caller of the source, so that there is one attempt at a time per device whoever
//! waits, and no more in all than the endpoint is to bear. Where tokens outlive the process, what is
//! stored is looked at before a device's turn to log in: whoever has a token there passes no gate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, FuturesUnordered, Stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use super::attempt::{Attempt, Fresh, Look, Looked, Outcome, seconds};
use super::packed::{Names, Published};
use super::pool::{Device, DevicePool, Failed, Shared, State};
use super::queue::{Next, Queue};
use super::source::DeviceSource;
use crate::clock::Now;
use crate::credential::cache::{Failure, Issued};
use crate::credential::keeper::Keeper;
use crate::credential::refresher::LAST_RENEWAL;
use crate::credential::schedule::{RefreshPolicy, retry_after, usable_guard};
use crate::credential::store::slots::Slots;
use crate::credential::{Credential, FetchError};
use crate::permissions::Check;
use crate::sign::BindError;

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
    /// Where they are kept beyond the process.
    pub slots: Slots,
    /// Whether files of secrets that others can get at are refused.
    pub check: Check,
    /// Ends the task.
    pub stop: CancellationToken,
}

/// How often the files of a refused device's secrets are looked at: a new password is tried soon.
const RETRY: Duration = Duration::from_secs(30);
/// About how long until a device for which requests wait is looked for again.
const WAITING: Duration = Duration::from_secs(2);
/// How many devices are looked for in the store at a time.
const LOOKS: usize = 64;

/// What is done with a device whose turn it is.
enum Turn {
    Attempt,
    /// Another process may have fetched for it.
    Look,
    /// Nothing any more.
    Over,
}

/// Why a device is looked for again.
#[derive(Debug, Clone, Copy)]
enum Again {
    /// Another process was at it.
    Busy,
    /// Requests wait for it, and another process may have fetched.
    Waited,
}

/// What the task keeps beside what is published.
struct Work<T> {
    queue: Queue<Arc<Device<T>>>,
    /// Those to be looked for in the store, each at most once.
    unseen: VecDeque<Arc<Device<T>>>,
    /// Those to be looked for there again, by when.
    again: Queue<(Arc<Device<T>>, Again)>,
    names: Names,
    hours: Hours,
}

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

impl<S, T, P> Keeper for Scheduler<S, T, P>
where
    S: DeviceSource,
    T: Published + Send + Sync,
    P: Fn(&Credential) -> Result<T, BindError> + Send + Sync,
{
    /// Runs until stopped.
    async fn keep(&mut self) {
        let shared = Arc::clone(self.pool.shared());
        let mut work = self.begin(&shared);
        let mut attempts = FuturesUnordered::new();
        let mut looks = FuturesUnordered::new();
        loop {
            for device in shared.calls() {
                self.called(device, &mut work);
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
            Self::look_again(&shared, &mut work);
            while looks.len() < LOOKS
                && let Some(device) = work.unseen.pop_front()
            {
                looks.push(self.look(&shared, device));
            }
            let now = shared.clock.now();
            let time = work.hours.read(now);
            shared.record.working(attempts.len(), work.queue.waiting(), work.hours.missed);
            let full = attempts.len() >= self.fleet.max_concurrent_logins;
            // Whoever is due waits for a place or for the gate, not for the time.
            let due = work.queue.next_due().filter(|_| !full && not_before.is_none());
            let due = due.map_or(LONGEST_SLEEP, |due| due.saturating_duration_since(time));
            let gate = not_before.map(|until| until.saturating_duration_since(now.monotonic));
            let again = work.again.next_due().map(|due| due.saturating_duration_since(time));
            let sleep = due.min(LONGEST_SLEEP).min(gate.unwrap_or(LONGEST_SLEEP));
            let sleep = sleep.min(again.unwrap_or(LONGEST_SLEEP));
            tokio::select! {
                Some(ended) = attempts.next() => self.ended(&shared, ended, &mut work),
                Some(look) = looks.next() => self.looked(&shared, look, &mut work),
                () = shared.called() => {}
                () = tokio::time::sleep(sleep) => {}
                () = self.stop.cancelled() => break,
            }
        }
        if self.slots.is_durable() {
            let ending = self.end(&shared, attempts, &mut work);
            if tokio::time::timeout(LAST_RENEWAL, ending).await.is_err() {
                tracing::warn!(credential = %self.name, "not everything could be stored at the end");
            }
        }
    }
}

impl<S, T, P> Scheduler<S, T, P>
where
    S: DeviceSource,
    T: Published,
    P: Fn(&Credential) -> Result<T, BindError>,
{
    /// Everything is to be done for the devices that were called, and for those of which a panic
    /// has left nobody to take care.
    fn begin(&self, shared: &Shared<T>) -> Work<T> {
        let now = shared.clock.now();
        shared.stored.store(self.slots.is_durable(), Ordering::Relaxed);
        let mut work = Work {
            queue: Queue::default(),
            unseen: VecDeque::new(),
            again: Queue::default(),
            names: Names::default(),
            // What was missed before a panic is in the schedule.
            hours: Hours { last: now, missed: shared.record.missed() },
        };
        drop(shared.calls());
        for device in shared.all() {
            let mut state = device.lock();
            let interrupted = state.renewing || state.looking;
            (state.renewing, state.looking, state.looked) = (false, false, false);
            (state.queued, state.busy, state.sought) = (false, false, false);
            // Those who wait for what was done half look again.
            state.changed();
            let due = state.due.take().map_or(now.monotonic, |(due, _)| due);
            if state.called || interrupted {
                state.called = true;
                drop(state);
                self.called(device, &mut work);
            } else {
                state.due = Some(work.queue.schedule(due, Arc::clone(&device)));
            }
        }
        work
    }

    /// What is to be stored before the end: renewals that are in flight, and that tokens were
    /// refused.
    async fn end(
        &self,
        shared: &Shared<T>,
        mut attempts: impl Stream<Item = Attempt<T>> + Unpin,
        work: &mut Work<T>,
    ) {
        while let Some(ended) = attempts.next().await {
            self.ended(shared, ended, work);
        }
        let refused = shared.all().into_iter().filter(|device| device.lock().is_refused());
        stream::iter(refused)
            .for_each_concurrent(
                LOOKS,
                |device| async move { drop(self.look(shared, device).await) },
            )
            .await;
    }

    /// The scheduler has something to do for `device`.
    fn called(&self, device: Arc<Device<T>>, work: &mut Work<T>) {
        let mut state = device.lock();
        if state.gone {
            if let Some(key) = state.due.take() {
                work.queue.unschedule(key);
            }
            return;
        }
        if !self.slots.is_durable() {
            state.queued = true;
            drop(state);
            work.queue.demand(device);
        } else if !state.looking {
            state.looking = true;
            drop(state);
            work.unseen.push_back(device);
        }
    }

    /// What is stored is published; else it is the device's turn.
    fn looked(&self, shared: &Shared<T>, look: Look<T>, work: &mut Work<T>) {
        let Look { device, found } = look;
        let now = shared.clock.now();
        let mut state = device.lock();
        state.looking = false;
        if state.gone {
            return;
        }
        match found {
            Looked::Fresh(fresh) => {
                self.publish(&device, &mut state, fresh, now, work);
                return;
            }
            Looked::Renewable(values) => state.hidden = work.names.pack(&values, &()),
            Looked::Nothing => {}
        }
        if state.called {
            if self.slots.is_shared() && state.is_waited_for() {
                // Others may log it in before it is its turn here.
                let due = work.hours.read(now) + WAITING.mul_f64(1.0 + fastrand::f64());
                if !std::mem::replace(&mut state.sought, true) {
                    work.again.schedule(due, (Arc::clone(&device), Again::Waited));
                }
            }
            // Those who would wait in vain are told so.
            let closed = shared.gate().closed(now.monotonic);
            if closed.is_some_and(|closed| closed.until > now.monotonic + self.policy.wait) {
                state.changed();
            }
            if !std::mem::replace(&mut state.queued, true) {
                drop(state);
                work.queue.demand(device);
            }
        } else {
            state.looked = true;
            let time = work.hours.read(now);
            state.due = Some(work.queue.schedule(time, Arc::clone(&device)));
        }
    }

    /// Has those looked at again whose time for that has come. It takes neither a place nor a turn.
    fn look_again(shared: &Shared<T>, work: &mut Work<T>) {
        let time = work.hours.read(shared.clock.now());
        while let Some(Next::Due((device, why)) | Next::Demanded((device, why))) =
            work.again.next(time)
        {
            let mut state = device.lock();
            let wanted = match why {
                Again::Busy => std::mem::take(&mut state.busy),
                Again::Waited => {
                    state.sought = false;
                    state.called && !state.busy && state.is_waited_for()
                }
            };
            if wanted && !state.gone && !state.looking && !state.renewing {
                state.looking = true;
                drop(state);
                work.unseen.push_back(device);
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
            match self.turn(shared, &device, demanded, now, work) {
                Turn::Over => continue,
                Turn::Look => {
                    device.lock().looking = true;
                    work.unseen.push_back(device);
                    continue;
                }
                Turn::Attempt => {}
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
            (state.looked, state.busy, state.queued) = (false, false, false);
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
            // It was served meanwhile.
            if !state.called || state.renewing {
                state.queued = false;
                return Turn::Over;
            }
            let idle = shared.idle(&state, now.monotonic) >= self.fleet.idle_after;
            if !idle || state.is_waited_for() {
                return Turn::Attempt;
            }
            // The endpoint was away for so long that nobody remembers who asked.
            (state.called, state.queued, state.wished) = (false, false, false);
            drop(state);
            shared.leave(device, |_| false);
            return Turn::Over;
        }
        state.due = None;
        if state.looking || state.renewing {
            return Turn::Over;
        }
        if state.called || state.busy {
            return Turn::Over;
        }
        // Others renew as well; whoever is alone has the last token in memory.
        let look = self.slots.is_shared() && !state.looked;
        let attempt = if look { Turn::Look } else { Turn::Attempt };
        let idle_after = self.fleet.idle_after;
        let usable = state.is_usable(now);
        let refused = state.failure().is_some_and(|failure| failure.error.is_refusal());
        let retry_at = state.failure().map(|failure| failure.retry_at);
        let idle = shared.idle(&state, now.monotonic) >= idle_after;
        if let Some(retry_at) = retry_at.filter(|at| refused && *at > now.monotonic) {
            // Its password may have been replaced; if nobody asks any more, it is just remembered.
            if !idle {
                return attempt;
            }
            let time = work.hours.read(now) + (retry_at - now.monotonic);
            state.due = Some(work.queue.schedule(time, Arc::clone(device)));
            return Turn::Over;
        }
        // What does not end is replaced only when the upstream refuses it.
        let endless = state.issued.as_ref().is_some_and(|issued| issued.expires.is_none());
        if !idle && usable && endless && self.source.look_again_after().is_none() {
            let time = work.hours.read(now) + idle_after;
            state.due = Some(work.queue.schedule(time, Arc::clone(device)));
            return Turn::Over;
        }
        // Nobody asks again and again with a password that was refused, unless a request does.
        if !idle && (usable || !refused) {
            return attempt;
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

    /// Publishes what came of an attempt, and says when the next is due.
    fn ended(&self, shared: &Shared<T>, attempt: Attempt<T>, work: &mut Work<T>) {
        let Attempt { device, tried, from_files, began, outcome } = attempt;
        let now = shared.clock.now();
        let time = work.hours.read(now);
        match &outcome {
            Outcome::Fetched(fresh) => {
                let took = now.monotonic - began.monotonic;
                shared.record.fetched(&self.name, now, took, fresh.credential.clock_skew_ms);
            }
            Outcome::Failed(error) => shared.record.failed(error),
            Outcome::Adopted(_) | Outcome::AsBefore | Outcome::Busy(_) | Outcome::Stopped => {}
        }
        let told = match &outcome {
            Outcome::Fetched(_) => Some(Ok(())),
            Outcome::Failed(error) => Some(Err(error)),
            Outcome::Adopted(_) | Outcome::AsBefore | Outcome::Busy(_) | Outcome::Stopped => None,
        };
        let random = fastrand::f64();
        let mut state = device.lock();
        let closed = told.is_some_and(|told| {
            shared.gate().ended(told, &mut state.closings, now.monotonic, random)
        });
        state.renewing = false;
        // While another process is at it, nothing has ended.
        let over = !matches!(outcome, Outcome::Busy(_));
        let wished = over && std::mem::take(&mut state.wished);
        if state.gone {
            return;
        }
        let wait = match outcome {
            Outcome::Adopted(fresh) => {
                shared.gate().was_not_used(self.fleet.pace());
                self.publish(&device, &mut state, fresh, now, work);
                return;
            }
            Outcome::Fetched(fresh) => {
                self.publish(&device, &mut state, fresh, now, work);
                return;
            }
            Outcome::Stopped => return,
            Outcome::Busy(left) => {
                // Those who wait go on waiting, and no other is called for them.
                state.busy = true;
                let least = if state.is_usable(now) { 2000 } else { 200 };
                let wait = Duration::from_millis(least).mul_f64(1.0 + 2.0 * fastrand::f64());
                let entry = (Arc::clone(&device), Again::Busy);
                work.again.schedule(time + wait.min(left), entry);
                shared.gate().was_not_used(self.fleet.pace());
                return;
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
                    (state.called, state.queued) = (true, true);
                    if wished {
                        state.changed();
                    }
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
                if look { RETRY.min(wait) } else { wait }
            }
            Outcome::AsBefore => {
                shared.gate().was_not_used(self.fleet.pace());
                let left = state.failure().map(|failure| failure.retry_at - now.monotonic);
                left.unwrap_or_default().min(RETRY)
            }
        };
        state.called = false;
        state.due = Some(work.queue.schedule(time + wait, Arc::clone(&device)));
        state.changed();
    }

    /// Publishes a credential, and says when it is renewed.
    fn publish(
        &self,
        device: &Arc<Device<T>>,
        state: &mut State<T>,
        fresh: Fresh<T>,
        now: Now,
        work: &mut Work<T>,
    ) {
        let Fresh { credential, item, digest, age } = fresh;
        let lifetime = credential.lifetime;
        let guard = lifetime.map(usable_guard).unwrap_or_default();
        let forced = std::mem::take(&mut state.forcing);
        let renews = self.source.renews();
        state.hidden = renews.then(|| work.names.pack(&credential.values, &item)).flatten();
        state.former = None;
        let issued = Issued::new(item, credential.expires, guard, forced);
        state.issued = Some(Arc::new(issued));
        state.held = digest;
        state.fetched = now.wall.checked_sub(age).map_or(0, seconds);
        state.failed = None;
        state.failures = 0;
        (state.renewal_hangs, state.called, state.busy) = (false, false, false);
        state.wished = false;
        let after = |lifetime| self.policy.renew_after(lifetime, fastrand::f64());
        let renewal = lifetime.map(|lifetime| after(lifetime).saturating_sub(age));
        tracing::debug!(
            credential = %self.name, device = %device.name,
            lifetime_s = lifetime.map(|lifetime| lifetime.as_secs()), age_s = age.as_secs(),
            "credential of a device fetched"
        );
        let again = renewal.or_else(|| self.source.look_again_after());
        let time = work.hours.read(now) + again.unwrap_or(self.fleet.idle_after);
        if let Some(key) = state.due.take() {
            work.queue.unschedule(key);
        }
        state.due = Some(work.queue.schedule(time, Arc::clone(device)));
        state.changed();
    }
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
#[path = "scheduler_store_tests.rs"]
mod store_tests;
#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
